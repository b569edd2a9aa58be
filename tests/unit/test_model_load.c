#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/file.h"
#include "support/naive_forward.h"
#include "support/runner.h"
#include "support/tiny_model.h"

static struct model *try_load(struct tiny_model spec, enum model_weights weights, struct error *err)
{
    char *directory = tiny_model_write(spec);
    *err = (struct error){0};
    struct model *model = model_load(directory, weights, runner_kernels(), NULL, NULL, err);
    tiny_remove(directory);
    return model;
}

static void sites_come_under_pefts_paths_with_their_shapes(void **state)
{
    struct model *model =
        tiny_model_load((struct tiny_model){.family = "llama", .d_head = 12}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    static const struct {
        const char *path;
        size_t n_in, n_out;
        enum site_kind kind;
    } EXPECTED[] = {
        {"model.embed_tokens", 96, 32, SITE_EMBEDDING},
        {"model.layers.0.self_attn.q_proj", 32, 48, SITE_LINEAR},
        {"model.layers.1.self_attn.k_proj", 32, 24, SITE_LINEAR},
        {"model.layers.1.self_attn.o_proj", 48, 32, SITE_LINEAR},
        {"model.layers.1.mlp.gate_proj", 32, 48, SITE_LINEAR},
        {"model.layers.1.mlp.down_proj", 48, 32, SITE_LINEAR},
        {"lm_head", 32, 96, SITE_HEAD},
    };
    (void)state;
    assert_int_equal(model->n_sites, 2 + 2 * 7);
    assert_int_equal(model->n_norms, 2 * 2 + 1);
    for (size_t i = 0; i < sizeof EXPECTED / sizeof *EXPECTED; i++) {
        const struct site *site = model_find_site(model, EXPECTED[i].path);
        assert_non_null(site);
        assert_int_equal(site->n_in, EXPECTED[i].n_in);
        assert_int_equal(site->n_out, EXPECTED[i].n_out);
        assert_int_equal(site->kind, EXPECTED[i].kind);
        assert_null(site->bias);
    }
    assert_non_null(model_find_norm(model, "model.layers.1.post_attention_layernorm"));
    assert_non_null(model_find_norm(model, "model.norm"));
    assert_null(model_find_site(model, "model.layers.2.self_attn.q_proj"));
    assert_null(model_find_site(model, "model.norm"));
    assert_string_equal(model->weights_name, "f32");
    assert_int_equal(model->n_warnings, 0);
    assert_int_equal(model->n_parameters, 2 * 96 * 32 + 2 * (48 * 32 * 2 + 2 * 24 * 32 + 3 * 32 * 48 + 2 * 32) + 32);
    model_destroy(model);
}

static void a_prefix_may_be_left_out_of_paths_and_files(void **state)
{
    struct model *with = tiny_model_load((struct tiny_model){.family = "gpt2"}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    struct model *without = tiny_model_load((struct tiny_model){.family = "gpt2", .has_no_prefix = true},
                                            MODEL_WEIGHTS_NATIVE, runner_kernels());
    (void)state;
    const struct site *site = model_find_site(without, "h.1.mlp.c_fc");
    assert_string_equal(site->path, "transformer.h.1.mlp.c_fc");
    assert_string_equal(site->tensor_name, "h.1.mlp.c_fc.weight");
    assert_ptr_equal(site, model_find_site(without, "transformer.h.1.mlp.c_fc"));
    assert_string_equal(model_find_site(with, "wte")->tensor_name, "transformer.wte.weight");
    assert_non_null(model_find_norm(with, "ln_f"));
    assert_ptr_equal(model_find_site(with, "transformer.lm_head"), NULL);
    assert_int_equal(without->n_warnings, 0);
    model_destroy(with);
    model_destroy(without);
}

static void conv1d_weights_are_turned_to_rows_of_outputs(void **state)
{
    char *directory = tiny_model_write((struct tiny_model){.family = "gpt2"});
    struct model *model = model_load(directory, MODEL_WEIGHTS_NATIVE, runner_kernels(), NULL, NULL, NULL);
    (void)state;
    const struct site *site = model_find_site(model, "transformer.h.0.attn.c_attn");
    const struct tensor *tensor = tensor_file_find(&model->files, site->tensor_name);
    assert_true(site->is_conv1d);
    assert_int_equal(site->projection, PROJECTION_QKV);
    assert_int_equal(tensor->shape[0], site->n_in);
    for (size_t o = 0; o < site->n_out; o++)
        for (size_t k = 0; k < site->n_in; k++) {
            float element;
            memcpy(&element, (const char *)tensor->data + (k * site->n_out + o) * 4, 4);
            assert_float_equal(matrix_read_element(site->weight, o, k), element, 0);
        }
    assert_non_null(site->bias);
    tiny_remove(directory);
    model_destroy(model);
}

static void a_tied_head_is_packed_from_the_embedding(void **state)
{
    struct model *tied = tiny_model_load((struct tiny_model){.tied_head = 1}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    (void)state;
    const struct site *head = &tied->sites[tied->head_site], *embedding = &tied->sites[tied->embedding_site];
    for (size_t o = 0; o < head->n_out; o++)
        for (size_t k = 0; k < head->n_in; k++)
            assert_float_equal(matrix_read_element(head->weight, o, k), matrix_read_element(embedding->weight, o, k), 0);
    assert_string_equal(head->tensor_name, "model.embed_tokens.weight");
    assert_string_equal(head->path, "lm_head");
    model_destroy(tied);

    struct error err;
    struct model *differing = try_load((struct tiny_model){.tied_head = -1, .more_config = "\"x\": 1"}, MODEL_WEIGHTS_NATIVE, &err);
    assert_ptr_not_equal(differing->sites[differing->head_site].weight, differing->sites[differing->embedding_site].weight);
    model_destroy(differing);
}

/* The config says tied, the file holds another head. */
static void a_tied_config_with_a_head_of_its_own_is_refused(void **state)
{
    char *directory = tiny_model_write((struct tiny_model){.tied_head = -1});
    char *path = path_join(directory, "config.json");
    struct buffer text;
    struct error err;
    (void)state;
    buffer_init(&text, 0);
    assert_true(file_read_text(&text, path, 100000, &err));
    char *at = strstr(text.data, "\"tie_word_embeddings\": false");
    memcpy(at, "\"tie_word_embeddings\": true ", 28);
    assert_true(file_replace(path, text.data, text.n_bytes, &err));
    assert_null(model_load(directory, MODEL_WEIGHTS_NATIVE, runner_kernels(), NULL, NULL, &err));
    assert_int_equal(err.code, ERROR_MISMATCH);
    assert_string_equal(err.param, "tie_word_embeddings");
    buffer_finish(&text);
    free(path);
    tiny_remove(directory);
}

static void weights_convert_as_asked(void **state)
{
    struct tiny_model spec = {.family = "gpt2", .dtype = DTYPE_F16};
    struct model *native = tiny_model_load(spec, MODEL_WEIGHTS_NATIVE, runner_kernels());
    struct model *wide = tiny_model_load(spec, MODEL_WEIGHTS_F32, runner_kernels());
    struct model *brain = tiny_model_load(spec, MODEL_WEIGHTS_BF16, runner_kernels());
    (void)state;
    assert_string_equal(native->weights_name, "f16");
    assert_string_equal(wide->weights_name, "f32");
    assert_string_equal(brain->weights_name, "bf16");
    assert_int_equal(wide->weight_bytes, 2 * native->weight_bytes);
    for (size_t i = 0; i < native->n_sites; i++) {
        const struct matrix *a = native->sites[i].weight, *b = wide->sites[i].weight, *c = brain->sites[i].weight;
        for (size_t o = 0; o < a->n_out; o++)
            for (size_t k = 0; k < a->n_in; k++) {
                double value = naive_weight(a, o, k);
                assert_float_equal(naive_weight(b, o, k), value, 0);
                assert_float_equal(naive_weight(c, o, k), bf16_to_f32(f32_to_bf16((float)value)), 0);
                assert_float_equal(matrix_read_element(c, o, k), value, 0);
            }
    }
    model_destroy(native);
    model_destroy(wide);
    model_destroy(brain);
}

static void unknown_tensors_are_named_and_old_buffers_are_not(void **state)
{
    struct error err;
    (void)state;
    struct model *model = try_load((struct tiny_model){.extra_tensor = "model.layers.0.mystery.weight"}, MODEL_WEIGHTS_NATIVE, &err);
    assert_int_equal(model->n_warnings, 1);
    assert_non_null(strstr(model->warnings[0], "model.layers.0.mystery.weight"));
    model_destroy(model);
    model = try_load((struct tiny_model){.extra_tensor = "model.layers.0.self_attn.rotary_emb.inv_freq"}, MODEL_WEIGHTS_NATIVE, &err);
    assert_int_equal(model->n_warnings, 0);
    model_destroy(model);
    model = try_load((struct tiny_model){.family = "gpt2", .extra_tensor = "transformer.h.0.attn.masked_bias"}, MODEL_WEIGHTS_NATIVE, &err);
    assert_int_equal(model->n_warnings, 0);
    model_destroy(model);
}

static void files_that_do_not_match_their_config_are_refused(void **state)
{
    static const struct {
        struct tiny_model spec;
        const char *param, *message;
    } CASES[] = {
        {{.without = "model.norm.weight"}, "model.norm.weight", "no tensor"},
        {{.without = "lm_head.weight"}, "lm_head.weight", "no tensor"},
        {{.without = "model.layers.1.mlp.up_proj.weight"}, "model.layers.1.mlp.up_proj.weight", "no tensor"},
        {{.without = "model.layers.0.input_layernorm.weight"}, "model.layers.0.input_layernorm.weight", "no tensor"},
        {{.family = "qwen2", .without = "model.layers.1.self_attn.k_proj.bias"}, "model.layers.1.self_attn.k_proj.bias", "no tensor"},
        {{.family = "qwen3", .without = "model.layers.1.self_attn.q_norm.weight"}, "model.layers.1.self_attn.q_norm.weight", "no tensor"},
        {{.tied_head = 1, .without = "model.embed_tokens.weight"}, "model.embed_tokens.weight", "no tensor"},
        {{.misshapen = "model.layers.1.self_attn.q_proj.weight"}, "model.layers.1.self_attn.q_proj.weight", "[33, 32], but the config asks for [32, 32]"},
        {{.misshapen = "model.embed_tokens.weight"}, "model.embed_tokens.weight", "[97, 32]"},
        {{.misshapen = "model.norm.weight"}, "model.norm.weight", "[33]"},
        {{.family = "gpt2", .misshapen = "transformer.wpe.weight"}, "transformer.wpe.weight", "[129, 32]"},
        {{.family = "gpt2", .misshapen = "transformer.h.0.attn.c_attn.bias"}, "transformer.h.0.attn.c_attn.bias", "[97]"},
        {{.not_finite = "model.norm.weight"}, "model.norm.weight", "element 0"},
        {{.family = "gpt2", .not_finite = "transformer.h.1.ln_2.bias"}, "transformer.h.1.ln_2.bias", "not finite"},
        {{.has_no_prefix = true, .extra_tensor = "model.layers.0.input_layernorm.weight"}, "model.layers.0.input_layernorm.weight", "both"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct error err;
        struct model *model = try_load(CASES[i].spec, MODEL_WEIGHTS_NATIVE, &err);
        if (model)
            fail_msg("case %zu was accepted", i);
        assert_int_equal(err.code, i == 14 ? ERROR_BAD_INPUT : ERROR_MISMATCH);
        assert_string_equal(err.param, CASES[i].param);
        if (!strstr(err.message, CASES[i].message))
            fail_msg("case %zu: %s", i, err.message);
    }
}

static double last_fraction;
static void note_progress(void *context, const char *what, double fraction)
{
    assert_string_equal(what, "loading weights");
    assert_true(fraction >= 0 && fraction <= 1);
    last_fraction = fraction;
    ++*(size_t *)context;
}

static void loading_tells_how_far_it_is(void **state)
{
    size_t n_calls = 0;
    char *directory = tiny_model_write((struct tiny_model){0});
    (void)state;
    struct model *model = model_load(directory, MODEL_WEIGHTS_NATIVE, runner_kernels(), note_progress, &n_calls, NULL);
    assert_true(n_calls > 1);
    assert_float_equal(last_fraction, 1, 0);
    model_destroy(model);
    tiny_remove(directory);
}

static void a_missing_model_is_not_found(void **state)
{
    struct error err;
    (void)state;
    assert_null(model_load("/nonexistent", MODEL_WEIGHTS_NATIVE, runner_kernels(), NULL, NULL, &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
    assert_non_null(strstr(err.message, "/nonexistent"));
    model_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sites_come_under_pefts_paths_with_their_shapes),
        cmocka_unit_test(a_prefix_may_be_left_out_of_paths_and_files),
        cmocka_unit_test(conv1d_weights_are_turned_to_rows_of_outputs),
        cmocka_unit_test(a_tied_head_is_packed_from_the_embedding),
        cmocka_unit_test(a_tied_config_with_a_head_of_its_own_is_refused),
        cmocka_unit_test(weights_convert_as_asked),
        cmocka_unit_test(unknown_tensors_are_named_and_old_buffers_are_not),
        cmocka_unit_test(files_that_do_not_match_their_config_are_refused),
        cmocka_unit_test(loading_tells_how_far_it_is),
        cmocka_unit_test(a_missing_model_is_not_found),
    };
    return cmocka_run_group_tests_name("model_load", tests, NULL, NULL);
}
