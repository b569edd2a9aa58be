/*
 * amx.h - AMX's registers: eight tiles of up to 16 rows of 64 bytes, whose shapes are set before they are used. GCC 12 does not know that its
 * intrinsics read and write memory, hence the assembly.
 */
#ifndef KERNELS_AMX_H
#define KERNELS_AMX_H

#include <stddef.h>
#include <stdint.h>

enum { N_TILES = 8, TILE_TOKENS = 16 };

struct tile_shapes {
    uint8_t palette, start_row, reserved[14]; /* palette: 1 */
    uint16_t row_bytes[16];
    uint8_t n_rows[16];
};
_Static_assert(sizeof(struct tile_shapes) == 64, "as ldtilecfg reads it");

/* All tiles become zero. */
static inline void tiles_set(const struct tile_shapes *shapes)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*shapes) : "memory");
}

static inline void tiles_end(void)
{
    __asm__ volatile("tilerelease" : : : "memory");
}

#endif
