/*
 * rope.h - rotary position embedding (arXiv:2104.09864): frequencies per model, angles per position.
 */
#ifndef MODEL_ROPE_H
#define MODEL_ROPE_H

#include "model/model.h"

/* d_head / 2 inverse frequencies theta^(-2i/d_head), scaling applied. Computed in float, step by step as the published
   models were run, so that long positions get the same angles. */
void rope_inverse_frequencies(float *out, const struct model_config *config);

/* cos and sin of position * inverse_frequency[i]. Depends on nothing else. */
void rope_angles(float *cosine, float *sine, const float *inverse_frequency, size_t n, size_t position);

#endif
