/*
 * merge.h - W + s BA where W lies packed: a lane is an output, as everywhere in panels, so nothing is transposed.
 *
 * Eight inputs at a time: as many sums per vector of outputs as hide the way through a multiplication, and B is read once for all of them.
 */
#include "kernels/pack.h"

enum { MERGE_INPUTS = 8 };

/* sums[i] = B's row of each output times A's column k + i. */
KERNELS_ALWAYS_INLINE void merge_products(vec sums[MERGE_INPUTS], size_t n, const float *b, const float *a, size_t rank)
{
#pragma GCC unroll 8
    for (size_t i = 0; i < n; i++)
        sums[i] = v_set(0.0f);
    for (size_t j = 0; j < rank; j++) {
        vec column = v_load(b + j * PANEL_LANES);
#pragma GCC unroll 8
        for (size_t i = 0; i < n; i++)
            sums[i] = v_fma(column, v_set(a[i * rank + j]), sums[i]);
    }
}

struct merge_run {
    enum weight_type type;
    char *out;
    const char *w;
    size_t width, n_in; /* of the panel */
    const float *b, *a;
    size_t rank;
    float scale;
    vec gain;
};

KERNELS_ALWAYS_INLINE vec merge_one(const struct merge_run *run, vec w, vec sum)
{
    return v_mul(v_fma(v_set(run->scale), sum, w), run->gain);
}

/* Inputs [k, k + n) of a vector of outputs that lies `at` elements from the beginning of a row of the panel. n is even for bf16, or the last. */
KERNELS_ALWAYS_INLINE void merge_inputs(const struct merge_run *run, size_t at, size_t k, size_t n)
{
    vec sums[MERGE_INPUTS];
    merge_products(sums, n, run->b, run->a + k * run->rank, run->rank);
    if (run->type == WEIGHT_BF16) {
#pragma GCC unroll 4
        for (size_t i = 0; i < n; i += 2) {
            size_t unit = ((k + i) / 2 * run->width + at) * 4;
            vec second = i + 1 < n ? merge_one(run, v_load_second(run->w + unit), sums[i + 1]) : v_set(0.0f);
            v_store_pairs(run->out + unit, merge_one(run, v_load_first(run->w + unit), sums[i]), second);
        }
        return;
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < n; i++) {
        size_t unit = ((k + i) * run->width + at) * weight_type_size(run->type);
        vec merged = merge_one(run, v_load_weights(run->type, run->w + unit), sums[i]);
        if (run->type == WEIGHT_F32)
            v_store((float *)(void *)(run->out + unit), merged);
        else
            v_store_narrow(run->type, run->out + unit, merged);
    }
}

KERNELS_ALWAYS_INLINE void merge_panel(struct merge_run *run, size_t n_rows, const float *gain)
{
    run->width = panel_width(n_rows);
    for (size_t at = 0; at < run->width; at += PANEL_LANES, run->b += run->rank * PANEL_LANES) {
        size_t left = n_rows > at ? n_rows - at : 0, k = 0;
        run->gain = v_set(1.0f);
        if (gain && left > 0)
            run->gain = left >= PANEL_LANES ? v_load(gain + at) : v_load_some(gain + at, left);
        for (; k + MERGE_INPUTS <= run->n_in; k += MERGE_INPUTS)
            merge_inputs(run, at, k, MERGE_INPUTS);
        for (; k < run->n_in; k += 2)
            if (run->n_in - k >= 2)
                merge_inputs(run, at, k, 2);
            else
                merge_inputs(run, at, k, 1);
    }
}

#define MERGE_ROW(TYPE, suffix)                                                                                                      \
    static void merge_##suffix(void *out, const void *w, size_t n_rows, size_t n_in, const float *b, const float *a, size_t rank,    \
                               float scale, const float *gain)                                                                       \
    {                                                                                                                                \
        struct merge_run run = {.type = TYPE, .n_in = n_in, .b = b, .a = a, .rank = rank, .scale = scale};                           \
        for (size_t row = 0; row < n_rows; row += PANEL_ROWS) {                                                                      \
            size_t n = n_rows - row < PANEL_ROWS ? n_rows - row : PANEL_ROWS;                                                        \
            run.out = (char *)out + packed_at(TYPE, row, n_in);                                                                      \
            run.w = (const char *)w + packed_at(TYPE, row, n_in);                                                                    \
            merge_panel(&run, n, gain ? gain + row : NULL);                                                                          \
        }                                                                                                                            \
    }

MERGE_ROW(WEIGHT_F32, f32)
MERGE_ROW(WEIGHT_F16, f16)
MERGE_ROW(WEIGHT_BF16, bf16)

#define MERGE_ROWS .merge = {[WEIGHT_F32] = merge_f32, [WEIGHT_F16] = merge_f16, [WEIGHT_BF16] = merge_bf16}
