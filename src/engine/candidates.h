/*
 * candidates.h - the tokens among which a draw is made, with their weights e^((logit - best) / temperature): what min-p, top-k and top-p
 * leave of a row. The best token's weight is 1.
 */
#ifndef ENGINE_CANDIDATES_H
#define ENGINE_CANDIDATES_H

#include <lorad/types.h>

#include "engine/logits.h"

/* Working memory. */
struct candidates_room {
    float *weights, *picked; /* (n_vocab) */
    int32_t *ids;            /* (n_vocab) */
    double *masses;          /* a number for each bucket of similar weights; all 0 between uses */
    double *passed;          /* for each block, see candidates_draw */
};

bool candidates_room_init(struct candidates_room *room, size_t n_vocab, struct error *err);
void candidates_room_finish(struct candidates_room *room); /* zeroed is fine */

struct candidates {
    const int32_t *ids; /* NULL: all tokens in their order */
    const float *weights;
    size_t n;
    double total;          /* of the weights */
    const double *passed;  /* of all tokens: sums up to each block's end, by another order of additions */
};

/* Of settled logits; temperature > 0. They lie in the room. */
struct candidates candidates_collect(const struct logits *logits, const struct lorad_sampling *sampling, struct candidates_room *room);

static inline size_t candidates_id(const struct candidates *set, size_t i)
{
    return set->ids ? (size_t)set->ids[i] : i;
}

/* The first candidate at which the sum of the weights passes goal; the last one with a weight when none does. Returns its index. */
size_t candidates_find(const struct candidates *set, double goal);

#endif
