/*
 * test_cost.c - the cost model prefers what it should, and measures something.
 */
#include "engine/cost.h"

#include <math.h>

#include "support/check.h"
#include "support/runner.h"
#include "support/tiny_model.h"
#include "support/tiny_view.h"

static const struct cost_view BASE = {0, 0}, PAIR = {0, 0.01}, MERGED = {0.9, 0};

static double step_us(const struct cost_load *loads, size_t n)
{
    return cost_step_us(&COST_TYPICAL, loads, n);
}

static void between_points_the_curve_is_straight(void **state)
{
    struct cost_model cost = {.weights_us = {10, 20, 40, 80, 160, 320}};
    (void)state;
    for (size_t n = 0; n <= 100; n++)
        assert_true(fabs(cost_weights_us(&cost, n) - 10.0 * (double)n) < 1e-9);
}

static void an_empty_step_costs_nothing(void **state)
{
    (void)state;
    assert_true(step_us(NULL, 0) == 0);
    assert_true(step_us(&(struct cost_load){PAIR, 0}, 1) == 0);
}

static void the_base_passes_once_for_all_who_use_it(void **state)
{
    const struct cost_load apart[] = {{BASE, 2}, {BASE, 6}}, together = {BASE, 8};
    (void)state;
    assert_true(fabs(step_us(apart, 2) - step_us(&together, 1)) < 1e-6);
    assert_true(fabs(step_us(&together, 1) - cost_weights_us(&COST_TYPICAL, 8)) < 1e-6);
}

static void alone_merged_is_cheaper(void **state)
{
    const struct cost_load merged = {MERGED, 1}, on_the_fly = {PAIR, 1};
    (void)state;
    assert_true(step_us(&merged, 1) < step_us(&on_the_fly, 1));
    assert_true(fabs(step_us(&merged, 1) - cost_weights_us(&COST_TYPICAL, 1)) < 1e-6);
}

static void in_a_mixed_batch_on_the_fly_is_cheaper(void **state)
{
    const struct cost_load merged[] = {{BASE, 7}, {MERGED, 1}}, on_the_fly[] = {{BASE, 7}, {PAIR, 1}};
    (void)state;
    assert_true(step_us(on_the_fly, 2) < step_us(merged, 2));
}

static void what_is_not_merged_is_the_bases_and_passes_with_it(void **state)
{
    const struct cost_load partly = {{0.5, 0.005}, 4};
    double expected = 0.5 * cost_weights_us(&COST_TYPICAL, 4) + (0.5 + 1.3 * 0.005) * cost_weights_us(&COST_TYPICAL, 4) +
                      COST_TYPICAL.barriers_us;
    const struct cost_load with_base[] = {{{0.5, 0}, 4}, {BASE, 4}};
    (void)state;
    assert_true(fabs(step_us(&partly, 1) - expected) < 1e-6);
    assert_true(fabs(step_us(with_base, 2) - 0.5 * cost_weights_us(&COST_TYPICAL, 8) -
                     cost_weights_us(&COST_TYPICAL, 4)) < 1e-6);
}

static void room_is_what_keeps_the_pace(void **state)
{
    (void)state;
    for (size_t n = 1; n < 40; n++)
        for (size_t most = 0; most < 100; most += 9) {
            size_t room = cost_room(&COST_TYPICAL, n, 4, most);
            double limit = 4 * cost_weights_us(&COST_TYPICAL, n);
            assert_true(room <= most);
            assert_true(room == 0 || cost_weights_us(&COST_TYPICAL, n + room) <= limit);
            assert_true(room == most || cost_weights_us(&COST_TYPICAL, n + room + 1) > limit);
        }
}

static void more_sequences_than_keep_the_machine_busy_are_not_wanted(void **state)
{
    const struct cost_model steep = {.weights_us = {10, 20, 40, 80, 160, 320}}; /* each token costs the same */
    const struct cost_model flat = {.weights_us = {10, 10, 10, 10, 10, 10}};    /* more tokens cost nothing */
    (void)state;
    assert_int_equal(cost_busy_width(&steep, 1, 64), 1);
    assert_int_equal(cost_busy_width(&flat, 1, 64), 64);
    size_t width = cost_busy_width(&COST_TYPICAL, 1, 64);
    assert_in_range(width, 4, 32);
    assert_int_equal(cost_busy_width(&COST_TYPICAL, width + 1, 64), width + 1);
    assert_int_equal(cost_busy_width(&COST_TYPICAL, 1, width - 1), width - 1);
}

static void a_view_is_measured_by_its_bytes(void **state)
{
    struct model *model = tiny_model_load((struct tiny_model){.seed = 2}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    struct view *base = view_create_base(model, NULL);
    struct view *pairs = tiny_view_create(model, (struct tiny_view){.n_deltas = 1, .rank = 4, .body_only = true});
    struct view *replaced = tiny_view_create(model, (struct tiny_view){.has_weights = true});
    (void)state;
    assert_true(cost_of_view(base).own == 0 && cost_of_view(base).pairs == 0);
    assert_true(cost_of_view(pairs).own == 0 && cost_of_view(pairs).pairs > 0);
    assert_true(cost_of_view(replaced).own > 0.999);
    struct cost_view merged = cost_if_merged(pairs);
    assert_true(merged.own > 0 && merged.own < 1 && merged.pairs == 0);
    view_unref(base);
    view_unref(pairs);
    view_unref(replaced);
    model_destroy(model);
}

static void calibration_gives_times_that_do_not_fall(void **state)
{
    struct model *model = tiny_model_load((struct tiny_model){.seed = 2}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    struct error err;
    struct pool *pool = pool_create(2, &err);
    struct cost_model cost;
    (void)state;
    assert_ok(cost_calibrate(&cost, model, pool, &err), &err);
    for (size_t i = 1; i < COST_POINTS; i++)
        assert_true(cost.weights_us[i] >= cost.weights_us[i - 1]);
    assert_true(cost.weights_us[COST_POINTS - 1] > 0 && cost.barriers_us >= 0);
    pool_destroy(pool);
    model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(between_points_the_curve_is_straight),
        cmocka_unit_test(an_empty_step_costs_nothing),
        cmocka_unit_test(the_base_passes_once_for_all_who_use_it),
        cmocka_unit_test(alone_merged_is_cheaper),
        cmocka_unit_test(in_a_mixed_batch_on_the_fly_is_cheaper),
        cmocka_unit_test(what_is_not_merged_is_the_bases_and_passes_with_it),
        cmocka_unit_test(room_is_what_keeps_the_pace),
        cmocka_unit_test(more_sequences_than_keep_the_machine_busy_are_not_wanted),
        cmocka_unit_test(a_view_is_measured_by_its_bytes),
        cmocka_unit_test(calibration_gives_times_that_do_not_fall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
