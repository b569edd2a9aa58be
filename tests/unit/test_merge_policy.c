#include "lora/merge_policy.h"

#include <math.h>

#include "support/check.h"

#define SECOND ((uint64_t)1000000)

static void a_merge_is_due_when_as_much_was_lost_as_it_costs(void **state)
{
    struct merge_meter meter = {0};
    uint64_t now = 100 * SECOND;
    (void)state;
    for (int i = 0; i < 9; i++)
        assert_false(merge_meter_add(&meter, 100, 1000, false, now));
    assert_true(merge_meter_add(&meter, 100, 1000, false, now));
    assert_float_equal(merge_meter_value(&meter, now), 1000, 1e-9);
}

static void what_is_due_begins_anew_and_not_at_once(void **state)
{
    struct merge_meter meter = {0};
    uint64_t now = 100 * SECOND;
    (void)state;
    assert_true(merge_meter_add(&meter, 1000, 1000, false, now));
    assert_false(merge_meter_add(&meter, 999, 1000, false, now + MERGE_PAUSE_US));
    assert_true(merge_meter_add(&meter, 200, 1000, false, now + MERGE_PAUSE_US));
    assert_false(merge_meter_add(&meter, 5000, 1000, false, now + MERGE_PAUSE_US + 1));
    assert_true(merge_meter_add(&meter, 0, 1000, false, now + 2 * MERGE_PAUSE_US));
}

static void gains_fade_by_half_in_a_minute(void **state)
{
    struct merge_meter meter = {0};
    uint64_t now = 100 * SECOND;
    (void)state;
    merge_meter_add(&meter, 800, 1000, false, now);
    assert_float_equal(merge_meter_value(&meter, now + 60 * SECOND), 400, 1e-9);
    assert_float_equal(merge_meter_value(&meter, now + 120 * SECOND), 200, 1e-9);
    assert_float_equal(merge_meter_value(&meter, now - SECOND), 800, 1e-9); /* a clock that another thread read earlier */
    assert_false(merge_meter_add(&meter, 500, 1000, false, now + 60 * SECOND));
    assert_true(merge_meter_add(&meter, 100, 1000, false, now + 60 * SECOND));
}

static void a_steady_gain_is_told_from_its_sum(void **state)
{
    struct merge_meter meter = {0};
    uint64_t now = SECOND;
    (void)state;
    for (int i = 0; i < 100 * 900; i++, now += SECOND / 100)
        merge_meter_add(&meter, 50, 1e12, false, now);
    double rate = merge_value_rate(merge_meter_value(&meter, now));
    assert_true(fabs(rate - 5000) < 5);
}

static void what_is_merged_gains_and_owes_nothing(void **state)
{
    struct merge_meter meter = {0};
    uint64_t now = 100 * SECOND;
    (void)state;
    assert_false(merge_meter_add(&meter, 5000, 1000, true, now));
    assert_float_equal(merge_meter_value(&meter, now), 5000, 1e-9);
    assert_false(merge_meter_add(&meter, 900, 1000, false, now)); /* evicted: from 0 again */
}

static void losses_and_what_is_no_number_do_no_harm(void **state)
{
    struct merge_meter meter = {0};
    uint64_t now = 100 * SECOND;
    (void)state;
    merge_meter_add(&meter, 500, 1000, false, now);
    assert_false(merge_meter_add(&meter, (double)NAN, 1000, false, now));
    assert_false(merge_meter_add(&meter, (double)INFINITY, 1000, false, now));
    assert_float_equal(merge_meter_value(&meter, now), 500, 1e-9);
    merge_meter_add(&meter, -700, 1000, false, now);
    assert_float_equal(merge_meter_value(&meter, now), 0, 1e-9);
    assert_false(merge_meter_add(&meter, 900, 1000, false, now));
}

