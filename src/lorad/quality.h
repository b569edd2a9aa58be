/*
 * quality.h - how far a model's predictions are from another's on the same texts: what a weight type, or a merge, costs.
 */
#ifndef LORAD_QUALITY_H
#define LORAD_QUALITY_H

#include "lorad/reader.h"

/* One that reads, and through what. */
struct quality_side {
    struct reader *reader;
    const struct view *view;
    size_t n_vocab;
};

/* Over all positions of all texts that have a next token. */
struct quality {
    size_t n_positions, n_scored; /* scored: of the tokens from first_scored on, which perplexity is about */
    double reference_perplexity, perplexity;
    double kl;                    /* mean of KL(reference || other), in nats */
    double kl_p99, kl_most;
    double agreement;             /* share of the positions at which both find the same token likeliest */
    double right;                 /* share of the texts all of whose scored tokens are the likeliest: greedily it would be written so */
};

bool quality_measure(const struct quality_side *reference, const struct quality_side *other, const struct texts *texts,
                     struct quality *out, struct error *err) MUST_USE;

#endif
