#include "text/pretokenize.h"

#include <stdlib.h>

#include "support/check.h"

static struct pretokenizer parse(const char *json)
{
    struct pretokenizer pretokenizer;
    struct error err = {0};
    json_t *value = json_loads(json, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    assert_ok(pretokenizer_parse(&pretokenizer, value, &err), &err);
    json_decref(value);
    return pretokenizer;
}

static bool collect(void *context, const char *word, size_t n_bytes, struct error *err)
{
    struct buffer *words = context;
    (void)err;
    if (words->n_bytes > 0)
        buffer_append_byte(words, '|');
    return buffer_append(words, word, n_bytes);
}

static void assert_words_at(const char *json, const char *text, bool is_first, const char *expected)
{
    struct pretokenizer pretokenizer = parse(json);
    struct pretokenizer_scratch scratch = {0};
    struct buffer words = {0};
    struct error err = {0};
    assert_ok(pretokenizer_run(&pretokenizer, text, strlen(text), is_first, &scratch, collect, &words, &err),
              &err);
    assert_string_equal(buffer_text(&words), expected);
    buffer_finish(&words);
    pretokenizer_scratch_finish(&scratch);
    pretokenizer_finish(&pretokenizer);
}

static void assert_words(const char *json, const char *text, const char *expected)
{
    assert_words_at(json, text, true, expected);
}

#define SPLIT(pattern, behavior, invert)                                                                     \
    "{\"type\":\"Split\",\"pattern\":{" pattern "},\"behavior\":\"" behavior "\",\"invert\":" invert "}"

static void null_makes_one_word(void **state)
{
    (void)state;
    assert_words("null", "a b", "a b");
    assert_words("null", "", "");
}

static void behaviours_say_where_a_match_goes(void **state)
{
    const char *text = "the-final--countdown";
    (void)state;
    assert_words(SPLIT("\"String\":\"-\"", "Removed", "false"), text, "the|final|countdown");
    assert_words(SPLIT("\"String\":\"-\"", "Isolated", "false"), text, "the|-|final|-|-|countdown");
    assert_words(SPLIT("\"String\":\"-\"", "MergedWithPrevious", "false"), text, "the-|final-|-|countdown");
    assert_words(SPLIT("\"String\":\"-\"", "MergedWithNext", "false"), text, "the|-final|-|-countdown");
    assert_words(SPLIT("\"String\":\"-\"", "Contiguous", "false"), text, "the|-|final|--|countdown");
}

static void invert_swaps_matches_and_the_rest(void **state)
{
    (void)state;
    assert_words(SPLIT("\"Regex\":\"[a-z]+\"", "Removed", "true"), "ab12cd.", "ab|cd");
    assert_words(SPLIT("\"Regex\":\"[a-z]\"", "MergedWithPrevious", "true"), "ab12c", "a|b12|c");
}

static void empty_matches_make_no_words(void **state)
{
    (void)state;
    assert_words(SPLIT("\"Regex\":\"x*\"", "Isolated", "false"), "axxb", "a|xx|b");
}

static void byte_level_splits_as_gpt2_does(void **state)
{
    const char *json = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}";
    (void)state;
    assert_words(json, "Hello  world, it's 2024!\n\n x", "Hello| | world|,| it|'s| 2024|!|\n\n| x");
    assert_words(json,
                 "a\xC2\xA0  b \xE1\xA0\x8E"
                 "c",
                 "a|\xC2\xA0 | b| \xE1\xA0\x8E|c"); /* U+180E is no space */
}

static void byte_level_puts_a_space_in_front_if_told(void **state)
{
    (void)state;
    assert_words("{\"type\":\"ByteLevel\"}", "a b", " a| b");
    assert_words("{\"type\":\"ByteLevel\"}", " a", " a");
}

static void stages_after_byte_level_see_its_characters(void **state)
{
    (void)state;
    assert_words("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\",\"add_prefix_space\":"
                 "false,\"use_regex\":false}," SPLIT("\"String\":\"\xC4\xA0\"", "Isolated", "false") "]}",
                 "a b", "a|\xC4\xA0|b");
}

static void digits_are_split_one_by_one_or_in_runs(void **state)
{
    (void)state;
    assert_words("{\"type\":\"Digits\",\"individual_digits\":true}", "a12\xC2\xBD.", "a|1|2|\xC2\xBD|.");
    assert_words("{\"type\":\"Digits\",\"individual_digits\":false}", "a12\xC2\xBD.", "a|12\xC2\xBD|.");
}

static void metaspace_marks_spaces_and_beginnings(void **state)
{
#define METASPACE(scheme, split)                                                                             \
    "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"" scheme "\",\"split\":" split "}"
    (void)state;
    assert_words(METASPACE("always", "true"), "a  b", "_a|_|_b");
    assert_words(METASPACE("always", "false"), "a  b", "_a__b");
    assert_words(METASPACE("always", "true"), " a", "_a");
    assert_words(METASPACE("never", "true"), "a b", "a|_b");
    assert_words_at(METASPACE("first", "true"), "a b", true, "_a|_b");
    assert_words_at(METASPACE("first", "true"), "a b", false, "a|_b");
    assert_words_at(METASPACE("always", "true"), "a b", false, "_a|_b");
    assert_words("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true}"
                 "," METASPACE("first", "true") "]}",
                 "a1 b", "_a|1|_b");
}

