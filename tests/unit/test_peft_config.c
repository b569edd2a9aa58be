#include "formats/peft_config.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/limits.h"
#include "support/check.h"
#include "support/scratch.h"

static bool parse(struct peft_config *out, const char *text, struct error *err)
{
    return peft_config_parse(out, text, strlen(text), false, err);
}

/* {"peft_type":"LORA", ...} */
static struct peft_config must_parse(const char *fields)
{
    struct peft_config config;
    struct buffer text = {0};
    struct error err;
    buffer_printf(&text, "{\"peft_type\":\"LORA\"%s%s}", *fields ? "," : "", fields);
    if (!parse(&config, buffer_text(&text), &err))
        fail_msg("%s: %s", fields, err.message);
    buffer_finish(&text);
    return config;
}

static void missing_fields_take_peft_s_defaults(void **state)
{
    struct peft_config config = must_parse("");
    (void)state;
    assert_int_equal(config.rank, 8);
    assert_true(config.alpha == 8);
    assert_false(config.use_rslora || config.use_dora || config.lora_bias || config.fan_in_fan_out);
    assert_false(config.ensure_weight_tying);
    assert_int_equal(config.bias, PEFT_BIAS_NONE);
    assert_false(config.target_modules.is_given || config.exclude_modules.is_given);
    assert_null(config.task_type);
    assert_null(config.base_model_name);
    assert_int_equal(
        config.n_warnings + config.n_rank_patterns + config.n_modules_to_save + config.n_token_indices, 0);
    peft_config_finish(&config);
    peft_config_finish(&config);
    peft_config_finish(NULL);
}

static void null_means_missing(void **state)
{
    struct peft_config config = must_parse(
        "\"r\":null,\"lora_alpha\":null,\"use_rslora\":null,\"bias\":null,\"target_modules\":null,\"task_"
        "type\":null,"
        "\"rank_pattern\":null,\"modules_to_save\":null,\"layers_to_transform\":null,\"layers_pattern\":null,"
        "\"trainable_token_indices\":null,\"init_lora_weights\":null,\"exclude_modules\":null,\"use_dora\":"
        "null,"
        "\"alora_invocation_tokens\":null,\"layer_replication\":null,\"megatron_config\":null");
    (void)state;
    assert_int_equal(config.rank, 8);
    assert_false(config.target_modules.is_given);
    assert_int_equal(config.n_warnings, 0);
    peft_config_finish(&config);
}

static void every_field_that_counts_is_read(void **state)
{
    struct peft_config config = must_parse(
        "\"r\":16,\"lora_alpha\":8.485281374238571,\"use_rslora\":true,\"use_dora\":true,\"fan_in_fan_out\":"
        "true,"
        "\"ensure_weight_tying\":true,\"bias\":\"lora_only\",\"task_type\":\"CAUSAL_LM\",\"peft_version\":"
        "\"0.21.2\","
        "\"base_model_name_or_path\":\"org/base\",\"target_modules\":[\"q_proj\",\"v_proj\"],"
        "\"exclude_modules\":[\"layers.0.q_proj\"],\"modules_to_save\":[\"lm_head\",\"norm\"],"
        "\"layers_to_transform\":[3,1],\"layers_pattern\":\"layers\",\"rank_pattern\":{\"b\":4,\"a\":2.0},"
        "\"alpha_pattern\":{\"z\":1.5,\"y\":-3}");
    (void)state;
    assert_int_equal(config.rank, 16);
    assert_true(config.alpha == 8.485281374238571);
    assert_true(config.use_rslora && config.use_dora && config.fan_in_fan_out && config.ensure_weight_tying);
    assert_int_equal(config.bias, PEFT_BIAS_LORA_ONLY);
    assert_string_equal(config.task_type, "CAUSAL_LM");
    assert_string_equal(config.peft_version, "0.21.2");
    assert_string_equal(config.base_model_name, "org/base");
    assert_int_equal(config.target_modules.n_names, 2);
    assert_string_equal(config.target_modules.names[1], "v_proj");
    assert_string_equal(config.exclude_modules.names[0], "layers.0.q_proj");
    assert_int_equal(config.n_modules_to_save, 2);
    assert_string_equal(config.modules_to_save[1], "norm");
    assert_int_equal(config.n_layers_to_transform, 2);
    assert_int_equal(config.layers_to_transform[0], 3);
    assert_string_equal(config.layers_pattern[0], "layers");
    /* in the order of the file, not of the alphabet */
    assert_string_equal(config.rank_pattern[0].key, "b");
    assert_true(config.rank_pattern[1].value == 2);
    assert_string_equal(config.alpha_pattern[0].key, "z");
    assert_true(config.alpha_pattern[1].value == -3);
    assert_int_equal(config.n_warnings, 0);
    peft_config_finish(&config);
    config = must_parse("\"lora_bias\":true,\"bias\":\"all\",\"layers_to_transform\":7");
    assert_true(config.lora_bias);
    assert_int_equal(config.bias, PEFT_BIAS_ALL);
    assert_int_equal(config.n_layers_to_transform, 1);
    assert_int_equal(config.layers_to_transform[0], 7);
    peft_config_finish(&config);
}

static void token_indices_are_a_list_or_lists_by_module(void **state)
{
    struct peft_config config = must_parse("\"trainable_token_indices\":[5,3]");
    (void)state;
    assert_int_equal(config.n_token_indices, 1);
    assert_null(config.token_indices[0].module);
    assert_int_equal(config.token_indices[0].n_indices, 2);
    assert_int_equal(config.token_indices[0].indices[0], 5);
    peft_config_finish(&config);
    config = must_parse("\"trainable_token_indices\":{\"embed_tokens\":[1],\"lm_head\":[2,0]}");
    assert_int_equal(config.n_token_indices, 2);
    assert_string_equal(config.token_indices[1].module, "lm_head");
    assert_int_equal(config.token_indices[1].indices[1], 0);
    peft_config_finish(&config);
    config = must_parse("\"trainable_token_indices\":[]");
    assert_int_equal(config.n_token_indices, 0);
    peft_config_finish(&config);
}

