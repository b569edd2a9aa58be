/*
 * select.h - the rows that a draw from the vocabulary needs: which few logits matter, and the weights of a softmax.
 *
 * Included by the instruction sets' files after their vectors. Survivors are few: a vector without one is passed over by one branch.
 */
#ifndef KERNELS_SELECT_H
#define KERNELS_SELECT_H

#include <string.h>

static bool block_maxima(float *maxima, const float *x, size_t n)
{
    vec wrong = v_set(0.0f);

    for (; n > 0; maxima += KERNELS_LANES) {
        size_t n_block = n < KERNELS_BLOCK ? n : KERNELS_BLOCK, i = 0;
        vec most[2] = {v_set(-INFINITY), v_set(-INFINITY)}, differences[2] = {v_set(0.0f), v_set(0.0f)};
        for (; i + 2 * KERNELS_LANES <= n_block; i += 2 * KERNELS_LANES)
            for (size_t c = 0; c < 2; c++) {
                vec v = v_load(x + i + c * KERNELS_LANES);
                most[c] = v_max(v, most[c]);
                differences[c] = v_add(differences[c], v_sub(v, v)); /* +0, or NaN */
            }
        vec all = v_max(most[0], most[1]);
        for (; i < n_block; i += KERNELS_LANES) {
            size_t n_rest = n_block - i < KERNELS_LANES ? n_block - i : KERNELS_LANES;
            float rest[KERNELS_LANES];
            v_store(rest, v_set(-INFINITY));
            memcpy(rest, x + i, n_rest * sizeof *rest);
            all = v_max(v_load(rest), all);
            vec v = v_load_some(x + i, n_rest);
            differences[0] = v_add(differences[0], v_sub(v, v));
        }
        wrong = v_add(wrong, v_add(differences[0], differences[1]));
        v_store(maxima, v_add(all, v_set(0.0f)));
        x += n_block;
        n -= n_block;
    }
    return v_join(wrong) == 0.0f;
}

