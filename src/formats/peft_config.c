/*
 * peft_config.c - one table says what happens to each field: read, ignored, or refused when set.
 *
 * A field that is in no row is reported as a warning, unless it is empty: new kinds of LoRA announce
 * themselves by a new field.
 */
#include "formats/peft_config.h"

#include <assert.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/limits.h"
#include "formats/peft_regex.h"

#define WHAT "adapter_config.json"

enum {
    DEFAULT_RANK = 8,
    DEFAULT_ALPHA = 8,
    MOST_NAMES = 1 << 14, /* entries of a list: twice every module of the deepest model */
    MOST_WARNINGS = 32,
    ARENA_CHUNK = 16 * 1024
};

struct parse {
    struct peft_config *config;
    const json_t *object;
    struct error *err;
    const char *warnings[MOST_WARNINGS];
    bool allow_other_heads;
};

/* --- small tools --- */

static bool no_memory(struct parse *parse)
{
    return error_no_memory(parse->err);
}

static bool warn(struct parse *parse, const char *format, ...) PRINTF_LIKE(2, 3);
static bool warn(struct parse *parse, const char *format, ...)
{
    char text[512];
    va_list arguments;
    if (parse->config->n_warnings == MOST_WARNINGS)
        return true;
    if (parse->config->n_warnings == MOST_WARNINGS - 1)
        format = "there are more warnings, which were left out";
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    /* error_set cleans what it is given; warnings quote the file too. */
    struct error cleaned;
    error_set(&cleaned, ERROR_NONE, NULL, "%s", text);
    char *copy = arena_copy_text(&parse->config->arena, cleaned.message, strlen(cleaned.message));
    if (!copy)
        return no_memory(parse);
    parse->warnings[parse->config->n_warnings++] = copy;
    return true;
}

/* "key ...", with the key as param. */
static bool refuse(struct parse *parse, enum error_code code, const char *key, const char *format, ...)
    PRINTF_LIKE(4, 5);
static bool refuse(struct parse *parse, enum error_code code, const char *key, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_set(parse->err, code, key, "%s %s", key, text);
}

static bool wrong(struct parse *parse, const char *key, const char *expected, const json_t *value)
{
    char found[96];
    return error_set(parse->err, ERROR_BAD_INPUT, key, "'%s' must be %s, but is %s", key, expected,
                     json_describe(value, found, sizeof found));
}

/* null, false, 0, "", [] and {}: what a field holds that is not used. */
static bool is_empty(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_NULL:
    case JSON_FALSE:
        return true;
    case JSON_TRUE:
        return false;
    case JSON_STRING:
        return json_string_length(value) == 0;
    case JSON_ARRAY:
        return json_array_size(value) == 0;
    case JSON_OBJECT:
        return json_object_size(value) == 0;
    case JSON_INTEGER:
        return json_integer_value(value) == 0;
    case JSON_REAL:
        return json_real_value(value) == 0.0;
    }
    return false;
}

static bool copy_text(struct parse *parse, const char *key, const char *text, size_t maximum,
                      const char **out)
{
    size_t n_bytes = strlen(text);
    if (n_bytes > maximum)
        return refuse(parse, ERROR_TOO_LARGE, key, "has a text of %zu bytes; at most %zu are allowed",
                      n_bytes, maximum);
    *out = arena_copy_text(&parse->config->arena, text, n_bytes);
    return *out || no_memory(parse);
}

static bool read_text(struct parse *parse, const char *key, const char **out)
{
    const char *text = NULL;
    return json_get_string(parse->object, key, &text, parse->err) &&
           (!text || copy_text(parse, key, text, LIMIT_CONFIG_BYTES, out));
}

/* The strings of a list. */
static bool read_names(struct parse *parse, const char *key, const json_t *list, const char *const **out,
                       size_t *n_out)
{
    size_t n = json_array_size(list);
    if (n > MOST_NAMES)
        return refuse(parse, ERROR_TOO_LARGE, key, "has %zu entries; at most %d are allowed", n, MOST_NAMES);
    const char **names = arena_allocate_array(&parse->config->arena, n, sizeof *names);
    if (!names)
        return no_memory(parse);
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_string(value) || json_string_length(value) == 0)
            return wrong(parse, key, "a list of names", value);
        if (!copy_text(parse, key, json_string_value(value), LIMIT_NAME_BYTES, &names[i]))
            return false;
    }
    *out = names;
    *n_out = n;
    return true;
}

