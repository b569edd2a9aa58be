#include "base/json.h"

#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/limits.h"
#include "support/check.h"
#include "support/scratch.h"

static json_t *parse(const char *text, struct error *err)
{
    return json_parse(text, strlen(text), JSON_PLAIN, "body", err);
}

static json_t *must_parse(const char *text)
{
    struct error err;
    json_t *value = parse(text, &err);
    if (!value)
        fail_msg("%s: %s", text, err.message);
    return value;
}

static void bad_texts_are_refused_with_place_and_reason(void **state)
{
    static const struct {
        const char *text, *message;
    } CASES[] = {
        {"", "body is not valid JSON: line 1, column 1: the text ends too early"},
        {" ", "column 2: the text ends too early"},
        {"{", "column 2: the text ends too early"},
        {"{\"a\":1,\n  \"b\":}", "line 2, column 7: a value was expected"},
        {"[1,2", "column 5: the text ends too early"},
        {"{\"a\":1}x", "column 8: something follows the value"},
        {"[1] [2]", "column 5: something follows the value"},
        {"{\"a\":1,\"b\":2,\"a\":3}", "column 14: duplicate object key"},
        {"{\"x\":{\"a\":1,\"\\u0061\":3}}", "column 13: duplicate object key"},
        {"{\"\":1,\"\":2}", "duplicate object key"},
        {"{\"a\" 1}", "column 6: ':' was expected"},
        {"{\"a\":1 \"b\":2}", "column 8: ',' or '}' was expected"},
        {"{\"a\":1,}", "column 8: a name in quotes was expected"},
        {"{1:2}", "column 2: a name in quotes was expected"},
        {"{'a':1}", "column 2: a name in quotes was expected"},
        {"{\"a", "the text ends too early"},
        {"{\"a\"", "the text ends too early"},
        {"{\"a\":", "the text ends too early"},
        {"{\"a\":1", "the text ends too early"},
        {"[1,]", "column 4: a value was expected"},
        {"[1 2]", "column 4: ',' or ']' was expected"},
        {"[,1]", "column 2: a value was expected"},
        {"]", "column 1: a value was expected"},
        {"[1}", "column 3: ',' or ']' was expected"},
        {"\"\xff\"", "body is not valid UTF-8 (byte 1)"},
        {"\"\xed\xa0\x80\"", "not valid UTF-8"},
        {"\xef\xbb\xbf{}", "column 1: a value was expected"},
        {"\"\\ud800\"", "column 2: a surrogate stands alone"},
        {"\"\\ud800x\"", "a surrogate stands alone"},
        {"\"\\ud800\\n\"", "a surrogate stands alone"},
        {"\"\\udc00\\ud800\"", "a surrogate stands alone"},
        {"\"\\ud800\\u0041\"", "a surrogate stands alone"},
        {"\"\\ud800\\ud800\"", "a surrogate stands alone"},
        {"\"a\\u0000b\"", "column 3: \\u0000 is not allowed"},
        {"{\"a\\u0000\":1}", "\\u0000 is not allowed"},
        {"\"\\u12g4\"", "column 6: four hexadecimal digits were expected"},
        {"\"\\u12", "the text ends too early"},
        {"\"\\x41\"", "column 3: the escape is unknown"},
        {"\"\\", "the text ends too early"},
        {"\"a\\\"", "the text ends too early"},
        {"\"tab\there\"", "column 5: a string must not hold a control character"},
        {"\"line\nbreak\"", "control character"},
        {"\"\x01\"", "control character"},
        {"NaN", "a value was expected"},
        {"[Infinity]", "a value was expected"},
        {"[-Infinity]", "column 3: a digit was expected"},
        {"-", "the text ends too early"},
        {"[1e999]", "column 2: the number is too large"},
        {"[-1e999]", "the number is too large"},
        {"[01]", "column 2: a number must not begin with 0"},
        {"[-01]", "a number must not begin with 0"},
        {"[+1]", "a value was expected"},
        {"[1.]", "column 4: a digit was expected"},
        {"[1.e5]", "a digit was expected"},
        {"[1e]", "a digit was expected"},
        {"[1e+]", "a digit was expected"},
        {"[.5]", "a value was expected"},
        {"[0x10]", "',' or ']' was expected"},
        {"[1_000]", "',' or ']' was expected"},
        {"/* c */ 1", "a value was expected"},
        {"tru", "a value was expected"},
        {"truer", "something follows the value"},
        {"True", "a value was expected"},
        {"nul", "a value was expected"},
        {"\f1", "a value was expected"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct error err;
        assert_null(parse(CASES[i].text, &err));
        assert_error(&err, ERROR_BAD_INPUT, "", CASES[i].message);
    }
}

static void a_nul_byte_in_the_text_is_refused(void **state)
{
    struct error err;
    (void)state;
    assert_null(json_parse("1\0", 2, JSON_PLAIN, "body", &err));
    assert_error(&err, ERROR_BAD_INPUT, "", "something follows the value");
    assert_null(json_parse("1\0{", 3, JSON_PLAIN, "body", &err));
    assert_error(&err, ERROR_BAD_INPUT, "", "something follows the value");
    assert_null(json_parse("\"a\0b\"", 5, JSON_NUL_ALLOWED, "body", &err));
    assert_error(&err, ERROR_BAD_INPUT, "", "control character");
    assert_null(json_parse(NULL, 0, JSON_PLAIN, "body", &err));
    assert_int_equal(err.code, ERROR_BAD_INPUT);
}

static void nul_escapes_are_allowed_where_asked(void **state)
{
    struct error err;
    (void)state;
    json_t *value = json_parse("\"a\\u0000b\"", 10, JSON_NUL_ALLOWED, "vocab", &err);
    assert_non_null(value);
    assert_int_equal(json_string_length(value), 3);
    json_decref(value);
    value = json_parse("{\"\\u0000\":1,\"\\u0000\\u0000\":2}", 29, JSON_NUL_ALLOWED, "vocab", &err);
    assert_non_null(value);
    assert_int_equal(json_integer_value(json_object_getn(value, "\0\0", 2)), 2);
    assert_int_equal(json_integer_value(json_object_getn(value, "\0", 1)), 1);
    json_decref(value);
}

static void escapes_are_undone(void **state)
{
    (void)state;
    json_t *value = must_parse(
        "{\"a\\tb\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\uD83D\\uDE00\\u20ac \xc3\xa4\",\"n\":\"\\u0041\"}");
    assert_string_equal(json_string_value(json_object_get(value, "a\tb")),
                        "\"\\/\b\f\n\r\t\xc3\xa4\xf0\x9f\x98\x80\xe2\x82\xac \xc3\xa4");
    assert_string_equal(json_string_value(json_object_get(value, "n")), "A");
    json_decref(value);
}

/* Whatever jansson's own parser takes, we take for the same value, and the reverse; the texts of the
   differences that we want are elsewhere. */
static void good_texts_mean_what_jansson_says(void **state)
{
    static const char *const TEXTS[] = {
        "0",
        "-0",
        "-0.0",
        "1",
        "-1",
        "1.5e3",
        "1E-5",
        "1e+2",
        "0.1",
        "123456789.123456789e-300",
        "5e-324",
        "1e-400",
        "true",
        "false",
        "null",
        "\"\"",
        "[]",
        "{}",
        " [ ] ",
        "\t{\n}\r\n",
        "[[],[[]],{}]",
        "{\"a\":{\"b\":[1,{\"c\":null}]}}",
        "[1,2,3]",
        "\"\xf0\x9f\x98\x80\"",
        "\"\\u007f\x7f\"",
        "{\"\":\"\"}",
        "[1.7976931348623157e308,2.2250738585072014e-308]",
        "[0.30000000000000004,9007199254740993,9223372036854775807,-9223372036854775808]",
    };
    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        json_t *ours = must_parse(TEXTS[i]);
        json_t *theirs = json_loads(TEXTS[i], JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
        assert_non_null(theirs);
        if (!json_equal(ours, theirs))
            fail_msg("%s", TEXTS[i]);
        json_decref(ours);
        json_decref(theirs);
    }
}

static void a_number_has_a_maximum_length(void **state)
{
    char text[1100];
    struct error err;
    (void)state;
    memset(text, '0', sizeof text);
    memcpy(text, "0.", 2);
    json_t *value = json_parse(text, 1024, JSON_PLAIN, "body", &err);
    assert_non_null(value);
    json_decref(value);
    assert_null(json_parse(text, 1025, JSON_PLAIN, "body", &err));
    assert_error(&err, ERROR_BAD_INPUT, "", "the number is too long");
}

static json_t *parse_nested(size_t depth, const char *open, const char *close, struct error *err)
{
    struct buffer text = {0};
    /* Padding, so that the number of containers is not what is refused. */
    for (size_t i = 0; i < depth * 8; i++)
        buffer_append_byte(&text, ' ');
    for (size_t i = 0; i < depth; i++)
        buffer_append_text(&text, open);
    buffer_append_text(&text, "1");
    for (size_t i = 0; i < depth; i++)
        buffer_append_text(&text, close);
    json_t *value = json_parse(text.data, text.n_bytes, JSON_PLAIN, "body", err);
    buffer_finish(&text);
    return value;
}

static void nesting_is_limited(void **state)
{
    static const size_t DEPTHS[] = {1, LIMIT_JSON_DEPTH, LIMIT_JSON_DEPTH + 1, 2048, 100000};
    struct error err;
    (void)state;
    for (size_t i = 0; i < 5; i++)
        for (int of_objects = 0; of_objects < 2; of_objects++) {
            json_t *value =
                parse_nested(DEPTHS[i], of_objects ? "{\"a\":" : "[", of_objects ? "}" : "]", &err);
            assert_int_equal(value != NULL, DEPTHS[i] <= LIMIT_JSON_DEPTH);
            if (!value)
                assert_error(&err, ERROR_BAD_INPUT, "", "nested too deeply");
            json_decref(value);
        }
    /* Beside each other is not within each other. */
    json_t *value = must_parse("[[1],[2],[3],{\"a\":[]},[[]]]");
    json_decref(value);
}

static void brackets_in_strings_do_not_nest(void **state)
{
    char text[500] = "[\"";
    (void)state;
    memset(text + 2, '[', 200);
    strcpy(text + 202, "\\\"[[{{\", \"\\\\\", [[]]]");
    json_t *value = must_parse(text);
    assert_int_equal(json_array_size(value), 3);
    json_decref(value);
}

/* "{}" costs jansson 200 bytes; a few megabytes of them would take the machine's memory. */
static void a_crowd_of_empty_objects_is_refused(void **state)
{
    enum { N = 400000 };
    char *text = malloc(3 * N + 2);
    struct error err;
    (void)state;
    text[0] = '[';
    for (size_t i = 0; i < N; i++)
        memcpy(text + 1 + 3 * i, "{},", 3);
    text[3 * N] = ']';
    assert_null(json_parse(text, 3 * N + 1, JSON_PLAIN, "body", &err));
    assert_error(&err, ERROR_BAD_INPUT, "", "too many objects and arrays");
    free(text);
}

static void integers_beyond_64_bits_become_reals(void **state)
{
    static const struct {
        const char *text;
        bool is_integer;
        double value;
    } CASES[] = {
        {"9223372036854775807", true, 9223372036854775807.0},
        {"-9223372036854775808", true, -9223372036854775808.0},
        {"9223372036854775808", false, 9223372036854775808.0},
        {"-9223372036854775809", false, -9223372036854775808.0},
        {"1000000000000000019884624838656", false, 1e30},
        {"18446744073709551616", false, 18446744073709551616.0},
        {"123456789012345678901234567890.5", false, 123456789012345678901234567890.5},
        {"12345678901234567890e2", false, 1234567890123456789000.0},
    };
    char text[200];
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        snprintf(text, sizeof text, "{\"a\":%s,\"b\":[%s],\"s\":\"%s\"}", CASES[i].text, CASES[i].text,
                 CASES[i].text);
        json_t *value = must_parse(text);
        const json_t *a = json_object_get(value, "a");
        assert_int_equal(json_is_integer(a), CASES[i].is_integer);
        assert_true(json_number_value(a) == CASES[i].value);
        assert_string_equal(json_string_value(json_object_get(value, "s")), CASES[i].text);
        json_decref(value);
    }
}

