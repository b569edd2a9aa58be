/*
 * panels.h - products with packed weights (pack.h), over vectors of 16 lanes: a lane is an output.
 *
 * Included with one or several of PANELS_ELEMENTS (f32, f16), PANELS_PAIRS or PANELS_WIDENED_PAIRS (bf16) and PANELS_GROUPS (q8, q4) defined: a file of
 * an instruction set has all of them, one that adds an instruction only what that is for. It defines before, besides what rows.h asks for:
 *
 *     bits                            a vector's 64 bytes, also as 16 integers
 *     b_load(p)  b_repeat(p)          64 bytes; the 4 bytes at p in all lanes
 *     v_add_pairs(acc, w, x)          per lane: fma(w0, x0, fma(w1, x1, acc)), of pairs of bf16; or without such an instruction:
 *     v_load_first(p) v_load_second(p)  the first and the second of 16 pairs of bf16 at p, widened; activations are prepared in f32 then
 *     b_add_quads(acc, w, x)          per lane: acc + the sum of four products of w's bytes, less 128 each, and x's signed ones;
 *     b_start(offset)                 or of unsigned bytes, when the sum began with b_start of pack.h's offset
 *     b_to_floats(b)                  of integers
 *     b_low_codes(b)  b_high_codes(b) the PACK_Q4_VALUES of the lower and the upper half of each byte
 *     v_prepare_bytes(p, a, b, &sum)  32 integers of a byte each, to which ROUND_TO_INTEGER was added, as bytes at p; and their sum
 *     WIDE_ELEMENTS, WIDE_GROUPS      {vectors of a tile with 1, 2, ... tokens}: as many tokens as registers can hold; 0: none has so few
 *     ELEMENT_TILES, GROUP_TILES      these tiles, each TILE(vectors, tokens), and of one vector; ..._TILE_TABLE their names, by tokens
 *     WHOLE_GROUPS(TILE, separator)   TILE(1) separator TILE(2) ...: with so many tokens a panel is one tile, at most MOST_WHOLE
 *
 * A tile is some vectors of a panel with some tokens. With few tokens the weights pass once, as one stream of memory, which is fetched into
 * L1 a little ahead. With more of them a chunk of a panel stays in a cache while tile after tile of tokens passes, each of which
 * fetches its share of the next chunk, so that memory and arithmetic work side by side. Between chunks the sums wait in `out`.
 */
#include "kernels/pack.h"

#include <assert.h>
#include <string.h>

#if !defined(KERNELS_ALWAYS_INLINE)
#define KERNELS_ALWAYS_INLINE static inline __attribute__((always_inline))
#endif

enum {
    MOST_WIDE = PANEL_ROWS / PANEL_LANES,
    MOST_TOKENS = 8, /* of a tile; */
    MOST_WHOLE = 16, /* ... of all vectors of a panel */
    UNROLL = 4,
    CHUNK_BYTES = 256 * 1024,      /* of weights that several tiles of tokens pass */
    FEW_TILES = 4,                 /* so many of them pass less at a time: */
    SHORT_CHUNK_BYTES = 32 * 1024,
    STREAM_AHEAD = 2560            /* bytes to fetch before they are wanted where weights pass once: more than a group, whose last ones a whole tile
                                      wants with the first vector */
};

struct panel_tile {
    float *out;
    size_t out_stride, n_rows; /* outputs that exist, from the tile's first on */
    const char *panel;
    size_t first;              /* the step that the panel's bytes begin with */
    size_t vector;             /* the tile's first one */
    size_t n_panel_vectors, step_bytes;
    const char *x;
    size_t x_stride;
    size_t n_groups;           /* of a prepared row */
    size_t begin, end;         /* steps: inputs, pairs or groups */
    bool is_once;              /* no other tile reads these weights: what is fetched goes to L1, else to L2 */
    const char *next, *next_end; /* weights that will be wanted then, of which the tile fetches one stretch: so the hardware sees a stream */
    size_t next_lines;         /* of them with each step of groups, or each UNROLL steps of elements */
};

typedef void panel_tile_function(const struct panel_tile *tile);

KERNELS_ALWAYS_INLINE size_t panel_least(size_t a, size_t b)
{
    return a < b ? a : b;
}

KERNELS_ALWAYS_INLINE vec panel_load_sums(const struct panel_tile *tile, size_t v, size_t t)
{
    const float *at = tile->out + t * tile->out_stride + v * PANEL_LANES;
    if (tile->begin == 0)
        return v_set(0.0f);
    size_t left = tile->n_rows - panel_least(v * PANEL_LANES, tile->n_rows);
    return left >= PANEL_LANES ? v_load(at) : v_load_some(at, left);
}

