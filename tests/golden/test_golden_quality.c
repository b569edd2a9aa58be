/*
 * test_golden_quality.c - weights of every type predict nearly what f32 weights predict: a bound for each, somewhat above what was
 * measured, so that a coarser way to quantise is found out. `lorad bench --scenario quality` prints the figures.
 */
#include <stdlib.h>

#include "lora/compose.h"
#include "lorad/quality.h"
#include "support/check.h"
#include "support/runner.h"
#include "support/scratch.h"

enum { CONTEXT = 256, N_TEXTS = 64, N_ANSWERS = 8 };

/* A model of one type, and who reads it. */
struct copy {
    struct model *model;
    struct reader *reader;
    struct view *base;
};

struct setting {
    char path[1024];
    struct pool *pool;
    struct tokenizer *tokenizer;
    struct copy exact;
};

static void copy_init(struct copy *copy, const struct setting *setting, enum model_weights weights)
{
    struct error err = {0};
    assert_ok(copy->model = model_load(setting->path, weights, runner_kernels(), NULL, NULL, &err), &err);
    assert_ok(copy->reader = reader_create(copy->model, setting->pool, WEIGHT_F32, CONTEXT, &err), &err);
    assert_ok(copy->base = view_create_base(copy->model, &err), &err);
}

static void copy_finish(struct copy *copy)
{
    view_unref(copy->base);
    reader_destroy(copy->reader);
    model_destroy(copy->model);
}

static void begin(struct setting *setting, const char *path)
{
    struct error err = {0};
    snprintf(setting->path, sizeof setting->path, "%s", path);
    assert_ok(setting->tokenizer = tokenizer_load(path, &err), &err);
    assert_ok(setting->pool = pool_create(2, &err), &err);
    copy_init(&setting->exact, setting, MODEL_WEIGHTS_F32);
}

static void begin_demo(struct setting *setting)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/models/demo", source_folder());
    begin(setting, path);
}

static void end(struct setting *setting)
{
    copy_finish(&setting->exact);
    pool_destroy(setting->pool);
    tokenizer_destroy(setting->tokenizer);
}

static struct quality_side side_of(const struct copy *copy, const struct view *view)
{
    return (struct quality_side){copy->reader, view, copy->model->config.n_vocab};
}

static struct quality measure(const struct quality_side *exact, const struct quality_side *other, const struct texts *texts)
{
    struct error err = {0};
    struct quality quality;
    assert_ok(quality_measure(exact, other, texts, &quality, &err), &err);
    return quality;
}

/* ---- the base, on texts of its own ---- */

struct bound {
    const char *name;
    enum model_weights weights;
    double demo_kl, story_kl;
};
/* Measured: 2e-13 and 5.9e-7, 3.1e-6 and 7.9e-5, 6.5e-5 and 1.0e-3, 3.3e-3 and 8.8e-2. Steps of 1/80 in place of 1/127 give q8 1.0e-4 and
   1.7e-3; sixteen equal steps give q4 3.6e-3 and 0.112. */
static const struct bound BOUNDS[] = {{"f32", MODEL_WEIGHTS_F32, 0, 0},           {"f16", MODEL_WEIGHTS_F16, 1e-11, 1e-6},
                                      {"bf16", MODEL_WEIGHTS_BF16, 5e-6, 1.2e-4}, {"q8", MODEL_WEIGHTS_Q8, 9e-5, 1.4e-3},
                                      {"q4", MODEL_WEIGHTS_Q4, 4e-3, 0.1}};
enum { N_BOUNDS = sizeof BOUNDS / sizeof *BOUNDS };

static void check_base(const struct setting *setting, bool is_demo)
{
    struct error err = {0};
    struct texts texts;
    assert_ok(texts_begin(&texts, N_TEXTS, CONTEXT, setting->tokenizer, setting->exact.model, &err), &err);
    assert_ok(reader_write(setting->exact.reader, setting->exact.base, &texts, &err), &err);
    const struct quality_side exact = side_of(&setting->exact, setting->exact.base);
    for (size_t i = 0; i < N_BOUNDS; i++) {
        struct copy copy;
        copy_init(&copy, setting, BOUNDS[i].weights);
        const struct quality_side side = side_of(&copy, copy.base);
        struct quality quality = measure(&exact, &side, &texts);
        double bound = is_demo ? BOUNDS[i].demo_kl : BOUNDS[i].story_kl;
        print_message("%s: perplexity %.4f, divergence %.3g, same best %.4f (%zu positions)\n", BOUNDS[i].name, quality.perplexity, quality.kl,
                      quality.agreement, quality.n_positions);
        if (!(quality.kl <= bound))
            fail_msg("%s diverges by %.3g from f32, more than %.3g", BOUNDS[i].name, quality.kl, bound);
        copy_finish(&copy);
    }
    texts_finish(&texts);
}