static void whitespace_keeps_words_and_runs_of_other_characters(void **state)
{
    (void)state;
    assert_words("{\"type\":\"Whitespace\"}", "Hey, man!? a_1\xCC\x81\n--", "Hey|,|man|!?|a_1\xCC\x81|--");
    assert_words("{\"type\":\"WhitespaceSplit\"}", "Hey, man!?\xE2\x80\xA8x ", "Hey,|man!?|x");
}

static void punctuation_is_isolated(void **state)
{
    (void)state;
    assert_words("{\"type\":\"Punctuation\"}", "a,b$\xE3\x80\x82", "a|,|b|$|\xE3\x80\x82");
}

static void a_million_of_one_character_are_split_in_time(void **state)
{
    static const char *const characters[] = {"a", " ", "\n", "\xF0\x9F\x98\x80", "\xCC\x81", "1", "-"};
    struct pretokenizer pretokenizer = parse("{\"type\":\"ByteLevel\"}");
    struct pretokenizer_scratch scratch = {0};
    struct error err = {0};
    (void)state;
    for (size_t i = 0; i < sizeof characters / sizeof *characters; i++) {
        struct buffer text = {0}, words = {0};
        while (text.n_bytes < 1000000)
            buffer_append_text(&text, characters[i]);
        assert_ok(
            pretokenizer_run(&pretokenizer, text.data, text.n_bytes, true, &scratch, collect, &words, &err),
            &err);
        assert_true(words.n_bytes >= text.n_bytes);
        buffer_finish(&text);
        buffer_finish(&words);
    }
    pretokenizer_scratch_finish(&scratch);
    pretokenizer_finish(&pretokenizer);
}

static void an_expression_that_gives_up_is_an_error_and_no_wrong_split(void **state)
{
    struct pretokenizer pretokenizer = parse(SPLIT("\"Regex\":\"(?:a|aa)+c\"", "Isolated", "false"));
    struct pretokenizer_scratch scratch = {0};
    struct buffer words = {0};
    struct error err = {0};
    char text[300];
    (void)state;
    memset(text, 'a', sizeof text);
    memcpy(text + sizeof text - 2, "xc", 2);
    assert_false(pretokenizer_run(&pretokenizer, text, sizeof text, true, &scratch, collect, &words, &err));
    assert_error(&err, ERROR_BAD_INPUT, "", "gave up");
    buffer_finish(&words);
    pretokenizer_scratch_finish(&scratch);
    pretokenizer_finish(&pretokenizer);
}

static void what_is_not_supported_is_refused_by_name(void **state)
{
    static const struct {
        const char *json, *param, *part;
        enum error_code code;
    } cases[] = {
        {"{\"type\":\"BertPreTokenizer\"}", "pre_tokenizer.type", "'BertPreTokenizer'", ERROR_MISMATCH},
        {"{\"type\":\"UnicodeScripts\"}", "pre_tokenizer.type", "'UnicodeScripts'", ERROR_MISMATCH},
        {SPLIT("\"String\":\"-\"", "Sideways", "false"), "pre_tokenizer.behavior", "'Sideways'",
         ERROR_BAD_INPUT},
        {"{\"type\":\"Metaspace\",\"replacement\":\"__\"}", "pre_tokenizer.replacement", "'__'",
         ERROR_BAD_INPUT},
        {"{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false}",
         "pre_tokenizer.prepend_scheme", "contradicts", ERROR_BAD_INPUT},
        {"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}", "", "compile",
         ERROR_BAD_INPUT},
        {"[]", "pre_tokenizer", "not an object", ERROR_BAD_INPUT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pretokenizer pretokenizer;
        struct error err = {0};
        json_t *json = json_loads(cases[i].json, 0, NULL);
        assert_non_null(json);
        assert_false(pretokenizer_parse(&pretokenizer, json, &err));
        assert_error(&err, cases[i].code, cases[i].param, cases[i].part);
        pretokenizer_finish(&pretokenizer);
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(null_makes_one_word),
        cmocka_unit_test(behaviours_say_where_a_match_goes),
        cmocka_unit_test(invert_swaps_matches_and_the_rest),
        cmocka_unit_test(empty_matches_make_no_words),
        cmocka_unit_test(byte_level_splits_as_gpt2_does),
        cmocka_unit_test(byte_level_puts_a_space_in_front_if_told),
        cmocka_unit_test(stages_after_byte_level_see_its_characters),
        cmocka_unit_test(digits_are_split_one_by_one_or_in_runs),
        cmocka_unit_test(metaspace_marks_spaces_and_beginnings),
        cmocka_unit_test(whitespace_keeps_words_and_runs_of_other_characters),
        cmocka_unit_test(punctuation_is_isolated),
        cmocka_unit_test(a_million_of_one_character_are_split_in_time),
        cmocka_unit_test(an_expression_that_gives_up_is_an_error_and_no_wrong_split),
        cmocka_unit_test(what_is_not_supported_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
