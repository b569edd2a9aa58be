#include "kernels/peak.h"

#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "support/check.h"

static void every_processor_has_a_loop_of_each_kind_that_it_can_run(void **state)
{
    unsigned features = cpu_detect_features();
    bool is_widened;
    (void)state;
    for (unsigned subset = features;; subset = (subset - 1) & features) {
        for (int kind = 0; kind < N_PEAK_KINDS; kind++) {
            const struct peak_loop *loop = peak_choose((enum peak_kind)kind, subset, &is_widened);
            assert_int_equal(loop->needs & ~subset, 0);
            assert_true(loop->n_operations > 0 && *loop->name);
            loop->run(0);
            loop->run(1000);
        }
        if (subset == 0)
            break;
    }
}

static void without_an_instruction_of_its_own_a_kind_is_widened_to_f32(void **state)
{
    bool is_widened;
    (void)state;
    const struct peak_loop *f32 = peak_choose(PEAK_F32, 0, &is_widened);
    assert_false(is_widened);
    assert_ptr_equal(peak_choose(PEAK_BF16, 0, &is_widened), f32);
    assert_true(is_widened);
    assert_ptr_equal(peak_choose(PEAK_INT8, 0, &is_widened), f32);
    assert_true(is_widened);
}

static void the_reader_sees_every_byte(void **state)
{
    enum { N = 4 * 64 * 5 };
    unsigned char *bytes = aligned_alloc(64, N);
    (void)state;
    memset(bytes, 0, N);
    for (size_t n_streams = 1; n_streams <= 4; n_streams += 3) {
        assert_int_equal(peak_read(bytes, N, n_streams), 0);
        for (size_t i = 0; i < N; i++) {
            bytes[i] = 1;
            assert_int_not_equal(peak_read(bytes, N, n_streams), 0);
            bytes[i] = 0;
        }
    }
    peak_touch(bytes, N);
    assert_int_equal(bytes[0], 1);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_processor_has_a_loop_of_each_kind_that_it_can_run),
        cmocka_unit_test(without_an_instruction_of_its_own_a_kind_is_widened_to_f32),
        cmocka_unit_test(the_reader_sees_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
