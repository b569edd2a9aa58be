/*
 * buffer.h - growing bytes with a maximum and a failure that sticks.
 *
 * Append as often as you like and look once: after a failed append (no memory, or over the
 * maximum) the buffer stays failed, keeps what it had, and further appends do nothing.
 * The contents are always followed by a NUL that is not counted.
 */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct buffer {
    char *data;     /* NULL while nothing was appended */
    size_t n_bytes; /* without the NUL */
    size_t capacity;
    size_t maximum; /* bytes; 0: no limit */
    bool failed;
};

void buffer_init(struct buffer *buffer, size_t maximum);
void buffer_finish(struct buffer *buffer);            /* frees; zeroed buffers are fine */
void buffer_clear(struct buffer *buffer);             /* empty and not failed, memory kept */
bool buffer_append(struct buffer *buffer, const void *bytes, size_t n_bytes);
bool buffer_append_text(struct buffer *buffer, const char *text);
bool buffer_append_byte(struct buffer *buffer, char byte);
bool buffer_printf(struct buffer *buffer, const char *format, ...) PRINTF_LIKE(2, 3);
void buffer_drop_front(struct buffer *buffer, size_t n_bytes); /* n_bytes <= buffer->n_bytes */
const char *buffer_text(const struct buffer *buffer); /* never NULL */
char *buffer_take(struct buffer *buffer);             /* the bytes, NUL-terminated, now the caller's (free); NULL if failed or no memory */

#endif
