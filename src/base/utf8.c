/*
 * utf8.c - one table-driven step, utf8_next, on which the rest stands.
 *
 * Unicode 15, table 3-7: only the second byte has ranges that depend on the first; they are what
 * keeps out overlong forms, surrogates and code points over U+10FFFF.
 */
#include "base/utf8.h"

#include <assert.h>

struct lead {
    unsigned char n_bytes; /* 0: no sequence begins so */
    unsigned char second_least, second_most;
};

static struct lead classify(unsigned char byte)
{
    if (byte < 0x80)
        return (struct lead){1, 0, 0};
    if (byte < 0xC2 || byte > 0xF4)
        return (struct lead){0, 0, 0};
    if (byte < 0xE0)
        return (struct lead){2, 0x80, 0xBF};
    if (byte < 0xF0)
        return (struct lead){3, byte == 0xE0 ? 0xA0 : 0x80, byte == 0xED ? 0x9F : 0xBF};
    return (struct lead){4, byte == 0xF0 ? 0x90 : 0x80, byte == 0xF4 ? 0x8F : 0xBF};
}

enum utf8_state utf8_next(const char *text, size_t n_bytes, size_t *n_out)
{
    const unsigned char *bytes = (const unsigned char *)text;
    assert(n_bytes > 0);
    struct lead lead = classify(bytes[0]);

    if (lead.n_bytes == 0) {
        *n_out = 1;
        return UTF8_INVALID;
    }
    for (size_t i = 1; i < lead.n_bytes; i++) {
        if (i == n_bytes) {
            *n_out = n_bytes;
            return UTF8_INCOMPLETE;
        }
        unsigned char least = i == 1 ? lead.second_least : 0x80;
        unsigned char most = i == 1 ? lead.second_most : 0xBF;
        if (bytes[i] < least || bytes[i] > most) {
            *n_out = i;
            return UTF8_INVALID;
        }
    }
    *n_out = lead.n_bytes;
    return UTF8_COMPLETE;
}

size_t utf8_valid_prefix(const char *text, size_t n_bytes)
{
    size_t position = 0, n_step;
    while (position < n_bytes) {
        if (utf8_next(text + position, n_bytes - position, &n_step) != UTF8_COMPLETE)
            break;
        position += n_step;
    }
    return position;
}

bool utf8_is_valid(const char *text, size_t n_bytes)
{
    return utf8_valid_prefix(text, n_bytes) == n_bytes;
}

size_t utf8_decode(const char *text, size_t n_bytes, uint32_t *code_point_out)
{
    static const unsigned char LEAD_BITS[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    const unsigned char *bytes = (const unsigned char *)text;
    size_t length = n_bytes ? classify(bytes[0]).n_bytes : 0;
    assert(length > 0 && length <= n_bytes);

    uint32_t code_point = bytes[0] & LEAD_BITS[length];
    for (size_t i = 1; i < length; i++)
        code_point = code_point << 6 | (bytes[i] & 0x3F);
    *code_point_out = code_point;
    return length;
}

size_t utf8_encode(uint32_t code_point, char out[4])
{
    size_t length = code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    static const unsigned char LEAD_MARK[] = {0, 0, 0xC0, 0xE0, 0xF0};
    assert(code_point <= 0x10FFFF && (code_point < 0xD800 || code_point > 0xDFFF));

    for (size_t i = length; i-- > 1; code_point >>= 6)
        out[i] = (char)(unsigned char)(0x80 | (code_point & 0x3F));
    out[0] = (char)(unsigned char)(LEAD_MARK[length] | code_point);
    return length;
}

static bool is_control(const char *text, size_t length)
{
    uint32_t code_point;
    utf8_decode(text, length, &code_point);
    return code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0);
}

size_t utf8_clean(char *out, size_t n_out, const char *text, size_t n_bytes)
{
    size_t n_written = 0;
    for (size_t position = 0, length; position < n_bytes; position += length) {
        enum utf8_state state = utf8_next(text + position, n_bytes - position, &length);
        bool keep = state == UTF8_COMPLETE && !is_control(text + position, length);
        size_t n_added = keep ? length : 1;
        if (n_written + n_added + 1 > n_out)
            break;
        if (keep)
            for (size_t i = 0; i < length; i++)
                out[n_written + i] = text[position + i];
        else
            out[n_written] = '?';
        n_written += n_added;
    }
    if (n_out > 0)
        out[n_written] = '\0';
    return n_written;
}
