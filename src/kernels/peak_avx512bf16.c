/*
 * peak_avx512bf16.c - the most of AVX-512 BF16.
 */
#include "kernels/peak.h"

#include <immintrin.h>

#include "base/cpu.h"

#define ADD_PRODUCTS(sum, a, b) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))
PEAK_LOOP(run_bf16, __m512, "v", ADD_PRODUCTS)
const struct peak_loop peak_bf16_avx512bf16 = {"vdpbf16ps, 512 bits", CPU_AVX512 | CPU_AVX512_BF16, PEAK_SUMS * 32 * 2, run_bf16};
