/*
 * peak.h - loops that only show what this processor can do: they measure, nothing is computed with them.
 *
 * A loop multiplies and adds in registers, with as many sums side by side as hide the latency of the instruction; the reader
 * goes through memory and does hardly anything with it. No kernel is faster than its loop,
 * but those of AMX, which are measured by what vectors can do.
 */
#ifndef KERNELS_PEAK_H
#define KERNELS_PEAK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum peak_kind {
    PEAK_F32,
    PEAK_BF16, /* products of bf16, sums in f32 */
    PEAK_INT8, /* products of 8-bit integers, sums in 32 bits */
    N_PEAK_KINDS
};

struct peak_loop {
    const char *name;    /* the instruction */
    unsigned needs;      /* of enum cpu_features */
    size_t n_operations; /* of a round: a product and its addition are two */
    void (*run)(size_t n_rounds);
};

/* The best loop of this kind for `features` (cpu_detect_features). Without an instruction for the kind it is that of f32, since that is
   what such elements are widened to; then *is_widened. */
const struct peak_loop *peak_choose(enum peak_kind kind, unsigned features, bool *is_widened);

/* Reads n_bytes, as `n_streams` neighbouring parts side by side, 1 or 4; a few bytes at the end may be left out. What is returned
   depends on each byte. */
uint64_t peak_read(const void *bytes, size_t n_bytes, size_t n_streams);

/* Writes into each page, so that it is there. */
void peak_touch(void *bytes, size_t n_bytes);

/* -- For the files of the instruction sets -- */

/* A round is PEAK_SUMS sums, each of which takes the next step: enough to hide a latency of 6 at two a cycle, and not too many for 16
   registers. That a and b might be other ones each time is what keeps the compiler from doing a step once for all. `constraint` is how
   inline assembly asks for a register of the type. */
#define PEAK_SUMS 12
#define PEAK_STEP(sum, constraint, step)                           \
    __asm__ volatile("" : "+" constraint(a), "+" constraint(b)); \
    sum = step(sum, a, b);
#define PEAK_LOOP(function, type, constraint, step)                                                                      \
    static void function(size_t n_rounds)                                                                                \
    {                                                                                                                    \
        union {                                                                                                          \
            uint8_t bytes[sizeof(type)];                                                                                 \
            type vector;                                                                                                 \
        } small; /* in every element type a number whose square is small */                                            \
        for (size_t i = 0; i < sizeof(type); i++)                                                                        \
            small.bytes[i] = 0x3c;                                                                                       \
        type a = small.vector, b = a, s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a, s8 = a, s9 = a;    \
        type s10 = a, s11 = a;                                                                                           \
        for (; n_rounds > 0; n_rounds--) {                                                                               \
            PEAK_STEP(s0, constraint, step)                                                                              \
            PEAK_STEP(s1, constraint, step)                                                                              \
            PEAK_STEP(s2, constraint, step)                                                                              \
            PEAK_STEP(s3, constraint, step)                                                                              \
            PEAK_STEP(s4, constraint, step)                                                                              \
            PEAK_STEP(s5, constraint, step)                                                                              \
            PEAK_STEP(s6, constraint, step)                                                                              \
            PEAK_STEP(s7, constraint, step)                                                                              \
            PEAK_STEP(s8, constraint, step)                                                                              \
            PEAK_STEP(s9, constraint, step)                                                                              \
            PEAK_STEP(s10, constraint, step)                                                                             \
            PEAK_STEP(s11, constraint, step)                                                                             \
        }                                                                                                                \
        __asm__ volatile(""                                                                                              \
                         :                                                                                               \
                         : constraint(s0), constraint(s1), constraint(s2), constraint(s3), constraint(s4), constraint(s5), \
                           constraint(s6), constraint(s7), constraint(s8), constraint(s9), constraint(s10),              \
                           constraint(s11));                                                                             \
    }

extern const struct peak_loop peak_f32_avx2, peak_int8_avx2, peak_int8_avxvnni;
extern const struct peak_loop peak_f32_avx512, peak_int8_avx512, peak_int8_avx512vnni, peak_bf16_avx512bf16;

#endif
