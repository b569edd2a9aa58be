#include "text/tokenizer.h"

#include <dirent.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "support/tokenizer_json.h"

/* A model in which every letter is a token, and the parts around it. */
#define VOCAB                                                                                                \
    "'<unk>':0,'a':1,'b':2,'c':3,' "                                                                         \
    "':4,'t':5,'h':6,'e':7,'\xE2\x96\x81':8,'<0xC3>':9,'<0xA9>':10,'A':11,'\xC4\xA0':12"
#define TOKENIZER(parts)                                                                                     \
    "{" parts "'model':{'type':'BPE','unk_token':'<unk>','byte_fallback':true,'vocab':{" VOCAB               \
    "},'merges':[]}}"
#define ADDED(content, id, flags)                                                                            \
    "{'id':" id ",'content':'" content "','special':true,'normalized':false" flags "}"

static void assert_encodes(const char *json, const char *text, const char *ids)
{
    struct tokenizer *tokenizer = tokenizer_of(json);
    assert_string_equal(ids_of(tokenizer, text), ids);
    tokenizer_destroy(tokenizer);
}

static void assert_refused(const char *json, enum error_code code, const char *param, const char *part)
{
    struct error err = {0};
    char *text = strdup(json);
    for (char *c = text; *c; c++)
        if (*c == '\'')
            *c = '"';
    assert_null(tokenizer_parse(text, strlen(text), NULL, 0, &err));
    assert_error(&err, code, param, part);
    free(text);
}

static void added_tokens_are_cut_out_leftmost_and_longest_first(void **state)
{
    const char *json = TOKENIZER(
        "'added_tokens':[" ADDED("<x", "13", "") "," ADDED("<x>", "14", "") "," ADDED("x>y", "15", "") "],");
    (void)state;
    assert_encodes(json, "a<x>ya", "1 14 0 1");
    assert_encodes(json, "a<xa", "1 13 1");
    assert_encodes(json, "<<x>x>y", "0 14 15");
}

static void a_match_that_began_earlier_wins_even_if_a_shorter_one_ended_before(void **state)
{
    const char *json = TOKENIZER("'added_tokens':[" ADDED("abcde", "13", "") "," ADDED(
        "bc", "14", "") "," ADDED("cdx", "15", "") "],");
    (void)state;
    assert_encodes(json, "abcde", "13");
    assert_encodes(json, "abcdx", "1 14 0 0");
    assert_encodes(json, "abbcdx", "1 2 14 0 0");
    assert_encodes(json, "acdx", "1 15");
}

static void single_word_tokens_stand_alone(void **state)
{
    const char *json = TOKENIZER("'added_tokens':[" ADDED("the", "13", ",'single_word':true") "],");
    (void)state;
    assert_encodes(json, "the", "13");
    assert_encodes(json, "a the", "1 4 13");
    assert_encodes(json, "athe", "1 5 6 7");
    assert_encodes(json, "thea", "5 6 7 1");
    assert_encodes(json, "the\xC3\xA9", "5 6 7 9 10");
}

static void lstrip_and_rstrip_take_white_space_along(void **state)
{
    const char *json = TOKENIZER("'added_tokens':[" ADDED("<l>", "13", ",'lstrip':true") "," ADDED(
        "<r>", "14", ",'rstrip':true") "],");
    (void)state;
    assert_encodes(json, "a  <l> b", "1 13 4 2");
    assert_encodes(json, "a <r> \n b", "1 4 14 2");
    assert_encodes(json, "<r>  <l>", "14 13");
}

static void normalized_tokens_are_found_in_their_normal_form(void **state)
{
    const char *json = TOKENIZER("'normalizer':{'type':'Lowercase'},'added_tokens':[{'id':13,'content':'AB','"
                                 "normalized':true,'special':false}],");
    struct tokenizer *tokenizer = tokenizer_of(json);
    const int32_t ids[] = {13};
    char *text = text_of(tokenizer, ids, 1, true);
    (void)state;
    assert_string_equal(ids_of(tokenizer, "aBc"), "13 3");
    assert_string_equal(text, "ab");
    free(text);
    tokenizer_destroy(tokenizer);
}

