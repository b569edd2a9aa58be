/*
 * attention.h - a layer's attention for a whole batch: q and k normalised and rotated, k and v written to the cache,
 * then each query against the keys it may see.
 */
#ifndef MODEL_ATTENTION_H
#define MODEL_ATTENTION_H

#include "base/arena.h"
#include "base/pool.h"
#include "model/forward.h"

struct attention {
    const struct model *model;
    struct kv *kv;
    struct pool *pool;
    const struct batch *batch;
    const struct view *const *views;     /* per token */
    const float *cosine, *sine;          /* (n_tokens, d_head / 2); NULL without rope */
    float *qkv;                          /* (n_tokens, (n_heads + 2 n_kv_heads) d_head): q, k, v side by side */
    float *out;                          /* (n_tokens, n_heads d_head) */

    /* Set by attention_plan. */
    struct attention_unit *units;
    size_t n_units, n_parts;
    bool is_decode;                      /* every sequence has one token here */
    float *scratch;                      /* per thread */
    size_t n_scratch;                    /* of one thread */
};

/* What is the same for all layers of a step: how the work is cut, scratch. In `arena`. */
bool attention_plan(struct attention *attention, struct arena *arena, struct error *err) MUST_USE;

/* One pool_run when is_decode, else two. */
void attention_run(struct attention *attention, size_t layer);

#endif
