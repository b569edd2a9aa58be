/*
 * fuzz_json.c - any bytes as JSON, against jansson's own parser: both refuse, or both give the same
 * value. Where we differ on purpose (NUL bytes, integers beyond 64 bits, limits), only ours is asked.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data);

static bool is_ours_alone(const struct error *err)
{
    return strstr(err->message, "nested too deeply") || strstr(err->message, "too many objects") ||
           strstr(err->message, "number is too long");
}

/* jansson refuses integers that do not fit. */
static bool is_theirs_alone(const json_error_t *error)
{
    return strncmp(error->text, "too big", 7) == 0;
}

static void compare(const char *text, size_t n_bytes, bool nul_allowed)
{
    struct error err;
    json_error_t their_error;
    size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY;
    json_t *ours = json_parse(text, n_bytes, nul_allowed ? JSON_NUL_ALLOWED : JSON_PLAIN, "fuzz", &err);
    json_t *theirs = NULL;
    if (!ours) {
        assert(err.code == ERROR_BAD_INPUT);
        assert(utf8_is_valid(err.message, strlen(err.message)));
    }
    /* A NUL in a name is one more thing that jansson cannot read. */
    if (!memchr(text, '\0', n_bytes) && !nul_allowed) {
        theirs = json_loadb(text, n_bytes, flags, &their_error);
        if (ours && theirs)
            assert(json_equal(ours, theirs));
        else if (ours)
            assert(is_theirs_alone(&their_error));
        else if (theirs)
            assert(is_ours_alone(&err));
    }
    json_decref(theirs);
    json_decref(ours);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data)
{
    /* Memory of the exact size, so that one byte too many is seen. */
    char *text = malloc(n_data ? n_data : 1);
    if (!text)
        return 0;
    memcpy(text, data, n_data);
    compare(text, n_data, false);
    compare(text, n_data, true);
    free(text);
    return 0;
}
