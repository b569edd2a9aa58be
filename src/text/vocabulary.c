/*
 * vocabulary.c - a string map one way, an array the other.
 */
#include "text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/limits.h"

void vocabulary_finish(struct vocabulary *vocabulary)
{
    map_finish(&vocabulary->ids);
    buffer_finish(&vocabulary->text);
    free(vocabulary->tokens);
    *vocabulary = (struct vocabulary){0};
}

static bool reserve(struct vocabulary *vocabulary, size_t n, struct error *err)
{
    if (n <= vocabulary->capacity)
        return true;
    size_t capacity = size_max(n, vocabulary->capacity + vocabulary->capacity / 2 + 256);
    struct vocabulary_token *tokens = realloc(vocabulary->tokens, capacity * sizeof *tokens);
    if (!tokens)
        return error_no_memory(err);
    memset(tokens + vocabulary->capacity, 0, (capacity - vocabulary->capacity) * sizeof *tokens);
    vocabulary->tokens = tokens;
    vocabulary->capacity = capacity;
    return true;
}

bool vocabulary_add(struct vocabulary *vocabulary, const char *token, size_t n_bytes, size_t id,
                    struct error *err)
{
    if (id >= LIMIT_VOCAB)
        return error_set(err, ERROR_TOO_LARGE, NULL, "token '%s' has id %zu; at most %zu are supported",
                         token, id, LIMIT_VOCAB - 1);
    if (vocabulary_find(vocabulary, token, n_bytes) >= 0)
        return error_set(err, ERROR_BAD_INPUT, NULL, "token '%s' is there twice", token);
    if (!reserve(vocabulary, id + 1, err))
        return false;
    struct vocabulary_token *entry = &vocabulary->tokens[id];
    if (entry->is_there)
        return error_set(err, ERROR_BAD_INPUT, NULL, "id %zu has two tokens, '%s' and '%s'", id,
                         vocabulary->text.data + entry->offset, token);
    *entry = (struct vocabulary_token){
        .offset = vocabulary->text.n_bytes, .n_bytes = (uint32_t)n_bytes, .is_there = true};
    if (!buffer_append(&vocabulary->text, token, n_bytes) || !buffer_append_byte(&vocabulary->text, '\0') ||
        !map_set_bytes(&vocabulary->ids, token, n_bytes, (void *)(uintptr_t)(id + 1)))
        return error_no_memory(err);
    vocabulary->n_tokens = size_max(vocabulary->n_tokens, id + 1);
    vocabulary->longest = size_max(vocabulary->longest, n_bytes);
    vocabulary->n_entries++;
    return true;
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *token, size_t n_bytes)
{
    return (int32_t)(uintptr_t)map_get_bytes(&vocabulary->ids, token, n_bytes) - 1;
}

bool vocabulary_get(const struct vocabulary *vocabulary, int32_t id, const char **token_out,
                    size_t *n_bytes_out)
{
    if (id < 0 || (size_t)id >= vocabulary->n_tokens || !vocabulary->tokens[id].is_there)
        return false;
    *token_out = vocabulary->text.data + vocabulary->tokens[id].offset;
    *n_bytes_out = vocabulary->tokens[id].n_bytes;
    return true;
}
