/*
 * test_golden_adapters.c - every case of tests/golden/cases.json with adapters, on the fly and merged,
 * against what transformers and PEFT said: log-probabilities of the prompt, whole rows, greedy continuations.
 */
#include <math.h>
#include <stdlib.h>
#include <strings.h>

#include <jansson.h>

#include "lora/compose.h"
#include "support/check.h"
#include "support/runner.h"
#include "support/scratch.h"

enum { MOST_TOKENS = 512, MOST_PARTS = 8 };

struct totals {
    size_t n_cases, n_merged, n_refused, n_values, n_greedy, n_wrong;
    double worst_on_the_fly, worst_rounded, worst_merged, worst_merged_narrow;
    double worst_kv[N_ELEMENT_TYPES]; /* with keys and values of a type */
};

struct setting {
    const json_t *one;
    const char *name;
    struct model *model;
    struct runner runner;
    struct compose_part parts[MOST_PARTS];
    size_t n_parts;
    int32_t tokens[2 * MOST_TOKENS];
    size_t n_tokens;
};

static const json_t *get(const json_t *object, const char *key)
{
    return json_object_get(object, key);
}

static void log_softmax(double *out, const float *logits, size_t n)
{
    double most = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, (double)logits[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - most);
    for (size_t i = 0; i < n; i++)
        out[i] = (double)logits[i] - most - log(sum);
}

static char *golden_path(const char *folder, const char *name)
{
    const char *given = getenv("LORAD_TEST_GOLDEN");
    char *path = NULL;
    int n = given ? asprintf(&path, "%s/%s/%s", given, folder, name)
                  : asprintf(&path, "%s/tests/golden/%s/%s", source_folder(), folder, name);
    if (n < 0)
        abort();
    return path;
}

static void begin(struct setting *setting, const json_t *one, enum model_weights weights)
{
    struct error err = {0};
    json_t *part;
    size_t i;
    *setting = (struct setting){.one = one, .name = json_string_value(get(one, "name"))};
    char *path = golden_path("models", json_string_value(get(one, "model")));
    setting->model = model_load(path, weights, runner_kernels(), NULL, NULL, &err);
    if (!setting->model)
        fail_msg("%s: %s", setting->name, err.message);
    free(path);
    json_array_foreach (get(one, "adapters"), i, part) {
        path = golden_path("adapters", json_string_value(get(part, "dir")));
        setting->parts[i].adapter = adapter_load(path, setting->model, false, UINT64_MAX, &err);
        setting->parts[i].factor =
            json_number_value(get(part, "weight")) * json_number_value(get(one, "scale"));
        if (!setting->parts[i].adapter)
            fail_msg("%s: %s", setting->name, err.message);
        free(path);
        setting->n_parts++;
    }
    setting->n_tokens = json_array_size(get(one, "input_ids"));
    for (i = 0; i < setting->n_tokens; i++)
        setting->tokens[i] = (int32_t)json_integer_value(json_array_get(get(one, "input_ids"), i));
    runner_init(&setting->runner, setting->model, 1, 64, 1);
}

static void end(struct setting *setting)
{
    runner_finish(&setting->runner);
    for (size_t i = 0; i < setting->n_parts; i++)
        adapter_unref(setting->parts[i].adapter);
    model_destroy(setting->model);
}

static double measure_worst(struct totals *totals, struct setting *setting, const struct view *view)
{
    size_t n_vocab = setting->model->config.n_vocab;
    float *logits = runner_logits(&setting->runner, view, setting->tokens, setting->n_tokens);
    double *row = calloc(n_vocab, sizeof *row), worst = 0;
    const json_t *logprobs = get(setting->one, "token_logprobs");
    const char *position;
    json_t *expected;
    for (size_t t = 1; t < setting->n_tokens; t++, totals->n_values++) {
        log_softmax(row, logits + (t - 1) * n_vocab, n_vocab);
        worst = fmax(worst, fabs(row[setting->tokens[t]] - json_number_value(json_array_get(logprobs, t))));
    }
    json_object_foreach ((json_t *)(uintptr_t)get(setting->one, "rows"), position, expected) {
        log_softmax(row, logits + (size_t)atoi(position) * n_vocab, n_vocab);
        for (size_t i = 0; i < n_vocab; i++, totals->n_values++)
            worst = fmax(worst, fabs(row[i] - json_number_value(json_array_get(expected, i))));
    }
    free(row);
    free(logits);
    return worst;
}

