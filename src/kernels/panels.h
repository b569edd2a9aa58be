/*
 * panels.h - products with packed weights and prepared activations (pack.h), over vectors of 16 lanes: a lane is an output.
 *
 * Included with one or several of PANELS_ELEMENTS (f32, f16), PANELS_PAIRS or PANELS_WIDENED_PAIRS (bf16) and PANELS_GROUPS (q8, q4) defined: a file of
 * an instruction set has all of them and PANELS_PREPARES (activations of all types), one that adds an instruction only what it makes faster. One that brings
 * tiles of its own for q8 and q4 (AMX) defines PANELS_TILES. It defines before, besides what rows.h asks for:
 *
 *     bits                            a vector's 64 bytes, also as 16 integers
 *     b_load(p)  b_repeat(p)          64 bytes; the 4 bytes at p in all lanes
 *     v_add_pairs(acc, w, x)          per lane: fma(w0, x0, fma(w1, x1, acc)), of pairs of bf16; or without such an instruction:
 *     v_load_first(p) v_load_second(p)  the first and the second of 16 pairs of bf16 at p, widened; activations are prepared in f32 then
 *     b_add_quads(acc, w, x)          per lane: acc + the sum of four products of w's bytes, less 128 each, and x's signed ones;
 *     b_add_repeated(acc, w, p)       the same of b_repeat(p), where one instruction does both
 *     b_start(start)                  or of unsigned bytes, when the sum began with b_start of pack.h's start
 *     b_as_floats(b)                  the same bits
 *     b_low_codes(b)  b_high_codes(b) the PACK_Q4_VALUES of the lower and the upper half of each byte
 *     v_prepare_bytes(p, a, b, &sum)  32 integers of a byte each, to which ROUND_TO_INTEGER was added, as bytes at p; and their sum
 *     WIDE_ELEMENTS, WIDE_GROUPS      {vectors of a tile with 1, 2, ... tokens}: as many tokens as registers can hold
 *     ELEMENT_TILES, GROUP_TILES      these tiles, each TILE(vectors, tokens), and of one vector; ..._TILE_TABLE their names, by tokens
 *     WHOLE_GROUPS(TILE, separator)   TILE(1) separator TILE(2) ...: with so many tokens a panel is one tile, at most MOST_WHOLE
 *     WHOLE_VECTORS(type, tokens)     of these tiles, vectors that are multiplied together,
 *     WHOLE_STEPS(type, tokens)       and groups that they pass before the next vectors do
 *     IS_FOLLOWED(type, tokens)       where hardware follows the stream of weights sooner than instructions would fetch it; nowhere, if it is not defined
 *
 * A tile is some vectors of a panel with some tokens of one block. With few tokens the weights pass once, as one stream of memory, which is
 * fetched a little ahead. With more of them a chunk of a panel stays in a cache while block after block of tokens passes, each of which
 * fetches its share of the next chunk, so that memory and arithmetic work side by side. One function goes through all blocks: what is done between
 * two tiles is not hidden behind the products, so it has to be little. Between chunks the sums wait side by side: rows of
 * outputs are often a power of two apart, and would drive each other out of the caches. What a tile would have to widen or unpack again and
 * again (f16, bf16, q4) is unpacked once for all, as f32 or q8.
 */
#include "kernels/panel_sums.h"

#include <assert.h>
#include <string.h>

#if !defined(IS_FOLLOWED)
#define IS_FOLLOWED(type, tokens) ((void)(type), (void)(tokens), false)
#endif

enum {
    MOST_WIDE = PANEL_ROWS / PANEL_LANES,
    MOST_TOKENS = 8, /* of a tile; */
    MOST_WHOLE = ACTIVATIONS_MOST_WIDTH, /* ... of all vectors of a panel */
    UNROLL = 4,
    CHUNK_BYTES = 256 * 1024,      /* of weights that several tiles of tokens pass */
    FEW_TILES = 4,                 /* so many of them pass less at a time: */
    SHORT_CHUNK_BYTES = 32 * 1024,
    UNPACKED_BYTES = 128 * 1024,
    MOST_CARRIED = 576,            /* tokens whose sums wait between chunks; 512 in whole blocks of any width */
    LEAST_UNPACKED = 48,           /* tokens for which it pays to widen weights once */
    STREAM_AHEAD = 2560,           /* bytes to fetch into L1 before they are wanted where elements pass once, */
    NEAR_AHEAD = 1024,             /* ... where groups do, */
    NEAR_AHEAD_OF_STEPS = 5120,    /* ... where some of them pass before the next vectors do; */
    FAR_AHEAD = 8704               /* ... and into L2 before that */
};

