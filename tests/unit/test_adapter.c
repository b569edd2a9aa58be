/* What the golden adapters do not show: forms that other writers leave, limits, what the report says. */
#include "lora/adapter.h"

#include <math.h>
#include <stdlib.h>

#include "base/cpu.h"
#include "support/check.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

enum { WIDTH = 32, VOCAB = 96 }; /* tiny_model's defaults */

static const struct kernels *kernels;
static struct model *model, *tied;

static int load_models(void **state)
{
    struct error err;
    (void)state;
    kernels = kernels_select(cpu_detect_features(), "c", &err);
    model = tiny_model_load((struct tiny_model){.tied_head = -1}, MODEL_WEIGHTS_NATIVE, kernels);
    tied = tiny_model_load((struct tiny_model){.tied_head = 1}, MODEL_WEIGHTS_NATIVE, kernels);
    return model && tied ? 0 : -1;
}

static int free_models(void **state)
{
    (void)state;
    model_destroy(model);
    model_destroy(tied);
    return 0;
}

/* -- Adapters tensor by tensor -------------------------------------------------------------- */

struct file {
    char *folder;
    struct tensor tensors[16];
    float *data[16];
    size_t n;
};

static float *add(struct file *file, const char *name, size_t n_rows, size_t n_columns)
{
    size_t n = n_rows * (n_columns ? n_columns : 1);
    float *data = calloc(n, sizeof *data);
    uint64_t seed = file->n + 1;
    for (size_t i = 0; i < n; i++)
        data[i] = tiny_random(&seed);
    file->tensors[file->n] = (struct tensor){.name = name,
                                             .dtype = DTYPE_F32,
                                             .n_dims = n_columns ? 2 : 1,
                                             .shape = {n_rows, n_columns},
                                             .n_elements = n,
                                             .n_bytes = n * sizeof *data,
                                             .data = data};
    file->data[file->n++] = data;
    return data;
}

static void write_file(struct file *file, const char *folder, const char *config)
{
    struct error err = {0};
    char *text = NULL, *path = path_join(folder, "adapter_model.safetensors");
    assert_true(
        asprintf(&text,
                 "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"r\": 2, \"lora_alpha\": 6%s%s}",
                 *config ? ", " : "", config) > 0);
    scratch_write_text(folder, "adapter_config.json", text);
    assert_ok(safetensors_write(path, file->tensors, file->n, &err), &err);
    free(path);
    free(text);
}

static struct adapter *load_on(const struct model *base, struct file *file, const char *config,
                               struct error *err)
{
    char *folder = scratch_create();
    write_file(file, folder, config);
    struct adapter *adapter = adapter_load(folder, base, false, UINT64_MAX, err);
    scratch_remove(folder);
    return adapter;
}

static void drop(struct file *file)
{
    for (size_t i = 0; i < file->n; i++)
        free(file->data[i]);
    file->n = 0;
}

#define Q "model.layers.0.self_attn.q_proj"
#define TARGET_Q "\"target_modules\": [\"q_proj\"]"

static struct file pair_named(const char *a, const char *b)
{
    struct file file = {0};
    add(&file, a, 2, WIDTH);
    add(&file, b, WIDTH, 2);
    return file;
}

