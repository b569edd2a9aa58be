#include "lora/compose.h"

#include <malloc.h>
#include <math.h>
#include <stdlib.h>

#include "base/cpu.h"
#include "support/check.h"
#include "support/naive_forward.h"
#include "support/tiny_model.h"

static struct model *model;

static int load_model(void **state)
{
    struct error err;
    (void)state;
    model = tiny_model_load((struct tiny_model){0}, MODEL_WEIGHTS_NATIVE,
                            kernels_select(cpu_detect_features(), "c", &err));
    return model ? 0 : -1;
}

static int free_model(void **state)
{
    (void)state;
    model_destroy(model);
    return 0;
}

static struct adapter *load(struct tiny_adapter spec)
{
    struct error err = {0};
    char *directory = tiny_adapter_write(model, spec);
    struct adapter *adapter = adapter_load(directory, model, false, UINT64_MAX, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    tiny_remove(directory);
    return adapter;
}

static bool is_base(const struct view *view)
{
    bool same = !view->has_deltas && !view->weight_group;
    for (size_t i = 0; i < model->n_sites; i++) {
        const struct site_view *site = &view->sites[i];
        same = same && site->weight == model->sites[i].weight && site->bias == model->sites[i].bias &&
               !site->row_gain && !site->deltas && site->n_deltas == 0;
    }
    for (size_t i = 0; i < model->n_norms; i++)
        same = same && view->norms[i].weight == model->norms[i].weight &&
               view->norms[i].bias == model->norms[i].bias;
    return same;
}

static void a_factor_of_zero_gives_the_base_itself(void **state)
{
    struct error err = {0};
    (void)state;
    struct adapter *plain = load((struct tiny_adapter){0}),
                   *dora = load((struct tiny_adapter){.use_dora = true});
    struct compose_part parts[] = {{plain, 0}, {dora, 0}, {plain, -0.0}};
    struct view *view = compose_on_the_fly(model, parts, 3, &err);
    assert_non_null(view);
    assert_true(is_base(view));
    view_unref(view);
    adapter_unref(plain);
    adapter_unref(dora);
}

static void deltas_are_scaled_by_their_factor(void **state)
{
    struct error err = {0};
    (void)state;
    struct adapter *adapter = load((struct tiny_adapter){.rank = 2, .alpha = 6});
    struct view *view = compose_on_the_fly(model, &(struct compose_part){adapter, -0.5}, 1, &err);
    assert_true(view->has_deltas);
    assert_null(view->weight_group);
    for (size_t i = 0; i < adapter->n_sites; i++)
        assert_float_equal(view->sites[adapter->sites[i].site].deltas[0].scale, -1.5, 1e-7);
    adapter_unref(adapter); /* the view holds its own reference */
    assert_int_equal(view->sites[model->layer_sites[0][PROJECTION_Q]].deltas[0].rank, 2);
    view_unref(view);
}

static void the_bytes_of_a_view_are_known_before_it_is_made(void **state)
{
    struct error err = {0};
    (void)state;
    struct adapter *adapter = load((struct tiny_adapter){0});
    struct view *view = compose_on_the_fly(model, &(struct compose_part){adapter, 1}, 1, &err);
    size_t n_bytes = compose_bytes(model, adapter->n_sites), n_taken = malloc_usable_size(view);
    assert_true(n_bytes <= n_taken && n_taken < n_bytes + 64);
    assert_true(adapter->resident_bytes > n_bytes);
    view_unref(view);
    adapter_unref(adapter);
}

static void what_is_no_low_rank_pair_can_neither_be_scaled_nor_mixed(void **state)
{
    struct error err = {0};
    (void)state;
    struct adapter *plain = load((struct tiny_adapter){0}),
                   *dora = load((struct tiny_adapter){.use_dora = true});
    assert_null(compose_on_the_fly(model, &(struct compose_part){dora, 0.5}, 1, &err));
    assert_error(&err, ERROR_BAD_INPUT, "scale", "DoRA");
    struct compose_part both[] = {{plain, 1}, {dora, 1}};
    assert_null(compose_on_the_fly(model, both, 2, &err));
    assert_error(&err, ERROR_BAD_INPUT, "adapters", "DoRA");
    both[0].factor = 0;
    struct view *view = compose_on_the_fly(model, both, 2, &err);
    assert_non_null(view);
    assert_non_null(view->sites[model->layer_sites[0][PROJECTION_Q]].row_gain);
    view_unref(view);
    adapter_unref(plain);
    adapter_unref(dora);
}

static void a_factor_that_is_no_number_or_too_large_is_refused(void **state)
{
    struct error err = {0};
    (void)state;
    struct adapter *adapter = load((struct tiny_adapter){0});
    const double bad[] = {NAN, INFINITY, -INFINITY, 1e300};
    for (size_t i = 0; i < 4; i++) {
        assert_null(compose_on_the_fly(model, &(struct compose_part){adapter, bad[i]}, 1, &err));
        assert_int_equal(err.code, ERROR_BAD_INPUT);
    }
    struct view *view = compose_on_the_fly(model, &(struct compose_part){adapter, 1e-300}, 1, &err);
    assert_non_null(view); /* vanishes: no delta with the scale 0 */
    assert_true(is_base(view));
    view_unref(view);
    adapter_unref(adapter);
}

static double *logits_of(struct view *view)
{
    static const int32_t tokens[] = {3, 1, 4, 1, 5, 9, 2, 6};
    return naive_forward(view, tokens, 8);
}

static void on_the_fly_and_merged_say_the_same(void **state)
{
    static const struct tiny_adapter specs[] = {{.seed = 1},
                                                {.seed = 2, .use_dora = true},
                                                {.seed = 3, .lora_bias = true},
                                                {.seed = 4, .use_rslora = true, .dtype = DTYPE_BF16}};
    struct error err = {0};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct adapter *adapter = load(specs[i]);
        struct merge_job *job = merge_begin(adapter, NULL, &err);
        bool is_done = false;
        while (!is_done)
            assert_ok(merge_step(job, &is_done, &err), &err);
        struct merged *merged = merge_take(job);
        merge_end(job);
        struct view *fly = compose_on_the_fly(model, &(struct compose_part){adapter, 1}, 1, &err);
        struct view *through = compose_merged(model, adapter, merged, &err);
        merged_unref(merged);
        adapter_unref(adapter);
        assert_false(through->has_deltas);
        assert_non_null(through->weight_group);
        struct view *base = view_create_base(model, &err);
        double *a = logits_of(fly), *b = logits_of(through), *c = logits_of(base), apart = 0, moved = 0;
        for (size_t k = 0; k < 8 * model->config.n_vocab; k++) {
            apart = fmax(apart, fabs(a[k] - b[k]));
            moved = fmax(moved, fabs(a[k] - c[k]));
        }
        assert_true(apart < 1e-4);
        assert_true(moved > 1e-2);
        free(a);
        free(b);
        free(c);
        view_unref(base);
        view_unref(fly);
        view_unref(through);
    }
}

