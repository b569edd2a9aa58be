#include "http/multipart.h"

#include <stdio.h>
#include <stdlib.h>

#include "support/check.h"

#define TYPE "multipart/form-data; boundary=xyz"

/* What a sink has seen, as text: "[name|filename]data;" per part. */
struct seen {
    struct buffer text;
    int n_open;
    const char *fail_at; /* "begin", "data", "end": that call fails */
};

static bool succeeds(const struct seen *seen, const char *what, struct error *err)
{
    bool fails = seen->fail_at && strcmp(seen->fail_at, what) == 0;
    return !fails || error_set(err, ERROR_IO, NULL, "the sink is full");
}

static bool begin(void *context, const char *name, const char *filename, struct error *err)
{
    struct seen *seen = context;
    assert_int_equal(seen->n_open++, 0);
    buffer_printf(&seen->text, "[%s|%s]", name, filename);
    return succeeds(seen, "begin", err);
}

static bool data(void *context, const void *bytes, size_t n_bytes, struct error *err)
{
    struct seen *seen = context;
    assert_int_equal(seen->n_open, 1);
    assert_true(n_bytes > 0);
    buffer_append(&seen->text, bytes, n_bytes);
    return succeeds(seen, "data", err);
}

static bool end(void *context, struct error *err)
{
    struct seen *seen = context;
    assert_int_equal(seen->n_open--, 1);
    buffer_append_text(&seen->text, ";");
    return succeeds(seen, "end", err);
}

/* Parses `body` in pieces of the given sizes (the last is the rest; the sizes end with 0). */
static bool parse(struct seen *seen, const char *type, const char *body, size_t n_body, const size_t *pieces,
                  struct error *err)
{
    struct multipart parser;
    struct multipart_sink sink = {.begin = begin, .data = data, .end = end, .context = seen};
    size_t at = 0;
    bool ok = multipart_begin(&parser, type, sink, err);
    while (ok && at < n_body) {
        size_t n = pieces && *pieces ? *pieces++ : n_body - at;
        n = n < n_body - at ? n : n_body - at;
        char *copy = malloc(n); /* so that a read past the piece shows */
        memcpy(copy, body + at, n);
        ok = multipart_feed(&parser, copy, n, err);
        free(copy);
        at += n;
    }
    ok = ok && multipart_end(&parser, err);
    multipart_finish(&parser);
    return ok;
}

static void assert_parses(const char *type, const char *body, size_t n_body, const char *expected)
{
    struct error err;
    struct seen seen = {0};
    buffer_init(&seen.text, 0);
    assert_ok(parse(&seen, type, body, n_body, NULL, &err), &err);
    assert_string_equal(buffer_text(&seen.text), expected);
    assert_int_equal(seen.n_open, 0);
    buffer_finish(&seen.text);
}

static void assert_refused(const char *type, const char *body, size_t n_body, const char *param, const char *part)
{
    struct error err = {0};
    struct seen seen = {0};
    buffer_init(&seen.text, 0);
    assert_false(parse(&seen, type, body, n_body, NULL, &err));
    assert_error(&err, ERROR_BAD_INPUT, param, part);
    buffer_finish(&seen.text);
}

#define PARSES(body, expected) assert_parses(TYPE, body, sizeof body - 1, expected)
#define REFUSED(body, part) assert_refused(TYPE, body, sizeof body - 1, "", part)

/* Data full of what looks like the beginning of a delimiter. */
static const char TRICKY[] = "a preamble\r\n--xy\r\n--xyz\r\n"
                             "Content-Disposition: form-data; name=\"one\"; filename=\"one.bin\"\r\n\r\n"
                             "\r\n--xy\r\n\r--xyz\r\n-\r\n--x\r\n"
                             "\r\n--xyz \t\r\nContent-Disposition: form-data; name=two\r\n\r\n"
                             "\r\n--xyz\r\ncontent-disposition:form-data;NAME=\"th\\\"ree\"\r\nX: y\r\n\r\n--xyz"
                             "\r\n--xyz--\r\nan epilogue\r\n--xyz\r\n";