/* fields, code, param, message */
static const struct {
    const char *text;
    enum error_code code;
    const char *param, *message;
} BAD_CONFIGS[] = {
    /* not a config at all */
    {"", ERROR_BAD_INPUT, "", "adapter_config.json is not valid JSON"},
    {"[]", ERROR_BAD_INPUT, "", "adapter_config.json must be an object, but is an array"},
    {"{}", ERROR_BAD_INPUT, "peft_type", "'peft_type' is missing"},
    {"{\"peft_type\":null}", ERROR_BAD_INPUT, "peft_type", "'peft_type' is missing"},
    {"{\"peft_type\":1}", ERROR_BAD_INPUT, "peft_type", "must be a string"},
    {"{\"peft_type\":\"LORA\",\"peft_type\":\"LORA\"}", ERROR_BAD_INPUT, "", "duplicate object key"},
    {"{\"peft_type\":\"\xff\"}", ERROR_BAD_INPUT, "", "not valid UTF-8"},
    {"{\"peft_type\":\"LORA\\u0000\"}", ERROR_BAD_INPUT, "", "not valid JSON"},
    /* other kinds */
    {"{\"peft_type\":\"ADALORA\"}", ERROR_MISMATCH, "peft_type", "peft_type is 'ADALORA'; only LORA"},
    {"{\"peft_type\":\"lora\"}", ERROR_MISMATCH, "peft_type", "peft_type is 'lora'"},
    {"{\"peft_type\":\"IA3\",\"r\":\"not ours to judge\"}", ERROR_MISMATCH, "peft_type", "'IA3'"},
#define L(fields) "{\"peft_type\":\"LORA\"," fields "}"
    {L("\"task_type\":\"SEQ_CLS\""), ERROR_MISMATCH, "task_type", "task_type is 'SEQ_CLS'"},
    {L("\"task_type\":\"\""), ERROR_MISMATCH, "task_type", "task_type is ''"},
    {L("\"task_type\":3"), ERROR_BAD_INPUT, "task_type", "must be a string"},
    {L("\"alora_invocation_tokens\":[1,2]"), ERROR_MISMATCH, "alora_invocation_tokens", "aLoRA"},
    {L("\"alora_invocation_tokens\":[]"), ERROR_MISMATCH, "alora_invocation_tokens", "aLoRA"},
    {L("\"arrow_config\":{}"), ERROR_MISMATCH, "arrow_config", "arrow_config is set"},
    {L("\"kasa_config\":{\"beta\":1}"), ERROR_MISMATCH, "kasa_config", "KaSA"},
    {L("\"use_bdlora\":{}"), ERROR_MISMATCH, "use_bdlora", "block-diagonal"},
    {L("\"use_qalora\":true"), ERROR_MISMATCH, "use_qalora", "QALoRA"},
    {L("\"layer_replication\":[[0,4],[2,5]]"), ERROR_MISMATCH, "layer_replication", "layer replication"},
    {L("\"target_parameters\":[\"experts.w\"]"), ERROR_MISMATCH, "target_parameters", "raw parameters"},
    {L("\"megatron_config\":{\"x\":1}"), ERROR_MISMATCH, "megatron_config", "Megatron"},
    {L("\"enable_lora\":[true,false,true]"), ERROR_MISMATCH, "enable_lora", "merged linear"},
    /* initialisers that changed the base */
    {L("\"init_lora_weights\":\"pissa\""), ERROR_MISMATCH, "init_lora_weights",
     "path_initial_model_for_weight_conversion"},
    {L("\"init_lora_weights\":\"pissa_niter_16\""), ERROR_MISMATCH, "init_lora_weights",
     "init_lora_weights is 'pissa_niter_16'"},
    {L("\"init_lora_weights\":\"olora\""), ERROR_MISMATCH, "init_lora_weights",
     "path_initial_model_for_weight_conversion"},
    {L("\"init_lora_weights\":\"OLoRA\""), ERROR_MISMATCH, "init_lora_weights", "'OLoRA'"},
    {L("\"init_lora_weights\":\"corda\""), ERROR_MISMATCH, "init_lora_weights",
     "path_initial_model_for_weight_conversion"},
    {L("\"init_lora_weights\":\"lora_ga\""), ERROR_MISMATCH, "init_lora_weights",
     "path_initial_model_for_weight_conversion"},
    {L("\"init_lora_weights\":\"loftq\""), ERROR_MISMATCH, "init_lora_weights", "LoftQ"},
    {L("\"init_lora_weights\":\"newest\""), ERROR_MISMATCH, "init_lora_weights",
     "an initialiser that we do not know"},
    {L("\"init_lora_weights\":1"), ERROR_BAD_INPUT, "init_lora_weights", "true, false or a string"},
    /* numbers */
    {L("\"r\":0"), ERROR_BAD_INPUT, "r", "'r' must be an integer from 1 to 4096, but is the number 0"},
    {L("\"r\":-1"), ERROR_BAD_INPUT, "r", "the number -1"},
    {L("\"r\":4097"), ERROR_BAD_INPUT, "r", "the number 4097"},
    {L("\"r\":8.5"), ERROR_BAD_INPUT, "r", "the number 8.5"},
    {L("\"r\":\"8\""), ERROR_BAD_INPUT, "r", "the string \"8\""},
    {L("\"r\":true"), ERROR_BAD_INPUT, "r", "but is true"},
    {L("\"r\":18446744073709551624"), ERROR_BAD_INPUT, "r", "an integer"},
    {L("\"lora_alpha\":\"16\""), ERROR_BAD_INPUT, "lora_alpha", "must be a number"},
    {L("\"lora_alpha\":1e308"), ERROR_BAD_INPUT, "lora_alpha", "must be a number from -1000000 to 1000000"},
    {L("\"lora_alpha\":1e999"), ERROR_BAD_INPUT, "", "the number is too large"},
    {L("\"lora_alpha\":NaN"), ERROR_BAD_INPUT, "", "not valid JSON"},
    {L("\"lora_alpha\":[16]"), ERROR_BAD_INPUT, "lora_alpha", "an array"},
    /* flags and words */
    {L("\"use_rslora\":1"), ERROR_BAD_INPUT, "use_rslora", "true or false"},
    {L("\"use_dora\":\"true\""), ERROR_BAD_INPUT, "use_dora", "true or false"},
    {L("\"lora_bias\":0"), ERROR_BAD_INPUT, "lora_bias", "true or false"},
    {L("\"fan_in_fan_out\":[]"), ERROR_BAD_INPUT, "fan_in_fan_out", "true or false"},
    {L("\"ensure_weight_tying\":2"), ERROR_BAD_INPUT, "ensure_weight_tying", "true or false"},
    {L("\"bias\":\"some\""), ERROR_BAD_INPUT, "bias", "bias must be none, all or lora_only, but is 'some'"},
    {L("\"bias\":true"), ERROR_BAD_INPUT, "bias", "must be a string"},
    {L("\"lora_bias\":true,\"use_dora\":true"), ERROR_BAD_INPUT, "lora_bias", "does not go with use_dora"},
    /* patterns */
    {L("\"rank_pattern\":[]"), ERROR_BAD_INPUT, "rank_pattern", "must be an object"},
    {L("\"rank_pattern\":{\"q\":0}"), ERROR_BAD_INPUT, "rank_pattern.q",
     "rank_pattern: 'q' must be an integer from 1 to 4096, but is the number 0"},
    {L("\"rank_pattern\":{\"q\":1.5}"), ERROR_BAD_INPUT, "rank_pattern.q", "the number 1.5"},
    {L("\"rank_pattern\":{\"q\":null}"), ERROR_BAD_INPUT, "rank_pattern.q", "but is null"},
    {L("\"rank_pattern\":{\"q\":\"4\"}"), ERROR_BAD_INPUT, "rank_pattern.q", "the string \"4\""},
    {L("\"rank_pattern\":{\"(\":4}"), ERROR_BAD_INPUT, "rank_pattern",
     "rank_pattern is not a regular expression that we know"},
    {L("\"alpha_pattern\":{\"q\":\"x\"}"), ERROR_BAD_INPUT, "alpha_pattern.q", "must be a number"},
    {L("\"alpha_pattern\":{\"q\":1e7}"), ERROR_BAD_INPUT, "alpha_pattern.q", "from -1000000 to 1000000"},
    {L("\"alpha_pattern\":{\"[a\":1}"), ERROR_BAD_INPUT, "alpha_pattern", "not a regular expression"},
    {L("\"alpha_pattern\":{\"q\":1,\"q\":2}"), ERROR_BAD_INPUT, "", "duplicate object key"},
    /* module sets */
    {L("\"target_modules\":1"), ERROR_BAD_INPUT, "target_modules", "a list of names or a string"},
    {L("\"target_modules\":[1]"), ERROR_BAD_INPUT, "target_modules", "a list of names, but is the number 1"},
    {L("\"target_modules\":[\"\"]"), ERROR_BAD_INPUT, "target_modules", "a list of names"},
    {L("\"target_modules\":{}"), ERROR_BAD_INPUT, "target_modules", "an object"},
    {L("\"target_modules\":\"(q_proj\""), ERROR_BAD_INPUT, "target_modules", "not a regular expression"},
    {L("\"target_modules\":\"(*LIMIT_MATCH=1)q\""), ERROR_BAD_INPUT, "target_modules", "of Python's"},
    {L("\"target_modules\":\"(?C1)q\""), ERROR_BAD_INPUT, "target_modules", "of Python's"},
    {L("\"exclude_modules\":\"*\""), ERROR_BAD_INPUT, "exclude_modules", "not a regular expression"},
    {L("\"exclude_modules\":true"), ERROR_BAD_INPUT, "exclude_modules", "a list of names or a string"},
    {L("\"modules_to_save\":\"lm_head\""), ERROR_BAD_INPUT, "modules_to_save", "must be an array"},
    {L("\"modules_to_save\":[null]"), ERROR_BAD_INPUT, "modules_to_save", "a list of names"},
    /* layers */
    {L("\"layers_to_transform\":\"0\""), ERROR_BAD_INPUT, "layers_to_transform",
     "an integer or a list of integers"},
    {L("\"layers_to_transform\":-1"), ERROR_BAD_INPUT, "layers_to_transform", "integers from 0 to 1023"},
    {L("\"layers_to_transform\":[0,1024]"), ERROR_BAD_INPUT, "layers_to_transform", "the number 1024"},
    {L("\"layers_to_transform\":[0.5]"), ERROR_BAD_INPUT, "layers_to_transform", "the number 0.5"},
    {L("\"layers_to_transform\":[0],\"target_modules\":\".*q\""), ERROR_BAD_INPUT, "layers_to_transform",
     "needs target_modules to be a list"},
    {L("\"layers_to_transform\":[0],\"target_modules\":\"all-linear\""), ERROR_BAD_INPUT,
     "layers_to_transform", "needs target_modules to be a list"},
    {L("\"layers_pattern\":\"h\""), ERROR_BAD_INPUT, "layers_pattern", "needs layers_to_transform"},
    {L("\"layers_pattern\":\"h\",\"target_modules\":\"x\""), ERROR_BAD_INPUT, "layers_pattern",
     "needs target_modules"},
    {L("\"layers_pattern\":7,\"layers_to_transform\":1"), ERROR_BAD_INPUT, "layers_pattern",
     "a name or a list of names"},
    {L("\"layers_pattern\":\"(\",\"layers_to_transform\":1"), ERROR_BAD_INPUT, "layers_pattern",
     "not a regular expression"},
    /* tokens */
    {L("\"trainable_token_indices\":7"), ERROR_BAD_INPUT, "trainable_token_indices", "a list of token ids"},
    {L("\"trainable_token_indices\":[-1]"), ERROR_BAD_INPUT, "trainable_token_indices", "the number -1"},
    {L("\"trainable_token_indices\":[4194304]"), ERROR_BAD_INPUT, "trainable_token_indices",
     "the number 4194304"},
    {L("\"trainable_token_indices\":[3,1,3]"), ERROR_BAD_INPUT, "trainable_token_indices",
     "lists token 3 twice"},
    {L("\"trainable_token_indices\":{\"e\":1}"), ERROR_BAD_INPUT, "trainable_token_indices",
     "a list of token ids"},
    {L("\"trainable_token_indices\":{\"e\":[\"1\"]}"), ERROR_BAD_INPUT, "trainable_token_indices",
     "the string \"1\""},
    {L("\"base_model_name_or_path\":5"), ERROR_BAD_INPUT, "base_model_name_or_path", "must be a string"},
};

