/*
 * config.c - config.json to struct model_config.
 *
 * A missing field means the class's default, because the file is written as a difference to it. Two styles are read:
 * rope_theta and rope_scaling beside each other, and rope_parameters holding both. What would change the
 * arithmetic and is not served is refused by name.
 */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/limits.h"
#include "model/family.h"

static bool refuse(struct error *err, const char *field, const char *why)
{
    return error_set(err, ERROR_MISMATCH, field, "config.json: %s", why);
}

/* The one of two names under which a field is in the file. */
static const char *present_name(const json_t *config, const char *name, const char *alias)
{
    return alias && !json_object_get(config, name) && json_object_get(config, alias) ? alias : name;
}

static bool is_null(const json_t *config, const char *name)
{
    return json_is_null(json_object_get(config, name));
}

static bool get_size(const json_t *config, const char *name, const char *alias, size_t maximum, size_t *out,
                     struct error *err)
{
    return json_get_size(config, present_name(config, name, alias), 1, maximum, out, err);
}

static bool find_family(struct model_config *out, const json_t *config, struct error *err)
{
    const char *model_type = NULL;
    if (!json_require_string(config, "model_type", &model_type, err))
        return false;
    out->family = family_find(model_type);
    if (!out->family)
        return error_set(err, ERROR_MISMATCH, "model_type", "config.json: models of type '%s' are not served, but %s",
                         model_type, family_list());
    strncpy(out->model_type, model_type, sizeof out->model_type - 1);
    return true;
}

/* A classifier or reward model has the body of a language model and another head. */
static bool check_architecture(const struct family *family, const json_t *config, struct error *err)
{
    const json_t *architectures = NULL;
    if (!json_get_array(config, "architectures", &architectures, err))
        return false;
    const json_t *first = json_array_get(architectures, 0);
    if (!first)
        return true;
    const char *name = json_string_value(first);
    for (size_t i = 0; name && i < 2; i++)
        if (strcmp(name, family->architectures[i]) == 0)
            return true;
    return error_set(err, ERROR_MISMATCH, "architectures", "config.json: '%s' is not a causal language model of type %s",
                     name ? name : "(not a string)", family->model_type);
}

static bool refuse_unless_absent_or_zero(const json_t *config, const char *field, const char *why, struct error *err)
{
    int64_t n = 0;
    if (!json_get_int(config, field, INT64_MIN, INT64_MAX, &n, err))
        return false;
    return n == 0 || refuse(err, field, why);
}

static bool refuse_if_true(const json_t *config, const char *field, const char *why, struct error *err)
{
    bool value = false;
    if (!json_get_bool(config, field, &value, err))
        return false;
    return !value || refuse(err, field, why);
}

static bool check_unsupported(const struct family *family, const json_t *config, struct error *err)
{
    static const char *const EXPERTS[] = {"num_experts", "num_local_experts", "n_routed_experts"};
    for (size_t i = 0; i < sizeof EXPERTS / sizeof *EXPERTS; i++)
        if (!refuse_unless_absent_or_zero(config, EXPERTS[i], "mixtures of experts are not served", err))
            return false;
    if (!json_is_absent(config, "quantization_config"))
        return refuse(err, "quantization_config", "quantised weights are not served; take the unquantised model");
    if (family->window == WINDOW_ALL_LAYERS && !json_is_absent(config, "layer_types"))
        return refuse(err, "layer_types", "mistral models with layer_types are another architecture, which is not served");
    return refuse_if_true(config, "add_cross_attention", "models with cross attention are not served", err) &&
           refuse_if_true(config, "is_encoder_decoder", "encoder-decoder models are not served", err) &&
           refuse_if_true(config, "alibi", "alibi is not served", err) &&
           refuse_if_true(config, "use_bidirectional_attention", "bidirectional attention is not served", err);
}

