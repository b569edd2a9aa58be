/*
 * merge.h - W' = W + s BA, for each site an adapter touches.
 *
 * Always from the pristine base into memory of its own, in f32, rounded or quantised once to the base's type. DoRA: W' = gain * (W + s BA) per
 * output row. Embeddings and positions are merged in their table orientation.
 */
#ifndef LORA_MERGE_H
#define LORA_MERGE_H

#include "lora/adapter.h"

struct merged {
    struct ref ref;
    struct matrix **weights; /* model->n_sites; NULL where the base's (or the adapter's replacement) serves */
    size_t n_sites;
    size_t n_merged;         /* how many of the adapter's sites are merged */
    bool is_partial;         /* others that could be are not: the view serves them on the fly */
    const float **biases;    /* model->n_sites; what the view must add (lora_bias folded in); NULL: as on the fly */
    uint64_t bytes;
    void (*dispose)(struct merged *merged); /* by the last unref: merged_destroy, or a post to the keeper */
    void *dispose_context;
};

/* Bytes that a merge of this adapter will take. `sites`: which of adapter->sites, n_sites flags; NULL: all. */
uint64_t merge_bytes(const struct adapter *adapter, const bool *sites);
/* What W' of one of them takes; 0: there is nothing to merge. */
uint64_t merge_site_bytes(const struct adapter *adapter, size_t index);

/* A merge is made site by site, so that its maker can look after other work in between. `sites`: as above, copied. */
struct merge_job;
struct merge_job *merge_begin(struct adapter *adapter, const bool *sites, struct error *err);
/* Does a slice of bounded work (at most a few ms); *done_out when the last one is done. */
bool merge_step(struct merge_job *job, bool *done_out, struct error *err) MUST_USE;
double merge_fraction(const struct merge_job *job);
struct merged *merge_take(struct merge_job *job); /* once, when done */
void merge_end(struct merge_job *job);            /* frees; NULL is fine */

struct merged *merged_ref(struct merged *merged);
void merged_unref(struct merged *merged);
void merged_destroy(struct merged *merged);

/* W' of one site for several plain adapters (factors as in compose.h), in rows of the type of the file, for `lorad merge`. Handles whatever one
   adapter alone may do (DoRA, replacement) when n_parts is 1. */
struct compose_part;
struct matrix *merge_site(const struct model *model, size_t site, const struct compose_part *parts, size_t n_parts,
                          struct error *err);

#endif
