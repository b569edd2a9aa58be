/*
 * peak_avx512vnni.c - the most of AVX-512 VNNI.
 */
#include "kernels/peak.h"

#include <immintrin.h>

#include "base/cpu.h"

#define ADD_PRODUCTS(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
PEAK_LOOP(run_int8, __m512i, "v", ADD_PRODUCTS)
const struct peak_loop peak_int8_avx512vnni = {"vpdpbusd, 512 bits", CPU_AVX512 | CPU_AVX512_VNNI, PEAK_SUMS * 64 * 2, run_int8};
