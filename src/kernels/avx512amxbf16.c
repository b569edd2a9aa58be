/*
 * avx512amxbf16.c - AMX for bf16: one instruction adds the products of up to 16 tokens, 16 outputs and 32 inputs to a tile of sums, which stays a
 * register. It sums the first and the second of pairs apart (kernels.h, sums_pairs_apart): the bits are those of no other set, but they are
 * the same for any number of tokens.
 *
 * Weights are tiles as they are packed. Of activations a chunk of inputs lies together, block of tokens after block, so that it fills a cache
 * evenly: (n_in / 256, blocks, 8, width, 32) bf16, filled up with zeros to whole tiles; the last chunk has as many tiles as are left.
 */
#include "kernels/sets.h"

#include "kernels/amx.h"
#include "kernels/avx512.h"
#include "kernels/panel_sums.h"

enum {
    TILE_INPUTS = 32,
    TILE_ROWS = TILE_INPUTS / 2, /* of weights: pairs */
    ROW_BYTES = 64,
    TILE_BYTES = TILE_ROWS * ROW_BYTES,
    MOST_VECTORS = PANEL_ROWS / PANEL_LANES,
    CHUNK_TILES = 8,             /* with which all blocks pass: 32 KB of a panel's weights stay in L1 */
    TOGETHER = 4,                /* panels that pass before the next chunk of activations does */
    MOST_CARRIED = 512,          /* tokens whose sums wait between chunks */
    NEAR_AHEAD = 4096,           /* bytes to fetch weights into L1 before they are wanted where they pass once, */
    FAR_AHEAD = 16384            /* ... and into L2 before that */
};

_Static_assert(PACK_GROUP % TILE_INPUTS == 0, "parts of activations are whole tiles");

/* ---- tiles: 0 to 3 hold sums, one for each vector of a panel, 4 tokens, 6 and 7 weights; what sums and tokens share is set anew for each number of
   tokens ---- */

static void tiles_begin(size_t n_tokens)
{
    struct tile_shapes shapes = {.palette = 1};
    for (size_t i = 0; i < N_TILES; i++) {
        shapes.n_rows[i] = (uint8_t)(i < 6 ? n_tokens : TILE_ROWS);
        shapes.row_bytes[i] = ROW_BYTES;
    }
    tiles_set(&shapes);
}

#define TILE_ZERO(sums) __asm__ volatile("tilezero %%tmm" #sums : : : "memory")
#define TILE_LOAD(tile, from, stride)                                                                                                \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((size_t)(stride)) : "memory")
#define TILE_STORE(sums, to, stride)                                                                                                 \
    __asm__ volatile("tilestored %%tmm" #sums ", (%0,%1,1)" : : "r"(to), "r"((size_t)(stride)) : "memory")
/* The tokens' products with the weights at w. */
#define TILE_ADD(sums, weights, w, stride)                                                                                           \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #weights "\n\t"                                                                    \
                     "tdpbf16ps %%tmm" #weights ", %%tmm4, %%tmm" #sums                                                              \
                     :                                                                                                               \
                     : "r"(w), "r"((size_t)(stride))                                                                                 \
                     : "memory")

/* ---- some inputs, with the same tokens of some blocks ---- */

struct tile_pass {
    struct panel_sums from, to; /* the sums before and after; from.at NULL: 0 */
    const char *w;              /* weights, n_tiles of them for each vector, */
    size_t n_vectors, n_tiles;
    const char *last;           /* and one more that is filled up with zeros; NULL: none */
    const char *x;              /* activations of the first block's tokens, */
    size_t x_step, block_bytes; /* a tile's and a block's bytes */
    size_t n_tokens, n_blocks;
    const char *next;           /* weights that will be wanted then, */
    size_t next_lines;          /* of which each tile of activations fetches so many lines */
    bool is_once;               /* they are wanted soon */
};

KERNELS_ALWAYS_INLINE const char *fetch(const char *next, size_t n_lines, bool is_once)
{
    for (size_t i = 0; i < n_lines; i++, next += 64) {
        if (is_once)
            __builtin_prefetch(next, 0, 3);
        __builtin_prefetch(is_once ? next + FAR_AHEAD - NEAR_AHEAD : next, 0, 2);
    }
    return next;
}

