#include "base/cpu.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "support/check.h"
#include "support/scratch.h"

/* --- texts --- */

static void the_group_of_a_controller_is_found_in_proc_self_cgroup(void **state)
{
    static const char TEXT[] = "9:name=systemd:/init.scope\n"
                               "4:memory:/docker/abc\n"
                               "3:cpu,cpuacct:/docker/with:colon\n"
                               "0::/unified\n";
    char path[64];
    (void)state;
    assert_true(cgroup_find_path(TEXT, "memory", path, sizeof path));
    assert_string_equal(path, "/docker/abc");
    assert_true(cgroup_find_path(TEXT, "cpu", path, sizeof path));
    assert_string_equal(path, "/docker/with:colon");
    assert_true(cgroup_find_path(TEXT, NULL, path, sizeof path));
    assert_string_equal(path, "/unified");
    assert_false(cgroup_find_path(TEXT, "cpuset", path, sizeof path));
    assert_false(cgroup_find_path("", "cpu", path, sizeof path));
    assert_false(cgroup_find_path("0:", NULL, path, sizeof path));
    assert_false(cgroup_find_path("garbage\n:::\n\n", "cpu", path, sizeof path));
    assert_false(cgroup_find_path("0::/a/path/that/is/too/long", NULL, path, 8));
}

static void the_mount_of_a_controller_is_found_in_mountinfo(void **state)
{
    static const char TEXT[] = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
                               "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 "
                               "master:1 - cgroup cgroup rw,cpu,cpuacct\n"
                               "35 31 0:32 / /sys/fs/cgroup/me\\040mory rw - cgroup cgroup rw,memory\n"
                               "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
    char mount[64], root[64];
    (void)state;
    assert_true(cgroup_find_mount(TEXT, "cpu", mount, sizeof mount, root, sizeof root));
    assert_string_equal(mount, "/sys/fs/cgroup/cpu,cpuacct");
    assert_string_equal(root, "/docker/abc");
    assert_true(cgroup_find_mount(TEXT, "memory", mount, sizeof mount, root, sizeof root));
    assert_string_equal(mount, "/sys/fs/cgroup/me mory");
    assert_true(cgroup_find_mount(TEXT, NULL, mount, sizeof mount, root, sizeof root));
    assert_string_equal(mount, "/sys/fs/cgroup/unified");
    assert_false(cgroup_find_mount(TEXT, "cpuset", mount, sizeof mount, root, sizeof root));
    assert_false(cgroup_find_mount("", NULL, mount, sizeof mount, root, sizeof root));
    assert_false(
        cgroup_find_mount("1 2 3 / /m rw - cgroup2\n", NULL, mount, sizeof mount, root, sizeof root));
}

static void quotas_are_read_in_thousandths_of_a_core(void **state)
{
    (void)state;
    assert_int_equal(cgroup_parse_cpu_max("200000 100000\n"), 2000);
    assert_int_equal(cgroup_parse_cpu_max("50000 100000\n"), 500);
    assert_true(cgroup_parse_cpu_max("max 100000\n") == UINT64_MAX);
    assert_true(cgroup_parse_cpu_max("") == UINT64_MAX);
    assert_true(cgroup_parse_cpu_max("1000") == UINT64_MAX);
    assert_true(cgroup_parse_cpu_max("1000 0") == UINT64_MAX);
    assert_true(cgroup_parse_cpu_max("18446744073709551615 100000") == UINT64_MAX);
    assert_int_equal(cgroup_parse_quota("150000\n", "100000\n"), 1500);
    assert_true(cgroup_parse_quota("-1\n", "100000\n") == UINT64_MAX);
}

static void byte_limits_are_numbers_or_none(void **state)
{
    (void)state;
    assert_int_equal(cgroup_parse_bytes("1073741824\n"), 1073741824);
    assert_int_equal(cgroup_parse_bytes("0\n"), 0);
    assert_true(cgroup_parse_bytes("max\n") == UINT64_MAX);
    assert_true(cgroup_parse_bytes("9223372036854771712\n") == UINT64_MAX);
    assert_true(cgroup_parse_bytes("99999999999999999999999\n") == UINT64_MAX);
    assert_true(cgroup_parse_bytes("") == UINT64_MAX);
    assert_true(cgroup_parse_bytes("-1") == UINT64_MAX);
}

/* --- whole machines, as folders --- */