static void the_normalizer_runs_on_every_piece_between_special_tokens(void **state)
{
    assert_encodes(
        TOKENIZER("'normalizer':{'type':'Prepend','prepend':'\xE2\x96\x81'},'added_tokens':[" ADDED(
            "<s>", "13", "") "],"),
        "a<s>b<s>", "8 1 13 8 2 13");
    (void)state;
}

static void special_tokens_can_be_plain_text(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(TOKENIZER("'added_tokens':[" ADDED(
        "abc", "13", "") ",{'id':14,'content':'cc','special':false,'normalized':false}],"));
    (void)state;
    assert_string_equal(ids_of(tokenizer, "abcc"), "13 3");
    assert_string_equal(ids_of_flags(tokenizer, "abc cc", 6, TOKENIZER_SPECIAL_AS_TEXT), "1 2 3 4 14");
    tokenizer_destroy(tokenizer);
}

static void a_token_of_the_model_keeps_its_id_when_added(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(TOKENIZER("'added_tokens':[" ADDED("<unk>", "0", "") "],"));
    (void)state;
    assert_int_equal(tokenizer_n_vocab(tokenizer), 13);
    assert_true(tokenizer_is_special(tokenizer, 0));
    assert_false(tokenizer_is_special(tokenizer, 1));
    assert_string_equal(ids_of(tokenizer, "a<unk>"), "1 0");
    tokenizer_destroy(tokenizer);
}

static void ids_of_added_tokens_must_be_those_that_training_saw(void **state)
{
    (void)state;
    assert_refused(TOKENIZER("'added_tokens':[" ADDED("<s>", "77", "") "],"), ERROR_BAD_INPUT, "added_tokens",
                   "next free id is 13");
    assert_refused(TOKENIZER("'added_tokens':[" ADDED("a", "13", "") "],"), ERROR_BAD_INPUT, "added_tokens",
                   "vocabulary says 1");
    assert_refused(TOKENIZER("'added_tokens':[" ADDED("<s>", "13", "") "," ADDED("<s>", "13", "") "],"),
                   ERROR_BAD_INPUT, "added_tokens", "twice");
    assert_refused(TOKENIZER("'added_tokens':[" ADDED("", "13", "") "],"), ERROR_BAD_INPUT, "added_tokens",
                   "empty");
}

#define TEMPLATE(single)                                                                                     \
    "'added_tokens':[" ADDED("<s>", "13", "") "," ADDED(                                                     \
        "</s>", "14", "") "],'post_processor':{'type':'TemplateProcessing',"                                 \
                          "'single':[" single                                                                \
                          "],'pair':[],'special_tokens':{'<s>':{'id':'<s>','ids':[13],'tokens':['<s>']},"    \
                          "'</s>':{'id':'</s>','ids':[14,0],'tokens':['</s>','x']}}},"
#define TEXT_A "{'Sequence':{'id':'A','type_id':0}}"
#define SPECIAL(name) "{'SpecialToken':{'id':'" name "','type_id':0}}"

static void a_template_puts_ids_around_the_text_on_demand(void **state)
{
    struct tokenizer *tokenizer =
        tokenizer_of(TOKENIZER(TEMPLATE(SPECIAL("<s>") "," TEXT_A "," SPECIAL("</s>"))));
    (void)state;
    assert_string_equal(ids_of(tokenizer, "a"), "1");
    assert_string_equal(ids_of_flags(tokenizer, "a", 1, TOKENIZER_ADD_SPECIAL), "13 1 14 0");
    assert_string_equal(ids_of_flags(tokenizer, "", 0, TOKENIZER_ADD_SPECIAL), "13 14 0");
    tokenizer_destroy(tokenizer);
    tokenizer = tokenizer_of(TOKENIZER(TEMPLATE(SPECIAL("</s>") "," SPECIAL("<s>") "," TEXT_A)));
    assert_string_equal(ids_of_flags(tokenizer, "a", 1, TOKENIZER_ADD_SPECIAL), "14 0 13 1");
    tokenizer_destroy(tokenizer);
}

