/*
 * peak_avx2.c - the most of AVX2 with FMA. 8-bit products without VNNI: pairs are added in 16 bits, those in 32, those to the sum.
 */
#include "kernels/peak.h"

#include <immintrin.h>

#include "base/cpu.h"

#define MULTIPLY_ADD(sum, a, b) _mm256_fmadd_ps(a, b, sum)
PEAK_LOOP(run_f32, __m256, "x", MULTIPLY_ADD)
const struct peak_loop peak_f32_avx2 = {"vfmadd231ps, 256 bits", CPU_AVX2, PEAK_SUMS * 8 * 2, run_f32};

#define ADD_PRODUCTS(sum, a, b) \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
PEAK_LOOP(run_int8, __m256i, "x", ADD_PRODUCTS)
const struct peak_loop peak_int8_avx2 = {"vpmaddubsw, vpmaddwd and vpaddd, 256 bits", CPU_AVX2, PEAK_SUMS * 32 * 2, run_int8};