KERNELS_ALWAYS_INLINE void panel_store_sums(const struct panel_tile *tile, size_t v, size_t t, vec sums)
{
    float *at = tile->out + t * tile->out_stride + v * PANEL_LANES;
    size_t left = tile->n_rows - panel_least(v * PANEL_LANES, tile->n_rows);
    if (left >= PANEL_LANES)
        v_store(at, sums);
    else
        v_store_some(at, sums, left);
}

KERNELS_ALWAYS_INLINE void panel_load_all(const struct panel_tile *tile, size_t n_vectors, size_t n_tokens, vec acc[MOST_WIDE][MOST_TOKENS])
{
#pragma GCC unroll 4
    for (size_t v = 0; v < n_vectors; v++)
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++)
            acc[v][t] = panel_load_sums(tile, v, t);
}

KERNELS_ALWAYS_INLINE void panel_store_all(const struct panel_tile *tile, size_t n_vectors, size_t n_tokens, vec acc[MOST_WIDE][MOST_TOKENS])
{
#pragma GCC unroll 4
    for (size_t v = 0; v < n_vectors; v++)
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++)
            panel_store_sums(tile, v, t, acc[v][t]);
}

/* Few lines at a time, between loads: more of them than there are buffers for misses would keep the loads waiting. */
KERNELS_ALWAYS_INLINE const char *panel_fetch(const char *next, size_t n_lines, bool is_once)
{
    const char *end = next + n_lines * 64;
    for (; next < end; next += 64)
        if (is_once)
            __builtin_prefetch(next, 0, 3);
        else
            __builtin_prefetch(next, 0, 2);
    return end;
}

struct panel_run;
typedef void panel_function(const struct panel_run *run, const char *panel, size_t n_rows, size_t n_steps);

/* How a type's products are made. */
struct panel_plan {
    enum weight_type type;
    size_t step_inputs, most_tokens;
    const unsigned char *wide;                 /* vectors of a tile, by tokens less one */
    panel_tile_function *const (*tiles)[2];    /* by tokens less one: of `wide` vectors, of one */
    panel_tile_function *const *whole;         /* by tokens less one: of all vectors of a panel */
    size_t most_whole;
    panel_function *chunks;                    /* for more tokens */
};

KERNELS_ALWAYS_INLINE size_t panel_vector_bytes(enum weight_type type)
{
    return type == WEIGHT_F16 ? 32 : 64;
}

/* Vectors of weights that a step reads for each 16 outputs. */
KERNELS_ALWAYS_INLINE size_t panel_n_loads(enum weight_type type)
{
    return type == WEIGHT_Q8 ? PACK_GROUP / 4 : type == WEIGHT_Q4 ? PACK_GROUP / 8 : 1;
}

KERNELS_ALWAYS_INLINE size_t panel_step_bytes(enum weight_type type, size_t n_vectors)
{
    size_t scale_bytes = type >= N_ELEMENT_TYPES ? PANEL_LANES * sizeof(uint16_t) : 0;
    return n_vectors * (panel_n_loads(type) * panel_vector_bytes(type) + scale_bytes);
}

struct panel_run {
    struct panel_plan plan;
    float *out;
    size_t out_stride, n_in;
    const char *x;
    size_t x_stride, n_tokens;
};

/* Which of the bytes that are wanted after a chunk each of its tiles fetches. */
struct panel_share {
    const char *next;
    size_t n_bytes, n_tiles, n_calls; /* n_calls: of panel_fetch in each tile */
};

KERNELS_ALWAYS_INLINE void panel_set_share(struct panel_tile *tile, const struct panel_share *share, size_t i)
{
    size_t n_lines = (share->n_bytes + 63) / 64, first = i * n_lines / share->n_tiles, end = (i + 1) * n_lines / share->n_tiles;
    tile->next = share->next + first * 64;
    tile->next_end = share->next + end * 64;
    tile->next_lines = (end - first + share->n_calls - 1) / share->n_calls;
}

KERNELS_ALWAYS_INLINE struct panel_tile panel_tile_of(const struct panel_run *run, const char *panel, size_t n_rows)
{
    size_t n_vectors = panel_width(n_rows) / PANEL_LANES;
    return (struct panel_tile){.out = run->out, .out_stride = run->out_stride, .n_rows = n_rows, .panel = panel, .n_panel_vectors = n_vectors,
                               .step_bytes = panel_step_bytes(run->plan.type, n_vectors), .x = run->x, .x_stride = run->x_stride,
                               .n_groups = (run->n_in + PACK_GROUP - 1) / PACK_GROUP};
}

