/*
 * prepare.h - activations made ready for products with packed weights, see pack.h and panels.h: some inputs of a block's tokens at a time are
 * converted row by row, then stored column by column.
 */

/* Words of n_tokens rows, `from_stride` words apart, as columns that are `width` words apart. */
KERNELS_ALWAYS_INLINE void prepare_columns(char *to, size_t width, const void *from, size_t from_stride, size_t n_tokens, size_t n_words)
{
    const char *rows = from;
    if (width == 1) {
        memcpy(to, rows, n_words * 4);
        return;
    }
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < n_words; i++)
            memcpy(to + (i * width + t) * 4, rows + (t * from_stride + i) * 4, 4);
}

/* Tokens from `token` on that are of its block and of the part. */
KERNELS_ALWAYS_INLINE size_t prepare_n_tokens(const struct activations *to, const struct activations_part *part, size_t token)
{
    return panel_least(to->width - token % to->width, part->end_token - token);
}

#if defined(PANELS_PREPARES)
static void prepare_elements(const struct activations *to, const struct activations_part *part, const float *x, size_t x_stride)
{
    for (size_t t = part->first_token, n; t < part->end_token; t += n) {
        n = prepare_n_tokens(to, part, t);
        prepare_columns(activations_at(to, t) + part->first * to->width * 4, to->width, x + t * x_stride + part->first, x_stride, n,
                        part->end - part->first);
    }
}
#endif

#if defined(PANELS_PREPARES) || defined(PANELS_PAIRS)
/* PANEL_LANES inputs of a token, as bf16 or widened, the second of a pair first then. */
KERNELS_ALWAYS_INLINE void prepare_row_of_pairs(uint32_t *to, const float *x, size_t n)
{
    _Alignas(64) uint16_t rounded[PANEL_LANES] = {0};
    v_store_narrow(WEIGHT_BF16, rounded, n == PANEL_LANES ? v_load(x) : v_load_some(x, n));
#if defined(PANELS_PAIRS)
    memcpy(to, rounded, sizeof rounded);
#else
    for (size_t i = 0; i < PANEL_LANES; i++)
        to[i] = (uint32_t)rounded[i ^ 1] << 16;
#endif
}

static void prepare_pairs(const struct activations *to, const struct activations_part *part, const float *x, size_t x_stride)
{
    _Alignas(64) uint32_t rows[ACTIVATIONS_MOST_WIDTH][PANEL_LANES];
    for (size_t t = part->first_token, n_tokens; t < part->end_token; t += n_tokens) {
        n_tokens = prepare_n_tokens(to, part, t);
        for (size_t k = part->first; k < part->end; k += PANEL_LANES) {
            size_t n = panel_least(PANEL_LANES, part->end - k), unit = k / 2 * PAIR_UNITS;
            for (size_t i = 0; i < n_tokens; i++)
                prepare_row_of_pairs(rows[i], x + (t + i) * x_stride + k, n);
            prepare_columns(activations_at(to, t) + unit * to->width * 4, to->width, rows, PANEL_LANES, n_tokens, (n + 1) / 2 * PAIR_UNITS);
        }
    }
}
#endif

#if defined(PANELS_PREPARES) || defined(PANELS_TILES)
/* -127 for a NaN. */
KERNELS_ALWAYS_INLINE vec prepare_rounded(vec x, vec inverse)
{
    vec clamped = v_min(v_max(v_mul(x, inverse), v_set(-127.0f)), v_set(127.0f));
    return v_add(clamped, v_set(ROUND_TO_INTEGER));
}

/* A token's group, of which n inputs exist, as bytes; returns their scale. */
KERNELS_ALWAYS_INLINE float prepare_bytes(char to[PACK_GROUP], const float *x, size_t n, int32_t *sum)
{
    size_t low = panel_least(n, PANEL_LANES), high = n - low;
    vec a = low == PANEL_LANES ? v_load(x) : v_load_some(x, low), b = v_set(0.0f);
    if (high > 0)
        b = high == PANEL_LANES ? v_load(x + PANEL_LANES) : v_load_some(x + PANEL_LANES, high);
    float most = v_join_max(v_max(v_max(v_set(0.0f), v_abs(a)), v_abs(b)));
    vec inverse = v_set(most > 0.0f ? 127.0f / most : 0.0f);
    v_prepare_bytes(to, prepare_rounded(a, inverse), prepare_rounded(b, inverse), sum);
    return most / 127.0f;
}
#endif

#if defined(PANELS_PREPARES)
KERNELS_ALWAYS_INLINE void prepare_row_of_group(char to[PACK_GROUP_UNITS * 4], const float *x, size_t n)
{
    int32_t sum, start;
    float scale = prepare_bytes(to, x, n, &sum);
    start = PACK_SUM_START - 128 * sum;
    memcpy(to + PACK_GROUP, &scale, 4);
    memcpy(to + PACK_GROUP + 4, &start, 4);
}

static void prepare_groups(const struct activations *to, const struct activations_part *part, const float *x, size_t x_stride)
{
    _Alignas(64) char rows[ACTIVATIONS_MOST_WIDTH][PACK_GROUP_UNITS * 4];
    for (size_t t = part->first_token, n_tokens; t < part->end_token; t += n_tokens) {
        n_tokens = prepare_n_tokens(to, part, t);
        for (size_t k = part->first; k < part->end; k += PACK_GROUP) {
            for (size_t i = 0; i < n_tokens; i++)
                prepare_row_of_group(rows[i], x + (t + i) * x_stride + k, panel_least(PACK_GROUP, part->end - k));
            prepare_columns(activations_at(to, t) + k / PACK_GROUP * PACK_GROUP_UNITS * to->width * 4, to->width, rows, PACK_GROUP_UNITS, n_tokens,
                            PACK_GROUP_UNITS);
        }
    }
}
#endif
