/*
 * dora.h - DoRA's gain per output: m / ||W + s BA||, arXiv:2402.09353.
 */
#ifndef LORA_DORA_H
#define LORA_DORA_H

#include "model/view.h"

/* gain[o] = magnitude[o] / n[o], n[o] the norm over the inputs of W + s BA. `base`: the W that is used;
   `delta`: with its scale s. Embeddings and positions: the matrix is a table (n_in, n_out), the norm goes
   down its columns. ERROR_MISMATCH: a norm of 0 or a gain that is not finite. */
bool dora_compute_gain(float *gain, const struct site *site, const struct matrix *base,
                       const struct delta *delta, const float *magnitude, struct error *err) MUST_USE;

#endif
