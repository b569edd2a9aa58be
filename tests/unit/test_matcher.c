#include "text/matcher.h"

#include <stdlib.h>

#include "support/check.h"

enum { N_STRINGS = 6, LONGEST = 6, N_TEXT = 40 };

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 16;
}

static size_t random_string(uint32_t *state, char *out, size_t longest)
{
    size_t n = 1 + next_random(state) % longest;
    for (size_t i = 0; i < n; i++)
        out[i] = (char)('a' + next_random(state) % 3);
    return n;
}

struct strings {
    char texts[N_STRINGS][LONGEST];
    size_t n_bytes[N_STRINGS];
};

static void build(struct matcher *matcher, enum matcher_kind kind, struct strings *strings, uint32_t *state)
{
    struct error err = {0};
    matcher_init(matcher, kind);
    for (size_t i = 0; i < N_STRINGS; i++) {
        strings->n_bytes[i] = random_string(state, strings->texts[i], LONGEST);
        assert_ok(matcher_add(matcher, strings->texts[i], strings->n_bytes[i], (int32_t)i, NULL, &err), &err);
    }
    assert_ok(matcher_build(matcher, &err), &err);
}

static bool is_at(const struct strings *strings, size_t i, const char *text, size_t n_text, size_t at)
{
    return at + strings->n_bytes[i] <= n_text &&
           memcmp(text + at, strings->texts[i], strings->n_bytes[i]) == 0;
}

/* Of the strings at the first place where there are any, the longest. */
static bool find_slowly(const struct strings *strings, const char *text, size_t n_text, size_t from,
                        size_t *start, size_t *end)
{
    for (size_t at = from; at < n_text; at++) {
        size_t longest = 0;
        for (size_t i = 0; i < N_STRINGS; i++)
            if (is_at(strings, i, text, n_text, at) && strings->n_bytes[i] > longest)
                longest = strings->n_bytes[i];
        *start = at;
        *end = at + longest;
        if (longest > 0)
            return true;
    }
    return false;
}

static void the_leftmost_longest_match_is_found(void **state)
{
    uint32_t random = 1;
    (void)state;
    for (int round = 0; round < 3000; round++) {
        struct matcher matcher;
        struct strings strings;
        char text[N_TEXT];
        build(&matcher, MATCHER_LEFTMOST_LONGEST, &strings, &random);
        size_t n_text = random_string(&random, text, N_TEXT), from = 0, start = 0, end = 0, slow_start = 0,
               slow_end = 0;
        int32_t value;
        for (;;) {
            bool found = matcher_find(&matcher, text, n_text, from, &start, &end, &value);
            assert_int_equal(found, find_slowly(&strings, text, n_text, from, &slow_start, &slow_end));
            if (!found)
                break;
            assert_int_equal(start, slow_start);
            assert_int_equal(end, slow_end);
            assert_true(is_at(&strings, (size_t)value, text, n_text, start));
            from = end;
        }
        matcher_finish(&matcher);
    }
}

/* The longest string that ends at `end`, and the longest end of text[0..end) that begins one. */
static void look_back_slowly(const struct strings *strings, const char *text, size_t end, size_t *n_match,
                             size_t *depth)
{
    *n_match = *depth = 0;
    for (size_t i = 0; i < N_STRINGS; i++)
        for (size_t n = 1; n <= strings->n_bytes[i] && n <= end; n++)
            if (memcmp(text + end - n, strings->texts[i], n) == 0) {
                *depth = n > *depth ? n : *depth;
                if (n == strings->n_bytes[i] && n > *n_match)
                    *n_match = n;
            }
}

static void a_stream_reports_the_longest_string_at_each_byte_and_what_may_become_one(void **state)
{
    uint32_t random = 7;
    (void)state;
    for (int round = 0; round < 3000; round++) {
        struct matcher matcher;
        struct strings strings;
        char text[N_TEXT];
        build(&matcher, MATCHER_STREAM, &strings, &random);
        size_t n_text = random_string(&random, text, N_TEXT), position = 0, n_match = 0, depth = 0;
        for (size_t i = 0; i < n_text; i++) {
            int32_t value;
            size_t n_found = 0;
            bool found = matcher_step(&matcher, &position, (unsigned char)text[i], &value, &n_found);
            look_back_slowly(&strings, text, i + 1, &n_match, &depth);
            assert_int_equal(found, n_match > 0);
            assert_int_equal(n_found, n_match);
            assert_int_equal(matcher_depth(&matcher, position), depth);
        }
        matcher_finish(&matcher);
    }
}

static void without_strings_nothing_is_found(void **state)
{
    struct matcher matcher;
    struct error err = {0};
    size_t position = 0, start, end;
    int32_t value;
    (void)state;
    matcher_init(&matcher, MATCHER_STREAM);
    assert_ok(matcher_build(&matcher, &err), &err);
    assert_false(matcher_find(&matcher, "abc", 3, 0, &start, &end, &value));
    assert_false(matcher_step(&matcher, &position, 'a', &value, &end));
    assert_int_equal(matcher_depth(&matcher, position), 0);
    matcher_finish(&matcher);
}

static void a_string_that_is_added_twice_keeps_its_first_value(void **state)
{
    struct matcher matcher;
    struct error err = {0};
    size_t start, end;
    int32_t value = -1;
    bool is_duplicate = true;
    (void)state;
    matcher_init(&matcher, MATCHER_LEFTMOST_LONGEST);
    assert_ok(matcher_add(&matcher, "ab", 2, 5, &is_duplicate, &err), &err);
    assert_false(is_duplicate);
    assert_ok(matcher_add(&matcher, "ab", 2, 6, &is_duplicate, &err), &err);
    assert_true(is_duplicate);
    assert_ok(matcher_build(&matcher, &err), &err);
    assert_true(matcher_find(&matcher, "xab", 3, 0, &start, &end, &value));
    assert_int_equal(value, 5);
    matcher_finish(&matcher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_leftmost_longest_match_is_found),
        cmocka_unit_test(a_stream_reports_the_longest_string_at_each_byte_and_what_may_become_one),
        cmocka_unit_test(without_strings_nothing_is_found),
        cmocka_unit_test(a_string_that_is_added_twice_keeps_its_first_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