static void bad_configs_are_refused_with_field_and_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof BAD_CONFIGS / sizeof *BAD_CONFIGS; i++) {
        struct peft_config config = {.rank = 77};
        struct error err;
        if (parse(&config, BAD_CONFIGS[i].text, &err))
            fail_msg("accepted: %s", BAD_CONFIGS[i].text);
        assert_error(&err, BAD_CONFIGS[i].code, BAD_CONFIGS[i].param, BAD_CONFIGS[i].message);
        assert_memory_equal(err.message, "adapter_config.json", 19);
        assert_int_equal(config.rank, 77);
    }
}

static void values_that_mean_nothing_are_accepted(void **state)
{
    static const char *const FIELDS[] = {
        "\"init_lora_weights\":true",
        "\"init_lora_weights\":false",
        "\"init_lora_weights\":\"gaussian\"",
        "\"init_lora_weights\":\"eva\"",
        "\"init_lora_weights\":\"orthogonal\"",
        "\"init_lora_weights\":\"mica\"",
        "\"layer_replication\":[]",
        "\"target_parameters\":[]",
        "\"megatron_config\":{}",
        "\"use_qalora\":false",
        "\"use_bdlora\":false",
        "\"megatron_core\":\"megatron.core\"",
        "\"qalora_group_size\":16",
        "\"loftq_config\":{\"loftq_bits\":4}",
        "\"eva_config\":{\"rho\":2.0}",
        "\"corda_config\":null",
        "\"lora_dropout\":0.1",
        "\"revision\":\"main\"",
        "\"inference_mode\":true",
        "\"auto_mapping\":{\"a\":\"b\"}",
        "\"monteclora_config\":{\"x\":1}",
        "\"velora_config\":{\"x\":1}",
        "\"merge_weights\":false",
        "\"enable_lora\":null",
        "\"runtime_config\":{}",
        "\"layers_pattern\":[]",
        "\"layers_pattern\":\"\"",
        "\"layers_to_transform\":[]",
        "\"target_modules\":[]",
        "\"lora_alpha\":-4",
    };
    (void)state;
    for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++) {
        struct peft_config config = must_parse(FIELDS[i]);
        if (config.n_warnings)
            fail_msg("%s: %s", FIELDS[i], config.warnings[0]);
        peft_config_finish(&config);
    }
}