/* A tile's steps for all tokens, of all vectors; meanwhile they fetch n_next_bytes from `next` on. */
static void panel_pass(const struct panel_run *run, struct panel_tile tile, const char *next, size_t n_next_bytes)
{
    const struct panel_plan *plan = &run->plan;
    size_t n_tiles = (run->n_tokens + plan->most_tokens - 1) / plan->most_tokens, n, n_steps = tile.end - tile.begin, n_rows = tile.n_rows;
    struct panel_share share = {.next = next, .n_bytes = n_next_bytes, .n_tiles = n_tiles,
                                .n_calls = plan->step_inputs < PACK_GROUP ? n_steps / UNROLL + 1 : n_steps};
    for (size_t i = 0, t = 0; i < n_tiles; i++, t += n) {
        n = (run->n_tokens - t + n_tiles - i - 1) / (n_tiles - i); /* 8 tokens are 4 and 4, not 6 and 2 */
        tile.x = run->x + t * run->x_stride;
        panel_set_share(&tile, &share, i);
        for (size_t v = 0, wide; v < tile.n_panel_vectors; v += wide) {
            wide = plan->wide[n - 1];
            bool is_wide = v + wide <= tile.n_panel_vectors;
            wide = is_wide ? wide : 1;
            tile.out = run->out + t * run->out_stride + v * PANEL_LANES;
            tile.n_rows = n_rows - v * PANEL_LANES;
            tile.vector = v;
            plan->tiles[n - 1][is_wide ? 0 : 1](&tile);
            tile.next_end = tile.next; /* by the first of a tile's tokens */
        }
    }
}

/* Steps [begin, end) of one panel for all tokens; meanwhile as many bytes are fetched: of the next chunk, or of what comes soon. */
static void panel_chunk(const struct panel_run *run, const char *panel, size_t n_rows, size_t begin, size_t end, bool is_once)
{
    struct panel_tile tile = panel_tile_of(run, panel, n_rows);
    size_t n_bytes = (end - begin) * tile.step_bytes;
    tile.begin = begin;
    tile.end = end;
    tile.is_once = is_once;
    panel_pass(run, tile, panel + begin * tile.step_bytes + (is_once ? STREAM_AHEAD : n_bytes), n_bytes);
}

/* All steps of one panel, by a tile of all its vectors. */
static void panel_whole(const struct panel_run *run, const char *panel, size_t n_rows, size_t n_steps)
{
    struct panel_tile tile = panel_tile_of(run, panel, n_rows);
    tile.end = n_steps;
    tile.next = panel + STREAM_AHEAD;
    tile.next_lines = (tile.step_bytes + 63) / 64;
    run->plan.whole[run->n_tokens - 1](&tile);
}

/* Steps that pass together: as many as a cache holds. */
static size_t panel_chunk_steps(const struct panel_run *run, size_t step_bytes, size_t n_steps)
{
    size_t few_tokens = FEW_TILES * run->plan.most_tokens;
    size_t chunk = (run->n_tokens <= few_tokens ? SHORT_CHUNK_BYTES : CHUNK_BYTES) / step_bytes + 1, n_chunks = (n_steps + chunk - 1) / chunk;
    return (n_steps + n_chunks - 1) / n_chunks; /* of about the same size */
}

/* A panel for more tokens than pass at a time. */
static void panel_chunks(const struct panel_run *run, const char *panel, size_t n_rows, size_t n_steps)
{
    size_t step_bytes = panel_step_bytes(run->plan.type, panel_width(n_rows) / PANEL_LANES), chunk = panel_chunk_steps(run, step_bytes, n_steps);
    for (size_t begin = 0; begin < n_steps; begin += chunk)
        panel_chunk(run, panel, n_rows, begin, panel_least(begin + chunk, n_steps), false);
}

static void panel_multiply(struct panel_run *run, const void *w, size_t n_rows)
{
    const struct panel_plan *plan = &run->plan;
    size_t n_steps = (run->n_in + plan->step_inputs - 1) / plan->step_inputs;
    bool is_whole = run->n_tokens <= plan->most_whole;
    bool is_once = run->n_tokens <= plan->most_tokens && plan->wide[run->n_tokens - 1] == MOST_WIDE;

    for (size_t row = 0; row < n_rows; row += PANEL_ROWS, run->out += PANEL_ROWS) {
        size_t n = panel_least(PANEL_ROWS, n_rows - row);
        const char *panel = (const char *)w + packed_at(plan->type, row, run->n_in);
        if (is_whole)
            panel_whole(run, panel, n, n_steps);
        else if (is_once)
            panel_chunk(run, panel, n, 0, n_steps, true);
        else
            plan->chunks(run, panel, n, n_steps);
    }
}

