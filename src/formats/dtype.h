/*
 * dtype.h - element types of tensors and their conversions.
 */
#ifndef FORMATS_DTYPE_H
#define FORMATS_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    /* The rest is known by name and size only: we neither serve nor convert it. */
    DTYPE_F64, DTYPE_BOOL, DTYPE_U8, DTYPE_I8, DTYPE_U16, DTYPE_I16, DTYPE_U32, DTYPE_I32, DTYPE_U64, DTYPE_I64,
    DTYPE_F8_E4M3, DTYPE_F8_E5M2
};

/* By the safetensors name ("F32", "BF16", ...). False: unknown. */
bool dtype_from_name(const char *name, enum dtype *out);
const char *dtype_name(enum dtype dtype);
size_t dtype_size(enum dtype dtype); /* bytes of one element */
static inline bool dtype_is_weight(enum dtype dtype)
{
    return dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16;
}

static inline float bf16_to_f32(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}
uint16_t f32_to_bf16(float value); /* nearest even; NaN stays NaN */
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);  /* nearest even; overflow gives infinity */

/* `n` elements at `from` (any alignment) as floats. `dtype` is one of the three weights. */
void dtype_to_f32(float *out, const void *from, enum dtype dtype, size_t n);
void dtype_from_f32(void *out, enum dtype dtype, const float *from, size_t n);

/* Index of the first NaN or infinity, `n` when all are finite. */
size_t dtype_find_not_finite(const void *data, enum dtype dtype, size_t n);

#endif