static void unknown_fields_with_a_value_are_warned_about(void **state)
{
    struct peft_config config =
        must_parse("\"use_turbo\":true,\"empty\":[],\"zero\":0,\"none\":null,\"off\":false,"
                   "\"text\":\"\",\"object\":{},\"odd\\n\":{\"a\":1}");
    (void)state;
    assert_int_equal(config.n_warnings, 2);
    assert_string_equal(config.warnings[0], "the field 'use_turbo' is unknown and was ignored; it is true");
    assert_string_equal(config.warnings[1], "the field 'odd?' is unknown and was ignored; it is an object");
    peft_config_finish(&config);
    config = must_parse("\"lora_alpha\":0");
    assert_int_equal(config.n_warnings, 1);
    assert_non_null(strstr(config.warnings[0], "changes nothing"));
    peft_config_finish(&config);
}

static void warnings_are_not_endless_and_say_so(void **state)
{
    struct buffer fields = {0};
    (void)state;
    for (int i = 0; i < 100; i++)
        buffer_printf(&fields, "%s\"unknown%d\":1", i ? "," : "", i);
    struct peft_config config = must_parse(buffer_text(&fields));
    assert_int_equal(config.n_warnings, 32);
    assert_string_equal(config.warnings[31], "there are more warnings, which were left out");
    peft_config_finish(&config);
    buffer_finish(&fields);
}

static void another_task_s_adapter_is_accepted_where_allowed(void **state)
{
    static const char TEXT[] = L("\"task_type\":\"SEQ_CLS\"");
    struct peft_config config;
    struct error err;
    (void)state;
    assert_ok(peft_config_parse(&config, TEXT, strlen(TEXT), true, &err), &err);
    assert_string_equal(config.task_type, "SEQ_CLS");
    assert_int_equal(config.n_warnings, 1);
    peft_config_finish(&config);
}

/* --- matching --- */

static bool targets(const struct peft_config *config, const char *path, bool is_linear,
                    const char *model_type)
{
    struct error err;
    bool found = false;
    assert_ok(peft_config_targets(config, path, is_linear, model_type, &found, &err), &err);
    return found;
}

#define Q0 "model.layers.0.self_attn.q_proj"
#define Q1 "model.layers.1.self_attn.q_proj"
#define Q10 "model.layers.10.self_attn.q_proj"
#define V1 "model.layers.1.self_attn.v_proj"
#define UP1 "model.layers.1.mlp.up_proj"
#define EMBED "model.embed_tokens"

