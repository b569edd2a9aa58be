/*
 * neon.c - the rows on what every AArch64 has: a vector is four registers.
 */
#include "kernels/sets.h"

#include "kernels/neon.h"

/* Two products of bytes are at most 2 * 128 * 127 and do not leave 16 bits; prepared activations go no further than 127. */
static inline uint8x16_t add_quads(uint8x16_t acc, uint8x16_t w, uint8x16_t x)
{
    int8x16_t weights = signed_weights(w), activations = vreinterpretq_s8_u8(x);
    int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(activations)), high = vmull_high_s8(weights, activations);
    return vreinterpretq_u8_s32(vpadalq_s16(vreinterpretq_s32_u8(acc), vpaddq_s16(low, high)));
}
static inline bits b_add_quads(bits acc, bits w, bits x)
{
    return (bits)FOUR_OF_THREE(add_quads, acc, w, x);
}

/* 32 registers: at most 24 of sums, the weights of one row or two, a quarter of x. */
enum { TILE_ROWS = 2, TILE_TOKENS = 2, FEW_TOKENS = 6, TILE_COLUMNS = 2, TILE_HEADS = 2 };
static const unsigned char tall_rows[FEW_TOKENS] = {4, 2, 1, 1, 1, 1};

#define TILES_OF_TYPE(TYPE, suffix)                                                                          \
    TILE(TYPE, suffix, 4, 1)                                                                                 \
    TILE(TYPE, suffix, 2, 2)
#define TALL_TILES(suffix)                                                                                   \
    {                                                                                                        \
        tile_##suffix##_4_1, tile_##suffix##_2_2, tile_##suffix##_1_3, tile_##suffix##_1_4,                  \
            tile_##suffix##_1_5, tile_##suffix##_1_6                                                         \
    }

#include "kernels/rows.h"
#include "kernels/merge.h"
#include "kernels/select.h"

/* At most 24 registers of sums, four of keys or values for each vector, one of the queries or weights. */
enum { ATTEND_ROWS = 6, ATTEND_MOST_ROWS = 6 };
#define ATTEND_TILES(TILE) TILE(1, 4) TILE(2, 2) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
#define ATTEND_TILE_TABLE(name)                                                                              \
    {                                                                                                        \
        name##_1, name##_2, name##_3, name##_4, name##_5, name##_6                                           \
    }

#include "kernels/attend.h"

const struct kernels kernels_neon = KERNELS_TABLE("neon");
