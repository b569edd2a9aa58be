/*
 * peak_avxvnni.c - the most of AVX-VNNI.
 */
#include "kernels/peak.h"

#include <immintrin.h>

#include "base/cpu.h"

#define ADD_PRODUCTS(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
PEAK_LOOP(run_int8, __m256i, "x", ADD_PRODUCTS)
const struct peak_loop peak_int8_avxvnni = {"vpdpbusd, 256 bits", CPU_AVX2 | CPU_AVX_VNNI, PEAK_SUMS * 32 * 2, run_int8};
