/*
 * avx512bf16.c - vdpbf16ps: a pair of products in one instruction, which rounds as two fused ones do when denormals are flushed.
 */
#include "kernels/sets.h"

#include "kernels/avx512.h"

static inline vec v_add_pairs(vec acc, bits w, bits x)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
}

#define PANELS_PAIRS
#include "kernels/panels.h"

void kernels_use_avx512bf16(struct kernels *table)
{
    table->prepare[WEIGHT_BF16] = prepare_pairs;
    table->multiply_packed[WEIGHT_BF16] = multiply_bf16;
}