/* How many greedy tokens agree before the first that does not. */
static size_t count_greedy(struct setting *setting, const struct view *view)
{
    const json_t *greedy = get(setting->one, "greedy");
    size_t n_vocab = setting->model->config.n_vocab, count = setting->n_tokens, n;
    struct runner_sequence sequence;
    int32_t tokens[2 * MOST_TOKENS];
    memcpy(tokens, setting->tokens, sizeof tokens);
    runner_begin(&setting->runner, &sequence, view, tokens, setting->n_tokens);
    for (n = 0; n < json_array_size(greedy); n++) {
        const float *logits = runner_step(&setting->runner, &sequence, &count, 1) + (count - 1) * n_vocab;
        size_t token = setting->model->kernels->arg_max(logits, n_vocab);
        if ((json_int_t)token != json_integer_value(json_array_get(greedy, n)))
            break;
        tokens[sequence.n_tokens++] = (int32_t)token;
        count = 1;
    }
    runner_end(&setting->runner, &sequence);
    return n;
}

static bool is_narrow(const struct setting *setting)
{
    return setting->model->sites[0].weight->type != WEIGHT_F32;
}

/* Products with bf16 weights do. */
static bool rounds_activations(const struct setting *setting)
{
    return strcmp(setting->model->weights_name, "bf16") == 0;
}

static void check_on_the_fly(struct totals *totals, struct setting *setting, const struct view *view)
{
    double worst = measure_worst(totals, setting, view);
    size_t n_greedy = count_greedy(setting, view), n_expected = json_array_size(get(setting->one, "greedy"));
    double *record = rounds_activations(setting) ? &totals->worst_rounded : &totals->worst_on_the_fly;
    *record = fmax(*record, worst);
    totals->n_greedy += n_greedy;
    if (worst > (rounds_activations(setting) ? 1.5e-1 : 1e-4) || n_greedy != n_expected) {
        print_error("%s on the fly: %.3g off, %zu of %zu greedy tokens\n", setting->name, worst, n_greedy,
                    n_expected);
        totals->n_wrong++;
    }
}

/* On the fly, with keys and values in 16 bits. The worst of all cases was 0.021 off in f16, 0.21 in bf16: improbable
   tokens of random weights, as test_golden_base.c says. */
static void check_narrow_kv(struct totals *totals, struct setting *setting, const struct view *view,
                            enum weight_type kv_type, double allowed)
{
    runner_finish(&setting->runner);
    runner_init_kv(&setting->runner, setting->model, kv_type, 1, 64, 1);
    double worst = measure_worst(totals, setting, view);
    totals->worst_kv[kv_type] = fmax(totals->worst_kv[kv_type], worst);
    if (!(worst <= allowed)) {
        print_error("%s with %s keys and values: %.3g off\n", setting->name, weight_type_name(kv_type), worst);
        totals->n_wrong++;
    }
}

static void check_merged(struct totals *totals, struct setting *setting)
{
    struct error err = {0};
    bool is_done = false;
    struct adapter *adapter = setting->parts[0].adapter;
    struct merge_job *job = merge_begin(adapter, NULL, &err);
    while (!is_done)
        assert_ok(merge_step(job, &is_done, &err), &err);
    struct merged *merged = merge_take(job);
    merge_end(job);
    assert_int_equal(merged->bytes, merge_bytes(adapter, NULL));
    struct view *view = compose_merged(setting->model, adapter, merged, &err);
    assert_non_null(view);
    assert_false(view->has_deltas);

    /* W' in 16 bits is rounded once more, and improbable tokens feel it: PEFT's merged model, rounded so, is
     * as far off. */
    double worst = measure_worst(totals, setting, view), allowed = is_narrow(setting) ? 2e-1 : 1e-4;
    double *record = is_narrow(setting) ? &totals->worst_merged_narrow : &totals->worst_merged;
    size_t n_greedy = count_greedy(setting, view), n_expected = json_array_size(get(setting->one, "greedy"));
    *record = fmax(*record, worst);
    totals->n_merged++;
    if (worst > allowed || n_greedy != n_expected) {
        print_error("%s merged: %.3g off, %zu of %zu greedy tokens\n", setting->name, worst, n_greedy,
                    n_expected);
        totals->n_wrong++;
    }
    view_unref(view);
    merged_unref(merged);
}