static bool parse_heads(struct model_config *out, const json_t *config, struct error *err)
{
    const struct family *family = out->family;
    const struct family_fields *fields = &family->fields;

    out->n_heads = family->n_heads;
    if (!get_size(config, fields->n_heads, family->aliases.n_heads, LIMIT_HEADS, &out->n_heads, err))
        return false;
    out->n_kv_heads = family->n_kv_heads ? family->n_kv_heads : out->n_heads;
    if (fields->n_kv_heads) {
        /* null is not the same as missing: it asks for as many as heads. */
        if (is_null(config, fields->n_kv_heads))
            out->n_kv_heads = out->n_heads;
        if (!get_size(config, fields->n_kv_heads, NULL, LIMIT_HEADS, &out->n_kv_heads, err))
            return false;
        if (out->n_heads % out->n_kv_heads)
            return error_set(err, ERROR_BAD_INPUT, fields->n_kv_heads, "config.json: %zu heads cannot share %zu key/value heads",
                             out->n_heads, out->n_kv_heads);
    }

    out->d_head = family->d_head;
    if (fields->d_head) {
        if (is_null(config, fields->d_head))
            out->d_head = 0;
        if (!get_size(config, fields->d_head, NULL, LIMIT_WIDTH, &out->d_head, err))
            return false;
    }
    if (out->d_head == 0) {
        if (out->d_model % out->n_heads)
            return error_set(err, ERROR_BAD_INPUT, fields->d_model, "config.json: a width of %zu cannot be cut into %zu heads",
                             out->d_model, out->n_heads);
        out->d_head = out->d_model / out->n_heads;
    }
    if (out->n_heads * out->d_head > LIMIT_WIDTH)
        return error_set(err, ERROR_TOO_LARGE, fields->n_heads, "config.json: %zu heads of %zu are wider than %zu",
                         out->n_heads, out->d_head, LIMIT_WIDTH);
    if (family->position == POSITION_ROPE && out->d_head % 2)
        return error_set(err, ERROR_BAD_INPUT, fields->d_head, "config.json: heads of odd width %zu cannot be rotated",
                         out->d_head);
    return true;
}

static bool parse_sizes(struct model_config *out, const json_t *config, struct error *err)
{
    const struct family *family = out->family;
    const struct family_fields *fields = &family->fields, *aliases = &family->aliases;

    out->d_model = family->d_model;
    out->n_layers = family->n_layers;
    out->max_positions = family->max_positions;
    out->n_vocab = family->n_vocab;
    if (!get_size(config, fields->d_model, aliases->d_model, LIMIT_WIDTH, &out->d_model, err) ||
        !get_size(config, fields->n_layers, aliases->n_layers, LIMIT_LAYERS, &out->n_layers, err) ||
        !get_size(config, fields->max_positions, aliases->max_positions, LIMIT_CONTEXT, &out->max_positions, err) ||
        !get_size(config, "vocab_size", NULL, LIMIT_VOCAB, &out->n_vocab, err))
        return false;
    out->d_ffn = family->d_ffn ? family->d_ffn : 4 * out->d_model;
    if (!get_size(config, fields->d_ffn, NULL, LIMIT_WIDTH, &out->d_ffn, err))
        return false;
    if (out->d_ffn > LIMIT_WIDTH)
        return error_set(err, ERROR_TOO_LARGE, fields->d_ffn, "config.json: %zu is more than %zu", out->d_ffn, LIMIT_WIDTH);
    return parse_heads(out, config, err);
}

static bool parse_activation(struct model_config *out, const json_t *config, struct error *err)
{
    static const struct {
        const char *name;
        enum activation activation;
    } NAMES[] = {
        {"silu", ACTIVATION_SILU},          {"swish", ACTIVATION_SILU},
        {"gelu", ACTIVATION_GELU_ERF},      {"gelu_new", ACTIVATION_GELU_TANH},
        {"gelu_fast", ACTIVATION_GELU_TANH}, {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
        {"relu", ACTIVATION_RELU},
    };
    const char *field = out->family->fields.activation, *name = out->family->activation;
    if (!json_get_string(config, field, &name, err))
        return false;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp(name, NAMES[i].name) == 0) {
            out->activation = NAMES[i].activation;
            return true;
        }
    return error_set(err, ERROR_MISMATCH, field, "config.json: the activation '%s' is not served", name);
}

