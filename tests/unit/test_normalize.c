#include "text/normalize.h"

#include <stdlib.h>

#include "support/check.h"

static struct normalizer parse(const char *json)
{
    struct normalizer normalizer;
    struct error err = {0};
    char *text = strdup(json);
    for (char *c = text; *c; c++)
        if (*c == '\'')
            *c = '"';
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    free(text);
    assert_non_null(value);
    assert_ok(normalizer_parse(&normalizer, value, &err), &err);
    json_decref(value);
    return normalizer;
}

static void assert_becomes(const char *json, const char *text, const char *expected)
{
    struct normalizer normalizer = parse(json);
    struct normalizer_scratch scratch = {0};
    struct error err = {0};
    const char *out;
    size_t n;
    bool starts;
    assert_ok(normalizer_apply(&normalizer, text, strlen(text), &scratch, &out, &n, &starts, &err), &err);
    assert_int_equal(n, strlen(expected));
    assert_memory_equal(out, expected, n);
    normalizer_scratch_finish(&scratch);
    normalizer_finish(&normalizer);
}

static void null_leaves_a_text_alone(void **state)
{
    (void)state;
    assert_becomes("null", " A\xCC\x81 ", " A\xCC\x81 ");
}

static void forms_compose_and_decompose(void **state)
{
    (void)state;
    assert_becomes("{'type':'NFC'}", "e\xCC\x81\xEF\xAC\x81", "\xC3\xA9\xEF\xAC\x81");
    assert_becomes("{'type':'NFD'}", "\xC3\xA9", "e\xCC\x81");
    assert_becomes("{'type':'NFKC'}", "e\xCC\x81\xEF\xAC\x81",
                   "\xC3\xA9"
                   "fi");
    assert_becomes("{'type':'NFKD'}", "\xC3\xA9\xEF\xAC\x81",
                   "e\xCC\x81"
                   "fi");
    assert_becomes("{'type':'NFC'}", "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C"); /* Hangul */
}

static void marks_are_ordered_by_class_and_equal_ones_keep_their_order(void **state)
{
    (void)state;
    assert_becomes("{'type':'NFD'}", "q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87");
    assert_becomes("{'type':'NFD'}", "q\xCC\x87\xCC\x81\xCC\xA3", "q\xCC\xA3\xCC\x87\xCC\x81");
    assert_becomes("{'type':'NFC'}", "q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87");
}

static void a_long_run_of_unordered_marks_takes_no_quadratic_time(void **state)
{
    struct normalizer normalizer = parse("{'type':'NFC'}");
    struct normalizer_scratch scratch = {0};
    struct error err = {0};
    enum { N = 200000 };
    char *text = malloc(4 * N);
    const char *out;
    size_t n;
    bool starts;
    (void)state;
    for (size_t i = 0; i < N; i++)
        memcpy(text + 4 * i, "\xCC\x87\xCC\xA3", 4);
    assert_ok(normalizer_apply(&normalizer, text, 4 * N, &scratch, &out, &n, &starts, &err), &err);
    assert_int_equal(n, 4 * N);
    assert_memory_equal(out, "\xCC\xA3\xCC\xA3", 4);
    assert_memory_equal(out + n - 4, "\xCC\x87\xCC\x87", 4);
    free(text);
    normalizer_scratch_finish(&scratch);
    normalizer_finish(&normalizer);
}

static void lower_case_knows_the_dotted_capital_i(void **state)
{
    (void)state;
    assert_becomes("{'type':'Lowercase'}", "A\xC3\x89\xC4\xB0Z", "a\xC3\xA9i\xCC\x87z");
}

static void strip_takes_white_space_from_the_ends_it_is_told(void **state)
{
    (void)state;
    assert_becomes("{'type':'Strip','strip_left':true,'strip_right':true}", "\xC2\xA0 a b\n\xE3\x80\x80",
                   "a b");
    assert_becomes("{'type':'Strip','strip_left':true,'strip_right':false}", " a ", "a ");
    assert_becomes("{'type':'Strip','strip_left':false,'strip_right':true}", " a ", " a");
    assert_becomes("{'type':'Strip','strip_left':false,'strip_right':true}", " \n ", "");
}

