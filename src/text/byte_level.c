/*
 * byte_level.c - arithmetic instead of a table: the irregular bytes are three runs.
 */
#include "text/byte_level.h"

#include "base/utf8.h"

enum { N_LOW = 0x21, N_MIDDLE = 0xA1 - 0x7F }; /* sizes of the runs 00-20 and 7F-A0; the third is AD alone */

uint32_t byte_level_code_point(unsigned char byte)
{
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte >= 0x7F && byte <= 0xA0)
        return 0x100u + N_LOW + (byte - 0x7Fu);
    if (byte == 0xAD)
        return 0x100u + N_LOW + N_MIDDLE;
    return byte;
}

int byte_level_byte(uint32_t code_point)
{
    if (code_point < 0x100)
        return byte_level_code_point((unsigned char)code_point) == code_point ? (int)code_point : -1;
    uint32_t index = code_point - 0x100;
    if (index < N_LOW)
        return (int)index;
    if (index < N_LOW + N_MIDDLE)
        return (int)(index - N_LOW + 0x7F);
    return index == N_LOW + N_MIDDLE ? 0xAD : -1;
}

void byte_level_encode(const char *bytes, size_t n_bytes, struct buffer *out)
{
    for (size_t i = 0; i < n_bytes; i++) {
        char encoded[4];
        size_t n = utf8_encode(byte_level_code_point((unsigned char)bytes[i]), encoded);
        buffer_append(out, encoded, n);
    }
}

bool byte_level_decode(const char *text, size_t n_bytes, struct buffer *out)
{
    uint32_t code_point;

    for (size_t i = 0; i < n_bytes;) {
        i += utf8_decode(text + i, n_bytes - i, &code_point);
        if (byte_level_byte(code_point) < 0)
            return false;
    }
    for (size_t i = 0; i < n_bytes;) {
        i += utf8_decode(text + i, n_bytes - i, &code_point);
        buffer_append_byte(out, (char)byte_level_byte(code_point));
    }
    return true;
}
