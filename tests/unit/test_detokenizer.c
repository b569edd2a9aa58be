#include "text/detokenizer.h"

#include "support/tokenizer_json.h"

#define LLAMA                                                                                                \
    "{'added_tokens':[{'id':13,'content':'<s>','special':true,'normalized':false}],"                         \
    "'decoder':{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String':'\xE2\x96\x81'},'"       \
    "content':' '},{'type':'ByteFallback'},"                                                                 \
    "{'type':'Fuse'},{'type':'Strip','content':' ','start':1,'stop':0}]},"                                   \
    "'model':{'vocab':{'a':0,'b':1,'ab':2,'\xE2\x96\x81"                                                     \
    "a':3,'\xE2\x96\x81':4,'<0xF0>':5,'<0x9F>':6,'<0x98>':7,'<0x80>':8,'STOP':9,'ST':10,'OP':11,"            \
    "'X':12},'merges':[]}}"

/* The tokens are the bytes: a, " b", F0, 9F 98, 80, FF. */
#define BYTE_LEVEL                                                                                           \
    "{'decoder':{'type':'ByteLevel'},'model':{'vocab':{'a':0,'\xC4\xA0"                                      \
    "b':1,'\xC3\xB0':2,'\xC5\x81\xC4\xBA':3,'\xC4\xA2':4,'\xC3\xBF':5},"                                     \
    "'merges':[]}}"

struct run {
    struct detokenizer *detokenizer;
    struct buffer shown; /* pieces, each followed by | */
    bool stopped;
    size_t stop_index;
};

static void begin(struct run *run, const struct tokenizer *tokenizer, struct detokenizer_options options)
{
    struct error err = {0};
    *run = (struct run){.stop_index = 99};
    run->detokenizer = detokenizer_create(tokenizer, &options, &err);
    assert_ok(run->detokenizer != NULL, &err);
}

static void push(struct run *run, const int32_t *ids, size_t n_ids)
{
    struct error err = {0};
    for (size_t i = 0; i < n_ids && !run->stopped; i++) {
        assert_ok(
            detokenizer_push(run->detokenizer, ids[i], &run->shown, &run->stopped, &run->stop_index, &err),
            &err);
        buffer_append_byte(&run->shown, '|');
    }
}

static void end(struct run *run, const char *expected)
{
    struct error err = {0};
    assert_ok(detokenizer_flush(run->detokenizer, &run->shown, &err), &err);
    assert_string_equal(buffer_text(&run->shown), expected);
    buffer_finish(&run->shown);
    detokenizer_destroy(run->detokenizer);
}

#define PUSH(run, ...)                                                                                       \
    push(run, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void pieces_are_whole_characters_byte_level(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(BYTE_LEVEL);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){0});
    PUSH(&run, 0, 1, 2, 3, 4, 0);
    end(&run, "a| b|||\xF0\x9F\x98\x80|a|");
    tokenizer_destroy(tokenizer);
}

static void pieces_are_whole_characters_byte_fallback(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(LLAMA);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){0});
    PUSH(&run, 0, 5, 6, 7, 8, 0);
    end(&run, "a||||\xF0\x9F\x98\x80|a|");
    tokenizer_destroy(tokenizer);
}

static void bytes_that_cannot_become_a_character_are_replaced_at_once(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(BYTE_LEVEL);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){0});
    PUSH(&run, 5, 2, 3, 0); /* FF; F0 9F 98 then a letter: one replacement for the three */
    end(&run, "\xEF\xBF\xBD|||\xEF\xBF\xBD"
              "a|");
    tokenizer_destroy(tokenizer);
    tokenizer = tokenizer_of(LLAMA);
    begin(&run, tokenizer, (struct detokenizer_options){0});
    PUSH(&run, 5, 6, 0); /* of fallback bytes, each is replaced */
    end(&run, "||\xEF\xBF\xBD\xEF\xBF\xBD"
              "a|");
    tokenizer_destroy(tokenizer);
}

static void an_unfinished_character_at_the_end_is_replaced(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(BYTE_LEVEL);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){0});
    PUSH(&run, 0, 2, 3);
    end(&run, "a|||\xEF\xBF\xBD");
    tokenizer_destroy(tokenizer);
}

static void the_first_token_loses_its_space_unless_it_continues_a_text(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(LLAMA);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){0});
    PUSH(&run, 3, 3);
    end(&run, "a| a|");
    begin(&run, tokenizer, (struct detokenizer_options){.continues_text = true});
    PUSH(&run, 3, 3);
    end(&run, " a| a|");
    tokenizer_destroy(tokenizer);
}