static void every_type_predicts_what_f32_predicts(void **state)
{
    struct setting setting;
    (void)state;
    begin_demo(&setting);
    check_base(&setting, true);
    end(&setting);
}

static void it_does_for_a_real_model(void **state)
{
    char *path = test_data("stories260k");
    struct setting setting;
    (void)state;
    if (!path)
        skip();
    begin(&setting, path);
    check_base(&setting, false);
    end(&setting);
    free(path);
}

/* ---- adapters, on what they were made for ---- */

static struct view *merge(struct adapter *adapter)
{
    struct error err = {0};
    bool is_done = false;
    struct merge_job *job;
    struct view *view;
    assert_ok(job = merge_begin(adapter, NULL, &err), &err);
    while (!is_done)
        assert_ok(merge_step(job, &is_done, &err), &err);
    struct merged *merged = merge_take(job);
    merge_end(job);
    assert_ok(view = compose_merged(adapter->model, adapter, merged, &err), &err);
    merged_unref(merged);
    return view;
}

static struct view *compose(struct adapter *adapter)
{
    struct error err = {0};
    const struct compose_part part = {adapter, 1};
    struct view *view;
    assert_ok(view = compose_on_the_fly(adapter->model, &part, 1, &err), &err);
    return view;
}

static struct adapter *load(const struct copy *copy, const char *name)
{
    struct error err = {0};
    struct adapter *adapter;
    char path[1024];
    snprintf(path, sizeof path, "%s/adapters/%s", source_folder(), name);
    assert_ok(adapter = adapter_load(path, copy->model, false, UINT64_MAX, &err), &err);
    return adapter;
}

static void check_way(const char *what, const char *name, const struct quality *quality, double bound)
{
    print_message("%s, %s: divergence %.3g, right %.3f\n", name, what, quality->kl, quality->right);
    if (!(quality->kl <= bound) || quality->right < 1)
        fail_msg("%s, %s: diverges by %.3g from f32 (at most %.3g), %.3f are right", name, what, quality->kl, bound, quality->right);
}

/* On the fly and merged, against f32 on the fly. */
static void check_adapter(const struct setting *setting, const struct copy *copy, const char *name, double bound)
{
    struct error err = {0};
    struct texts texts;
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/data/demo/%s.jsonl", source_folder(), name);
    assert_ok(texts_read(&texts, path, N_ANSWERS, CONTEXT, setting->tokenizer, copy->model, &err), &err);
    struct adapter *expected = load(&setting->exact, name), *found = load(copy, name);
    struct view *views[] = {compose(expected), compose(found), merge(found)};
    const struct quality_side exact = side_of(&setting->exact, views[0]);
    for (size_t way = 1; way < 3; way++) {
        const struct quality_side side = side_of(copy, views[way]);
        struct quality quality = measure(&exact, &side, &texts);
        check_way(way == 1 ? "on the fly" : "merged", name, &quality, bound);
    }
    for (size_t i = 0; i < 3; i++)
        view_unref(views[i]);
    adapter_unref(expected);
    adapter_unref(found);
    texts_finish(&texts);
}

/* One of a high rank, one with DoRA, and the one that feels it most. Measured at most 5e-12, 2.7e-7, 5.1e-5, 1.4e-3, 5.2e-2. */
static void adapters_are_right_with_every_type_on_the_fly_and_merged(void **state)
{
    static const char *const NAMES[] = {"sql", "past", "reverse"};
    static const double MOST[N_BOUNDS] = {1e-10, 5e-7, 1e-4, 2e-3, 7e-2};
    struct setting setting;
    (void)state;
    begin_demo(&setting);
    for (size_t i = 0; i < N_BOUNDS; i++) {
        struct copy copy;
        copy_init(&copy, &setting, BOUNDS[i].weights);
        print_message("%s\n", BOUNDS[i].name);
        for (size_t a = 0; a < sizeof NAMES / sizeof *NAMES; a++)
            check_adapter(&setting, &copy, NAMES[a], MOST[i]);
        copy_finish(&copy);
    }
    end(&setting);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_type_predicts_what_f32_predicts), cmocka_unit_test(it_does_for_a_real_model),
                                       cmocka_unit_test(adapters_are_right_with_every_type_on_the_fly_and_merged)};
    return cmocka_run_group_tests_name("golden_quality", tests, NULL, NULL);
}
