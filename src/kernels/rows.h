/*
 * rows.h - the rows of the table over a vector of 16 lanes: with attend.h the body of avx2.c, avx512.c and neon.c.
 *
 * The including file defines before, besides what polynomial.h asks for:
 *
 *     vec                             16 floats
 *     v_load(p)  v_store(p, v)        without any alignment
 *     v_load_some(p, n)  v_store_some(p, v, n)      n < 16 elements; the missing ones are read as +0
 *     v_load_weights(type, p)  v_load_some_weights(type, p, n)      widened
 *     v_store_narrow(type, p, v)      16 elements of f16 or bf16, rounded as kernels.h says
 *     v_sqrt_one(x)                   of one float, correctly rounded
 *     v_join(v)  v_join_max(v)        the tree of kernels.h
 *     v_join_4(out, v)                out[i] = v_join(v[i]) for i < 4
 *     v_less(a, b)                    bit l: a < b in lane l
 *     TILE_TOKENS                     tokens of a tile when there are many
 *     FEW_TOKENS                      tokens that one tile can have at most
 *     tall_rows[FEW_TOKENS]           rows of a tile of 1, 2, ... tokens; all divide BLOCK_ROWS
 *     TILES_OF_TYPE(TYPE, suffix)     those tiles of more than one row, and of SHRINK_ROWS rows for one token
 *     TALL_TILES(suffix)              {those tiles} by their tokens
 *     TILE_COLUMNS, TILE_HEADS        of the tiles of sum_columns: vectors and tokens
 *
 * Tiles are what registers can hold. Their shapes never show in the results: an output has its own
 * accumulator, fed in an order that the contract fixes.
 */
#ifndef KERNELS_ROWS_H
#define KERNELS_ROWS_H

#include <math.h>
#include <string.h>

#include "kernels/polynomial.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define NEVER_INLINE static __attribute__((noinline))

enum {
    LANES = 16,
    K_CHUNK = 1024,  /* so that a token tile's part of x (16 KiB) stays in L1 while the rows of A pass */
    BLOCK_ROWS = 32, /* bounds the accumulators that are kept between chunks */
    SHRINK_ROWS = 4, /* rows of A at a time for a lone token: one sum's chain is slower than memory */
    SHRINK_TILES = 4, /* tiles of tokens that are few to shrink */
    EXPAND_MANY = 16, /* tokens for which B is widened beforehand */
    EXPAND_MOST_RANK = 64 /* ... where it is not wider than that, to stay in L1 */
};

ALWAYS_INLINE const char *weight_at(enum weight_type type, const void *w, size_t i)
{
    return (const char *)w + i * weight_type_size(type);
}

/* ---- shrink: tiles of rows x tokens, one vector of partial sums each ---- */

struct tile {
    float *out;
    size_t out_stride;
    const char *w;
    size_t n_in;
    const float *x;
    size_t x_stride;
    size_t begin, end;   /* of k, a multiple of LANES unless it is n_in */
    vec *state;          /* partial sums between chunks: (rows, tokens) */
    const char *ahead;   /* rows that will be wanted next */
    size_t ahead_stride; /* bytes */
};

ALWAYS_INLINE void tile_run(enum weight_type type, size_t n_rows, size_t n_tokens, const struct tile *tile)
{
    const size_t n_in = tile->n_in, x_stride = tile->x_stride, size = weight_type_size(type);
    const size_t ahead_stride = tile->ahead_stride;
    const float *x = tile->x;
    const char *w = tile->w, *ahead = tile->ahead;
    size_t k = tile->begin, whole = tile->end - tile->end % LANES;
    vec acc[8][8];

#pragma GCC unroll 8
    for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++)
            acc[r][t] = k > 0 ? tile->state[r * n_tokens + t] : v_set(0.0f);

