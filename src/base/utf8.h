/*
 * utf8.h - validity and boundaries, by the table of the Unicode standard (no surrogates, no overlong forms).
 */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the valid prefix: n_bytes when all is valid. */
size_t utf8_valid_prefix(const char *text, size_t n_bytes);
bool utf8_is_valid(const char *text, size_t n_bytes);

/* Decodes one code point of valid text; returns its length in bytes (1..4). */
size_t utf8_decode(const char *text, size_t n_bytes, uint32_t *code_point_out);

/* Writes 1..4 bytes; returns how many. */
size_t utf8_encode(uint32_t code_point, char out[4]);

enum utf8_state {
    UTF8_COMPLETE,   /* *n_out bytes form one code point */
    UTF8_INCOMPLETE, /* all of the bytes are the beginning of one; more may come */
    UTF8_INVALID     /* *n_out bytes (>= 1) can never become one: the maximal invalid prefix */
};

/* Looks at the beginning of n_bytes >= 1 bytes of any kind. */
enum utf8_state utf8_next(const char *text, size_t n_bytes, size_t *n_out);

/* Copies any bytes as text that is safe to print: what is not valid, and control characters, become
   '?'; cut at a code point so that it and a NUL fit in n_out. Returns the length without the NUL. */
size_t utf8_clean(char *out, size_t n_out, const char *text, size_t n_bytes);

#endif