#define PANEL_TILE(body, TYPE, suffix, vectors, tokens)                                                                              \
    static __attribute__((noinline)) void panel_##suffix##_##vectors##_##tokens(const struct panel_tile *tile)                       \
    {                                                                                                                                \
        body(TYPE, vectors, tokens, tile);                                                                                           \
    }

#define PANEL_ROW(TYPE, suffix, ...)                                                                                                 \
    static void multiply_##suffix(float *out, size_t out_stride, const void *w, size_t n_rows, size_t n_in, const void *x,           \
                                  size_t x_stride, size_t n_tokens)                                                                  \
    {                                                                                                                                \
        struct panel_run run = {.plan = {.type = TYPE, __VA_ARGS__},                                                                 \
                                .out = out,                                                                                          \
                                .out_stride = out_stride,                                                                            \
                                .n_in = n_in,                                                                                        \
                                .x = x,                                                                                              \
                                .x_stride = x_stride,                                                                                \
                                .n_tokens = n_tokens};                                                                               \
        if (n_tokens > 0)                                                                                                            \
            panel_multiply(&run, w, n_rows);                                                                                         \
    }

/* ---- f32 and f16: a step is one input; bf16: a pair of them ---- */

#if defined(PANELS_WIDENED_PAIRS)
enum { PAIR_BYTES = 8 }; /* of prepared activations */
#else
enum { PAIR_BYTES = 4 };
#endif

KERNELS_ALWAYS_INLINE size_t panel_x_bytes(enum weight_type type)
{
    return type == WEIGHT_BF16 ? PAIR_BYTES : 4;
}

#if defined(PANELS_ELEMENTS) || defined(PANELS_PAIRS)
/* acc += weights * the float at x of each token. */
KERNELS_ALWAYS_INLINE void panel_add_products(size_t n_vectors, size_t n_tokens, vec acc[MOST_WIDE][MOST_TOKENS], const vec weights[MOST_WIDE],
                                              const char *x, size_t x_stride)
{
#pragma GCC unroll 8
    for (size_t t = 0; t < n_tokens; t++) {
        float value;
        memcpy(&value, x + t * x_stride, sizeof value);
        vec factor = v_set(value);
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            acc[v][t] = v_fma(weights[v], factor, acc[v][t]);
    }
}

static const unsigned char wide_elements[] = WIDE_ELEMENTS;
#define ELEMENT_PLAN(inputs) .step_inputs = inputs, .most_tokens = sizeof wide_elements, .wide = wide_elements, .chunks = panel_chunks

/* One step of a tile. */
KERNELS_ALWAYS_INLINE void panel_step(enum weight_type type, size_t n_vectors, size_t n_tokens, vec acc[MOST_WIDE][MOST_TOKENS], const char *w,
                                      const char *x, size_t x_stride)
{
#if defined(PANELS_PAIRS)
    if (type == WEIGHT_BF16) {
        bits pairs[MOST_WIDE];
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            pairs[v] = b_load(w + v * 64);
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++) {
            bits pair = b_repeat(x + t * x_stride);
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                acc[v][t] = v_add_pairs(acc[v][t], pairs[v], pair);
        }
        return;
    }
#endif
#if defined(PANELS_WIDENED_PAIRS)
    if (type == WEIGHT_BF16) {
        vec half[MOST_WIDE];
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            half[v] = v_load_second(w + v * 64);
        panel_add_products(n_vectors, n_tokens, acc, half, x + 4, x_stride);
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            half[v] = v_load_first(w + v * 64);
        panel_add_products(n_vectors, n_tokens, acc, half, x, x_stride);
        return;
    }
#endif
#if defined(PANELS_ELEMENTS)
    vec weights[MOST_WIDE];
#pragma GCC unroll 4
    for (size_t v = 0; v < n_vectors; v++)
        weights[v] = v_load_weights(type, w + v * panel_vector_bytes(type));
    panel_add_products(n_vectors, n_tokens, acc, weights, x, x_stride);
#endif
}