/* Some steps of a panel, with the same tokens of some blocks. */
struct panel_pass {
    struct panel_sums from, to; /* the sums before and after these steps; from.at NULL: 0 */
    const char *w;             /* weights of the first step */
    size_t n_vectors, step_bytes; /* of the panel */
    const char *x;             /* the first step of the first block's activations, of which the tokens begin with */
    size_t first, n_tokens;    /* `first`, in each block */
    size_t n_blocks, block_bytes;
    size_t width;              /* tokens that a block has room for */
    size_t n_steps;            /* inputs, pairs or groups */
    bool is_once;              /* there is one block: what is fetched goes to L1, else to L2 */
    const char *next, *next_end; /* weights that will be wanted then, of which each block fetches one stretch: so the hardware sees a stream */
    size_t next_lines;         /* of a block */
};

typedef void panel_function(const struct panel_pass *pass);

/* A tile's sums, from vector `first` of the panel on. */
KERNELS_ALWAYS_INLINE void panel_load_tile(const struct panel_sums *from, size_t first, size_t n_vectors, size_t n_tokens,
                                           vec acc[MOST_WIDE][MOST_TOKENS])
{
    const bool is_whole = from->n_rows >= (first + n_vectors) * PANEL_LANES;
#pragma GCC unroll 8
    for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            acc[v][t] = v_set(0.0f);
    if (from->at && is_whole)
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                acc[v][t] = v_load(panel_sums_of(from, first + v, t));
    else if (from->at)
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                acc[v][t] = panel_load_sums(from, first + v, t);
}

KERNELS_ALWAYS_INLINE void panel_store_tile(const struct panel_sums *to, size_t first, size_t n_vectors, size_t n_tokens,
                                            vec acc[MOST_WIDE][MOST_TOKENS])
{
    const bool is_whole = to->n_rows >= (first + n_vectors) * PANEL_LANES;
    if (is_whole)
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                v_store(panel_sums_of(to, first + v, t), acc[v][t]);
    else
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                panel_store_sums(to, first + v, t, acc[v][t]);
}

