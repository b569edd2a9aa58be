/*
 * test_registry_many.c - a table of ten thousand adapters: what is looked up and listed is right, and what it takes is printed.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/cpu.h"
#include "lora/registry.h"
#include "support/check.h"
#include "support/tiny_model.h"

enum { N_MANY = 10000, N_ROUNDS = 20000 };

static struct model *model;
static struct registry *registry;
static char *directory;
static size_t n_many;

static size_t resident_bytes(void)
{
    char line[256];
    size_t n_kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "RssAnon: %zu", &n_kib) == 1)
            break;
    if (file)
        fclose(file);
    return n_kib * 1024;
}

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static const char *name_of(char out[LORAD_ID_SIZE], size_t i)
{
    snprintf(out, LORAD_ID_SIZE, "customer-%05zu", i);
    return out;
}

static void load_all(void)
{
    char id[LORAD_ID_SIZE];
    struct error err = {0};
    const struct lorad_load_options options = {.path = directory, .trusted_path = true};
    for (size_t i = 0; i < n_many; i++)
        assert_ok(registry_load(registry, name_of(id, i), &options, NULL, &err), &err);
}

static int begin(void **state)
{
    struct error err = {0};
    (void)state;
    n_many = getenv("LORAD_TEST_SANITIZED") ? 500 : N_MANY;
    model = tiny_model_load((struct tiny_model){0}, MODEL_WEIGHTS_NATIVE,
                            kernels_select(cpu_detect_features(), "c", &err));
    directory = tiny_adapter_write(model, (struct tiny_adapter){0});
    registry = registry_create(
        &(struct registry_options){.model = model, .adapter_memory = (uint64_t)1 << 40}, &err);
    if (!registry)
        return -1;
    size_t before = resident_bytes();
    struct registry_stats stats;
    load_all();
    registry_stats_read(registry, &stats);
    print_message("%zu adapters: %.0f bytes each by the count, %.0f in memory\n", n_many,
                  (double)stats.adapter_bytes / (double)n_many,
                  (double)(resident_bytes() - before) / (double)n_many);
    return 0;
}

static int end(void **state)
{
    (void)state;
    registry_destroy(registry);
    tiny_remove(directory);
    model_destroy(model);
    return 0;
}

static void finish(struct lorad_adapter_list *list)
{
    for (size_t i = 0; i < list->n_adapters; i++) {
        free(list->adapters[i].path);
        free(list->adapters[i].error);
    }
    free(list->adapters);
}

static int compare_times(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *what, double *times, size_t n)
{
    qsort(times, n, sizeof *times, compare_times);
    print_message("%-32s median %8.2f us, p99 %8.2f us, longest %8.2f us\n", what, times[n / 2], times[n * 99 / 100],
                  times[n - 1]);
}

static void use_one(size_t i)
{
    char id[LORAD_ID_SIZE];
    struct lease lease;
    struct error err = {0};
    const struct lorad_adapter_choice choice = {name_of(id, i), 1};
    assert_ok(registry_acquire(registry, &choice, 1, 1, false, LORAD_MODE_AUTO, 0, &lease, &err), &err);
    lease_release(&lease);
}

static void measure_use(const char *what)
{
    double *times = calloc(N_ROUNDS, sizeof *times);
    for (size_t i = 0; i < N_ROUNDS; i++) {
        double began = now_us();
        use_one(i * 7919 % n_many);
        times[i] = now_us() - began;
    }
    print_times(what, times, N_ROUNDS);
    free(times);
}

static void one_of_many_is_acquired_and_looked_at(void **state)
{
    enum { N_LOOKS = 2000 };
    static double times[N_LOOKS];
    struct error err = {0};
    struct registry_stats stats;
    (void)state;
    measure_use("acquire and release");
    for (size_t i = 0; i < N_LOOKS; i++) {
        char id[LORAD_ID_SIZE];
        struct lorad_adapter_list list;
        double began = now_us();
        assert_ok(registry_list(registry, name_of(id, i * 7919 % n_many), &list, &err), &err);
        times[i] = now_us() - began;
        assert_int_equal(list.n_adapters, 1);
        assert_string_equal(list.adapters[0].id, id);
        assert_true(list.adapters[0].requests_total > 0);
        finish(&list);
    }
    print_times("look at one", times, N_LOOKS);
    for (size_t i = 0; i < N_LOOKS; i++) {
        double began = now_us();
        registry_stats_read(registry, &stats);
        times[i] = now_us() - began;
        assert_int_equal(stats.adapters, n_many);
    }
    print_times("read the statistics", times, N_LOOKS);
}

static void all_of_them_are_listed_by_id(void **state)
{
    enum { N_LISTS = 21 };
    static double times[N_LISTS];
    struct error err = {0};
    (void)state;
    for (size_t k = 0; k < N_LISTS; k++) {
        char id[LORAD_ID_SIZE];
        struct lorad_adapter_list list;
        double began = now_us();
        assert_ok(registry_list(registry, NULL, &list, &err), &err);
        times[k] = now_us() - began;
        assert_int_equal(list.n_adapters, n_many);
        for (size_t i = 0; i < n_many; i++)
            assert_string_equal(list.adapters[i].id, name_of(id, i));
        finish(&list);
    }
    print_times("list all", times, N_LISTS);
}

static atomic_bool is_over;

static void *keep_listing(void *context)
{
    struct error err;
    size_t *n_lists = context;
    while (!atomic_load(&is_over)) {
        struct lorad_adapter_list list;
        if (!registry_list(registry, NULL, &list, &err) || list.n_adapters < n_many)
            abort();
        finish(&list);
        (*n_lists)++;
    }
    return NULL;
}

static void requests_go_on_while_all_are_listed(void **state)
{
    pthread_t thread;
    size_t n_lists = 0;
    (void)state;
    atomic_store(&is_over, false);
    assert_int_equal(pthread_create(&thread, NULL, keep_listing, &n_lists), 0);
    measure_use("acquire and release, listed");
    atomic_store(&is_over, true);
    pthread_join(thread, NULL);
}

/* The table moves while it is walked. */
static void who_stays_is_listed_once_while_others_come_and_go(void **state)
{
    pthread_t thread;
    size_t n_lists = 0;
    struct error err = {0};
    const struct lorad_load_options options = {.path = directory, .trusted_path = true};
    (void)state;
    atomic_store(&is_over, false);
    assert_int_equal(pthread_create(&thread, NULL, keep_listing, &n_lists), 0);
    for (int round = 0; round < 3; round++) {
        char id[LORAD_ID_SIZE];
        for (int i = 0; i < 200; i++) {
            snprintf(id, sizeof id, "guest-%d", i);
            assert_ok(registry_load(registry, id, &options, NULL, &err), &err);
        }
        for (int i = 0; i < 200; i++) {
            snprintf(id, sizeof id, "guest-%d", i);
            assert_ok(registry_unload(registry, id, NULL, false, &err), &err);
        }
    }
    atomic_store(&is_over, true);
    pthread_join(thread, NULL);
    all_of_them_are_listed_by_id(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_of_many_is_acquired_and_looked_at),
        cmocka_unit_test(all_of_them_are_listed_by_id),
        cmocka_unit_test(requests_go_on_while_all_are_listed),
        cmocka_unit_test(who_stays_is_listed_once_while_others_come_and_go),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
