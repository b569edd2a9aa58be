/*
 * peft_match.c - which modules a config means, and with which rank and alpha.
 *
 * The rules and their quirks are those of PEFT's tuners (check_target_module_exists, get_pattern_key),
 * because that is what the adapter was trained with.
 */
#include "formats/peft_config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/peft_regex.h"

/* `path` equals `name` or ends with "." and `name`. */
static bool ends_with_name(const char *path, const char *name)
{
    size_t n_path = strlen(path), n_name = strlen(name);
    if (n_name > n_path || memcmp(path + n_path - n_name, name, n_name) != 0)
        return false;
    return n_name == n_path || path[n_path - n_name - 1] == '.';
}

bool peft_modules_match(const struct peft_modules *modules, const char *path, bool *out, struct error *err)
{
    if (modules->is_all_linear) {
        *out = true;
        return true;
    }
    if (modules->regex)
        return peft_regex_match(modules->compiled, path, out, err);
    bool matches = false;
    for (size_t i = 0; !matches && i < modules->n_names; i++)
        matches = ends_with_name(path, modules->names[i]);
    *out = matches;
    return true;
}

/* Whether the `n_bytes` of `text` are the pattern's first, where '.' stands for any character. */
static bool equals_with_dots(const char *pattern, const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        if (pattern[i] != '.' && pattern[i] != text[i])
            return false;
    return true;
}

/* `path` is, or lies below, a module that is saved whole: (^|.*\.)name($|\..*), with the name's dots
   unescaped. */
static bool is_below_saved(const struct peft_config *config, const char *path)
{
    for (const char *at = path, *dot; at; at = dot ? dot + 1 : NULL) {
        size_t n_left = strlen(at);
        dot = strchr(at, '.');
        for (size_t i = 0; i < config->n_modules_to_save; i++) {
            size_t n_name = strlen(config->modules_to_save[i]);
            if (n_name <= n_left && (at[n_name] == '\0' || at[n_name] == '.') &&
                equals_with_dots(config->modules_to_save[i], at, n_name))
                return true;
        }
    }
    return false;
}

/* The digits of the first ".name.<digits>." in the path. */
static bool find_layer(const char *path, int64_t *out)
{
    for (const char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.')) {
        const char *second = strchr(dot + 1, '.');
        if (!second)
            return false;
        size_t n_digits = strspn(second + 1, "0123456789");
        if (n_digits == 0 || second[1 + n_digits] != '.')
            continue;
        if (n_digits > 18)
            return false;
        *out = strtoll(second + 1, NULL, 10);
        return true;
    }
    return false;
}

static bool find_layer_by_pattern(const struct peft_config *config, const char *path, bool *found,
                                  int64_t *layer, struct error *err)
{
    *found = false;
    for (size_t i = 0; !*found && i < config->n_layers_pattern; i++)
        if (!peft_regex_find_layer(config->layers_regexes[i], path, found, layer, err))
            return false;
    return true;
}

/* Whether layers_to_transform lets the path pass. */
static bool is_in_layers(const struct peft_config *config, const char *path, bool *out, struct error *err)
{
    int64_t layer = -1;
    bool found;
    if (config->n_layers_pattern == 0)
        found = find_layer(path, &layer);
    else if (!find_layer_by_pattern(config, path, &found, &layer, err))
        return false;
    *out = false;
    for (size_t i = 0; found && i < config->n_layers_to_transform; i++)
        *out |= config->layers_to_transform[i] == layer;
    return true;
}

/* PEFT's TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, for decoders. */
static bool default_targets(const char *model_type, struct peft_modules *out)
{
    static const char *const Q_V[] = {"q_proj", "v_proj"};
    static const char *const C_ATTN[] = {"c_attn"};
    static const char *const FUSED[] = {"query_key_value"};
    static const char *const PHI[] = {"q_proj", "v_proj", "fc1", "fc2"};
    static const struct {
        const char *model_type;
        const char *const *names;
        size_t n_names;
    } DEFAULTS[] = {
        {"gpt2", C_ATTN, 1},     {"gpt_bigcode", C_ATTN, 1},
        {"gpt_neox", FUSED, 1},  {"falcon", FUSED, 1},
        {"bloom", FUSED, 1},     {"llama", Q_V, 2},
        {"mistral", Q_V, 2},     {"mixtral", Q_V, 2},
        {"gemma", Q_V, 2},       {"gemma2", Q_V, 2},
        {"gemma3_text", Q_V, 2}, {"qwen2", Q_V, 2},
        {"qwen3", Q_V, 2},       {"opt", Q_V, 2},
        {"stablelm", Q_V, 2},    {"gptj", Q_V, 2},
        {"gpt_neo", Q_V, 2},     {"phi", PHI, 4},
    };
    for (size_t i = 0; i < sizeof DEFAULTS / sizeof *DEFAULTS; i++)
        if (strcmp(DEFAULTS[i].model_type, model_type) == 0) {
            *out = (struct peft_modules){
                .is_given = true, .names = DEFAULTS[i].names, .n_names = DEFAULTS[i].n_names};
            return true;
        }
    return false;
}

