/*
 * adapter_load.h - what the files of adapter loading share; nobody else includes it.
 *
 * adapter_load.c leads; adapter_check.c, adapter_pair.c and adapter_replace.c fill the plans and count the bytes;
 * adapter_pack.c carries the plans out. A check that is false has set the error and named the tensor.
 */
#ifndef LORA_ADAPTER_LOAD_H
#define LORA_ADAPTER_LOAD_H

#include "lora/adapter.h"
#include "lora/adapter_match.h"

/* What will be done to one site: filled by the checks, read by the packing. */
struct plan {
    const struct tensor *a, *b, *b_bias, *magnitude; /* a pair when `a` is there */
    bool is_mirrored; /* the pair is the tied embedding's, seen from the head: A and B change places */
    size_t rank;
    double alpha, scale;
    enum weight_type type;
    const struct tensor *weight, *bias, *tokens;
    const struct peft_token_indices *indices;
    bool is_shared;          /* what replaces the matrix, or its rows, is counted at another site already (tied head) */
};

struct load {
    const struct model *model;
    const struct peft_config *config;
    struct matched matched;
    struct plan *plans;                                /* model->n_sites */
    const struct tensor **norm_weights, **norm_biases; /* model->n_norms; NULL: the base's */
    struct lorad_load_report *report;
    const struct adapter_room *room;
    struct arena scratch;
    uint64_t n_block_bytes, n_matrix_bytes;
    size_t n_sites, n_norms, n_bias_tensors;
    struct adapter *adapter;
};

static inline bool is_table(const struct site *site)
{
    return site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION;
}

static inline bool is_tied(const struct model *model)
{
    return model->config.tied_head;
}

static inline bool plan_changes(const struct plan *plan)
{
    return plan->a || plan->weight || plan->bias || plan->tokens;
}

/* adapter_check.c */
bool load_refuse(struct error *err, const struct tensor *tensor, const char *format, ...) PRINTF_LIKE(3, 4);
bool load_check_shape(const struct tensor *tensor, size_t n_dims, size_t n_first, size_t n_second,
                      struct error *err) MUST_USE;
bool load_check_finite(const struct tensor *tensor, struct error *err) MUST_USE;
void load_count_block(struct load *load, size_t n_elements, size_t element_size);
void load_count_matrix(struct load *load, const struct site *site, enum weight_type type);
const char *load_path_of(const struct load *load, size_t site); /* as the adapter calls it */
bool load_saves_module(const struct peft_config *config, const char *path);
bool load_declares_saved(const struct load *load, size_t site);
bool load_targets(const struct load *load, size_t site, bool *out, struct error *err) MUST_USE;
bool load_check_all(struct load *load, struct error *err) MUST_USE;

/* adapter_pair.c */
bool load_check_pair(struct load *load, size_t site, struct error *err) MUST_USE;
bool load_mirror_embedding(struct load *load, struct error *err) MUST_USE;

/* adapter_replace.c */
bool load_check_base_weight(struct load *load, const struct tensor *tensor, const struct site *site,
                            struct error *err) MUST_USE;
bool load_check_weight(struct load *load, size_t site, struct error *err) MUST_USE;
bool load_check_bias(struct load *load, size_t site, struct error *err) MUST_USE;
bool load_check_tokens(struct load *load, size_t site, struct error *err) MUST_USE;
bool load_share_tokens(struct load *load, struct error *err) MUST_USE;
bool load_check_indices_used(struct load *load, struct error *err) MUST_USE;
bool load_check_norm(struct load *load, size_t norm, struct error *err) MUST_USE;

/* adapter_pack.c */
bool load_pack_all(struct load *load, struct error *err) MUST_USE;

#endif
