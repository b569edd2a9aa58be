#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "base/json.h"
#include "model/model.h"

static bool parse(const char *text, struct model_config *out, struct arena *arena, struct error *err)
{
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    arena_init(arena, 1024);
    *err = (struct error){0};
    bool ok = model_config_parse(out, json, arena, err);
    json_decref(json);
    return ok;
}

static struct model_config must_parse(const char *text, struct arena *arena)
{
    struct model_config config;
    struct error err;
    if (!parse(text, &config, arena, &err))
        fail_msg("%s: %s", err.param, err.message);
    return config;
}

static void missing_fields_mean_the_class_defaults(void **state)
{
    struct arena arena;
    (void)state;
    struct model_config gpt2 = must_parse("{\"model_type\": \"gpt2\"}", &arena);
    assert_string_equal(family_name(gpt2.family), "gpt2");
    assert_int_equal(gpt2.n_layers, 12);
    assert_int_equal(gpt2.d_model, 768);
    assert_int_equal(gpt2.d_head, 64);
    assert_int_equal(gpt2.n_kv_heads, 12);
    assert_int_equal(gpt2.d_ffn, 3072);
    assert_int_equal(gpt2.max_positions, 1024);
    assert_int_equal(gpt2.n_vocab, 50257);
    assert_int_equal(gpt2.activation, ACTIVATION_GELU_TANH);
    assert_true(gpt2.tied_head && gpt2.attention_bias && gpt2.attention_out_bias && gpt2.mlp_bias);
    assert_float_equal(gpt2.attention_scale, 0.125, 0);
    arena_finish(&arena);

    struct model_config llama = must_parse("{\"model_type\": \"llama\"}", &arena);
    assert_int_equal(llama.n_kv_heads, 32);
    assert_int_equal(llama.d_head, 128);
    assert_false(llama.tied_head || llama.attention_bias || llama.mlp_bias);
    assert_float_equal(llama.rope_theta, 10000, 0);
    assert_null(llama.layer_is_windowed);
    arena_finish(&arena);

    struct model_config mistral = must_parse("{\"model_type\": \"mistral\"}", &arena);
    assert_int_equal(mistral.n_kv_heads, 8);
    assert_int_equal(mistral.sliding_window, 4096);
    assert_true(mistral.layer_is_windowed[0] && mistral.layer_is_windowed[31]);
    arena_finish(&arena);

    struct model_config qwen2 = must_parse("{\"model_type\": \"qwen2\"}", &arena);
    assert_true(qwen2.attention_bias && !qwen2.attention_out_bias && !qwen2.mlp_bias);
    assert_null(qwen2.layer_is_windowed);
    arena_finish(&arena);

    struct model_config qwen3 = must_parse("{\"model_type\": \"qwen3\", \"num_attention_heads\": 64}", &arena);
    assert_int_equal(qwen3.d_head, 128);
    assert_false(qwen3.attention_bias);
    arena_finish(&arena);
}

static void null_heads_follow_from_the_others(void **state)
{
    struct arena arena;
    (void)state;
    struct model_config config = must_parse("{\"model_type\": \"mistral\", \"hidden_size\": 96, \"num_attention_heads\": 6, "
                                            "\"num_key_value_heads\": null, \"head_dim\": null, \"sliding_window\": null}",
                                            &arena);
    assert_int_equal(config.n_kv_heads, 6);
    assert_int_equal(config.d_head, 16);
    assert_int_equal(config.sliding_window, 0);
    assert_null(config.layer_is_windowed);
    arena_finish(&arena);
}

static void both_styles_of_rope_say_the_same(void **state)
{
    static const char *const TEXTS[] = {
        "{\"model_type\": \"llama\", \"rope_theta\": 500000, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
        "\"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 8192}}",
        "{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_theta\": 500000.0, \"rope_type\": \"llama3\", \"factor\": 8.0, "
        "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}}",
        "{\"model_type\": \"llama\", \"rope_theta\": 500000, \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, "
        "\"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 8192}}",
    };
    struct arena arena;
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct model_config config = must_parse(TEXTS[i], &arena);
        assert_int_equal(config.rope_scaling, ROPE_LLAMA3);
        assert_float_equal(config.rope_theta, 500000, 0);
        assert_float_equal(config.rope_factor, 8, 0);
        assert_float_equal(config.rope_low_frequency_factor, 1, 0);
        assert_float_equal(config.rope_high_frequency_factor, 4, 0);
        assert_int_equal(config.rope_original_positions, 8192);
        arena_finish(&arena);
    }
    struct model_config linear = must_parse(
        "{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 2.5}, \"rope_theta\": 7}", &arena);
    assert_int_equal(linear.rope_scaling, ROPE_LINEAR);
    assert_float_equal(linear.rope_factor, 2.5, 0);
    assert_float_equal(linear.rope_theta, 7, 0);
    arena_finish(&arena);
    struct model_config plain =
        must_parse("{\"model_type\": \"llama\", \"rope_scaling\": null, \"rope_parameters\": {\"rope_type\": \"default\", "
                   "\"rope_theta\": 20000}}", &arena);
    assert_int_equal(plain.rope_scaling, ROPE_PLAIN);
    assert_float_equal(plain.rope_theta, 20000, 0);
    arena_finish(&arena);
}

