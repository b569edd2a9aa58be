/*
 * avx2.c - the rows on AVX2 with FMA and F16C: a vector is two registers.
 */
#include "kernels/sets.h"

#include <immintrin.h>
#include <string.h>

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

/* 16 registers: at most 12 of sums, the weights of two rows, one half of x. */
enum { TILE_ROWS = 2, TILE_TOKENS = 3, FEW_TOKENS = 6, TILE_COLUMNS = 2, TILE_HEADS = 2 };
static const unsigned char tall_rows[FEW_TOKENS] = {4, 2, 2, 1, 1, 1};

#define TILES_OF_TYPE(TYPE, suffix)                                                                          \
    TILE(TYPE, suffix, 4, 1)                                                                                 \
    TILE(TYPE, suffix, 2, 2)                                                                                 \
    TILE(TYPE, suffix, 2, 3)                                                                                 \
    TILE(TYPE, suffix, 1, 1)                                                                                 \
    TILE(TYPE, suffix, 1, 2)                                                                                 \
    TILE(TYPE, suffix, 1, 3)                                                                                 \
    TILE(TYPE, suffix, 1, 4)                                                                                 \
    TILE(TYPE, suffix, 1, 5)                                                                                 \
    TILE(TYPE, suffix, 1, 6)
#define TALL_TILES(suffix)                                                                                   \
    {                                                                                                        \
        tile_##suffix##_4_1, tile_##suffix##_2_2, tile_##suffix##_2_3, tile_##suffix##_1_4,                  \
            tile_##suffix##_1_5, tile_##suffix##_1_6                                                         \
    }
#define FLAT_TILES(suffix)                                                                                   \
    {                                                                                                        \
        tile_##suffix##_1_1, tile_##suffix##_1_2, tile_##suffix##_1_3, tile_##suffix##_1_4,                  \
            tile_##suffix##_1_5, tile_##suffix##_1_6                                                         \
    }

#include "kernels/rows.h"

const struct kernels kernels_avx2 = KERNELS_TABLE("avx2");