KERNELS_ALWAYS_INLINE void load_sums(size_t n_vectors, const struct panel_sums *from)
{
    const size_t stride = from->stride * sizeof(float);
    if (!from->at) {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
        return;
    }
    TILE_LOAD(0, from->at, stride);
    if (n_vectors > 1)
        TILE_LOAD(1, from->at + PANEL_LANES, stride);
    if (n_vectors > 2)
        TILE_LOAD(2, from->at + 2 * PANEL_LANES, stride);
    if (n_vectors > 3)
        TILE_LOAD(3, from->at + 3 * PANEL_LANES, stride);
}

KERNELS_ALWAYS_INLINE void store_tiles(size_t n_vectors, float *to, size_t stride)
{
    TILE_STORE(0, to, stride);
    if (n_vectors > 1)
        TILE_STORE(1, to + PANEL_LANES, stride);
    if (n_vectors > 2)
        TILE_STORE(2, to + 2 * PANEL_LANES, stride);
    if (n_vectors > 3)
        TILE_STORE(3, to + 3 * PANEL_LANES, stride);
}

/* Where a vector has more lanes than there are outputs, the sums go by way of memory that has room for all. */
KERNELS_ALWAYS_INLINE void store_sums(size_t n_vectors, const struct panel_sums *to, size_t n_tokens)
{
    _Alignas(64) float room[TILE_TOKENS][PANEL_ROWS];
    if (to->n_rows >= n_vectors * PANEL_LANES) {
        store_tiles(n_vectors, to->at, to->stride * sizeof(float));
        return;
    }
    store_tiles(n_vectors, room[0], sizeof room[0]);
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t v = 0; v < n_vectors; v++)
            panel_store_sums(to, v, t, v_load(&room[t][v * PANEL_LANES]));
}

KERNELS_ALWAYS_INLINE const char *add_tiles(size_t n_vectors, const char *x, const char *w, const char *next, size_t n_lines, bool is_once)
{
    const size_t stride = n_vectors * ROW_BYTES;
    TILE_LOAD(4, x, ROW_BYTES);
    TILE_ADD(0, 6, w, stride);
    next = fetch(next, n_lines / n_vectors, is_once);
    if (n_vectors > 1) {
        TILE_ADD(1, 7, w + ROW_BYTES, stride);
        next = fetch(next, (n_lines + 1) / n_vectors, is_once);
    }
    if (n_vectors > 2) {
        TILE_ADD(2, 6, w + 2 * ROW_BYTES, stride);
        next = fetch(next, (n_lines + 2) / n_vectors, is_once);
    }
    if (n_vectors > 3) {
        TILE_ADD(3, 7, w + 3 * ROW_BYTES, stride);
        next = fetch(next, (n_lines + 3) / n_vectors, is_once);
    }
    return next;
}

KERNELS_ALWAYS_INLINE void multiply_blocks(size_t n_vectors, const struct tile_pass *pass, bool is_once)
{
    const size_t n_lines = is_once ? n_vectors * TILE_ROWS : pass->next_lines;
    struct panel_sums from = pass->from, to = pass->to;
    const char *x_block = pass->x, *next = pass->next;
    for (size_t block = 0; block < pass->n_blocks; block++, x_block += pass->block_bytes) {
        const char *x = x_block, *w = pass->w;
        load_sums(n_vectors, &from);
        for (size_t i = 0; i < pass->n_tiles; i++, x += pass->x_step, w += n_vectors * TILE_BYTES)
            next = add_tiles(n_vectors, x, w, next, n_lines, is_once);
        if (pass->last)
            next = add_tiles(n_vectors, x, pass->last, next, n_lines, is_once);
        store_sums(n_vectors, &to, pass->n_tokens);
        panel_skip_tokens(&from, pass->n_tokens);
        panel_skip_tokens(&to, pass->n_tokens);
    }
}

#define PASS(n)                                                                                                                      \
    static __attribute__((noinline)) void pass_##n(const struct tile_pass *pass)                                                     \
    {                                                                                                                                \
        if (pass->is_once)                                                                                                           \
            multiply_blocks(n, pass, true);                                                                                          \
        else                                                                                                                         \
            multiply_blocks(n, pass, false);                                                                                         \
    }
PASS(1) PASS(2) PASS(3) PASS(4)

