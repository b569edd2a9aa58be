/*
 * runner.h - a model with all that a forward pass needs, and sequences run through it. For tests.
 *
 * Failures end the process.
 */
#ifndef TESTS_RUNNER_H
#define TESTS_RUNNER_H

#include "model/forward.h"

struct runner {
    const struct model *model;
    struct pool *pool;
    struct kv *kv;
    struct forward *forward;
    size_t context;
};

/* The cache has room for `n_sequences` of `context` tokens, in f32 unless a type is given. */
void runner_init(struct runner *runner, const struct model *model, size_t n_threads, size_t context, size_t n_sequences);
void runner_init_kv(struct runner *runner, const struct model *model, enum weight_type kv_type, size_t n_threads, size_t context,
                    size_t n_sequences);
void runner_finish(struct runner *runner);

/* One sequence on its way: its blocks, all of them held from the start. */
struct runner_sequence {
    const struct view *view;
    const int32_t *tokens;
    size_t n_tokens; /* of `tokens` */
    size_t n_done;   /* in the cache */
    uint32_t *blocks;
};
void runner_begin(struct runner *runner, struct runner_sequence *sequence, const struct view *view, const int32_t *tokens,
                  size_t n_tokens);
void runner_end(struct runner *runner, struct runner_sequence *sequence);

/* One step: `counts[i]` tokens of sequence i (0: it sits out). Logits of all tokens of the step, in order; live until
   the next step. */
const float *runner_step(struct runner *runner, struct runner_sequence *sequences, const size_t *counts, size_t n);

/* A sequence alone and at once: logits (n_tokens, n_vocab), which the caller frees. */
float *runner_logits(struct runner *runner, const struct view *view, const int32_t *tokens, size_t n_tokens);

/* The best table of this machine. */
const struct kernels *runner_kernels(void);

#endif
