#include "formats/dtype.h"

#include <math.h>
#include <stdlib.h>

#include "base/pool.h"
#include "support/check.h"

/* --- an independent account of the formats: values by ldexp, rounding by comparing doubles --- */

static double value_of_f16(unsigned bits)
{
    int exponent = (int)(bits >> 10 & 31);
    double mantissa = bits & 1023;
    double magnitude = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31)
        magnitude = mantissa == 0 ? INFINITY : NAN;
    return bits & 0x8000 ? -magnitude : magnitude;
}

static double value_of_bf16(unsigned bits)
{
    int exponent = (int)(bits >> 7 & 255);
    double mantissa = bits & 127;
    double magnitude = exponent == 0 ? ldexp(mantissa, -133) : ldexp(128 + mantissa, exponent - 134);
    if (exponent == 255)
        magnitude = mantissa == 0 ? INFINITY : NAN;
    return bits & 0x8000 ? -magnitude : magnitude;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

typedef double value_function(unsigned bits);
typedef uint16_t round_function(float value);

/* `value` lies between the neighbours `low` and `low + 1` (patterns of one sign, infinity standing for
   the next power of two): which is nearer, the even one when both are. */
static unsigned nearest(double value, unsigned low, value_function *value_of, unsigned infinity,
                        double beyond)
{
    double below = fabs(value_of(low)), above = low + 1 == infinity ? beyond : fabs(value_of(low + 1));
    double middle = (below + above) / 2, magnitude = fabs(value);
    if (magnitude != middle)
        return magnitude < middle ? low : low + 1;
    return low & 1 ? low + 1 : low;
}

/* Every gap between two neighbours: its ends, its middle, one float beside the middle, and one beside the
 * ends. */
static void check_rounding(round_function *round, value_function *value_of, unsigned infinity, double beyond)
{
    for (unsigned low = 0; low < infinity; low++)
        for (int sign = 0; sign < 2; sign++) {
            double below = value_of(low), above = low + 1 == infinity ? beyond : value_of(low + 1);
            float middle = (float)((below + above) / 2);
            if (isinf(middle))
                middle = float_of(0x7F7FFFFF);
            float tries[] = {(float)below, nextafterf((float)below, INFINITY), nextafterf(middle, 0),
                             middle,       nextafterf(middle, INFINITY),       nextafterf((float)above, 0)};
            for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
                float value = sign ? -tries[i] : tries[i];
                if (isinf(value) || fabs(value) < below || fabs(value) >= above)
                    continue;
                unsigned expected = nearest(value, low, value_of, infinity, beyond) | (sign ? 0x8000 : 0);
                if (round(value) != expected)
                    fail_msg("%a gives %04x, not %04x", (double)value, round(value), expected);
            }
        }
}

static void every_f16_widens_to_its_value(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 65536; bits++) {
        double expected = value_of_f16(bits);
        float found = f16_to_f32((uint16_t)bits);
        if (isnan(expected) ? !isnan(found)
                            : (double)found != expected || !!signbit(found) != (bits >= 0x8000))
            fail_msg("%04x: %a", bits, (double)found);
    }
}

static void every_bf16_widens_to_its_value(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 65536; bits++) {
        double expected = value_of_bf16(bits);
        float found = bf16_to_f32((uint16_t)bits);
        if (isnan(expected) ? !isnan(found)
                            : (double)found != expected || !!signbit(found) != (bits >= 0x8000))
            fail_msg("%04x: %a", bits, (double)found);
    }
}

static void every_narrow_number_survives_widening_and_narrowing(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 65536; bits++) {
        bool f16_is_nan = (bits & 0x7FFF) > 0x7C00, bf16_is_nan = (bits & 0x7FFF) > 0x7F80;
        uint16_t f16 = f32_to_f16(f16_to_f32((uint16_t)bits)),
                 bf16 = f32_to_bf16(bf16_to_f32((uint16_t)bits));
        /* A signalling NaN comes back quiet. */
        assert_int_equal(f16, f16_is_nan ? bits | 0x200 : bits);
        assert_int_equal(bf16, bf16_is_nan ? bits | 0x40 : bits);
    }
}

static void narrowing_to_f16_takes_the_nearest_and_even_of_two(void **state)
{
    (void)state;
    check_rounding(f32_to_f16, value_of_f16, 0x7C00, 65536.0);
}

static void narrowing_to_bf16_takes_the_nearest_and_even_of_two(void **state)
{
    (void)state;
    check_rounding(f32_to_bf16, value_of_bf16, 0x7F80, ldexp(1, 128));
}

