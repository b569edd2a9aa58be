#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "model/rope.h"

static void frequencies_fall_from_one_by_powers_of_theta(void **state)
{
    struct model_config config = {.d_head = 8, .rope_theta = 10000};
    float inverse[4];
    (void)state;
    rope_inverse_frequencies(inverse, &config);
    for (size_t i = 0; i < 4; i++)
        assert_float_equal(inverse[i], powf(10, -(float)i), 1e-7 * inverse[i]);
    config.rope_scaling = ROPE_LINEAR;
    config.rope_factor = 4;
    rope_inverse_frequencies(inverse, &config);
    for (size_t i = 0; i < 4; i++)
        assert_float_equal(inverse[i], powf(10, -(float)i) / 4, 1e-7 * inverse[i]);
}

/* The values of Llama 3.1's configuration, computed in double by the published rule. */
static void llama3_keeps_short_waves_and_stretches_long_ones(void **state)
{
    struct model_config config = {.d_head = 128, .rope_theta = 500000, .rope_scaling = ROPE_LLAMA3, .rope_factor = 8,
                                  .rope_low_frequency_factor = 1, .rope_high_frequency_factor = 4,
                                  .rope_original_positions = 8192};
    float inverse[64];
    size_t n_kept = 0, n_stretched = 0;
    (void)state;
    rope_inverse_frequencies(inverse, &config);
    for (size_t i = 0; i < 64; i++) {
        double plain = pow(500000, -2.0 * (double)i / 128), wave = 2 * M_PI / plain, expected;
        if (wave < 8192 / 4.0) {
            expected = plain;
            n_kept++;
        } else if (wave > 8192 / 1.0) {
            expected = plain / 8;
            n_stretched++;
        } else {
            double blend = (8192 / wave - 1) / 3;
            expected = (1 - blend) * plain / 8 + blend * plain;
        }
        assert_float_equal(inverse[i], expected, 1e-5 * expected);
    }
    assert_true(n_kept > 20 && n_stretched > 20 && n_kept + n_stretched < 64);
}

static void an_angle_is_rounded_to_float_before_its_cosine(void **state)
{
    float inverse = 0.1f, cosine, sine;
    size_t position = 1234567;
    (void)state;
    rope_angles(&cosine, &sine, &inverse, 1, position);
    float angle = 1234567.0f * 0.1f;
    assert_float_equal(cosine, (float)cos((double)angle), 0);
    assert_float_equal(sine, (float)sin((double)angle), 0);
    rope_angles(&cosine, &sine, &inverse, 1, 0);
    assert_float_equal(cosine, 1, 0);
    assert_float_equal(sine, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_fall_from_one_by_powers_of_theta),
        cmocka_unit_test(llama3_keeps_short_waves_and_stretches_long_ones),
        cmocka_unit_test(an_angle_is_rounded_to_float_before_its_cosine),
    };
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
