/*
 * sampler.h - logits -> token; seeded, reproducible.
 *
 * Order: logit bias; repetition penalty (prompt and output), presence and frequency penalty (output); temperature; min-p; top-k;
 * top-p; draw. Temperature 0 takes the largest logit after bias and penalties (the lowest id of equals). Each token of a sequence
 * draws from its own counter-based random number (seed, position), so that a result does not depend on what else runs.
 */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include <lorad/types.h>

#include "base/error.h"
#include "kernels/kernels.h"

struct sampler;
struct sampler_scratch; /* working memory for one vocabulary, which samplers of one thread can share */

/* `sampling` is copied but its arrays must outlive the sampler. `prompt` counts for the repetition penalty. NULL: no memory. */
struct sampler *sampler_create(const struct lorad_sampling *sampling, const int32_t *prompt, size_t n_prompt,
                               size_t n_vocab, const struct kernels *kernels, struct error *err);
void sampler_destroy(struct sampler *sampler);

/* Without it a sampler makes its own the first time it needs one. It must outlive the samplers that use it. */
struct sampler_scratch *sampler_scratch_create(size_t n_vocab, struct error *err);
void sampler_scratch_destroy(struct sampler_scratch *scratch);
void sampler_use_scratch(struct sampler *sampler, struct sampler_scratch *scratch);

/* Whether a row holds neither NaN nor infinity. */
bool sampler_is_finite(const float *logits, size_t n_vocab);

/* The next token. `banned`: ids that must not come (end tokens before min_tokens). `logits` is not changed. Calls no malloc
   after the first time. -1: the logits are not finite, nothing but banned tokens is left, or there is no memory. */
int32_t sampler_draw(struct sampler *sampler, const float *logits, const int32_t *banned, size_t n_banned);
void sampler_accept(struct sampler *sampler, int32_t token); /* counts for the penalties, moves the counter */

/* The final distribution, for tests: probabilities (n_vocab). */
void sampler_probabilities(struct sampler *sampler, const float *logits, float *probabilities_out);

/* log-softmax of the raw logits: the chosen token's, and the `n_top` best, best first (lower id first of equals). */
void sampler_logprobs(const struct kernels *kernels, const float *logits, size_t n_vocab, int32_t chosen, size_t n_top,
                      struct lorad_token *out);

#endif