/* Steps are made by fours: what is not arithmetic takes places where arithmetic could begin. */
KERNELS_ALWAYS_INLINE void panel_add_elements(enum weight_type type, size_t n_vectors, size_t n_tokens, const struct panel_tile *tile)
{
    const size_t step_bytes = tile->step_bytes, x_stride = tile->x_stride;
    const size_t lines_per_step = tile->next_lines / UNROLL, lines_besides = tile->next_lines % UNROLL;
    const char *next = tile->next, *next_end = tile->next_end;
    const bool is_once = tile->is_once;
    const ptrdiff_t x_bytes = (ptrdiff_t)panel_x_bytes(type);
    const char *w = tile->panel + tile->begin * step_bytes + tile->vector * panel_vector_bytes(type);
    const char *x = tile->x + tile->begin * panel_x_bytes(type), *end = tile->x + tile->end * panel_x_bytes(type);
    vec acc[MOST_WIDE][MOST_TOKENS];

    panel_load_all(tile, n_vectors, n_tokens, acc);
    for (; end - x >= UNROLL * x_bytes; x += UNROLL * x_bytes, w += UNROLL * step_bytes) {
        const bool is_fetching = next < next_end;
        if (is_fetching)
            next = panel_fetch(next, lines_besides, is_once);
#pragma GCC unroll 4
        for (size_t i = 0; i < UNROLL; i++) {
            if (is_fetching)
                next = panel_fetch(next, lines_per_step, is_once);
            panel_step(type, n_vectors, n_tokens, acc, w + i * step_bytes, x + (ptrdiff_t)i * x_bytes, x_stride);
        }
    }
    for (; x < end; x += x_bytes, w += step_bytes)
        panel_step(type, n_vectors, n_tokens, acc, w, x, x_stride);
    panel_store_all(tile, n_vectors, n_tokens, acc);
}
#endif

#if defined(PANELS_ELEMENTS)
#define F32_TILE(vectors, tokens) PANEL_TILE(panel_add_elements, WEIGHT_F32, f32, vectors, tokens)
#define F16_TILE(vectors, tokens) PANEL_TILE(panel_add_elements, WEIGHT_F16, f16, vectors, tokens)
ELEMENT_TILES(F32_TILE)
ELEMENT_TILES(F16_TILE)
static panel_tile_function *const panel_tiles_f32[][2] = ELEMENT_TILE_TABLE(panel_f32);
static panel_tile_function *const panel_tiles_f16[][2] = ELEMENT_TILE_TABLE(panel_f16);
PANEL_ROW(WEIGHT_F32, f32, ELEMENT_PLAN(1), .tiles = panel_tiles_f32)
PANEL_ROW(WEIGHT_F16, f16, ELEMENT_PLAN(1), .tiles = panel_tiles_f16)
#endif

#if defined(PANELS_PAIRS) || defined(PANELS_WIDENED_PAIRS)
#define BF16_TILE(vectors, tokens) PANEL_TILE(panel_add_elements, WEIGHT_BF16, bf16, vectors, tokens)
ELEMENT_TILES(BF16_TILE)
static panel_tile_function *const panel_tiles_bf16[][2] = ELEMENT_TILE_TABLE(panel_bf16);
PANEL_ROW(WEIGHT_BF16, bf16, ELEMENT_PLAN(2), .tiles = panel_tiles_bf16)
#endif

/* ---- activations ---- */

#if defined(PANELS_PAIRS) || defined(PANELS_WIDENED_PAIRS)
/* At most PANEL_LANES of bf16, as they are or widened. */
KERNELS_ALWAYS_INLINE void store_prepared(char *to, const uint16_t *rounded, size_t n)
{
#if defined(PANELS_PAIRS)
    memcpy(to, rounded, n * sizeof *rounded);
#else
    vec widened = v_load_weights(WEIGHT_BF16, rounded);
    if (n == PANEL_LANES)
        v_store((float *)(void *)to, widened);
    else
        v_store_some((float *)(void *)to, widened, n);
#endif
}

static void prepare_pairs(void *out, const float *x, size_t n)
{
    char *to = out;
    for (size_t i = 0; i < n; i += PANEL_LANES) {
        size_t left = panel_least(n - i, PANEL_LANES);
        _Alignas(64) uint16_t rounded[PANEL_LANES];
        v_store_narrow(WEIGHT_BF16, rounded, left == PANEL_LANES ? v_load(x + i) : v_load_some(x + i, left));
        store_prepared(to + i * PAIR_BYTES / 2, rounded, left);
    }
    if (n % 2)
        memset(to + n * PAIR_BYTES / 2, 0, PAIR_BYTES / 2);
}
#endif