static void the_least_limit_on_the_way_to_the_root_counts_in_v2(void **state)
{
    char *root = scratch_create();
    (void)state;
    scratch_write_text(root, "proc/self/cgroup", "0::/kube/pod/box\n");
    scratch_write_text(root, "proc/self/mountinfo", "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    scratch_write_text(root, "sys/fs/cgroup/kube/pod/box/cpu.max", "max 100000\n");
    scratch_write_text(root, "sys/fs/cgroup/kube/pod/cpu.max", "250000 100000\n");
    scratch_write_text(root, "sys/fs/cgroup/kube/cpu.max", "800000 100000\n");
    scratch_write_text(root, "sys/fs/cgroup/kube/pod/box/memory.max", "4000\n");
    scratch_write_text(root, "sys/fs/cgroup/kube/pod/memory.max", "max\n");
    scratch_write_text(root, "sys/fs/cgroup/kube/memory.max", "5000\n");
    struct cgroup_limits limits = cgroup_read_limits(root);
    assert_int_equal(limits.milli_cores, 2500);
    assert_int_equal(limits.memory_bytes, 4000);
    scratch_write_text(root, "sys/fs/cgroup/kube/memory.high", "3000\n");
    assert_int_equal(cgroup_read_limits(root).memory_bytes, 3000);
    /* Above the mount point nothing is ours. */
    scratch_write_text(root, "sys/fs/memory.max", "1\n");
    assert_int_equal(cgroup_read_limits(root).memory_bytes, 3000);
    scratch_remove(root);
}

static void v1_has_a_hierarchy_per_controller(void **state)
{
    char *root = scratch_create();
    (void)state;
    scratch_write_text(root, "proc/self/cgroup", "4:memory:/a/b\n3:cpu,cpuacct:/c\n0::/\n");
    scratch_write_text(root, "proc/self/mountinfo",
                       "1 2 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                       "1 2 0:3 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
                       "1 2 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    scratch_write_text(root, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    scratch_write_text(root, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "123456\n");
    scratch_write_text(root, "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "300000\n");
    scratch_write_text(root, "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
    scratch_write_text(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    scratch_write_text(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    struct cgroup_limits limits = cgroup_read_limits(root);
    assert_int_equal(limits.milli_cores, 3000);
    assert_int_equal(limits.memory_bytes, 123456);
    scratch_remove(root);
}

/* Docker without a namespace of its own: the mount begins at our group. And with one, seen from
   outside: "/../..". Both read the mount point itself. */
static void a_container_reads_its_own_mount(void **state)
{
    static const char *const PATHS[] = {"0::/docker/abc\n", "0::/../..\n", "0::/\n", "0::/elsewhere\n"};
    static const char *const ROOTS[] = {"/docker/abc", "/", "/", "/docker/abc"};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        char *root = scratch_create(), text[200];
        scratch_write_text(root, "proc/self/cgroup", PATHS[i]);
        snprintf(text, sizeof text, "1 2 0:3 %s /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", ROOTS[i]);
        scratch_write_text(root, "proc/self/mountinfo", text);
        scratch_write_text(root, "sys/fs/cgroup/memory.max", "777\n");
        scratch_write_text(root, "sys/fs/cgroup/cpu.max", "150000 100000\n");
        assert_int_equal(cgroup_read_limits(root).memory_bytes, 777);
        assert_int_equal(cgroup_read_limits(root).milli_cores, 1500);
        scratch_remove(root);
    }
}

static void a_machine_without_cgroups_has_no_limits(void **state)
{
    char *root = scratch_create();
    (void)state;
    struct cgroup_limits limits = cgroup_read_limits(root);
    assert_true(limits.milli_cores == UINT64_MAX && limits.memory_bytes == UINT64_MAX);
    scratch_write_text(root, "proc/self/cgroup", "0::/x\n");
    limits = cgroup_read_limits(root);
    assert_true(limits.milli_cores == UINT64_MAX && limits.memory_bytes == UINT64_MAX);
    scratch_remove(root);
}

/* --- this machine --- */

static void this_machine_has_cores_and_memory(void **state)
{
    (void)state;
    assert_in_range(cpu_usable_cores(), 1, (size_t)sysconf(_SC_NPROCESSORS_ONLN));
    assert_in_range(memory_usable_bytes(), (uint64_t)1 << 24, (uint64_t)1 << 50);
}

static void an_affinity_mask_of_one_core_leaves_one(void **state)
{
    cpu_set_t before, one;
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &before)) {
            CPU_SET(i, &one);
            break;
        }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(cpu_usable_cores(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

#if defined(__x86_64__)
static void features_agree_with_the_compiler_s_own_look(void **state)
{
    unsigned features = cpu_detect_features();
    (void)state;
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    assert_int_equal(!!(features & CPU_AVX2), avx2);
    assert_int_equal(!!(features & CPU_AVX512), avx512);
    if (avx512)
        assert_int_equal(!!(features & CPU_AVX512_VNNI), !!__builtin_cpu_supports("avx512vnni"));
    if (features & (CPU_AVX512_BF16 | CPU_AVX512_VNNI | CPU_AMX_INT8 | CPU_AMX_BF16))
        assert_true(features & CPU_AVX512);
    if (features)
        assert_true(features & CPU_AVX2);
    assert_false(features & CPU_NEVER);
    assert_int_equal(features, cpu_detect_features());
}

/* Without the system's leave the first instruction would end the process. */
static void tiles_are_claimed_with_the_system_s_leave(void **state)
{
    enum { ARCH_GET_XCOMP_PERM = 0x1022, TILE_DATA = 18 };
    uint64_t granted = 0;
    (void)state;
    if (!(cpu_detect_features() & (CPU_AMX_INT8 | CPU_AMX_BF16)))
        skip();
    assert_int_equal(syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &granted), 0);
    assert_true(granted >> TILE_DATA & 1);
}
#elif defined(__aarch64__)
static void every_aarch64_has_neon(void **state)
{
    (void)state;
    assert_true(cpu_detect_features() & CPU_NEON);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_group_of_a_controller_is_found_in_proc_self_cgroup),
        cmocka_unit_test(the_mount_of_a_controller_is_found_in_mountinfo),
        cmocka_unit_test(quotas_are_read_in_thousandths_of_a_core),
        cmocka_unit_test(byte_limits_are_numbers_or_none),
        cmocka_unit_test(the_least_limit_on_the_way_to_the_root_counts_in_v2),
        cmocka_unit_test(v1_has_a_hierarchy_per_controller),
        cmocka_unit_test(a_container_reads_its_own_mount),
        cmocka_unit_test(a_machine_without_cgroups_has_no_limits),
        cmocka_unit_test(this_machine_has_cores_and_memory),
        cmocka_unit_test(an_affinity_mask_of_one_core_leaves_one),
#if defined(__x86_64__)
        cmocka_unit_test(features_agree_with_the_compiler_s_own_look),
        cmocka_unit_test(tiles_are_claimed_with_the_system_s_leave),
#elif defined(__aarch64__)
        cmocka_unit_test(every_aarch64_has_neon),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
