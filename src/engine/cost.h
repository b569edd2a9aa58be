/*
 * cost.h - how long a step takes for each way to run it: what the engine compares when it may choose.
 *
 * A step's time is that of its products: each weight matrix once, for all tokens that use it, and each low-rank pair for its adapter's
 * tokens. T(n), the time to run n tokens through all of the base's weights, is measured at start-up (cost_calibrate): bytes rule for
 * few tokens, operations for many, and the curve holds both. A W' of one's own costs its share of T for its own tokens; a pair costs
 * like weights of its size, somewhat dearer because it is small, and the barriers between A and B. Pure, but for the calibration.
 */
#ifndef ENGINE_COST_H
#define ENGINE_COST_H

#include "base/pool.h"
#include "model/view.h"

enum { COST_POINTS = 6 };
extern const size_t COST_TOKENS[COST_POINTS]; /* 1, 2, 4, ... */

struct cost_model {
    double weights_us[COST_POINTS]; /* T(COST_TOKENS[i]) */
    double barriers_us;             /* what a step with any low-rank pair takes more, whatever the pair's size */
};

/* Typical proportions, for an engine that was not calibrated. */
extern const struct cost_model COST_TYPICAL;

/* Measures with the base's own weights, as many as it takes, in a fraction of a second. Not while the pool works. */
bool cost_calibrate(struct cost_model *out, const struct model *model, struct pool *pool, struct error *err) MUST_USE;

/* T(n), interpolated. */
double cost_weights_us(const struct cost_model *cost, size_t n_tokens);

/* A view, in shares of the bytes of all linear weights. */
struct cost_view {
    double own;   /* weights of its own: W' or replaced ones */
    double pairs; /* low-rank pairs */
};
struct cost_view cost_of_view(const struct view *view);
struct cost_view cost_if_merged(const struct view *view); /* with a W' at each site that has a pair */

/* What one view computes in a step. Each view stands once. */
struct cost_load {
    struct cost_view view;
    size_t n_tokens;
};
double cost_step_us(const struct cost_model *cost, const struct cost_load *loads, size_t n_loads);

/* The least number of sequences in [least, most] that keep the machine busy when all decode: with more of them a token costs hardly
   less, but every stream is slower. */
size_t cost_busy_width(const struct cost_model *cost, size_t least, size_t most);

/* How many tokens more a step of n_tokens may have and still not take longer than `times` the time. */
size_t cost_room(const struct cost_model *cost, size_t n_tokens, double times, size_t most);

#endif
