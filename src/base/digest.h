/*
 * digest.h - SHA-256 (nettle).
 */
#ifndef BASE_DIGEST_H
#define BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>

#define DIGEST_HEX_SIZE 65 /* 64 hex digits and a NUL */

struct digest;

struct digest *digest_create(void); /* NULL: no memory */
void digest_update(struct digest *digest, const void *bytes, size_t n_bytes);
void digest_finish_hex(struct digest *digest, char out[DIGEST_HEX_SIZE]); /* also frees */
void digest_destroy(struct digest *digest); /* without a result; NULL is fine */
void digest_hex(const void *bytes, size_t n_bytes, char out[DIGEST_HEX_SIZE]);

/* 64 lower-case hex digits. */
bool digest_hex_is_valid(const char *text);

#endif
