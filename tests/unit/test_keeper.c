#include "lora/keeper.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "support/check.h"

struct work {
    struct keeper_job job;
    struct keeper *keeper;
    atomic_int *order;
    int n_slices, n_done, finished_as;
    atomic_bool is_done;
};

static bool run_work(struct keeper_job *job)
{
    struct work *work = LIST_ENTRY(job, struct work, job);
    if (!keeper_is_current(work->keeper))
        return false;
    if (++work->n_done < work->n_slices && !keeper_is_stopping(work->keeper)) {
        usleep(200);
        return true;
    }
    work->finished_as = atomic_fetch_add(work->order, 1);
    atomic_store(&work->is_done, true);
    return false;
}

static void await(const struct work *work)
{
    while (!atomic_load(&work->is_done))
        usleep(200);
}

static void jobs_run_in_the_order_of_arrival(void **state)
{
    struct error err;
    struct work works[20];
    atomic_int order = 0;
    (void)state;
    struct keeper *keeper = keeper_create(NULL, &err);
    assert_non_null(keeper);
    assert_false(keeper_is_current(keeper));
    for (int i = 0; i < 20; i++) {
        works[i] = (struct work){.job = {.run = run_work}, .keeper = keeper, .order = &order, .n_slices = 1};
        assert_true(keeper_post(keeper, &works[i].job));
    }
    keeper_destroy(keeper);
    for (int i = 0; i < 20; i++)
        assert_int_equal(works[i].finished_as, i);
}

static void urgent_work_goes_between_the_slices_of_a_merge(void **state)
{
    struct error err;
    atomic_int order = 0;
    (void)state;
    struct keeper *keeper = keeper_create(NULL, &err);
    struct work merge = {
        .job = {.run = run_work, .in_slices = true}, .keeper = keeper, .order = &order, .n_slices = 300};
    struct work load = {.job = {.run = run_work}, .keeper = keeper, .order = &order, .n_slices = 1};
    assert_true(keeper_post(keeper, &merge.job));
    usleep(2000);
    assert_true(keeper_post(keeper, &load.job));
    await(&load);
    assert_false(atomic_load(&merge.is_done));
    await(&merge);
    assert_int_equal(load.finished_as, 0);
    assert_int_equal(merge.n_done, 300);
    keeper_destroy(keeper);
}

static void merges_are_made_one_after_the_other(void **state)
{
    struct error err;
    atomic_int order = 0;
    (void)state;
    struct keeper *keeper = keeper_create(NULL, &err);
    struct work first = {
        .job = {.run = run_work, .in_slices = true}, .keeper = keeper, .order = &order, .n_slices = 30};
    struct work second = {
        .job = {.run = run_work, .in_slices = true}, .keeper = keeper, .order = &order, .n_slices = 2};
    assert_true(keeper_post(keeper, &first.job));
    assert_true(keeper_post(keeper, &second.job));
    await(&second);
    assert_true(atomic_load(&first.is_done));
    assert_int_equal(second.finished_as, 1);
    keeper_destroy(keeper);
}

static void stopping_tells_work_in_slices_to_end(void **state)
{
    struct error err;
    atomic_int order = 0;
    (void)state;
    struct keeper *keeper = keeper_create(NULL, &err);
    struct work merge = {
        .job = {.run = run_work, .in_slices = true}, .keeper = keeper, .order = &order, .n_slices = 1 << 30};
    assert_true(keeper_post(keeper, &merge.job));
    keeper_destroy(keeper);
    assert_true(atomic_load(&merge.is_done));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_run_in_the_order_of_arrival),
        cmocka_unit_test(urgent_work_goes_between_the_slices_of_a_merge),
        cmocka_unit_test(merges_are_made_one_after_the_other),
        cmocka_unit_test(stopping_tells_work_in_slices_to_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
