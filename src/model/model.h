/*
 * model.h - the frozen base: its configuration, its sites, its weights. Immutable after loading; any thread reads.
 *
 * One decoder serves all families; what differs is data (family.c): names of fields and tensors, norm,
 * activation, position encoding, biases, fused or split projections. A model that is not supported, or whose
 * tensors do not match its config, is refused with the reason.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include <jansson.h>

#include "base/arena.h"
#include "formats/generation_config.h"
#include "formats/tensor_file.h"
#include "model/matrix.h"
#include "model/weight_cache.h"

enum norm_kind { NORM_RMS, NORM_LAYER };
enum position_kind { POSITION_LEARNED, POSITION_ROPE };
enum rope_scaling { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 };

struct model_config {
    const struct family *family;
    char model_type[32];
    size_t n_layers, d_model, n_heads, n_kv_heads, d_head, d_ffn, n_vocab, max_positions;
    float norm_eps;
    enum activation activation;
    bool tied_head, attention_bias, attention_out_bias, mlp_bias;
    size_t sliding_window;      /* 0: none. Key j is visible to query i when i - window < j <= i */
    size_t window_first_layer;  /* qwen2: layers below it see everything */
    const bool *layer_is_windowed; /* n_layers; NULL when no layer is */
    float attention_scale;      /* 1 / sqrt(d_head) usually; gpt2 may divide further by layer + 1 */
    bool scale_by_inverse_layer;
    double rope_theta;
    enum rope_scaling rope_scaling;
    double rope_factor, rope_low_frequency_factor, rope_high_frequency_factor;
    size_t rope_original_positions;
};

/* What a site is. Linear sites of a layer come in the order in which the forward pass uses them. */
enum site_kind {
    SITE_EMBEDDING, /* token -> row; n_in = n_vocab, n_out = d_model. Its matrix is stored (n_vocab, d_model): see below */
    SITE_POSITION,  /* learned positions, likewise */
    SITE_LINEAR,
    SITE_HEAD
};

enum projection {
    PROJECTION_NONE,
    PROJECTION_QKV, /* gpt2's c_attn: rows q, k, v */
    PROJECTION_Q, PROJECTION_K, PROJECTION_V,
    PROJECTION_ATTENTION_OUT,
    PROJECTION_GATE, PROJECTION_UP, /* plain MLPs have only UP */
    PROJECTION_DOWN,
    N_PROJECTIONS
};

/* An adaptable map of the base. Linear and head: matrix (n_out, n_in). Embedding and position: the matrix is the table
   (n_in rows of n_out = d_model): row t is what token t becomes. */
struct site {
    const char *path;        /* the module's path as PEFT sees it: "model.layers.0.self_attn.q_proj", "transformer.h.0.attn.c_attn", "lm_head" */
    const char *tensor_name; /* of the weight in the base's files; for a tied head the embedding's */
    enum site_kind kind;
    enum projection projection;
    size_t layer;            /* of SITE_LINEAR */
    size_t n_in, n_out;
    bool is_conv1d;          /* the base's file stores it (n_in, n_out): PEFT's fan_in_fan_out */
    struct matrix *weight;
    const float *bias;       /* n_out, or NULL */
};

/* How a matrix of the site lies, the base's or another's. */
static inline enum matrix_layout site_layout(const struct site *site)
{
    return site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION ? MATRIX_ROWS : MATRIX_PACKED;
}

/* Norm weights: not sites of LoRA, but an adapter may replace them. */
enum norm_role { NORM_ROLE_ATTENTION, NORM_ROLE_MLP, NORM_ROLE_Q, NORM_ROLE_K, NORM_ROLE_FINAL };
struct norm {
    const char *path;   /* "model.layers.0.input_layernorm" */
    enum norm_role role;
    size_t layer;
    size_t n;
    const float *weight;
    const float *bias;  /* NULL for RMS */
};

struct model {
    struct model_config config;
    struct generation_config generation;
    const struct kernels *kernels;
    struct arena arena;       /* names, biases, norms */
    struct tensor_file files; /* stays open: tables lie in it, and what merging starts from */
    struct weight_cache cache; /* open if packed weights lie in it */
    struct site *sites;
    size_t n_sites;
    void *weights_memory;     /* in which the sites' weights are placed that lie neither in the file nor in the cache; NULL: all do */
    size_t weights_memory_bytes;
    struct norm *norms;
    size_t n_norms;
    /* Where things are; indices into sites and norms, SIZE_MAX where the family has none. */
    size_t embedding_site, position_site, head_site;
    size_t (*layer_sites)[N_PROJECTIONS]; /* n_layers */
    size_t (*layer_norms)[4];             /* n_layers, by norm_role */
    size_t final_norm;
    const float *rope_inverse_frequency;  /* d_head / 2, scaling applied; NULL without rope */
    const char *weights_name;             /* of the packed ones: "f32", "bf16", "f16", "q8", "q4", "mixed" */
    uint64_t n_parameters, weight_bytes;
    const char *const *warnings;          /* unknown tensors, ... */
    size_t n_warnings;
    bool cache_was_written, cache_was_read; /* anew; into memory of this process's own, since the file lies in small pages */
    const char *cache_refused;            /* why a cache that was there is not used; NULL: it is, or there was none */
    const char *cache_failed;             /* why none was written; NULL: it was, or did not have to be */
};

/* What products multiply with. The tables stay in the file's type with q8 and q4. */
enum model_weights { MODEL_WEIGHTS_NATIVE, MODEL_WEIGHTS_F32, MODEL_WEIGHTS_F16, MODEL_WEIGHTS_BF16, MODEL_WEIGHTS_Q8, MODEL_WEIGHTS_Q4 };

typedef void model_progress(void *context, const char *what, double fraction);

struct model_options {
    const char *directory;       /* config.json, weights and generation_config.json */
    enum model_weights weights;
    const char *cache_directory; /* keeps packed weights for the next start (weight_cache.h), and is made if need be; NULL: none */
    const struct kernels *kernels;
    model_progress *progress;    /* may be NULL */
    void *progress_context;
};

/* NULL on failure. A cache that cannot be used or written is none: the model says why. */
struct model *model_open(const struct model_options *options, struct error *err);

/* The same without a cache. */
struct model *model_load(const char *directory, enum model_weights weights, const struct kernels *kernels,
                         model_progress *progress, void *progress_context, struct error *err);
void model_destroy(struct model *model);

/* The site or norm whose module path is `path`: as it is, or with the family's optional prefix ("transformer.") added or
   taken off. NULL: none. */
const struct site *model_find_site(const struct model *model, const char *path);
const struct norm *model_find_norm(const struct model *model, const char *path);

/* Parses config.json alone (for inspect, and tests). The arrays live in `arena`. */
bool model_config_parse(struct model_config *out, const json_t *config, struct arena *arena, struct error *err) MUST_USE;

const char *family_name(const struct family *family);

#endif
