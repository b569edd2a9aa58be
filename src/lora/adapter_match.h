/*
 * adapter_match.h - which tensor of an adapter's file belongs to which part of which module of the base.
 */
#ifndef LORA_ADAPTER_MATCH_H
#define LORA_ADAPTER_MATCH_H

#include <lorad/types.h>

#include "lora/peft_directory.h"
#include "lora/tensor_key.h"
#include "model/model.h"

struct matched_module {
    const char *path; /* as the adapter's config means it; NULL: the file has nothing for it */
    const struct tensor *parts[N_KEY_PARTS];
};

struct matched {
    struct matched_module *sites; /* model->n_sites; in the arena */
    struct matched_module *norms; /* model->n_norms */
};

/* Every tensor finds its place, is ignored with a warning in `report`, or is ERROR_MISMATCH with its name.
   Counts tensors_present and tensors_ignored. `allow_other_heads`: tensors of a classifier's head are
   ignored. */
bool adapter_match(struct matched *out, const struct model *model, const struct tensor_file *tensors,
                   bool allow_other_heads, struct lorad_load_report *report, struct arena *arena,
                   struct error *err) MUST_USE;

#endif