#pragma GCC unroll 4
    for (; k < whole; k += LANES) {
        vec weights[8];
#pragma GCC unroll 8
        for (size_t r = 0; r < n_rows; r++) {
            weights[r] = v_load_weights(type, w + (r * n_in + k) * size);
            __builtin_prefetch(ahead + r * ahead_stride + k * size, 0, 2);
        }
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++) {
            vec activations = v_load(x + t * x_stride + k);
#pragma GCC unroll 8
            for (size_t r = 0; r < n_rows; r++)
                acc[r][t] = v_fma(weights[r], activations, acc[r][t]);
        }
    }
    if (k < tile->end) {
        size_t some = tile->end - k;
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++) {
            vec activations = v_load_some(x + t * x_stride + k, some);
#pragma GCC unroll 8
            for (size_t r = 0; r < n_rows; r++) {
                vec weights = v_load_some_weights(type, w + (r * n_in + k) * size, some);
                acc[r][t] = v_fma(weights, activations, acc[r][t]);
            }
        }
    }

    if (tile->end < n_in) {
#pragma GCC unroll 8
        for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 8
            for (size_t t = 0; t < n_tokens; t++)
                tile->state[r * n_tokens + t] = acc[r][t];
        return;
    }
#pragma GCC unroll 8
    for (size_t t = 0; t < n_tokens; t++) {
        float *out = tile->out + t * tile->out_stride;
        size_t r = 0;
#pragma GCC unroll 2
        for (; r + 4 <= n_rows; r += 4)
            v_join_4(out + r, acc[r][t], acc[r + 1][t], acc[r + 2][t], acc[r + 3][t]);
#pragma GCC unroll 4
        for (; r < n_rows; r++)
            out[r] = v_join(acc[r][t]);
    }
}

typedef void tile_function(const struct tile *tile);

#define TILE(TYPE, suffix, rows, tokens)                                                                     \
    NEVER_INLINE void tile_##suffix##_##rows##_##tokens(const struct tile *tile)                             \
    {                                                                                                        \
        tile_run(TYPE, rows, tokens, tile);                                                                  \
    }
#define FLAT_TILES_OF_TYPE(TYPE, suffix)                                                                     \
    TILE(TYPE, suffix, 1, 1)                                                                                 \
    TILE(TYPE, suffix, 1, 2)                                                                                 \
    TILE(TYPE, suffix, 1, 3)                                                                                 \
    TILE(TYPE, suffix, 1, 4)                                                                                 \
    TILE(TYPE, suffix, 1, 5)                                                                                 \
    TILE(TYPE, suffix, 1, 6)
#define FLAT_TILES(suffix)                                                                                   \
    {                                                                                                        \
        tile_##suffix##_1_1, tile_##suffix##_1_2, tile_##suffix##_1_3, tile_##suffix##_1_4,                  \
            tile_##suffix##_1_5, tile_##suffix##_1_6                                                         \
    }
_Static_assert(FEW_TOKENS == 6, "as many flat tiles");
TILES_OF_TYPE(WEIGHT_F32, f32)
TILES_OF_TYPE(WEIGHT_F16, f16)
TILES_OF_TYPE(WEIGHT_BF16, bf16)
FLAT_TILES_OF_TYPE(WEIGHT_F32, f32)
FLAT_TILES_OF_TYPE(WEIGHT_F16, f16)
FLAT_TILES_OF_TYPE(WEIGHT_BF16, bf16)

/* By how many tokens a tile has, less one: tiles of several rows, and of one row. */
static tile_function *const tall_tiles[N_ELEMENT_TYPES][FEW_TOKENS] = {
    [WEIGHT_F32] = TALL_TILES(f32), [WEIGHT_F16] = TALL_TILES(f16), [WEIGHT_BF16] = TALL_TILES(bf16)};
static tile_function *const flat_tiles[N_ELEMENT_TYPES][FEW_TOKENS] = {
    [WEIGHT_F32] = FLAT_TILES(f32), [WEIGHT_F16] = FLAT_TILES(f16), [WEIGHT_BF16] = FLAT_TILES(bf16)};

static tile_function *const shrink_tiles[N_ELEMENT_TYPES] = {
    [WEIGHT_F32] = tile_f32_4_1, [WEIGHT_F16] = tile_f16_4_1, [WEIGHT_BF16] = tile_bf16_4_1};

