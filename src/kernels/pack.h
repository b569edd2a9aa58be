/*
 * pack.h - weights in the order in which products want them.
 *
 * A matrix (n_out, n_in) is cut into panels of PANEL_ROWS outputs, end to end; the last one has what is left, filled up with zeros to a
 * multiple of PANEL_LANES. Inside a panel of `width` outputs the input index runs outside, so that a product reads one
 * stream of memory and each vector of it belongs to PANEL_LANES neighbouring outputs:
 *
 *     f32, f16   (n_in, width)
 *     bf16       (n_in / 2, width, 2): pairs of inputs
 *     q8         (n_in / 32, [(8, width, 4) bytes, then (width) scales in bf16]): groups of 32 inputs, in quads. w = (byte - 128) * scale
 *     q4         (n_in / 32, [(4, width, 4) bytes, then (width) scales in bf16]): the low half of byte (j, o, i) is the code of input 4j + i,
 *                the high half that of input 16 + 4j + i. w = (PACK_Q4_VALUES[code] - 128) * scale
 *
 * n_in is filled up with zeros to whole pairs or groups.
 *
 * Activations meet them in the same order: tokens lie in blocks of `width`, and inside a block the input index runs outside again:
 *
 *     f32, f16   (n_in, width) f32
 *     bf16       what the instruction set likes best: (n_in / 2, width, 2) bf16, or (n_in / 2, 2, width) f32, the second of a pair first, or
 *                tiles (avx512amxbf16.c); there is room for whole groups
 *     q8, q4     (n_in / 32, [(8, width, 4) signed bytes, (width) scales in f32, (width) starts in int32]): a start is
 *                PACK_SUM_START less 128 times the sum of the group's bytes, which turns products of unsigned weights into those of signed ones.
 *                By token, where an instruction set likes that best and there are several blocks: (width, 32) signed bytes, no starts in their room
 */
#ifndef KERNELS_PACK_H
#define KERNELS_PACK_H

#include "kernels/kernels.h"

#define PANEL_ROWS 64
#define PANEL_LANES 16
#define PACK_GROUP 32
#define PACK_GROUP_UNITS (PACK_GROUP / 4 + 2) /* 4-byte units of a token's group of activations: the quads, the scale, the start */

/* What a group's sum of products begins with: the bits of the float 3 * 2^22, so that the sum is a float without being converted. */
#define PACK_SUM_START 0x4b400000
#define PACK_SUM_START_VALUE 12582912.0f

/* Goes up when the same weights become other bytes: packed ones that were kept are of no use then. */
#define PACK_VERSION 1

/* Values of 4-bit codes, plus 128. The values (-127 ... 106) are those that lose least of weights that are normally distributed in groups of
   32 with the best scale each (Lloyd's iteration): 5.3e-3 of their square; sixteen equal steps lose 6.6e-3. */
extern const uint8_t PACK_Q4_VALUES[16];

/* Outputs that a panel has room for, of which n_rows are left from its first on. */
static inline size_t panel_width(size_t n_rows)
{
    return n_rows >= PANEL_ROWS ? PANEL_ROWS : (n_rows + PANEL_LANES - 1) / PANEL_LANES * PANEL_LANES;
}

/* Bytes of a panel that is `width` wide. */
size_t panel_bytes(enum weight_type type, size_t width, size_t n_in);

/* Bytes of a packed matrix; SIZE_MAX: more than can be. */
size_t packed_bytes(enum weight_type type, size_t n_out, size_t n_in);

/* Where the panel of output `row` begins, a multiple of PANEL_ROWS. */
static inline size_t packed_at(enum weight_type type, size_t row, size_t n_in)
{
    return row / PANEL_ROWS * panel_bytes(type, PANEL_ROWS, n_in);
}

/* Prepared activations of some tokens. */
struct activations {
    enum weight_type type;
    size_t n_in, n_tokens;
    size_t width; /* of a block, at most ACTIVATIONS_MOST_WIDTH; the last one has room for as many and may hold fewer */
    char *data;   /* activations_bytes, 64-byte aligned */
};

#define ACTIVATIONS_MOST_WIDTH 16

/* Tokens [first_token, end_token), inputs [first, end); first is a multiple of PACK_GROUP, and end too or n_in. */
struct activations_part {
    size_t first_token, end_token, first, end;
};

/* The width that the set's products like best. */
size_t activations_width(const struct kernels *set, enum weight_type type, size_t n_tokens);

/* 4-byte units that a block has of each token. */
static inline size_t activations_units(enum weight_type type, size_t n_in)
{
    if (type >= N_ELEMENT_TYPES)
        return (n_in + PACK_GROUP - 1) / PACK_GROUP * PACK_GROUP_UNITS;
    return type == WEIGHT_BF16 ? (n_in + PACK_GROUP - 1) / PACK_GROUP * PACK_GROUP : n_in;
}

static inline size_t activations_block_bytes(const struct activations *x)
{
    return (activations_units(x->type, x->n_in) * 4 * x->width + 63) / 64 * 64;
}

static inline size_t activations_bytes(const struct activations *x)
{
    return (x->n_tokens + x->width - 1) / x->width * activations_block_bytes(x);
}

/* Then weights can pass once. */
static inline bool activations_are_one_block(const struct activations *x)
{
    return x->n_tokens <= x->width;
}

/* The first unit of a token; the next one is 4 * width bytes further on. */
static inline char *activations_at(const struct activations *x, size_t token)
{
    return x->data + token / x->width * activations_block_bytes(x) + token % x->width * 4;
}

/* Whether packing keeps every bit of elements of its own type. */
static inline bool weight_type_is_exact(enum weight_type type)
{
    return type < N_ELEMENT_TYPES;
}

/* Writes one panel from n_rows rows (1 to PANEL_ROWS), n_in elements each: of the type itself, or f32 for q8 and q4. */
void pack_panel(enum weight_type type, void *panel, const void *rows, size_t n_rows, size_t n_in);

/* W[row][k]. */
float unpack_element(enum weight_type type, const void *packed, size_t n_out, size_t n_in, size_t row, size_t k);

/* The same in f32, row by row: out (n_rows, n_in), rows [first, first + n_rows) of a packed matrix of n_out. */
void unpack_rows(enum weight_type type, float *out, const void *packed, size_t n_out, size_t n_in, size_t first, size_t n_rows);

#endif