static void narrow_sites_are_merged_first_and_only_what_fits(void **state)
{
    /* k, q, down of a small model, in some order */
    struct merge_offer offers[] = {
        {.index = 2, .bytes = 4864 * 896 * 2, .gain = merge_site_gain(16, 4864, 896, false)},
        {.index = 0, .bytes = 896 * 896 * 2, .gain = merge_site_gain(16, 896, 896, false)},
        {.index = 1, .bytes = 896 * 128 * 2, .gain = merge_site_gain(16, 896, 128, false)},
    };
    uint64_t n_bytes;
    (void)state;
    double share = merge_choose(offers, 3, 896 * (896 + 128) * 2, &n_bytes);
    assert_int_equal(offers[0].index, 1);
    assert_int_equal(offers[1].index, 0);
    assert_true(offers[0].is_chosen && offers[1].is_chosen && !offers[2].is_chosen);
    assert_int_equal(n_bytes, 896 * (896 + 128) * 2);
    double expected = (1024.0 + 1792) / (1024.0 + 1792 + 5760);
    assert_float_equal(share, expected, 1e-12);
    assert_float_equal(merge_choose(offers, 3, UINT64_MAX, &n_bytes), 1, 1e-12);
    assert_float_equal(merge_choose(offers, 3, 0, &n_bytes), 0, 1e-12);
    assert_int_equal(n_bytes, 0);
    assert_float_equal(merge_choose(offers, 0, 100, &n_bytes), 0, 1e-12);
}

static void equal_sites_are_chosen_by_their_index(void **state)
{
    struct merge_offer offers[5];
    uint64_t n_bytes;
    (void)state;
    for (size_t i = 0; i < 5; i++)
        offers[i] = (struct merge_offer){.index = (i * 3 + 2) % 5, .bytes = 10, .gain = 1};
    assert_float_equal(merge_choose(offers, 5, 29, &n_bytes), 0.4, 1e-12);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(offers[i].index, i);
        assert_int_equal(offers[i].is_chosen, i < 2);
    }
}

static void room_is_made_in_order_of_claim_use_value_and_age(void **state)
{
    static const struct merge_rank in_order[] = {
        {MERGE_AUTOMATIC, false, 1, 9}, {MERGE_AUTOMATIC, false, 2, 1}, {MERGE_AUTOMATIC, false, 2, 2},
        {MERGE_AUTOMATIC, true, 0, 0},  {MERGE_REQUESTED, false, 0, 0}, {MERGE_KEPT, false, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < 6; i++)
        for (size_t k = 0; k < 6; k++)
            assert_int_equal(merge_goes_before(&in_order[i], &in_order[k]), i < k);
}

static void only_clearly_less_valuable_and_unclaimed_weights_are_displaced(void **state)
{
    (void)state;
    assert_true(merge_may_displace(10, &(struct merge_rank){MERGE_AUTOMATIC, true, 7, 0}));
    assert_false(merge_may_displace(10, &(struct merge_rank){MERGE_AUTOMATIC, false, 9, 0}));
    assert_false(merge_may_displace(10, &(struct merge_rank){MERGE_REQUESTED, false, 0, 0}));
    assert_false(merge_may_displace(10, &(struct merge_rank){MERGE_KEPT, false, 0, 0}));
}

static void the_price_is_learnt_from_the_merges_made(void **state)
{
    double price = 0.002;
    (void)state;
    for (int i = 0; i < 20; i++)
        price = merge_learn_price(price, 5000, 1000000);
    assert_float_equal(price, 0.005, 1e-6);
    assert_float_equal(merge_learn_price(price, 0, 1000), price, 1e-12);
    assert_float_equal(merge_learn_price(price, 5, 0), price, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_merge_is_due_when_as_much_was_lost_as_it_costs),
        cmocka_unit_test(what_is_due_begins_anew_and_not_at_once),
        cmocka_unit_test(gains_fade_by_half_in_a_minute),
        cmocka_unit_test(a_steady_gain_is_told_from_its_sum),
        cmocka_unit_test(what_is_merged_gains_and_owes_nothing),
        cmocka_unit_test(losses_and_what_is_no_number_do_no_harm),
        cmocka_unit_test(narrow_sites_are_merged_first_and_only_what_fits),
        cmocka_unit_test(equal_sites_are_chosen_by_their_index),
        cmocka_unit_test(room_is_made_in_order_of_claim_use_value_and_age),
        cmocka_unit_test(only_clearly_less_valuable_and_unclaimed_weights_are_displaced),
        cmocka_unit_test(the_price_is_learnt_from_the_merges_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
