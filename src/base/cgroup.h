/*
 * cgroup.h - the CPU quota and the memory limit of the control group that we run in, v1 and v2.
 *
 * A limit anywhere on the way from our group to the root holds for us, so the least counts. What
 * cannot be read limits nothing.
 */
#ifndef BASE_CGROUP_H
#define BASE_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cgroup_limits {
    uint64_t milli_cores;  /* UINT64_MAX: no limit */
    uint64_t memory_bytes; /* UINT64_MAX: no limit */
};

/* Reads /proc/self/{cgroup,mountinfo} and what they point to. `root` is put before every path: ""
   for the machine, a directory in tests. */
struct cgroup_limits cgroup_read_limits(const char *root);

/* The parts, which know texts only. `controller`: "cpu" or "memory" of v1, NULL for v2. */

/* Our group's path, from the text of /proc/self/cgroup. */
bool cgroup_find_path(const char *proc_self_cgroup, const char *controller, char *out, size_t n_out);

/* Where the hierarchy is mounted and which group is its root there, from the text of mountinfo. */
bool cgroup_find_mount(const char *mountinfo, const char *controller, char *mount_out, size_t n_mount,
                       char *root_out, size_t n_root);

/* "200000 100000" or "max 100000" (v2: cpu.max). */
uint64_t cgroup_parse_cpu_max(const char *text);

/* "-1" or microseconds (v1: cpu.cfs_quota_us, cpu.cfs_period_us). */
uint64_t cgroup_parse_quota(const char *quota, const char *period);

/* "max" or a number (v2: memory.max; v1: memory.limit_in_bytes, where a huge one means none). */
uint64_t cgroup_parse_bytes(const char *text);

#endif
