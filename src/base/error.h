/*
 * error.h - setting and prefixing errors.
 *
 * Only the finder sets; callers above prefix with what they know. `err` may be NULL everywhere.
 * A function that can fail returns bool or a pointer and leaves its outputs alone on failure.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdarg.h>
#include <stdbool.h>

#include <lorad/error.h>

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(text_index, first) __attribute__((format(printf, text_index, first)))

/* Fills `err` and returns false, so that finding and reporting are one statement. `param` may be
   NULL. Too long texts are cut at a UTF-8 boundary; bytes that are not printable UTF-8 become '?'. */
bool error_set(struct error *err, enum error_code code, const char *param, const char *format, ...)
    PRINTF_LIKE(4, 5);

/* ERROR_NO_MEMORY with a fixed text. */
bool error_no_memory(struct error *err);

/* ERROR_IO with `what`, the path and strerror(errno_value). ENOENT gives ERROR_NOT_FOUND, ENOMEM
   ERROR_NO_MEMORY. */
bool error_io(struct error *err, const char *what, const char *path, int errno_value);

/* Puts "prefix: " before the message. Keeps code and param. */
void error_prefix(struct error *err, const char *format, ...) PRINTF_LIKE(2, 3);

/* Puts "prefix." before a param that is there: "factor" of rope_scaling becomes "rope_scaling.factor". */
void error_prefix_param(struct error *err, const char *prefix);

/* "bad_input", "not_found", ...: for logs and JSON. Never NULL. */
const char *error_code_name(enum error_code code);

#endif
