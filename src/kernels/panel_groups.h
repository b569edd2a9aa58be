/*
 * panel_groups.h - tiles of q8 and q4, see panels.h. A step is a group.
 */
KERNELS_ALWAYS_INLINE vec panel_repeat_float(const char *x)
{
    float value;
    memcpy(&value, x, sizeof value);
    return v_set(value);
}

/* acc + the sum, which began with PACK_SUM_START, times both scales. */
KERNELS_ALWAYS_INLINE vec panel_add_scaled(vec acc, bits sum, vec w_scale, vec w_correction, vec x_scale)
{
    return v_fma(v_fma(b_as_floats(sum), w_scale, w_correction), x_scale, acc);
}

KERNELS_ALWAYS_INLINE vec panel_correction(vec w_scale)
{
    return v_mul(w_scale, v_set(-PACK_SUM_START_VALUE));
}

#if !defined(b_add_repeated)
static inline bits b_add_repeated(bits acc, bits w, const char *quad)
{
    return b_add_quads(acc, w, b_repeat(quad));
}
#endif

/* A quad of inputs, of n_vectors side by side. */
KERNELS_ALWAYS_INLINE void panel_add_quads(size_t n_vectors, size_t n_tokens, bits sums[MOST_WIDE][MOST_WHOLE], const bits weights[MOST_WIDE],
                                           const char *x)
{
#pragma GCC unroll 16
    for (size_t t = 0; t < n_tokens; t++) {
        if (n_vectors == 1) {
            sums[0][t] = b_add_repeated(sums[0][t], weights[0], x + t * 4);
            continue;
        }
        const bits quad = b_repeat(x + t * 4);
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            sums[v][t] = b_add_quads(sums[v][t], weights[v], quad);
    }
}

/* A group of q8. */
KERNELS_ALWAYS_INLINE void panel_add_group(size_t n_vectors, size_t n_tokens, vec acc[MOST_WIDE][MOST_TOKENS], const char *w, size_t load_bytes,
                                           const char *w_scales, const char *x, size_t x_row)
{
    bits sums[MOST_WIDE][MOST_WHOLE];
    const char *start = x + (PACK_GROUP_UNITS - 1) * x_row;
#pragma GCC unroll 8
    for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            sums[v][t] = b_start(b_repeat(start + t * 4));
#pragma GCC unroll 8
    for (size_t j = 0; j < PACK_GROUP / 4; j++) {
        bits weights[MOST_WIDE];
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            weights[v] = b_load(w + j * load_bytes + v * 64);
        panel_add_quads(n_vectors, n_tokens, sums, weights, x);
        x = panel_next_row(x, x_row);
    }
    vec scale[MOST_WIDE], correction[MOST_WIDE];
#pragma GCC unroll 4
    for (size_t v = 0; v < n_vectors; v++) {
        scale[v] = v_load_weights(WEIGHT_BF16, w_scales + v * 32);
        correction[v] = panel_correction(scale[v]);
    }
#pragma GCC unroll 8
    for (size_t t = 0; t < n_tokens; t++) {
        vec factor = panel_repeat_float(x + t * 4);
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            acc[v][t] = panel_add_scaled(acc[v][t], sums[v][t], scale[v], correction[v], factor);
    }
}

/* Of q8, in tiles. */
KERNELS_ALWAYS_INLINE void panel_add_groups(enum weight_type type, size_t n_vectors, size_t n_tokens, const struct panel_pass *pass)
{
    /* A tile of several vectors is of a whole panel, and where its weights lie is known. */
    const size_t n_panel_vectors = n_vectors > 1 ? MOST_WIDE : pass->n_vectors, step_bytes = panel_step_bytes(type, n_panel_vectors);
    const size_t load_bytes = n_panel_vectors * 64; /* all vectors of the panel side by side, load after load, then their scales */
    const size_t scales_at = panel_n_loads(type) * load_bytes, x_row = pass->width * 4;
    const size_t n_lines = (pass->next_lines + pass->n_steps - 1) / pass->n_steps;
    const char *next = pass->next, *next_end = next, *block = pass->x + pass->first * 4;
    struct panel_sums from = pass->from, to = pass->to;

    for (size_t i = 0; i < pass->n_blocks; i++, block += pass->block_bytes) {
        next = next_end;
        next_end += panel_least(pass->next_lines * 64, (size_t)(pass->next_end - next_end));
        for (size_t v = 0; v < n_panel_vectors; v += n_vectors) {
            const char *w = pass->w + v * 64, *w_scales = pass->w + scales_at + v * 32, *x = block;
            vec acc[MOST_WIDE][MOST_TOKENS];
            panel_load_tile(&from, v, n_vectors, n_tokens, acc);
            for (size_t g = 0; g < pass->n_steps; g++) {
                if (next < next_end)
                    next = panel_fetch(next, n_lines, false);
                panel_add_group(n_vectors, n_tokens, acc, w, load_bytes, w_scales, x, x_row);
                w += step_bytes;
                w_scales += step_bytes;
                x += PACK_GROUP_UNITS * x_row;
            }
            panel_store_tile(&to, v, n_vectors, n_tokens, acc);
            next = next_end; /* by the first of a block's tiles */
        }
        panel_skip_tokens(&from, n_tokens);
        panel_skip_tokens(&to, n_tokens);
    }
}