#if defined(PANELS_ELEMENTS)
/* -127 for a NaN. */
KERNELS_ALWAYS_INLINE vec panel_round(vec x, vec inverse)
{
    vec clamped = v_min(v_max(v_mul(x, inverse), v_set(-127.0f)), v_set(127.0f));
    return v_add(clamped, v_set(ROUND_TO_INTEGER));
}

static void prepare_groups(void *out, const float *x, size_t n)
{
    size_t n_groups = (n + PACK_GROUP - 1) / PACK_GROUP;
    char *bytes = out, *scales = bytes + n_groups * PACK_GROUP, *offsets = scales + n_groups * 4;

    for (size_t g = 0; g < n_groups; g++) {
        const float *at = x + g * PACK_GROUP;
        size_t left = n - g * PACK_GROUP, low = panel_least(left, PANEL_LANES), high = panel_least(left - low, PANEL_LANES);
        vec a = low == PANEL_LANES ? v_load(at) : v_load_some(at, low), b = v_set(0.0f);
        if (high > 0)
            b = high == PANEL_LANES ? v_load(at + PANEL_LANES) : v_load_some(at + PANEL_LANES, high);
        float most = v_join_max(v_max(v_max(v_set(0.0f), v_abs(a)), v_abs(b))), scale = most / 127.0f;
        vec inverse = v_set(most > 0.0f ? 127.0f / most : 0.0f);
        int32_t sum, offset;
        v_prepare_bytes(bytes + g * PACK_GROUP, panel_round(a, inverse), panel_round(b, inverse), &sum);
        offset = -128 * sum;
        memcpy(scales + g * 4, &scale, 4);
        memcpy(offsets + g * 4, &offset, 4);
    }
}
#endif

/* ---- q8 and q4: a step is a group ---- */

#if defined(PANELS_GROUPS)
static const unsigned char wide_groups[] = WIDE_GROUPS;

/* One quad of inputs for all of a tile. */
KERNELS_ALWAYS_INLINE void panel_add_quads(size_t n_vectors, size_t n_tokens, bits sums[MOST_WIDE][MOST_TOKENS], const bits weights[MOST_WIDE],
                                           const char *x, size_t x_stride)
{
#pragma GCC unroll 8
    for (size_t t = 0; t < n_tokens; t++) {
        bits quad = b_repeat(x + t * x_stride);
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            sums[v][t] = b_add_quads(sums[v][t], weights[v], quad);
    }
}

KERNELS_ALWAYS_INLINE void panel_add_groups(enum weight_type type, size_t n_vectors, size_t n_tokens, const struct panel_tile *tile)
{
    const size_t step_bytes = tile->step_bytes, x_stride = tile->x_stride, n_loads = panel_n_loads(type);
    const size_t load_bytes = tile->n_panel_vectors * 64; /* all vectors of the panel side by side, load after load, then their scales */
    const size_t next_lines = tile->next_lines;
    const char *next = tile->next, *next_end = tile->next_end;
    const char *x = tile->x, *scales = x + tile->n_groups * PACK_GROUP, *offsets = scales + tile->n_groups * 4;
    vec acc[MOST_WIDE][MOST_TOKENS];

    panel_load_all(tile, n_vectors, n_tokens, acc);
    for (size_t g = tile->begin; g < tile->end; g++) {
        const char *group = tile->panel + (g - tile->first) * step_bytes, *w = group + tile->vector * 64, *bytes = x + g * PACK_GROUP;
        const char *w_scales = group + n_loads * load_bytes + tile->vector * 32;
        bits sums[MOST_WIDE][MOST_TOKENS];
        if (next < next_end)
            next = panel_fetch(next, next_lines, false);
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++) {
            bits offset = b_repeat(offsets + t * x_stride + g * 4);
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                sums[v][t] = b_start(offset);
        }
#pragma GCC unroll 8
        for (size_t j = 0; j < n_loads; j++) {
            bits weights[MOST_WIDE];
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                weights[v] = b_load(w + j * load_bytes + v * 64);
            panel_add_quads(n_vectors, n_tokens, sums, weights, bytes + j * 4, x_stride);
        }
        vec scale[MOST_WIDE];
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            scale[v] = v_load_weights(WEIGHT_BF16, w_scales + v * 32);
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++) {
            float value;
            memcpy(&value, scales + t * x_stride + g * 4, sizeof value);
            vec factor = v_set(value);
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                acc[v][t] = v_fma(b_to_floats(sums[v][t]), v_mul(scale[v], factor), acc[v][t]);
        }
    }
    panel_store_all(tile, n_vectors, n_tokens, acc);
}