static bool read_indices(struct parse *parse, const char *key, const json_t *list, int64_t maximum,
                         const int64_t **out, size_t *n_out)
{
    char expected[64];
    size_t n = json_array_size(list);
    int64_t *indices = arena_allocate_array(&parse->config->arena, n, sizeof *indices);
    if (!indices)
        return no_memory(parse);
    snprintf(expected, sizeof expected, "a list of integers from 0 to %lld", (long long)maximum);
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_to_int(value, &indices[i]) || indices[i] < 0 || indices[i] > maximum)
            return wrong(parse, key, expected, value);
    }
    *out = indices;
    *n_out = n;
    return true;
}

static struct peft_matcher *need_matcher(struct parse *parse)
{
    if (!parse->config->matcher)
        parse->config->matcher = peft_matcher_create(parse->err);
    return parse->config->matcher;
}

static bool compile(struct parse *parse, const char *key, const char *text, enum peft_regex_form form,
                    struct peft_regex **out)
{
    struct peft_matcher *matcher = need_matcher(parse);
    *out = matcher ? peft_regex_compile(matcher, text, form, key, parse->err) : NULL;
    return *out;
}

/* --- fields that are read --- */

static bool read_peft_type(struct parse *parse)
{
    const char *type;
    if (!json_require_string(parse->object, "peft_type", &type, parse->err))
        return false;
    if (strcmp(type, "LORA") == 0)
        return true;
    return refuse(parse, ERROR_MISMATCH, "peft_type", "is '%s'; only LORA adapters are served", type);
}

static bool read_task_type(struct parse *parse)
{
    struct peft_config *config = parse->config;
    if (!read_text(parse, "task_type", &config->task_type))
        return false;
    if (!config->task_type || strcmp(config->task_type, "CAUSAL_LM") == 0)
        return true;
    if (parse->allow_other_heads)
        return warn(parse,
                    "task_type is '%s': its head is ignored, its low-rank pairs are used to generate text",
                    config->task_type);
    return refuse(parse, ERROR_MISMATCH, "task_type",
                  "is '%s'; the adapter was trained for another task than generating text (CAUSAL_LM)",
                  config->task_type);
}

static bool read_rank(struct parse *parse)
{
    return json_get_size(parse->object, "r", 1, LIMIT_RANK, &parse->config->rank, parse->err);
}

static bool read_alpha(struct parse *parse)
{
    if (!json_get_number(parse->object, "lora_alpha", -LIMIT_ALPHA, LIMIT_ALPHA, &parse->config->alpha,
                         parse->err))
        return false;
    return parse->config->alpha != 0.0 || warn(parse, "lora_alpha is 0: the adapter changes nothing");
}

static bool read_use_rslora(struct parse *parse)
{
    return json_get_bool(parse->object, "use_rslora", &parse->config->use_rslora, parse->err);
}

static bool read_use_dora(struct parse *parse)
{
    return json_get_bool(parse->object, "use_dora", &parse->config->use_dora, parse->err);
}

static bool read_lora_bias(struct parse *parse)
{
    return json_get_bool(parse->object, "lora_bias", &parse->config->lora_bias, parse->err);
}

static bool read_fan_in_fan_out(struct parse *parse)
{
    return json_get_bool(parse->object, "fan_in_fan_out", &parse->config->fan_in_fan_out, parse->err);
}

static bool read_weight_tying(struct parse *parse)
{
    return json_get_bool(parse->object, "ensure_weight_tying", &parse->config->ensure_weight_tying,
                         parse->err);
}

static bool read_bias(struct parse *parse)
{
    const char *bias = "none";
    if (!json_get_string(parse->object, "bias", &bias, parse->err))
        return false;
    if (strcmp(bias, "none") == 0)
        parse->config->bias = PEFT_BIAS_NONE;
    else if (strcmp(bias, "all") == 0)
        parse->config->bias = PEFT_BIAS_ALL;
    else if (strcmp(bias, "lora_only") == 0)
        parse->config->bias = PEFT_BIAS_LORA_ONLY;
    else
        return refuse(parse, ERROR_BAD_INPUT, "bias", "must be none, all or lora_only, but is '%.100s'",
                      bias);
    return true;
}

/* A key that is nothing but a path: letters, digits, '_', '-' and dots, perhaps with '^' in front and
   with "\." for dots. Tools write one for nearly every module, so these are compared without PCRE2. */