ALWAYS_INLINE size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Few tokens: the rows pass once for each tile of them, and with the first what comes next is fetched. */
ALWAYS_INLINE void shrink_few(enum weight_type type, float *out, size_t out_stride, const void *a, size_t n_rows,
                              size_t n_in, const float *x, size_t x_stride, size_t n_tokens, const void *next)
{
    size_t group = n_tokens == 1 ? SHRINK_ROWS : tall_rows[n_tokens - 1];
    tile_function *tall = n_tokens == 1 ? shrink_tiles[type] : tall_tiles[type][n_tokens - 1];
    struct tile tile = {.out_stride = out_stride, .n_in = n_in, .x = x, .x_stride = x_stride, .end = n_in};

    tile.ahead_stride = next ? n_in * weight_type_size(type) : 0;
    for (size_t o = 0; o < n_rows;) {
        bool is_tall = o + group <= n_rows;
        tile.out = out + o;
        tile.w = weight_at(type, a, o * n_in);
        tile.ahead = next ? weight_at(type, next, o * n_in) : tile.w;
        (is_tall ? tall : flat_tiles[type][n_tokens - 1])(&tile);
        o += is_tall ? group : 1;
    }
}

/* Many tokens, some rows: within a tile of tokens a chunk of x stays in L1 while the rows pass. */
ALWAYS_INLINE void shrink_block(enum weight_type type, float *out, size_t out_stride, const char *a, size_t n_rows, size_t n_in,
                                const float *x, size_t x_stride, size_t n_tokens)
{
    size_t row_bytes = n_in * weight_type_size(type), n_tiles = (n_tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    size_t step = (n_tokens + n_tiles - 1) / n_tiles; /* 8 tokens are 4 and 4, not 6 and 2 */
    vec states[BLOCK_ROWS * TILE_TOKENS];

    for (size_t t = 0; t < n_tokens; t += step, x += step * x_stride, out += step * out_stride) {
        size_t n_t = least(step, n_tokens - t), group = tall_rows[n_t - 1];
        for (size_t k = 0; k == 0 || k < n_in; k += K_CHUNK)
            for (size_t o = 0; o < n_rows;) {
                bool is_tall = o + group <= n_rows;
                const char *rows = a + o * row_bytes;
                struct tile tile = {.out = out + o,
                                    .out_stride = out_stride,
                                    .w = rows,
                                    .n_in = n_in,
                                    .x = x,
                                    .x_stride = x_stride,
                                    .begin = k,
                                    .end = least(k + K_CHUNK, n_in),
                                    .state = states + o * TILE_TOKENS,
                                    .ahead = rows};
                (is_tall ? tall_tiles : flat_tiles)[type][n_t - 1](&tile);
                o += is_tall ? group : 1;
            }
    }
}

ALWAYS_INLINE void shrink(enum weight_type type, float *out, size_t out_stride, const void *a, size_t n_rows,
                          size_t n_in, const float *x, size_t x_stride, size_t n_tokens, const void *next)
{
    size_t n_tiles = (n_tokens + FEW_TOKENS - 1) / FEW_TOKENS, step;

    if (n_tiles > SHRINK_TILES) {
        for (size_t o = 0; o < n_rows; o += BLOCK_ROWS)
            shrink_block(type, out + o, out_stride, weight_at(type, a, o * n_in), least(BLOCK_ROWS, n_rows - o), n_in, x, x_stride,
                         n_tokens);
        return;
    }
    for (size_t t = 0; t < n_tokens; t += step, n_tiles--) {
        step = (n_tokens - t + n_tiles - 1) / n_tiles;
        shrink_few(type, out + t * out_stride, out_stride, a, n_rows, n_in, x + t * x_stride, x_stride, step,
                   t == 0 ? next : NULL);
    }
}

/* ---- sums down the columns, in order of the row: tiles of tokens x columns, one sum per lane ---- */

/* acc[t][c] += sum over j of u[t][j] * b[j][c]; the last of the vectors has `last` columns. */
ALWAYS_INLINE void sum_columns(enum weight_type type, size_t n_tokens, size_t n_vectors, size_t last,
                               vec acc[TILE_HEADS][TILE_COLUMNS], const void *b, size_t b_stride, size_t n_j,
                               const float *u, size_t u_stride)
{
    for (size_t j = 0; j < n_j; j++) {
        vec columns[TILE_COLUMNS];
#pragma GCC unroll 8
        for (size_t c = 0; c < n_vectors; c++) {
            const char *at = weight_at(type, b, j * b_stride + c * LANES);
            columns[c] = last < LANES ? v_load_some_weights(type, at, last) : v_load_weights(type, at);
        }
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++) {
            vec factor = v_set(u[t * u_stride + j]);
#pragma GCC unroll 8
            for (size_t c = 0; c < n_vectors; c++)
                acc[t][c] = v_fma(columns[c], factor, acc[t][c]);
        }
    }
}

