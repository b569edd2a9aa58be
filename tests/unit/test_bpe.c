#include "text/bpe.h"

#include "support/tokenizer_json.h"

/* A model alone: the whole text is one word. */
#define MODEL(fields) "{'version':'1.0','model':{'type':'BPE'," fields "}}"
#define LETTERS "'<unk>':0,'a':1,'b':2,'c':3,'ab':4,'bc':5,'abc':6,'aa':7,'aaaa':8"

static void assert_encodes(const char *json, const char *text, const char *ids)
{
    struct tokenizer *tokenizer = tokenizer_of(json);
    assert_string_equal(ids_of(tokenizer, text), ids);
    tokenizer_destroy(tokenizer);
}

static void the_lowest_rank_merges_first_and_ties_go_to_the_left(void **state)
{
    (void)state;
    assert_encodes(MODEL("'vocab':{" LETTERS "},'merges':['a b','b c','ab c']"), "abc", "6");
    assert_encodes(MODEL("'vocab':{" LETTERS "},'merges':['b c','a b','ab c']"), "abc", "1 5");
    assert_encodes(MODEL("'vocab':{" LETTERS "},'merges':['a a','aa aa']"), "aaaaaaa", "8 7 1");
}

static void merges_may_be_pairs_or_strings_with_a_version_line(void **state)
{
    (void)state;
    assert_encodes(MODEL("'vocab':{" LETTERS "},'merges':[['a','b'],['ab','c']]"), "abc", "6");
    assert_encodes(MODEL("'vocab':{" LETTERS "},'merges':['#version: 0.2','a b','ab c']"), "abc", "6");
}

static void of_a_pair_that_is_there_twice_the_later_rank_counts(void **state)
{
    (void)state;
    assert_encodes(MODEL("'vocab':{" LETTERS "},'merges':['a b','b c','a b']"), "abc", "1 5");
}

static void long_words_merge_like_short_ones(void **state)
{
    struct tokenizer *tokenizer =
        tokenizer_of(MODEL("'vocab':{" LETTERS "},'merges':['a b','a a','ab c','b c','aa aa']"));
    char text[200];
    (void)state;
    /* By hand: abc b aa c a; the a that ends a period does not merge with the abc of the next. */
    char expected[400] = "";
    for (size_t i = 0; i + 8 <= sizeof text; i += 8) {
        memcpy(text + i, "abcbaaca", 8);
        strcat(expected, i ? " 6 2 7 3 1" : "6 2 7 3 1");
    }
    assert_string_equal(ids_of_flags(tokenizer, text, sizeof text, TOKENIZER_PLAIN), expected);
    assert_string_equal(ids_of_flags(tokenizer, text, 16, TOKENIZER_PLAIN), "6 2 7 3 1 6 2 7 3 1");
    tokenizer_destroy(tokenizer);
}

static void an_unknown_character_is_dropped_without_unk_token(void **state)
{
    (void)state;
    assert_encodes(MODEL("'vocab':{" LETTERS "},'merges':['a b']"), "axb", "4");
}

static void unknown_characters_become_unk_and_are_fused_on_demand(void **state)
{
    (void)state;
    assert_encodes(MODEL("'vocab':{" LETTERS "},'unk_token':'<unk>','merges':[]"), "axyb\xC3\xA9",
                   "1 0 0 2 0");
    assert_encodes(MODEL("'vocab':{" LETTERS "},'unk_token':'<unk>','fuse_unk':true,'merges':[]"),
                   "axyb\xC3\xA9", "1 0 2 0");
}

static void byte_fallback_needs_all_bytes_of_a_character(void **state)
{
    (void)state;
    assert_encodes(MODEL("'vocab':{" LETTERS
                         ",'<0xC3>':9,'<0xA9>':10},'unk_token':'<unk>','byte_fallback':true,'merges':[]"),
                   "a\xC3\xA9\xC3\xA8", "1 9 10 0");
}

