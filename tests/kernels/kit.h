/*
 * kit.h - what the checks of kernels share: counted checks, random values, memory with edges, medians of times.
 *
 * Inputs end at a page that may not be touched, outputs lie between guard bytes.
 */
#ifndef TESTS_KERNELS_KIT_H
#define TESTS_KERNELS_KIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

extern size_t n_checks, n_failures;
extern volatile float sink; /* for results that nobody wants */

/* One of how many cases of the lists is checked, at random: where the CPU is emulated. 1: all of them. */
extern size_t cases_per_check;
bool is_left_out(void);

void check(bool ok, const char *set, const char *row, const char *detail);

/* Which sets were checked, and how it went; returns main's result. */
int print_result(const struct kernels *const *sets, size_t n_sets);

/* ---- random numbers, from a fixed seed ---- */

uint64_t random_bits(void);
size_t random_between(size_t least, size_t most);
float random_float(void); /* [-1, 1) */

enum values { PLAIN, NASTY, EQUALS, WIDE, N_VALUES };
float random_value(enum values kind);

/* ---- memory with edges ---- */

void make_regions(void);

/* `bytes` whose end is the end of what may be touched; a region has one such piece at a time. */
void *edge(size_t region, size_t bytes);
float *edge_floats(size_t region, size_t n, enum values kind);
/* Weights of any element type: for the short ones any bits but infinity and NaN, nasty or not. */
void *edge_weights(size_t region, size_t n, enum weight_type type, enum values kind);

enum { GUARD_BYTES = 64, MAX_OUT = 1 << 18 };

/* Two outputs, of the reference and of a set, with the same content before and guards around. */
struct outputs {
    float *reference, *set; /* at any address that is a multiple of 4 */
    size_t n;
};
struct outputs outputs_of(size_t n, enum values kind);
bool same_float(float a, float b); /* one NaN is as good as another */
/* Checks that both are the same to the bit and that nothing around was written. */
void compare(const struct outputs *out, const struct kernels *set, const char *row, const char *shape);

/* ---- measuring ---- */

enum { POOL_BYTES = 256 << 20 };

/* The median time of work(context, i), i = 0, 1, ..., for about a quarter of a second and at least five
   times. It is the thread's own: others may use the core meanwhile. */
double median_seconds(void (*work)(void *context, size_t i), void *context);

struct limits {
    double flops, bytes; /* per second, of one core */
};
struct limits measure_limits(const struct kernels *set, void *pool); /* pool: POOL_BYTES to read */

#endif