static bool is_plain_key(const char *key)
{
    if (*key == '^')
        key++;
    for (; *key; key++) {
        if (*key == '\\' && key[1] == '.')
            key++;
        else if (!isascii((unsigned char)*key) || (!isalnum((unsigned char)*key) && !strchr("_-.", *key)))
            return false;
    }
    return true;
}

static bool read_pattern_value(const json_t *value, double minimum, double maximum, bool whole, double *out)
{
    int64_t integer;
    if (whole) {
        if (!json_to_int(value, &integer))
            return false;
        *out = (double)integer;
    } else if (json_is_number(value))
        *out = json_number_value(value);
    else
        return false;
    return isfinite(*out) && *out >= minimum && *out <= maximum;
}

static bool read_patterns(struct parse *parse, const char *name, bool of_ranks,
                          const struct peft_pattern **out, size_t *n_out)
{
    const json_t *object = NULL;
    const char *key;
    json_t *value;
    char expected[96];
    double minimum = of_ranks ? 1 : -LIMIT_ALPHA, maximum = of_ranks ? LIMIT_RANK : LIMIT_ALPHA;
    if (!json_get_object(parse->object, name, &object, parse->err))
        return false;
    if (!object)
        return true;

    size_t n = 0;
    struct peft_pattern *patterns =
        arena_allocate_array(&parse->config->arena, json_object_size(object), sizeof *patterns);
    if (!patterns)
        return no_memory(parse);
    snprintf(expected, sizeof expected,
             of_ranks ? "an integer from %.0f to %.0f" : "a number from %.0f to %.0f", minimum, maximum);
    JSON_FOR_EACH (object, key, value) {
        struct peft_pattern *pattern = &patterns[n++];
        if (!read_pattern_value(value, minimum, maximum, of_ranks, &pattern->value)) {
            wrong(parse, key, expected, value);
            error_prefix_param(parse->err, name);
            error_prefix(parse->err, "%s", name);
            return false;
        }
        if (!copy_text(parse, name, key, LIMIT_PATTERN_BYTES, &pattern->key))
            return false;
        if (!is_plain_key(key) && !compile(parse, name, key, PEFT_REGEX_SUFFIX, &pattern->compiled))
            return false;
    }
    *out = patterns;
    *n_out = n;
    return true;
}

static bool read_rank_pattern(struct parse *parse)
{
    return read_patterns(parse, "rank_pattern", true, &parse->config->rank_pattern,
                         &parse->config->n_rank_patterns);
}

static bool read_alpha_pattern(struct parse *parse)
{
    return read_patterns(parse, "alpha_pattern", false, &parse->config->alpha_pattern,
                         &parse->config->n_alpha_patterns);
}

static bool read_modules(struct parse *parse, const char *key, struct peft_modules *out)
{
    const json_t *value = json_object_get(parse->object, key);
    if (json_is_absent(parse->object, key))
        return true;
    struct peft_modules modules = {.is_given = true};
    if (json_is_array(value)) {
        if (!read_names(parse, key, value, &modules.names, &modules.n_names))
            return false;
    } else if (json_is_string(value)) {
        if (!copy_text(parse, key, json_string_value(value), LIMIT_PATTERN_BYTES, &modules.regex) ||
            !compile(parse, key, modules.regex, PEFT_REGEX_WHOLE, &modules.compiled))
            return false;
    } else
        return wrong(parse, key, "a list of names or a string", value);
    *out = modules;
    return true;
}

static bool read_target_modules(struct parse *parse)
{
    const char *text = json_string_value(json_object_get(parse->object, "target_modules"));
    if (text && strcasecmp(text, "all-linear") == 0) {
        parse->config->target_modules = (struct peft_modules){.is_given = true, .is_all_linear = true};
        return true;
    }
    return read_modules(parse, "target_modules", &parse->config->target_modules);
}

static bool read_exclude_modules(struct parse *parse)
{
    return read_modules(parse, "exclude_modules", &parse->config->exclude_modules);
}

static bool read_modules_to_save(struct parse *parse)
{
    const json_t *list = NULL;
    return json_get_array(parse->object, "modules_to_save", &list, parse->err) &&
           (!list || read_names(parse, "modules_to_save", list, &parse->config->modules_to_save,
                                &parse->config->n_modules_to_save));
}

