#include "engine/stats.h"

#include <math.h>
#include <pthread.h>

#include "support/check.h"

static void a_duration_falls_into_the_first_bucket_that_is_not_below_it(void **state)
{
    struct stats stats = {0};
    struct lorad_stats out = {0};
    (void)state;
    stats_init(&stats);
    histogram_add(&stats.step_time, 0);
    histogram_add(&stats.step_time, 500);  /* just the first bound */
    histogram_add(&stats.step_time, 501);
    histogram_add(&stats.step_time, 3600u * 1000000u);
    stats_read(&stats, &out);
    assert_int_equal(out.step_time.counts[0], 2);
    assert_int_equal(out.step_time.counts[1], 1);
    assert_int_equal(out.step_time.counts[out.step_time.n_buckets - 1], 1);
    assert_int_equal(out.step_time.n, 4);
    assert_float_equal(out.step_time.sum, 3600.001001, 1e-9);
}

static void bounds_grow_and_end_with_infinity(void **state)
{
    struct stats stats = {0};
    struct lorad_stats out = {0};
    (void)state;
    stats_init(&stats);
    stats_read(&stats, &out);
    const struct lorad_histogram *all[] = {&out.time_to_first_token, &out.inter_token, &out.step_time, &out.queue_time};
    for (size_t h = 0; h < 4; h++) {
        assert_int_equal(all[h]->n_buckets, LORAD_HISTOGRAM_BUCKETS);
        for (size_t i = 1; i < all[h]->n_buckets; i++)
            assert_true(all[h]->bounds[i] > all[h]->bounds[i - 1]);
        assert_true(isinf(all[h]->bounds[all[h]->n_buckets - 1]));
    }
}

static void *count(void *context)
{
    struct stats *stats = context;
    for (int i = 0; i < 10000; i++) {
        stats_add(&stats->completion_tokens, 2);
        stats_subtract(&stats->completion_tokens, 1);
        histogram_add(&stats->inter_token, 1500);
    }
    return NULL;
}

static void threads_lose_no_counts(void **state)
{
    struct stats stats = {0};
    struct lorad_stats out = {0};
    pthread_t threads[4];
    (void)state;
    stats_init(&stats);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count, &stats), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    stats_read(&stats, &out);
    assert_int_equal(out.completion_tokens_total, 40000);
    assert_int_equal(out.inter_token.counts[2], 40000);
    assert_float_equal(out.inter_token.sum, 60.0, 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_duration_falls_into_the_first_bucket_that_is_not_below_it),
        cmocka_unit_test(bounds_grow_and_end_with_infinity),
        cmocka_unit_test(threads_lose_no_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
