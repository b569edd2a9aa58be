/*
 * avx512.h - a vector of 16 lanes on AVX-512 (F, BW, VL, DQ): one register. What rows.h and panels.h are written in.
 */
#ifndef KERNELS_AVX512_H
#define KERNELS_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "kernels/pack.h"

typedef __m512 vec;

static inline vec v_set(float c)
{
    return _mm512_set1_ps(c);
}
static inline vec v_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}
static inline vec v_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}
static inline vec v_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}
static inline vec v_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}
static inline vec v_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline vec v_fms(vec a, vec b, vec c)
{
    return _mm512_fmsub_ps(a, b, c);
}
static inline vec v_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}
static inline vec v_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}
static inline vec v_abs(vec a)
{
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a);
}
static inline vec v_copy_sign(vec magnitude, vec sign)
{
    return _mm512_or_ps(v_abs(magnitude), _mm512_and_ps(_mm512_set1_ps(-0.0f), sign));
}
static inline vec v_select_less(vec a, vec b, vec yes, vec no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
static inline bool v_all_less(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) == 0xffff;
}

/* One instruction that rounds as the last of two products would, and flushes as they do. */
static inline vec v_scale(vec a, vec t)
{
    return _mm512_scalef_ps(a, v_sub(t, v_set(0x1.8p23f)));
}

static inline vec v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vec v)
{
    _mm512_storeu_ps(p, v);
}
static inline __mmask16 first_lanes(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}
static inline vec v_load_some(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
static inline void v_store_some(float *p, vec v, size_t n)
{
    _mm512_mask_storeu_ps(p, first_lanes(n), v);
}

static inline vec v_widen(enum weight_type type, __m256i halves)
{
    if (type == WEIGHT_F16)
        return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
static inline vec v_load_weights(enum weight_type type, const void *p)
{
    return type == WEIGHT_F32 ? _mm512_loadu_ps(p) : v_widen(type, _mm256_loadu_si256(p));
}
static inline vec v_load_some_weights(enum weight_type type, const void *p, size_t n)
{
    if (type == WEIGHT_F32)
        return _mm512_maskz_loadu_ps(first_lanes(n), p);
    return v_widen(type, _mm256_maskz_loadu_epi16(first_lanes(n), p));
}

/* By integers, as in avx2.c: vcvtneps2bf16 flushes subnormals, and not every AVX-512 has it. */
static inline __m256i sixteen_to_bf16(vec v)
{
    __m512i bits = _mm512_castps_si512(v), high = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i half = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd);
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
    __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    __mmask16 is_nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
    return _mm512_cvtepi32_epi16(
        _mm512_mask_or_epi32(rounded, is_nan, high, _mm512_set1_epi32(0x40)));
}
/* The conversion to f16 flushes no result and rounds as it is told here, whatever the thread's flags. */
static inline void v_store_narrow(enum weight_type type, void *p, vec v)
{
    __m256i halves = type == WEIGHT_F16 ? _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT) : sixteen_to_bf16(v);
    _mm256_storeu_si256(p, halves);
}

/* The first and the second of 16 pairs of bf16. */
static inline vec v_load_first(const void *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
static inline vec v_load_second(const void *p)
{
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)0xffff0000)));
}

/* 16 pairs of bf16. */
static inline void v_store_pairs(void *p, vec first, vec second)
{
    __m512i low = _mm512_cvtepu16_epi32(sixteen_to_bf16(first)), high = _mm512_cvtepu16_epi32(sixteen_to_bf16(second));
    _mm512_storeu_si512(p, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

static inline float v_sqrt_one(float x)
{
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

static inline float v_join(vec v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
static inline float v_join_max(vec v)
{
    __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
/* The same tree for four vectors at once: each addition works on what several of them have left. */
static inline void v_join_4(float *out, vec a, vec b, vec c, vec d)
{
    vec ab = v_add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    vec cd = v_add(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    vec all = v_add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    all = v_add(all, _mm512_permute_ps(all, 0xee));
    all = v_add(all, _mm512_permute_ps(all, 0x55));
    __m512i first_of_each = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_each, all)));
}

/* ---- 64 bytes ---- */

typedef __m512i bits;

static inline bits b_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
static inline bits b_repeat(const void *p)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm512_set1_epi32(word);
}
static inline vec b_as_floats(bits b)
{
    return _mm512_castsi512_ps(b);
}
static inline bits b_values(bits codes)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)PACK_Q4_VALUES)), codes);
}
static inline bits b_low_codes(bits b)
{
    return b_values(_mm512_and_si512(b, _mm512_set1_epi8(15)));
}
static inline bits b_high_codes(bits b)
{
    return b_values(_mm512_and_si512(_mm512_srli_epi16(b, 4), _mm512_set1_epi8(15)));
}
static inline void v_prepare_bytes(void *p, vec a, vec b, int32_t *sum)
{
    __m512i low = _mm512_sub_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(0x4b400000));
    __m512i high = _mm512_sub_epi32(_mm512_castps_si512(b), _mm512_set1_epi32(0x4b400000));
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(low));
    _mm_storeu_si128((__m128i *)p + 1, _mm512_cvtepi32_epi8(high));
    *sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
}

/* How many vectors a tile has by its number of tokens: 32 registers hold 24 sums of f32, or 16 of
   integers while those of floats lie in memory. */
#define WIDE_ELEMENTS                                                                                        \
    {                                                                                                        \
        4, 4, 4, 4, 4, 4                                                                                     \
    }
#define ELEMENT_TILES(TILE)                                                                                  \
    TILE(4, 1) TILE(4, 2) TILE(4, 3) TILE(4, 4) TILE(4, 5) TILE(4, 6) TILE(1, 1) TILE(1, 2) TILE(1, 3)       \
        TILE(1, 4) TILE(1, 5) TILE(1, 6)
#define ELEMENT_TILE_TABLE(name)                                                                             \
    {                                                                                                        \
        {name##_4_1, name##_1_1}, {name##_4_2, name##_1_2}, {name##_4_3, name##_1_3},                        \
            {name##_4_4, name##_1_4}, {name##_4_5, name##_1_5}, {name##_4_6, name##_1_6}                     \
    }
#define WIDE_GROUPS                                                                                          \
    {                                                                                                        \
        2, 2, 2, 2, 2, 2, 2, 2                                                                               \
    }
#define GROUP_TILES(TILE)                                                                                    \
    TILE(2, 1) TILE(2, 2) TILE(2, 3) TILE(2, 4) TILE(2, 5) TILE(2, 6) TILE(2, 7) TILE(2, 8) TILE(1, 1)       \
        TILE(1, 2) TILE(1, 3) TILE(1, 4) TILE(1, 5) TILE(1, 6) TILE(1, 7) TILE(1, 8)
#define GROUP_TILE_TABLE(name)                                                                               \
    {                                                                                                        \
        {name##_2_1, name##_1_1}, {name##_2_2, name##_1_2}, {name##_2_3, name##_1_3},                        \
            {name##_2_4, name##_1_4}, {name##_2_5, name##_1_5}, {name##_2_6, name##_1_6},                    \
            {name##_2_7, name##_1_7}, {name##_2_8, name##_1_8}                                               \
    }
#define WHOLE_GROUPS(TILE, separator)                                                                        \
    TILE(1) separator TILE(2) separator TILE(3) separator TILE(4) separator TILE(5) separator                \
    TILE(6) separator TILE(7) separator TILE(8) separator TILE(9) separator TILE(10) separator               \
    TILE(11) separator TILE(12) separator TILE(13) separator TILE(14) separator TILE(15) separator TILE(16)

#endif
