/*
 * scalar.h - the vector of polynomial.h as one float: for reference.c, and for measuring the polynomials.
 *
 * fmaf rounds once whether libm has the instruction or not, so the bits do not depend on that.
 */
#ifndef KERNELS_SCALAR_H
#define KERNELS_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float vec;

static inline vec v_set(float c)
{
    return c;
}
static inline vec v_add(vec a, vec b)
{
    return a + b;
}
static inline vec v_sub(vec a, vec b)
{
    return a - b;
}
static inline vec v_mul(vec a, vec b)
{
    return a * b;
}
static inline vec v_div(vec a, vec b)
{
    return a / b;
}
static inline vec v_fma(vec a, vec b, vec c)
{
    return fmaf(a, b, c);
}
static inline vec v_max(vec a, vec b)
{
    return a > b ? a : b;
}
static inline vec v_min(vec a, vec b)
{
    return a < b ? a : b;
}
static inline vec v_abs(vec a)
{
    return fabsf(a);
}
static inline vec v_copy_sign(vec magnitude, vec sign)
{
    return copysignf(magnitude, sign);
}
static inline vec v_select_less(vec a, vec b, vec yes, vec no)
{
    return a < b ? yes : no;
}

static inline float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The low bits of t are n + 2^22 (see ROUND_TO_INTEGER), with n in [-151, 129]: one power of two may not hold
 * it. */
static inline vec v_scale(vec a, vec t)
{
    uint32_t n = bits_of_float(t) - 0x4b400000u;
    uint32_t half = (n + 0x400u) / 2 - 0x200u;
    return a * float_of_bits((half + 127) << 23) * float_of_bits((n - half + 127) << 23);
}

#include "kernels/polynomial.h"

#endif