static void templates_that_we_do_not_understand_are_refused(void **state)
{
    (void)state;
    assert_refused(TOKENIZER(TEMPLATE(SPECIAL("<s>"))), ERROR_MISMATCH, "post_processor.single",
                   "exactly one A");
    assert_refused(TOKENIZER(TEMPLATE(TEXT_A "," TEXT_A)), ERROR_MISMATCH, "post_processor.single",
                   "exactly one A");
    assert_refused(TOKENIZER(TEMPLATE(TEXT_A "," SPECIAL("<x>"))), ERROR_BAD_INPUT,
                   "post_processor.special_tokens", "'<x>'");
    assert_refused(TOKENIZER("'post_processor':{'type':'TemplateProcessing','single':[" SPECIAL(
                       "q") "],"
                            "'special_tokens':{'q':{'ids':[99]}}},"),
                   ERROR_BAD_INPUT, "post_processor", "not in the vocabulary");
    assert_refused(TOKENIZER("'post_processor':{'type':'Mystery'},"), ERROR_MISMATCH, "post_processor.type",
                   "'Mystery'");
}

#define LLAMA_DECODER                                                                                        \
    "'decoder':{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String':'\xE2\x96\x81'},'"       \
    "content':' '},"                                                                                         \
    "{'type':'ByteFallback'},{'type':'Fuse'},{'type':'Strip','content':' ','start':1,'stop':0}]},"

static void assert_decodes(const struct tokenizer *tokenizer, const int32_t *ids, size_t n_ids,
                           const char *expected)
{
    char *text = text_of(tokenizer, ids, n_ids, false);
    assert_string_equal(text, expected);
    free(text);
}

static void byte_tokens_join_to_characters_and_a_broken_run_is_replaced_byte_by_byte(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(TOKENIZER(LLAMA_DECODER));
    (void)state;
    assert_decodes(tokenizer, (int32_t[]){8, 8, 1, 9, 10, 8, 2}, 7, " a\xC3\xA9 b");
    assert_decodes(tokenizer, (int32_t[]){9, 10, 9, 1}, 4,
                   "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                   "a");
    assert_decodes(tokenizer, NULL, 0, "");
    tokenizer_destroy(tokenizer);
}

static void without_a_decoder_tokens_are_joined_by_spaces(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(TOKENIZER(""));
    (void)state;
    assert_decodes(tokenizer, (int32_t[]){1, 12, 2}, 3, "a \xC4\xA0 b");
    tokenizer_destroy(tokenizer);
}

static void metaspace_drops_the_mark_of_the_first_token(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(
        TOKENIZER("'decoder':{'type':'Metaspace','replacement':'\xE2\x96\x81','prepend_scheme':'first'},"));
    (void)state;
    assert_decodes(tokenizer, (int32_t[]){8, 1, 8, 2}, 4, "a b");
    tokenizer_destroy(tokenizer);
    tokenizer = tokenizer_of(
        TOKENIZER("'decoder':{'type':'Metaspace','replacement':'\xE2\x96\x81','prepend_scheme':'never'},"));
    assert_decodes(tokenizer, (int32_t[]){8, 1, 8, 2}, 4, " a b");
    tokenizer_destroy(tokenizer);
}

static void decoders_out_of_place_are_refused(void **state)
{
    (void)state;
    assert_refused(TOKENIZER("'decoder':{'type':'WordPiece','prefix':'##'},"), ERROR_MISMATCH, "decoder.type",
                   "'WordPiece'");
    assert_refused(
        TOKENIZER("'decoder':{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'ByteFallback'}]},"),
        ERROR_MISMATCH, "decoder", "'ByteFallback'");
    assert_refused(TOKENIZER("'decoder':{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'Replace','"
                             "pattern':{'String':'ab'},"
                             "'content':''}]},"),
                   ERROR_MISMATCH, "decoder", "'Replace'");
}

static void an_id_that_is_not_there_cannot_be_decoded(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(TOKENIZER(""));
    struct error err = {0};
    char *text = NULL;
    size_t n_bytes;
    const int32_t bad[] = {13, -1, INT32_MAX};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_false(tokenizer_decode(tokenizer, bad + i, 1, false, &text, &n_bytes, &err));
        assert_error(&err, ERROR_BAD_INPUT, "", "no token");
        assert_false(tokenizer_has_id(tokenizer, bad[i]));
        assert_null(tokenizer_token(tokenizer, bad[i]));
    }
    tokenizer_destroy(tokenizer);
}