static void windows_are_where_the_family_has_them(void **state)
{
    struct arena arena;
    (void)state;
    struct model_config config = must_parse("{\"model_type\": \"qwen2\", \"num_hidden_layers\": 4, \"use_sliding_window\": true, "
                                            "\"sliding_window\": 16, \"max_window_layers\": 3}", &arena);
    assert_int_equal(config.sliding_window, 16);
    assert_int_equal(config.window_first_layer, 3);
    assert_true(config.layer_is_windowed[3] && !config.layer_is_windowed[2]);
    arena_finish(&arena);
    config = must_parse("{\"model_type\": \"qwen3\", \"num_hidden_layers\": 2, \"use_sliding_window\": true, \"sliding_window\": 16, "
                        "\"max_window_layers\": 0, \"layer_types\": [\"sliding_attention\", \"full_attention\"]}", &arena);
    assert_true(config.layer_is_windowed[0] && !config.layer_is_windowed[1]);
    arena_finish(&arena);
    config = must_parse("{\"model_type\": \"qwen2\", \"use_sliding_window\": false, \"sliding_window\": 16, "
                        "\"max_window_layers\": 0}", &arena);
    assert_int_equal(config.sliding_window, 0);
    arena_finish(&arena);
    config = must_parse("{\"model_type\": \"llama\", \"sliding_window\": 16}", &arena);
    assert_null(config.layer_is_windowed);
    arena_finish(&arena);
}

static void gpt2_has_fields_of_its_own(void **state)
{
    struct arena arena;
    (void)state;
    struct model_config config = must_parse(
        "{\"model_type\": \"gpt2\", \"n_embd\": 64, \"n_head\": 4, \"n_inner\": 100, \"activation_function\": \"relu\", "
        "\"scale_attn_weights\": false, \"scale_attn_by_inverse_layer_idx\": true, \"layer_norm_epsilon\": 0.001, "
        "\"tie_word_embeddings\": false}", &arena);
    assert_int_equal(config.d_ffn, 100);
    assert_int_equal(config.activation, ACTIVATION_RELU);
    assert_float_equal(config.attention_scale, 1, 0);
    assert_true(config.scale_by_inverse_layer);
    assert_false(config.tied_head);
    assert_float_equal(config.norm_eps, 0.001f, 0);
    arena_finish(&arena);
    config = must_parse("{\"model_type\": \"gpt2\", \"hidden_size\": 48, \"num_attention_heads\": 3, \"num_hidden_layers\": 2, "
                        "\"n_inner\": null}", &arena);
    assert_int_equal(config.d_model, 48);
    assert_int_equal(config.d_ffn, 192);
    assert_int_equal(config.n_layers, 2);
    arena_finish(&arena);
}

