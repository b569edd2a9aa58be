/*
 * peak_avx512.c - the most of AVX-512. 8-bit products without VNNI: pairs are added in 16 bits, those in 32, those to the sum.
 */
#include "kernels/peak.h"

#include <immintrin.h>

#include "base/cpu.h"

#define MULTIPLY_ADD(sum, a, b) _mm512_fmadd_ps(a, b, sum)
PEAK_LOOP(run_f32, __m512, "v", MULTIPLY_ADD)
const struct peak_loop peak_f32_avx512 = {"vfmadd231ps, 512 bits", CPU_AVX512, PEAK_SUMS * 16 * 2, run_f32};

#define ADD_PRODUCTS(sum, a, b) \
    _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)))
PEAK_LOOP(run_int8, __m512i, "v", ADD_PRODUCTS)
const struct peak_loop peak_int8_avx512 = {"vpmaddubsw, vpmaddwd and vpaddd, 512 bits", CPU_AVX512, PEAK_SUMS * 64 * 2, run_int8};