/* n_steps groups of q4 as those of q8. */
static void panel_unpack(char *to, const char *from, size_t n_vectors, size_t n_steps)
{
    const size_t load_bytes = n_vectors * 64, n_loads = panel_n_loads(WEIGHT_Q4);
    for (size_t g = 0; g < n_steps; g++) {
        for (size_t i = 0; i < n_loads * n_vectors; i++) {
            bits loaded = b_load(from + i * 64), low = b_low_codes(loaded), high = b_high_codes(loaded);
            memcpy(to + i * 64, &low, 64);
            memcpy(to + n_loads * load_bytes + i * 64, &high, 64);
        }
        memcpy(to + 2 * n_loads * load_bytes, from + n_loads * load_bytes, n_vectors * PANEL_LANES * sizeof(uint16_t));
        from += panel_step_bytes(WEIGHT_Q4, n_vectors);
        to += panel_step_bytes(WEIGHT_Q8, n_vectors);
    }
}

/* With many tokens it pays to unpack 4 bits once for all. */
static void panel_unpacked_chunks(const struct panel_run *run, const char *panel, size_t n_rows, size_t n_steps)
{
    enum { CHUNK_STEPS = 32 };
    _Alignas(64) char unpacked[CHUNK_STEPS * (PACK_GROUP * PANEL_ROWS + PANEL_ROWS * sizeof(uint16_t))];
    struct panel_tile tile = panel_tile_of(run, unpacked, n_rows);
    size_t group_bytes = tile.step_bytes;
    tile.step_bytes = panel_step_bytes(WEIGHT_Q8, tile.n_panel_vectors);
    for (size_t begin = 0; begin < n_steps; begin = tile.end) {
        tile.begin = tile.first = begin;
        tile.end = panel_least(begin + CHUNK_STEPS, n_steps);
        panel_unpack(unpacked, panel + begin * group_bytes, tile.n_panel_vectors, tile.end - begin);
        panel_pass(run, tile, panel + tile.end * group_bytes, (tile.end - begin) * group_bytes);
    }
}

/* x of token t, of rows in fours: few registers hold all addresses. */
struct panel_rows {
    const char *fours[MOST_WHOLE / 4];
    size_t stride, three_strides;
};

KERNELS_ALWAYS_INLINE const char *panel_row(const struct panel_rows *rows, size_t t)
{
    return rows->fours[t / 4] + (t % 4 == 3 ? rows->three_strides : t % 4 * rows->stride);
}

KERNELS_ALWAYS_INLINE struct panel_rows panel_rows_at(const char *first, size_t stride, size_t n_tokens)
{
    struct panel_rows rows = {.stride = stride, .three_strides = 3 * stride};
    /* The compiler is not to know where they point, or it loads what all vectors share ahead, into more registers than there are. */
    __asm__("" : "+r"(rows.three_strides));
#pragma GCC unroll 8
    for (size_t i = 0; i * 4 < n_tokens; i++) {
        rows.fours[i] = first + 4 * i * stride;
        __asm__("" : "+r"(rows.fours[i]));
    }
    return rows;
}

/* One group of a vector. */
KERNELS_ALWAYS_INLINE void panel_add_group(enum weight_type type, size_t n_tokens, vec *acc, const char *w, size_t load_bytes, vec scale,
                                           const struct panel_rows *bytes, const struct panel_rows *scales, size_t offsets_after,
                                           const char **next, size_t lines_per_load)
{
    const size_t n_loads = panel_n_loads(type);
    bits sums[MOST_WHOLE];
#pragma GCC unroll 16
    for (size_t t = 0; t < n_tokens; t++)
        sums[t] = b_start(b_repeat(panel_row(scales, t) + offsets_after));
#pragma GCC unroll 8
    for (size_t j = 0; j < n_loads; j++) {
        bits loaded = b_load(w + j * load_bytes), weights = type == WEIGHT_Q8 ? loaded : b_low_codes(loaded);
        *next = panel_fetch(*next, lines_per_load, true);
#pragma GCC unroll 16
        for (size_t t = 0; t < n_tokens; t++)
            sums[t] = b_add_quads(sums[t], weights, b_repeat(panel_row(bytes, t) + j * 4));
        if (type == WEIGHT_Q4) {
            weights = b_high_codes(loaded);
#pragma GCC unroll 16
            for (size_t t = 0; t < n_tokens; t++)
                sums[t] = b_add_quads(sums[t], weights, b_repeat(panel_row(bytes, t) + PACK_GROUP / 2 + j * 4));
        }
    }
#pragma GCC unroll 16
    for (size_t t = 0; t < n_tokens; t++) {
        float value;
        memcpy(&value, panel_row(scales, t), sizeof value);
        acc[t] = v_fma(b_to_floats(sums[t]), v_mul(scale, v_set(value)), acc[t]);
    }
}

