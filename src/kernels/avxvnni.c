/*
 * avxvnni.c - vpdpbusd on 256 bits, for CPUs that have it without AVX-512.
 */
#include "kernels/sets.h"

#include "kernels/avx2.h"

static inline bits b_start(bits start)
{
    return start;
}
static inline bits b_add_quads(bits acc, bits w, bits x)
{
    return BOTH_BITS(_mm256_dpbusd_avx_epi32(acc.lo, w.lo, x.lo), _mm256_dpbusd_avx_epi32(acc.hi, w.hi, x.hi));
}

#define PANELS_GROUPS
#include "kernels/panels.h"

void kernels_use_avxvnni(struct kernels *table)
{
    table->multiply_packed[WEIGHT_Q8] = multiply_q8;
    table->multiply_packed[WEIGHT_Q4] = multiply_q4;
}
