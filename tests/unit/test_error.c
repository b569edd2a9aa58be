#include "base/error.h"

#include <errno.h>
#include <string.h>

#include "support/check.h"

static void setting_an_error_returns_false_and_fills_all_fields(void **state)
{
    struct error err = {0};
    (void)state;
    assert_false(error_set(&err, ERROR_TOO_LARGE, "rank", "has %d, at most %d", 9, 8));
    assert_int_equal(err.code, ERROR_TOO_LARGE);
    assert_string_equal(err.param, "rank");
    assert_string_equal(err.message, "has 9, at most 8");
}

static void nobody_has_to_want_the_error(void **state)
{
    (void)state;
    assert_false(error_set(NULL, ERROR_IO, "x", "y"));
    assert_false(error_no_memory(NULL));
    assert_false(error_io(NULL, "cannot open", "p", ENOENT));
    error_prefix(NULL, "x");
    error_prefix_param(NULL, "x");
}

static void a_missing_param_is_an_empty_one(void **state)
{
    struct error err;
    (void)state;
    memset(&err, 'x', sizeof err);
    error_set(&err, ERROR_IO, NULL, "text");
    assert_string_equal(err.param, "");
}

static void a_prefix_keeps_code_and_param(void **state)
{
    struct error err;
    (void)state;
    error_set(&err, ERROR_MISMATCH, "r", "is 0");
    error_prefix(&err, "adapter '%s'", "poet");
    assert_int_equal(err.code, ERROR_MISMATCH);
    assert_string_equal(err.param, "r");
    assert_string_equal(err.message, "adapter 'poet': is 0");
}

static void a_param_is_prefixed_only_when_there_is_one(void **state)
{
    struct error err;
    (void)state;
    error_set(&err, ERROR_BAD_INPUT, "factor", "x");
    error_prefix_param(&err, "rope_scaling");
    assert_string_equal(err.param, "rope_scaling.factor");
    error_set(&err, ERROR_BAD_INPUT, NULL, "x");
    error_prefix_param(&err, "rope_scaling");
    assert_string_equal(err.param, "");
}

static void bytes_that_cannot_be_printed_become_question_marks(void **state)
{
    struct error err;
    (void)state;
    error_set(&err, ERROR_BAD_INPUT, "a\nb", "<%s>", "\x1b[31m\xff\xc3\xa4\xe2\x82\x7f\xc2\x85");
    assert_string_equal(err.param, "a?b");
    assert_string_equal(err.message, "<?[31m?\xc3\xa4"
                                     "?"
                                     "?"
                                     "?>");
}

static void a_long_message_is_cut_between_characters(void **state)
{
    struct error err;
    char text[2000];
    (void)state;
    for (size_t offset = 0; offset < 4; offset++) {
        memset(text, 'a', offset);
        for (size_t i = offset; i + 4 < sizeof text; i += 4)
            memcpy(text + i, "\xf0\x9f\x98\x80", 5);
        error_set(&err, ERROR_BAD_INPUT, text, "%s", text);
        size_t length = strlen(err.message);
        assert_in_range(length, sizeof err.message - 4, sizeof err.message - 1);
        assert_int_equal((length - offset) % 4, 0);
        assert_null(strchr(err.message, '?'));
        assert_null(strchr(err.param, '?'));
        error_prefix(&err, "%s", "prefix");
        assert_memory_equal(err.message, "prefix: ", 8);
        assert_null(strchr(err.message, '?'));
    }
}

static void an_error_may_be_made_from_its_own_message(void **state)
{
    struct error err;
    (void)state;
    error_set(&err, ERROR_IO, "p", "inner");
    error_set(&err, ERROR_INTERNAL, err.param, "outer (%s)", err.message);
    assert_string_equal(err.message, "outer (inner)");
    assert_string_equal(err.param, "p");
}

static void a_missing_file_is_not_found_and_others_are_io(void **state)
{
    struct error err;
    (void)state;
    error_io(&err, "cannot open", "/x/y", ENOENT);
    assert_int_equal(err.code, ERROR_NOT_FOUND);
    assert_string_equal(err.message, "cannot open '/x/y': No such file or directory");
    error_io(&err, "cannot open", "/x/y", EACCES);
    assert_int_equal(err.code, ERROR_IO);
}

static void every_code_has_a_name_of_its_own(void **state)
{
    (void)state;
    for (int a = ERROR_NONE; a <= ERROR_CANCELLED; a++)
        for (int b = a + 1; b <= ERROR_CANCELLED; b++)
            assert_string_not_equal(error_code_name((enum error_code)a), error_code_name((enum error_code)b));
    assert_string_equal(error_code_name(ERROR_BAD_INPUT), "bad_input");
    assert_string_equal(error_code_name((enum error_code)99), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(setting_an_error_returns_false_and_fills_all_fields),
        cmocka_unit_test(nobody_has_to_want_the_error),
        cmocka_unit_test(a_missing_param_is_an_empty_one),
        cmocka_unit_test(a_prefix_keeps_code_and_param),
        cmocka_unit_test(a_param_is_prefixed_only_when_there_is_one),
        cmocka_unit_test(bytes_that_cannot_be_printed_become_question_marks),
        cmocka_unit_test(a_long_message_is_cut_between_characters),
        cmocka_unit_test(an_error_may_be_made_from_its_own_message),
        cmocka_unit_test(a_missing_file_is_not_found_and_others_are_io),
        cmocka_unit_test(every_code_has_a_name_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