static void numbers_do_not_depend_on_the_locale(void **state)
{
    double number = 0;
    struct error err;
    (void)state;
    const char *found = setlocale(LC_ALL, "de_DE.UTF-8");
    json_t *value = must_parse("{\"x\":1.5}");
    assert_ok(json_get_number(value, "x", -INFINITY, INFINITY, &number, &err), &err);
    assert_true(number == 1.5);
    json_decref(value);
    setlocale(LC_ALL, "C");
    if (!found)
        skip(); /* this machine has no locale with a decimal comma */
}

static void members_are_walked_in_the_order_of_the_text(void **state)
{
    char text[4000] = "{", expected[32];
    const char *key;
    json_t *value;
    int n = 0;
    (void)state;
    for (int i = 0; i < 200; i++)
        sprintf(text + strlen(text), "%s\"k%d\":%d", i ? "," : "", i * 7919 % 200, i);
    strcat(text, "}");
    json_t *object = must_parse(text);
    JSON_FOR_EACH (object, key, value) {
        sprintf(expected, "k%d", n * 7919 % 200);
        assert_string_equal(key, expected);
        n++;
    }
    assert_int_equal(n, 200);
    json_decref(object);
}

static void a_text_that_is_no_object_is_refused_where_one_is_needed(void **state)
{
    static const char *const CASES[][2] = {{"[]", "an array"},
                                           {"1.5", "the number 1.5"},
                                           {"null", "null"},
                                           {"\"x\"", "the string \"x\""},
                                           {"true", "true"}};
    struct error err;
    char message[100];
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        assert_null(json_parse_object(CASES[i][0], strlen(CASES[i][0]), JSON_PLAIN, "body", &err));
        snprintf(message, sizeof message, "body must be an object, but is %s", CASES[i][1]);
        assert_error(&err, ERROR_BAD_INPUT, "", message);
    }
}

