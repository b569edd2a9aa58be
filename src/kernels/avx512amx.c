/*
 * avx512amx.c - AMX for q8 and q4 with many tokens: one instruction adds the products of up to 16 tokens, 16 outputs and a group of 32 inputs to a
 * tile of integers. Integers are exact, and what is done with them is that of panel_groups.h: so are the bits.
 *
 * The sums of each group have to be scaled, and the way from a tile to a vector is through memory. What the processor then waits for:
 *  - a tile that is stored too soon after its products (some 50 cycles) fills the queue of stores, and nothing else gets in: so groups are
 *    multiplied three ahead, from one vector of outputs and one block of tokens to the next without a break;
 *  - setting a tile to zero takes longer than loading what sums begin with (PACK_SUM_START);
 *  - storing a tile takes the way in for 16 cycles: what is to run beside it must be few instructions, so these are written out.
 */
#include "kernels/sets.h"

#include "kernels/amx.h"
#include "kernels/avx512.h"
#include "kernels/polynomial.h"

#define PANELS_TILES
#include "kernels/panels.h"

enum {
    QUADS = PACK_GROUP / 4,
    TILE_BYTES = QUADS * 64, /* of weights */
    SCALE_BYTES = PANEL_LANES * sizeof(uint16_t),
    CHUNK_TILES_BYTES = 64 * 1024, /* of a panel, while all tokens pass: with a block of them they stay in L1 for the most part */
    PREPARED_INPUTS = 512 /* at a time, of a block's tokens */
};

/* ---- tiles: registers whose shapes are set once a call; 0 to 3 hold sums, 4 and 5 tokens, 6 and 7 weights ---- */

static void tiles_begin(size_t n_tokens)
{
    struct tile_shapes shapes = {.palette = 1};
    for (size_t i = 0; i < N_TILES; i++) {
        shapes.n_rows[i] = (uint8_t)(i < 6 ? n_tokens : QUADS);
        shapes.row_bytes[i] = i == 4 || i == 5 ? PACK_GROUP : 64;
    }
    tiles_set(&shapes);
}

/* A tile's sums on their way to vectors, and what they begin with. */
struct tile_room {
    _Alignas(64) int32_t sums[TILE_TOKENS][PANEL_LANES], start[TILE_TOKENS][PANEL_LANES];
};
_Static_assert(offsetof(struct tile_room, start) == 1024, "as TILE_MULTIPLY has it");

/* The products of a group, into tile `sums`. */
#define TILE_MULTIPLY(x, w, sums, tokens, weights)                                                                                   \
    __asm__ volatile("tileloadd 1024(%[room],%[line],1), %%tmm" #sums "\n\t"                                                         \
                     "tileloadd (%[from_x],%[group],1), %%tmm" #tokens "\n\t"                                                        \
                     "tileloadd (%[from_w],%[line],1), %%tmm" #weights "\n\t"                                                        \
                     "tdpbssd %%tmm" #weights ", %%tmm" #tokens ", %%tmm" #sums                                                      \
                     :                                                                                                               \
                     : [room] "r"(room), [line] "r"((size_t)64), [group] "r"((size_t)PACK_GROUP), [from_x] "r"(x), [from_w] "r"(w)   \
                     : "memory");

