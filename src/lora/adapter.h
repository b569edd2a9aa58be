/*
 * adapter.h - a loaded adapter: every tensor checked against its site, immutable, reference counted.
 *
 * Loading honours what peft_config.h parsed and refuses what does not fit, with the tensor's name, what was found and
 * what was expected. Nothing is silently ignored: the report counts and names.
 */
#ifndef LORA_ADAPTER_H
#define LORA_ADAPTER_H

#include <lorad/types.h>

#include "base/arena.h"
#include "base/ref.h"
#include "model/view.h"

/* What an adapter does to one site. */
struct adapter_site {
    size_t site;               /* index into model->sites */
    bool has_delta;
    struct delta delta;        /* scale: the adapter's own; bias: lora_bias */
    struct matrix *weight;     /* replaces the base's (modules_to_save, trainable tokens); or NULL */
    const float *bias;         /* replaces the base's; or NULL */
    const float *row_gain;     /* DoRA: m / ||W + sBA|| per output; or NULL */
    double alpha;
};

struct adapter_norm {
    size_t norm; /* index into model->norms */
    const float *weight, *bias;
};

struct adapter {
    struct ref ref;
    const struct model *model;
    char digest[LORAD_DIGEST_SIZE]; /* over adapter_config.json's and adapter_model.safetensors' bytes, lengths first */
    struct adapter_site *sites;     /* by increasing site index */
    size_t n_sites;
    struct adapter_norm *norms;
    size_t n_norms;
    size_t rank_min, rank_max;      /* over the low-rank sites; 0 when there is none */
    double alpha;
    bool use_dora, use_rslora;
    bool is_plain;                  /* only low-rank deltas: may be scaled and mixed with others */
    const char *not_plain_because;  /* "uses DoRA (use_dora)", ...; NULL when plain */
    uint64_t n_parameters;
    uint64_t resident_bytes;        /* everything that unloading gives back, its view included */
    struct lorad_load_report report; /* id is filled by the registry */
    void (*dispose)(struct adapter *adapter); /* called by the last unref: adapter_destroy, or a post to the keeper */
    void *dispose_context;
    struct arena arena;             /* private: deltas, biases, gains. Nothing points into the files */
};

/* From a PEFT directory (or its only subdirectory that holds an adapter, as PEFT names adapters other than "default").
   `memory_limit`: resident bytes at most (ERROR_TOO_LARGE says how many are needed). */
struct adapter *adapter_load(const char *directory, const struct model *model, bool allow_other_heads,
                             uint64_t memory_limit, struct error *err);
/* The same, asking for room when it is known exactly how many bytes the adapter will take, before they are allocated: false refuses it,
   with the error set. A weights file of more than `file_limit` bytes is not read. */
struct adapter_room {
    bool (*make)(void *context, uint64_t n_bytes, struct error *err);
    void *context;
};
struct adapter *adapter_load_into(const char *directory, const struct model *model, bool allow_other_heads, size_t file_limit,
                                  const struct adapter_room *room, struct error *err);
/* Bytes of a weights file that can still be an adapter of `memory_limit` resident bytes: a larger one is not even read. */
size_t adapter_file_limit(const struct model *model, uint64_t memory_limit);
struct adapter *adapter_ref(struct adapter *adapter);
void adapter_unref(struct adapter *adapter);
void adapter_destroy(struct adapter *adapter);

/* What adapter_site does to site `index`, NULL: nothing. */
const struct adapter_site *adapter_find_site(const struct adapter *adapter, size_t index);

#endif