static bool parse_biases(struct model_config *out, const json_t *config, struct error *err)
{
    const struct family *family = out->family;
    bool attention = false, mlp = false;
    bool by_config = family->qkv_bias == BIAS_BY_CONFIG || family->attention_out_bias == BIAS_BY_CONFIG;

    if ((by_config && !json_get_bool(config, "attention_bias", &attention, err)) ||
        (family->mlp_bias == BIAS_BY_CONFIG && !json_get_bool(config, "mlp_bias", &mlp, err)))
        return false;
    out->attention_bias = family->qkv_bias == BIAS_ALWAYS || (family->qkv_bias == BIAS_BY_CONFIG && attention);
    out->attention_out_bias =
        family->attention_out_bias == BIAS_ALWAYS || (family->attention_out_bias == BIAS_BY_CONFIG && attention);
    out->mlp_bias = family->mlp_bias == BIAS_ALWAYS || mlp;
    return true;
}

static bool parse_attention_scale(struct model_config *out, const json_t *config, struct error *err)
{
    bool is_scaled = true;
    if (out->family->has_attention_scaling_fields &&
        (!json_get_bool(config, "scale_attn_weights", &is_scaled, err) ||
         !json_get_bool(config, "scale_attn_by_inverse_layer_idx", &out->scale_by_inverse_layer, err)))
        return false;
    out->attention_scale = is_scaled ? (float)(1.0 / sqrt((double)out->d_head)) : 1.0f;
    return true;
}

/* Layers as `layer_types` lists them; false in *out for "full_attention". */
static bool parse_layer_types(const json_t *types, size_t n_layers, bool *windowed, struct error *err)
{
    if (json_array_size(types) != n_layers)
        return error_set(err, ERROR_BAD_INPUT, "layer_types", "config.json: has %zu entries for %zu layers",
                         json_array_size(types), n_layers);
    for (size_t i = 0; i < n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        windowed[i] = type && strcmp(type, "sliding_attention") == 0;
        if (!windowed[i] && (!type || strcmp(type, "full_attention") != 0))
            return error_set(err, ERROR_MISMATCH, "layer_types", "config.json: layers of type '%s' are not served",
                             type ? type : "(not a string)");
    }
    return true;
}

/* Which layers have the window. `window` is 0 when there is none. */
static bool choose_windowed_layers(struct model_config *out, const json_t *config, size_t window, bool *windowed,
                                   struct error *err)
{
    const json_t *types = NULL;
    size_t first = 0;
    if (out->family->window == WINDOW_BY_LAYER) {
        first = 28;
        if (!json_get_array(config, "layer_types", &types, err) ||
            !json_get_size(config, "max_window_layers", 0, SIZE_MAX / 2, &first, err))
            return false;
    }
    if (types)
        return parse_layer_types(types, out->n_layers, windowed, err);
    for (size_t i = 0; i < out->n_layers; i++)
        windowed[i] = window && i >= first;
    out->window_first_layer = first;
    return true;
}

static bool parse_window(struct model_config *out, const json_t *config, struct arena *arena, struct error *err)
{
    const struct family *family = out->family;
    if (family->window == WINDOW_NEVER)
        return true;

    size_t window = is_null(config, "sliding_window") ? 0 : family->sliding_window;
    bool is_used = family->window == WINDOW_ALL_LAYERS;
    if (!json_get_size(config, "sliding_window", 1, LIMIT_CONTEXT, &window, err) ||
        (!is_used && !json_get_bool(config, "use_sliding_window", &is_used, err)))
        return false;
    if (!is_used)
        window = 0;

    bool *windowed = arena_allocate_array(arena, out->n_layers, sizeof *windowed);
    if (!windowed)
        return error_no_memory(err);
    if (!choose_windowed_layers(out, config, window, windowed, err))
        return false;
    bool has_windows = false;
    for (size_t i = 0; i < out->n_layers; i++)
        has_windows |= windowed[i];
    if (!has_windows)
        return true;
    if (!window)
        return error_set(err, ERROR_BAD_INPUT, "layer_types",
                         "config.json: has sliding layers, but sliding_window is not set or not used");
    out->sliding_window = window;
    out->layer_is_windowed = windowed;
    return true;
}

static bool check_rope_fields(const json_t *rope, struct error *err)
{
    static const char *const KNOWN[] = {"rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor",
                                        "original_max_position_embeddings", "partial_rotary_factor", NULL};
    double fraction = 1;
    if (!json_is_absent(rope, "full_attention") || !json_is_absent(rope, "sliding_attention"))
        return refuse(err, "full_attention", "rope by type of layer is not served");
    if (!json_check_known(rope, KNOWN, err) || !json_get_number(rope, "partial_rotary_factor", 0, 1, &fraction, err))
        return false;
    return fraction == 1 || refuse(err, "partial_rotary_factor", "rope over a part of each head is not served");
}