/* All vectors of a panel, one after the other in each group: weights pass once and are unpacked once for more tokens than a tile of several vectors
   has registers for. The sums of floats wait in L1. */
KERNELS_ALWAYS_INLINE void panel_add_whole_groups(enum weight_type type, size_t n_tokens, const struct panel_tile *tile)
{
    const size_t n_vectors = tile->n_panel_vectors, load_bytes = n_vectors * 64, n_loads = panel_n_loads(type);
    const size_t lines_per_load = tile->next_lines / (n_vectors * n_loads), lines_besides = tile->next_lines % (n_vectors * n_loads);
    const char *x_scales = tile->x + tile->n_groups * PACK_GROUP, *next = tile->next;
    vec acc[MOST_WIDE][MOST_WHOLE];

    for (size_t v = 0; v < n_vectors; v++)
        for (size_t t = 0; t < n_tokens; t++)
            acc[v][t] = v_set(0.0f);
    for (size_t g = 0; g < tile->end; g++) {
        const char *group = tile->panel + g * tile->step_bytes, *scales = group + n_loads * load_bytes;
        next = panel_fetch(next, lines_besides, true);
        for (size_t v = 0; v < n_vectors; v++) {
            struct panel_rows bytes_at = panel_rows_at(tile->x + g * PACK_GROUP, tile->x_stride, n_tokens);
            struct panel_rows scales_at = panel_rows_at(x_scales + g * 4, tile->x_stride, n_tokens);
            panel_add_group(type, n_tokens, acc[v], group + v * 64, load_bytes, v_load_weights(WEIGHT_BF16, scales + v * 32), &bytes_at, &scales_at,
                            tile->n_groups * 4, &next, lines_per_load);
        }
    }
    for (size_t v = 0; v < n_vectors; v++)
        for (size_t t = 0; t < n_tokens; t++)
            panel_store_sums(tile, v, t, acc[v][t]);
}

#define GROUP_TILE(vectors, tokens) PANEL_TILE(panel_add_groups, WEIGHT_Q8, groups, vectors, tokens)
GROUP_TILES(GROUP_TILE)
static panel_tile_function *const panel_tiles_groups[][2] = GROUP_TILE_TABLE(panel_groups);
#define GROUP_PLAN(wholes)                                                                                                           \
    .step_inputs = PACK_GROUP, .most_tokens = sizeof wide_groups, .wide = wide_groups, .tiles = panel_tiles_groups, .whole = wholes, \
    .most_whole = sizeof wholes / sizeof *wholes
#define PANEL_WHOLE(TYPE, suffix, tokens)                                                                                            \
    static __attribute__((noinline)) void panel_whole_##suffix##_##tokens(const struct panel_tile *tile)                             \
    {                                                                                                                                \
        panel_add_whole_groups(TYPE, tokens, tile);                                                                                  \
    }
#define Q8_WHOLE(tokens) PANEL_WHOLE(WEIGHT_Q8, q8, tokens)
#define Q4_WHOLE(tokens) PANEL_WHOLE(WEIGHT_Q4, q4, tokens)
WHOLE_GROUPS(Q8_WHOLE, )
WHOLE_GROUPS(Q4_WHOLE, )
#define WHOLE_Q8_NAME(tokens) panel_whole_q8_##tokens
#define WHOLE_Q4_NAME(tokens) panel_whole_q4_##tokens
#define COMMA ,
static panel_tile_function *const panel_wholes_q8[] = {WHOLE_GROUPS(WHOLE_Q8_NAME, COMMA)};
static panel_tile_function *const panel_wholes_q4[] = {WHOLE_GROUPS(WHOLE_Q4_NAME, COMMA)};
PANEL_ROW(WEIGHT_Q8, q8, GROUP_PLAN(panel_wholes_q8), .chunks = panel_chunks)
PANEL_ROW(WEIGHT_Q4, q4, GROUP_PLAN(panel_wholes_q4), .chunks = panel_unpacked_chunks)
#endif
