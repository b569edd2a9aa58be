#include "base/log.h"

#include <jansson.h>
#include <unistd.h>

#include "support/check.h"
#include "support/scratch.h"

/* stderr goes to a file while a test looks at it. */
static char *folder, *path;
static int real_stderr;

static int redirect(void **state)
{
    (void)state;
    folder = scratch_create();
    path = path_join(folder, "log");
    real_stderr = dup(STDERR_FILENO);
    return !freopen(path, "w+", stderr);
}

static int restore(void **state)
{
    (void)state;
    fflush(stderr);
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    free(path);
    scratch_remove(folder);
    log_configure(LOG_INFO, LOG_TEXT);
    return 0;
}

static const char *written(void)
{
    static struct buffer text;
    buffer_clear(&text);
    if (!file_read_text(&text, path, 1 << 20, NULL))
        abort();
    return buffer_text(&text);
}

static void a_text_line_has_time_level_event_and_pairs(void **state)
{
    (void)state;
    log_configure(LOG_INFO, LOG_TEXT);
    log_event(LOG_WARNING, "adapter_loaded", "id=%s bytes=%d", "poet", 7);
    const char *line = written();
    int n_matched = 0;
    assert_int_equal(sscanf(line, "%*4d-%*2d-%*2dT%*2d:%*2d:%*2d.%*3dZ%n", &n_matched), 0);
    assert_int_equal(n_matched, 24);
    assert_string_equal(line + n_matched, " level=warning event=adapter_loaded id=poet bytes=7\n");
}

static void events_below_the_lowest_level_are_not_written(void **state)
{
    (void)state;
    log_configure(LOG_WARNING, LOG_TEXT);
    log_event(LOG_INFO, "x", "a=1");
    assert_string_equal(written(), "");
    log_event(LOG_ERROR, "x", "a=1");
    assert_non_null(strstr(written(), "event=x a=1\n"));
}

static void a_json_line_parses_and_keeps_types(void **state)
{
    char quoted[64];
    (void)state;
    log_configure(LOG_INFO, LOG_JSON);
    log_event(LOG_INFO, "done", "id=%s n=%d rate=%.2f ok=true nothing=null odd=01 text=%s minus=-3 stray",
              "a\\b", 5, 1.5, log_quote("two \"words\"\n\xff", quoted, sizeof quoted));
    json_t *line = json_loads(written(), 0, NULL);
    assert_non_null(line);
    assert_string_equal(json_string_value(json_object_get(line, "level")), "info");
    assert_string_equal(json_string_value(json_object_get(line, "event")), "done");
    assert_string_equal(json_string_value(json_object_get(line, "id")), "a\\b");
    assert_int_equal(json_integer_value(json_object_get(line, "n")), 5);
    assert_true(json_real_value(json_object_get(line, "rate")) == 1.5);
    assert_true(json_is_true(json_object_get(line, "ok")));
    assert_true(json_is_null(json_object_get(line, "nothing")));
    assert_string_equal(json_string_value(json_object_get(line, "odd")), "01");
    assert_string_equal(json_string_value(json_object_get(line, "text")), "two \"words\"\n?");
    assert_int_equal(json_integer_value(json_object_get(line, "minus")), -3);
    json_decref(line);
}

static void one_event_is_one_line_whatever_the_values_hold(void **state)
{
    char nasty[6000];
    (void)state;
    memset(nasty, '"', sizeof nasty);
    memcpy(nasty, "a\nlevel=error\r\x1b[2J", 18);
    nasty[sizeof nasty - 1] = '\0';
    for (int format = LOG_TEXT; format <= LOG_JSON; format++) {
        assert_int_equal(ftruncate(STDERR_FILENO, 0), 0);
        lseek(STDERR_FILENO, 0, SEEK_SET);
        log_configure(LOG_INFO, (enum log_format)format);
        log_event(LOG_INFO, "x", "a=%s b=2", nasty);
        const char *line = written();
        assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
        assert_null(strchr(line, '\x1b'));
        if (format == LOG_JSON) {
            json_t *object = json_loads(line, 0, NULL);
            assert_non_null(object);
            json_decref(object);
        }
    }
}

static void quoting_cuts_to_fit_and_stays_a_literal(void **state)
{
    char buffer[64];
    (void)state;
    assert_string_equal(log_quote("a\"\\\t\x01", buffer, sizeof buffer), "\"a\\\"\\\\\\t\\u0001\"");
    assert_string_equal(log_quote("abcdef", buffer, 6), "\"abc\"");
    assert_string_equal(log_quote("ab\xC3\xA4", buffer, 6), "\"ab\"");
    assert_string_equal(log_quote("abc", buffer, 3), "\"\"");
    assert_string_equal(log_quote("abc", buffer, 2), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_text_line_has_time_level_event_and_pairs, redirect, restore),
        cmocka_unit_test_setup_teardown(events_below_the_lowest_level_are_not_written, redirect, restore),
        cmocka_unit_test_setup_teardown(a_json_line_parses_and_keeps_types, redirect, restore),
        cmocka_unit_test_setup_teardown(one_event_is_one_line_whatever_the_values_hold, redirect, restore),
        cmocka_unit_test(quoting_cuts_to_fit_and_stays_a_literal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
