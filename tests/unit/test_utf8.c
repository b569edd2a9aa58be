#include "base/utf8.h"

#include <string.h>

#include "support/check.h"

/* Decodes by the definition: the bits, then the rules about the result. Independent of the table. */
static size_t slow_length(const unsigned char *bytes, size_t n_bytes)
{
    uint32_t code_point;
    size_t length;
    if (bytes[0] < 0x80)
        return 1;
    if ((bytes[0] & 0xE0) == 0xC0)
        length = 2, code_point = bytes[0] & 0x1F;
    else if ((bytes[0] & 0xF0) == 0xE0)
        length = 3, code_point = bytes[0] & 0x0F;
    else if ((bytes[0] & 0xF8) == 0xF0)
        length = 4, code_point = bytes[0] & 0x07;
    else
        return 0;
    if (n_bytes < length)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xC0) != 0x80)
            return 0;
        code_point = code_point << 6 | (bytes[i] & 0x3F);
    }
    static const uint32_t LEAST[] = {0, 0, 0x80, 0x800, 0x10000};
    bool is_surrogate = code_point >= 0xD800 && code_point <= 0xDFFF;
    return code_point >= LEAST[length] && code_point <= 0x10FFFF && !is_surrogate ? length : 0;
}

static void every_code_point_survives_a_round_trip(void **state)
{
    (void)state;
    for (uint32_t code_point = 0; code_point <= 0x10FFFF; code_point++) {
        char bytes[4];
        uint32_t back = 0;
        size_t n_step;
        if (code_point >= 0xD800 && code_point <= 0xDFFF)
            continue;
        size_t length = utf8_encode(code_point, bytes);
        if (!utf8_is_valid(bytes, length) || utf8_decode(bytes, length, &back) != length ||
            back != code_point || utf8_next(bytes, length, &n_step) != UTF8_COMPLETE || n_step != length)
            fail_msg("U+%X", (unsigned)code_point);
        for (size_t n = 1; n < length; n++)
            if (utf8_next(bytes, n, &n_step) != UTF8_INCOMPLETE || n_step != n)
                fail_msg("the first %zu bytes of U+%X", n, (unsigned)code_point);
    }
}

static void every_three_bytes_are_judged_as_the_definition_does(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 1u << 24; bits++) {
        unsigned char bytes[3] = {(unsigned char)(bits >> 16), (unsigned char)(bits >> 8),
                                  (unsigned char)bits};
        size_t n_step, length = slow_length(bytes, 3);
        enum utf8_state found = utf8_next((char *)bytes, 3, &n_step);
        bool agrees = length ? found == UTF8_COMPLETE && n_step == length : found != UTF8_COMPLETE;
        if (!agrees)
            fail_msg("%06x", (unsigned)bits);
    }
}

/* All four-byte forms with continuation bytes at their edges. */
static void four_byte_forms_are_judged_as_the_definition_does(void **state)
{
    static const unsigned char EDGES[] = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF};
    enum { N = sizeof EDGES };
    (void)state;
    for (unsigned lead = 0xF0; lead <= 0xFF; lead++)
        for (size_t i = 0; i < N * N * N; i++) {
            unsigned char bytes[4] = {(unsigned char)lead, EDGES[i % N], EDGES[i / N % N], EDGES[i / N / N]};
            size_t n_step, length = slow_length(bytes, 4);
            bool is_complete = utf8_next((char *)bytes, 4, &n_step) == UTF8_COMPLETE;
            assert_int_equal(is_complete, length == 4);
        }
}

/* Unicode standard, chapter 3, "U+FFFD substitution of maximal subparts", tables 3-8 to 3-11. */
static void invalid_prefixes_are_maximal(void **state)
{
    static const struct {
        const char *bytes;
        size_t n_bytes, n_invalid;
    } CASES[] = {
        {"\xC0\xAF", 2, 1},
        {"\xE0\x80\xBF", 3, 1},
        {"\xED\xA0\x80", 3, 1},
        {"\xF4\x91\x92\x93", 4, 1},
        {"\xFF", 1, 1},
        {"\x80", 1, 1},
        {"\xE1\x80\xE2", 3, 2},
        {"\xF0\x91\x92\xF1", 4, 3},
        {"\xF1\xBF\x41", 3, 2},
        {"\xE1"
         "A",
         2, 1},
        {"\xF0\x80\x80\x80", 4, 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        size_t n;
        assert_int_equal(utf8_next(CASES[i].bytes, CASES[i].n_bytes, &n), UTF8_INVALID);
        assert_int_equal(n, CASES[i].n_invalid);
    }
}

static void the_valid_prefix_ends_where_the_trouble_begins(void **state)
{
    (void)state;
    assert_int_equal(utf8_valid_prefix("", 0), 0);
    assert_int_equal(utf8_valid_prefix("a\xC3\xA4z", 4), 4);
    assert_int_equal(utf8_valid_prefix("a\xC3\xA4\xFFz", 5), 3);
    assert_int_equal(utf8_valid_prefix("a\xC3", 2), 1);
    assert_int_equal(utf8_valid_prefix("a\0b", 3), 3);
    assert_false(utf8_is_valid("\xED\xA0\x80", 3));
}

static void cleaning_cuts_between_characters(void **state)
{
    char out[6];
    (void)state;
    assert_int_equal(utf8_clean(out, sizeof out, "ab\xE2\x82\xAC", 5), 5);
    assert_string_equal(out, "ab\xE2\x82\xAC");
    assert_int_equal(utf8_clean(out, 5, "ab\xE2\x82\xAC", 5), 2);
    assert_string_equal(out, "ab");
    assert_int_equal(utf8_clean(out, sizeof out, "\x01\xFF\n", 3), 3);
    assert_string_equal(out, "??"
                             "?");
    assert_int_equal(utf8_clean(out, 1, "abc", 3), 0);
    assert_string_equal(out, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_survives_a_round_trip),
        cmocka_unit_test(every_three_bytes_are_judged_as_the_definition_does),
        cmocka_unit_test(four_byte_forms_are_judged_as_the_definition_does),
        cmocka_unit_test(invalid_prefixes_are_maximal),
        cmocka_unit_test(the_valid_prefix_ends_where_the_trouble_begins),
        cmocka_unit_test(cleaning_cuts_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