static struct merged *merge(struct adapter *adapter, const bool *sites)
{
    struct error err = {0};
    struct merge_job *job = merge_begin(adapter, sites, &err);
    bool is_done = false;
    while (!is_done)
        assert_ok(merge_step(job, &is_done, &err), &err);
    struct merged *merged = merge_take(job);
    merge_end(job);
    return merged;
}

/* W' where it was chosen, the base and the delta everywhere else. */
static void check_sites(const struct view *view, const struct adapter *adapter, const struct merged *merged,
                        const bool *is_chosen)
{
    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct adapter_site *from = &adapter->sites[i];
        const struct site_view *site = &view->sites[from->site];
        assert_ptr_equal(site->weight, is_chosen[i] ? merged->weights[from->site] : model->sites[from->site].weight);
        assert_int_equal(site->n_deltas, is_chosen[i] ? 0 : 1);
        assert_ptr_equal(site->row_gain, is_chosen[i] ? NULL : from->row_gain);
        if (!is_chosen[i])
            assert_ptr_equal(site->deltas[0].a, from->delta.a);
    }
}

static void a_partial_merge_is_the_adapter_on_the_fly_at_all_other_sites(void **state)
{
    static const struct tiny_adapter specs[] = {
        {.seed = 1}, {.seed = 2, .use_dora = true}, {.seed = 3, .lora_bias = true}};
    struct error err = {0};
    bool is_chosen[64];
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct adapter *adapter = load(specs[i]);
        for (size_t k = 0; k < adapter->n_sites; k++)
            is_chosen[k] = k % 3 == 1;
        struct merged *part = merge(adapter, is_chosen), *whole = merge(adapter, NULL);
        assert_true(part->is_partial && !whole->is_partial);
        assert_int_equal(part->n_merged, (adapter->n_sites + 1) / 3);
        assert_int_equal(part->bytes, merge_bytes(adapter, is_chosen));
        assert_true(part->bytes < whole->bytes);
        struct view *fly = compose_on_the_fly(model, &(struct compose_part){adapter, 1}, 1, &err);
        struct view *partly = compose_merged(model, adapter, part, &err);
        struct view *fully = compose_merged(model, adapter, whole, &err);
        check_sites(partly, adapter, part, is_chosen);
        assert_true(partly->has_deltas);
        assert_string_not_equal(partly->identity, fly->identity);
        assert_string_not_equal(partly->identity, fully->identity);
        assert_string_not_equal(fully->identity, fly->identity);
        double *a = logits_of(fly), *b = logits_of(partly), apart = 0;
        for (size_t k = 0; k < 8 * model->config.n_vocab; k++)
            apart = fmax(apart, fabs(a[k] - b[k]));
        assert_true(apart > 0 && apart < 1e-4);
        free(a);
        free(b);
        merged_unref(part);
        merged_unref(whole);
        adapter_unref(adapter);
        view_unref(fly);
        view_unref(partly);
        view_unref(fully);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_factor_of_zero_gives_the_base_itself),
        cmocka_unit_test(deltas_are_scaled_by_their_factor),
        cmocka_unit_test(the_bytes_of_a_view_are_known_before_it_is_made),
        cmocka_unit_test(what_is_no_low_rank_pair_can_neither_be_scaled_nor_mixed),
        cmocka_unit_test(a_factor_that_is_no_number_or_too_large_is_refused),
        cmocka_unit_test(on_the_fly_and_merged_say_the_same),
        cmocka_unit_test(a_partial_merge_is_the_adapter_on_the_fly_at_all_other_sites),
    };
    return cmocka_run_group_tests(tests, load_model, free_model);
}
