/*
 * check.h - cmocka with what it needs before it, and assertions for functions that fill an error.
 */
#ifndef SUPPORT_CHECK_H
#define SUPPORT_CHECK_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"

/* The call returned true; if not, its error is shown. */
#define assert_ok(call, err)                                                                                 \
    do {                                                                                                     \
        (err)->message[0] = '\0';                                                                            \
        if (!(call))                                                                                         \
            fail_msg("%s failed: %s", #call, (err)->message);                                                \
    } while (0)

/* The error has this code and param, and a message that holds `part`. */
#define assert_error(err, expected_code, expected_param, part)                                               \
    do {                                                                                                     \
        if ((err)->code != (expected_code))                                                                  \
            fail_msg("code is %s, not %s: %s", error_code_name((err)->code), error_code_name(expected_code), \
                     (err)->message);                                                                        \
        assert_string_equal((err)->param, expected_param);                                                   \
        if (!strstr((err)->message, part))                                                                   \
            fail_msg("'%s' is not in the message '%s'", part, (err)->message);                               \
    } while (0)

#endif
