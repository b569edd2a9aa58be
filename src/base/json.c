/*
 * json.c - typed getters over jansson's values, and the words for messages. json_parse.c makes the values.
 */
#include "base/json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/utf8.h"

json_t *json_parse_object(const char *text, size_t n_bytes, int flags, const char *what, struct error *err)
{
    char found[64];
    json_t *value = json_parse(text, n_bytes, flags, what, err);
    if (!value || json_is_object(value))
        return value;
    error_set(err, ERROR_BAD_INPUT, NULL, "%s must be an object, but is %s", what,
              json_describe(value, found, sizeof found));
    json_decref(value);
    return NULL;
}

json_t *json_read_file(const char *path, size_t maximum, int flags, const char *what, struct error *err)
{
    struct buffer text;
    buffer_init(&text, 0);
    json_t *value = NULL;
    if (file_read_text(&text, path, maximum, err))
        value = json_parse_object(buffer_text(&text), text.n_bytes, flags, what, err);
    buffer_finish(&text);
    return value;
}

/* --- getters --- */

/* The member, or NULL when it is absent or null. */
static const json_t *present(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static bool wrong(const json_t *value, const char *key, const char *expected, struct error *err)
{
    char found[96];
    return error_set(err, ERROR_BAD_INPUT, key, "'%s' must be %s, but is %s", key, expected,
                     json_describe(value, found, sizeof found));
}

static bool missing(const char *key, const char *expected, struct error *err)
{
    return error_set(err, ERROR_BAD_INPUT, key, "'%s' is missing; it must be %s", key, expected);
}

bool json_is_absent(const json_t *object, const char *key)
{
    return !present(object, key);
}

bool json_get_bool(const json_t *object, const char *key, bool *out, struct error *err)
{
    const json_t *value = present(object, key);
    if (!value)
        return true;
    if (!json_is_boolean(value))
        return wrong(value, key, "true or false", err);
    *out = json_is_true(value);
    return true;
}

bool json_to_int(const json_t *value, int64_t *out)
{
    /* Beyond 2^53 a real no longer says which integer was written. */
    const double MOST_EXACT = 9007199254740992.0;
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    double number = json_is_real(value) ? json_real_value(value) : NAN;
    if (!(fabs(number) <= MOST_EXACT) || number != floor(number))
        return false;
    *out = (int64_t)number;
    return true;
}

bool json_get_int(const json_t *object, const char *key, int64_t minimum, int64_t maximum, int64_t *out,
                  struct error *err)
{
    const json_t *value = present(object, key);
    int64_t found;
    char expected[96];
    if (!value)
        return true;
    if (!json_to_int(value, &found) || found < minimum || found > maximum) {
        snprintf(expected, sizeof expected, "an integer from %" PRId64 " to %" PRId64, minimum, maximum);
        return wrong(value, key, expected, err);
    }
    *out = found;
    return true;
}

bool json_get_size(const json_t *object, const char *key, size_t minimum, size_t maximum, size_t *out,
                   struct error *err)
{
    int64_t found = -1;
    assert(minimum <= maximum && maximum <= INT64_MAX);
    if (!json_get_int(object, key, (int64_t)minimum, (int64_t)maximum, &found, err))
        return false;
    if (found >= 0)
        *out = (size_t)found;
    return true;
}

bool json_require_size(const json_t *object, const char *key, size_t minimum, size_t maximum, size_t *out,
                       struct error *err)
{
    char expected[96];
    if (json_is_absent(object, key)) {
        snprintf(expected, sizeof expected, "an integer from %zu to %zu", minimum, maximum);
        return missing(key, expected, err);
    }
    return json_get_size(object, key, minimum, maximum, out, err);
}

bool json_get_number(const json_t *object, const char *key, double minimum, double maximum, double *out,
                     struct error *err)
{
    const json_t *value = present(object, key);
    char expected[96];
    if (!value)
        return true;
    double found = json_is_number(value) ? json_number_value(value) : NAN;
    if (!isfinite(found) || found < minimum || found > maximum) {
        if (isinf(minimum) && isinf(maximum))
            return wrong(value, key, "a number", err);
        snprintf(expected, sizeof expected, "a number from %.10g to %.10g", minimum, maximum);
        return wrong(value, key, expected, err);
    }
    *out = found;
    return true;
}

bool json_get_string(const json_t *object, const char *key, const char **out, struct error *err)
{
    const json_t *value = present(object, key);
    if (!value)
        return true;
    if (!json_is_string(value))
        return wrong(value, key, "a string", err);
    *out = json_string_value(value);
    return true;
}

bool json_require_string(const json_t *object, const char *key, const char **out, struct error *err)
{
    if (json_is_absent(object, key))
        return missing(key, "a string", err);
    return json_get_string(object, key, out, err);
}

bool json_get_object(const json_t *object, const char *key, const json_t **out, struct error *err)
{
    const json_t *value = present(object, key);
    if (!value)
        return true;
    if (!json_is_object(value))
        return wrong(value, key, "an object", err);
    *out = value;
    return true;
}

bool json_get_array(const json_t *object, const char *key, const json_t **out, struct error *err)
{
    const json_t *value = present(object, key);
    if (!value)
        return true;
    if (!json_is_array(value))
        return wrong(value, key, "an array", err);
    *out = value;
    return true;
}

/* --- words for messages --- */

static void describe_string(const json_t *value, char *buffer, size_t n_buffer)
{
    enum { MOST_SHOWN = 40 };
    char shown[MOST_SHOWN + 1];
    size_t n_bytes = json_string_length(value);
    size_t n_shown = utf8_clean(shown, sizeof shown, json_string_value(value), n_bytes);
    snprintf(buffer, n_buffer, "the string \"%s%s\"", shown,
             n_shown < n_bytes && n_bytes > MOST_SHOWN - 4 ? "..." : "");
}

const char *json_describe(const json_t *value, char *buffer, size_t n_buffer)
{
    if (!value)
        snprintf(buffer, n_buffer, "nothing");
    else
        switch (json_typeof(value)) {
        case JSON_OBJECT:
            snprintf(buffer, n_buffer, "an object");
            break;
        case JSON_ARRAY:
            snprintf(buffer, n_buffer, "an array");
            break;
        case JSON_STRING:
            describe_string(value, buffer, n_buffer);
            break;
        case JSON_INTEGER:
            snprintf(buffer, n_buffer, "the number %" JSON_INTEGER_FORMAT, json_integer_value(value));
            break;
        case JSON_REAL:
            snprintf(buffer, n_buffer, "the number %.10g", json_real_value(value));
            break;
        case JSON_TRUE:
            snprintf(buffer, n_buffer, "true");
            break;
        case JSON_FALSE:
            snprintf(buffer, n_buffer, "false");
            break;
        case JSON_NULL:
            snprintf(buffer, n_buffer, "null");
            break;
        }
    return buffer;
}

bool json_check_known(const json_t *object, const char *const *known, struct error *err)
{
    const char *key;
    json_t *value;
    JSON_FOR_EACH (object, key, value) {
        const char *const *name = known;
        while (*name && strcmp(*name, key) != 0)
            name++;
        if (!*name)
            return error_set(err, ERROR_BAD_INPUT, key, "'%.200s' is an unknown field", key);
    }
    return true;
}
