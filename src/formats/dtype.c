/*
 * dtype.c - conversions on bit patterns only, so that they do not depend on whether the calling
 * thread flushes denormals.
 */
#include "formats/dtype.h"

#include <assert.h>

static const struct {
    const char *name;
    size_t n_bytes;
} DTYPES[] = {
    [DTYPE_F32] = {"F32", 4}, [DTYPE_F16] = {"F16", 2},         [DTYPE_BF16] = {"BF16", 2},
    [DTYPE_F64] = {"F64", 8}, [DTYPE_BOOL] = {"BOOL", 1},       [DTYPE_U8] = {"U8", 1},
    [DTYPE_I8] = {"I8", 1},   [DTYPE_U16] = {"U16", 2},         [DTYPE_I16] = {"I16", 2},
    [DTYPE_U32] = {"U32", 4}, [DTYPE_I32] = {"I32", 4},         [DTYPE_U64] = {"U64", 8},
    [DTYPE_I64] = {"I64", 8}, [DTYPE_F8_E4M3] = {"F8_E4M3", 1}, [DTYPE_F8_E5M2] = {"F8_E5M2", 1},
};

enum { N_DTYPES = sizeof DTYPES / sizeof *DTYPES };

bool dtype_from_name(const char *name, enum dtype *out)
{
    for (size_t i = 0; i < N_DTYPES; i++)
        if (strcmp(DTYPES[i].name, name) == 0) {
            *out = (enum dtype)i;
            return true;
        }
    return false;
}

const char *dtype_name(enum dtype dtype)
{
    return DTYPES[dtype].name;
}

size_t dtype_size(enum dtype dtype)
{
    return DTYPES[dtype].n_bytes;
}

static uint32_t f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Drops the last `n_bits`, to nearest, ties to even. The carry may run into the exponent, which is
   right: the next power of two, and infinity after the largest. */
static uint32_t round_off(uint32_t value, unsigned n_bits)
{
    uint32_t is_odd = value >> n_bits & 1;
    return (value + (((uint32_t)1 << (n_bits - 1)) - 1) + is_odd) >> n_bits;
}

uint16_t f32_to_bf16(float value)
{
    uint32_t bits = f32_bits(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(bits >> 16 | 0x40); /* quiet, so that the mantissa cannot become that of infinity */
    return (uint16_t)round_off(bits, 16);
}

float f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    uint32_t exponent = bits >> 10 & 0x1F, mantissa = bits & 0x3FF;

    if (exponent == 0x1F)
        return f32_from_bits(sign | 0x7F800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
    if (exponent > 0)
        return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    if (mantissa == 0)
        return f32_from_bits(sign);
    /* Subnormal: mantissa * 2^-24. Shift the leading one to where it is implied. */
    unsigned shift = (unsigned)__builtin_clz(mantissa) - 21;
    return f32_from_bits(sign | (113 - shift) << 23 | (mantissa << shift & 0x3FF) << 13);
}

uint16_t f32_to_f16(float value)
{
    uint32_t bits = f32_bits(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t magnitude = bits & 0x7FFFFFFF;
    const uint32_t INFINITE = 0x7F800000, LEAST_NORMAL = (uint32_t)113 << 23,
                   HALF_LEAST = (uint32_t)102 << 23;

    if (magnitude > INFINITE)
        return (uint16_t)(sign | 0x7E00 | (magnitude >> 13 & 0x3FF));
    if (magnitude >= LEAST_NORMAL) {
        uint32_t half = round_off(magnitude - ((uint32_t)112 << 23), 13);
        return (uint16_t)(sign | (half < 0x7C00 ? half : 0x7C00));
    }
    if (magnitude <= HALF_LEAST) /* up to half of the least subnormal, 2^-25, a tie that goes to zero */
        return sign;
    /* Subnormal: the mantissa with its leading one, in units of 2^-24. */
    unsigned exponent = magnitude >> 23;
    return (uint16_t)(sign | round_off((magnitude & 0x7FFFFF) | 0x800000, 126 - exponent));
}

static uint16_t load16(const unsigned char *from)
{
    uint16_t bits;
    memcpy(&bits, from, sizeof bits);
    return bits;
}

static uint32_t load32(const unsigned char *from)
{
    uint32_t bits;
    memcpy(&bits, from, sizeof bits);
    return bits;
}

void dtype_to_f32(float *out, const void *from, enum dtype dtype, size_t n)
{
    const unsigned char *bytes = from;
    assert(dtype_is_weight(dtype));
    if (dtype == DTYPE_F32 && n > 0)
        memcpy(out, from, n * sizeof *out);
    else if (dtype == DTYPE_BF16)
        for (size_t i = 0; i < n; i++)
            out[i] = bf16_to_f32(load16(bytes + 2 * i));
    else if (dtype == DTYPE_F16)
        for (size_t i = 0; i < n; i++)
            out[i] = f16_to_f32(load16(bytes + 2 * i));
}

/* f32_to_bf16 without a branch, so that the compiler makes vectors of it. */
static void round_to_bf16(unsigned char *out, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = f32_bits(from[i]), is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
        uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
        uint16_t half = (uint16_t)(is_nan ? bits >> 16 | 0x40 : rounded);
        memcpy(out + 2 * i, &half, sizeof half);
    }
}

void dtype_from_f32(void *out, enum dtype dtype, const float *from, size_t n)
{
    unsigned char *bytes = out;
    assert(dtype_is_weight(dtype));
    if (dtype == DTYPE_F32) {
        if (n > 0)
            memcpy(out, from, n * sizeof *from);
        return;
    }
    if (dtype == DTYPE_BF16)
        round_to_bf16(bytes, from, n);
    for (size_t i = 0; dtype == DTYPE_F16 && i < n; i++) {
        uint16_t bits = f32_to_f16(from[i]);
        memcpy(bytes + 2 * i, &bits, sizeof bits);
    }
}

/* NaN and infinity are the numbers whose exponent is all ones. */
static bool has_not_finite_16(const unsigned char *bytes, uint32_t exponent, size_t n)
{
    uint32_t n_found = 0;
    for (size_t i = 0; i < n; i++)
        n_found |= (load16(bytes + 2 * i) & exponent) == exponent;
    return n_found != 0;
}

static bool has_not_finite_32(const unsigned char *bytes, size_t n)
{
    uint32_t n_found = 0;
    for (size_t i = 0; i < n; i++)
        n_found |= (load32(bytes + 4 * i) & 0x7F800000) == 0x7F800000;
    return n_found != 0;
}

/* Block by block without leaving early, which is many times faster than looking at one after the other; then where in the block. */
size_t dtype_find_not_finite(const void *data, enum dtype dtype, size_t n)
{
    enum { BLOCK = 4096 };
    const unsigned char *bytes = data;
    assert(dtype_is_weight(dtype));
    uint32_t exponent = dtype == DTYPE_F16 ? 0x7C00 : 0x7F80;
    size_t first = 0;
    while (n - first > BLOCK &&
           !(dtype == DTYPE_F32 ? has_not_finite_32(bytes + 4 * first, BLOCK)
                                : has_not_finite_16(bytes + 2 * first, exponent, BLOCK)))
        first += BLOCK;
    for (size_t i = first; i < n; i++) {
        uint32_t bits = dtype == DTYPE_F32 ? load32(bytes + 4 * i) >> 16 : load16(bytes + 2 * i);
        if ((bits & exponent) == exponent)
            return i;
    }
    return n;
}
