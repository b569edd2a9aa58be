/*
 * buffer.c - capacity doubles, so that appending is linear overall, but never beyond the maximum.
 */
#include "base/buffer.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

enum { FIRST_CAPACITY = 64 };

/* Makes room for `n_bytes` more and the NUL. */
static bool reserve(struct buffer *buffer, size_t n_bytes)
{
    size_t needed, with_nul;
    if (buffer->failed || !size_add(buffer->n_bytes, n_bytes, &needed) || !size_add(needed, 1, &with_nul) ||
        (buffer->maximum && needed > buffer->maximum)) {
        buffer->failed = true;
        return false;
    }
    if (with_nul <= buffer->capacity)
        return true;

    size_t capacity = size_max(buffer->capacity, FIRST_CAPACITY / 2);
    if (!size_multiply(capacity, 2, &capacity))
        capacity = with_nul;
    capacity = size_max(capacity, with_nul);
    if (buffer->maximum)
        capacity = size_max(size_min(capacity, buffer->maximum), with_nul);
    char *data = realloc(buffer->data, capacity);
    if (!data) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

void buffer_init(struct buffer *buffer, size_t maximum)
{
    *buffer = (struct buffer){.maximum = maximum};
}

void buffer_finish(struct buffer *buffer)
{
    if (!buffer)
        return;
    free(buffer->data);
    *buffer = (struct buffer){.maximum = buffer->maximum};
}

void buffer_clear(struct buffer *buffer)
{
    buffer->n_bytes = 0;
    buffer->failed = false;
    if (buffer->data)
        buffer->data[0] = '\0';
}

bool buffer_append(struct buffer *buffer, const void *bytes, size_t n_bytes)
{
    if (!reserve(buffer, n_bytes))
        return false;
    if (n_bytes)
        memcpy(buffer->data + buffer->n_bytes, bytes, n_bytes);
    buffer->n_bytes += n_bytes;
    buffer->data[buffer->n_bytes] = '\0';
    return true;
}

bool buffer_append_text(struct buffer *buffer, const char *text)
{
    return buffer_append(buffer, text, strlen(text));
}

bool buffer_append_byte(struct buffer *buffer, char byte)
{
    return buffer_append(buffer, &byte, 1);
}

bool buffer_printf(struct buffer *buffer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0)
        buffer->failed = true;
    if (buffer->failed || !reserve(buffer, (size_t)length))
        return false;

    va_start(arguments, format);
    vsnprintf(buffer->data + buffer->n_bytes, (size_t)length + 1, format, arguments);
    va_end(arguments);
    buffer->n_bytes += (size_t)length;
    return true;
}

void buffer_drop_front(struct buffer *buffer, size_t n_bytes)
{
    assert(n_bytes <= buffer->n_bytes);
    if (!buffer->data)
        return;
    buffer->n_bytes -= n_bytes;
    memmove(buffer->data, buffer->data + n_bytes, buffer->n_bytes + 1);
}

const char *buffer_text(const struct buffer *buffer)
{
    return buffer->data ? buffer->data : "";
}

char *buffer_take(struct buffer *buffer)
{
    if (buffer->failed || !reserve(buffer, 0))
        return NULL;
    char *data = buffer->data;
    data[buffer->n_bytes] = '\0';
    *buffer = (struct buffer){.maximum = buffer->maximum};
    return data;
}