static void text_that_is_not_utf8_is_refused_with_the_place(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(TOKENIZER(""));
    struct token_ids ids = {0};
    struct error err = {0};
    static const struct {
        const char *text;
        const char *part;
    } cases[] = {{"ab\xFFz", "byte 2"},
                 {"\xC3", "byte 0"},
                 {"a\xED\xA0\x80", "byte 1"},
                 {"abc\xF5\x80\x80\x80", "byte 3"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_false(
            tokenizer_encode(tokenizer, cases[i].text, strlen(cases[i].text), TOKENIZER_PLAIN, &ids, &err));
        assert_error(&err, ERROR_BAD_INPUT, "", cases[i].part);
    }
    assert_int_equal(ids.n_ids, 0);
    token_ids_finish(&ids);
    tokenizer_destroy(tokenizer);
}

static void a_failed_encode_leaves_the_ids_before_it(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of("{'model':{'vocab':{'a':0},'merges':[],'unk_token':'gone'}}");
    struct token_ids ids = {0};
    struct error err = {0};
    (void)state;
    assert_ok(tokenizer_encode(tokenizer, "aa", 2, TOKENIZER_PLAIN, &ids, &err), &err);
    assert_false(tokenizer_encode(tokenizer, "ax", 2, TOKENIZER_PLAIN, &ids, &err));
    assert_int_equal(ids.n_ids, 2);
    token_ids_finish(&ids);
    tokenizer_destroy(tokenizer);
}

static void tokens_can_be_looked_up_both_ways(void **state)
{
    struct tokenizer *tokenizer = tokenizer_of(TOKENIZER("'decoder':{'type':'ByteLevel'},"));
    const char *bytes;
    size_t n_bytes;
    (void)state;
    assert_int_equal(tokenizer_find(tokenizer, "\xC4\xA0"), 12);
    assert_int_equal(tokenizer_find(tokenizer, "zz"), -1);
    assert_string_equal(tokenizer_token(tokenizer, 12), "\xC4\xA0");
    assert_true(tokenizer_token_bytes(tokenizer, 12, &bytes, &n_bytes));
    assert_int_equal(n_bytes, 1);
    assert_memory_equal(bytes, " ", 1);
    tokenizer_destroy(tokenizer);
}

static void the_config_of_a_llama_class_decides_on_the_begin_token(void **state)
{
    static const struct {
        const char *config, *ids;
    } cases[] = {
        {"{\"tokenizer_class\":\"LlamaTokenizerFast\",\"add_bos_token\":false,\"bos_token\":\"<s>\",\"eos_"
         "token\":\"</s>\"}",
         "1 14 0"},
        {"{\"tokenizer_class\":\"LlamaTokenizerFast\",\"bos_token\":\"<s>\"}", "13 1 14 0"},
        {"{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":true,\"add_eos_token\":true,\"bos_"
         "token\":{\"content\":\"<s>\"},"
         "\"eos_token\":\"</s>\"}",
         "13 1 14"},
        {"{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"add_bos_token\":false}", "13 1 14 0"},
        {"{\"model_max_length\":1e30}", "13 1 14 0"},
    };
    char *json = strdup(TOKENIZER(TEMPLATE(SPECIAL("<s>") "," TEXT_A "," SPECIAL("</s>"))));
    (void)state;
    for (char *c = json; *c; c++)
        if (*c == '\'')
            *c = '"';
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        struct tokenizer *tokenizer =
            tokenizer_parse(json, strlen(json), cases[i].config, strlen(cases[i].config), &err);
        assert_ok(tokenizer != NULL, &err);
        assert_string_equal(ids_of_flags(tokenizer, "a", 1, TOKENIZER_ADD_SPECIAL), cases[i].ids);
        tokenizer_destroy(tokenizer);
    }
    free(json);
}

