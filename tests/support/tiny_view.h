/*
 * tiny_view.h - views made by hand, with random low-rank pairs, gains, biases and replaced weights. For tests that
 * want adapters without the machinery that loads them.
 */
#ifndef TESTS_TINY_VIEW_H
#define TESTS_TINY_VIEW_H

#include "model/view.h"

struct tiny_view {
    unsigned seed;
    size_t n_deltas;       /* per site; 0: none */
    size_t rank;           /* of the first; the others have one more each. 0: 4 */
    enum weight_type type; /* of the pairs */
    float scale;           /* 0: 1 */
    bool body_only;        /* linear sites only; else embeddings and head too */
    bool has_delta_bias, has_row_gain, has_bias, has_norms;
    bool has_weights;      /* every weight is replaced: the base's plus noise, in f32 */
};

/* Ends the process when memory is out. */
struct view *tiny_view_create(const struct model *model, struct tiny_view spec);

#endif
