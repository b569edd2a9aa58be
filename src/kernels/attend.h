/*
 * attend.h - attention in one pass over the keys and values: the rest of the body of avx2.c, avx512.c and neon.c, after rows.h.
 *
 * A row is one head of one token. For each step of positions, some rows at a time, as many as registers hold, get their scores,
 * a lane for each position of a block, so that no sum runs along a row, and from them their weights; then their mixture of values,
 * a lane for each element. Rows of one call share what they read: halves are widened once for all, if there are many rows.
 *
 * The including file defines before, besides what rows.h asks for:
 *
 *     ATTEND_ROWS                     rows of a tile when there are many
 *     ATTEND_MOST_ROWS                rows that one tile can have, at most 8; so many are not cut in two
 *     ATTEND_TILES(TILE)              TILE(rows, vectors) for 1, 2, ... ATTEND_MOST_ROWS rows: vectors is 1, 2 or 4
 *     ATTEND_TILE_TABLE(name)         { name_1, name_2, ... }
 */
#ifndef KERNELS_ATTEND_H
#define KERNELS_ATTEND_H

#include "kernels/rows.h"

enum {
    STEP = KERNELS_ATTEND_STEP,
    STEP_BLOCKS = KERNELS_ATTEND_STEP / KERNELS_KV_BLOCK,
    ALIGNMENT = 64
};
_Static_assert(KERNELS_KV_BLOCK == LANES, "a block of keys is a vector for each element");

struct attention {
    const struct attend *work;
    size_t n_rows, width; /* d_head in whole vectors */
    float *wide;    /* keys or values of a step */
    float *scores;  /* (n_rows, STEP); later weights */
    float *mixture; /* (n_rows, width) */
    float *sums;    /* (n_rows, LANES) */
    float *q;       /* scaled; of each tile (d_head, rows) */
    float *most;    /* (n_rows) */
};

/* Where the blocks of a step's keys or values are. Those that nobody sees are left out. */
struct span {
    size_t begin; /* the step's first position, a multiple of STEP */
    const char *at[STEP_BLOCKS], *ahead[STEP_BLOCKS]; /* what will be wanted next */
};

/* Positions, of a step or of all. */
struct range {
    size_t first, end;
};

/* Where row `row` is. */
struct place {
    size_t token, head;
};

ALWAYS_INLINE size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

ALWAYS_INLINE struct range seen_by(const struct attend *work, size_t token)
{
    size_t end = work->first_position + token + 1;
    return (struct range){work->window && end > work->window ? end - work->window : 0, end};
}

/* What of it lies in the step, counted from there. Empty: first >= end. */
ALWAYS_INLINE struct range within(struct range range, size_t begin)
{
    return (struct range){range.first > begin ? range.first - begin : 0,
                          range.end > begin ? least(range.end - begin, STEP) : 0};
}

/* ---- scores ---- */

/* One element of the keys of some blocks with that of all queries. */
ALWAYS_INLINE void score_element(enum weight_type type, size_t n_rows, size_t n_blocks, vec acc[8][4], const float *q,
                                 const char *const *keys, const char *const *ahead, size_t at, bool fetch)
{
#pragma GCC unroll 4
    for (size_t b = 0; b < n_blocks; b++) {
        vec key = v_load_weights(type, keys[b] + at);
        if (fetch)
            __builtin_prefetch(ahead[b] + at, 0, 2);
#pragma GCC unroll 8
        for (size_t r = 0; r < n_rows; r++)
            acc[r][b] = v_fma(key, v_set(q[r]), acc[r][b]);
    }
}

/* Of a tile's rows with neighbouring blocks. What lies ahead is fetched a line at a time, since a burst would be waited for. */
ALWAYS_INLINE void score_tile(enum weight_type type, size_t n_rows, size_t n_blocks, float *scores, const float *q,
                              const char *const *keys, const char *const *ahead, size_t d_head)
{
    const size_t bytes = LANES * weight_type_size(type);
    const char *key[4], *next[4];
    vec acc[8][4];
    size_t d = 0;

#pragma GCC unroll 4
    for (size_t b = 0; b < n_blocks; b++) {
        key[b] = keys[b], next[b] = ahead[b];
#pragma GCC unroll 8
        for (size_t r = 0; r < n_rows; r++)
            acc[r][b] = v_set(0.0f);
    }
    for (; d + 2 <= d_head; d += 2) {
        score_element(type, n_rows, n_blocks, acc, q + d * n_rows, key, next, d * bytes, true);
        score_element(type, n_rows, n_blocks, acc, q + (d + 1) * n_rows, key, next, (d + 1) * bytes, bytes == 64);
    }
    if (d < d_head)
        score_element(type, n_rows, n_blocks, acc, q + d * n_rows, key, next, d * bytes, true);
#pragma GCC unroll 8
    for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (size_t b = 0; b < n_blocks; b++)
            v_store(scores + r * STEP + b * LANES, acc[r][b]);
}

