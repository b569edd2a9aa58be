/*
 * avx512vnni.c - vpdpbusd: four products of unsigned and signed bytes, summed, in one instruction.
 */
#include "kernels/sets.h"

#include "kernels/avx512.h"

static inline bits b_start(bits start)
{
    return start;
}
static inline bits b_add_quads(bits acc, bits w, bits x)
{
    return _mm512_dpbusd_epi32(acc, w, x);
}

#define PANELS_GROUPS
#include "kernels/panels.h"

void kernels_use_avx512vnni(struct kernels *table)
{
    table->multiply_packed[WEIGHT_Q8] = multiply_q8;
    table->multiply_packed[WEIGHT_Q4] = multiply_q4;
}