static bool is_named_exactly(const struct peft_modules *modules, const char *path)
{
    for (size_t i = 0; i < modules->n_names; i++)
        if (strcmp(modules->names[i], path) == 0)
            return true;
    return false;
}

static bool is_targeted(const struct peft_config *config, const char *path, bool is_linear_body,
                        const char *model_type, bool *out, struct error *err)
{
    struct peft_modules targets = config->target_modules;
    if (!targets.is_given && !default_targets(model_type, &targets))
        return error_set(err, ERROR_BAD_INPUT, "target_modules",
                         "target_modules is missing, and '%s' has no default", model_type);
    if (targets.is_all_linear) {
        *out = is_linear_body;
        return true;
    }
    bool matches;
    if (!peft_modules_match(&targets, path, &matches, err))
        return false;
    /* A full path in the list is taken at its word, whatever layers_to_transform says. */
    if (matches && config->n_layers_to_transform > 0 && !is_named_exactly(&targets, path))
        return is_in_layers(config, path, out, err);
    *out = matches;
    return true;
}

bool peft_config_targets(const struct peft_config *config, const char *path, bool is_linear_body,
                         const char *model_type, bool *out, struct error *err)
{
    bool is_excluded = false;
    if (config->exclude_modules.is_given &&
        !peft_modules_match(&config->exclude_modules, path, &is_excluded, err))
        return false;
    if (is_excluded || is_below_saved(config, path)) {
        *out = false;
        return true;
    }
    return is_targeted(config, path, is_linear_body, model_type, out, err);
}

/* What re.match("(.*\\.)?(key)$", path) says of a plain key, where '.' stands for any character. */
static bool plain_key_matches(const char *key, const char *path)
{
    bool whole = *key == '^';
    size_t n_key = 0, n_path = strlen(path);
    key += whole;
    for (const char *c = key; *c; c += *c == '\\' ? 2 : 1)
        n_key++;
    if (n_key > n_path || (whole && n_key != n_path))
        return false;
    const char *at = path + n_path - n_key;
    if (at > path && at[-1] != '.')
        return false;
    for (; *key; key++, at++) {
        bool is_literal = *key != '.';
        if (*key == '\\')
            key++;
        if (is_literal && *key != *at)
            return false;
    }
    return true;
}

/* The first pattern in file order that matches, or NULL. */
static bool find_pattern(const struct peft_pattern *patterns, size_t n_patterns, const char *path,
                         const struct peft_pattern **out, struct error *err)
{
    *out = NULL;
    for (size_t i = 0; i < n_patterns; i++) {
        bool matches;
        if (!patterns[i].compiled)
            matches = plain_key_matches(patterns[i].key, path);
        else if (!peft_regex_match(patterns[i].compiled, path, &matches, err))
            return false;
        if (matches) {
            *out = &patterns[i];
            return true;
        }
    }
    return true;
}

bool peft_config_rank_alpha(const struct peft_config *config, const char *path, size_t *rank_out,
                            double *alpha_out, struct error *err)
{
    const struct peft_pattern *rank, *alpha;
    if (!find_pattern(config->rank_pattern, config->n_rank_patterns, path, &rank, err) ||
        !find_pattern(config->alpha_pattern, config->n_alpha_patterns, path, &alpha, err))
        return false;
    *rank_out = rank ? (size_t)rank->value : config->rank;
    *alpha_out = alpha ? alpha->value : config->alpha;
    return true;
}

double peft_config_scale(const struct peft_config *config, size_t rank, double alpha)
{
    return config->use_rslora ? alpha / sqrt((double)rank) : alpha / (double)rank;
}
