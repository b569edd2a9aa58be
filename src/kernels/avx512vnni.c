/*
 * avx512vnni.c - q8 and q4 by vpdpbusd.
 */
#include "kernels/sets.h"

#include "kernels/avx512vnni.h"

/* Vectors that are multiplied together share what is loaded of an activation; a lone token waits for memory, not for that. With as many sums as 12
   those of floats have registers too. */
#define WHOLE_VECTORS(type, tokens) ((tokens) == 1 ? 1 : (tokens) <= 3 ? 4 : (tokens) <= 6 ? 2 : 1)
#define WHOLE_STEPS(type, tokens) ((tokens) <= 12 ? 4 : 2)

#define PANELS_GROUPS
#include "kernels/panels.h"

void kernels_use_avx512vnni(struct kernels *table)
{
    table->multiply_packed[WEIGHT_Q8] = multiply_q8;
    table->multiply_packed[WEIGHT_Q4] = multiply_q4;
}
