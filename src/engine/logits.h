/*
 * logits.h - a row of logits as a draw sees it: the model's, changed at a few tokens.
 *
 * It lies in blocks of KERNELS_BLOCK. Only a block in which something is changed is copied, and the largest elements of each block are
 * known, so that whoever looks for large ones passes over most of the row.
 */
#ifndef ENGINE_LOGITS_H
#define ENGINE_LOGITS_H

#include "base/error.h"
#include "kernels/kernels.h"

struct logits {
    const struct kernels *kernels;
    size_t n, n_blocks;
    const float *row;
    const float **blocks; /* (n_blocks): of the row, or of the copy */
    float *copy;          /* (n): room for the blocks that are changed */
    float *maxima;        /* (n_blocks, KERNELS_LANES), see block_maxima */
    size_t best;          /* its index, the lowest of equals */
    float most;           /* its value */
};

bool logits_init(struct logits *logits, size_t n, struct error *err);
void logits_finish(struct logits *logits); /* zeroed is fine */

/* Begins with a row, which must stay as it is. False: it is not finite. */
bool logits_take(struct logits *logits, const struct kernels *kernels, const float *row);
/* A token's value, to be changed. */
float *logits_change(struct logits *logits, int32_t id);
/* When nothing more will be changed: finds the best one. */
void logits_settle(struct logits *logits);

static inline size_t logits_block_size(const struct logits *logits, size_t block)
{
    size_t begin = block * KERNELS_BLOCK;
    return logits->n - begin < KERNELS_BLOCK ? logits->n - begin : KERNELS_BLOCK;
}

/* Tokens of at least `least` with their values, in order of their ids; returns how many. Room for n. */
size_t logits_select(const struct logits *logits, float least, int32_t *ids, float *values);

#endif
