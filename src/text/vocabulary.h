/*
 * vocabulary.h - tokens by id and ids by token. Filled by one thread, then read by any.
 */
#ifndef TEXT_VOCABULARY_H
#define TEXT_VOCABULARY_H

#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

struct vocabulary_token {
    size_t offset; /* in `text` */
    uint32_t n_bytes;
    bool is_there;
};

struct vocabulary_slot;

struct vocabulary {
    struct vocabulary_slot *slots;   /* a hash table: token -> id */
    size_t n_slots;
    struct buffer text;              /* all tokens, each followed by a NUL */
    struct vocabulary_token *tokens; /* by id */
    size_t n_tokens;                 /* largest id + 1 */
    size_t capacity;
    size_t n_entries;
    size_t longest; /* bytes */
};

void vocabulary_finish(struct vocabulary *vocabulary); /* zeroed is fine, and is how to begin */

/* Refuses an id that has a token already, and a token that has an id. */
bool vocabulary_add(struct vocabulary *vocabulary, const char *token, size_t n_bytes, size_t id,
                    struct error *err) MUST_USE;

/* The id, or -1. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *token, size_t n_bytes);

/* False: no such id. */
bool vocabulary_get(const struct vocabulary *vocabulary, int32_t id, const char **token_out,
                    size_t *n_bytes_out);

#endif
