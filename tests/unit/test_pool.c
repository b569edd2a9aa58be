#include "base/pool.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "support/check.h"

enum { MOST_PARTS = 1000 };

struct tally {
    atomic_int n_runs[MOST_PARTS];
    atomic_int n_wrong;
    size_t n_parts, n_threads;
    int plain[MOST_PARTS]; /* not atomic: the pool itself must order it */
};

static void count(void *context, size_t part, size_t n_parts, size_t thread)
{
    struct tally *tally = context;
    if (n_parts != tally->n_parts || part >= n_parts || thread >= tally->n_threads)
        tally->n_wrong++;
    tally->n_runs[part]++;
    tally->plain[part]++;
}

static void every_part_runs_once_with_any_number_of_threads(void **state)
{
    struct error err;
    (void)state;
    for (size_t n_threads = 1; n_threads <= 5; n_threads++) {
        struct pool *pool = pool_create(n_threads, &err);
        assert_non_null(pool);
        assert_int_equal(pool_n_threads(pool), n_threads);
        for (size_t n_parts = 0; n_parts <= 40; n_parts++) {
            struct tally tally = {.n_parts = n_parts, .n_threads = n_threads};
            pool_run(pool, count, &tally, n_parts);
            assert_int_equal(tally.n_wrong, 0);
            for (size_t i = 0; i < MOST_PARTS; i++) {
                assert_int_equal(tally.n_runs[i], i < n_parts);
                assert_int_equal(tally.plain[i], i < n_parts);
            }
        }
        pool_destroy(pool);
    }
}

/* Late threads draw from whatever run is going on; contexts on the stack would show a stale one. */
static void runs_in_quick_succession_do_not_mix(void **state)
{
    struct error err;
    (void)state;
    struct pool *pool = pool_create(4, &err);
    assert_non_null(pool);
    static struct tally tallies[2];
    for (int round = 0; round < 20000; round++) {
        struct tally *tally = &tallies[round % 2];
        size_t n_parts = 1 + (size_t)round % 7;
        memset(tally, 0, offsetof(struct tally, plain) + n_parts * sizeof *tally->plain);
        tally->n_parts = n_parts;
        tally->n_threads = 4;
        pool_run(pool, count, tally, n_parts);
        int n_runs = 0;
        for (size_t i = 0; i < n_parts; i++)
            n_runs += tally->n_runs[i] == 1 && tally->plain[i] == 1;
        if (tally->n_wrong || n_runs != (int)n_parts)
            fail_msg("round %d: %d of %zu parts ran once", round, n_runs, n_parts);
    }
    pool_destroy(pool);
}

static void sleep_a_little(void *context, size_t part, size_t n_parts, size_t thread)
{
    (void)n_parts, (void)thread;
    usleep(part == 0 ? 5000 : 1000);
    (*(atomic_int *)context)++;
}

/* Both sides outlast their spinning here: workers between the runs, the caller during them. */
static void sleeping_threads_wake_for_the_next_run(void **state)
{
    struct error err;
    atomic_int n_done = 0;
    (void)state;
    struct pool *pool = pool_create(3, &err);
    assert_non_null(pool);
    for (int round = 0; round < 20; round++) {
        pool_run(pool, sleep_a_little, &n_done, 6);
        assert_int_equal(n_done, 6 * (round + 1));
        usleep(3000);
    }
    pool_destroy(pool);
}

static void pools_come_and_go(void **state)
{
    struct error err;
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct pool *pool = pool_create(3, &err);
        assert_non_null(pool);
        if (i % 2) {
            struct tally tally = {.n_parts = 9, .n_threads = 3};
            pool_run(pool, count, &tally, 9);
            assert_int_equal(tally.n_runs[8], 1);
        }
        pool_destroy(pool);
    }
    pool_destroy(NULL);
}

static void a_number_of_threads_out_of_range_is_refused(void **state)
{
    struct error err;
    (void)state;
    assert_null(pool_create(0, &err));
    assert_error(&err, ERROR_BAD_INPUT, "threads", "from 1 to");
    assert_null(pool_create(1 << 20, &err));
    assert_error(&err, ERROR_BAD_INPUT, "threads", "from 1 to");
}

#if defined(__SSE2__)
enum { FLUSHES = 0x8040 };
static uint64_t float_mode(void)
{
    return _mm_getcsr();
}
#elif defined(__aarch64__)
enum { FLUSHES = 1 << 24 };
static uint64_t float_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
#endif

static void look_at_mode(void *context, size_t part, size_t n_parts, size_t thread)
{
    (void)part, (void)n_parts, (void)thread;
    if ((float_mode() & FLUSHES) != FLUSHES)
        (*(atomic_int *)context)++;
    /* Long enough that other threads get parts too. */
    usleep(200);
}

static void denormals_are_flushed_inside_and_only_inside(void **state)
{
    struct error err;
    (void)state;
    for (size_t n_threads = 1; n_threads <= 4; n_threads++) {
        atomic_int n_wrong = 0;
        struct pool *pool = pool_create(n_threads, &err);
        assert_non_null(pool);
        uint64_t before = float_mode();
        assert_int_equal(before & FLUSHES, 0);
        pool_run(pool, look_at_mode, &n_wrong, 20);
        assert_int_equal(float_mode(), before);
        assert_int_equal(n_wrong, 0);
        pool_destroy(pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_runs_once_with_any_number_of_threads),
        cmocka_unit_test(runs_in_quick_succession_do_not_mix),
        cmocka_unit_test(sleeping_threads_wake_for_the_next_run),
        cmocka_unit_test(pools_come_and_go),
        cmocka_unit_test(a_number_of_threads_out_of_range_is_refused),
        cmocka_unit_test(denormals_are_flushed_inside_and_only_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
