/*
 * byte_level.h - the table that writes any byte as a printable character.
 *
 * Bytes 0x21-0x7E, 0xA1-0xAC, 0xAE-0xFF stand for the code point of the same value; the other 68,
 * in increasing order, for U+0100, U+0101, ... (a space is U+0120). Constant; any thread.
 */
#ifndef TEXT_BYTE_LEVEL_H
#define TEXT_BYTE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

/* The code point (below U+0144) that stands for `byte`. */
uint32_t byte_level_code_point(unsigned char byte);

/* The byte that `code_point` stands for, or -1. */
int byte_level_byte(uint32_t code_point);

/* Appends the characters for `n_bytes` bytes of any kind. A failure sticks in `out`. */
void byte_level_encode(const char *bytes, size_t n_bytes, struct buffer *out);

/* Appends the bytes that valid UTF-8 `text` stands for. False, and nothing appended, when one of its
   characters is not in the table. */
bool byte_level_decode(const char *text, size_t n_bytes, struct buffer *out);

#endif
