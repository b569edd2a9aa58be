/*
 * avx2.h - a vector of 16 lanes on AVX2 with FMA and F16C: two registers. What rows.h and panels.h are written in.
 */
#ifndef KERNELS_AVX2_H
#define KERNELS_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "kernels/pack.h"

typedef struct {
    __m256 lo, hi;
} vec;

#define BOTH(expression_lo, expression_hi) ((vec){.lo = (expression_lo), .hi = (expression_hi)})

static inline vec v_set(float c)
{
    return BOTH(_mm256_set1_ps(c), _mm256_set1_ps(c));
}
static inline vec v_add(vec a, vec b)
{
    return BOTH(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi));
}
static inline vec v_sub(vec a, vec b)
{
    return BOTH(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi));
}
static inline vec v_mul(vec a, vec b)
{
    return BOTH(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi));
}
static inline vec v_div(vec a, vec b)
{
    return BOTH(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi));
}
static inline vec v_fma(vec a, vec b, vec c)
{
    return BOTH(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
static inline vec v_fms(vec a, vec b, vec c)
{
    return BOTH(_mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi));
}
static inline vec v_max(vec a, vec b)
{
    return BOTH(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi));
}
static inline vec v_min(vec a, vec b)
{
    return BOTH(_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi));
}
static inline vec v_abs(vec a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return BOTH(_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi));
}
static inline __m256 copy_sign(__m256 magnitude, __m256 from)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(sign, magnitude), _mm256_and_ps(sign, from));
}
static inline vec v_copy_sign(vec magnitude, vec sign)
{
    return BOTH(copy_sign(magnitude.lo, sign.lo), copy_sign(magnitude.hi, sign.hi));
}
static inline vec v_select_less(vec a, vec b, vec yes, vec no)
{
    return BOTH(_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)));
}
static inline bool v_all_less(vec a, vec b)
{
    __m256 both = _mm256_and_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ));
    return _mm256_movemask_ps(both) == 0xff;
}

static inline __m256 power_of_two(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
static inline __m256 scale_half(__m256 a, __m256 t)
{
    __m256i n = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(0x4b400000));
    __m256i half = _mm256_srai_epi32(n, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, power_of_two(half)), power_of_two(_mm256_sub_epi32(n, half)));
}
static inline vec v_scale(vec a, vec t)
{
    return BOTH(scale_half(a.lo, t.lo), scale_half(a.hi, t.hi));
}

static inline vec v_load(const float *p)
{
    return BOTH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
static inline void v_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}
/* Minus one in the first n of eight lanes. */
static inline __m256i first_lanes(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vec v_load_some(const float *p, size_t n)
{
    if (n <= 8)
        return BOTH(_mm256_maskload_ps(p, first_lanes(n)), _mm256_setzero_ps());
    return BOTH(_mm256_loadu_ps(p), _mm256_maskload_ps(p + 8, first_lanes(n - 8)));
}
static inline void v_store_some(float *p, vec v, size_t n)
{
    if (n <= 8) {
        _mm256_maskstore_ps(p, first_lanes(n), v.lo);
    } else {
        _mm256_storeu_ps(p, v.lo);
        _mm256_maskstore_ps(p + 8, first_lanes(n - 8), v.hi);
    }
}

static inline __m256 widen_eight(enum weight_type type, __m128i halves)
{
    if (type == WEIGHT_F16)
        return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
static inline vec v_load_weights(enum weight_type type, const void *p)
{
    const __m128i *halves = p;
    if (type == WEIGHT_F32)
        return v_load(p);
    return BOTH(widen_eight(type, _mm_loadu_si128(halves)), widen_eight(type, _mm_loadu_si128(halves + 1)));
}
static inline vec v_load_some_weights(enum weight_type type, const void *p, size_t n)
{
    uint16_t halves[16] = {0};
    if (type == WEIGHT_F32)
        return v_load_some(p, n);
    memcpy(halves, p, n * sizeof *halves);
    return v_load_weights(type, halves);
}

/* There is no such instruction: the bits with half of the last place added, less one where the rest is even; a NaN is
   made quiet instead. */
static inline __m128i narrow_eight_bf16(__m256 v)
{
    __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i half = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd);
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i wide = _mm256_blendv_epi8(rounded, quiet, is_nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
}
/* The conversion to f16 flushes no result and rounds as it is told here, whatever the thread's flags. */
static inline __m128i narrow_eight(enum weight_type type, __m256 v)
{
    return type == WEIGHT_F16 ? _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT) : narrow_eight_bf16(v);
}
static inline void v_store_narrow(enum weight_type type, void *p, vec v)
{
    _mm_storeu_si128((__m128i *)p, narrow_eight(type, v.lo));
    _mm_storeu_si128((__m128i *)p + 1, narrow_eight(type, v.hi));
}

/* The first and the second of 16 pairs of bf16. */
static inline __m256 load_first(const void *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(p), 16));
}
static inline __m256 load_second(const void *p)
{
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(p), _mm256_set1_epi32((int)0xffff0000)));
}
static inline vec v_load_first(const void *p)
{
    return BOTH(load_first(p), load_first((const char *)p + 32));
}
static inline vec v_load_second(const void *p)
{
    return BOTH(load_second(p), load_second((const char *)p + 32));
}

