/*
 * json.h - the one door to jansson: strict parsing and typed getters that name the field.
 *
 * Parsing takes what RFC 8259 allows and nothing else. It refuses duplicate keys, what is not UTF-8
 * (lone surrogates too), nesting deeper than LIMIT_JSON_DEPTH, too many containers for the text's
 * length, numbers beyond a double, NUL escapes unless `json_parse` is told to allow them, and
 * anything after the value. Any thread may parse.
 *
 * Getters: `object` is a JSON object, `key` a member. A missing member or null leaves *out as it
 * is and is fine, unless the name says `require`. A wrong type or range is ERROR_BAD_INPUT with
 * param = the key (error_prefix_param says where it lies) and says what was found and expected.
 * Integers beyond 64 bits arrive as reals. Strings without JSON_NUL_ALLOWED hold no NUL. An
 * object is walked (json_object_iter) in the order of the text.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

enum json_flags {
    JSON_PLAIN = 0,
    JSON_NUL_ALLOWED = 1 /* strings may hold U+0000 (tokenizer vocabularies) */
};

/* The value, owned by the caller (json_decref), or NULL with err: line, column, what. `what` names
   the text in messages, for instance "adapter_config.json" or "body". */
json_t *json_parse(const char *text, size_t n_bytes, int flags, const char *what, struct error *err);
json_t *json_parse_object(const char *text, size_t n_bytes, int flags, const char *what, struct error *err);
json_t *json_read_file(const char *path, size_t maximum, int flags, const char *what, struct error *err); /* an object */

bool json_get_bool(const json_t *object, const char *key, bool *out, struct error *err) MUST_USE;
/* Whether `value` is an integer, or a real with an integral value (8.0) that is exact. */
bool json_to_int(const json_t *value, int64_t *out) MUST_USE;
/* Integers as json_to_int takes them. Range inclusive. */
bool json_get_int(const json_t *object, const char *key, int64_t minimum, int64_t maximum, int64_t *out,
                  struct error *err) MUST_USE;
bool json_get_size(const json_t *object, const char *key, size_t minimum, size_t maximum, size_t *out,
                   struct error *err) MUST_USE;
bool json_require_size(const json_t *object, const char *key, size_t minimum, size_t maximum, size_t *out,
                       struct error *err) MUST_USE;
/* A finite number, int or real, in [minimum, maximum]. */
bool json_get_number(const json_t *object, const char *key, double minimum, double maximum, double *out,
                     struct error *err) MUST_USE;
/* Borrowed from the object; valid as long as it is. */
bool json_get_string(const json_t *object, const char *key, const char **out, struct error *err) MUST_USE;
bool json_require_string(const json_t *object, const char *key, const char **out, struct error *err) MUST_USE;
bool json_get_object(const json_t *object, const char *key, const json_t **out, struct error *err) MUST_USE;
bool json_get_array(const json_t *object, const char *key, const json_t **out, struct error *err) MUST_USE;

/* Walks the members in the order of the text: const char *key; json_t *value. */
#define JSON_FOR_EACH(object, key, value) json_object_foreach ((json_t *)(uintptr_t)(object), key, value)

/* True for absent and null. */
bool json_is_absent(const json_t *object, const char *key);

/* "an object", "a string", "the number 3.5", "null" ...: what was found, shortened, for messages. */
const char *json_describe(const json_t *value, char *buffer, size_t n_buffer);

/* ERROR_BAD_INPUT "... unknown field" for the first member of `object` that is not in `known` (ends with NULL). */
bool json_check_known(const json_t *object, const char *const *known, struct error *err) MUST_USE;

#endif
