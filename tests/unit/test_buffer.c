#include "base/buffer.h"

#include <stdlib.h>
#include <string.h>

#include "support/check.h"

static void a_new_buffer_is_an_empty_text(void **state)
{
    struct buffer buffer;
    (void)state;
    buffer_init(&buffer, 0);
    assert_string_equal(buffer_text(&buffer), "");
    assert_null(buffer.data);
    buffer_finish(&buffer);
}

static void what_is_appended_is_there_and_ends_with_a_nul(void **state)
{
    struct buffer buffer = {0};
    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_true(buffer_printf(&buffer, "%d,", i));
    buffer_append_text(&buffer, "end");
    buffer_append_byte(&buffer, '.');
    buffer_append(&buffer, "\0x", 2);
    assert_memory_equal(buffer.data, "0,1,2,3,", 8);
    assert_memory_equal(buffer.data + buffer.n_bytes - 10, "999,end.\0x", 11);
    buffer_finish(&buffer);
}

static void an_append_over_the_maximum_fails_and_keeps_what_was_there(void **state)
{
    struct buffer buffer;
    (void)state;
    buffer_init(&buffer, 5);
    assert_true(buffer_append_text(&buffer, "12345"));
    assert_true(buffer_append(&buffer, "", 0));
    assert_false(buffer_append_byte(&buffer, '6'));
    assert_true(buffer.failed);
    assert_string_equal(buffer_text(&buffer), "12345");
    buffer_finish(&buffer);
}

static void a_failure_sticks_until_the_buffer_is_cleared(void **state)
{
    struct buffer buffer;
    (void)state;
    buffer_init(&buffer, 5);
    assert_false(buffer_append_text(&buffer, "123456"));
    assert_false(buffer_append_byte(&buffer, '1'));
    assert_false(buffer_printf(&buffer, "%d", 1));
    assert_int_equal(buffer.n_bytes, 0);
    assert_null(buffer_take(&buffer));
    buffer_clear(&buffer);
    assert_true(buffer_append_byte(&buffer, '1'));
    assert_string_equal(buffer_text(&buffer), "1");
    buffer_finish(&buffer);
}

static void a_length_that_wraps_is_a_failure(void **state)
{
    struct buffer buffer = {0};
    (void)state;
    buffer_append_byte(&buffer, 'x');
    assert_false(buffer_append(&buffer, "y", SIZE_MAX));
    assert_string_equal(buffer_text(&buffer), "x");
    buffer_finish(&buffer);
}

static void dropping_the_front_moves_the_rest(void **state)
{
    struct buffer buffer = {0};
    (void)state;
    buffer_drop_front(&buffer, 0);
    buffer_append_text(&buffer, "hello world");
    buffer_drop_front(&buffer, 6);
    assert_string_equal(buffer_text(&buffer), "world");
    buffer_drop_front(&buffer, 5);
    assert_string_equal(buffer_text(&buffer), "");
    buffer_finish(&buffer);
}

static void taking_gives_the_bytes_away_and_leaves_an_empty_buffer(void **state)
{
    struct buffer buffer;
    (void)state;
    buffer_init(&buffer, 10);
    char *empty = buffer_take(&buffer);
    assert_string_equal(empty, "");
    buffer_append_text(&buffer, "mine");
    char *text = buffer_take(&buffer);
    assert_string_equal(text, "mine");
    assert_int_equal(buffer.n_bytes, 0);
    assert_int_equal(buffer.maximum, 10);
    free(text);
    free(empty);
    buffer_finish(&buffer);
}

static void clearing_keeps_the_memory(void **state)
{
    struct buffer buffer = {0};
    (void)state;
    buffer_append_text(&buffer, "some text");
    char *before = buffer.data;
    buffer_clear(&buffer);
    assert_string_equal(buffer_text(&buffer), "");
    buffer_append_text(&buffer, "other");
    assert_ptr_equal(buffer.data, before);
    buffer_finish(&buffer);
    assert_null(buffer.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_buffer_is_an_empty_text),
        cmocka_unit_test(what_is_appended_is_there_and_ends_with_a_nul),
        cmocka_unit_test(an_append_over_the_maximum_fails_and_keeps_what_was_there),
        cmocka_unit_test(a_failure_sticks_until_the_buffer_is_cleared),
        cmocka_unit_test(a_length_that_wraps_is_a_failure),
        cmocka_unit_test(dropping_the_front_moves_the_rest),
        cmocka_unit_test(taking_gives_the_bytes_away_and_leaves_an_empty_buffer),
        cmocka_unit_test(clearing_keeps_the_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
