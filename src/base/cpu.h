/*
 * cpu.h - what this machine grants us: instruction sets, cores, memory.
 */
#ifndef BASE_CPU_H
#define BASE_CPU_H

#include <stddef.h>
#include <stdint.h>

enum cpu_features {
    CPU_AVX2 = 1,       /* with FMA and F16C */
    CPU_AVX512 = 2,     /* F, BW, VL, DQ */
    CPU_AVX512_BF16 = 4,
    CPU_AVX512_VNNI = 8,
    CPU_AVX_VNNI = 16,
    CPU_AVX512_BF16_FAST = 32, /* a pair of products takes no longer than one in f32: AMD's, see avx512bf16.c */
    CPU_NEON = 64, /* every AArch64 */
    CPU_NEON_DOT = 128,
    CPU_AMX_INT8 = 256, /* and the system lets this process have tiles; */
    CPU_AMX_BF16 = 512, /* likewise */
    CPU_NEVER = 1024    /* no processor has it */
};

unsigned cpu_detect_features(void);

/* Cores that we may really use: the least of the affinity mask and the cgroup's CPU quota (v1 and
   v2, rounded up, at least 1). */
size_t cpu_usable_cores(void);

/* Bytes that we may really use: the least of physical memory and the cgroup's limit on the way to the root. */
uint64_t memory_usable_bytes(void);

#endif
