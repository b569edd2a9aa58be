/* A merged directory, read back as a model, says what its adapters said on the fly. */
#include "lora/export.h"

#include <math.h>
#include <stdlib.h>

#include "base/cpu.h"
#include "base/json.h"
#include "support/check.h"
#include "support/naive_forward.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

static const struct kernels *kernels;

static int choose_kernels(void **state)
{
    struct error err;
    (void)state;
    kernels = kernels_select(cpu_detect_features(), "c", &err);
    return kernels ? 0 : -1;
}

static struct model *must_load(const char *directory)
{
    struct error err = {0};
    struct model *model = model_load(directory, MODEL_WEIGHTS_NATIVE, kernels, NULL, NULL, &err);
    if (!model)
        fail_msg("%s", err.message);
    return model;
}

static double distance(const struct model *a, const struct view *view_a, const struct view *view_b)
{
    static const int32_t tokens[] = {3, 1, 4, 1, 5, 9, 2, 6};
    double *x = naive_forward(view_a, tokens, 8), *y = naive_forward(view_b, tokens, 8), worst = 0;
    for (size_t i = 0; i < 8 * a->config.n_vocab; i++)
        worst = fmax(worst, fabs(x[i] - y[i]));
    free(x);
    free(y);
    return worst;
}

static void note_progress(void *context, const char *what, double fraction)
{
    assert_non_null(what);
    assert_true(fraction >= 0 && fraction <= 1);
    ++*(size_t *)context;
}

/* Exports `n_parts` adapters and checks the result; says whether config.json still ties the head. */
static bool check(struct tiny_model model_spec, const struct tiny_adapter *specs, const double *factors,
                  size_t n_parts, double allowed)
{
    struct error err = {0};
    struct compose_part parts[4];
    char *directory = tiny_model_write(model_spec), *folder = scratch_create(),
         *out = path_join(folder, "merged");
    struct model *model = must_load(directory);
    size_t n_calls = 0;
    for (size_t i = 0; i < n_parts; i++) {
        char *adapter = tiny_adapter_write(model, specs[i]);
        parts[i] = (struct compose_part){adapter_load(adapter, model, false, UINT64_MAX, &err), factors[i]};
        if (!parts[i].adapter)
            fail_msg("%s", err.message);
        tiny_remove(adapter);
    }
    assert_ok(export_merged(model, directory, parts, n_parts, out, note_progress, &n_calls, &err), &err);
    assert_true(n_calls > 0);
    struct model *merged = must_load(out);
    assert_int_equal(merged->n_warnings, 0);
    assert_int_equal(merged->sites[0].weight->type, model->sites[0].weight->type);
    struct view *fly = compose_on_the_fly(model, parts, n_parts, &err),
                *whole = view_create_base(merged, &err), *base = view_create_base(model, &err);
    assert_true(distance(model, fly, whole) < allowed);
    assert_true(distance(model, fly, base) > 1e-2);
    bool is_tied = merged->config.tied_head;
    view_unref(fly);
    view_unref(whole);
    view_unref(base);
    for (size_t i = 0; i < n_parts; i++)
        adapter_unref(parts[i].adapter);
    model_destroy(merged);
    model_destroy(model);
    tiny_remove(directory);
    free(out);
    scratch_remove(folder);
    return is_tied;
}

static void a_merged_directory_is_a_model_that_says_the_same(void **state)
{
    const double one[] = {1};
    (void)state;
    check((struct tiny_model){0}, &(struct tiny_adapter){0}, one, 1, 1e-4);
    check((struct tiny_model){.family = "gpt2"}, &(struct tiny_adapter){0}, one, 1, 1e-4);
    check((struct tiny_model){.family = "gpt2", .has_no_prefix = true},
          &(struct tiny_adapter){.lora_bias = true}, one, 1, 1e-4);
    check((struct tiny_model){.family = "qwen3"}, &(struct tiny_adapter){.use_dora = true}, one, 1, 1e-4);
    check((struct tiny_model){.dtype = DTYPE_BF16}, &(struct tiny_adapter){0}, one, 1, 0.2);
}

static void several_adapters_are_merged_with_their_weights(void **state)
{
    const struct tiny_adapter specs[] = {{.seed = 1}, {.seed = 2, .rank = 3}, {.seed = 3}};
    const double factors[] = {0.5, 1.5, 0};
    (void)state;
    check((struct tiny_model){0}, specs, factors, 3, 1e-4);
}

static void a_tied_head_is_split_only_when_it_has_to_be(void **state)
{
    static const char *const head[] = {"lm_head", NULL}, *const embedding[] = {"model.embed_tokens", NULL};
    const double one[] = {1};
    (void)state;
    assert_true(check((struct tiny_model){.tied_head = 1}, &(struct tiny_adapter){0}, one, 1, 1e-4));
    assert_false(
        check((struct tiny_model){.tied_head = 1}, &(struct tiny_adapter){.sites = head}, one, 1, 1e-4));
    assert_false(
        check((struct tiny_model){.tied_head = 1}, &(struct tiny_adapter){.sites = embedding}, one, 1, 1e-4));
}

static void a_bias_that_the_family_has_no_place_for_is_refused(void **state)
{
    struct error err = {0};
    char *directory = tiny_model_write((struct tiny_model){0}), *folder = scratch_create(),
         *out = path_join(folder, "merged");
    (void)state;
    struct model *model = must_load(directory);
    char *adapter_directory = tiny_adapter_write(model, (struct tiny_adapter){.lora_bias = true});
    struct compose_part part = {adapter_load(adapter_directory, model, false, UINT64_MAX, &err), 1};
    assert_false(export_merged(model, directory, &part, 1, out, NULL, NULL, &err));
    assert_error(&err, ERROR_MISMATCH, "lora_bias", "has none in the base");
    assert_false(path_is_directory(out));
    adapter_unref(part.adapter);
    tiny_remove(adapter_directory);
    model_destroy(model);
    tiny_remove(directory);
    free(out);
    scratch_remove(folder);
}

static void a_directory_with_something_in_it_is_left_alone(void **state)
{
    struct error err = {0};
    char *directory = tiny_model_write((struct tiny_model){0}), *folder = scratch_create(),
         *out = path_join(folder, "merged");
    (void)state;
    struct model *model = must_load(directory);
    char *adapter_directory = tiny_adapter_write(model, (struct tiny_adapter){0});
    struct compose_part part = {adapter_load(adapter_directory, model, false, UINT64_MAX, &err), 1};
    scratch_write_text(out, "mine", "precious");
    assert_false(export_merged(model, directory, &part, 1, out, NULL, NULL, &err));
    assert_error(&err, ERROR_CONFLICT, "output", "not empty");
    assert_true(directory_remove(out, NULL) && directory_create(out, NULL));
    assert_ok(export_merged(model, directory, &part, 1, out, NULL, NULL, &err), &err);
    adapter_unref(part.adapter);
    tiny_remove(adapter_directory);
    model_destroy(model);
    tiny_remove(directory);
    free(out);
    scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_merged_directory_is_a_model_that_says_the_same),
        cmocka_unit_test(several_adapters_are_merged_with_their_weights),
        cmocka_unit_test(a_tied_head_is_split_only_when_it_has_to_be),
        cmocka_unit_test(a_bias_that_the_family_has_no_place_for_is_refused),
        cmocka_unit_test(a_directory_with_something_in_it_is_left_alone),
    };
    return cmocka_run_group_tests(tests, choose_kernels, NULL);
}
