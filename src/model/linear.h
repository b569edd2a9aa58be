/*
 * linear.h - sites that share an input, for a whole batch: shared weights once, low-rank parts per view on top.
 *
 * Per output element, in this order: (W x), each delta's scale * (B(Ax) + bias), times row_gain, plus bias. One thread computes
 * an element whole, so neither threads nor neighbours in the batch can change it.
 */
#ifndef MODEL_LINEAR_H
#define MODEL_LINEAR_H

#include "base/pool.h"
#include "model/view.h"

/* Neighbouring rows of the input with one view. */
struct linear_segment {
    const struct view *view;
    size_t first, n_tokens;
};

struct linear_job {
    size_t site; /* index into the model's sites */
    float *out;  /* (n_tokens, n_out) */
    size_t out_stride;
};

enum linear_after {
    LINEAR_PLAIN,
    LINEAR_ADD,      /* residual += outputs of jobs[0], whose out is not used */
    LINEAR_ACTIVATE, /* jobs[0].out = activation(its outputs) */
    LINEAR_GATE      /* jobs[0].out = activation(its outputs) * outputs of jobs[1], whose out is not used; both as wide */
};

#define LINEAR_MOST_JOBS 3

struct linear_call {
    const struct linear_segment *segments; /* in row order, without gaps */
    size_t n_segments, n_tokens;
    const float *x; /* (n_tokens, n_in) */
    size_t x_stride;
    struct linear_job jobs[LINEAR_MOST_JOBS];
    size_t n_jobs;
    enum linear_after after;
    enum activation activation;
    float *residual; /* (n_tokens, n_out) */
    size_t residual_stride;
};

/* Memory for low-rank parts, prepared activations and outputs that something comes after, which grows to what was needed most. Zeroed is a fine
   start. */
struct linear_scratch {
    struct linear_item *items;
    struct linear_unit *units;
    float *low_rank;
    void *prepared;
    float *waiting; /* for each thread */
    size_t items_bytes, units_bytes, low_rank_bytes, prepared_bytes, waiting_bytes;
};

/* Two pool_run: A x for all deltas and what prepares activations, then everything by output rows. So the threads
   wait for each other once or twice; a run too small for two threads, as the first is for few tokens without deltas, is no wait. False: no memory. */
bool linear_run(const struct linear_call *call, const struct model *model, struct pool *pool,
                struct linear_scratch *scratch, struct error *err) MUST_USE;
void linear_scratch_finish(struct linear_scratch *scratch);

#endif
