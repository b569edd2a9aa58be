#include "base/clock.h"

#include <unistd.h>

#include "support/check.h"

static void time_goes_on_in_microseconds(void **state)
{
    (void)state;
    uint64_t before = clock_now_us();
    usleep(20000);
    assert_in_range(clock_now_us() - before, 20000, 10000000);
}

static void a_test_may_hold_the_time_and_let_it_go(void **state)
{
    (void)state;
    clock_set_us(7);
    assert_int_equal(clock_now_us(), 7);
    usleep(1000);
    assert_int_equal(clock_now_us(), 7);
    clock_set_us(UINT64_MAX);
    assert_int_not_equal(clock_now_us(), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_goes_on_in_microseconds),
        cmocka_unit_test(a_test_may_hold_the_time_and_let_it_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
