/*
 * forward.h - one step: tokens of many sequences, each through its own view, to logits.
 *
 * x = embed(t); each layer: norm, attention, residual, norm, MLP, residual; norm; head. At each site neighbouring tokens
 * whose views share a weight are one matrix product; the low-rank parts run per sequence on top.
 *
 * Batch invariance: a token's logits depend on its sequence alone, bit for bit, not on what else is in the
 * batch, how a prompt was cut into batches, or how many threads there are.
 */
#ifndef MODEL_FORWARD_H
#define MODEL_FORWARD_H

#include "base/arena.h"
#include "base/pool.h"
#include "model/kv.h"
#include "model/view.h"

/* Neighbouring tokens of one sequence. */
struct batch_sequence {
    const struct view *view;
    const uint32_t *blocks; /* the block table: position p lies in blocks[p / KV_BLOCK_TOKENS]; covers first_position + n_tokens */
    size_t first_position;  /* of its first token here: so many are in the cache */
    size_t first_token;     /* index into the batch */
    size_t n_tokens;        /* >= 1 */
};

struct batch {
    const int32_t *tokens;  /* n_tokens, each in [0, n_vocab) */
    size_t n_tokens;
    const struct batch_sequence *sequences; /* in token order, without gaps; views with the same weight_group side by side */
    size_t n_sequences;
    const size_t *outputs;  /* indices of the tokens whose logits are wanted, increasing */
    size_t n_outputs;
};

struct forward;

/* `max_context` bounds first_position + n_tokens. All pointers must outlive it. */
struct forward *forward_create(const struct model *model, struct pool *pool, struct kv *kv, size_t max_context,
                               struct error *err);
void forward_destroy(struct forward *forward);

/* Writes keys and values of the batch's tokens to the cache and *logits_out = (n_outputs, n_vocab), which lives until the
   next call. At its usual sizes it calls no malloc. False: no memory; the cache's rows of these tokens are then undefined. */
bool forward_run(struct forward *forward, const struct batch *batch, const float **logits_out, struct error *err) MUST_USE;

#endif
