/*
 * layout.h - from a configuration to the list of sites and norms: paths, shapes, where each is. No weights yet.
 */
#ifndef MODEL_LAYOUT_H
#define MODEL_LAYOUT_H

#include "model/model.h"

/* Fills sites, norms and the index tables of a model whose config is parsed; all in model->arena. */
bool layout_build(struct model *model, struct error *err) MUST_USE;

/* What the base itself has beside a weight, by its configuration. */
bool layout_site_has_bias(const struct model *model, const struct site *site);

#endif