static bool require_factor(const json_t *rope, const char *field, double *out, struct error *err)
{
    if (json_is_absent(rope, field))
        return error_set(err, ERROR_BAD_INPUT, field, "config.json: is missing");
    return json_get_number(rope, field, 1e-3, 1e6, out, err);
}

static bool parse_rope_scaling(struct model_config *out, const json_t *rope, struct error *err)
{
    const char *type = "default";
    const char *field = json_is_absent(rope, "rope_type") ? "type" : "rope_type";
    if (!json_get_string(rope, field, &type, err))
        return false;
    if (strcmp(type, "default") != 0 && strcmp(type, "linear") != 0 && strcmp(type, "llama3") != 0)
        return error_set(err, ERROR_MISMATCH, field, "config.json: rope scaling of type '%s' is not served, but default, linear, llama3",
                         type);
    if (!check_rope_fields(rope, err) || !json_get_number(rope, "rope_theta", 1e-3, 1e15, &out->rope_theta, err))
        return false;

    if (strcmp(type, "linear") == 0) {
        out->rope_scaling = ROPE_LINEAR;
        return require_factor(rope, "factor", &out->rope_factor, err);
    }
    if (strcmp(type, "llama3") != 0)
        return true;
    out->rope_scaling = ROPE_LLAMA3;
    out->rope_original_positions = out->max_positions;
    if (!require_factor(rope, "factor", &out->rope_factor, err) ||
        !require_factor(rope, "low_freq_factor", &out->rope_low_frequency_factor, err) ||
        !require_factor(rope, "high_freq_factor", &out->rope_high_frequency_factor, err) ||
        !json_get_size(rope, "original_max_position_embeddings", 1, LIMIT_CONTEXT, &out->rope_original_positions, err))
        return false;
    if (out->rope_high_frequency_factor <= out->rope_low_frequency_factor)
        return error_set(err, ERROR_BAD_INPUT, "high_freq_factor", "config.json: must be more than low_freq_factor");
    return true;
}

static bool parse_rope(struct model_config *out, const json_t *config, struct error *err)
{
    if (out->family->position != POSITION_ROPE)
        return true;
    const json_t *scaling = NULL, *parameters = NULL;
    double fraction = 1;
    out->rope_theta = 10000;
    out->rope_factor = 1;
    if (!json_get_number(config, "rope_theta", 1e-3, 1e15, &out->rope_theta, err) ||
        !json_get_number(config, "partial_rotary_factor", 0, 1, &fraction, err) ||
        !json_get_object(config, "rope_scaling", &scaling, err) ||
        !json_get_object(config, "rope_parameters", &parameters, err))
        return false;
    if (fraction != 1)
        return refuse(err, "partial_rotary_factor", "rope over a part of each head is not served");
    const char *name = json_object_size(scaling) ? "rope_scaling" : "rope_parameters";
    const json_t *rope = json_object_size(scaling) ? scaling : parameters;
    if (rope && !parse_rope_scaling(out, rope, err)) {
        error_prefix_param(err, name);
        return false;
    }
    return true;
}

bool model_config_parse(struct model_config *out, const json_t *config, struct arena *arena, struct error *err)
{
    struct model_config parsed = {0};
    double eps;

    if (!find_family(&parsed, config, err))
        return false;
    const struct family *family = parsed.family;
    eps = family->norm_eps;
    parsed.tied_head = family->tied_head;
    if (!check_architecture(family, config, err) || !check_unsupported(family, config, err) ||
        !parse_sizes(&parsed, config, err) || !json_get_number(config, family->fields.norm_eps, 0, 1, &eps, err) ||
        !json_get_bool(config, "tie_word_embeddings", &parsed.tied_head, err) ||
        !parse_activation(&parsed, config, err) || !parse_biases(&parsed, config, err) ||
        !parse_attention_scale(&parsed, config, err) || !parse_window(&parsed, config, arena, err) ||
        !parse_rope(&parsed, config, err))
        return false;
    parsed.norm_eps = (float)eps;
    *out = parsed;
    return true;
}