ALWAYS_INLINE void clear_sums(size_t n_tokens, size_t n_vectors, vec acc[TILE_HEADS][TILE_COLUMNS])
{
#pragma GCC unroll 8
    for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (size_t c = 0; c < n_vectors; c++)
            acc[t][c] = v_set(0.0f);
}

ALWAYS_INLINE void widen(enum weight_type type, float *out, const void *w, size_t n)
{
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        v_store(out + i, v_load_weights(type, weight_at(type, w, i)));
    if (i < n)
        v_store_some(out + i, v_load_some_weights(type, weight_at(type, w, i), n - i), n - i);
}

/* acc[t][c] += sum over j of u[t][j] * panel c's row j; the last of the panels has `last` columns. */
ALWAYS_INLINE void sum_panels(enum weight_type type, size_t n_tokens, size_t n_panels, size_t last,
                              vec acc[TILE_HEADS][TILE_COLUMNS], const void *b, size_t rank, const float *u,
                              size_t u_stride, bool is_fetching)
{
    const size_t rows_of_a_line = 4 / weight_type_size(type);
    for (size_t j = 0; j < rank; j++) {
        vec columns[TILE_COLUMNS];
#pragma GCC unroll 8
        for (size_t c = 0; c < n_panels; c++) {
            const char *at = weight_at(type, b, (c * rank + j) * LANES);
            columns[c] = last < LANES ? v_load_some_weights(type, at, last) : v_load_weights(type, at);
            if (is_fetching && j % rows_of_a_line == 0)
                __builtin_prefetch(at + KERNELS_EXPAND_AHEAD, 0, 2);
        }
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++) {
            vec factor = v_set(u[t * u_stride + j]);
#pragma GCC unroll 8
            for (size_t c = 0; c < n_panels; c++)
                acc[t][c] = v_fma(columns[c], factor, acc[t][c]);
        }
    }
}

ALWAYS_INLINE void expand_tile(enum weight_type type, size_t n_tokens, size_t n_panels, size_t last, float *out,
                               size_t out_stride, const void *b, size_t rank, const float *u, size_t u_stride,
                               float scale, bool is_fetching)
{
    vec acc[TILE_HEADS][TILE_COLUMNS];

    clear_sums(n_tokens, n_panels, acc);
    sum_panels(type, n_tokens, n_panels, last, acc, b, rank, u, u_stride, is_fetching);
#pragma GCC unroll 8
    for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (size_t c = 0; c < n_panels; c++) {
            float *at = out + t * out_stride + c * LANES;
            if (last < LANES)
                v_store_some(at, v_fma(v_set(scale), acc[t][c], v_load_some(at, last)), last);
            else
                v_store(at, v_fma(v_set(scale), acc[t][c], v_load(at)));
        }
}

/* The outputs of a tile of tokens, a line for each 16. */
ALWAYS_INLINE void fetch_outputs(size_t n_panels, const float *out, size_t out_stride)
{
#pragma GCC unroll 8
    for (size_t t = 0; t < TILE_HEADS; t++)
#pragma GCC unroll 8
        for (size_t c = 0; c < n_panels; c++)
            __builtin_prefetch(out + t * out_stride + c * LANES, 1, 3);
}

/* What a tile waits for is B while tokens are few, and its outputs when they are many: these are fetched while the one before is multiplied. */
ALWAYS_INLINE void expand_tokens(enum weight_type type, size_t n_panels, size_t last, float *out,
                                 size_t out_stride, const void *b, size_t rank, const float *u, size_t u_stride,
                                 float scale, size_t n_tokens, bool are_many)
{
    size_t t = 0;

    for (; t + TILE_HEADS <= n_tokens; t += TILE_HEADS) {
        if (are_many)
            fetch_outputs(n_panels, out + (t + TILE_HEADS) * out_stride, out_stride);
        expand_tile(type, TILE_HEADS, n_panels, last, out + t * out_stride, out_stride, b, rank,
                    u + t * u_stride, u_stride, scale, !are_many);
    }
    for (; t < n_tokens; t++)
        expand_tile(type, 1, n_panels, last, out + t * out_stride, out_stride, b, rank, u + t * u_stride,
                    u_stride, scale, !are_many);
}