static void strip_accents_drops_marks(void **state)
{
    (void)state;
    assert_becomes("{'type':'Sequence','normalizers':[{'type':'NFD'},{'type':'StripAccents'}]}",
                   "\xC3\xA9t\xC3\xA9", "ete");
}

static void prepend_and_replace_mark_spaces_but_not_an_empty_text(void **state)
{
    const char *llama = "{'type':'Sequence','normalizers':[{'type':'Prepend','prepend':'_'},"
                        "{'type':'Replace','pattern':{'String':' '},'content':'_'}]}";
    (void)state;
    assert_becomes(llama, " a  b", "__a__b");
    assert_becomes(llama, "", "");
}

static void replace_by_expression_takes_its_content_literally(void **state)
{
    (void)state;
    assert_becomes("{'type':'Replace','pattern':{'Regex':'[0-9]+'},'content':'$0'}", "a12b3", "a$0b$0");
    assert_becomes("{'type':'Replace','pattern':{'Regex':'x*'},'content':'-'}", "axb", "-a-b-");
}

static void byte_level_writes_bytes_as_characters(void **state)
{
    (void)state;
    assert_becomes("{'type':'ByteLevel'}", "a \n\xC2\xAD", "a\xC4\xA0\xC4\x8A\xC3\x82\xC5\x83");
}

static void text_that_grows_beyond_all_measure_is_refused(void **state)
{
    struct normalizer normalizer =
        parse("{'type':'Replace','pattern':{'String':'a'},'content':'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
              "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}");
    struct normalizer_scratch scratch = {0};
    struct error err = {0};
    char text[10000];
    const char *out;
    size_t n;
    bool starts;
    (void)state;
    memset(text, 'a', sizeof text);
    assert_false(normalizer_apply(&normalizer, text, sizeof text, &scratch, &out, &n, &starts, &err));
    assert_int_equal(err.code, ERROR_TOO_LARGE);
    normalizer_scratch_finish(&scratch);
    normalizer_finish(&normalizer);
}

static void what_is_not_supported_is_refused_by_name(void **state)
{
    static const struct {
        const char *json, *param, *part;
    } cases[] = {
        {"{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"\"}", "normalizer.type", "'Precompiled'"},
        {"{\"type\":\"BertNormalizer\"}", "normalizer.type", "'BertNormalizer'"},
        {"{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"}", "normalizer.pattern",
         "empty"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"content\":\"\"}", "", "'&&'"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\bx\"},\"content\":\"\"}", "", "\\b"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(?m:x)\"},\"content\":\"\"}", "", "option"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[[:alpha:]]\"},\"content\":\"\"}", "",
         "inside a class"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\p{Greek}\"},\"content\":\"\"}", "", "property"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct normalizer normalizer;
        struct error err = {0};
        json_t *json = json_loads(cases[i].json, 0, NULL);
        assert_non_null(json);
        assert_false(normalizer_parse(&normalizer, json, &err));
        assert_error(&err, ERROR_MISMATCH, cases[i].param, cases[i].part);
        normalizer_finish(&normalizer);
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(null_leaves_a_text_alone),
        cmocka_unit_test(forms_compose_and_decompose),
        cmocka_unit_test(marks_are_ordered_by_class_and_equal_ones_keep_their_order),
        cmocka_unit_test(a_long_run_of_unordered_marks_takes_no_quadratic_time),
        cmocka_unit_test(lower_case_knows_the_dotted_capital_i),
        cmocka_unit_test(strip_takes_white_space_from_the_ends_it_is_told),
        cmocka_unit_test(strip_accents_drops_marks),
        cmocka_unit_test(prepend_and_replace_mark_spaces_but_not_an_empty_text),
        cmocka_unit_test(replace_by_expression_takes_its_content_literally),
        cmocka_unit_test(byte_level_writes_bytes_as_characters),
        cmocka_unit_test(text_that_grows_beyond_all_measure_is_refused),
        cmocka_unit_test(what_is_not_supported_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
