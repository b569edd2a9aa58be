/*
 * error.c - texts are formatted into a local buffer first, so that arguments may point into the
 * error itself, and cleaned on the way in, because they quote files and requests.
 */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Longer than any field of the error, so that a cut here never shows. */
enum { SCRATCH_BYTES = sizeof((struct error *)0)->message + 64 };

static void clean(char *out, size_t n_out, const char *text)
{
    size_t n_bytes = strlen(text), n_step;
    /* vsnprintf may have cut inside a character, which is no reason to print a '?'. */
    if (n_bytes >= SCRATCH_BYTES - 1)
        for (size_t back = 1; back <= 3; back++)
            if (utf8_next(text + n_bytes - back, back, &n_step) == UTF8_INCOMPLETE) {
                n_bytes -= back;
                break;
            }
    utf8_clean(out, n_out, text, n_bytes);
}

bool error_set(struct error *err, enum error_code code, const char *param, const char *format, ...)
{
    char text[SCRATCH_BYTES], name[SCRATCH_BYTES];
    va_list arguments;

    if (!err)
        return false;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(name, sizeof name, "%s", param ? param : "");

    err->code = code;
    clean(err->param, sizeof err->param, name);
    clean(err->message, sizeof err->message, text);
    return false;
}

bool error_no_memory(struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, NULL, "out of memory");
}

bool error_io(struct error *err, const char *what, const char *path, int errno_value)
{
    char buffer[128];
    const char *reason = strerror_r(errno_value, buffer, sizeof buffer);
    enum error_code code = errno_value == ENOENT   ? ERROR_NOT_FOUND
                           : errno_value == ENOMEM ? ERROR_NO_MEMORY
                                                   : ERROR_IO;
    return error_set(err, code, NULL, "%s '%s': %s", what, path, reason);
}

void error_prefix(struct error *err, const char *format, ...)
{
    char text[SCRATCH_BYTES];
    va_list arguments;

    if (!err)
        return;
    va_start(arguments, format);
    int n_prefix = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (n_prefix < 0)
        return;
    size_t n_used = strlen(text);
    snprintf(text + n_used, sizeof text - n_used, ": %s", err->message);
    clean(err->message, sizeof err->message, text);
}

void error_prefix_param(struct error *err, const char *prefix)
{
    char name[SCRATCH_BYTES];
    if (!err || !*err->param)
        return;
    snprintf(name, sizeof name, "%s.%s", prefix, err->param);
    clean(err->param, sizeof err->param, name);
}

const char *error_code_name(enum error_code code)
{
    switch (code) {
    case ERROR_NONE:
        return "none";
    case ERROR_BAD_INPUT:
        return "bad_input";
    case ERROR_NOT_FOUND:
        return "not_found";
    case ERROR_CONFLICT:
        return "conflict";
    case ERROR_TOO_LARGE:
        return "too_large";
    case ERROR_MISMATCH:
        return "mismatch";
    case ERROR_BUSY:
        return "busy";
    case ERROR_UNAVAILABLE:
        return "unavailable";
    case ERROR_NO_MEMORY:
        return "no_memory";
    case ERROR_IO:
        return "io";
    case ERROR_INTERNAL:
        return "internal";
    case ERROR_CANCELLED:
        return "cancelled";
    }
    return "unknown";
}