static bool read_layers_to_transform(struct parse *parse)
{
    static const char KEY[] = "layers_to_transform";
    struct peft_config *config = parse->config;
    json_t *value = json_object_get(parse->object, KEY);
    if (json_is_absent(parse->object, KEY))
        return true;
    if (json_is_array(value))
        return read_indices(parse, KEY, value, LIMIT_LAYERS - 1, &config->layers_to_transform,
                            &config->n_layers_to_transform);
    if (!json_is_number(value))
        return wrong(parse, KEY, "an integer or a list of integers", value);
    json_t *list = json_array();
    bool read = list && json_array_append(list, value) == 0
                    ? read_indices(parse, KEY, list, LIMIT_LAYERS - 1, &config->layers_to_transform,
                                   &config->n_layers_to_transform)
                    : no_memory(parse);
    json_decref(list);
    return read;
}

static bool compile_layers_pattern(struct parse *parse)
{
    struct peft_config *config = parse->config;
    struct peft_regex **regexes =
        arena_allocate_array(&config->arena, config->n_layers_pattern, sizeof *regexes);
    if (!regexes)
        return no_memory(parse);
    for (size_t i = 0; i < config->n_layers_pattern; i++)
        if (!compile(parse, "layers_pattern", config->layers_pattern[i], PEFT_REGEX_LAYER, &regexes[i]))
            return false;
    config->layers_regexes = regexes;
    return true;
}

static bool read_layers_pattern(struct parse *parse)
{
    static const char KEY[] = "layers_pattern";
    struct peft_config *config = parse->config;
    const json_t *value = json_object_get(parse->object, KEY);
    if (!value || is_empty(value))
        return true;
    if (json_is_string(value)) {
        const char **names = arena_allocate_array(&config->arena, 1, sizeof *names);
        if (!names)
            return no_memory(parse);
        if (!copy_text(parse, KEY, json_string_value(value), LIMIT_NAME_BYTES, &names[0]))
            return false;
        config->layers_pattern = names;
        config->n_layers_pattern = 1;
    } else if (!json_is_array(value))
        return wrong(parse, KEY, "a name or a list of names", value);
    else if (!read_names(parse, KEY, value, &config->layers_pattern, &config->n_layers_pattern))
        return false;
    return compile_layers_pattern(parse);
}