static void a_pair_is_kept_as_it_came_with_its_scale(void **state)
{
    struct error err = {0};
    (void)state;
    struct file file =
        pair_named("base_model.model." Q ".lora_A.weight", "base_model.model." Q ".lora_B.weight");
    struct adapter *adapter = load_on(model, &file, TARGET_Q, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    assert_int_equal(adapter->n_sites, 1);
    const struct delta *delta = &adapter->sites[0].delta;
    assert_float_equal(delta->scale, 3, 0);
    assert_memory_equal(delta->a, file.data[0], 2 * WIDTH * sizeof(float));
    for (size_t o = 0; o < WIDTH; o++)
        for (size_t j = 0; j < 2; j++)
            assert_float_equal(((const float *)delta->b)[delta_b_at(2, o, j)], file.data[1][o * 2 + j], 0);
    assert_true(adapter->is_plain);
    assert_int_equal(adapter->n_parameters, 4 * WIDTH);
    assert_int_equal(adapter->report.tensors_applied, 2);
    assert_string_equal(adapter->report.sites[0].site, Q);
    assert_int_equal(strlen(adapter->digest), 64);
    assert_string_equal(adapter->digest, adapter->report.digest);
    /* One layer of two is left alone, and that is said. */
    assert_int_equal(adapter->report.n_warnings, 1);
    assert_non_null(strstr(adapter->report.warnings[0], "model.layers.1.self_attn.q_proj"));
    adapter_unref(adapter);
    drop(&file);
}

static void halves_of_different_types_are_widened(void **state)
{
    struct error err = {0};
    uint16_t narrow[WIDTH * 2];
    (void)state;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    dtype_from_f32(narrow, DTYPE_BF16, file.data[1], WIDTH * 2);
    file.tensors[1].dtype = DTYPE_BF16;
    file.tensors[1].data = narrow;
    file.tensors[1].n_bytes = sizeof narrow;
    struct adapter *adapter = load_on(model, &file, TARGET_Q, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    const struct delta *delta = &adapter->sites[0].delta;
    assert_int_equal(delta->type, WEIGHT_F32);
    assert_float_equal(((const float *)delta->b)[delta_b_at(2, 5, 1)], bf16_to_f32(narrow[5 * 2 + 1]), 0);
    adapter_unref(adapter);
    drop(&file);
}

static void paths_of_other_classes_find_their_modules(void **state)
{
    static const char *const fronts[] = {"base_model.model.model.language_model.layers.0.self_attn.q_proj",
                                         "base_model.model.language_model.model.layers.0.self_attn.q_proj",
                                         "base_model.model.model.model.layers.0.self_attn.q_proj",
                                         "base_model.model.layers.0.self_attn.q_proj",
                                         "layers.0.self_attn.q_proj"};
    (void)state;
    for (size_t i = 0; i < sizeof fronts / sizeof fronts[0]; i++) {
        struct error err = {0};
        char a[200], b[200];
        snprintf(a, sizeof a, "%s.lora_A.weight", fronts[i]);
        snprintf(b, sizeof b, "%s.lora_B.weight", fronts[i]);
        struct file file = pair_named(a, b);
        struct adapter *adapter = load_on(model, &file, TARGET_Q, &err);
        if (!adapter)
            fail_msg("%s: %s", fronts[i], err.message);
        assert_int_equal(adapter->sites[0].site, model->layer_sites[0][PROJECTION_Q]);
        adapter_unref(adapter);
        drop(&file);
    }
}

static void paths_of_two_classes_in_one_file_are_refused(void **state)
{
    struct error err = {0};
    (void)state;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    add(&file, "model.language_model.layers.1.self_attn.q_proj.lora_A.weight", 2, WIDTH);
    add(&file, "model.language_model.layers.1.self_attn.q_proj.lora_B.weight", WIDTH, 2);
    assert_null(load_on(model, &file, TARGET_Q, &err));
    assert_int_equal(err.code, ERROR_MISMATCH);
    assert_non_null(strstr(err.message, "language_model"));
    drop(&file);
}

static void the_tied_head_follows_an_embedding_that_ensures_it(void **state)
{
    struct error err = {0};
    (void)state;
    struct file file = {0};
    float *a = add(&file, "base_model.model.model.embed_tokens.lora_embedding_A", 2, VOCAB);
    float *b = add(&file, "base_model.model.model.embed_tokens.lora_embedding_B", WIDTH, 2);
    const char *config = "\"target_modules\": [\"embed_tokens\"], \"ensure_weight_tying\": true";
    struct adapter *adapter = load_on(tied, &file, config, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    const struct adapter_site *embedding = adapter_find_site(adapter, tied->embedding_site),
                              *head = adapter_find_site(adapter, tied->head_site);
    assert_non_null(embedding);
    assert_non_null(head);
    assert_int_equal(head->delta.n_in, WIDTH);
    assert_int_equal(head->delta.n_out, VOCAB);
    assert_float_equal(((const float *)head->delta.a)[1 * WIDTH + 7], b[7 * 2 + 1], 0);
    assert_float_equal(((const float *)head->delta.b)[delta_b_at(2, 9, 1)], a[1 * VOCAB + 9], 0);
    assert_float_equal(((const float *)embedding->delta.a)[9 * 2 + 1], a[1 * VOCAB + 9], 0);
    adapter_unref(adapter);
    adapter = load_on(tied, &file, "\"target_modules\": [\"embed_tokens\"]", &err);
    assert_non_null(adapter);
    assert_null(adapter_find_site(adapter, tied->head_site));
    adapter_unref(adapter);
    drop(&file);
}

static void assert_same_elements(const struct matrix *a, const struct matrix *b)
{
    assert_int_equal(a->n_out, b->n_out);
    assert_int_equal(a->n_in, b->n_in);
    for (size_t o = 0; o < a->n_out; o++)
        for (size_t k = 0; k < a->n_in; k++)
            assert_float_equal(matrix_read_element(a, o, k), matrix_read_element(b, o, k), 0);
}

static void a_saved_embedding_is_the_tied_heads_too_when_that_is_ensured(void **state)
{
    struct error err = {0};
    (void)state;
    struct file file = {0};
    add(&file, "base_model.model.model.embed_tokens.weight", VOCAB, WIDTH);
    struct adapter *adapter = load_on(
        tied, &file,
        "\"target_modules\": [], \"modules_to_save\": [\"embed_tokens\"], \"ensure_weight_tying\": true",
        &err);
    if (!adapter)
        fail_msg("%s", err.message);
    const struct adapter_site *embedding = adapter_find_site(adapter, tied->embedding_site),
                              *head = adapter_find_site(adapter, tied->head_site);
    assert_same_elements(embedding->weight, head->weight);
    assert_ptr_not_equal(embedding->weight, tied->sites[0].weight);
    assert_false(adapter->is_plain);
    assert_true(adapter->resident_bytes > VOCAB * WIDTH * 8 && adapter->resident_bytes < VOCAB * WIDTH * 12);
    adapter_unref(adapter);
    drop(&file);
}

static void trained_rows_of_a_tied_embedding_are_the_heads_too(void **state)
{
    struct error err = {0};
    (void)state;
    struct file file = {0};
    float *rows =
        add(&file, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", 2, WIDTH);
    const char *config = "\"target_modules\": [], \"trainable_token_indices\": [90, 4]";
    struct adapter *adapter = load_on(tied, &file, config, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    const struct matrix *weight = adapter_find_site(adapter, tied->embedding_site)->weight;
    assert_same_elements(weight, adapter_find_site(adapter, tied->head_site)->weight);
    assert_memory_equal(matrix_row(weight, 90), rows, WIDTH * sizeof(float));
    assert_memory_equal(matrix_row(weight, 4), rows + WIDTH, WIDTH * sizeof(float));
    assert_memory_equal(matrix_row(weight, 5), matrix_row(tied->sites[tied->embedding_site].weight, 5),
                        WIDTH * sizeof(float));
    adapter_unref(adapter);
    adapter = load_on(model, &file, config, &err);
    assert_non_null(adapter);
    assert_null(adapter_find_site(adapter, model->head_site));
    adapter_unref(adapter);
    assert_null(load_on(tied, &file, "\"target_modules\": [], \"trainable_token_indices\": [4, 4]", &err));
    assert_error(&err, ERROR_BAD_INPUT, "trainable_token_indices", "twice");
    assert_null(load_on(tied, &file, "\"target_modules\": []", &err));
    assert_int_equal(err.code, ERROR_MISMATCH);
    drop(&file);
}

static void a_copy_of_the_base_is_dropped_and_another_is_refused(void **state)
{
    struct error err = {0};
    (void)state;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    float *copy = add(&file, "lm_head.weight", VOCAB, WIDTH);
    matrix_read_rows(model->sites[model->head_site].weight, 0, VOCAB, copy);
    struct adapter *adapter = load_on(model, &file, TARGET_Q, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    assert_int_equal(adapter->n_sites, 1);
    assert_int_equal(adapter->report.tensors_ignored, 1);
    adapter_unref(adapter);
    copy[17] += 1;
    assert_null(load_on(model, &file, TARGET_Q, &err));
    assert_error(&err, ERROR_MISMATCH, "lm_head.weight", "modules_to_save");
    drop(&file);
    file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    add(&file, "lm_head.weight", VOCAB + 2, WIDTH);
    assert_null(load_on(model, &file, TARGET_Q ", \"modules_to_save\": [\"lm_head\"]", &err));
    assert_error(&err, ERROR_MISMATCH, "lm_head.weight", "vocabulary");
    drop(&file);
}

static void another_tasks_head_is_ignored_only_when_that_is_allowed(void **state)
{
    struct error err = {0};
    char *folder = scratch_create();
    (void)state;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    add(&file, "base_model.model.score.weight", 3, WIDTH);
    write_file(&file, folder, TARGET_Q);
    assert_null(adapter_load(folder, model, false, UINT64_MAX, &err));
    assert_error(&err, ERROR_MISMATCH, "base_model.model.score.weight", "another task");
    struct adapter *adapter = adapter_load(folder, model, true, UINT64_MAX, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    assert_int_equal(adapter->report.tensors_applied, 2);
    assert_int_equal(adapter->report.tensors_ignored, 1);
    adapter_unref(adapter);
    scratch_remove(folder);
    drop(&file);
}

static void an_adapter_in_a_subdirectory_is_found_when_it_is_the_only_one(void **state)
{
    struct error err = {0};
    char *folder = scratch_create(), *one = path_join(folder, "one"), *two = path_join(folder, "two");
    (void)state;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    assert_true(directory_create(one, NULL) && directory_create(two, NULL));
    write_file(&file, one, TARGET_Q);
    struct adapter *adapter = adapter_load(folder, model, false, UINT64_MAX, &err);
    assert_non_null(adapter);
    adapter_unref(adapter);
    write_file(&file, two, TARGET_Q);
    assert_null(adapter_load(folder, model, false, UINT64_MAX, &err));
    assert_error(&err, ERROR_MISMATCH, "path", "several");
    free(one);
    free(two);
    scratch_remove(folder);
    drop(&file);
}

static void trained_rows_of_a_tied_head_with_dora_are_refused(void **state)
{
    struct error err = {0};
    (void)state;
    struct file file = {0};
    add(&file, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", 2, WIDTH);
    add(&file, "base_model.model.lm_head.lora_A.weight", 2, WIDTH);
    add(&file, "base_model.model.lm_head.lora_B.weight", VOCAB, 2);
    add(&file, "base_model.model.lm_head.lora_magnitude_vector", VOCAB, 0);
    const char *config =
        "\"target_modules\": [\"lm_head\"], \"trainable_token_indices\": [90, 4], \"use_dora\": true";
    struct adapter *adapter = load_on(model, &file, config, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    adapter_unref(adapter);
    assert_null(load_on(tied, &file, config, &err));
    assert_error(&err, ERROR_MISMATCH, "base_model.model.lm_head.lora_magnitude_vector", "trainable_token_indices");
    drop(&file);
}

#ifndef __SANITIZE_ADDRESS__ /* which puts gaps into arenas */
static void all_that_was_counted_lies_in_one_block(void **state)
{
    struct error err = {0};
    (void)state;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    struct adapter *adapter = load_on(model, &file, TARGET_Q, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    assert_ptr_equal(adapter->arena.first, adapter->arena.current);
    adapter_unref(adapter);
    drop(&file);
}
#endif

static void an_adapter_over_the_limit_says_how_much_it_needs(void **state)
{
    struct error err = {0};
    char *folder = scratch_create(), text[64];
    (void)state;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    write_file(&file, folder, TARGET_Q);
    struct adapter *adapter = adapter_load(folder, model, false, UINT64_MAX, &err);
    uint64_t n_bytes = adapter->resident_bytes;
    adapter_unref(adapter);
    assert_null(adapter_load(folder, model, false, n_bytes - 1, &err));
    snprintf(text, sizeof text, "needs %llu bytes", (unsigned long long)n_bytes);
    assert_error(&err, ERROR_TOO_LARGE, "adapter_memory", text);
    adapter = adapter_load(folder, model, false, n_bytes, &err);
    assert_non_null(adapter);
    adapter_unref(adapter);
    scratch_remove(folder);
    drop(&file);
}

static void doras_norm_is_right_where_its_terms_cancel(void **state)
{
    struct error err = {0};
    (void)state;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    float *m = add(&file, Q ".lora_magnitude_vector", WIDTH, 0);
    float w[4 * WIDTH];
    matrix_read_rows(model->sites[model->layer_sites[0][PROJECTION_Q]].weight, 0, 4, w);
    /* Row 3 of W + s BA is W's first row of A cancelled to a thousandth: b = -(1 - 1/1000) / s, A's row =
     * W's. */
    memcpy(file.data[0], w + 3 * WIDTH, WIDTH * sizeof(float));
    for (size_t o = 0; o < WIDTH; o++)
        m[o] = 1;
    file.data[1][3 * 2] = -0.999f / 3;
    file.data[1][3 * 2 + 1] = 0;
    struct adapter *adapter = load_on(model, &file, TARGET_Q ", \"use_dora\": true", &err);
    if (!adapter)
        fail_msg("%s", err.message);
    double square = 0;
    for (size_t k = 0; k < WIDTH; k++) {
        double v = (double)w[3 * WIDTH + k] + 3 * (double)file.data[1][3 * 2] * (double)file.data[0][k];
        square += v * v;
    }
    assert_true(fabs((double)adapter->sites[0].row_gain[3] * sqrt(square) - 1) < 1e-5);
    adapter_unref(adapter);
    drop(&file);
}

static void a_row_that_dora_cannot_scale_is_refused(void **state)
{
    struct error err = {0};
    (void)state;
    struct model *empty =
        tiny_model_load((struct tiny_model){.tied_head = -1, .seed = 9}, MODEL_WEIGHTS_F32, kernels);
    size_t site = empty->layer_sites[0][PROJECTION_Q];
    struct matrix *zeros = matrix_create(WEIGHT_F32, MATRIX_PACKED, WIDTH, WIDTH, &err);
    memset(zeros->owned, 0, zeros->owned_bytes);
    matrix_unref(empty->sites[site].weight);
    empty->sites[site].weight = zeros;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    add(&file, Q ".lora_magnitude_vector", WIDTH, 0);
    file.data[1][5 * 2] = file.data[1][5 * 2 + 1] = 0;
    assert_null(load_on(empty, &file, TARGET_Q ", \"use_dora\": true", &err));
    assert_error(&err, ERROR_MISMATCH, Q, "row 5");
    drop(&file);
    model_destroy(empty);
}

static void an_alpha_of_zero_is_warned_of(void **state)
{
    struct error err = {0};
    (void)state;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    struct adapter *adapter = load_on(model, &file, TARGET_Q ", \"alpha_pattern\": {\"q_proj\": 0}", &err);
    if (!adapter)
        fail_msg("%s", err.message);
    assert_float_equal(adapter->sites[0].delta.scale, 0, 0);
    assert_non_null(strstr(adapter->report.warnings[0], "no effect"));
    adapter_unref(adapter);
    drop(&file);
}

static void the_digest_is_of_the_bytes_of_both_files(void **state)
{
    struct error err = {0};
    char first[LORAD_DIGEST_SIZE];
    (void)state;
    struct file file = pair_named(Q ".lora_A.weight", Q ".lora_B.weight");
    struct adapter *adapter = load_on(model, &file, TARGET_Q, &err);
    memcpy(first, adapter->digest, sizeof first);
    adapter_unref(adapter);
    adapter = load_on(model, &file, TARGET_Q, &err);
    assert_string_equal(adapter->digest, first);
    adapter_unref(adapter);
    adapter = load_on(model, &file, TARGET_Q " ", &err);
    assert_string_not_equal(adapter->digest, first);
    adapter_unref(adapter);
    file.data[0][0] += 1;
    adapter = load_on(model, &file, TARGET_Q, &err);
    assert_string_not_equal(adapter->digest, first);
    adapter_unref(adapter);
    drop(&file);
}

/* Real adapters for the real GPT-2, on a base of its shape. */
static void real_adapters_fit_a_base_of_their_shape(void **state)
{
    struct error err = {0};
    (void)state;
    char *plain = test_data("adapters/gpt2-tigrinya/adapter_config.json"),
         *classifier = test_data("adapters/gpt2-seqcls/adapter_config.json");
    if (!plain || !classifier) {
        free(plain);
        free(classifier);
        skip();
        return;
    }
    struct model *gpt2 = tiny_model_load(
        (struct tiny_model){.family = "gpt2", .n_layers = 12, .d_model = 768, .n_heads = 12, .d_ffn = 3072},
        MODEL_WEIGHTS_NATIVE, kernels);
    *strrchr(plain, '/') = *strrchr(classifier, '/') = '\0';
    struct adapter *adapter = adapter_load(plain, gpt2, false, UINT64_MAX, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    assert_int_equal(adapter->report.tensors_applied, 72);
    assert_int_equal(adapter->n_sites, 36);
    assert_float_equal(adapter->sites[0].delta.scale, 4, 0);
    print_message("%llu bytes resident\n", (unsigned long long)adapter->resident_bytes);
    adapter_unref(adapter);
    assert_null(adapter_load(classifier, gpt2, false, UINT64_MAX, &err));
    assert_error(&err, ERROR_MISMATCH, "task_type", "SEQ_CLS");
    adapter = adapter_load(classifier, gpt2, true, UINT64_MAX, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    assert_int_equal(adapter->report.tensors_applied, 24);
    assert_int_equal(adapter->report.tensors_ignored, 1);
    adapter_unref(adapter);
    model_destroy(gpt2);
    free(plain);
    free(classifier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pair_is_kept_as_it_came_with_its_scale),
        cmocka_unit_test(halves_of_different_types_are_widened),
        cmocka_unit_test(paths_of_other_classes_find_their_modules),
        cmocka_unit_test(paths_of_two_classes_in_one_file_are_refused),
        cmocka_unit_test(the_tied_head_follows_an_embedding_that_ensures_it),
        cmocka_unit_test(a_saved_embedding_is_the_tied_heads_too_when_that_is_ensured),
        cmocka_unit_test(trained_rows_of_a_tied_embedding_are_the_heads_too),
        cmocka_unit_test(a_copy_of_the_base_is_dropped_and_another_is_refused),
        cmocka_unit_test(another_tasks_head_is_ignored_only_when_that_is_allowed),
        cmocka_unit_test(an_adapter_in_a_subdirectory_is_found_when_it_is_the_only_one),
        cmocka_unit_test(trained_rows_of_a_tied_head_with_dora_are_refused),
#ifndef __SANITIZE_ADDRESS__
        cmocka_unit_test(all_that_was_counted_lies_in_one_block),
#endif
        cmocka_unit_test(an_adapter_over_the_limit_says_how_much_it_needs),
        cmocka_unit_test(doras_norm_is_right_where_its_terms_cancel),
        cmocka_unit_test(a_row_that_dora_cannot_scale_is_refused),
        cmocka_unit_test(an_alpha_of_zero_is_warned_of),
        cmocka_unit_test(the_digest_is_of_the_bytes_of_both_files),
        cmocka_unit_test(real_adapters_fit_a_base_of_their_shape),
    };
    return cmocka_run_group_tests(tests, load_models, free_models);
}
