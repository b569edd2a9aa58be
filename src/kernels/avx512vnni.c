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
/* GCC 12 would repeat the quad in an instruction of its own. */
typedef int32_t __attribute__((may_alias)) four_bytes;
static inline bits b_add_repeated(bits acc, bits w, const char *quad)
{
    __asm__ volatile("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*(const four_bytes *)quad));
    return acc;
}
#define b_add_repeated b_add_repeated

/* Vectors that are multiplied together share what is loaded of an activation; a lone token waits for memory, not for that. With as many sums as 12
   those of floats have registers too. */
#define WHOLE_VECTORS(tokens) ((tokens) == 1 ? 1 : (tokens) <= 3 ? 4 : (tokens) <= 6 ? 2 : 1)
#define WHOLE_STEPS(tokens) ((tokens) <= 12 ? 4 : 2)

#define PANELS_GROUPS
#include "kernels/panels.h"

void kernels_use_avx512vnni(struct kernels *table)
{
    table->multiply_packed[WEIGHT_Q8] = multiply_q8;
    table->multiply_packed[WEIGHT_Q4] = multiply_q4;
}