static const char TRICKY_SEEN[] = "[one|one.bin]\r\n--xy\r\n\r--xyz\r\n-\r\n--x\r\n;[two|];[th\"ree|]--xyz;";

static void parts_come_with_their_names_and_bytes(void **state)
{
    (void)state;
    assert_parses(TYPE, TRICKY, sizeof TRICKY - 1, TRICKY_SEEN);
}

static void it_does_not_matter_where_the_body_is_split(void **state)
{
    size_t n = sizeof TRICKY - 1;
    struct error err;
    (void)state;
    for (size_t first = 1; first < n; first++)
        for (size_t second = 0; second <= 8; second++) {
            struct seen seen = {0};
            buffer_init(&seen.text, 0);
            assert_ok(parse(&seen, TYPE, TRICKY, n, (size_t[]){first, second, 0}, &err), &err);
            assert_string_equal(buffer_text(&seen.text), TRICKY_SEEN);
            buffer_finish(&seen.text);
        }
}

static void it_can_come_byte_by_byte(void **state)
{
    size_t n = sizeof TRICKY - 1, *ones = calloc(n + 1, sizeof *ones);
    struct error err;
    struct seen seen = {0};
    (void)state;
    for (size_t i = 0; i < n; i++)
        ones[i] = 1;
    buffer_init(&seen.text, 0);
    assert_ok(parse(&seen, TYPE, TRICKY, n, ones, &err), &err);
    assert_string_equal(buffer_text(&seen.text), TRICKY_SEEN);
    buffer_finish(&seen.text);
    free(ones);
}

static void a_body_cut_anywhere_is_refused(void **state)
{
    size_t n = (size_t)(strstr(TRICKY, "--xyz--") + 7 - TRICKY);
    (void)state;
    for (size_t cut = 0; cut < n; cut++) {
        struct error err = {0};
        struct seen seen = {0};
        buffer_init(&seen.text, 0);
        assert_false(parse(&seen, TYPE, TRICKY, cut, NULL, &err));
        assert_error(&err, ERROR_BAD_INPUT, "", "before its closing boundary");
        buffer_finish(&seen.text);
    }
}

static void an_empty_part_is_a_part(void **state)
{
    (void)state;
    PARSES("--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--xyz--", "[a|];");
}

static void a_body_of_no_parts_is_fine(void **state)
{
    (void)state;
    PARSES("--xyz--\r\n", "");
}

static void zero_bytes_are_data(void **state)
{
    struct error err;
    struct seen seen = {0};
    static const char body[] = "--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\n\0\0\r\n--xyz--";
    (void)state;
    buffer_init(&seen.text, 0);
    assert_ok(parse(&seen, TYPE, body, sizeof body - 1, NULL, &err), &err);
    assert_int_equal(seen.text.n_bytes, 7);
    assert_memory_equal(seen.text.data, "[a|]\0\0;", 7);
    buffer_finish(&seen.text);
}

static void large_data_passes_without_being_kept(void **state)
{
    struct error err;
    struct multipart parser;
    struct seen seen = {0};
    struct multipart_sink sink = {.begin = begin, .data = data, .end = end, .context = &seen};
    static const char head[] = "--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\n";
    static char block[65536];
    (void)state;
    buffer_init(&seen.text, 0);
    assert_ok(multipart_begin(&parser, TYPE, sink, &err), &err);
    assert_ok(multipart_feed(&parser, head, sizeof head - 1, &err), &err);
    for (int i = 0; i < 16; i++) {
        assert_ok(multipart_feed(&parser, block, sizeof block, &err), &err);
        assert_true(parser.pending.n_bytes < 16);
    }
    assert_ok(multipart_feed(&parser, "\r\n--xyz--", 9, &err), &err);
    assert_ok(multipart_end(&parser, &err), &err);
    assert_int_equal(seen.text.n_bytes, 4 + 16 * sizeof block + 1);
    multipart_finish(&parser);
    buffer_finish(&seen.text);
}