/* n_blocks of n_tokens each, of which the first is number `first` of its block; then come those behind them. */
static void run_blocks(struct tile_pass *pass, size_t first, size_t n_tokens, size_t n_blocks)
{
    static void (*const passes[MOST_VECTORS])(const struct tile_pass *) = {pass_1, pass_2, pass_3, pass_4};
    struct tile_pass some = *pass;
    if (n_tokens == 0 || n_blocks == 0)
        return;
    tiles_begin(n_tokens);
    some.x += first * ROW_BYTES;
    some.n_tokens = n_tokens;
    some.n_blocks = n_blocks;
    passes[pass->n_vectors - 1](&some);
    pass->x += n_blocks * pass->block_bytes;
    pass->next += n_blocks * (pass->n_tiles + (pass->last ? 1 : 0)) * pass->next_lines * 64;
    panel_skip_tokens(&pass->from, n_blocks * n_tokens);
    panel_skip_tokens(&pass->to, n_blocks * n_tokens);
}

/* ---- activations ---- */

static size_t tiles_of(const struct activations *x)
{
    return (x->n_in + TILE_INPUTS - 1) / TILE_INPUTS;
}

/* Where the first token of a block begins, and how many bytes it is from there to the next block. */
static char *tile_at(const struct activations *x, size_t block, size_t tile, size_t *block_bytes)
{
    const size_t first = tile / CHUNK_TILES * CHUNK_TILES, n_blocks = (x->n_tokens + x->width - 1) / x->width;
    *block_bytes = panel_least(CHUNK_TILES, tiles_of(x) - first) * x->width * ROW_BYTES;
    return x->data + first * n_blocks * x->width * ROW_BYTES + block * *block_bytes + (tile - first) * x->width * ROW_BYTES;
}

static vec load_inputs(const float *x, size_t n)
{
    return n >= PANEL_LANES ? v_load(x) : v_load_some(x, n);
}

static void prepare_tiles(const struct activations *to, const struct activations_part *part, const float *x, size_t x_stride)
{
    for (size_t t = part->first_token; t < part->end_token; t++)
        for (size_t k = part->first; k < part->end; k += TILE_INPUTS) {
            size_t block_bytes, n = panel_least(TILE_INPUTS, part->end - k), n_low = panel_least(n, PANEL_LANES);
            char *row = tile_at(to, t / to->width, k / TILE_INPUTS, &block_bytes) + t % to->width * ROW_BYTES;
            const float *from = x + t * x_stride + k;
            v_store_narrow(WEIGHT_BF16, row, load_inputs(from, n_low));
            v_store_narrow(WEIGHT_BF16, row + ROW_BYTES / 2, n > n_low ? load_inputs(from + n_low, n - n_low) : v_set(0.0f));
        }
}

/* ---- products ---- */

struct run {
    const struct activations *x;
    size_t first, end; /* tokens */
    float *out;
    size_t out_stride;
    float (*carry)[MOST_CARRIED * PANEL_ROWS]; /* of each panel */
};

/* Tiles of some panels that pass together, from `tile` on. */
struct chunk {
    const char *panels;
    size_t n_rows, tile, n_tiles;
};

static const char *weights_at(const struct run *run, const struct chunk *chunk, size_t panel, size_t tile)
{
    size_t n_vectors = panel_width(chunk->n_rows - panel * PANEL_ROWS) / PANEL_LANES;
    return chunk->panels + packed_at(WEIGHT_BF16, panel * PANEL_ROWS, run->x->n_in) + tile * n_vectors * TILE_BYTES;
}

/* Weights that come after those of a panel. */
static const char *weights_after(const struct run *run, const struct chunk *chunk, size_t panel)
{
    if ((panel + 1) * PANEL_ROWS < chunk->n_rows)
        return weights_at(run, chunk, panel + 1, chunk->tile);
    if (chunk->tile + chunk->n_tiles < tiles_of(run->x))
        return weights_at(run, chunk, 0, chunk->tile + chunk->n_tiles);
    return chunk->panels + packed_at(WEIGHT_BF16, (panel + 1) * PANEL_ROWS, run->x->n_in);
}

/* A panel's last pairs, filled up, where they are no whole tile. */
static const char *fill_up(char *room, const char *w, size_t n_in, size_t n_vectors)
{
    const size_t n_pairs = (n_in + 1) / 2 % TILE_ROWS, row_bytes = n_vectors * ROW_BYTES;
    if (n_pairs == 0)
        return NULL;
    memcpy(room, w, n_pairs * row_bytes);
    memset(room + n_pairs * row_bytes, 0, (TILE_ROWS - n_pairs) * row_bytes);
    return room;
}