#if defined(__AVX512F__)
/* Compressed in a register: compressing into memory is slow on some processors. */
static inline size_t keep_lanes(int32_t *ids, float *values, vec v, unsigned lanes, size_t first)
{
    __m512i all = _mm512_add_epi32(_mm512_set1_epi32((int)first),
                                   _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    unsigned n = (unsigned)__builtin_popcount(lanes);
    __mmask16 some = (__mmask16)((1u << n) - 1);
    _mm512_mask_storeu_epi32(ids, some, _mm512_maskz_compress_epi32((__mmask16)lanes, all));
    _mm512_mask_storeu_ps(values, some, _mm512_maskz_compress_ps((__mmask16)lanes, v));
    return n;
}
static inline unsigned lanes_at_least(vec v, vec least)
{
    return _mm512_cmp_ps_mask(v, least, _CMP_GE_OQ);
}
#else
static inline size_t keep_lanes(int32_t *ids, float *values, vec v, unsigned lanes, size_t first)
{
    float all[KERNELS_LANES];
    size_t n = 0;
    v_store(all, v);
    for (; lanes; lanes &= lanes - 1) {
        unsigned lane = (unsigned)__builtin_ctz(lanes);
        ids[n] = (int32_t)(first + lane);
        values[n++] = all[lane];
    }
    return n;
}
#if defined(__AVX2__)
static inline unsigned lanes_at_least(vec v, vec least)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(v.lo, least.lo, _CMP_GE_OQ)) |
           (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(v.hi, least.hi, _CMP_GE_OQ)) << 8;
}
#else
static inline uint16x8_t halves_at_least(float32x4_t low, float32x4_t high, float32x4_t least)
{
    return vcombine_u16(vmovn_u32(vcgeq_f32(low, least)), vmovn_u32(vcgeq_f32(high, least)));
}
static inline unsigned lanes_at_least(vec v, vec least)
{
    static const uint8_t bit_of_lane[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    uint8x8_t bit = vld1_u8(bit_of_lane);
    uint16x8_t low = halves_at_least(v.q0, v.q1, least.q0), high = halves_at_least(v.q2, v.q3, least.q2);
    if (vmaxvq_u16(vorrq_u16(low, high)) == 0)
        return 0;
    return vaddv_u8(vand_u8(vmovn_u16(low), bit)) | (unsigned)vaddv_u8(vand_u8(vmovn_u16(high), bit)) << 8;
}
#endif
#endif

static size_t select_at_least(int32_t *ids, float *values, const float *x, size_t n, float least, size_t first)
{
    vec bound = v_set(least);
    size_t n_kept = 0, i = 0;

    for (; i + KERNELS_LANES <= n; i += KERNELS_LANES) {
        vec v = v_load(x + i);
        unsigned lanes = lanes_at_least(v, bound);
        if (lanes)
            n_kept += keep_lanes(ids + n_kept, values + n_kept, v, lanes, first + i);
    }
    if (i < n) {
        vec v = v_load_some(x + i, n - i);
        unsigned lanes = lanes_at_least(v, bound) & ((1u << (n - i)) - 1);
        n_kept += keep_lanes(ids + n_kept, values + n_kept, v, lanes, first + i);
    }
    return n_kept;
}

#if defined(__AVX512F__)
typedef __m512d eight_doubles;
static inline eight_doubles load_eight(const double *p)
{
    return _mm512_loadu_pd(p);
}
static inline void store_eight(double *p, eight_doubles v)
{
    _mm512_storeu_pd(p, v);
}
static inline eight_doubles add_sixteen(eight_doubles sums, vec v)
{
    sums = _mm512_add_pd(sums, _mm512_cvtps_pd(_mm512_castps512_ps256(v)));
    return _mm512_add_pd(sums, _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
}
#elif defined(__AVX2__)
typedef struct {
    __m256d lo, hi;
} eight_doubles;
static inline eight_doubles load_eight(const double *p)
{
    return (eight_doubles){_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)};
}
static inline void store_eight(double *p, eight_doubles v)
{
    _mm256_storeu_pd(p, v.lo);
    _mm256_storeu_pd(p + 4, v.hi);
}
static inline eight_doubles add_eight(eight_doubles sums, __m256 v)
{
    return (eight_doubles){_mm256_add_pd(sums.lo, _mm256_cvtps_pd(_mm256_castps256_ps128(v))),
                           _mm256_add_pd(sums.hi, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)))};
}
static inline eight_doubles add_sixteen(eight_doubles sums, vec v)
{
    return add_eight(add_eight(sums, v.lo), v.hi);
}
#else
typedef struct {
    float64x2_t q0, q1, q2, q3;
} eight_doubles;
static inline eight_doubles load_eight(const double *p)
{
    return (eight_doubles){vld1q_f64(p), vld1q_f64(p + 2), vld1q_f64(p + 4), vld1q_f64(p + 6)};
}
static inline void store_eight(double *p, eight_doubles v)
{
    vst1q_f64(p, v.q0);
    vst1q_f64(p + 2, v.q1);
    vst1q_f64(p + 4, v.q2);
    vst1q_f64(p + 6, v.q3);
}
static inline eight_doubles add_eight(eight_doubles sums, float32x4_t low, float32x4_t high)
{
    return (eight_doubles){vaddq_f64(sums.q0, vcvt_f64_f32(vget_low_f32(low))), vaddq_f64(sums.q1, vcvt_high_f64_f32(low)),
                           vaddq_f64(sums.q2, vcvt_f64_f32(vget_low_f32(high))), vaddq_f64(sums.q3, vcvt_high_f64_f32(high))};
}
static inline eight_doubles add_sixteen(eight_doubles sums, vec v)
{
    return add_eight(add_eight(sums, v.q0, v.q1), v.q2, v.q3);
}
#endif

static void weigh(float *weights, double sums[8], const float *x, size_t n, float best, float inverse)
{
    eight_doubles all = load_eight(sums);
    vec most = v_set(best), factor = v_set(inverse);
    size_t i = 0;

    for (; i + KERNELS_LANES <= n; i += KERNELS_LANES) {
        vec weight = v_weight(v_mul(v_sub(v_load(x + i), most), factor));
        v_store(weights + i, weight);
        all = add_sixteen(all, weight);
    }
    store_eight(sums, all);
    if (i < n) {
        float rest[KERNELS_LANES];
        size_t n_rest = n - i, j = 0;
        v_store(rest, v_weight(v_mul(v_sub(v_load_some(x + i, n_rest), most), factor)));
        memcpy(weights + i, rest, n_rest * sizeof *rest);
        for (; n_rest >= 8 && j < 8; j++)
            sums[j] += (double)rest[j];
        for (; j < n_rest; j++)
            sums[0] += (double)rest[j];
    }
}

#define SELECT_ROWS .block_maxima = block_maxima, .select_at_least = select_at_least, .weigh = weigh

#endif