static void the_boundary_may_be_quoted_and_anywhere(void **state)
{
    static const char body[] = "--x; y\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x; y--";
    (void)state;
    assert_parses("multipart/form-data; charset=\"a;boundary=no\"; BOUNDARY=\"x; y\"", body, sizeof body - 1, "[a|]1;");
}

static void a_bad_boundary_is_refused(void **state)
{
    char long_type[128] = "multipart/form-data; boundary=";
    (void)state;
    memset(long_type + strlen(long_type), 'b', MULTIPART_BOUNDARY_BYTES + 1);
    assert_refused("multipart/form-data", "", 0, "Content-Type", "boundary");
    assert_refused("multipart/form-data; boundary=", "", 0, "Content-Type", "boundary");
    assert_refused("multipart/form-data; boundary=\"\"", "", 0, "Content-Type", "boundary");
    assert_refused("multipart/form-data; xboundary=a", "", 0, "Content-Type", "boundary");
    assert_refused(long_type, "", 0, "Content-Type", "boundary");
}

static void bad_heads_are_refused(void **state)
{
    (void)state;
    REFUSED("--xyz\r\nContent-Type: text/plain\r\n\r\nx\r\n--xyz--", "Content-Disposition");
    REFUSED("--xyz\r\n\r\n\r\nx\r\n--xyz--", "Content-Disposition");
    REFUSED("--xyz\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xyz--", "without a name");
    REFUSED("--xyz\r\nContent-Disposition: form-data; name=\"\"\r\n\r\nx\r\n--xyz--", "without a name");
    REFUSED("--xyz\r\nContent-Disposition: form-data; filename=a\r\n\r\nx\r\n--xyz--", "without a name");
    REFUSED("--xyz\r\nContent-Disposition: form-data; name=\"\xff\"\r\n\r\nx\r\n--xyz--", "not text");
    REFUSED("--xyz\r\nContent-Disposition: form-data; name=a\0\r\n\r\nx\r\n--xyz--", "not text");
    REFUSED("--xyz\r\nContent-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64\r\n\r\nx\r\n--xyz--", "base64");
    REFUSED("--xyz?\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--xyz--", "line end");
}

static void a_head_without_end_is_refused_before_it_is_kept(void **state)
{
    size_t n = 7 + 3 * MULTIPART_HEAD_BYTES;
    char *body = malloc(n);
    (void)state;
    memset(body, 'h', n);
    memcpy(body, "--xyz\r\n", 7);
    assert_refused(TYPE, body, n, "", "head of a part");
    free(body);
}

static void white_space_without_end_after_a_boundary_is_refused(void **state)
{
    char body[256];
    (void)state;
    memset(body, ' ', sizeof body);
    memcpy(body, "--xyz", 5);
    assert_refused(TYPE, body, sizeof body, "", "white space");
}

static void what_the_sink_refuses_ends_the_parse(void **state)
{
    static const char *const calls[] = {"begin", "data", "end"};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct error err = {0};
        struct seen seen = {.fail_at = calls[i]};
        buffer_init(&seen.text, 0);
        assert_false(parse(&seen, TYPE, TRICKY, sizeof TRICKY - 1, NULL, &err));
        assert_error(&err, ERROR_IO, "", "full");
        buffer_finish(&seen.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_come_with_their_names_and_bytes),
        cmocka_unit_test(it_does_not_matter_where_the_body_is_split),
        cmocka_unit_test(it_can_come_byte_by_byte),
        cmocka_unit_test(a_body_cut_anywhere_is_refused),
        cmocka_unit_test(an_empty_part_is_a_part),
        cmocka_unit_test(a_body_of_no_parts_is_fine),
        cmocka_unit_test(zero_bytes_are_data),
        cmocka_unit_test(large_data_passes_without_being_kept),
        cmocka_unit_test(the_boundary_may_be_quoted_and_anywhere),
        cmocka_unit_test(a_bad_boundary_is_refused),
        cmocka_unit_test(bad_heads_are_refused),
        cmocka_unit_test(a_head_without_end_is_refused_before_it_is_kept),
        cmocka_unit_test(white_space_without_end_after_a_boundary_is_refused),
        cmocka_unit_test(what_the_sink_refuses_ends_the_parse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
