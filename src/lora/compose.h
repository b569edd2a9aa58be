/*
 * compose.h - adapters -> a view.
 */
#ifndef LORA_COMPOSE_H
#define LORA_COMPOSE_H

#include "lora/adapter.h"
#include "lora/merge.h"

struct compose_part {
    struct adapter *adapter;
    double factor; /* weight * the request's scale; multiplies every delta's scale */
};

/* One view for all parts, on the fly; takes its own references. Parts with factor 0 are left out: with none left the view
   is the base, bit for bit. Factor 1 alone serves any adapter; anything else, or several parts, needs plain ones
   (ERROR_BAD_INPUT, for it is the request that asks for it, names what cannot be scaled or mixed: DoRA, replaced weights, biases). */
struct view *compose_on_the_fly(const struct model *model, const struct compose_part *parts, size_t n_parts,
                                struct error *err);

/* Bytes of the view of one adapter that changes so many sites. */
size_t compose_bytes(const struct model *model, size_t n_sites);

/* The view through W': weights from `merged`; where it has none, the adapter on the fly. */
struct view *compose_merged(const struct model *model, struct adapter *adapter, struct merged *merged,
                            struct error *err);

#endif