/* Groups of q4 as those of q8. */
static void panel_unpack_q4(char *to, const char *from, size_t n_vectors, size_t n_steps)
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

/* Where weights pass once: into L1 soon enough, and into L2 so early that memory works while several tokens are multiplied, unless the hardware does it.
   The compiler is to leave each line where it is: it would fetch them all at once. Where sums wait in memory, the end of a block keeps it from moving
   anything else either, and so GCC from running out of registers (up to a tenth of the time; Clang does not unroll a loop with such an instruction). */
KERNELS_ALWAYS_INLINE const char *panel_fetch_groups(enum weight_type type, size_t n_tokens, const char *next, size_t n_lines)
{
    const size_t near = WHOLE_STEPS(type, n_tokens) > 1 ? NEAR_AHEAD_OF_STEPS : NEAR_AHEAD;
#pragma GCC unroll 4
    for (size_t i = 0; i < n_lines; i++) {
        if (!IS_FOLLOWED(type, n_tokens)) {
            __builtin_prefetch(next + near, 0, 3);
            __builtin_prefetch(next + FAR_AHEAD, 0, 2);
        }
        next += 64;
        __asm__ volatile("" : "+r"(next));
#if !defined(__clang__)
        if (WHOLE_STEPS(type, n_tokens) == 1)
            __asm__ goto("" : : "r"(next) : : end_of_block);
    end_of_block:;
#endif
    }
    return next;
}

/* Where some groups of some vectors are: weights, scales, activations; and the stream of which they fetch as many bytes. */
struct panel_place {
    const char *w, *w_scales, *x, *next;
};

/* One group, for all tokens. */
KERNELS_ALWAYS_INLINE void panel_add_vectors(enum weight_type type, size_t n_vectors, size_t n_tokens, vec acc[MOST_WIDE][MOST_WHOLE],
                                             const struct panel_place *at, size_t load_bytes, size_t x_row)
{
    const size_t n_loads = panel_n_loads(type);
    const char *w = at->w, *x = at->x, *next = at->next;
    const char *start = x + (PACK_GROUP_UNITS - 1) * x_row, *high = x + PACK_GROUP / 8 * x_row;
    bits sums[MOST_WIDE][MOST_WHOLE];
#pragma GCC unroll 16
    for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            sums[v][t] = b_start(b_repeat(start + t * 4));
#pragma GCC unroll 8
    for (size_t j = 0; j < n_loads; j++) {
        bits loaded[MOST_WIDE], weights[MOST_WIDE];
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++) {
            loaded[v] = b_load(w + v * 64);
            weights[v] = type == WEIGHT_Q8 ? loaded[v] : b_low_codes(loaded[v]);
        }
        next = panel_fetch_groups(type, n_tokens, next, n_vectors);
        panel_add_quads(n_vectors, n_tokens, sums, weights, x);
        x = panel_next_row(x, x_row);
        if (type == WEIGHT_Q4) {
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                weights[v] = b_high_codes(loaded[v]);
            panel_add_quads(n_vectors, n_tokens, sums, weights, high);
            high = panel_next_row(high, x_row);
        }
        w = panel_next_row(w, load_bytes);
    }
    const char *x_scales = type == WEIGHT_Q8 ? x : high;
    vec scale[MOST_WIDE], correction[MOST_WIDE];
#pragma GCC unroll 4
    for (size_t v = 0; v < n_vectors; v++) {
        scale[v] = v_load_weights(WEIGHT_BF16, at->w_scales + v * 32);
        correction[v] = panel_correction(scale[v]);
    }
#pragma GCC unroll 16
    for (size_t t = 0; t < n_tokens; t++) {
        const vec factor = panel_repeat_float(x_scales + t * 4);
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            acc[v][t] = panel_add_scaled(acc[v][t], sums[v][t], scale[v], correction[v], factor);
    }
}

