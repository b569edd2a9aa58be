/*
 * neon.h - a vector of 16 lanes on NEON (AArch64): four registers. What rows.h and panels.h are written in.
 */
#ifndef KERNELS_NEON_H
#define KERNELS_NEON_H

#include <arm_neon.h>
#include <string.h>

#include "kernels/pack.h"

/* Not float32x4x4_t: that asks for four neighbouring registers. */
typedef struct {
    float32x4_t q0, q1, q2, q3;
} vec;

/* An operation on each of the four. */
#define FOUR(f, a) {f((a).q0), f((a).q1), f((a).q2), f((a).q3)}
#define FOUR_OF_TWO(f, a, b) {f((a).q0, (b).q0), f((a).q1, (b).q1), f((a).q2, (b).q2), f((a).q3, (b).q3)}
#define FOUR_OF_THREE(f, a, b, c)                                                                            \
    {                                                                                                        \
        f((a).q0, (b).q0, (c).q0), f((a).q1, (b).q1, (c).q1), f((a).q2, (b).q2, (c).q2),                     \
            f((a).q3, (b).q3, (c).q3)                                                                        \
    }

static inline vec v_set(float c)
{
    float32x4_t q = vdupq_n_f32(c);
    return (vec){q, q, q, q};
}
static inline vec v_add(vec a, vec b)
{
    return (vec)FOUR_OF_TWO(vaddq_f32, a, b);
}
static inline vec v_sub(vec a, vec b)
{
    return (vec)FOUR_OF_TWO(vsubq_f32, a, b);
}
static inline vec v_mul(vec a, vec b)
{
    return (vec)FOUR_OF_TWO(vmulq_f32, a, b);
}
static inline vec v_div(vec a, vec b)
{
    return (vec)FOUR_OF_TWO(vdivq_f32, a, b);
}
static inline vec v_fma(vec a, vec b, vec c)
{
    return (vec)FOUR_OF_THREE(vfmaq_f32, c, a, b);
}
static inline vec v_fms(vec a, vec b, vec c)
{
    vec minus = FOUR(vnegq_f32, c);
    return v_fma(a, b, minus);
}
/* Not fmax and fmin, which choose otherwise between zeros and where there is a NaN. */
static inline float32x4_t larger(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
static inline float32x4_t smaller(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
static inline vec v_max(vec a, vec b)
{
    return (vec)FOUR_OF_TWO(larger, a, b);
}
static inline vec v_min(vec a, vec b)
{
    return (vec)FOUR_OF_TWO(smaller, a, b);
}
static inline vec v_abs(vec a)
{
    return (vec)FOUR(vabsq_f32, a);
}
static inline float32x4_t copy_sign(float32x4_t magnitude, float32x4_t from)
{
    return vbslq_f32(vdupq_n_u32(0x80000000u), from, magnitude);
}
static inline vec v_copy_sign(vec magnitude, vec sign)
{
    return (vec)FOUR_OF_TWO(copy_sign, magnitude, sign);
}

typedef struct {
    uint32x4_t q0, q1, q2, q3;
} words;

static inline vec v_select_less(vec a, vec b, vec yes, vec no)
{
    words is_less = FOUR_OF_TWO(vcltq_f32, a, b);
    return (vec)FOUR_OF_THREE(vbslq_f32, is_less, yes, no);
}
static inline bool v_all_less(vec a, vec b)
{
    words is_less = FOUR_OF_TWO(vcltq_f32, a, b);
    return vminvq_u32(vandq_u32(vandq_u32(is_less.q0, is_less.q1), vandq_u32(is_less.q2, is_less.q3))) != 0;
}

static inline int32x4_t integers(float32x4_t v)
{
    return vsubq_s32(vreinterpretq_s32_f32(v), vdupq_n_s32(0x4b400000));
}
static inline float32x4_t power_of_two(int32x4_t n)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
static inline float32x4_t scale_quarter(float32x4_t a, float32x4_t t)
{
    int32x4_t n = integers(t), half = vshrq_n_s32(n, 1);
    return vmulq_f32(vmulq_f32(a, power_of_two(half)), power_of_two(vsubq_s32(n, half)));
}
static inline vec v_scale(vec a, vec t)
{
    return (vec)FOUR_OF_TWO(scale_quarter, a, t);
}

static inline vec v_load(const float *p)
{
    return (vec){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
static inline void v_store(float *p, vec v)
{
    vst1q_f32(p, v.q0);
    vst1q_f32(p + 4, v.q1);
    vst1q_f32(p + 8, v.q2);
    vst1q_f32(p + 12, v.q3);
}
/* Elements [from, from + 4) of n. */
static inline float32x4_t load_quarter(const float *p, size_t from, size_t n)
{
    float32x4_t zero = vdupq_n_f32(0.0f);
    if (n >= from + 4)
        return vld1q_f32(p + from);
    if (n == from + 3)
        return vld1q_lane_f32(p + from + 2, vcombine_f32(vld1_f32(p + from), vget_low_f32(zero)), 2);
    if (n == from + 2)
        return vcombine_f32(vld1_f32(p + from), vget_low_f32(zero));
    return n == from + 1 ? vld1q_lane_f32(p + from, zero, 0) : zero;
}
static inline void store_quarter(float *p, float32x4_t v, size_t from, size_t n)
{
    if (n >= from + 4)
        vst1q_f32(p + from, v);
    else if (n == from + 1)
        vst1q_lane_f32(p + from, v, 0);
    else if (n > from)
        vst1_f32(p + from, vget_low_f32(v));
    if (n == from + 3)
        vst1q_lane_f32(p + from + 2, v, 2);
}
static inline vec v_load_some(const float *p, size_t n)
{
    return (vec){load_quarter(p, 0, n), load_quarter(p, 4, n), load_quarter(p, 8, n), load_quarter(p, 12, n)};
}
static inline void v_store_some(float *p, vec v, size_t n)
{
    store_quarter(p, v.q0, 0, n);
    store_quarter(p, v.q1, 4, n);
    store_quarter(p, v.q2, 8, n);
    store_quarter(p, v.q3, 12, n);
}

static inline float32x4_t widen_four(enum weight_type type, uint16x4_t halves)
{
    if (type == WEIGHT_F16)
        return vcvt_f32_f16(vreinterpret_f16_u16(halves));
    return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
}
static inline vec v_load_weights(enum weight_type type, const void *p)
{
    const uint16_t *halves = p;
    if (type == WEIGHT_F32)
        return v_load(p);
    uint16x8_t low = vld1q_u16(halves), high = vld1q_u16(halves + 8);
    return (vec){widen_four(type, vget_low_u16(low)), widen_four(type, vget_high_u16(low)),
                 widen_four(type, vget_low_u16(high)), widen_four(type, vget_high_u16(high))};
}
static inline vec v_load_some_weights(enum weight_type type, const void *p, size_t n)
{
    uint16_t halves[16] = {0};
    if (type == WEIGHT_F32)
        return v_load_some(p, n);
    memcpy(halves, p, n * sizeof *halves);
    return v_load_weights(type, halves);
}

/* By integers, since not every AArch64 can convert to bf16: the bits with half of the last place added, less one where the
   rest is even; a NaN is made quiet instead. */
static inline uint16x4_t narrow_four_bf16(float32x4_t v)
{
    uint32x4_t bits = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(vdupq_n_u32(0x7fff), odd));
    uint32x4_t is_nan = vcgtq_u32(vandq_u32(bits, vdupq_n_u32(0x7fffffff)), vdupq_n_u32(0x7f800000));
    return vshrn_n_u32(vbslq_u32(is_nan, vorrq_u32(bits, vdupq_n_u32(0x400000)), rounded), 16);
}
/* The conversion to f16 flushes no result, whatever the thread's flags. */
static inline uint16x4_t narrow_four(enum weight_type type, float32x4_t v)
{
    return type == WEIGHT_F16 ? vreinterpret_u16_f16(vcvt_f16_f32(v)) : narrow_four_bf16(v);
}
static inline void v_store_narrow(enum weight_type type, void *p, vec v)
{
    uint16_t *halves = p;
    vst1q_u16(halves, vcombine_u16(narrow_four(type, v.q0), narrow_four(type, v.q1)));
    vst1q_u16(halves + 8, vcombine_u16(narrow_four(type, v.q2), narrow_four(type, v.q3)));
}

/* The first and the second of 16 pairs of bf16. */
static inline float32x4_t first_of_pairs(uint32x4_t pairs)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
}
static inline float32x4_t second_of_pairs(uint32x4_t pairs)
{
    return vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
}
static inline words load_pairs(const void *p)
{
    const uint32_t *at = p;
    return (words){vld1q_u32(at), vld1q_u32(at + 4), vld1q_u32(at + 8), vld1q_u32(at + 12)};
}
static inline vec v_load_first(const void *p)
{
    words pairs = load_pairs(p);
    return (vec)FOUR(first_of_pairs, pairs);
}
static inline vec v_load_second(const void *p)
{
    words pairs = load_pairs(p);
    return (vec)FOUR(second_of_pairs, pairs);
}
static inline uint32x4_t four_pairs(float32x4_t first, float32x4_t second)
{
    return vorrq_u32(vmovl_u16(narrow_four_bf16(first)), vshll_n_u16(narrow_four_bf16(second), 16));
}
static inline void v_store_pairs(void *p, vec first, vec second)
{
    uint32_t *at = p;
    words pairs = FOUR_OF_TWO(four_pairs, first, second);
    vst1q_u32(at, pairs.q0);
    vst1q_u32(at + 4, pairs.q1);
    vst1q_u32(at + 8, pairs.q2);
    vst1q_u32(at + 12, pairs.q3);
}

static inline float v_sqrt_one(float x)
{
    return vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0);
}

/* The first two steps of the tree. */
static inline float32x4_t join_quarters(vec v)
{
    return vaddq_f32(vaddq_f32(v.q0, v.q2), vaddq_f32(v.q1, v.q3));
}
static inline float v_join(vec v)
{
    float32x4_t four = join_quarters(v);
    return vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}
static inline float v_join_max(vec v)
{
    float32x4_t a = larger(larger(v.q0, v.q2), larger(v.q1, v.q3));
    a = larger(a, vextq_f32(a, a, 2));
    return vgetq_lane_f32(larger(a, vextq_f32(a, a, 1)), 0);
}
/* The third step for two vectors. */
static inline float32x4_t join_halves(float32x4_t a, float32x4_t b)
{
    return vaddq_f32(vcombine_f32(vget_low_f32(a), vget_low_f32(b)), vcombine_f32(vget_high_f32(a), vget_high_f32(b)));
}
static inline void v_join_4(float *out, vec a, vec b, vec c, vec d)
{
    float32x4_t ab = join_halves(join_quarters(a), join_quarters(b)), cd = join_halves(join_quarters(c), join_quarters(d));
    vst1q_f32(out, vpaddq_f32(ab, cd));
}

/* ---- 64 bytes ---- */

typedef struct {
    uint8x16_t q0, q1, q2, q3;
} bits;

static inline bits b_load(const void *p)
{
    const uint8_t *at = p;
    return (bits){vld1q_u8(at), vld1q_u8(at + 16), vld1q_u8(at + 32), vld1q_u8(at + 48)};
}
static inline bits b_repeat(const void *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    uint8x16_t q = vreinterpretq_u8_u32(vdupq_n_u32(word));
    return (bits){q, q, q, q};
}
static inline vec b_as_floats(bits b)
{
    return (vec)FOUR(vreinterpretq_f32_u8, b);
}
static inline uint8x16_t values_of_low(uint8x16_t b)
{
    return vqtbl1q_u8(vld1q_u8(PACK_Q4_VALUES), vandq_u8(b, vdupq_n_u8(15)));
}
static inline uint8x16_t values_of_high(uint8x16_t b)
{
    return vqtbl1q_u8(vld1q_u8(PACK_Q4_VALUES), vshrq_n_u8(b, 4));
}
static inline bits b_low_codes(bits b)
{
    return (bits)FOUR(values_of_low, b);
}
static inline bits b_high_codes(bits b)
{
    return (bits)FOUR(values_of_high, b);
}
/* The weights of b_add_quads less 128: signed bytes, which is what the instructions multiply. So no sum needs pack.h's starts. */
static inline int8x16_t signed_weights(uint8x16_t w)
{
    return vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(0x80)));
}
static inline bits b_start(bits start)
{
    uint8x16_t q = vreinterpretq_u8_s32(vdupq_n_s32(PACK_SUM_START));
    (void)start;
    return (bits){q, q, q, q};
}
static inline int8x16_t bytes_of_integers(vec v)
{
    int16x8_t low = vcombine_s16(vmovn_s32(integers(v.q0)), vmovn_s32(integers(v.q1)));
    int16x8_t high = vcombine_s16(vmovn_s32(integers(v.q2)), vmovn_s32(integers(v.q3)));
    return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}
