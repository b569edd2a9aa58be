#include "base/huge.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "support/check.h"

static void memory_begins_at_a_huge_page_and_is_zero(void **state)
{
    static const size_t sizes[] = {1, 4096, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 1, 5 * HUGE_PAGE_BYTES + 12345};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *memory = huge_allocate(sizes[i]);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % HUGE_PAGE_BYTES, 0);
        for (size_t at = 0; at < sizes[i]; at += 4096)
            assert_int_equal(memory[at], 0);
        memset(memory, 1, sizes[i]);
        huge_free(memory, sizes[i]);
    }
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    assert_null(huge_allocate(0));
    assert_null(huge_allocate(SIZE_MAX - 100));
    assert_null(huge_malloc(SIZE_MAX - 100));
    huge_free(NULL, 5);
}

static void only_what_is_large_begins_at_a_huge_page(void **state)
{
    (void)state;
    char *small = huge_malloc(100), *large = huge_malloc(2 * HUGE_PAGE_BYTES + 1);
    assert_non_null(small);
    assert_non_null(large);
    assert_int_equal((uintptr_t)small % 64, 0);
    assert_int_equal((uintptr_t)large % HUGE_PAGE_BYTES, 0);
    memset(small, 1, 100);
    memset(large, 1, 2 * HUGE_PAGE_BYTES + 1);
    free(small);
    free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_begins_at_a_huge_page_and_is_zero),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(only_what_is_large_begins_at_a_huge_page),
    };
    return cmocka_run_group_tests_name("huge", tests, NULL, NULL);
}
