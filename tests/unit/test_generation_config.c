#include "formats/generation_config.h"

#include <math.h>
#include <stdlib.h>

#include "support/check.h"
#include "support/scratch.h"

enum { N_VOCAB = 1000 };

static char *folder;

static int enter(void **state)
{
    (void)state;
    folder = scratch_create();
    return 0;
}

static int leave(void **state)
{
    (void)state;
    scratch_remove(folder);
    return 0;
}

/* `file` NULL: there is none. */
static bool read_config(struct generation_config *out, const char *file, const char *model, struct error *err)
{
    if (file)
        scratch_write_text(folder, "generation_config.json", file);
    json_t *model_config = json_loads(model, 0, NULL);
    assert_non_null(model_config);
    bool read = generation_config_read(out, folder, model_config, N_VOCAB, err);
    json_decref(model_config);
    return read;
}

static void without_a_file_the_model_s_own_config_counts(void **state)
{
    struct generation_config config;
    struct error err;
    (void)state;
    assert_ok(read_config(&config, NULL, "{\"eos_token_id\":[7,8,7]}", &err), &err);
    assert_int_equal(config.n_eos_ids, 2);
    assert_int_equal(config.eos_ids[0], 7);
    assert_int_equal(config.eos_ids[1], 8);
    assert_true(isnan(config.temperature) && isnan(config.top_p) && isnan(config.min_p));
    assert_true(isnan(config.repetition_penalty));
    assert_int_equal(config.top_k, -1);
}

static void the_file_wins_over_the_model_s_config(void **state)
{
    struct generation_config config;
    struct error err;
    (void)state;
    assert_ok(read_config(&config, "{\"eos_token_id\":5}", "{\"eos_token_id\":7}", &err), &err);
    assert_int_equal(config.n_eos_ids, 1);
    assert_int_equal(config.eos_ids[0], 5);
    assert_ok(read_config(&config, "{\"eos_token_id\":null}", "{\"eos_token_id\":7}", &err), &err);
    assert_int_equal(config.eos_ids[0], 7);
    assert_ok(read_config(&config, "{\"eos_token_id\":[]}", "{\"eos_token_id\":null}", &err), &err);
    assert_int_equal(config.n_eos_ids, 0);
}

static void the_makers_sampling_is_read(void **state)
{
    struct generation_config config;
    struct error err;
    (void)state;
    assert_ok(
        read_config(&config,
                    "{\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.9,\"top_k\":20,\"min_p\":0.05,"
                    "\"repetition_penalty\":1.1,\"pad_token_id\":0,\"transformers_version\":\"4.46.3\"}",
                    "{}", &err),
        &err);
    assert_true(config.temperature == 0.6 && config.top_p == 0.9 && config.min_p == 0.05);
    assert_true(config.repetition_penalty == 1.1);
    assert_int_equal(config.top_k, 20);
}

static void sampling_that_is_switched_off_is_not_recommended(void **state)
{
    struct generation_config config;
    struct error err;
    (void)state;
    assert_ok(read_config(&config,
                          "{\"do_sample\":false,\"temperature\":0.6,\"top_k\":20,\"repetition_penalty\":1.1}",
                          "{}", &err),
              &err);
    assert_true(isnan(config.temperature));
    assert_int_equal(config.top_k, -1);
    assert_true(config.repetition_penalty == 1.1);
}

static void bad_files_are_refused_with_the_field(void **state)
{
    static const struct {
        const char *file, *model;
        enum error_code code;
        const char *param, *message;
    } CASES[] = {
        {"{\"eos_token_id\":1000}", "{}", ERROR_BAD_INPUT, "eos_token_id",
         "generation_config.json: eos_token_id must be an id below 1000"},
        {"{\"eos_token_id\":-1}", "{}", ERROR_BAD_INPUT, "eos_token_id", "is the number -1"},
        {"{\"eos_token_id\":[1,\"2\"]}", "{}", ERROR_BAD_INPUT, "eos_token_id", "the string \"2\""},
        {"{\"eos_token_id\":[1,null]}", "{}", ERROR_BAD_INPUT, "eos_token_id", "is null"},
        {"{\"eos_token_id\":\"</s>\"}", "{}", ERROR_BAD_INPUT, "eos_token_id", "the string \"</s>\""},
        {"{\"eos_token_id\":1.5}", "{}", ERROR_BAD_INPUT, "eos_token_id", "1.5"},
        {"{\"eos_token_id\":4294967296}", "{}", ERROR_BAD_INPUT, "eos_token_id", "4294967296"},
        {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", "{}", ERROR_TOO_LARGE,
         "eos_token_id", "more than 16"},
        {"{}", "{\"eos_token_id\":1000}", ERROR_BAD_INPUT, "eos_token_id",
         "config.json: eos_token_id must be"},
        {"{\"temperature\":-1}", "{}", ERROR_BAD_INPUT, "temperature", "from 0 to 100"},
        {"{\"temperature\":\"hot\"}", "{}", ERROR_BAD_INPUT, "temperature", "the string \"hot\""},
        {"{\"top_p\":1.5}", "{}", ERROR_BAD_INPUT, "top_p", "from 0 to 1"},
        {"{\"top_k\":2.5}", "{}", ERROR_BAD_INPUT, "top_k", "an integer"},
        {"{\"min_p\":[]}", "{}", ERROR_BAD_INPUT, "min_p", "an array"},
        {"{\"repetition_penalty\":0}", "{}", ERROR_BAD_INPUT, "repetition_penalty", "a number"},
        {"{\"do_sample\":\"yes\"}", "{}", ERROR_BAD_INPUT, "do_sample", "true or false"},
        {"[]", "{}", ERROR_BAD_INPUT, "", "generation_config.json must be an object"},
        {"{\"top_p\":1,\"top_p\":1}", "{}", ERROR_BAD_INPUT, "", "duplicate"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct generation_config config = {.n_eos_ids = 3};
        struct error err;
        assert_false(read_config(&config, CASES[i].file, CASES[i].model, &err));
        assert_error(&err, CASES[i].code, CASES[i].param, CASES[i].message);
        assert_int_equal(config.n_eos_ids, 3);
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, enter, leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(without_a_file_the_model_s_own_config_counts),
        TEST(the_file_wins_over_the_model_s_config),
        TEST(the_makers_sampling_is_read),
        TEST(sampling_that_is_switched_off_is_not_recommended),
        TEST(bad_files_are_refused_with_the_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