static void the_config_of_gpt2_decides_on_the_prefix_space(void **state)
{
    const char *json = "{\"model\":{\"vocab\":{\"a\":0,\"\xC4\xA0\":1},\"merges\":[]},"
                       "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}}";
    const char *config = "{\"tokenizer_class\":\"GPT2Tokenizer\",\"add_prefix_space\":true}";
    struct error err = {0};
    struct tokenizer *tokenizer = tokenizer_parse(json, strlen(json), config, strlen(config), &err);
    (void)state;
    assert_ok(tokenizer != NULL, &err);
    assert_string_equal(ids_of(tokenizer, "a"), "1 0");
    tokenizer_destroy(tokenizer);
}

static void unknown_fields_and_versions_are_refused(void **state)
{
    (void)state;
    assert_refused(TOKENIZER("'version':'2.0',"), ERROR_MISMATCH, "version", "'2.0'");
    assert_refused(TOKENIZER("'surprise':1,"), ERROR_BAD_INPUT, "surprise", "unknown field");
    assert_refused("{'version':'1.0'}", ERROR_BAD_INPUT, "model", "missing");
    assert_refused("[1]", ERROR_BAD_INPUT, "", "tokenizer.json");
    assert_refused("{", ERROR_BAD_INPUT, "", "tokenizer.json");
}

/* ---- what Hugging Face tokenizers says ---- */

static void check_ids(const struct tokenizer *tokenizer, const char *text, size_t n_bytes, int flags,
                      const json_t *expected)
{
    struct token_ids ids = {0};
    struct error err = {0};
    assert_ok(tokenizer_encode(tokenizer, text, n_bytes, flags, &ids, &err), &err);
    if (ids.n_ids != json_array_size(expected))
        fail_msg("'%s': %zu ids, not %zu", text, ids.n_ids, json_array_size(expected));
    for (size_t i = 0; i < ids.n_ids; i++)
        if (ids.ids[i] != json_integer_value(json_array_get(expected, i)))
            fail_msg("'%s': id %zu is %d", text, i, ids.ids[i]);
    token_ids_finish(&ids);
}

static void check_text(const struct tokenizer *tokenizer, const json_t *id_list, bool skip_special,
                       const json_t *expected)
{
    struct error err = {0};
    int32_t ids[512];
    size_t n = json_array_size(id_list), n_bytes;
    char *text;
    assert_true(n <= 512);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(id_list, i));
    assert_ok(tokenizer_decode(tokenizer, ids, n, skip_special, &text, &n_bytes, &err), &err);
    if (n_bytes != json_string_length(expected) || memcmp(text, json_string_value(expected), n_bytes) != 0)
        fail_msg("'%s' is not '%s'", text, json_string_value(expected));
    free(text);
}

static void check_case(const struct tokenizer *tokenizer, const json_t *item)
{
    const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, "ids");
    const json_t *whole = json_object_get(item, "with_special"), *decoded = json_object_get(item, "decoded");
    const json_t *skipped = json_object_get(item, "skipped");

    whole = whole ? whole : ids;
    decoded = decoded ? decoded : text;
    skipped = skipped ? skipped : decoded;
    check_ids(tokenizer, json_string_value(text), json_string_length(text), TOKENIZER_PLAIN, ids);
    check_ids(tokenizer, json_string_value(text), json_string_length(text), TOKENIZER_ADD_SPECIAL, whole);
    check_text(tokenizer, whole, false, decoded);
    check_text(tokenizer, whole, true, skipped);
}

static size_t check_directory(const char *directory)
{
    struct error err = {0};
    struct buffer text = {0};
    char *path = path_join(directory, "cases.json");
    struct tokenizer *tokenizer = tokenizer_load(directory, &err);
    assert_ok(tokenizer != NULL, &err);
    assert_ok(file_read_text(&text, path, 1 << 20, &err), &err);
    json_t *cases = json_parse(text.data, text.n_bytes, JSON_NUL_ALLOWED, "cases", &err);
    assert_ok(cases != NULL, &err);
    size_t n = json_array_size(cases);
    for (size_t i = 0; i < n; i++)
        check_case(tokenizer, json_array_get(cases, i));
    json_decref(cases);
    tokenizer_destroy(tokenizer);
    buffer_finish(&text);
    free(path);
    return n;
}

static void golden_texts_encode_and_decode_as_in_the_reference(void **state)
{
    static const char *const names[] = {"byte-level", "sentencepiece"};
    const char *golden = getenv("LORAD_TEST_GOLDEN");
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        char *root = path_join(golden ? golden : "tests/golden", "tokenizers"),
             *directory = path_join(root, names[i]);
        assert_true(check_directory(directory) > 50);
        free(directory);
        free(root);
    }
}