static void what_is_too_large_becomes_infinity_and_nan_stays_nan(void **state)
{
    (void)state;
    assert_int_equal(f32_to_f16(65519.0f), 0x7BFF);
    assert_int_equal(f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(f32_to_f16(-1e30f), 0xFC00);
    assert_int_equal(f32_to_f16(float_of(0x7F7FFFFF)), 0x7C00);
    assert_int_equal(f32_to_f16(-INFINITY), 0xFC00);
    assert_int_equal(f32_to_bf16(float_of(0x7F7FFFFF)), 0x7F80);
    assert_int_equal(f32_to_bf16(-INFINITY), 0xFF80);
    /* Payloads in the low bits only, which a plain cut would turn into infinity. */
    for (uint32_t bits = 0x7F800001; bits < 0x7F800001 + 0x20000; bits += 0x1FF) {
        assert_true((f32_to_bf16(float_of(bits)) & 0x7FFF) > 0x7F80);
        assert_true((f32_to_f16(float_of(bits | 0x80000000)) & 0x7FFF) > 0x7C00);
    }
}

static void conversions_do_not_care_whether_denormals_are_flushed(void **state)
{
    static uint32_t before[3][65536];
    (void)state;
    for (unsigned bits = 0; bits < 65536; bits++) {
        before[0][bits] = bits_of(f16_to_f32((uint16_t)bits));
        before[1][bits] = f32_to_f16(float_of(bits << 16 | 0x8001));
        before[2][bits] = f32_to_bf16(float_of(bits << 16 | 0x8001));
    }
    compute_thread_begin();
    for (unsigned bits = 0; bits < 65536; bits++) {
        assert_int_equal(before[0][bits], bits_of(f16_to_f32((uint16_t)bits)));
        assert_int_equal(before[1][bits], f32_to_f16(float_of(bits << 16 | 0x8001)));
        assert_int_equal(before[2][bits], f32_to_bf16(float_of(bits << 16 | 0x8001)));
    }
}

static void arrays_are_converted_from_and_to_any_address(void **state)
{
    static const enum dtype TYPES[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    float from[37], back[37];
    unsigned char narrow[4 * 37 + 4];
    (void)state;
    for (int i = 0; i < 37; i++)
        from[i] = (float)(i - 18) / 4;
    for (size_t t = 0; t < 3; t++)
        for (size_t offset = 0; offset < 4; offset++) {
            memset(narrow, 0xEE, sizeof narrow);
            dtype_from_f32(narrow + offset, TYPES[t], from, 37);
            assert_int_equal(narrow[offset + 37 * dtype_size(TYPES[t])], 0xEE);
            dtype_to_f32(back, narrow + offset, TYPES[t], 37);
            assert_memory_equal(back, from, sizeof from);
            assert_int_equal(dtype_find_not_finite(narrow + offset, TYPES[t], 37), 37);
        }
    dtype_to_f32(NULL, NULL, DTYPE_F32, 0);
    dtype_from_f32(NULL, DTYPE_F32, NULL, 0);
}

static void the_first_number_that_is_not_finite_is_found(void **state)
{
    static const uint16_t F16[] = {0x0000, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00};
    static const uint16_t BF16[] = {0x0000, 0x7F7F, 0x7C00, 0xFF7F, 0x7FC0};
    const float f32[] = {0.0f, float_of(0x7F7FFFFF), float_of(1), -NAN, INFINITY};
    (void)state;
    assert_int_equal(dtype_find_not_finite(F16, DTYPE_F16, 5), 3);
    assert_int_equal(dtype_find_not_finite(F16 + 4, DTYPE_F16, 1), 0);
    assert_int_equal(dtype_find_not_finite(BF16, DTYPE_BF16, 5), 4);
    assert_int_equal(dtype_find_not_finite(f32, DTYPE_F32, 5), 3);
    assert_int_equal(dtype_find_not_finite(f32, DTYPE_F32, 3), 3);
    assert_int_equal(dtype_find_not_finite(f32 + 4, DTYPE_F32, 1), 0);
    assert_int_equal(dtype_find_not_finite(NULL, DTYPE_F32, 0), 0);
    /* Every pattern, against the definition. */
    for (unsigned bits = 0; bits < 65536; bits++) {
        uint16_t narrow = (uint16_t)bits;
        assert_int_equal(dtype_find_not_finite(&narrow, DTYPE_F16, 1), isfinite(value_of_f16(bits)) ? 1 : 0);
        assert_int_equal(dtype_find_not_finite(&narrow, DTYPE_BF16, 1),
                         isfinite(value_of_bf16(bits)) ? 1 : 0);
    }
}

static void names_and_sizes_are_those_of_safetensors(void **state)
{
    static const struct {
        const char *name;
        size_t n_bytes;
        bool is_weight;
    } CASES[] = {
        {"F32", 4, true},  {"F16", 2, true},  {"BF16", 2, true}, {"F64", 8, false},     {"BOOL", 1, false},
        {"U8", 1, false},  {"I8", 1, false},  {"U16", 2, false}, {"I16", 2, false},     {"U32", 4, false},
        {"I32", 4, false}, {"U64", 8, false}, {"I64", 8, false}, {"F8_E4M3", 1, false}, {"F8_E5M2", 1, false},
    };
    enum dtype dtype = DTYPE_F32;
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_true(dtype_from_name(CASES[i].name, &dtype));
        assert_string_equal(dtype_name(dtype), CASES[i].name);
        assert_int_equal(dtype_size(dtype), CASES[i].n_bytes);
        assert_int_equal(dtype_is_weight(dtype), CASES[i].is_weight);
    }
    assert_false(dtype_from_name("f32", &dtype));
    assert_false(dtype_from_name("", &dtype));
    assert_false(dtype_from_name("F4", &dtype));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_widens_to_its_value),
        cmocka_unit_test(every_bf16_widens_to_its_value),
        cmocka_unit_test(every_narrow_number_survives_widening_and_narrowing),
        cmocka_unit_test(narrowing_to_f16_takes_the_nearest_and_even_of_two),
        cmocka_unit_test(narrowing_to_bf16_takes_the_nearest_and_even_of_two),
        cmocka_unit_test(what_is_too_large_becomes_infinity_and_nan_stays_nan),
        cmocka_unit_test(arrays_are_converted_from_and_to_any_address),
        cmocka_unit_test(the_first_number_that_is_not_finite_is_found),
        cmocka_unit_test(names_and_sizes_are_those_of_safetensors),
        /* Last: it leaves denormals flushed. */
        cmocka_unit_test(conversions_do_not_care_whether_denormals_are_flushed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