static int compare_indices(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

/* Two rows for one token would leave it open which one counts. */
static bool check_distinct(struct parse *parse, const char *key, const struct peft_token_indices *tokens)
{
    if (tokens->n_indices == 0)
        return true;
    int64_t *sorted = arena_allocate_array(&parse->config->arena, tokens->n_indices, sizeof *sorted);
    if (!sorted)
        return no_memory(parse);
    memcpy(sorted, tokens->indices, tokens->n_indices * sizeof *sorted);
    qsort(sorted, tokens->n_indices, sizeof *sorted, compare_indices);
    for (size_t i = 1; i < tokens->n_indices; i++)
        if (sorted[i] == sorted[i - 1])
            return refuse(parse, ERROR_BAD_INPUT, key, "lists token %lld twice", (long long)sorted[i]);
    return true;
}

static bool read_token_list(struct parse *parse, const json_t *list, const char *module,
                            struct peft_token_indices *out)
{
    static const char KEY[] = "trainable_token_indices";
    if (!json_is_array(list))
        return wrong(parse, KEY, "a list of token ids, or an object of such lists", list);
    if (module && !copy_text(parse, KEY, module, LIMIT_NAME_BYTES, &out->module))
        return false;
    return read_indices(parse, KEY, list, (int64_t)LIMIT_VOCAB - 1, &out->indices, &out->n_indices) &&
           check_distinct(parse, KEY, out);
}

static bool read_token_indices(struct parse *parse)
{
    struct peft_config *config = parse->config;
    json_t *value = json_object_get(parse->object, "trainable_token_indices");
    if (!value || is_empty(value))
        return true;
    size_t n_modules = json_is_object(value) ? json_object_size(value) : 1;
    struct peft_token_indices *modules = arena_allocate_array(&config->arena, n_modules, sizeof *modules);
    if (!modules)
        return no_memory(parse);
    if (!json_is_object(value)) {
        if (!read_token_list(parse, value, NULL, &modules[0]))
            return false;
    } else {
        const char *key;
        json_t *list;
        size_t n = 0;
        JSON_FOR_EACH (value, key, list)
            if (!read_token_list(parse, list, key, &modules[n++]))
                return false;
    }
    config->token_indices = modules;
    config->n_token_indices = n_modules;
    return true;
}

static bool has_prefix(const char *text, const char *prefix)
{
    return strncasecmp(text, prefix, strlen(prefix)) == 0;
}

/* PEFT, "checkpoint format" and LoraConfig: these initialisers take s B0 A0 off the base weights before
   training, so that the adapter is right on a base that nobody has. */
static bool read_initialiser(struct parse *parse)
{
    static const char KEY[] = "init_lora_weights";
    static const char *const HARMLESS[] = {"gaussian", "orthogonal", "eva", "mica"};
    const json_t *value = json_object_get(parse->object, KEY);
    if (json_is_absent(parse->object, KEY) || json_is_boolean(value))
        return true;
    if (!json_is_string(value))
        return wrong(parse, KEY, "true, false or a string", value);
    const char *name = json_string_value(value);
    for (size_t i = 0; i < sizeof HARMLESS / sizeof *HARMLESS; i++)
        if (strcasecmp(name, HARMLESS[i]) == 0)
            return true;
    if (has_prefix(name, "pissa") || has_prefix(name, "corda") || strcasecmp(name, "olora") == 0 ||
        strcasecmp(name, "lora_ga") == 0)
        return refuse(
            parse, ERROR_MISMATCH, KEY,
            "is '%s': training changed the base weights, and the adapter is only right on those. Save it "
            "again with save_pretrained(..., path_initial_model_for_weight_conversion=...), which makes a "
            "plain LoRA of it",
            name);
    if (strcasecmp(name, "loftq") == 0)
        return refuse(
            parse, ERROR_MISMATCH, KEY,
            "is 'loftq': the adapter is only right on the base that LoftQ quantised for it. Convert it to "
            "a plain LoRA against the original base (path_initial_model_for_weight_conversion), or train "
            "it without LoftQ");
    return refuse(parse, ERROR_MISMATCH, KEY, "is '%s', an initialiser that we do not know", name);
}

static bool read_base_model_name(struct parse *parse)
{
    return read_text(parse, "base_model_name_or_path", &parse->config->base_model_name);
}

static bool read_peft_version(struct parse *parse)
{
    return read_text(parse, "peft_version", &parse->config->peft_version);
}

/* --- the table --- */

typedef bool field_reader(struct parse *parse);

static const struct field {
    const char *name;
    field_reader *read;   /* NULL: not read */
    const char *refusal;  /* not NULL: refused when set, with this reason */
    bool empty_means_set; /* for refusals: {} and [] count as set, since PEFT fills in defaults */
} FIELDS[] = {
    {.name = "peft_type", .read = read_peft_type}, /* first: the rest means something else in other types */
    {.name = "alora_invocation_tokens",
     .refusal = "an activated LoRA (aLoRA), which switches on in the middle of a prompt",
     .empty_means_set = true},
    {.name = "arrow_config", .refusal = "Arrow routing between adapters", .empty_means_set = true},
    {.name = "kasa_config", .refusal = "KaSA, which changes the base weights", .empty_means_set = true},
    {.name = "use_bdlora", .refusal = "a block-diagonal LoRA", .empty_means_set = true},
    {.name = "use_qalora", .refusal = "QALoRA, which pools inputs by quantisation groups"},
    {.name = "layer_replication", .refusal = "layer replication, which rebuilds the base with more layers"},
    {.name = "target_parameters", .refusal = "LoRA on raw parameters (experts)"},
    {.name = "megatron_config", .refusal = "Megatron's sharded layers"},
    {.name = "enable_lora", .refusal = "merged linear layers of PEFT before 0.3"},
    {.name = "task_type", .read = read_task_type},
    {.name = "init_lora_weights", .read = read_initialiser},
    {.name = "r", .read = read_rank},
    {.name = "lora_alpha", .read = read_alpha},
    {.name = "use_rslora", .read = read_use_rslora},
    {.name = "use_dora", .read = read_use_dora},
    {.name = "lora_bias", .read = read_lora_bias},
    {.name = "fan_in_fan_out", .read = read_fan_in_fan_out},
    {.name = "ensure_weight_tying", .read = read_weight_tying},
    {.name = "bias", .read = read_bias},
    {.name = "rank_pattern", .read = read_rank_pattern},
    {.name = "alpha_pattern", .read = read_alpha_pattern},
    {.name = "target_modules", .read = read_target_modules},
    {.name = "exclude_modules", .read = read_exclude_modules},
    {.name = "modules_to_save", .read = read_modules_to_save},
    {.name = "layers_to_transform", .read = read_layers_to_transform},
    {.name = "layers_pattern", .read = read_layers_pattern},
    {.name = "trainable_token_indices", .read = read_token_indices},
    {.name = "base_model_name_or_path", .read = read_base_model_name},
    {.name = "peft_version", .read = read_peft_version},
    /* Ignored. Where it comes from: */
    {.name = "revision"},
    {.name = "auto_mapping"},
    {.name = "inference_mode"},
    {.name = "runtime_config"},
    /* what only training asks: */
    {.name = "lora_dropout"},
    {.name = "merge_weights"},
    {.name = "velora_config"},
    {.name = "monteclora_config"},
    /* how initialisers worked that init_lora_weights judges: */
    {.name = "loftq_config"},
    {.name = "eva_config"},
    {.name = "corda_config"},
    {.name = "lora_ga_config"},
    /* and what belongs to a field that is refused above: */
    {.name = "megatron_core"},
    {.name = "qalora_group_size"},
};

enum { N_FIELDS = sizeof FIELDS / sizeof *FIELDS };

static bool is_known(const char *key)
{
    for (size_t i = 0; i < N_FIELDS; i++)
        if (strcmp(FIELDS[i].name, key) == 0)
            return true;
    return false;
}

static bool apply_field(struct parse *parse, const struct field *field)
{
    const json_t *value = json_object_get(parse->object, field->name);
    if (field->read)
        return field->read(parse);
    if (!value || !field->refusal || json_is_null(value) || json_is_false(value) ||
        (is_empty(value) && !field->empty_means_set))
        return true;
    return refuse(parse, ERROR_MISMATCH, field->name, "is set: %s is not served", field->refusal);
}

static bool report_unknown(struct parse *parse)
{
    const char *key;
    json_t *value;
    char found[96];
    JSON_FOR_EACH (parse->object, key, value)
        if (!is_known(key) && !is_empty(value) &&
            !warn(parse, "the field '%.100s' is unknown and was ignored; it is %s", key,
                  json_describe(value, found, sizeof found)))
            return false;
    return true;
}

/* What PEFT refuses when it makes such a config. */
static bool check_combinations(struct parse *parse)
{
    const struct peft_config *config = parse->config;
    bool is_list = !config->target_modules.regex && !config->target_modules.is_all_linear;
    if (!is_list && !json_is_absent(parse->object, "layers_to_transform"))
        return refuse(parse, ERROR_BAD_INPUT, "layers_to_transform", "needs target_modules to be a list");
    if (!is_list && !json_is_absent(parse->object, "layers_pattern"))
        return refuse(parse, ERROR_BAD_INPUT, "layers_pattern", "needs target_modules to be a list");
    if (config->n_layers_pattern && json_is_absent(parse->object, "layers_to_transform"))
        return refuse(parse, ERROR_BAD_INPUT, "layers_pattern", "needs layers_to_transform");
    if (config->lora_bias && config->use_dora)
        return refuse(parse, ERROR_BAD_INPUT, "lora_bias", "does not go with use_dora");
    return true;
}

static bool finish_warnings(struct parse *parse)
{
    struct peft_config *config = parse->config;
    const char **warnings = arena_allocate_array(&config->arena, config->n_warnings, sizeof *warnings);
    if (!warnings)
        return no_memory(parse);
    for (size_t i = 0; i < config->n_warnings; i++)
        warnings[i] = parse->warnings[i];
    config->warnings = warnings;
    return true;
}

bool peft_config_parse(struct peft_config *out, const char *text, size_t n_bytes, bool allow_other_heads,
                       struct error *err)
{
    struct peft_config config = {.rank = DEFAULT_RANK, .alpha = DEFAULT_ALPHA};
    json_t *object = json_parse_object(text, n_bytes, JSON_PLAIN, WHAT, err);
    if (!object)
        return false;
    struct parse parse = {
        .config = &config, .object = object, .err = err, .allow_other_heads = allow_other_heads};
    arena_init(&config.arena, ARENA_CHUNK);

    bool parsed = true;
    for (size_t i = 0; parsed && i < N_FIELDS; i++)
        parsed = apply_field(&parse, &FIELDS[i]);
    parsed = parsed && check_combinations(&parse) && report_unknown(&parse) && finish_warnings(&parse);
    json_decref(object);
    if (!parsed) {
        error_prefix(err, WHAT);
        peft_config_finish(&config);
        return false;
    }
    *out = config;
    return true;
}

void peft_config_finish(struct peft_config *config)
{
    if (!config)
        return;
    peft_matcher_destroy(config->matcher);
    arena_finish(&config->arena);
    *config = (struct peft_config){0};
}
