/*
 * panel_elements.h - tiles of f32, f16 and bf16, see panels.h. A step is one input; of bf16 a pair of them.
 */
#if defined(PANELS_WIDENED_PAIRS)
enum { PAIR_UNITS = 2 }; /* of prepared activations */
#else
enum { PAIR_UNITS = 1 };
#endif

KERNELS_ALWAYS_INLINE size_t panel_step_units(enum weight_type type)
{
    return type == WEIGHT_BF16 ? PAIR_UNITS : 1;
}

/* acc += weights * the float at x of each token. */
KERNELS_ALWAYS_INLINE void panel_add_products(size_t n_vectors, size_t n_tokens, vec acc[MOST_WIDE][MOST_TOKENS], const vec weights[MOST_WIDE],
                                              const char *x)
{
#pragma GCC unroll 8
    for (size_t t = 0; t < n_tokens; t++) {
        float value;
        memcpy(&value, x + t * 4, sizeof value);
        vec factor = v_set(value);
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            acc[v][t] = v_fma(weights[v], factor, acc[v][t]);
    }
}

/* One step of a tile. */
KERNELS_ALWAYS_INLINE void panel_step(enum weight_type type, size_t n_vectors, size_t n_tokens, vec acc[MOST_WIDE][MOST_TOKENS], const char *w,
                                      const char *x, size_t x_row)
{
#if defined(PANELS_PAIRS)
    if (type == WEIGHT_BF16) {
        bits pairs[MOST_WIDE];
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            pairs[v] = b_load(w + v * 64);
#pragma GCC unroll 8
        for (size_t t = 0; t < n_tokens; t++) {
            bits pair = b_repeat(x + t * 4);
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
        panel_add_products(n_vectors, n_tokens, acc, half, x);
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            half[v] = v_load_first(w + v * 64);
        panel_add_products(n_vectors, n_tokens, acc, half, x + x_row);
        return;
    }
#endif
#if defined(PANELS_ELEMENTS)
    vec weights[MOST_WIDE];
#pragma GCC unroll 4
    for (size_t v = 0; v < n_vectors; v++)
        weights[v] = v_load_weights(type, w + v * panel_vector_bytes(type));
    panel_add_products(n_vectors, n_tokens, acc, weights, x);
#endif
    (void)x_row;
}

/* What a tile of elements fetches meanwhile: lines of weights, at the beginning of each UNROLL steps and with each of them, and the next block. */
struct panel_fetching {
    const char *next, *end;
    size_t lines_per_step, lines_besides;
    bool is_once;
    size_t x_ahead; /* bytes to the next block's activations; 0: none */
};

/* All steps of a tile. They are made by fours: what is not arithmetic takes places where arithmetic could begin. */
KERNELS_ALWAYS_INLINE void panel_add_steps(enum weight_type type, size_t n_vectors, size_t n_tokens, vec acc[MOST_WIDE][MOST_TOKENS],
                                           const struct panel_pass *pass, const char *w, const char *x, struct panel_fetching fetching)
{
    /* A tile of several vectors is of a whole panel, and how long its steps are is known. */
    const size_t step_bytes = n_vectors > 1 ? panel_step_bytes(type, MOST_WIDE) : pass->step_bytes;
    const size_t x_row = pass->width * 4, x_step = panel_step_units(type) * x_row;
    const size_t x_lines = (UNROLL * panel_step_units(type) * n_tokens * 4 + 63) / 64;
    const char *next = fetching.next;
    size_t left = pass->n_steps;

    for (; left >= UNROLL; left -= UNROLL) {
        const bool is_fetching = next < fetching.end;
        if (fetching.x_ahead > 0)
            panel_fetch(x + fetching.x_ahead, x_lines, false);
        if (is_fetching)
            next = panel_fetch(next, fetching.lines_besides, fetching.is_once);
#pragma GCC unroll 4
        for (size_t i = 0; i < UNROLL; i++) {
            if (is_fetching)
                next = panel_fetch(next, fetching.lines_per_step, fetching.is_once);
            panel_step(type, n_vectors, n_tokens, acc, w, x, x_row);
            w = panel_next_row(w, step_bytes);
            x = panel_next_row(x, x_step);
        }
    }
    for (; left > 0; left--, w += step_bytes, x += x_step)
        panel_step(type, n_vectors, n_tokens, acc, w, x, x_row);
}

KERNELS_ALWAYS_INLINE void panel_add_elements(enum weight_type type, size_t n_vectors, size_t n_tokens, const struct panel_pass *pass)
{
    const size_t n_panel_vectors = n_vectors > 1 ? MOST_WIDE : pass->n_vectors, n_quads = pass->n_steps / UNROLL + 1;
    const size_t n_lines = (pass->next_lines + n_quads - 1) / n_quads;
    const char *x = pass->x + pass->first * 4;
    struct panel_fetching fetching = {pass->next, pass->next, n_lines / UNROLL, n_lines % UNROLL, pass->is_once, 0};
    struct panel_sums from = pass->from, to = pass->to;

    for (size_t block = 0; block < pass->n_blocks; block++, x += pass->block_bytes) {
        fetching.next = fetching.end;
        fetching.end += panel_least(pass->next_lines * 64, (size_t)(pass->next_end - fetching.end));
        fetching.x_ahead = block + 1 < pass->n_blocks ? pass->block_bytes : 0;
        for (size_t v = 0; v < n_panel_vectors; v += n_vectors) {
            vec acc[MOST_WIDE][MOST_TOKENS];
            panel_load_tile(&from, v, n_vectors, n_tokens, acc);
            panel_add_steps(type, n_vectors, n_tokens, acc, pass, pass->w + v * panel_vector_bytes(type), x, fetching);
            panel_store_tile(&to, v, n_vectors, n_tokens, acc);
            fetching.next = fetching.end; /* by the first of a block's tiles */
            fetching.x_ahead = 0;
        }
        panel_skip_tokens(&from, n_tokens);
        panel_skip_tokens(&to, n_tokens);
    }
}

static const unsigned char wide_elements[] = WIDE_ELEMENTS;
#define ELEMENT_PANEL_TILES(TYPE, suffix, inputs)                                                                                      \
    static panel_function *const panel_passes_##suffix[][2] = ELEMENT_TILE_TABLE(panel_##suffix);                              \
    static const struct panel_tiles panel_tiles_##suffix = {.type = TYPE,                                                              \
                                                            .step_inputs = inputs,                                                     \
                                                            .step_units = inputs == 1 ? 1 : PAIR_UNITS,                                \
                                                            .most_tokens = sizeof wide_elements,                                       \
                                                            .wide = wide_elements,                                                     \
                                                            .passes = panel_passes_##suffix};

#if defined(PANELS_ELEMENTS)
static void panel_unpack_f16(char *to, const char *from, size_t n_vectors, size_t n_steps)
{
    for (size_t i = 0; i < n_steps * n_vectors; i++, to += 64, from += 32)
        v_store((float *)(void *)to, v_load_weights(WEIGHT_F16, from));
}

#define F32_TILE(vectors, tokens) PANEL_TILE(panel_add_elements, WEIGHT_F32, f32, vectors, tokens)
#define F16_TILE(vectors, tokens) PANEL_TILE(panel_add_elements, WEIGHT_F16, f16, vectors, tokens)
ELEMENT_TILES(F32_TILE)
ELEMENT_TILES(F16_TILE)
ELEMENT_PANEL_TILES(WEIGHT_F32, f32, 1)
ELEMENT_PANEL_TILES(WEIGHT_F16, f16, 1)
PANEL_ROW(f32, .few = &panel_tiles_f32)
PANEL_ROW(f16, .few = &panel_tiles_f16, .many = &panel_tiles_f32, .unpack = panel_unpack_f16, .least_unpacked = LEAST_UNPACKED, .unpacked_bytes = UNPACKED_BYTES)
#endif

#define BF16_TILE(vectors, tokens) PANEL_TILE(panel_add_elements, WEIGHT_BF16, bf16, vectors, tokens)
ELEMENT_TILES(BF16_TILE)
ELEMENT_PANEL_TILES(WEIGHT_BF16, bf16, 2)

#if defined(PANELS_PAIRS)
PANEL_ROW(bf16, .few = &panel_tiles_bf16)
#else
/* The second of a pair first, as sums take them. */
static void panel_unpack_pairs(char *to, const char *from, size_t n_vectors, size_t n_steps)
{
    for (size_t i = 0; i < n_steps; i++, to += 2 * n_vectors * 64)
        for (size_t v = 0; v < n_vectors; v++, from += 64) {
            v_store((float *)(void *)(to + v * 64), v_load_second(from));
            v_store((float *)(void *)(to + (n_vectors + v) * 64), v_load_first(from));
        }
}

PANEL_ROW(bf16, .few = &panel_tiles_bf16, .many = &panel_tiles_f32, .unpack = panel_unpack_pairs, .least_unpacked = LEAST_UNPACKED, .unpacked_bytes = UNPACKED_BYTES)
#endif
