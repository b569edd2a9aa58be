#include "base/cache.h"

#include "support/check.h"
#include "support/scratch.h"

static void write_cache(const char *root, unsigned cpu, unsigned index, const char *level, const char *size, const char *shared)
{
    char path[128];
    snprintf(path, sizeof path, "sys/devices/system/cpu/cpu%u/cache/index%u/level", cpu, index);
    scratch_write_text(root, path, level);
    snprintf(path, sizeof path, "sys/devices/system/cpu/cpu%u/cache/index%u/size", cpu, index);
    scratch_write_text(root, path, size);
    snprintf(path, sizeof path, "sys/devices/system/cpu/cpu%u/cache/index%u/shared_cpu_list", cpu, index);
    scratch_write_text(root, path, shared);
}

static void a_cache_that_many_processors_share_counts_once(void **state)
{
    char *root = scratch_create();
    (void)state;
    for (unsigned cpu = 0; cpu < 4; cpu++) {
        write_cache(root, cpu, 0, "1\n", "48K\n", cpu == 0 ? "0\n" : cpu == 1 ? "1\n" : cpu == 2 ? "2\n" : "3\n");
        write_cache(root, cpu, 1, "3\n", "32768K\n", cpu < 2 ? "0-1\n" : "2,3\n");
    }
    assert_int_equal(cache_last_level_bytes(root), 64 << 20); /* two of 32 MiB */
    scratch_remove(root);
}

static void a_processor_that_is_switched_off_leaves_a_gap(void **state)
{
    char *root = scratch_create();
    (void)state;
    write_cache(root, 0, 0, "2\n", "1M\n", "0\n");
    write_cache(root, 3, 0, "2\n", "1M\n", "3\n");
    assert_int_equal(cache_last_level_bytes(root), 2 << 20);
    scratch_remove(root);
}

static void what_the_system_does_not_say_is_zero(void **state)
{
    char *root = scratch_create();
    (void)state;
    assert_int_equal(cache_last_level_bytes(root), 0);
    write_cache(root, 0, 0, "?\n", "-\n", "\n");
    assert_int_equal(cache_last_level_bytes(root), 0);
    scratch_remove(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cache_that_many_processors_share_counts_once),
        cmocka_unit_test(a_processor_that_is_switched_off_leaves_a_gap),
        cmocka_unit_test(what_the_system_does_not_say_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