/* Several panels of B for all tokens. */
ALWAYS_INLINE void expand_panels(enum weight_type type, float *out, size_t out_stride, const char *b, size_t rank,
                                 const float *u, size_t u_stride, float scale, size_t n_tokens)
{
    const size_t n = TILE_COLUMNS * LANES * rank, n_bytes = n * weight_type_size(type);
    _Alignas(64) float wide[TILE_COLUMNS * LANES * EXPAND_MOST_RANK];

    if (n_tokens < EXPAND_MANY || rank > EXPAND_MOST_RANK) {
        expand_tokens(type, TILE_COLUMNS, LANES, out, out_stride, b, rank, u, u_stride, scale, n_tokens, false);
        return;
    }
    for (size_t at = 0; at < n_bytes; at += 64)
        __builtin_prefetch(b + n_bytes + at, 0, 2);
    widen(type, wide, b, n);
    expand_tokens(WEIGHT_F32, TILE_COLUMNS, LANES, out, out_stride, wide, rank, u, u_stride, scale, n_tokens, true);
}

ALWAYS_INLINE void expand(enum weight_type type, float *out, size_t out_stride, const void *b, size_t rank,
                          const float *u, size_t u_stride, float scale, size_t n_out, size_t n_tokens)
{
    const size_t several = TILE_COLUMNS * LANES;
    size_t o = 0;

    for (; o + several <= n_out; o += several)
        expand_panels(type, out + o, out_stride, weight_at(type, b, o * rank), rank, u, u_stride, scale, n_tokens);
    for (; o + LANES <= n_out; o += LANES)
        expand_tokens(type, 1, LANES, out + o, out_stride, weight_at(type, b, o * rank), rank, u, u_stride,
                      scale, n_tokens, false);
    if (o < n_out)
        expand_tokens(type, 1, n_out - o, out + o, out_stride, weight_at(type, b, o * rank), rank, u, u_stride,
                      scale, n_tokens, false);
}

/* ---- element by element ---- */

#define ROWS_OF_TYPE(TYPE, suffix)                                                                           \
    static void shrink_##suffix(float *out, size_t out_stride, const void *a, size_t n_rows, size_t n_in,    \
                                const float *x, size_t x_stride, size_t n_tokens, const void *next)          \
    {                                                                                                        \
        shrink(TYPE, out, out_stride, a, n_rows, n_in, x, x_stride, n_tokens, next);                         \
    }                                                                                                        \
    static void expand_##suffix(float *out, size_t out_stride, const void *b, size_t rank, const float *u,   \
                                size_t u_stride, float scale, size_t n_out, size_t n_tokens)                 \
    {                                                                                                        \
        expand(TYPE, out, out_stride, b, rank, u, u_stride, scale, n_out, n_tokens);                         \
    }                                                                                                        \
    static void widen_##suffix(float *out, const void *w, size_t n)                                          \
    {                                                                                                        \
        widen(TYPE, out, w, n);                                                                              \
    }

ROWS_OF_TYPE(WEIGHT_F32, f32)
ROWS_OF_TYPE(WEIGHT_F16, f16)
ROWS_OF_TYPE(WEIGHT_BF16, bf16)

/* x[i] = operation(x[i], a[i]) */
#define PAIRWISE_ROW(name, operation)                                                                        \
    static void name(float *x, const float *a, size_t n)                                                     \
    {                                                                                                        \
        size_t i = 0;                                                                                        \
        for (; i + LANES <= n; i += LANES)                                                                   \
            v_store(x + i, operation(v_load(x + i), v_load(a + i)));                                         \
        if (i < n)                                                                                           \
            v_store_some(x + i, operation(v_load_some(x + i, n - i), v_load_some(a + i, n - i)), n - i);     \
    }

PAIRWISE_ROW(add, v_add)
PAIRWISE_ROW(multiply, v_mul)

