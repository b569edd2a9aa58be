/*
 * naive_forward.h - the decoder once more, in double precision and plain loops, written from the papers: what the forward
 * pass is compared with. No kernels, no cache, no batch.
 */
#ifndef TESTS_NAIVE_FORWARD_H
#define TESTS_NAIVE_FORWARD_H

#include "model/view.h"

/* Logits (n_tokens, n_vocab) of a sequence from position 0; the caller frees. */
double *naive_forward(const struct view *view, const int32_t *tokens, size_t n_tokens);

/* Element k of a row as it is multiplied with: rounded or quantised. */
double naive_weight(const struct matrix *matrix, size_t row, size_t k);

#endif