static inline void v_prepare_bytes(void *p, vec a, vec b, int32_t *sum)
{
    int8_t *at = p;
    int8x16_t low = bytes_of_integers(a), high = bytes_of_integers(b);
    vst1q_s8(at, low);
    vst1q_s8(at + 16, high);
    *sum = vaddvq_s16(vpadalq_s8(vpaddlq_s8(low), high)); /* 32 bytes do not leave 16 bits */
}

/* How many vectors, of four registers each, a tile has by its number of tokens: 32 registers hold 24 sums. While sums of integers are
   made, which are half of the work or more, those of floats may lie in memory. */
#define WIDE_ELEMENTS                                                                                        \
    {                                                                                                        \
        4, 2, 1, 1, 1, 1                                                                                     \
    }
#define ELEMENT_TILES(TILE)                                                                                  \
    TILE(4, 1) TILE(2, 2) TILE(1, 1) TILE(1, 2) TILE(1, 3) TILE(1, 4) TILE(1, 5) TILE(1, 6)
#define ELEMENT_TILE_TABLE(name)                                                                             \
    {                                                                                                        \
        {name##_4_1, name##_1_1}, {name##_2_2, name##_1_2}, {name##_1_3, name##_1_3},                        \
            {name##_1_4, name##_1_4}, {name##_1_5, name##_1_5}, {name##_1_6, name##_1_6}                     \
    }
#define WIDE_GROUPS {1, 1, 1, 1, 1, 1}
#define GROUP_TILES(TILE) TILE(1, 1) TILE(1, 2) TILE(1, 3) TILE(1, 4) TILE(1, 5) TILE(1, 6)
#define GROUP_TILE_TABLE(name)                                                                               \
    {                                                                                                        \
        {name##_1_1, name##_1_1}, {name##_1_2, name##_1_2}, {name##_1_3, name##_1_3},                        \
            {name##_1_4, name##_1_4}, {name##_1_5, name##_1_5}, {name##_1_6, name##_1_6}                     \
    }
#define WHOLE_VECTORS(type, tokens) 1
#define WHOLE_STEPS(type, tokens) 1
#define WHOLE_GROUPS(TILE, separator)                                                                        \
    TILE(1) separator TILE(2) separator TILE(3) separator TILE(4) separator TILE(5) separator TILE(6)

#endif
