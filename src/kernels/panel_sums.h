/*
 * panel_sums.h - how many tokens pass a panel at a time, and where their sums are: those of a vector are 16 neighbouring outputs of a token. The
 * including file defines before what rows.h asks for.
 */
#ifndef KERNELS_PANEL_SUMS_H
#define KERNELS_PANEL_SUMS_H

#include "kernels/pack.h"

#if !defined(KERNELS_ALWAYS_INLINE)
#define KERNELS_ALWAYS_INLINE static inline __attribute__((always_inline))
#endif

KERNELS_ALWAYS_INLINE size_t panel_least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Blocks of tokens [first, end) that pass a panel at a time, n_most tokens at most: of about the same number, so that no few tokens are left that read
   all weights by themselves. */
KERNELS_ALWAYS_INLINE size_t panel_blocks_each(size_t first, size_t end, size_t width, size_t n_most)
{
    const size_t n_blocks = (end + width - 1) / width - first / width, most = n_most / width, n_runs = (n_blocks + most - 1) / most;
    return n_blocks <= most ? most : (n_blocks + n_runs - 1) / n_runs;
}

/* Sums of tokens, `stride` apart, of n_rows outputs. */
struct panel_sums {
    float *at;
    size_t stride, n_rows;
};

/* Vectors from number v on of a token, and where they are. */
KERNELS_ALWAYS_INLINE float *panel_sums_of(const struct panel_sums *sums, size_t v, size_t t)
{
    return sums->at + t * sums->stride + v * PANEL_LANES;
}

KERNELS_ALWAYS_INLINE vec panel_load_sums(const struct panel_sums *from, size_t v, size_t t)
{
    size_t left = from->n_rows - panel_least(v * PANEL_LANES, from->n_rows);
    return left >= PANEL_LANES ? v_load(panel_sums_of(from, v, t)) : v_load_some(panel_sums_of(from, v, t), left);
}

KERNELS_ALWAYS_INLINE void panel_store_sums(const struct panel_sums *to, size_t v, size_t t, vec sums)
{
    size_t left = to->n_rows - panel_least(v * PANEL_LANES, to->n_rows);
    if (left >= PANEL_LANES)
        v_store(panel_sums_of(to, v, t), sums);
    else
        v_store_some(panel_sums_of(to, v, t), sums, left);
}

KERNELS_ALWAYS_INLINE void panel_skip_tokens(struct panel_sums *sums, size_t n_tokens)
{
    if (sums->at)
        sums->at += n_tokens * sums->stride;
}

#endif
