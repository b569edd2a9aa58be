/*
 * lorad_internal.h - what the files of this folder share: the only place that knows both engine and lora.
 */
#ifndef LORAD_LORAD_INTERNAL_H
#define LORAD_LORAD_INTERNAL_H

#include <stdatomic.h>

#include <lorad/lorad.h>

#include "engine/engine.h"
#include "lora/registry.h"
#include "text/tokenizer.h"

struct lorad {
    struct model *model;
    struct tokenizer *tokenizer;
    struct pool *pool;
    struct registry *registry;
    struct engine *engine;
    struct lorad_model_info info;
    char *path, *name;
    size_t context;
    atomic_bool draining;
    _Atomic size_t n_running; /* the engine tells the keeper */
};

/* Opens with a model and tokenizer as options say, but no engine, registry or thread: for offline work. */
struct model *open_model(const struct lorad_options *options, const struct kernels **kernels_out, struct error *err);

enum weight_type kv_type_of(const struct lorad_options *options);

#endif