static void what_is_not_served_is_refused_by_name(void **state)
{
    static const struct {
        const char *text, *param, *message;
        enum error_code code;
    } CASES[] = {
        {"{}", "model_type", "", ERROR_BAD_INPUT},
        {"{\"model_type\": 3}", "model_type", "", ERROR_BAD_INPUT},
        {"{\"model_type\": \"gemma2\"}", "model_type", "'gemma2'", ERROR_MISMATCH},
        {"{\"model_type\": \"llama\", \"architectures\": [\"LlamaForSequenceClassification\"]}", "architectures",
         "LlamaForSequenceClassification", ERROR_MISMATCH},
        {"{\"model_type\": \"llama\", \"quantization_config\": {\"quant_method\": \"gptq\"}}", "quantization_config",
         "unquantised", ERROR_MISMATCH},
        {"{\"model_type\": \"qwen2\", \"num_experts\": 60}", "num_experts", "experts", ERROR_MISMATCH},
        {"{\"model_type\": \"mistral\", \"num_local_experts\": 8}", "num_local_experts", "experts", ERROR_MISMATCH},
        {"{\"model_type\": \"mistral\", \"layer_types\": [\"full_attention\"]}", "layer_types", "mistral", ERROR_MISMATCH},
        {"{\"model_type\": \"gpt2\", \"add_cross_attention\": true}", "add_cross_attention", "cross", ERROR_MISMATCH},
        {"{\"model_type\": \"llama\", \"hidden_act\": \"quick_gelu\"}", "hidden_act", "'quick_gelu'", ERROR_MISMATCH},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}}", "rope_scaling.rope_type",
         "'yarn'", ERROR_MISMATCH},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4}}", "rope_scaling.type",
         "'dynamic'", ERROR_MISMATCH},
        {"{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_type\": \"linear\"}}", "rope_parameters.factor", "missing",
         ERROR_BAD_INPUT},
        {"{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": -1}}",
         "rope_parameters.factor", "", ERROR_BAD_INPUT},
        {"{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_type\": \"default\", \"mrope_section\": [1]}}",
         "rope_parameters.mrope_section", "", ERROR_BAD_INPUT},
        {"{\"model_type\": \"qwen3\", \"rope_parameters\": {\"full_attention\": {}}}", "rope_parameters.full_attention", "",
         ERROR_MISMATCH},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
         "\"high_freq_factor\": 4}}", "rope_scaling.high_freq_factor", "low_freq_factor", ERROR_BAD_INPUT},
        {"{\"model_type\": \"llama\", \"partial_rotary_factor\": 0.5}", "partial_rotary_factor", "part", ERROR_MISMATCH},
        {"{\"model_type\": \"llama\", \"num_key_value_heads\": 5}", "num_key_value_heads", "32 heads", ERROR_BAD_INPUT},
        {"{\"model_type\": \"llama\", \"hidden_size\": 100}", "hidden_size", "32 heads", ERROR_BAD_INPUT},
        {"{\"model_type\": \"llama\", \"head_dim\": 7}", "head_dim", "odd", ERROR_BAD_INPUT},
        {"{\"model_type\": \"llama\", \"num_attention_heads\": 4096, \"num_key_value_heads\": 1, \"head_dim\": 4096}",
         "num_attention_heads", "", ERROR_TOO_LARGE},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 0}", "num_hidden_layers", "", ERROR_BAD_INPUT},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": -1}", "num_hidden_layers", "", ERROR_BAD_INPUT},
        {"{\"model_type\": \"llama\", \"hidden_size\": 1e30}", "hidden_size", "", ERROR_BAD_INPUT},
        {"{\"model_type\": \"llama\", \"vocab_size\": \"many\"}", "vocab_size", "", ERROR_BAD_INPUT},
        {"{\"model_type\": \"gpt2\", \"n_embd\": 786432}", "n_inner", "", ERROR_TOO_LARGE},
        {"{\"model_type\": \"llama\", \"rms_norm_eps\": -1}", "rms_norm_eps", "", ERROR_BAD_INPUT},
        {"{\"model_type\": \"qwen2\", \"num_hidden_layers\": 3, \"layer_types\": [\"full_attention\"]}", "layer_types",
         "1 entries for 3", ERROR_BAD_INPUT},
        {"{\"model_type\": \"qwen2\", \"num_hidden_layers\": 1, \"layer_types\": [\"linear_attention\"]}", "layer_types",
         "'linear_attention'", ERROR_MISMATCH},
        {"{\"model_type\": \"qwen2\", \"num_hidden_layers\": 1, \"layer_types\": [\"sliding_attention\"]}", "layer_types",
         "sliding_window", ERROR_BAD_INPUT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct model_config config;
        struct arena arena;
        struct error err;
        if (parse(CASES[i].text, &config, &arena, &err))
            fail_msg("accepted: %s", CASES[i].text);
        assert_string_equal(err.param, CASES[i].param);
        assert_int_equal(err.code, CASES[i].code);
        if (!strstr(err.message, CASES[i].message))
            fail_msg("%s: %s", CASES[i].text, err.message);
        arena_finish(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_fields_mean_the_class_defaults), cmocka_unit_test(null_heads_follow_from_the_others),
        cmocka_unit_test(both_styles_of_rope_say_the_same),       cmocka_unit_test(windows_are_where_the_family_has_them),
        cmocka_unit_test(gpt2_has_fields_of_its_own),             cmocka_unit_test(what_is_not_served_is_refused_by_name),
    };
    return cmocka_run_group_tests_name("model_config", tests, NULL, NULL);
}
