/*
 * family.h - the architectures, one table row each. Everything in which they differ is a fact here; the loader and
 * the forward pass read these facts and know no family by name.
 */
#ifndef MODEL_FAMILY_H
#define MODEL_FAMILY_H

#include "model/model.h"

enum bias_rule { BIAS_NEVER, BIAS_ALWAYS, BIAS_BY_CONFIG };
enum window_rule { WINDOW_NEVER, WINDOW_ALL_LAYERS, WINDOW_BY_LAYER };

/* Names of config.json's fields; NULL: the family has no such field. */
struct family_fields {
    const char *d_model, *n_layers, *n_heads, *n_kv_heads, *d_head, *d_ffn, *max_positions, *norm_eps, *activation;
};

struct family {
    const char *model_type;
    const char *architectures[2]; /* the causal-LM class, the bare one; other heads are refused */

    struct family_fields fields;
    struct family_fields aliases; /* where a field may have a second name */

    /* What a missing field means: the class's defaults. */
    size_t d_model, n_layers, n_heads, d_ffn, n_vocab, max_positions;
    size_t n_kv_heads; /* 0: n_heads */
    size_t d_head;     /* 0: d_model / n_heads */
    double norm_eps;
    const char *activation;
    bool tied_head;
    size_t sliding_window;

    enum norm_kind norm;
    enum position_kind position;
    enum window_rule window;
    bool has_qk_norm;
    bool is_conv1d;   /* projections are stored (n_in, n_out) */
    bool is_gated;    /* down(act(gate(x)) * up(x)) instead of down(act(up(x))) */
    bool is_fused;    /* one QKV projection instead of three */
    bool has_attention_scaling_fields; /* scale_attn_weights, scale_attn_by_inverse_layer_idx */
    enum bias_rule qkv_bias, attention_out_bias, mlp_bias;

    /* Module paths. `prefix` stands before all but the head; files and adapters may leave it out. */
    const char *prefix;
    const char *embedding, *positions, *layers, *final_norm, *head;
    const char *projections[N_PROJECTIONS]; /* within a layer; NULL: none */
    const char *norms[4];                   /* by norm_role, within a layer; NULL: none */
};

/* The row for a model_type, or NULL. */
const struct family *family_find(const char *model_type);

/* All of them, "gpt2, llama, ...": for messages. */
const char *family_list(void);

#endif
