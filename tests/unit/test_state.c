#include "lora/state.h"

#include <stdlib.h>

#include "support/check.h"
#include "support/scratch.h"

#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void what_was_written_is_read_back(void **state)
{
    struct error err = {0};
    char *folder = scratch_create();
    char path[] = "/srv/adapters/a \"quoted\" name";
    struct state_entry entries[] = {
        {.id = "one", .digest = DIGEST, .path = path, .default_mode = LORAD_MODE_MERGED},
        {.id = "two", .digest = DIGEST, .is_upload = true, .allow_other_heads = true},
    };
    struct state written = {.entries = entries, .n_entries = 2}, read;
    (void)state;
    assert_ok(state_write(&written, folder, &err), &err);
    assert_ok(state_read(&read, folder, &err), &err);
    assert_int_equal(read.n_entries, 2);
    assert_string_equal(read.entries[0].id, "one");
    assert_string_equal(read.entries[0].path, path);
    assert_int_equal(read.entries[0].default_mode, LORAD_MODE_MERGED);
    assert_true(read.entries[1].is_upload && read.entries[1].allow_other_heads);
    assert_null(read.entries[1].path);
    state_finish(&read);
    scratch_remove(folder);
}

static void no_file_is_an_empty_state(void **state)
{
    struct error err = {0};
    struct state read;
    char *folder = scratch_create();
    (void)state;
    assert_ok(state_read(&read, folder, &err), &err);
    assert_int_equal(read.n_entries, 0);
    state_finish(&read);
    scratch_remove(folder);
}

static void a_file_that_is_off_in_any_field_is_an_error(void **state)
{
    static const char *const bads[] = {
        "",
        "[]",
        "{",
        "{\"version\": 2, \"adapters\": []}",
        "{\"adapters\": []}",
        "{\"version\": 1, \"adapters\": {}}",
        "{\"version\": 1, \"adapters\": [], \"more\": 1}",
        "{\"version\": 1, \"adapters\": [1]}",
        "{\"version\": 1, \"adapters\": [{\"id\": \"../x\", \"digest\": \"" DIGEST "\", \"path\": \"/a\"}]}",
        "{\"version\": 1, \"adapters\": [{\"id\": \"x\", \"digest\": \"../../etc\", \"upload\": true}]}",
        "{\"version\": 1, \"adapters\": [{\"id\": \"x\", \"digest\": \"" DIGEST "\"}]}",
        "{\"version\": 1, \"adapters\": [{\"id\": \"x\", \"digest\": \"" DIGEST
        "\", \"path\": \"/a\", \"upload\": true}]}",
        "{\"version\": 1, \"adapters\": [{\"id\": \"x\", \"digest\": \"" DIGEST
        "\", \"path\": \"/a\", \"default_mode\": \"fast\"}]}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bads / sizeof bads[0]; i++) {
        struct error err = {0};
        struct state read;
        char *folder = scratch_create();
        scratch_write_text(folder, "registry.json", bads[i]);
        if (state_read(&read, folder, &err))
            fail_msg("'%s' is taken", bads[i]);
        assert_int_equal(err.code, ERROR_BAD_INPUT);
        assert_non_null(strstr(err.message, "registry.json"));
        scratch_remove(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read_back),
        cmocka_unit_test(no_file_is_an_empty_state),
        cmocka_unit_test(a_file_that_is_off_in_any_field_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