static void a_file_is_read_and_parsed(void **state)
{
    char *folder = scratch_create(), *path = path_join(folder, "c.json");
    struct error err;
    (void)state;
    assert_null(json_read_file(path, 100, JSON_PLAIN, "c.json", &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
    scratch_write_text(folder, "c.json", "{\"a\":1}");
    json_t *value = json_read_file(path, 100, JSON_PLAIN, "c.json", &err);
    assert_non_null(value);
    json_decref(value);
    assert_null(json_read_file(path, 3, JSON_PLAIN, "c.json", &err));
    assert_int_equal(err.code, ERROR_TOO_LARGE);
    scratch_write_text(folder, "c.json", "{\"a\":}");
    assert_null(json_read_file(path, 100, JSON_PLAIN, "c.json", &err));
    assert_error(&err, ERROR_BAD_INPUT, "", "c.json is not valid JSON: line 1, column 6");
    free(path);
    scratch_remove(folder);
}

/* --- getters --- */

/* The JSON of one member "k", the getter, and what it must say. */
static void integers_are_taken_in_range_and_named_when_not(void **state)
{
    static const struct {
        const char *text;
        int64_t value;
        const char *message; /* NULL: taken */
    } CASES[] = {
        {"5", 5, NULL},
        {"-3", -3, NULL},
        {"10", 10, NULL},
        {"8.0", 8, NULL},
        {"1e1", 10, NULL},
        {"null", 77, NULL},
        {"11", 0, "'k' must be an integer from -3 to 10, but is the number 11"},
        {"-4", 0, "but is the number -4"},
        {"1.5", 0, "but is the number 1.5"},
        {"1e300", 0, "but is the number 1e+300"},
        {"9007199254740993.0", 0, "but is the number"},
        {"9223372036854775807", 0, "but is the number 9223372036854775807"},
        {"18446744073709551617", 0, "but is the number"},
        {"\"5\"", 0, "but is the string \"5\""},
        {"true", 0, "but is true"},
        {"[5]", 0, "but is an array"},
        {"{}", 0, "but is an object"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char text[100];
        int64_t value = 77;
        struct error err;
        snprintf(text, sizeof text, "{\"k\":%s}", CASES[i].text);
        json_t *object = must_parse(text);
        if (CASES[i].message) {
            assert_false(json_get_int(object, "k", -3, 10, &value, &err));
            assert_error(&err, ERROR_BAD_INPUT, "k", CASES[i].message);
            assert_int_equal(value, 77);
        } else {
            assert_ok(json_get_int(object, "k", -3, 10, &value, &err), &err);
            assert_int_equal(value, CASES[i].value);
        }
        json_decref(object);
    }
}

static void a_real_is_an_integer_while_it_is_exact(void **state)
{
    static const struct {
        const char *text;
        bool is_integer;
        int64_t value;
    } CASES[] = {
        {"9007199254740992.0", true, 9007199254740992},
        {"-9007199254740992.0", true, -9007199254740992},
        {"9007199254740994.0", false, 0},
        {"-1e16", false, 0},
        {"0.5", false, 0},
        {"-0.0", true, 0},
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775808", false, 0},
        {"\"1\"", false, 0},
        {"true", false, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        int64_t value = 77;
        json_t *json = must_parse(CASES[i].text);
        assert_int_equal(json_to_int(json, &value), CASES[i].is_integer);
        assert_true(value == (CASES[i].is_integer ? CASES[i].value : 77));
        json_decref(json);
    }
}

static void sizes_may_be_required(void **state)
{
    json_t *object = must_parse("{\"k\":4,\"n\":null}");
    size_t value = 77;
    struct error err;
    (void)state;
    assert_ok(json_require_size(object, "k", 0, 10, &value, &err), &err);
    assert_int_equal(value, 4);
    assert_ok(json_get_size(object, "none", 0, 10, &value, &err), &err);
    assert_ok(json_get_size(object, "n", 0, 10, &value, &err), &err);
    assert_int_equal(value, 4);
    assert_false(json_require_size(object, "none", 1, 10, &value, &err));
    assert_error(&err, ERROR_BAD_INPUT, "none", "'none' is missing; it must be an integer from 1 to 10");
    assert_false(json_require_size(object, "n", 1, 10, &value, &err));
    assert_error(&err, ERROR_BAD_INPUT, "n", "is missing");
    assert_false(json_require_size(object, "k", 5, INT64_MAX, &value, &err));
    assert_error(&err, ERROR_BAD_INPUT, "k", "from 5 to 9223372036854775807");
    assert_int_equal(value, 4);
    json_decref(object);
}

static void other_types_are_taken_or_named(void **state)
{
    json_t *object = must_parse("{\"b\":true,\"s\":\"text\",\"o\":{},\"a\":[],\"n\":2,\"z\":null,"
                                "\"long\":\"0123456789012345678901234567890123456789012345\"}");
    bool flag = false;
    const char *string = "unset";
    const json_t *value = NULL;
    double number = 7;
    struct error err;
    (void)state;
    assert_ok(json_get_bool(object, "b", &flag, &err), &err);
    assert_true(flag);
    assert_ok(json_get_string(object, "none", &string, &err), &err);
    assert_string_equal(string, "unset");
    assert_ok(json_get_string(object, "s", &string, &err), &err);
    assert_string_equal(string, "text");
    assert_ok(json_get_object(object, "o", &value, &err), &err);
    assert_true(json_is_object(value));
    assert_ok(json_get_array(object, "a", &value, &err), &err);
    assert_true(json_is_array(value));
    assert_ok(json_get_number(object, "n", 0, 2, &number, &err), &err);
    assert_true(number == 2);
    assert_ok(json_get_number(object, "z", 0, 2, &number, &err), &err);

    assert_false(json_get_bool(object, "n", &flag, &err));
    assert_error(&err, ERROR_BAD_INPUT, "n", "'n' must be true or false, but is the number 2");
    assert_false(json_get_string(object, "b", &string, &err));
    assert_error(&err, ERROR_BAD_INPUT, "b", "'b' must be a string, but is true");
    assert_false(json_require_string(object, "z", &string, &err));
    assert_error(&err, ERROR_BAD_INPUT, "z", "'z' is missing; it must be a string");
    assert_false(json_get_object(object, "a", &value, &err));
    assert_error(&err, ERROR_BAD_INPUT, "a", "'a' must be an object, but is an array");
    assert_false(json_get_array(object, "o", &value, &err));
    assert_error(&err, ERROR_BAD_INPUT, "o", "'o' must be an array, but is an object");
    assert_false(json_get_number(object, "n", -INFINITY, 1, &number, &err));
    assert_false(json_get_number(object, "n", 0, 1.5, &number, &err));
    assert_error(&err, ERROR_BAD_INPUT, "n", "'n' must be a number from 0 to 1.5, but is the number 2");
    assert_false(json_get_number(object, "s", -INFINITY, INFINITY, &number, &err));
    assert_error(&err, ERROR_BAD_INPUT, "s", "'s' must be a number, but is the string \"text\"");
    assert_false(json_get_bool(object, "long", &flag, &err));
    assert_error(&err, ERROR_BAD_INPUT, "long", "the string \"0123456789012345678901234567890123456789...\"");
    assert_true(json_is_absent(object, "z") && json_is_absent(object, "none") &&
                !json_is_absent(object, "n"));
    json_decref(object);
}

static void unknown_members_are_named(void **state)
{
    static const char *const KNOWN[] = {"a", "b", NULL};
    struct error err;
    (void)state;
    json_t *object = must_parse("{\"b\":1,\"a\":1}");
    assert_ok(json_check_known(object, KNOWN, &err), &err);
    json_decref(object);
    object = must_parse("{\"a\":1,\"temprature\":1,\"zzz\":1}");
    assert_false(json_check_known(object, KNOWN, &err));
    assert_error(&err, ERROR_BAD_INPUT, "temprature", "'temprature' is an unknown field");
    json_decref(object);
}

/* --- threads --- */

static void *parse_often(void *argument)
{
    (void)argument;
    for (int i = 0; i < 200; i++)
        json_decref(must_parse("{\"a\":{\"b\":[1,2.5,\"x\"]},\"c\":12345678901234567890123}"));
    return NULL;
}

static void several_threads_may_parse(void **state)
{
    pthread_t threads[4];
    (void)state;
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, parse_often, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_threads_may_parse), /* first, so that the seed is made by racing threads */
        cmocka_unit_test(bad_texts_are_refused_with_place_and_reason),
        cmocka_unit_test(a_nul_byte_in_the_text_is_refused),
        cmocka_unit_test(nul_escapes_are_allowed_where_asked),
        cmocka_unit_test(escapes_are_undone),
        cmocka_unit_test(good_texts_mean_what_jansson_says),
        cmocka_unit_test(a_number_has_a_maximum_length),
        cmocka_unit_test(nesting_is_limited),
        cmocka_unit_test(brackets_in_strings_do_not_nest),
        cmocka_unit_test(a_crowd_of_empty_objects_is_refused),
        cmocka_unit_test(integers_beyond_64_bits_become_reals),
        cmocka_unit_test(numbers_do_not_depend_on_the_locale),
        cmocka_unit_test(members_are_walked_in_the_order_of_the_text),
        cmocka_unit_test(a_text_that_is_no_object_is_refused_where_one_is_needed),
        cmocka_unit_test(a_file_is_read_and_parsed),
        cmocka_unit_test(integers_are_taken_in_range_and_named_when_not),
        cmocka_unit_test(a_real_is_an_integer_while_it_is_exact),
        cmocka_unit_test(sizes_may_be_required),
        cmocka_unit_test(other_types_are_taken_or_named),
        cmocka_unit_test(unknown_members_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
