/*
 * peft_config.h - adapter_config.json: every field of PEFT's LoraConfig honoured, ignored for a
 * reason, or refused by name.
 *
 * What a field means is PEFT's documentation (LoraConfig). A refusal is ERROR_MISMATCH with
 * param = the field when the adapter is of a kind that we do not serve, and ERROR_BAD_INPUT when
 * the field is malformed.
 */
#ifndef FORMATS_PEFT_CONFIG_H
#define FORMATS_PEFT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"

struct peft_matcher; /* what all matching with one config shares */
struct peft_regex;   /* a compiled regular expression */

enum peft_bias { PEFT_BIAS_NONE, PEFT_BIAS_ALL, PEFT_BIAS_LORA_ONLY };

/* A module set: a list of names (a path matches when it equals one or ends with "." + one), or a
   Python regular expression that must match the whole path. */
struct peft_modules {
    bool is_given;
    bool is_all_linear;
    const char *regex;         /* NULL: a list */
    const char *const *names;
    size_t n_names;
    struct peft_regex *compiled; /* of `regex` */
};

struct peft_pattern {
    const char *key; /* a regular expression: matches a path P when (.*\.)?(key) matches all of P */
    double value;
    struct peft_regex *compiled; /* NULL: plain enough to be compared without */
};

struct peft_token_indices {
    const char *module; /* NULL: the input embedding */
    const int64_t *indices;
    size_t n_indices;
};

struct peft_config {
    struct arena arena; /* all below */
    size_t rank;        /* r > 0 */
    double alpha;       /* finite */
    bool use_rslora;
    bool use_dora;
    bool lora_bias;
    bool fan_in_fan_out;
    bool ensure_weight_tying;
    enum peft_bias bias;
    const struct peft_pattern *rank_pattern, *alpha_pattern; /* in file order; rank values are integers > 0 */
    size_t n_rank_patterns, n_alpha_patterns;
    struct peft_modules target_modules, exclude_modules;
    const int64_t *layers_to_transform;
    size_t n_layers_to_transform;
    const char *const *layers_pattern;
    size_t n_layers_pattern;
    const char *const *modules_to_save;
    size_t n_modules_to_save;
    const struct peft_token_indices *token_indices; /* trainable_token_indices */
    size_t n_token_indices;
    const char *task_type;       /* NULL: not given */
    const char *base_model_name; /* NULL: not given; informational */
    const char *peft_version;    /* NULL: not given */
    const char *const *warnings; /* sentences: unknown fields with a value, ... */
    size_t n_warnings;
    struct peft_regex *const *layers_regexes; /* n_layers_pattern */
    struct peft_matcher *matcher; /* compiled expressions and what they may still cost */
};

/* Parses the text of adapter_config.json. `allow_other_heads`: an adapter of another task type
   (SEQ_CLS, ...) is accepted for its low-rank pairs, its head to be ignored. */
bool peft_config_parse(struct peft_config *out, const char *text, size_t n_bytes, bool allow_other_heads,
                       struct error *err) MUST_USE;
void peft_config_finish(struct peft_config *config); /* zeroed is fine */

/* Matching, with a config that was parsed, by one thread at a time: regular expressions need memory
   to work in. `path` is a module path in the base model ("model.layers.0.self_attn.q_proj"). All
   matching with one config together may take a bounded number of steps; an expression that exhausts
   them is ERROR_BAD_INPUT. (One that does not compile was refused by peft_config_parse.) An
   all-linear set matches every path. */
bool peft_modules_match(const struct peft_modules *modules, const char *path, bool *out, struct error *err) MUST_USE;

/* Whether the config (target_modules, exclude_modules, layers_to_transform) targets `path`. `is_linear_body`: a
   linear map that is not the output head (what all-linear means). `model_type` serves the defaults when
   target_modules is absent. */
bool peft_config_targets(const struct peft_config *config, const char *path, bool is_linear_body,
                         const char *model_type, bool *out, struct error *err) MUST_USE;

/* rank and alpha of one module, after rank_pattern and alpha_pattern (each: first match in file order). */
bool peft_config_rank_alpha(const struct peft_config *config, const char *path, size_t *rank_out,
                            double *alpha_out, struct error *err) MUST_USE;

/* s in h = Wx + s B(Ax): alpha/r, or alpha/sqrt(r) with use_rslora. LoRA (arXiv:2106.09685) 4.1, rsLoRA (arXiv:2312.03732). */
double peft_config_scale(const struct peft_config *config, size_t rank, double alpha);

#endif