/* With all tokens. */
static void run_chunk(const struct run *run, const struct chunk *chunk, size_t panel)
{
    _Alignas(64) char room[MOST_VECTORS * TILE_BYTES];
    const struct activations *x = run->x;
    const size_t width = x->width, first = run->first % width, n_tokens = run->end - run->first;
    const size_t n_first = first > 0 ? panel_least(width - first, n_tokens) : 0, n_left = n_tokens - n_first;
    const size_t n_blocks = (n_tokens + first + width - 1) / width, n_rows = panel_least(PANEL_ROWS, chunk->n_rows - panel * PANEL_ROWS);
    const size_t n_vectors = panel_width(n_rows) / PANEL_LANES, tile_bytes = n_vectors * TILE_BYTES;
    const bool is_last = chunk->tile + chunk->n_tiles == tiles_of(x);
    const struct panel_sums carry = {run->carry[panel], PANEL_ROWS, PANEL_ROWS}, out = {run->out + panel * PANEL_ROWS, run->out_stride, n_rows};
    struct tile_pass pass = {.from = chunk->tile == 0 ? (struct panel_sums){0} : carry, .to = is_last ? out : carry, .n_vectors = n_vectors,
                             .n_tiles = chunk->n_tiles, .x_step = width * ROW_BYTES, .is_once = activations_are_one_block(x)};

    pass.w = weights_at(run, chunk, panel, chunk->tile);
    pass.last = is_last ? fill_up(room, pass.w + (chunk->n_tiles - 1) * tile_bytes, x->n_in, n_vectors) : NULL;
    pass.n_tiles -= pass.last ? 1 : 0;
    pass.x = tile_at(x, run->first / width, chunk->tile, &pass.block_bytes);
    pass.next = pass.is_once ? pass.w + NEAR_AHEAD : weights_after(run, chunk, panel);
    pass.next_lines = (tile_bytes / 64 + n_blocks - 1) / n_blocks;
    run_blocks(&pass, first, n_first, 1);
    run_blocks(&pass, 0, width, n_left / width);
    run_blocks(&pass, 0, n_left % width, 1);
}

static void multiply_panels(const struct run *run, const char *panels, size_t n_rows)
{
    const size_t n_tiles = tiles_of(run->x), most = activations_are_one_block(run->x) ? n_tiles : CHUNK_TILES;
    struct chunk chunk = {.panels = panels, .n_rows = n_rows};
    for (; chunk.tile < n_tiles; chunk.tile += chunk.n_tiles) {
        chunk.n_tiles = panel_least(most, n_tiles - chunk.tile);
        for (size_t panel = 0; panel * PANEL_ROWS < n_rows; panel++)
            run_chunk(run, &chunk, panel);
    }
}

static void multiply_bf16(float *out, size_t out_stride, const void *w, size_t n_rows, const struct activations *x, size_t first, size_t n_tokens)
{
    _Alignas(64) float carry[TOGETHER][MOST_CARRIED * PANEL_ROWS];
    const size_t blocks_each = panel_blocks_each(first, first + n_tokens, x->width, MOST_CARRIED);
    struct run run = {.x = x, .carry = carry, .out_stride = out_stride};
    for (size_t row = 0; row < n_rows; row += TOGETHER * PANEL_ROWS)
        for (run.first = first; run.first < first + n_tokens; run.first = run.end) {
            run.end = panel_least((run.first / x->width + blocks_each) * x->width, first + n_tokens);
            run.out = out + (run.first - first) * out_stride + row;
            multiply_panels(&run, (const char *)w + packed_at(WEIGHT_BF16, row, x->n_in), panel_least(TOGETHER * PANEL_ROWS, n_rows - row));
        }
    tiles_end();
}

void kernels_use_avx512amxbf16(struct kernels *table)
{
    table->sums_pairs_apart = true;
    table->multiply_packed[WEIGHT_BF16] = multiply_bf16;
    table->prepare[WEIGHT_BF16] = prepare_tiles;
    table->tokens_at_once[WEIGHT_BF16] = table->tokens_per_block[WEIGHT_BF16] = TILE_TOKENS;
}
