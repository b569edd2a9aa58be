#include "base/digest.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <nettle/sha2.h>

struct digest {
    struct sha256_ctx context;
};

static void finish_hex(struct sha256_ctx *context, char out[DIGEST_HEX_SIZE])
{
    static const char DIGITS[] = "0123456789abcdef";
    uint8_t bytes[SHA256_DIGEST_SIZE];
    sha256_digest(context, sizeof bytes, bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        out[2 * i] = DIGITS[bytes[i] >> 4];
        out[2 * i + 1] = DIGITS[bytes[i] & 15];
    }
    out[2 * sizeof bytes] = '\0';
}

struct digest *digest_create(void)
{
    struct digest *digest = malloc(sizeof *digest);
    if (digest)
        sha256_init(&digest->context);
    return digest;
}

void digest_update(struct digest *digest, const void *bytes, size_t n_bytes)
{
    if (n_bytes)
        sha256_update(&digest->context, n_bytes, bytes);
}

void digest_finish_hex(struct digest *digest, char out[DIGEST_HEX_SIZE])
{
    finish_hex(&digest->context, out);
    free(digest);
}

void digest_destroy(struct digest *digest)
{
    free(digest);
}

void digest_hex(const void *bytes, size_t n_bytes, char out[DIGEST_HEX_SIZE])
{
    struct digest digest;
    sha256_init(&digest.context);
    digest_update(&digest, bytes, n_bytes);
    finish_hex(&digest.context, out);
}

bool digest_hex_is_valid(const char *text)
{
    return strspn(text, "0123456789abcdef") == DIGEST_HEX_SIZE - 1 && text[DIGEST_HEX_SIZE - 1] == '\0';
}