/* The compiler is not to know how far a row is from the next, or it keeps the address of each in a register of its own. */
KERNELS_ALWAYS_INLINE const char *panel_next_row(const char *row, size_t n_bytes)
{
    row += n_bytes;
    __asm__("" : "+r"(row));
    return row;
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

/* How weights of a type are multiplied that lie as a panel of it does. */
struct panel_tiles {
    enum weight_type type;
    size_t step_inputs, step_units;       /* of one step: inputs, and 4-byte units of activations */
    size_t most_tokens;
    const unsigned char *wide;            /* vectors of a tile, by tokens less one */
    panel_function *const (*passes)[2];   /* by tokens less one: in tiles of `wide` vectors of a whole panel, of one */
};

/* n_steps of a panel, of n_vectors, as the type that other tiles read. */
typedef void panel_unpack_function(char *to, const char *from, size_t n_vectors, size_t n_steps);

/* How a type's products are made. */
struct panel_plan {
    const struct panel_tiles *few;           /* of the type itself, for the tokens of one block */
    panel_function *const *whole;            /* NULL, or instead of them, by tokens less one: in tiles of all vectors of a panel */
    const struct panel_tiles *many;          /* for many */
    panel_unpack_function *unpack;           /* to what they read; NULL: `few` will do */
    size_t least_unpacked;                   /* tokens for which that pays, */
    size_t unpacked_bytes;                   /* and how much at a time, at most UNPACKED_BYTES */
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
    size_t out_stride;
    const struct activations *x;
    size_t first, end; /* tokens, at most MOST_CARRIED */
    float *carry;      /* (MOST_CARRIED, PANEL_ROWS) sums between chunks */
};

static struct panel_pass panel_pass_of(const struct panel_run *run, const struct panel_tiles *tiles, const char *w, size_t n_rows)
{
    size_t n_vectors = panel_width(n_rows) / PANEL_LANES;
    return (struct panel_pass){.to = {run->out, run->out_stride, n_rows}, .w = w, .n_vectors = n_vectors,
                               .step_bytes = panel_step_bytes(tiles->type, n_vectors), .block_bytes = activations_block_bytes(run->x),
                               .width = run->x->width};
}

/* Where a chunk's sums come from and go to. */
static void panel_set_sums(const struct panel_run *run, struct panel_pass *pass, size_t n_rows, bool is_first, bool is_last)
{
    const struct panel_sums carry = {run->carry, PANEL_ROWS, PANEL_ROWS}, out = {run->out, run->out_stride, n_rows};
    pass->from = is_first ? (struct panel_sums){0} : carry;
    pass->to = is_last ? out : carry;
}

/* The same tokens of each of n_blocks; what is behind them comes next. */
static void panel_run_blocks(const struct panel_tiles *tiles, struct panel_pass *pass, size_t first, size_t n_tokens, size_t n_blocks)
{
    if (n_tokens == 0 || n_blocks == 0)
        return;
    pass->first = first;
    pass->n_tokens = n_tokens;
    pass->n_blocks = n_blocks;
    tiles->passes[n_tokens - 1][pass->n_vectors == MOST_WIDE ? 0 : 1](pass);
    pass->x += n_blocks * pass->block_bytes;
    pass->next += panel_least(n_blocks * pass->next_lines * 64, (size_t)(pass->next_end - pass->next));
    panel_skip_tokens(&pass->from, n_blocks * n_tokens);
    panel_skip_tokens(&pass->to, n_blocks * n_tokens);
}

/* A chunk's steps, of which the first is number first_step, for all tokens. Meanwhile they fetch n_next_bytes from `next` on, each block a stretch. */
static void panel_run_pass(const struct panel_run *run, const struct panel_tiles *tiles, struct panel_pass *pass, size_t first_step, const char *next,
                           size_t n_next_bytes)
{
    const size_t width = run->x->width, first_block = run->first / width, first = run->first % width;
    const size_t n_blocks = (run->end - 1) / width - first_block + 1, n_first = first > 0 ? panel_least(width - first, run->end - run->first) : 0;
    const size_t n_left = run->end - run->first - n_first;
    pass->x = run->x->data + first_block * pass->block_bytes + first_step * tiles->step_units * width * 4;
    pass->next = next;
    pass->next_end = next + n_next_bytes;
    pass->next_lines = ((n_next_bytes + 63) / 64 + n_blocks - 1) / n_blocks;
    panel_run_blocks(tiles, pass, first, n_first, 1);
    panel_run_blocks(tiles, pass, 0, width, n_left / width);
    panel_run_blocks(tiles, pass, 0, n_left % width, 1);
}

/* All steps of one panel, by tiles of all its vectors. */
static void panel_whole(const struct panel_run *run, const char *panel, size_t n_rows, size_t n_steps)
{
    struct panel_pass pass = panel_pass_of(run, run->plan.few, panel, n_rows);
    pass.x = run->x->data + run->first / run->x->width * pass.block_bytes;
    pass.first = run->first % run->x->width;
    pass.n_tokens = run->end - run->first;
    pass.n_steps = n_steps;
    run->plan.whole[pass.n_tokens - 1](&pass);
}

/* All steps of one panel at once; what comes soon is fetched, unless the hardware does it. */
static void panel_once(const struct panel_run *run, const char *panel, size_t n_rows, size_t n_steps)
{
    struct panel_pass pass = panel_pass_of(run, run->plan.few, panel, n_rows);
    pass.n_steps = n_steps;
    pass.is_once = true;
    size_t n_fetched = IS_FOLLOWED(run->plan.few->type, run->end - run->first) ? 0 : n_steps * pass.step_bytes;
    panel_run_pass(run, run->plan.few, &pass, 0, panel + STREAM_AHEAD, n_fetched);
}

/* So many steps at a time, of about the same number, that a chunk of them has n_bytes at most; a multiple of UNROLL. */
static size_t panel_chunk_steps(size_t n_bytes, size_t step_bytes, size_t n_steps)
{
    size_t most = n_bytes / step_bytes / UNROLL * UNROLL, n_chunks = (n_steps + most - 1) / most;
    return ((n_steps + n_chunks - 1) / n_chunks + UNROLL - 1) / UNROLL * UNROLL;
}

/* A panel as it lies, chunk by chunk. */
static void panel_chunks(const struct panel_run *run, const char *panel, size_t n_rows, size_t n_steps)
{
    const struct panel_tiles *tiles = run->plan.few;
    struct panel_pass pass = panel_pass_of(run, tiles, panel, n_rows);
    bool is_short = run->end - run->first <= FEW_TILES * tiles->most_tokens;
    size_t chunk = panel_chunk_steps(is_short ? SHORT_CHUNK_BYTES : CHUNK_BYTES, pass.step_bytes, n_steps);
    for (size_t begin = 0; begin < n_steps; begin += pass.n_steps, pass.w += pass.n_steps * pass.step_bytes) {
        pass.n_steps = panel_least(chunk, n_steps - begin);
        panel_set_sums(run, &pass, n_rows, begin == 0, begin + pass.n_steps == n_steps);
        size_t n_bytes = pass.n_steps * pass.step_bytes;
        panel_run_pass(run, tiles, &pass, begin, pass.w + n_bytes, n_bytes);
    }
}

/* A panel that is unpacked chunk by chunk. */
static void panel_unpacked_chunks(const struct panel_run *run, const char *panel, size_t n_rows, size_t n_steps)
{
    _Alignas(64) char unpacked[UNPACKED_BYTES];
    const struct panel_tiles *few = run->plan.few, *tiles = run->plan.many;
    struct panel_pass pass = panel_pass_of(run, tiles, unpacked, n_rows);
    size_t steps_each = few->step_inputs / tiles->step_inputs, bytes_each = panel_step_bytes(few->type, pass.n_vectors);
    size_t chunk = panel_chunk_steps(run->plan.unpacked_bytes, steps_each * pass.step_bytes, n_steps);
    for (size_t begin = 0, n; begin < n_steps; begin += n, panel += n * bytes_each) {
        n = panel_least(chunk, n_steps - begin);
        run->plan.unpack(unpacked, panel, pass.n_vectors, n);
        pass.n_steps = n * steps_each;
        panel_set_sums(run, &pass, n_rows, begin == 0, begin + n == n_steps);
        panel_run_pass(run, tiles, &pass, begin * steps_each, panel + n * bytes_each, n * bytes_each);
    }
}

static void panel_multiply(const struct panel_run *run, const char *panel, size_t n_rows, size_t n_steps)
{
    const struct panel_plan *plan = &run->plan;
    size_t n_tokens = run->end - run->first;
    bool is_one_block = run->first / run->x->width == (run->end - 1) / run->x->width;
    if (is_one_block && plan->whole)
        panel_whole(run, panel, n_rows, n_steps);
    else if (is_one_block && plan->few->wide[n_tokens - 1] == MOST_WIDE)
        panel_once(run, panel, n_rows, n_steps);
    else if (plan->unpack && n_tokens >= plan->least_unpacked)
        panel_unpacked_chunks(run, panel, n_rows, n_steps);
    else
        panel_chunks(run, panel, n_rows, n_steps);
}

static void panels_multiply(const struct panel_run *all, const char *w, size_t n_rows)
{
    _Alignas(64) float carry[MOST_CARRIED * PANEL_ROWS];
    const struct panel_tiles *few = all->plan.few;
    const size_t n_in = all->x->n_in, n_steps = (n_in + few->step_inputs - 1) / few->step_inputs;
    const size_t width = all->x->width, n_blocks = panel_blocks_each(all->first, all->end, width, MOST_CARRIED);
    struct panel_run run = *all;
    assert(all->x->type == few->type);
    run.carry = carry;
    for (size_t row = 0; row < n_rows; row += PANEL_ROWS)
        for (run.first = all->first; run.first < all->end; run.first = run.end) {
            run.end = panel_least((run.first / width + n_blocks) * width, all->end);
            run.out = all->out + (run.first - all->first) * all->out_stride + row;
            panel_multiply(&run, w + packed_at(few->type, row, n_in), panel_least(PANEL_ROWS, n_rows - row), n_steps);
        }
}

#define PANEL_TILE(body, TYPE, suffix, vectors, tokens)                                                                              \
    static __attribute__((noinline)) void panel_##suffix##_##vectors##_##tokens(const struct panel_pass *pass)                       \
    {                                                                                                                                \
        body(TYPE, vectors, tokens, pass);                                                                                           \
    }

#define PANEL_ROW(suffix, ...)                                                                                                       \
    static void multiply_##suffix(float *out, size_t out_stride, const void *w, size_t n_rows, const struct activations *x, size_t first,  \
                                  size_t n_tokens)                                                                                   \
    {                                                                                                                                \
        struct panel_run run = {                                                                                                     \
            .plan = {__VA_ARGS__}, .out = out, .out_stride = out_stride, .x = x, .first = first, .end = first + n_tokens};           \
        panels_multiply(&run, w, n_rows);                                                                                            \
    }

#if defined(PANELS_ELEMENTS) || defined(PANELS_PAIRS)
#include "kernels/panel_elements.h"
#endif
#if defined(PANELS_GROUPS)
#include "kernels/panel_groups.h"
#endif
#if defined(PANELS_PREPARES) || defined(PANELS_PAIRS) || defined(PANELS_TILES)
#include "kernels/prepare.h"
#endif
#if defined(PANELS_PREPARES)
#define PANEL_TOKENS_AT_ONCE {sizeof wide_elements, sizeof wide_elements, sizeof wide_elements, N_WHOLE_GROUPS, N_WHOLE_GROUPS}
#define PANEL_TOKENS_PER_BLOCK {sizeof wide_elements, sizeof wide_elements, sizeof wide_elements, sizeof wide_groups, sizeof wide_groups}
#endif