static void special_tokens_are_skipped_on_demand(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(LLAMA);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){.skip_special = true});
    PUSH(&run, 13, 3, 13);
    end(&run, "|a||");
    begin(&run, tokenizer, (struct detokenizer_options){0});
    PUSH(&run, 13, 3);
    end(&run, "<s>| a|");
    tokenizer_destroy(tokenizer);
}

static const char *const STOPS[] = {"STOP", "bb"};

static void a_stop_string_ends_the_text_before_it(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(LLAMA);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){.stops = STOPS, .n_stops = 2});
    PUSH(&run, 0, 10, 11, 0);
    assert_true(run.stopped);
    assert_int_equal(run.stop_index, 0);
    end(&run, "a|||");
    begin(&run, tokenizer, (struct detokenizer_options){.stops = STOPS, .n_stops = 2});
    PUSH(&run, 2, 1, 0);
    assert_true(run.stopped);
    assert_int_equal(run.stop_index, 1);
    end(&run, "a||");
    tokenizer_destroy(tokenizer);
}

static void a_stop_string_stays_on_demand(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(LLAMA);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){.stops = STOPS, .n_stops = 2, .include_stop = true});
    PUSH(&run, 0, 10, 11);
    end(&run, "a||STOP|");
    tokenizer_destroy(tokenizer);
}

static void what_might_begin_a_stop_string_is_held_until_that_is_decided(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(LLAMA);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){.stops = STOPS, .n_stops = 2});
    PUSH(&run, 10, 12, 10, 10, 1, 0);
    end(&run, "|STX||ST|ST|ba|");
    begin(&run, tokenizer, (struct detokenizer_options){.stops = STOPS, .n_stops = 2});
    PUSH(&run, 0, 10);
    end(&run, "a||ST");
    tokenizer_destroy(tokenizer);
}

static void of_two_stop_strings_the_one_that_ends_first_counts(void **state)
{
    static const char *const stops[] = {"abX", "b", "ab"};
    struct tokenizer *tokenizer = tokenizer_of(LLAMA);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){.stops = stops, .n_stops = 3});
    PUSH(&run, 12, 2, 12);
    assert_true(run.stopped);
    assert_int_equal(run.stop_index, 2); /* "b" ends at the same byte and is shorter */
    end(&run, "X||");
    tokenizer_destroy(tokenizer);
}

static void a_stop_string_may_span_characters_of_several_bytes(void **state)
{
    static const char *const stops[] = {"\xF0\x9F\x98\x80"
                                        "a"};
    struct tokenizer *tokenizer = tokenizer_of(BYTE_LEVEL);
    struct run run;
    (void)state;
    begin(&run, tokenizer, (struct detokenizer_options){.stops = stops, .n_stops = 1});
    PUSH(&run, 2, 3, 4, 1, 2, 3, 4, 0);
    assert_true(run.stopped);
    end(&run, "|||\xF0\x9F\x98\x80 b|||||");
    tokenizer_destroy(tokenizer);
}

static void an_empty_stop_string_and_an_unknown_id_are_refused(void **state)
{
    static const char *const stops[] = {""};
    struct tokenizer *tokenizer = tokenizer_of(LLAMA);
    struct detokenizer_options options = {.stops = stops, .n_stops = 1};
    struct error err = {0};
    struct buffer piece = {0};
    bool stopped;
    size_t stop;
    (void)state;
    assert_null(detokenizer_create(tokenizer, &options, &err));
    assert_error(&err, ERROR_BAD_INPUT, "stop", "empty");
    options.n_stops = 0;
    struct detokenizer *detokenizer = detokenizer_create(tokenizer, &options, &err);
    assert_false(detokenizer_push(detokenizer, 14, &piece, &stopped, &stop, &err));
    assert_error(&err, ERROR_BAD_INPUT, "", "no token 14");
    detokenizer_destroy(detokenizer);
    buffer_finish(&piece);
    tokenizer_destroy(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_whole_characters_byte_level),
        cmocka_unit_test(pieces_are_whole_characters_byte_fallback),
        cmocka_unit_test(bytes_that_cannot_become_a_character_are_replaced_at_once),
        cmocka_unit_test(an_unfinished_character_at_the_end_is_replaced),
        cmocka_unit_test(the_first_token_loses_its_space_unless_it_continues_a_text),
        cmocka_unit_test(special_tokens_are_skipped_on_demand),
        cmocka_unit_test(a_stop_string_ends_the_text_before_it),
        cmocka_unit_test(a_stop_string_stays_on_demand),
        cmocka_unit_test(what_might_begin_a_stop_string_is_held_until_that_is_decided),
        cmocka_unit_test(of_two_stop_strings_the_one_that_ends_first_counts),
        cmocka_unit_test(a_stop_string_may_span_characters_of_several_bytes),
        cmocka_unit_test(an_empty_stop_string_and_an_unknown_id_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