#define TILE_STORE(sums)                                                                                                             \
    __asm__ volatile("tilestored %%tmm" #sums ", (%[room],%[line],1)" : : [room] "r"(room), [line] "r"((size_t)64) : "memory");

/* As panel_add_scaled. */
#define TILE_SCALE_TOKEN(t)                                                                                                          \
    if (t < n_tokens)                                                                                                                \
        __asm__("vmovaps %[scale], %[p]\n\t"                                                                                         \
                "vfmadd132ps " #t "*64(%[room]), %[correction], %[p]\n\t"                                                            \
                "vfmadd231ps " #t "*4(%[x_scales])%{1to16%}, %[p], %[acc]"                                                           \
                : [acc] "+v"(acc[t]), [p] "=&v"(p)                                                                                   \
                : [scale] "v"(scale), [correction] "v"(correction), [room] "r"(room), [x_scales] "r"(x_scales), "m"(room->sums[t]));

/* acc += what was stored, times the scales of both; x: the group's activations. */
#define TILE_SCALE(x, w_scales)                                                                                                      \
    {                                                                                                                                \
        const char *x_scales = (x) + n_tokens * PACK_GROUP;                                                                          \
        vec scale = v_load_weights(WEIGHT_BF16, w_scales), correction = v_mul(scale, v_set(-PACK_SUM_START_VALUE)), p;               \
        TILE_SCALE_TOKEN(0) TILE_SCALE_TOKEN(1) TILE_SCALE_TOKEN(2) TILE_SCALE_TOKEN(3)                                              \
        TILE_SCALE_TOKEN(4) TILE_SCALE_TOKEN(5) TILE_SCALE_TOKEN(6) TILE_SCALE_TOKEN(7)                                              \
        TILE_SCALE_TOKEN(8) TILE_SCALE_TOKEN(9) TILE_SCALE_TOKEN(10) TILE_SCALE_TOKEN(11)                                            \
        TILE_SCALE_TOKEN(12) TILE_SCALE_TOKEN(13) TILE_SCALE_TOKEN(14) TILE_SCALE_TOKEN(15)                                          \
    }

/* Group i of four, whose products were made three steps before. */
#define TILE_STEP(i, x_ahead, w_ahead, sums_ahead, tokens, weights)                                                                  \
    TILE_MULTIPLY(x_ahead, w_ahead, sums_ahead, tokens, weights)                                                                     \
    TILE_STORE(i)                                                                                                                    \
    TILE_SCALE(x + i * x_step, w_scales + i * SCALE_BYTES)

/* ---- a block of tokens ---- */

/* Whether all of a vector's sums are asked for. */
KERNELS_ALWAYS_INLINE bool is_whole(size_t n_tokens, const struct panel_pass *pass, const struct panel_sums *sums, size_t v)
{
    return n_tokens == pass->n_tokens && sums->n_rows >= (v + 1) * PANEL_LANES;
}

static bool is_asked_for(const struct panel_pass *pass, size_t t)
{
    return t >= pass->first && t < pass->first + pass->n_tokens;
}

KERNELS_ALWAYS_INLINE void block_load(size_t n_tokens, vec acc[TILE_TOKENS], const struct panel_pass *pass, const struct panel_sums *from, size_t v)
{
#pragma GCC unroll 16
    for (size_t t = 0; t < n_tokens; t++)
        acc[t] = v_set(0.0f);
    if (!from->at)
        return;
    if (is_whole(n_tokens, pass, from, v))
#pragma GCC unroll 16
        for (size_t t = 0; t < n_tokens; t++)
            acc[t] = v_load(panel_sums_of(from, v, t));
    else
#pragma GCC unroll 16
        for (size_t t = 0; t < n_tokens; t++)
            if (is_asked_for(pass, t))
                acc[t] = panel_load_sums(from, v, t - pass->first);
}

KERNELS_ALWAYS_INLINE void block_store(size_t n_tokens, const vec acc[TILE_TOKENS], const struct panel_pass *pass, const struct panel_sums *to, size_t v)
{
    if (is_whole(n_tokens, pass, to, v))
#pragma GCC unroll 16
        for (size_t t = 0; t < n_tokens; t++)
            v_store(panel_sums_of(to, v, t), acc[t]);
    else
#pragma GCC unroll 16
        for (size_t t = 0; t < n_tokens; t++) {
            if (is_asked_for(pass, t))
                panel_store_sums(to, v, t - pass->first, acc[t]);
        }
}

/* A block of tokens and the one behind it, with their sums and with what is fetched meanwhile. */
struct block {
    const char *x, *x_after;
    struct panel_sums from, to;
    const char *next, *next_end;
    size_t next_lines; /* with UNROLL groups */
};

/* All tokens of a block and all vectors of a panel; of tokens that are not asked for, nothing is kept. When it begins, tiles 0 to 2 hold the products
   of its first three groups; when it ends, those of the next block. */
KERNELS_ALWAYS_INLINE void block_multiply(size_t n_tokens, const struct panel_pass *pass, const struct block *block, struct tile_room *room)
{
    const size_t n_groups = pass->n_steps, n_rest = n_groups % UNROLL, n_vectors = pass->n_vectors;
    const size_t x_step = PACK_GROUP_UNITS * 4 * n_tokens;
    const char *w = pass->w, *w_scales = w + n_vectors * n_groups * TILE_BYTES, *next = block->next;
    vec acc[TILE_TOKENS];

    for (size_t v = 0; v < n_vectors; v++) {
        const bool is_last = v + 1 == n_vectors;
        const char *x = block->x;
        block_load(n_tokens, acc, pass, &block->from, v);
        for (size_t left = n_groups; left >= UNROLL; left -= UNROLL) {
            const char *x_next = x + UNROLL * x_step, *w_next = w + UNROLL * TILE_BYTES;
            if (left < 2 * UNROLL) {
                x_next = is_last ? block->x_after : block->x;
                w_next = is_last ? pass->w : w_next + n_rest * TILE_BYTES;
            }
            if (next < block->next_end)
                next = panel_fetch(next, block->next_lines, false);
            TILE_STEP(0, x + 3 * x_step, w + 3 * TILE_BYTES, 3, 5, 7)
            TILE_STEP(1, x_next, w_next, 0, 4, 6)
            TILE_STEP(2, x_next + x_step, w_next + TILE_BYTES, 1, 5, 7)
            TILE_STEP(3, x_next + 2 * x_step, w_next + 2 * TILE_BYTES, 2, 4, 6)
            x += UNROLL * x_step;
            w += UNROLL * TILE_BYTES;
            w_scales += UNROLL * SCALE_BYTES;
        }
        for (size_t i = 0; i < n_rest; i++, x += x_step, w += TILE_BYTES, w_scales += SCALE_BYTES) {
            TILE_MULTIPLY(x, w, 3, 5, 7)
            TILE_STORE(3)
            TILE_SCALE(x, w_scales)
        }
        block_store(n_tokens, acc, pass, &block->to, v);
    }
}

KERNELS_ALWAYS_INLINE void multiply_blocks(size_t n_tokens, const struct panel_pass *pass)
{
    const size_t x_step = PACK_GROUP_UNITS * 4 * n_tokens, n_calls = pass->n_vectors * (pass->n_steps / UNROLL) + 1;
    struct block block = {.x_after = pass->x, .from = pass->from, .to = pass->to, .next_end = pass->next,
                          .next_lines = (pass->next_lines + n_calls - 1) / n_calls};
    struct tile_room memory, *room = &memory;

    __asm__("" : "+r"(room)); /* one register for all */
    for (size_t t = 0; t < n_tokens; t++)
        _mm512_store_si512(room->start[t], _mm512_set1_epi32(PACK_SUM_START));
    if (pass->n_steps >= UNROLL) {
        TILE_MULTIPLY(pass->x, pass->w, 0, 4, 6)
        TILE_MULTIPLY(pass->x + x_step, pass->w + TILE_BYTES, 1, 5, 7)
        TILE_MULTIPLY(pass->x + 2 * x_step, pass->w + 2 * TILE_BYTES, 2, 4, 6)
    }
    for (size_t left = pass->n_blocks; left > 0; left--) {
        block.x = block.x_after;
        block.x_after += left > 1 ? pass->block_bytes : 0;
        block.next = block.next_end;
        block.next_end += panel_least(pass->next_lines * 64, (size_t)(pass->next_end - block.next));
        block_multiply(n_tokens, pass, &block, room);
        panel_skip_tokens(&block.from, pass->n_tokens);
        panel_skip_tokens(&block.to, pass->n_tokens);
    }
}

#define PASS(n)                                                                                                                      \
    static __attribute__((noinline)) void pass_##n(const struct panel_pass *pass)                                                    \
    {                                                                                                                                \
        multiply_blocks(n, pass);                                                                                                    \
    }
PASS(1) PASS(2) PASS(3) PASS(4) PASS(5) PASS(6) PASS(7) PASS(8) PASS(9) PASS(10) PASS(11) PASS(12) PASS(13) PASS(14) PASS(15) PASS(16)
static panel_function *const passes_of_width[TILE_TOKENS] = {pass_1, pass_2,  pass_3,  pass_4,  pass_5,  pass_6,  pass_7,  pass_8,
                                                             pass_9, pass_10, pass_11, pass_12, pass_13, pass_14, pass_15, pass_16};

/* A tile is of all tokens of a block, whichever of them are asked for. */
static void run_pass(const struct panel_pass *pass)
{
    passes_of_width[pass->width - 1](pass);
}

#define BOTH {run_pass, run_pass}
static panel_function *const passes[TILE_TOKENS][2] = {BOTH, BOTH, BOTH, BOTH, BOTH, BOTH, BOTH, BOTH, BOTH, BOTH, BOTH, BOTH, BOTH, BOTH, BOTH, BOTH};
static const unsigned char no_whole_panels[TILE_TOKENS] = {0};

/* ---- weights: for each vector of outputs a chunk's groups as signed bytes, behind all of these their scales ---- */

KERNELS_ALWAYS_INLINE void unpack_tile(enum weight_type type, char *to, const char *from, size_t load_bytes)
{
    const bits flip = _mm512_set1_epi8((char)0x80);
    const size_t n_loads = panel_n_loads(type);
    for (size_t j = 0; j < n_loads; j++) {
        bits loaded = b_load(from + j * load_bytes);
        if (type == WEIGHT_Q8) {
            _mm512_store_si512(to + j * 64, _mm512_xor_si512(loaded, flip));
        } else {
            _mm512_store_si512(to + j * 64, _mm512_xor_si512(b_low_codes(loaded), flip));
            _mm512_store_si512(to + (n_loads + j) * 64, _mm512_xor_si512(b_high_codes(loaded), flip));
        }
    }
}

KERNELS_ALWAYS_INLINE void unpack_groups(enum weight_type type, char *to, const char *from, size_t n_vectors, size_t n_groups)
{
    const size_t load_bytes = n_vectors * 64, step_bytes = panel_step_bytes(type, n_vectors), scales_at = panel_n_loads(type) * load_bytes;
    char *w_scales = to + n_vectors * n_groups * TILE_BYTES;
    for (size_t g = 0; g < n_groups; g++, from += step_bytes)
        for (size_t v = 0; v < n_vectors; v++) {
            unpack_tile(type, to + (v * n_groups + g) * TILE_BYTES, from + v * 64, load_bytes);
            memcpy(w_scales + (v * n_groups + g) * SCALE_BYTES, from + scales_at + v * SCALE_BYTES, SCALE_BYTES);
        }
}

static void unpack_q8(char *to, const char *from, size_t n_vectors, size_t n_groups)
{
    unpack_groups(WEIGHT_Q8, to, from, n_vectors, n_groups);
}

static void unpack_q4(char *to, const char *from, size_t n_vectors, size_t n_groups)
{
    unpack_groups(WEIGHT_Q4, to, from, n_vectors, n_groups);
}

/* ---- the rows ---- */

#define TILES(TYPE)                                                                                                                  \
    {                                                                                                                                \
        .type = TYPE, .step_inputs = PACK_GROUP, .step_units = PACK_GROUP_UNITS, .most_tokens = TILE_TOKENS, .wide = no_whole_panels,  \
        .passes = passes                                                                                                             \
    }
static const struct panel_tiles tiles_q8 = TILES(WEIGHT_Q8), tiles_q4 = TILES(WEIGHT_Q4);

/* The rows of the set before, for so few tokens that they are one block. Written once, when the tables are made. */
static __typeof__(((struct kernels *)0)->multiply_packed[0]) multiply_few_q8, multiply_few_q4;
static __typeof__(((struct kernels *)0)->prepare[0]) prepare_few;

#define MULTIPLY(TYPE, suffix)                                                                                                       \
    static void multiply_##suffix(float *out, size_t out_stride, const void *w, size_t n_rows, const struct activations *x, size_t first,  \
                                  size_t n_tokens)                                                                                   \
    {                                                                                                                                \
        struct panel_run run = {.plan = {.few = &tiles_##suffix, .many = &tiles_q8, .unpack = unpack_##suffix,                        \
                                         .unpacked_bytes = CHUNK_TILES_BYTES},                                                       \
                                .out = out, .out_stride = out_stride, .x = x, .first = first, .end = first + n_tokens};              \
        if (activations_are_one_block(x)) {                                                                                          \
            multiply_few_##suffix(out, out_stride, w, n_rows, x, first, n_tokens);                                                   \
            return;                                                                                                                  \
        }                                                                                                                            \
        tiles_begin(x->width);                                                                                                       \
        panels_multiply(&run, w, n_rows);                                                                                            \
        tiles_end();                                                                                                                 \
    }
