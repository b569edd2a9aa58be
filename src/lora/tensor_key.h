/*
 * tensor_key.h - the names in adapter_model.safetensors: which module a tensor belongs to, and which part of
 * it it is.
 *
 * PEFT writes "base_model.model." + module + suffix. Other writers leave the adapter's name in, or wrappers
 * of the training framework, or take the prefix off; those forms are brought to one here. Pure text: knows no
 * model.
 */
#ifndef LORA_TENSOR_KEY_H
#define LORA_TENSOR_KEY_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/error.h"

enum key_part {
    KEY_A,           /* .lora_A.weight */
    KEY_B,           /* .lora_B.weight */
    KEY_B_BIAS,      /* .lora_B.bias: lora_bias */
    KEY_EMBEDDING_A, /* .lora_embedding_A */
    KEY_EMBEDDING_B, /* .lora_embedding_B */
    KEY_MAGNITUDE,   /* .lora_magnitude_vector: DoRA */
    KEY_WEIGHT,      /* .weight: the module saved whole */
    KEY_BIAS,        /* .bias or .base_layer.bias */
    KEY_BASE_WEIGHT, /* .base_layer.weight: a copy of the base's */
    KEY_TOKENS,      /* .token_adapter.trainable_tokens_delta */
    N_KEY_PARTS,
    KEY_IGNORED = N_KEY_PARTS /* a wrapper's copy of the original, a sampler used in training alone */
};

struct tensor_key {
    const char *module; /* in the arena: "model.layers.0.self_attn.q_proj" */
    enum key_part part;
    const char *adapter_name; /* in the arena: the name that was left in the key; or NULL */
};

/* ERROR_MISMATCH with param = name when the name is of no known form. */
bool tensor_key_parse(struct tensor_key *out, const char *name, struct arena *arena,
                      struct error *err) MUST_USE;

/* How the module paths of a file relate to those of the text model: adapters trained through a multimodal or
   bare class carry one segment more or less. */
enum key_rule {
    KEY_RULE_AS_IS,
    KEY_RULE_NO_LANGUAGE_MODEL,
    KEY_RULE_ONE_MODEL,
    KEY_RULE_BOTH,
    KEY_RULE_ADD_MODEL,
    N_KEY_RULES
};

/* `module` under `rule`; the same pointer when the rule does not change it. NULL: no memory. */
const char *tensor_key_apply_rule(enum key_rule rule, const char *module, struct arena *arena);

#endif