/* 16 pairs of bf16. */
static inline __m256i eight_pairs(__m256 first, __m256 second)
{
    __m256i low = _mm256_cvtepu16_epi32(narrow_eight_bf16(first)), high = _mm256_cvtepu16_epi32(narrow_eight_bf16(second));
    return _mm256_or_si256(low, _mm256_slli_epi32(high, 16));
}
static inline void v_store_pairs(void *p, vec first, vec second)
{
    _mm256_storeu_si256(p, eight_pairs(first.lo, second.lo));
    _mm256_storeu_si256((__m256i *)p + 1, eight_pairs(first.hi, second.hi));
}

static inline float v_sqrt_one(float x)
{
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

static inline float v_join(vec v)
{
    __m256 a = _mm256_add_ps(v.lo, v.hi);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
static inline float v_join_max(vec v)
{
    __m256 a = _mm256_max_ps(v.lo, v.hi);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
static inline void v_join_4(float *out, vec a, vec b, vec c, vec d)
{
    out[0] = v_join(a);
    out[1] = v_join(b);
    out[2] = v_join(c);
    out[3] = v_join(d);
}

/* ---- 64 bytes ---- */

typedef struct {
    __m256i lo, hi;
} bits;

#define BOTH_BITS(expression_lo, expression_hi) ((bits){.lo = (expression_lo), .hi = (expression_hi)})

static inline bits b_load(const void *p)
{
    const __m256i *at = p;
    return BOTH_BITS(_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1));
}
static inline bits b_repeat(const void *p)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    return BOTH_BITS(_mm256_set1_epi32(word), _mm256_set1_epi32(word));
}
static inline vec b_as_floats(bits b)
{
    return BOTH(_mm256_castsi256_ps(b.lo), _mm256_castsi256_ps(b.hi));
}
static inline __m256i values_of_codes(__m256i codes)
{
    __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)PACK_Q4_VALUES));
    return _mm256_shuffle_epi8(values, _mm256_and_si256(codes, _mm256_set1_epi8(15)));
}
static inline bits b_low_codes(bits b)
{
    return BOTH_BITS(values_of_codes(b.lo), values_of_codes(b.hi));
}
static inline bits b_high_codes(bits b)
{
    return BOTH_BITS(values_of_codes(_mm256_srli_epi16(b.lo, 4)), values_of_codes(_mm256_srli_epi16(b.hi, 4)));
}
static inline __m256i integers(__m256 v)
{
    return _mm256_sub_epi32(_mm256_castps_si256(v), _mm256_set1_epi32(0x4b400000));
}
static inline void v_prepare_bytes(void *p, vec a, vec b, int32_t *sum)
{
    __m256i i0 = integers(a.lo), i1 = integers(a.hi), i2 = integers(b.lo), i3 = integers(b.hi);
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(i0, i1), _mm256_packs_epi32(i2, i3));
    _mm256_storeu_si256((__m256i *)p, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    __m256i four = _mm256_add_epi32(_mm256_add_epi32(i0, i1), _mm256_add_epi32(i2, i3));
    __m128i two = _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    two = _mm_add_epi32(two, _mm_shuffle_epi32(two, 0x4e));
    *sum = _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

/* How many vectors, of two registers each, a tile has by its number of tokens: 16 registers. */
#define WIDE_ELEMENTS                                                                                        \
    {                                                                                                        \
        4, 2, 1, 1, 1                                                                                        \
    }
#define ELEMENT_TILES(TILE)                                                                                  \
    TILE(4, 1) TILE(2, 2) TILE(1, 1) TILE(1, 2) TILE(1, 3) TILE(1, 4) TILE(1, 5)
#define ELEMENT_TILE_TABLE(name)                                                                             \
    {                                                                                                        \
        {name##_4_1, name##_1_1}, {name##_2_2, name##_1_2}, {name##_1_3, name##_1_3},                        \
            {name##_1_4, name##_1_4}, {name##_1_5, name##_1_5}                                               \
    }
#define WIDE_GROUPS {1, 1, 1}
#define GROUP_TILES(TILE) TILE(1, 1) TILE(1, 2) TILE(1, 3)
#define GROUP_TILE_TABLE(name)                                                                               \
    {                                                                                                        \
        {name##_1_1, name##_1_1}, {name##_1_2, name##_1_2}, {name##_1_3, name##_1_3}                         \
    }
#define WHOLE_VECTORS(type, tokens) 1
#define WHOLE_STEPS(type, tokens) 1
#define WHOLE_GROUPS(TILE, separator)                                                                        \
    TILE(1) separator TILE(2) separator TILE(3) separator TILE(4) separator TILE(5)

#endif