/* ---- weights ---- */

/* Lanes outside [first, end) become minus infinity: nobody knows what their keys are. */
ALWAYS_INLINE vec hide(vec scores, size_t block, struct range seen)
{
    static const float lanes[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vec position = v_add(v_load(lanes), v_set((float)(block * LANES)));
    scores = v_select_less(position, v_set((float)seen.first), v_set(-INFINITY), scores);
    return v_select_less(position, v_set((float)seen.end), scores, v_set(-INFINITY));
}

/* The row has a new maximum: what it has summed up is brought to that. */
NEVER_INLINE void rescale(float *mixture, size_t width, float *sums, float before, float most)
{
    vec factor = v_exp(v_set(before - most));

    v_store(sums, v_mul(v_load(sums), factor));
    for (size_t i = 0; i < width; i += LANES)
        v_store(mixture + i, v_mul(v_load(mixture + i), factor));
}

/* n_blocks vectors of scores, of which `seen` says what to see, become weights. */
ALWAYS_INLINE void weigh_row(const struct attention *a, size_t row, float *scores, size_t first_block, size_t end_block,
                             const struct range *seen)
{
    float *sums = a->sums + row * LANES, before = a->most[row], most;
    vec m = v_set(-INFINITY);

#pragma GCC unroll 4
    for (size_t b = first_block; b < end_block; b++) {
        vec s = v_load(scores + b * LANES);
        if (seen) {
            s = hide(s, b, *seen);
            v_store(scores + b * LANES, s);
        }
        m = v_max(m, s);
    }
    most = v_join_max(m);
    most = before > most ? before : most;
    if (!(before == most)) {
        a->most[row] = most;
        rescale(a->mixture + row * a->width, a->width, sums, before, most);
    }
    vec sum = v_load(sums);
#pragma GCC unroll 4
    for (size_t b = first_block; b < end_block; b++) {
        vec p = v_exp(v_sub(v_load(scores + b * LANES), v_set(most)));
        v_store(scores + b * LANES, p);
        sum = v_add(sum, p);
    }
    v_store(sums, sum);
}

NEVER_INLINE void weigh_some(const struct attention *a, size_t row, float *scores, struct range seen)
{
    if (seen.first < seen.end)
        weigh_row(a, row, scores, seen.first / LANES, (seen.end + LANES - 1) / LANES, &seen);
}

NEVER_INLINE void weigh_whole(const struct attention *a, size_t row, float *scores)
{
    weigh_row(a, row, scores, 0, STEP_BLOCKS, NULL);
}

/* ---- mixture ---- */

/* Of some rows and columns: mixture[r][c] += sum of p[r][j] v[j][c] over the positions in `seen`. The last of the vectors has
   `last` columns. */
ALWAYS_INLINE void mix_tile(enum weight_type type, size_t n_rows, size_t n_vectors, size_t last, float *mixture, size_t width,
                            const float *p, const struct span *span, size_t d_head, size_t column, struct range seen)
{
    const size_t size = weight_type_size(type);
    vec acc[8][4], value[4];

#pragma GCC unroll 8
    for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (size_t c = 0; c < n_vectors; c++)
            acc[r][c] = v_load(mixture + r * width + column + c * LANES);
    for (size_t j = seen.first, end; j < seen.end; j = end) {
        size_t b = j / LANES, at = (j % LANES * d_head + column) * size;
        const char *row = span->at[b] + at, *next = span->ahead[b] + at;
        end = least(seen.end, (b + 1) * LANES);
        for (const float *weight = p + j; weight < p + end; weight++, row += d_head * size, next += d_head * size) {
#pragma GCC unroll 4
            for (size_t c = 0; c < n_vectors; c++) {
                const char *v = row + c * LANES * size;
                value[c] = last < LANES ? v_load_some_weights(type, v, last) : v_load_weights(type, v);
                if (c * LANES * size % 64 == 0)
                    __builtin_prefetch(next + c * LANES * size, 0, 2);
            }
#pragma GCC unroll 8
            for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
                for (size_t c = 0; c < n_vectors; c++)
                    acc[r][c] = v_fma(value[c], v_set(weight[r * STEP]), acc[r][c]);
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (size_t c = 0; c < n_vectors; c++)
            v_store(mixture + r * width + column + c * LANES, acc[r][c]);
}

ALWAYS_INLINE void mix_columns(enum weight_type type, size_t n_rows, size_t n_vectors, const struct attention *a,
                               const struct span *span, size_t row, struct range seen)
{
    const float *p = a->scores + row * STEP;
    float *mixture = a->mixture + row * a->width;
    size_t d_head = a->work->d_head, i = 0;

    if (seen.first >= seen.end)
        return;
    for (; i + n_vectors * LANES <= d_head; i += n_vectors * LANES)
        mix_tile(type, n_rows, n_vectors, LANES, mixture, a->width, p, span, d_head, i, seen);
    for (; i + LANES <= d_head; i += LANES)
        mix_tile(type, n_rows, 1, LANES, mixture, a->width, p, span, d_head, i, seen);
    if (i < d_head)
        mix_tile(type, n_rows, 1, d_head - i, mixture, a->width, p, span, d_head, i, seen);
}

/* ---- a tile's rows in a step ---- */

ALWAYS_INLINE struct place place_of(const struct attend *work, size_t row)
{
    return (struct place){row / work->n_heads, row % work->n_heads};
}

ALWAYS_INLINE void go_on(const struct attend *work, struct place *place)
{
    if (++place->head == work->n_heads)
        *place = (struct place){place->token + 1, 0};
}

/* The weights of a tile's rows in a step. */
ALWAYS_INLINE void weigh_rows(enum weight_type type, size_t n_rows, size_t n_vectors, const struct attention *a,
                              const struct span *span, size_t row)
{
    const struct attend *work = a->work;
    const float *q = a->q + row * work->d_head;
    float *scores = a->scores + row * STEP;
    struct place place = place_of(work, row);
    size_t b = within(seen_by(work, place.token), span->begin).first / LANES;
    size_t n_blocks = (within(seen_by(work, (row + n_rows - 1) / work->n_heads), span->begin).end + LANES - 1) / LANES;

    for (; b + n_vectors <= n_blocks; b += n_vectors)
        score_tile(type, n_rows, n_vectors, scores + b * LANES, q, span->at + b, span->ahead + b, work->d_head);
    for (; b < n_blocks; b++)
        score_tile(type, n_rows, 1, scores + b * LANES, q, span->at + b, span->ahead + b, work->d_head);
    for (size_t r = 0; r < n_rows; r++, go_on(work, &place)) {
        struct range seen = within(seen_by(work, place.token), span->begin);
        if (seen.first == 0 && seen.end == STEP)
            weigh_whole(a, row + r, scores + r * STEP);
        else
            weigh_some(a, row + r, scores + r * STEP, seen);
    }
}

typedef void tile_of_step(const struct attention *a, const struct span *span, size_t row);
typedef void row_of_step(const struct attention *a, const struct span *span, size_t row, struct range seen);

/* Their mixture. What all of them see they mix together; what only some see, at the ends, row by row. Windows may be so short that
   nothing is left for all. */
ALWAYS_INLINE void mix_rows(enum weight_type type, size_t n_rows, size_t n_vectors, row_of_step *mix_row,
                            const struct attention *a, const struct span *span, size_t row)
{
    const struct attend *work = a->work;
    struct place place = place_of(work, row), begin = place;
    struct range early = within(seen_by(work, place.token), span->begin);
    struct range late = within(seen_by(work, (row + n_rows - 1) / work->n_heads), span->begin);
    struct range all = {largest(late.first, early.first), largest(early.end, late.first)};

    for (size_t r = 0; r < n_rows && early.first < all.first; r++, go_on(work, &place)) {
        struct range seen = within(seen_by(work, place.token), span->begin);
        mix_row(a, span, row + r, (struct range){seen.first, least(seen.end, all.first)});
    }
    mix_columns(type, n_rows, n_vectors, a, span, row, all);
    for (size_t r = 0; r < n_rows && late.end > all.end; r++, go_on(work, &begin)) {
        struct range seen = within(seen_by(work, begin.token), span->begin);
        mix_row(a, span, row + r, (struct range){largest(seen.first, all.end), seen.end});
    }
}

#define ROW_OF_TYPE(TYPE, suffix)                                                                            \
    static void mix_row_##suffix(const struct attention *a, const struct span *span, size_t row,             \
                                 struct range seen)                                                          \
    {                                                                                                        \
        mix_columns(TYPE, 1, 4, a, span, row, seen);                                                         \
    }
#define TILE_OF_TYPE(TYPE, suffix, N, VECTORS)                                                               \
    static void weigh_##suffix##_##N(const struct attention *a, const struct span *span, size_t row)         \
    {                                                                                                        \
        weigh_rows(TYPE, N, VECTORS, a, span, row);                                                          \
    }                                                                                                        \
    static void mix_##suffix##_##N(const struct attention *a, const struct span *span, size_t row)           \
    {                                                                                                        \
        mix_rows(TYPE, N, VECTORS, mix_row_##suffix, a, span, row);                                          \
    }
#define TILE_F32(N, VECTORS) TILE_OF_TYPE(WEIGHT_F32, f32, N, VECTORS)
#define TILE_F16(N, VECTORS) TILE_OF_TYPE(WEIGHT_F16, f16, N, VECTORS)
#define TILE_BF16(N, VECTORS) TILE_OF_TYPE(WEIGHT_BF16, bf16, N, VECTORS)

ROW_OF_TYPE(WEIGHT_F32, f32)
ROW_OF_TYPE(WEIGHT_F16, f16)
ROW_OF_TYPE(WEIGHT_BF16, bf16)
ATTEND_TILES(TILE_F32)
ATTEND_TILES(TILE_F16)
ATTEND_TILES(TILE_BF16)

static tile_of_step *const weigh_of[N_ELEMENT_TYPES][ATTEND_MOST_ROWS] = {[WEIGHT_F32] = ATTEND_TILE_TABLE(weigh_f32),
                                                                        [WEIGHT_F16] = ATTEND_TILE_TABLE(weigh_f16),
                                                                        [WEIGHT_BF16] = ATTEND_TILE_TABLE(weigh_bf16)};
static tile_of_step *const mix_of[N_ELEMENT_TYPES][ATTEND_MOST_ROWS] = {[WEIGHT_F32] = ATTEND_TILE_TABLE(mix_f32),
                                                                      [WEIGHT_F16] = ATTEND_TILE_TABLE(mix_f16),
                                                                      [WEIGHT_BF16] = ATTEND_TILE_TABLE(mix_bf16)};

/* ---- all of it ---- */

/* How many rows make the next tile when n are left: 8 are 4 and 4, not 6 and 2. */
ALWAYS_INLINE size_t next_rows(size_t n)
{
    size_t n_tiles = (n + ATTEND_ROWS - 1) / ATTEND_ROWS;
    return n <= ATTEND_MOST_ROWS ? n : (n + n_tiles - 1) / n_tiles;
}

/* The blocks of the step that lie at `base`, the same place of the next step ahead of each. */
ALWAYS_INLINE void find_span(const struct attend *work, const void *base, size_t begin, struct range seen, struct span *span)
{
    size_t n_blocks = (seen.end + LANES - 1) / LANES, end = least(n_blocks, begin / LANES + STEP_BLOCKS);

    span->begin = begin;
    for (size_t b = largest(begin, seen.first) / LANES; b < end; b++) {
        size_t ahead = b + STEP_BLOCKS < n_blocks ? b + STEP_BLOCKS : b;
        span->at[b % STEP_BLOCKS] = (const char *)base + work->blocks[b] * work->block_bytes;
        span->ahead[b % STEP_BLOCKS] = (const char *)base + work->blocks[ahead] * work->block_bytes;
    }
}

/* What was to be fetched has been. */
ALWAYS_INLINE void fetch_no_more(struct span *span)
{
    memcpy(span->ahead, span->at, sizeof span->at);
}

ALWAYS_INLINE void widen_block(enum weight_type type, float *out, const char *at, const char *ahead, size_t n)
{
    const size_t size = weight_type_size(type);
    for (size_t i = 0; i < n; i += LANES) {
        v_store(out + i, v_load_weights(type, at + i * size));
        if (i * size % 64 == 0)
            __builtin_prefetch(ahead + i * size, 0, 2);
    }
}

ALWAYS_INLINE void widen_span(enum weight_type type, const struct attention *a, struct range seen, struct span *span)
{
    size_t n = LANES * a->work->d_head;
    struct range here = within(seen, span->begin);

    for (size_t b = here.first / LANES; b < (here.end + LANES - 1) / LANES; b++) {
        widen_block(type, a->wide + b * n, span->at[b], span->ahead[b], n);
        span->at[b] = (const char *)(a->wide + b * n);
    }
    fetch_no_more(span);
}

static void pack_queries(const struct attention *a)
{
    const struct attend *work = a->work;
    struct place place = {0, 0};

    for (size_t row = 0, n; row < a->n_rows; row += n) {
        float *out = a->q + row * work->d_head;
        n = next_rows(a->n_rows - row);
        for (size_t r = 0; r < n; r++, go_on(work, &place)) {
            const float *q = work->q + place.token * work->q_stride + place.head * work->d_head;
            for (size_t i = 0; i < work->d_head; i++)
                out[i * n + r] = q[i] * work->scale;
        }
    }
}

static void begin_rows(struct attention *a, const struct attend *work)
{
    uintptr_t at = ((uintptr_t)work->scratch + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;

    a->work = work;
    a->n_rows = work->n_tokens * work->n_heads;
    a->width = (work->d_head + LANES - 1) / LANES * LANES;
    a->wide = (float *)at;
    a->scores = a->wide + STEP * work->d_head;
    a->mixture = a->scores + a->n_rows * STEP;
    a->sums = a->mixture + a->n_rows * a->width;
    a->q = a->sums + a->n_rows * LANES;
    a->most = a->q + a->n_rows * work->d_head;
    memset(a->mixture, 0, a->n_rows * (a->width + LANES) * sizeof *a->mixture); /* and the sums */
    for (size_t row = 0; row < a->n_rows; row++)
        a->most[row] = -INFINITY;
    pack_queries(a);
}

static void end_rows(const struct attention *a)
{
    const struct attend *work = a->work;
    struct place place = {0, 0};

    for (size_t row = 0; row < a->n_rows; row++, go_on(work, &place)) {
        vec inverse = v_set(1.0f / v_join(v_load(a->sums + row * LANES)));
        const float *mixture = a->mixture + row * a->width;
        float *out = work->out + place.token * work->out_stride + place.head * work->d_head;
        size_t i = 0;
        for (; i + LANES <= work->d_head; i += LANES)
            v_store(out + i, v_mul(v_load(mixture + i), inverse));
        if (i < work->d_head)
            v_store_some(out + i, v_mul(v_load(mixture + i), inverse), work->d_head - i);
    }
}

/* Some rows see nothing of the first steps or of the last one. */
ALWAYS_INLINE bool is_out(const struct attend *work, size_t row, size_t n, size_t begin)
{
    return seen_by(work, (row + n - 1) / work->n_heads).end <= begin ||
           seen_by(work, row / work->n_heads).first >= begin + STEP;
}

/* All rows of a step, so that the keys, and then the values, stay near meanwhile. */
ALWAYS_INLINE void take_step(enum weight_type type, const struct attention *a, const void *base, size_t begin, struct range seen,
                             tile_of_step *const tiles[N_ELEMENT_TYPES][ATTEND_MOST_ROWS])
{
    bool is_widened = type != WEIGHT_F32 && a->n_rows > ATTEND_MOST_ROWS;
    struct span span = {0};

    find_span(a->work, base, begin, seen, &span);
    if (is_widened)
        widen_span(type, a, seen, &span);
    for (size_t row = 0, n; row < a->n_rows; row += n) {
        n = next_rows(a->n_rows - row);
        if (is_out(a->work, row, n, begin))
            continue;
        tiles[is_widened ? WEIGHT_F32 : type][n - 1](a, &span, row);
        fetch_no_more(&span);
    }
}

ALWAYS_INLINE void attend(enum weight_type type, const struct attend *work)
{
    struct range seen = {seen_by(work, 0).first, seen_by(work, work->n_tokens - 1).end};
    struct attention a;

    begin_rows(&a, work);
    for (size_t begin = seen.first / STEP * STEP; begin < seen.end; begin += STEP) {
        take_step(type, &a, work->keys, begin, seen, weigh_of);
        take_step(type, &a, work->values, begin, seen, mix_of);
    }
    end_rows(&a);
}

#define ATTEND_OF_TYPE(TYPE, suffix)                                                                         \
    static void attend_##suffix(const struct attend *work)                                                   \
    {                                                                                                        \
        attend(TYPE, work);                                                                                  \
    }

ATTEND_OF_TYPE(WEIGHT_F32, f32)
ATTEND_OF_TYPE(WEIGHT_F16, f16)
ATTEND_OF_TYPE(WEIGHT_BF16, bf16)

#endif