#define ACTIVATION_ROW(name)                                                                                 \
    static void name(float *x, size_t n)                                                                     \
    {                                                                                                        \
        size_t i = 0;                                                                                        \
        for (; i + LANES <= n; i += LANES)                                                                   \
            v_store(x + i, v_##name(v_load(x + i)));                                                         \
        if (i < n)                                                                                           \
            v_store_some(x + i, v_##name(v_load_some(x + i, n - i)), n - i);                                 \
    }

ACTIVATION_ROW(silu)
ACTIVATION_ROW(gelu_tanh)
ACTIVATION_ROW(gelu_erf)
ACTIVATION_ROW(relu)

/* ---- norms ---- */

static void rms_norm(float *out, const float *x, const float *weight, size_t n, float eps)
{
    vec squares = v_set(0.0f);
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        squares = v_fma(v_load(x + i), v_load(x + i), squares);
    if (i < n)
        squares = v_fma(v_load_some(x + i, n - i), v_load_some(x + i, n - i), squares);
    vec inverse = v_set(1.0f / v_sqrt_one(v_join(squares) / (float)n + eps));

    for (i = 0; i + LANES <= n; i += LANES)
        v_store(out + i, v_mul(v_mul(v_load(x + i), inverse), v_load(weight + i)));
    if (i < n)
        v_store_some(out + i,
                     v_mul(v_mul(v_load_some(x + i, n - i), inverse), v_load_some(weight + i, n - i)), n - i);
}

/* One vector of layer_norm's output. */
ALWAYS_INLINE vec standardize(vec x, vec mean, vec deviation, vec weight, const vec *bias)
{
    vec y = v_div(v_sub(x, mean), deviation);
    return bias ? v_fma(y, weight, *bias) : v_mul(y, weight);
}

static void layer_norm(float *out, const float *x, const float *weight, const float *bias, size_t n,
                       float eps)
{
    vec sums = v_set(0.0f), squares = v_set(0.0f);
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        sums = v_add(sums, v_load(x + i));
    if (i < n)
        sums = v_add(sums, v_load_some(x + i, n - i));
    vec mean = v_set(v_join(sums) / (float)n);

    for (i = 0; i + LANES <= n; i += LANES) {
        vec d = v_sub(v_load(x + i), mean);
        squares = v_fma(d, d, squares);
    }
    if (i < n) {
        /* Through memory, to make the missing differences 0. */
        float rest[LANES];
        v_store(rest, v_sub(v_load_some(x + i, n - i), mean));
        vec d = v_load_some(rest, n - i);
        squares = v_fma(d, d, squares);
    }
    vec deviation = v_set(v_sqrt_one(v_join(squares) / (float)n + eps));

    for (i = 0; i + LANES <= n; i += LANES) {
        vec b = v_load(bias ? bias + i : weight + i);
        v_store(out + i, standardize(v_load(x + i), mean, deviation, v_load(weight + i), bias ? &b : NULL));
    }
    if (i < n) {
        vec b = v_load_some(bias ? bias + i : weight + i, n - i);
        vec y = standardize(v_load_some(x + i, n - i), mean, deviation, v_load_some(weight + i, n - i),
                            bias ? &b : NULL);
        v_store_some(out + i, y, n - i);
    }
}

/* ---- rotation ---- */

static void rope(float *x, const float *cosine, const float *sine, size_t n)
{
    size_t half = n / 2, i = 0;
    float *y = x + half;

    for (; i + LANES <= half; i += LANES) {
        vec a = v_load(x + i), b = v_load(y + i), c = v_load(cosine + i), s = v_load(sine + i);
        v_store(x + i, v_fms(a, c, v_mul(b, s)));
        v_store(y + i, v_fma(b, c, v_mul(a, s)));
    }
    if (i < half) {
        size_t some = half - i;
        vec a = v_load_some(x + i, some), b = v_load_some(y + i, some);
        vec c = v_load_some(cosine + i, some), s = v_load_some(sine + i, some);
        v_store_some(x + i, v_fms(a, c, v_mul(b, s)), some);
        v_store_some(y + i, v_fma(b, c, v_mul(a, s)), some);
    }
}

/* ---- narrowing ---- */

ALWAYS_INLINE void narrow(enum weight_type type, void *out, const float *x, size_t n)
{
    char *at = out;
    size_t i = 0;

    if (type == WEIGHT_F32) {
        memcpy(out, x, n * sizeof *x);
        return;
    }
    for (; i + LANES <= n; i += LANES)
        v_store_narrow(type, at + i * sizeof(uint16_t), v_load(x + i));
    if (i < n) {
        uint16_t rest[LANES];
        v_store_narrow(type, rest, v_load_some(x + i, n - i));
        memcpy(at + i * sizeof *rest, rest, (n - i) * sizeof *rest);
    }
}

#define NARROW_OF_TYPE(TYPE, suffix)                                                                         \
    static void narrow_##suffix(void *out, const float *x, size_t n)                                         \
    {                                                                                                        \
        narrow(TYPE, out, x, n);                                                                             \
    }

NARROW_OF_TYPE(WEIGHT_F32, f32)
NARROW_OF_TYPE(WEIGHT_F16, f16)
NARROW_OF_TYPE(WEIGHT_BF16, bf16)

/* ---- over the vocabulary ---- */

static float maximum(const float *x, size_t n)
{
    vec m[4];
    size_t i = 0;

    for (size_t c = 0; c < 4; c++)
        m[c] = v_set(-INFINITY);
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (size_t c = 0; c < 4; c++)
            m[c] = v_max(m[c], v_load(x + i + c * LANES));
    float most = v_join_max(v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
    for (; i < n; i++)
        most = most > x[i] ? most : x[i];
    return most;
}

/* The sum of e^(x - m). */
static float sum_exp(const float *x, size_t n, float m)
{
    vec sums = v_set(0.0f), most = v_set(m);
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        sums = v_add(sums, v_exp(v_sub(v_load(x + i), most)));
    if (i < n) {
        float rest[LANES];
        v_store(rest, v_exp(v_sub(v_load_some(x + i, n - i), most)));
        sums = v_add(sums, v_load_some(rest, n - i));
    }
    return v_join(sums);
}

static size_t arg_max(const float *x, size_t n)
{
    float most = maximum(x, n);
    size_t i = 0;

    while (i + LANES <= n && v_all_less(v_load(x + i), v_set(most)))
        i += LANES;
    for (; i < n; i++)
        if (!(x[i] < most))
            return i;
    return 0;
}

static float log_sum_exp(const float *x, size_t n)
{
    float m = maximum(x, n);

    return (float)(m + log(sum_exp(x, n, m)));
}

#define PANELS_ELEMENTS
#define PANELS_WIDENED_PAIRS
#define PANELS_GROUPS
#define PANELS_PREPARES
#include "kernels/panels.h"

#define KERNELS_TABLE(NAME)                                                                                  \
    {                                                                                                        \
        .name = NAME,                                                                                        \
        .tokens_at_once = PANEL_TOKENS_AT_ONCE, .tokens_per_block = PANEL_TOKENS_PER_BLOCK,                  \
        .prepare = {[WEIGHT_F32] = prepare_elements,                                                         \
                    [WEIGHT_F16] = prepare_elements,                                                         \
                    [WEIGHT_BF16] = prepare_pairs,                                                           \
                    [WEIGHT_Q8] = prepare_groups,                                                            \
                    [WEIGHT_Q4] = prepare_groups},                                                           \
        .multiply_packed = {[WEIGHT_F32] = multiply_f32,                                                     \
                            [WEIGHT_F16] = multiply_f16,                                                     \
                            [WEIGHT_BF16] = multiply_bf16,                                                   \
                            [WEIGHT_Q8] = multiply_q8,                                                       \
                            [WEIGHT_Q4] = multiply_q4},                                                      \
        .shrink = {[WEIGHT_F32] = shrink_f32, [WEIGHT_F16] = shrink_f16, [WEIGHT_BF16] = shrink_bf16},       \
        .expand = {[WEIGHT_F32] = expand_f32, [WEIGHT_F16] = expand_f16, [WEIGHT_BF16] = expand_bf16},       \
        .widen = {[WEIGHT_F32] = widen_f32, [WEIGHT_F16] = widen_f16, [WEIGHT_BF16] = widen_bf16},           \
        .add = add, .multiply = multiply,                                                                    \
        .activate = {[ACTIVATION_SILU] = silu,                                                               \
                     [ACTIVATION_GELU_TANH] = gelu_tanh,                                                     \
                     [ACTIVATION_GELU_ERF] = gelu_erf,                                                       \
                     [ACTIVATION_RELU] = relu},                                                              \
        .rms_norm = rms_norm, .layer_norm = layer_norm, .rope = rope, .arg_max = arg_max,                    \
        .narrow = {[WEIGHT_F32] = narrow_f32, [WEIGHT_F16] = narrow_f16, [WEIGHT_BF16] = narrow_bf16},       \
        .attend = {[WEIGHT_F32] = attend_f32, [WEIGHT_F16] = attend_f16, [WEIGHT_BF16] = attend_bf16},       \
        .log_sum_exp = log_sum_exp, MERGE_ROWS, SELECT_ROWS                                                              \
    }

#endif