/* What PEFT's check_target_module_exists says of each. */
static void modules_are_targeted_as_peft_does(void **state)
{
    static const struct {
        const char *fields, *path;
        bool expected;
    } CASES[] = {
        /* lists: equal, or behind a dot */
        {"\"target_modules\":[\"q_proj\"]", Q0, true},
        {"\"target_modules\":[\"q_proj\"]", "q_proj", true},
        {"\"target_modules\":[\"proj\"]", Q0, false},
        {"\"target_modules\":[\"self_attn.q_proj\"]", Q0, true},
        {"\"target_modules\":[\"attn.q_proj\"]", Q0, false},
        {"\"target_modules\":[\"" Q0 "\"]", Q0, true},
        {"\"target_modules\":[\"layers.0.self_attn.q_proj\"]", Q10, false},
        {"\"target_modules\":[\".*q_proj\"]", Q0, false},
        {"\"target_modules\":[]", Q0, false},
        {"\"target_modules\":[\"k_proj\",\"q_proj\"]", Q0, true},
        {"\"target_modules\":[\"q_proj\"]", "model.q_proj.x", false},
        /* regular expressions: the whole path */
        {"\"target_modules\":\".*q_proj\"", Q0, true},
        {"\"target_modules\":\"q_proj\"", Q0, false},
        {"\"target_modules\":\".*q_pro\"", Q0, false},
        {"\"target_modules\":\"model|"
         "model\\\\.layers\\\\.0.*\"",
         Q0, true},
        {"\"target_modules\":\".*\\\\.[01]\\\\.self_attn\\\\.(q|v)_proj\"", V1, true},
        {"\"target_modules\":\".*\\\\.[01]\\\\.self_attn\\\\.(q|v)_proj\"", Q10, false},
        {"\"target_modules\":\"(?P<x>model).*(?:q|k)_proj$\"", Q0, true},
        {"\"target_modules\":\"(?i)MODEL.*Q_PROJ\"", Q0, true},
        {"\"target_modules\":\".*layers\\\\.\\\\d{2,}\\\\..*\"", Q10, true},
        {"\"target_modules\":\".*layers\\\\.\\\\d{2,}\\\\..*\"", Q1, false},
        {"\"target_modules\":\".*(?<!self_attn)\\\\.up_proj\"", UP1, true},
        {"\"target_modules\":\"^(?!.*lm_head).*$\"", "lm_head", false},
        {"\"target_modules\":\"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj))|(?:"
         "\\\\bmodel\\\\.layers"
         "\\\\.[\\\\d]{1,}\\\\.(?:self_attn|mlp)\\\\.(?:(?:q_proj|v_proj)))\"",
         Q10, true},
        {"\"target_modules\":\"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj))|(?:"
         "\\\\bmodel\\\\.layers"
         "\\\\.[\\\\d]{1,}\\\\.(?:self_attn|mlp)\\\\.(?:(?:q_proj|v_proj)))\"",
         UP1, false},
        {"\"target_modules\":\"\"", Q0, false},
        /* exclusion wins */
        {"\"target_modules\":[\"q_proj\"],\"exclude_modules\":[\"layers.0.self_attn.q_proj\"]", Q0, false},
        {"\"target_modules\":[\"q_proj\"],\"exclude_modules\":[\"layers.0.self_attn.q_proj\"]", Q1, true},
        {"\"target_modules\":[\"q_proj\"],\"exclude_modules\":\".*\\\\.0\\\\..*\"", Q0, false},
        {"\"target_modules\":[\"q_proj\"],\"exclude_modules\":\"model\"", Q0, true},
        {"\"target_modules\":[\"q_proj\"],\"exclude_modules\":[]", Q0, true},
        {"\"target_modules\":\"all-linear\",\"exclude_modules\":[\"q_proj\"]", Q0, false},
        /* nothing inside of a module that is saved whole */
        {"\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"self_attn\"]", Q0, false},
        {"\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"layers.0\"]", Q0, false},
        {"\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"layers.0\"]", Q1, true},
        {"\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"model\"]", Q0, false},
        {"\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"self_at\"]", Q0, true},
        {"\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"q_proj\"]", Q0, false},
        {"\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"elf_attn\"]", Q0, true},
        {"\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"self.attn\"]", Q0,
         false}, /* a dot is any character */
        {"\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"" Q0 ".x\"]", Q0, true},
        {"\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"x\"]", "..q_proj.", false},
        /* layers */
        {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[1]", Q1, true},
        {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[1]", Q10, false},
        {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":10", Q10, true},
        {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0]", Q0, true},
        {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[]", Q10, true},
        {"\"target_modules\":[\"embed_tokens\"],\"layers_to_transform\":[1]", EMBED, false},
        {"\"target_modules\":[\"" Q0 "\"],\"layers_to_transform\":[1]", Q0, true},
        {"\"target_modules\":[\"w\"],\"layers_to_transform\":[1]", "model.layers.1.experts.7.w", true},
        {"\"target_modules\":[\"w\"],\"layers_to_transform\":[7]", "model.layers.1.experts.7.w", false},
        {"\"target_modules\":[\"w\"],\"layers_to_transform\":[1]", "layers.1.w",
         false}, /* needs something in front */
        {"\"target_modules\":[\"w\"],\"layers_to_transform\":[1],\"layers_pattern\":\"layers\"", "layers.1.w",
         true},
        {"\"target_modules\":[\"w\"],\"layers_to_transform\":[7],\"layers_pattern\":\"experts\"",
         "model.layers.1.experts.7.w", true},
        {"\"target_modules\":[\"w\"],\"layers_to_transform\":[1],\"layers_pattern\":[\"blocks\",\"layers\"]",
         "model.layers.1.experts.7.w", true},
        {"\"target_modules\":[\"w\"],\"layers_to_transform\":[1],\"layers_pattern\":\"h\"",
         "model.layers.1.w", false},
        {"\"target_modules\":[\"w\"],\"layers_to_transform\":[1],\"layers_pattern\":\"lay.*\"",
         "model.layers.1.w", true},
        {"\"target_modules\":[\"w\"],\"layers_to_transform\":[1]", "m.h.99999999999999999999999.w", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct peft_config config = must_parse(CASES[i].fields);
        if (targets(&config, CASES[i].path, true, "llama") != CASES[i].expected)
            fail_msg("%s on %s should be %d", CASES[i].fields, CASES[i].path, CASES[i].expected);
        peft_config_finish(&config);
    }
}

static void all_linear_means_the_body_s_linear_maps(void **state)
{
    static const char *const WORDS[] = {"all-linear", "ALL-LINEAR", "All-Linear"};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char fields[64];
        snprintf(fields, sizeof fields, "\"target_modules\":\"%s\"", WORDS[i]);
        struct peft_config config = must_parse(fields);
        assert_true(config.target_modules.is_all_linear);
        assert_true(targets(&config, Q0, true, "llama"));
        assert_false(targets(&config, "lm_head", false, "llama"));
        peft_config_finish(&config);
    }
}

static void missing_targets_are_the_family_s_defaults(void **state)
{
    struct peft_config config = must_parse("");
    struct error err;
    bool found;
    (void)state;
    assert_true(targets(&config, "transformer.h.0.attn.c_attn", true, "gpt2"));
    assert_false(targets(&config, "transformer.h.0.attn.c_proj", true, "gpt2"));
    assert_true(targets(&config, Q0, true, "qwen3"));
    assert_false(targets(&config, UP1, true, "mistral"));
    assert_true(targets(&config, "model.layers.0.mlp.fc1", true, "phi"));
    assert_false(peft_config_targets(&config, Q0, true, "novel", &found, &err));
    assert_error(&err, ERROR_BAD_INPUT, "target_modules",
                 "target_modules is missing, and 'novel' has no default");
    peft_config_finish(&config);
}

static void ranks_and_alphas_follow_the_first_pattern_that_matches(void **state)
{
    static const struct {
        const char *key, *path;
        bool expected;
    } CASES[] = {
        /* plain keys, compared without a regular expression */
        {"q_proj", Q0, true},
        {"q_proj", "q_proj", true},
        {"proj", Q0, false},
        {"self_attn.q_proj", Q0, true},
        {"self_attn\\\\.q_proj", Q0, true},
        {"attn.q_proj", Q0, false},
        {"self_attn", Q0, false},
        {Q0, Q0, true},
        {"^" Q0, Q0, true},
        {"^q_proj", Q0, false},
        {"^q_proj", "q_proj", true},
        {"layers.0.self_attn.q_proj", Q10, false},
        {"self.attn.q.proj", Q0, true}, /* a dot is any character */
        {"self_attn\\\\.q.proj", Q0, true},
        {"self\\\\.attn.q_proj", Q0, false},
        {".q_proj", Q0, false},
        {"", Q0, false},
        {"model-layers", "model-layers", true},
        {"very.long.key.that.is.longer.than.the.path.itself.by.far", Q0, false},
        /* regular expressions */
        {"(q|k)_proj", Q0, true},
        {".*_proj", Q0, true},
        {"layers\\\\.[0-3]\\\\..*", Q0, true},
        {"layers\\\\.[0-3]\\\\..*", Q10, false},
        {"^layers.*", Q0, false},
        {"^model.*", Q0, true},
        {"^model", Q0, false},
        {"q_proj$", Q0, true},
        {"q_proj|v_proj", V1, true},
        {"v_proj|model", V1, true},
        {"(self_attn)\\\\.q_proj.*", Q0, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char fields[400];
        size_t rank;
        double alpha;
        struct error err;
        snprintf(
            fields, sizeof fields,
            "\"r\":5,\"lora_alpha\":7,\"rank_pattern\":{\"%s\":3},\"alpha_pattern\":{\"no\":1,\"%s\":2.5}",
            CASES[i].key, CASES[i].key);
        struct peft_config config = must_parse(fields);
        assert_ok(peft_config_rank_alpha(&config, CASES[i].path, &rank, &alpha, &err), &err);
        if ((rank == 3) != CASES[i].expected || (alpha == 2.5) != CASES[i].expected ||
            (rank != 3 && rank != 5))
            fail_msg("'%s' on %s should be %d", CASES[i].key, CASES[i].path, CASES[i].expected);
        peft_config_finish(&config);
    }
}

static void the_order_of_the_file_decides_and_each_pattern_by_itself(void **state)
{
    struct peft_config config =
        must_parse("\"rank_pattern\":{\"z.*\":9,\"v_proj\":4,\"layers.1.self_attn.v_proj\":6},"
                   "\"alpha_pattern\":{\"layers.1.self_attn.v_proj\":10,\"v_proj\":20}");
    size_t rank;
    double alpha;
    struct error err;
    (void)state;
    assert_ok(peft_config_rank_alpha(&config, V1, &rank, &alpha, &err), &err);
    assert_int_equal(rank, 4);
    assert_true(alpha == 10);
    assert_ok(peft_config_rank_alpha(&config, "model.layers.2.self_attn.v_proj", &rank, &alpha, &err), &err);
    assert_true(alpha == 20);
    assert_ok(peft_config_rank_alpha(&config, Q0, &rank, &alpha, &err), &err);
    assert_int_equal(rank, 8);
    assert_true(alpha == 8);
    peft_config_finish(&config);
}

static void the_scale_is_alpha_over_r_or_over_its_root(void **state)
{
    struct peft_config plain = must_parse(""), stabilised = must_parse("\"use_rslora\":true");
    (void)state;
    assert_true(peft_config_scale(&plain, 16, 32) == 2);
    assert_true(peft_config_scale(&plain, 3, 1) == 1.0 / 3);
    assert_true(peft_config_scale(&stabilised, 16, 32) == 8);
    assert_true(peft_config_scale(&stabilised, 2, 1) == 1 / sqrt(2));
    peft_config_finish(&plain);
    peft_config_finish(&stabilised);
}

/* --- cost --- */

static void an_expression_that_backtracks_for_ever_is_stopped(void **state)
{
    static const char *const EVIL[] = {
        "(a+)+b",           "(a|a)*b",        "(a|aa)+b", "(.*a){12}b", "(?:(?:a?){20}){20}b",
        "(a*)*(a*)*(a*)*b", "((((a*)*)*)*)*b"};
    char path[400];
    (void)state;
    memset(path, 'a', sizeof path);
    strcpy(path + sizeof path - 3, "bc"); /* so that it nearly matches everywhere */
    uint64_t before = clock_now_us();
    for (size_t i = 0; i < sizeof EVIL / sizeof *EVIL; i++) {
        char fields[300];
        struct error err;
        bool found;
        size_t rank;
        double alpha;
        snprintf(fields, sizeof fields, "\"target_modules\":\"%s\",\"rank_pattern\":{\"%s\":2}", EVIL[i],
                 EVIL[i]);
        struct peft_config config = must_parse(fields);
        assert_false(peft_config_targets(&config, path, true, "llama", &found, &err));
        assert_error(&err, ERROR_BAD_INPUT, "target_modules", "takes too long");
        assert_false(peft_config_rank_alpha(&config, path, &rank, &alpha, &err));
        assert_error(&err, ERROR_BAD_INPUT, "rank_pattern", "takes too long");
        peft_config_finish(&config);
    }
    assert_in_range(clock_now_us() - before, 0, 60 * 1000000);
}

/* Each match alone is cheap enough; it is the sum that must end. */
static void many_expensive_expressions_share_one_budget(void **state)
{
    struct buffer fields = {0};
    size_t rank, n_before = 0;
    double alpha;
    struct error err;
    (void)state;
    buffer_append_text(&fields, "\"rank_pattern\":{");
    for (int i = 0; i < 2000; i++)
        buffer_printf(&fields, "%s\"(.*_){3}[A-Z]{%d}\":2", i ? "," : "", i + 1);
    buffer_append_text(&fields, "}");
    struct peft_config config = must_parse(buffer_text(&fields));
    uint64_t before = clock_now_us();
    while (n_before < 100000 && peft_config_rank_alpha(&config, "a_b_c_d_e_f_g_h_i_j_k_l_m_n_o_p_q_r_s_t_u_v",
                                                       &rank, &alpha, &err))
        n_before++;
    assert_error(&err, ERROR_BAD_INPUT, "rank_pattern", "takes too long");
    /* 2000 calls a round, whose price alone would last for 1250 rounds. */
    assert_in_range(n_before, 1, 200);
    assert_in_range(clock_now_us() - before, 0, 30 * 1000000);
    peft_config_finish(&config);
    buffer_finish(&fields);
}

/* PCRE2 sees at once that "v" is missing and takes no step; looking costs all the same. */
static void expressions_that_fail_at_once_are_counted_too(void **state)
{
    struct peft_config config = must_parse("\"rank_pattern\":{\"(a|b)v\":2}");
    size_t rank, n_before = 0;
    double alpha;
    struct error err;
    (void)state;
    while (n_before < 10000000 && peft_config_rank_alpha(&config, Q0, &rank, &alpha, &err))
        n_before++;
    assert_error(&err, ERROR_BAD_INPUT, "rank_pattern", "takes too long");
    assert_in_range(n_before, 1000000, 4000000);
    peft_config_finish(&config);
}

/* The tools that write a key for every module: 80 layers of 7, twice. */
static void thousands_of_plain_patterns_are_quick(void **state)
{
    static const char *const NAMES[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                        "mlp.down_proj"};
    struct buffer fields = {0};
    char path[100];
    struct error err;
    (void)state;
    for (int pass = 0; pass < 2; pass++) {
        buffer_printf(&fields, "%s", pass ? "},\"alpha_pattern\":{" : "\"rank_pattern\":{");
        for (int layer = 0; layer < 80; layer++)
            for (int i = 0; i < 7; i++)
                buffer_printf(&fields, "%s\"%smodel.layers.%d.%s\":%d", layer + i ? "," : "", pass ? "^" : "",
                              layer, NAMES[i], layer * 7 + i + 1);
    }
    buffer_append_text(&fields, "}");
    struct peft_config config = must_parse(buffer_text(&fields));
    assert_null(config.matcher);
    uint64_t before = clock_now_us();
    for (int layer = 0; layer < 80; layer++)
        for (int i = 0; i < 7; i++) {
            size_t rank;
            double alpha;
            snprintf(path, sizeof path, "model.layers.%d.%s", layer, NAMES[i]);
            assert_ok(peft_config_rank_alpha(&config, path, &rank, &alpha, &err), &err);
            assert_int_equal(rank, layer * 7 + i + 1);
            assert_true(alpha == layer * 7 + i + 1);
        }
    assert_in_range(clock_now_us() - before, 0, 2000000);
    peft_config_finish(&config);
    buffer_finish(&fields);
}

static void the_real_long_expression_costs_little(void **state)
{
    struct peft_config config = must_parse("\"target_modules\":\"(?:.*?(?:language|text).*?(?:self_attn|"
                                           "attention|attn|mlp|feed_forward|ffn|dense).*?"
                                           "(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj))|(?:"
                                           "\\\\bmodel\\\\.layers\\\\.[\\\\d]{1,}\\\\."
                                           "(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\\\\.(?:(?"
                                           ":q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|"
                                           "down_proj)))\"");
    char path[100];
    (void)state;
    for (int round = 0; round < 3; round++)
        for (int layer = 0; layer < 128; layer++) {
            snprintf(path, sizeof path, "model.language_model.layers.%d.self_attn.q_norm.weight", layer);
            assert_false(targets(&config, path, true, "llama"));
            snprintf(path, sizeof path, "model.language_model.layers.%d.mlp.down_proj", layer);
            assert_true(targets(&config, path, true, "llama"));
            snprintf(path, sizeof path, "model.layers.%d.mlp.up_proj", layer);
            assert_true(targets(&config, path, true, "llama"));
        }
    peft_config_finish(&config);
}

static void an_expression_has_a_maximum_length(void **state)
{
    char *text = calloc(1, LIMIT_PATTERN_BYTES + 200);
    struct peft_config config;
    struct error err;
    (void)state;
    strcpy(text, "{\"peft_type\":\"LORA\",\"target_modules\":\"");
    memset(text + strlen(text), 'a', LIMIT_PATTERN_BYTES + 1);
    strcat(text, "\"}");
    assert_false(parse(&config, text, &err));
    assert_error(&err, ERROR_TOO_LARGE, "target_modules", "has a text of");
    free(text);
}

/* --- real files --- */

static bool parse_file(struct peft_config *config, const char *folder, bool allow_other_heads,
                       struct error *err)
{
    struct buffer text = {0};
    char *path = path_join(folder, "adapter_config.json");
    assert_ok(file_read_text(&text, path, LIMIT_CONFIG_BYTES, err), err);
    bool parsed = peft_config_parse(config, buffer_text(&text), text.n_bytes, allow_other_heads, err);
    buffer_finish(&text);
    free(path);
    return parsed;
}

typedef void folder_check(const char *folder);

static size_t for_each_folder(const char *parent, folder_check *check)
{
    size_t n = 0;
    DIR *directory = opendir(parent);
    if (!directory)
        return 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        char *folder = path_join(parent, entry->d_name), *config = path_join(folder, "adapter_config.json");
        if (entry->d_name[0] != '.' && file_exists(config)) {
            check(folder);
            n++;
        }
        free(config);
        free(folder);
    }
    closedir(directory);
    return n;
}

static void check_accepted(const char *folder)
{
    struct peft_config config;
    struct error err;
    if (!parse_file(&config, folder, true, &err))
        fail_msg("%s: %s", folder, err.message);
    bool is_other_task = config.task_type && strcmp(config.task_type, "CAUSAL_LM") != 0;
    if (config.n_warnings != (size_t)is_other_task)
        fail_msg("%s: %s", folder, config.warnings[0]);
    peft_config_finish(&config);
}

/* What the config alone can tell: expect.json's words are among our field names. */
static void check_refused(const char *folder)
{
    static const char *const OURS[] = {"alora_invocation_tokens",
                                       "lora_alpha",
                                       "arrow_config",
                                       "init_lora_weights",
                                       "kasa_config",
                                       "layer_replication",
                                       "layers_to_transform",
                                       "megatron_config",
                                       "rank_pattern",
                                       "peft_type",
                                       "r",
                                       "target_parameters",
                                       "target_modules",
                                       "use_bdlora",
                                       "use_qalora",
                                       "SEQ_CLS",
                                       "adapter_config.json",
                                       NULL};
    struct peft_config config;
    struct error err;
    char *path = path_join(folder, "expect.json");
    json_t *expect = json_load_file(path, 0, NULL);
    const char *word = json_string_value(json_array_get(json_object_get(expect, "message_contains"), 0));
    bool is_ours = false;
    assert_non_null(word);
    for (const char *const *name = OURS; *name; name++)
        is_ours |= strcmp(*name, word) == 0;
    bool parsed = parse_file(&config, folder, false, &err);
    if (parsed)
        peft_config_finish(&config);
    if (parsed && is_ours)
        fail_msg("%s was accepted", folder);
    if (is_ours) {
        assert_string_equal(error_code_name(err.code), json_string_value(json_object_get(expect, "status")));
        if (!strstr(err.message, word))
            fail_msg("%s: '%s' is not in '%s'", folder, word, err.message);
    }
    json_decref(expect);
    free(path);
}

static void the_golden_configs_are_accepted(void **state)
{
    char *parent = path_join(source_folder(), "tests/golden/adapters");
    (void)state;
    size_t n = for_each_folder(parent, check_accepted);
    free(parent);
    if (n == 0)
        skip();
}

static void the_golden_refusals_are_refused_by_name(void **state)
{
    char *parent = path_join(source_folder(), "tests/golden/refused");
    (void)state;
    size_t n = for_each_folder(parent, check_refused);
    free(parent);
    if (n == 0)
        skip();
}

static void real_configs_are_accepted(void **state)
{
    char *parent = test_data("adapters");
    (void)state;
    size_t n = parent ? for_each_folder(parent, check_accepted) : 0;
    free(parent);
    if (n == 0)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_fields_take_peft_s_defaults),
        cmocka_unit_test(null_means_missing),
        cmocka_unit_test(every_field_that_counts_is_read),
        cmocka_unit_test(token_indices_are_a_list_or_lists_by_module),
        cmocka_unit_test(bad_configs_are_refused_with_field_and_reason),
        cmocka_unit_test(values_that_mean_nothing_are_accepted),
        cmocka_unit_test(unknown_fields_with_a_value_are_warned_about),
        cmocka_unit_test(warnings_are_not_endless_and_say_so),
        cmocka_unit_test(another_task_s_adapter_is_accepted_where_allowed),
        cmocka_unit_test(modules_are_targeted_as_peft_does),
        cmocka_unit_test(all_linear_means_the_body_s_linear_maps),
        cmocka_unit_test(missing_targets_are_the_family_s_defaults),
        cmocka_unit_test(ranks_and_alphas_follow_the_first_pattern_that_matches),
        cmocka_unit_test(the_order_of_the_file_decides_and_each_pattern_by_itself),
        cmocka_unit_test(the_scale_is_alpha_over_r_or_over_its_root),
        cmocka_unit_test(an_expression_that_backtracks_for_ever_is_stopped),
        cmocka_unit_test(many_expensive_expressions_share_one_budget),
        cmocka_unit_test(expressions_that_fail_at_once_are_counted_too),
        cmocka_unit_test(thousands_of_plain_patterns_are_quick),
        cmocka_unit_test(the_real_long_expression_costs_little),
        cmocka_unit_test(an_expression_has_a_maximum_length),
        cmocka_unit_test(the_golden_configs_are_accepted),
        cmocka_unit_test(the_golden_refusals_are_refused_by_name),
        cmocka_unit_test(real_configs_are_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