static void check_equals_base(struct setting *setting, const struct view *view)
{
    struct error err = {0};
    struct view *base = view_create_base(setting->model, &err);
    float *expected = runner_logits(&setting->runner, base, setting->tokens, setting->n_tokens);
    float *found = runner_logits(&setting->runner, view, setting->tokens, setting->n_tokens);
    assert_memory_equal(found, expected, setting->n_tokens * setting->model->config.n_vocab * sizeof *found);
    free(expected);
    free(found);
    view_unref(base);
}

static void check_refused(struct totals *totals, const struct setting *setting, struct view *view,
                          const struct error *err)
{
    const json_t *expect = get(setting->one, "expect_error");
    json_t *word;
    size_t i;
    bool ok = !view && strcmp(error_code_name(err->code), json_string_value(get(expect, "status"))) == 0;
    json_array_foreach (get(expect, "message_contains"), i, word)
        ok = ok && (strcasestr(err->message, json_string_value(word)) ||
                    strcasestr(err->param, json_string_value(word)));
    totals->n_refused++;
    totals->n_wrong += !ok;
    if (!ok)
        print_error("%s: %s\n", setting->name, view ? "is served" : err->message);
}

/* True: the weights are narrow. */
static bool check_case(struct totals *totals, const json_t *one, enum model_weights weights)
{
    struct setting setting;
    struct error err = {0};
    begin(&setting, one, weights);
    struct view *view = compose_on_the_fly(setting.model, setting.parts, setting.n_parts, &err);
    totals->n_cases++;
    if (get(one, "expect_error")) {
        check_refused(totals, &setting, view, &err);
    } else {
        if (!view)
            fail_msg("%s: %s", setting.name, err.message);
        check_on_the_fly(totals, &setting, view);
        if (json_is_true(get(one, "equals_base")))
            check_equals_base(&setting, view);
        if (setting.n_parts == 1 && setting.parts[0].factor == 1)
            check_merged(totals, &setting);
        check_narrow_kv(totals, &setting, view, WEIGHT_BF16, 3e-1);
        check_narrow_kv(totals, &setting, view, WEIGHT_F16, rounds_activations(&setting) ? 1.5e-1 : 5e-2);
    }
    bool has_narrow_weights = is_narrow(&setting);
    view_unref(view);
    end(&setting);
    return has_narrow_weights;
}

static void adapters_say_what_peft_says(void **state)
{
    struct totals totals = {0};
    json_error_t where;
    size_t i;
    json_t *one;
    (void)state;
    char *path = golden_path("", "cases.json");
    json_t *cases = json_load_file(path, 0, &where);
    free(path);
    assert_non_null(cases);
    json_array_foreach (cases, i, one)
        if (json_array_size(get(one, "adapters")) > 0 && check_case(&totals, one, MODEL_WEIGHTS_NATIVE))
            check_case(&totals, one, MODEL_WEIGHTS_F32);
    json_decref(cases);
    print_message("%zu cases (%zu refused, %zu merged too), %zu log-probabilities, %zu greedy tokens; off by "
                  "at most %.2g on the "
                  "fly, %.2g with bf16 weights, %.2g merged, %.2g merged in 16 bits\n",
                  totals.n_cases, totals.n_refused, totals.n_merged, totals.n_values, totals.n_greedy,
                  totals.worst_on_the_fly, totals.worst_rounded, totals.worst_merged, totals.worst_merged_narrow);
    print_message("with keys and values in bf16 off by at most %.2g, in f16 by %.2g\n", totals.worst_kv[WEIGHT_BF16],
                  totals.worst_kv[WEIGHT_F16]);
    assert_true(totals.n_cases > 150);
    assert_int_equal(totals.n_wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(adapters_say_what_peft_says)};
    return cmocka_run_group_tests_name("golden_adapters", tests, NULL, NULL);
}