/* Some groups, at most WHOLE_STEPS; if that is several, the sums of floats are in registers meanwhile, as far as there are enough. */
KERNELS_ALWAYS_INLINE void panel_add_stretch(enum weight_type type, size_t n_vectors, size_t n_tokens, vec sums[MOST_WIDE][MOST_WHOLE],
                                             const struct panel_pass *pass, struct panel_place at, size_t n_groups)
{
    const size_t load_bytes = pass->n_vectors * 64, x_row = pass->width * 4;
    vec acc[MOST_WIDE][MOST_WHOLE];
    if (WHOLE_STEPS(type, n_tokens) == 1) {
        panel_add_vectors(type, n_vectors, n_tokens, sums, &at, load_bytes, x_row);
        return;
    }
#pragma GCC unroll 16
    for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            acc[v][t] = sums[v][t];
    for (size_t g = 0; g < n_groups; g++) {
        panel_add_vectors(type, n_vectors, n_tokens, acc, &at, load_bytes, x_row);
        at.w += pass->step_bytes;
        at.w_scales += pass->step_bytes;
        at.x += PACK_GROUP_UNITS * x_row;
        at.next += panel_n_loads(type) * n_vectors * 64;
    }
#pragma GCC unroll 16
    for (size_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            sums[v][t] = acc[v][t];
}

/* All vectors of a panel, some after the others in each stretch of groups: weights pass once and are unpacked once for more tokens than a tile of
   several vectors has registers for. The sums of floats wait in L1. */
KERNELS_ALWAYS_INLINE void panel_add_whole_groups(enum weight_type type, size_t n_tokens, const struct panel_pass *pass)
{
    const size_t n_vectors = pass->n_vectors, n_loads = panel_n_loads(type);
    const size_t n_together = WHOLE_VECTORS(type, n_tokens), most = WHOLE_STEPS(type, n_tokens);
    const char *w = pass->w, *x = pass->x + pass->first * 4;
    vec sums[MOST_WIDE][MOST_WHOLE];

    for (size_t v = 0; v < n_vectors; v++)
        for (size_t t = 0; t < n_tokens; t++)
            sums[v][t] = v_set(0.0f);
    for (size_t g = 0, n; g < pass->n_steps; g += n) {
        n = panel_least(most, pass->n_steps - g);
        struct panel_place at = {.w = w, .w_scales = w + n_loads * n_vectors * 64, .x = x, .next = w};
        for (size_t v = 0, n_now; v < n_vectors; v += n_now) {
            n_now = v + n_together <= n_vectors ? n_together : 1;
            at.next = panel_fetch_groups(type, n_tokens, at.next, (n * n_now * PANEL_LANES * sizeof(uint16_t) + 63) / 64); /* where the scales are */
            if (n_now == n_together)
                panel_add_stretch(type, n_together, n_tokens, sums + v, pass, at, n);
            else
                panel_add_stretch(type, 1, n_tokens, sums + v, pass, at, n);
            at.w += n_now * 64;
            at.w_scales += n_now * PANEL_LANES * sizeof(uint16_t);
            at.next += n * n_now * n_loads * 64;
        }
        w += n * pass->step_bytes;
        x += n * PACK_GROUP_UNITS * pass->width * 4;
    }
    for (size_t v = 0; v < n_vectors; v++)
        for (size_t t = 0; t < n_tokens; t++)
            panel_store_sums(&pass->to, v, t, sums[v][t]);
}

static const unsigned char wide_groups[] = WIDE_GROUPS;
#define GROUP_TILE(vectors, tokens) PANEL_TILE(panel_add_groups, WEIGHT_Q8, groups, vectors, tokens)
GROUP_TILES(GROUP_TILE)
static panel_function *const panel_passes_groups[][2] = GROUP_TILE_TABLE(panel_groups);
#define GROUP_PANEL_TILES(TYPE)                                                                                                      \
    {                                                                                                                                \
        .type = TYPE, .step_inputs = PACK_GROUP, .step_units = PACK_GROUP_UNITS, .most_tokens = sizeof wide_groups, .wide = wide_groups,  \
        .passes = panel_passes_groups                                                                                              \
    }
static const struct panel_tiles panel_tiles_q8 = GROUP_PANEL_TILES(WEIGHT_Q8);
static const struct panel_tiles panel_tiles_q4 = GROUP_PANEL_TILES(WEIGHT_Q4); /* for its measures: its tiles are the whole ones */

#define PANEL_WHOLE(TYPE, suffix, tokens)                                                                                            \
    static __attribute__((noinline)) void panel_whole_##suffix##_##tokens(const struct panel_pass *pass)                             \
    {                                                                                                                                \
        panel_add_whole_groups(TYPE, tokens, pass);                                                                                  \
    }
#define Q8_WHOLE(tokens) PANEL_WHOLE(WEIGHT_Q8, q8, tokens)
#define Q4_WHOLE(tokens) PANEL_WHOLE(WEIGHT_Q4, q4, tokens)
WHOLE_GROUPS(Q8_WHOLE, )
WHOLE_GROUPS(Q4_WHOLE, )
#define WHOLE_Q8_NAME(tokens) panel_whole_q8_##tokens
#define WHOLE_Q4_NAME(tokens) panel_whole_q4_##tokens
#define COMMA ,
static panel_function *const panel_wholes_q8[] = {WHOLE_GROUPS(WHOLE_Q8_NAME, COMMA)};
static panel_function *const panel_wholes_q4[] = {WHOLE_GROUPS(WHOLE_Q4_NAME, COMMA)};
enum { N_WHOLE_GROUPS = sizeof panel_wholes_q8 / sizeof *panel_wholes_q8 };
PANEL_ROW(q8, .few = &panel_tiles_q8, .whole = panel_wholes_q8)
PANEL_ROW(q4, .few = &panel_tiles_q4, .whole = panel_wholes_q4, .many = &panel_tiles_q8, .unpack = panel_unpack_q4, .unpacked_bytes = UNPACKED_BYTES)