static char *data_directory(const char *name)
{
    const char *root = getenv("LORAD_TEST_DATA");
    char *tokenizers = path_join(root ? root : "../shared/data", "tokenizers"),
         *directory = path_join(tokenizers, name);
    free(tokenizers);
    if (path_is_directory(directory))
        return directory;
    free(directory);
    return NULL;
}

/* cases.inp: texts, each followed by a line that says so; cases.out: the ids of each on a line. */
static void check_vectors(const char *directory)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    struct error err = {0};
    struct buffer texts = {0}, rows = {0};
    char *texts_path = path_join(directory, "cases.inp"), *rows_path = path_join(directory, "cases.out");
    struct tokenizer *tokenizer = tokenizer_load(directory, &err);
    size_t n_checked = 0;
    assert_ok(tokenizer != NULL, &err);
    assert_ok(file_read_text(&texts, texts_path, 1 << 20, &err) &&
                  file_read_text(&rows, rows_path, 1 << 20, &err),
              &err);
    char *row = rows.data;
    for (const char *text = texts.data, *end; row && (end = strstr(text, mark));
         text = end + sizeof mark - 1) {
        char *line_end = strchr(row, '\n');
        if (line_end)
            *line_end = '\0';
        assert_string_equal(ids_of_flags(tokenizer, text, (size_t)(end - text), TOKENIZER_PLAIN),
                            row + strspn(row, " "));
        row = line_end ? line_end + 1 : NULL;
        n_checked++;
    }
    assert_true(n_checked > 40);
    tokenizer_destroy(tokenizer);
    buffer_finish(&texts);
    buffer_finish(&rows);
    free(texts_path);
    free(rows_path);
}

static void the_tokenizers_of_real_models_pass_known_vectors(void **state)
{
    static const char *const names[] = {"gpt2", "llama3", "qwen2"};
    size_t n_found = 0;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *directory = data_directory(names[i]);
        if (!directory)
            continue;
        n_found++;
        check_vectors(directory);
        free(directory);
    }
    if (n_found == 0)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(added_tokens_are_cut_out_leftmost_and_longest_first),
        cmocka_unit_test(a_match_that_began_earlier_wins_even_if_a_shorter_one_ended_before),
        cmocka_unit_test(single_word_tokens_stand_alone),
        cmocka_unit_test(lstrip_and_rstrip_take_white_space_along),
        cmocka_unit_test(normalized_tokens_are_found_in_their_normal_form),
        cmocka_unit_test(the_normalizer_runs_on_every_piece_between_special_tokens),
        cmocka_unit_test(special_tokens_can_be_plain_text),
        cmocka_unit_test(a_token_of_the_model_keeps_its_id_when_added),
        cmocka_unit_test(ids_of_added_tokens_must_be_those_that_training_saw),
        cmocka_unit_test(a_template_puts_ids_around_the_text_on_demand),
        cmocka_unit_test(templates_that_we_do_not_understand_are_refused),
        cmocka_unit_test(byte_tokens_join_to_characters_and_a_broken_run_is_replaced_byte_by_byte),
        cmocka_unit_test(without_a_decoder_tokens_are_joined_by_spaces),
        cmocka_unit_test(metaspace_drops_the_mark_of_the_first_token),
        cmocka_unit_test(decoders_out_of_place_are_refused),
        cmocka_unit_test(an_id_that_is_not_there_cannot_be_decoded),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_with_the_place),
        cmocka_unit_test(a_failed_encode_leaves_the_ids_before_it),
        cmocka_unit_test(tokens_can_be_looked_up_both_ways),
        cmocka_unit_test(the_config_of_a_llama_class_decides_on_the_begin_token),
        cmocka_unit_test(the_config_of_gpt2_decides_on_the_prefix_space),
        cmocka_unit_test(unknown_fields_and_versions_are_refused),
        cmocka_unit_test(golden_texts_encode_and_decode_as_in_the_reference),
        cmocka_unit_test(the_tokenizers_of_real_models_pass_known_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
