#include "base/cpu.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cgroup.h"

#if defined(__x86_64__)
#include <cpuid.h>

static bool has(unsigned word, int bit)
{
    return word >> bit & 1;
}

/* Which registers the operating system saves. Without that an instruction set must not be used. */
static uint64_t saved_registers(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Tiles are large, so Linux has to be asked for them; what it grants holds for the process. */
static bool ask_for_tiles(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}

/* AMD makes 32 products a cycle and more of pairs of bf16. Intel's take twice as long as widening and two fused multiply-adds. */
static bool has_fast_pairs(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
}

unsigned cpu_detect_features(void)
{
    enum { OSXSAVE = 27, FMA = 12, F16C = 29, AVX = 28 };                         /* leaf 1, ecx */
    enum { AVX2 = 5, AVX512F = 16, AVX512DQ = 17, AVX512BW = 30, AVX512VL = 31 }; /* leaf 7, ebx */
    enum { AVX512_VNNI = 11 };                                                    /* leaf 7, ecx */
    enum { AMX_BF16 = 22, AMX_TILE = 24, AMX_INT8 = 25 };                         /* leaf 7, edx */
    enum { AVX_VNNI = 4, AVX512_BF16 = 5 };                                       /* leaf 7.1, eax */
    const uint64_t YMM = 0x06, ZMM = 0xE6, TILES = 0x60000;
    unsigned a, b, c, d, features = 0;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, OSXSAVE) || !has(c, AVX) || !has(c, FMA) || !has(c, F16C))
        return 0;
    uint64_t saved = saved_registers();
    if ((saved & YMM) != YMM || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has(b, AVX2))
        return 0;
    unsigned most_subleaf = a, more = 0;
    features |= CPU_AVX2;

    bool is_512 =
        (saved & ZMM) == ZMM && has(b, AVX512F) && has(b, AVX512DQ) && has(b, AVX512BW) && has(b, AVX512VL);
    if (is_512)
        features |= CPU_AVX512;
    if (is_512 && has(c, AVX512_VNNI))
        features |= CPU_AVX512_VNNI;
    if (is_512 && (saved & TILES) == TILES && has(d, AMX_TILE) && ask_for_tiles())
        features |= (has(d, AMX_INT8) ? CPU_AMX_INT8 : 0) | (has(d, AMX_BF16) ? CPU_AMX_BF16 : 0);
    if (most_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
        more = a;
    if (is_512 && has(more, AVX512_BF16))
        features |= CPU_AVX512_BF16 | (has_fast_pairs() ? CPU_AVX512_BF16_FAST : 0);
    if (has(more, AVX_VNNI))
        features |= CPU_AVX_VNNI;
    return features;
}
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

unsigned cpu_detect_features(void)
{
    return CPU_NEON | (getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? CPU_NEON_DOT : 0u);
}
#else
unsigned cpu_detect_features(void)
{
    return 0;
}
#endif

/* Cores in our affinity mask; 0 when the kernel does not say. */
static size_t count_allowed_cores(void)
{
    for (size_t n_cpus = 1024; n_cpus <= (size_t)1 << 20; n_cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(n_cpus);
        if (!set)
            return 0;
        int result = sched_getaffinity(0, CPU_ALLOC_SIZE(n_cpus), set);
        int errno_value = errno;
        size_t n = result == 0 ? (size_t)CPU_COUNT_S(CPU_ALLOC_SIZE(n_cpus), set) : 0;
        CPU_FREE(set);
        if (result == 0)
            return n;
        if (errno_value != EINVAL) /* EINVAL: the kernel's mask is longer */
            return 0;
    }
    return 0;
}

size_t cpu_usable_cores(void)
{
    size_t n_cores = count_allowed_cores();
    long n_online = sysconf(_SC_NPROCESSORS_ONLN);
    if (n_cores == 0)
        n_cores = n_online > 0 ? (size_t)n_online : 1;
    uint64_t milli_cores = cgroup_read_limits("").milli_cores;
    if (milli_cores != UINT64_MAX)
        n_cores = size_min(n_cores, ceil_divide(milli_cores, 1000));
    return size_max(n_cores, 1);
}

uint64_t memory_usable_bytes(void)
{
    long n_pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    uint64_t physical = UINT64_MAX;
    if (n_pages > 0 && page_bytes > 0)
        physical = (uint64_t)n_pages * (uint64_t)page_bytes;
    uint64_t limit = cgroup_read_limits("").memory_bytes;
    return limit < physical ? limit : physical;
}
