/*
 * naive_sampler.h - a draw in the plainest way, for tests: the same token as sampler.h for the same seed, whatever the filters.
 */
#ifndef SUPPORT_NAIVE_SAMPLER_H
#define SUPPORT_NAIVE_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lorad/types.h>

struct naive_sampler {
    struct lorad_sampling sampling;
    size_t n_vocab;
    const int32_t *prompt, *output;
    size_t n_prompt, n_output;
};

/* The logits, finite ones, must leave a token. */
int32_t naive_sampler_draw(const struct naive_sampler *sampler, const float *logits, const int32_t *banned, size_t n_banned);

#endif