static void an_unk_token_that_is_not_in_the_vocabulary_fails_only_when_needed(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(MODEL("'vocab':{'a':0},'unk_token':'<nil>','merges':[]"));
    struct token_ids ids = {0};
    struct error err;
    (void)state;
    assert_string_equal(ids_of(tokenizer, "aa"), "0 0");
    assert_false(tokenizer_encode(tokenizer, "ab", 2, TOKENIZER_PLAIN, &ids, &err));
    assert_int_equal(err.code, ERROR_BAD_INPUT);
    assert_int_equal(ids.n_ids, 0);
    token_ids_finish(&ids);
    tokenizer_destroy(tokenizer);
}

static void ignore_merges_takes_whole_words_from_the_vocabulary(void **state)
{
    (void)state;
    assert_encodes(MODEL("'vocab':{" LETTERS "},'merges':[]"), "abc", "1 2 3");
    assert_encodes(MODEL("'vocab':{" LETTERS "},'ignore_merges':true,'merges':[]"), "abc", "6");
    assert_encodes(MODEL("'vocab':{" LETTERS "},'ignore_merges':true,'merges':[]"), "abca", "1 2 3 1");
}

static void what_a_model_cannot_be_is_refused_by_name(void **state)
{
    static const struct {
        const char *json, *param, *part;
        enum error_code code;
    } cases[] = {
        {"{'model':{'type':'Unigram','vocab':[]}}", "model.type", "'Unigram'", ERROR_MISMATCH},
        {MODEL("'dropout':0.1,'vocab':{'a':0},'merges':[]"), "model.dropout", "0.1", ERROR_MISMATCH},
        {MODEL("'end_of_word_suffix':'</w>','vocab':{'a':0},'merges':[]"), "model.end_of_word_suffix", "</w>",
         ERROR_MISMATCH},
        {MODEL("'continuing_subword_prefix':'##','vocab':{'a':0},'merges':[]"),
         "model.continuing_subword_prefix", "##", ERROR_MISMATCH},
        {MODEL("'vocab':{'a':0}"), "model.merges", "missing", ERROR_BAD_INPUT},
        {MODEL("'vocab':{'a':0,'b':0},'merges':[]"), "", "id 0 has two tokens", ERROR_BAD_INPUT},
        {MODEL("'vocab':{'a':-1},'merges':[]"), "model.vocab", "'a' has no id", ERROR_BAD_INPUT},
        {MODEL("'vocab':{'a':99999999},'merges':[]"), "", "99999999", ERROR_TOO_LARGE},
        {MODEL("'vocab':{'a':0,'b':1},'merges':['a b']"), "model.merges", "'ab'", ERROR_BAD_INPUT},
        {MODEL("'vocab':{'a':0,'b':1},'merges':['a  b']"), "model.merges", "merge 0", ERROR_BAD_INPUT},
        {MODEL("'vocab':{'a':0,'b':1},'merges':['x b']"), "model.merges", "'x'", ERROR_BAD_INPUT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        char *text = strdup(cases[i].json);
        for (char *c = text; *c; c++)
            if (*c == '\'')
                *c = '"';
        assert_null(tokenizer_parse(text, strlen(text), NULL, 0, &err));
        assert_error(&err, cases[i].code, cases[i].param, cases[i].part);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_rank_merges_first_and_ties_go_to_the_left),
        cmocka_unit_test(merges_may_be_pairs_or_strings_with_a_version_line),
        cmocka_unit_test(of_a_pair_that_is_there_twice_the_later_rank_counts),
        cmocka_unit_test(long_words_merge_like_short_ones),
        cmocka_unit_test(an_unknown_character_is_dropped_without_unk_token),
        cmocka_unit_test(unknown_characters_become_unk_and_are_fused_on_demand),
        cmocka_unit_test(byte_fallback_needs_all_bytes_of_a_character),
        cmocka_unit_test(an_unk_token_that_is_not_in_the_vocabulary_fails_only_when_needed),
        cmocka_unit_test(ignore_merges_takes_whole_words_from_the_vocabulary),
        cmocka_unit_test(what_a_model_cannot_be_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
