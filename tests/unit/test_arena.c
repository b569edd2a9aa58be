#include "base/arena.h"

#include <string.h>

#include "support/check.h"

static void memory_is_aligned_to_64_and_does_not_overlap(void **state)
{
    struct arena arena;
    unsigned char *blocks[200];
    (void)state;
    arena_init(&arena, 1024);
    for (size_t i = 0; i < 200; i++) {
        blocks[i] = arena_allocate(&arena, i * 7);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 64, 0);
        memset(blocks[i], (int)i, i * 7);
    }
    for (size_t i = 0; i < 200; i++)
        for (size_t j = 0; j < i * 7; j++)
            assert_int_equal(blocks[i][j], i);
    arena_finish(&arena);
}

static void zero_bytes_are_a_place_of_their_own(void **state)
{
    struct arena arena = {0};
    (void)state;
    char *a = arena_allocate(&arena, 0), *b = arena_allocate(&arena, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_not_equal(a, b);
    arena_finish(&arena);
}

static void arrays_are_zeroed_also_in_used_memory(void **state)
{
    struct arena arena;
    (void)state;
    arena_init(&arena, 4096);
    memset(arena_allocate(&arena, 1000), 0xFF, 1000);
    arena_reset(&arena);
    unsigned char *array = arena_allocate_array(&arena, 100, 10);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(array[i], 0);
    arena_finish(&arena);
}

static void sizes_that_do_not_fit_give_null(void **state)
{
    struct arena arena;
    (void)state;
    arena_init(&arena, 4096);
    assert_null(arena_allocate(&arena, SIZE_MAX));
    assert_null(arena_allocate(&arena, SIZE_MAX - 64));
    assert_null(arena_allocate_array(&arena, SIZE_MAX / 2, 3));
    assert_null(arena_copy_text(&arena, "x", SIZE_MAX));
    assert_non_null(arena_allocate(&arena, 8));
    arena_finish(&arena);
}

static void text_is_copied_with_a_nul(void **state)
{
    struct arena arena = {0};
    (void)state;
    assert_string_equal(arena_copy_text(&arena, "hello world", 5), "hello");
    assert_string_equal(arena_copy_text(&arena, NULL, 0), "");
    arena_finish(&arena);
}

/* The same requests after a reset land in the same places: nothing new was asked from malloc. */
static void a_reset_arena_serves_the_same_requests_from_the_same_memory(void **state)
{
    static const size_t SIZES[] = {100, 5000, 64, 3000, 20000, 1, 700, 5000, 300};
    enum { N = sizeof SIZES / sizeof *SIZES };
    struct arena arena;
    void *first[N];
    (void)state;
    arena_init(&arena, 4096);
    for (size_t i = 0; i < N; i++)
        first[i] = arena_allocate(&arena, SIZES[i]);
    for (int round = 0; round < 3; round++) {
        arena_reset(&arena);
        for (size_t i = 0; i < N; i++)
            assert_ptr_equal(arena_allocate(&arena, SIZES[i]), first[i]);
    }
    arena_finish(&arena);
}

static void a_finished_arena_can_be_used_again(void **state)
{
    struct arena arena;
    (void)state;
    arena_init(&arena, 4096);
    arena_reset(&arena);
    arena_allocate(&arena, 10);
    arena_finish(&arena);
    assert_non_null(arena_allocate(&arena, 10));
    arena_finish(&arena);
    arena_finish(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_aligned_to_64_and_does_not_overlap),
        cmocka_unit_test(zero_bytes_are_a_place_of_their_own),
        cmocka_unit_test(arrays_are_zeroed_also_in_used_memory),
        cmocka_unit_test(sizes_that_do_not_fit_give_null),
        cmocka_unit_test(text_is_copied_with_a_nul),
        cmocka_unit_test(a_reset_arena_serves_the_same_requests_from_the_same_memory),
        cmocka_unit_test(a_finished_arena_can_be_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
