/*
 * panel_sums.h - where a panel's sums are, in memory: those of a vector are 16 neighbouring outputs of a token. The including file defines before what rows.h
 * asks for.
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