MULTIPLY(WEIGHT_Q8, q8)
MULTIPLY(WEIGHT_Q4, q4)

/* Inputs [first, end) of a token. */
KERNELS_ALWAYS_INLINE void prepare_token(const struct activations *to, size_t t, const float *x, size_t first, size_t end)
{
    const size_t i = t % to->width, group_bytes = PACK_GROUP_UNITS * 4 * to->width;
    char *group = activations_at(to, t - i) + first / PACK_GROUP * group_bytes;
    for (size_t k = first; k < end; k += PACK_GROUP, group += group_bytes) {
        int32_t sum; /* of no use here */
        float scale = prepare_bytes(group + i * PACK_GROUP, x + k, panel_least(PACK_GROUP, end - k), &sum);
        memcpy(group + to->width * PACK_GROUP + i * 4, &scale, sizeof scale);
    }
}

/* By token, see pack.h; what neighbouring tokens write stays in L1 meanwhile. */
static void prepare_tiles(const struct activations *to, const struct activations_part *part, const float *x, size_t x_stride)
{
    if (activations_are_one_block(to)) {
        prepare_few(to, part, x, x_stride);
        return;
    }
    for (size_t token = part->first_token, end_token; token < part->end_token; token = end_token) {
        end_token = panel_least(token - token % to->width + to->width, part->end_token);
        for (size_t first = part->first, end; first < part->end; first = end) {
            end = panel_least(first + PREPARED_INPUTS, part->end);
            for (size_t t = token; t < end_token; t++)
                prepare_token(to, t, x + t * x_stride, first, end);
        }
    }
}

void kernels_use_avx512amx(struct kernels *table)
{
    multiply_few_q8 = table->multiply_packed[WEIGHT_Q8];
    multiply_few_q4 = table->multiply_packed[WEIGHT_Q4];
    prepare_few = table->prepare[WEIGHT_Q8];
    table->multiply_packed[WEIGHT_Q8] = multiply_q8;
    table->multiply_packed[WEIGHT_Q4] = multiply_q4;
    table->prepare[WEIGHT_Q8] = table->prepare[WEIGHT_Q4] = prepare_tiles;
    table->tokens_per_block[WEIGHT_Q8] = table->tokens_per_block[WEIGHT_Q4] = TILE_TOKENS;
}
