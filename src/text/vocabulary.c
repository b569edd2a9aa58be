/*
 * vocabulary.c - a hash table of ids one way, an array the other. A slot holds no key: the token's text is where the id says, so that a hundred
 * thousand tokens need two megabytes, which a core's cache holds while merges are looked up.
 */
#include "text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/limits.h"
#include "base/map.h"

struct vocabulary_slot {
    uint32_t hash;
    uint32_t next_id; /* id + 1; 0: the slot is free */
};

/* ---- the table ---- */

/* Where the token is, or the free slot where it would be. */
static struct vocabulary_slot *find_slot(const struct vocabulary *vocabulary, const char *token, size_t n_bytes, uint32_t hash)
{
    for (size_t i = hash;; i++) {
        struct vocabulary_slot *slot = &vocabulary->slots[i & (vocabulary->n_slots - 1)];
        if (slot->next_id == 0)
            return slot;
        const struct vocabulary_token *entry = &vocabulary->tokens[slot->next_id - 1];
        if (slot->hash == hash && entry->n_bytes == n_bytes && memcmp(vocabulary->text.data + entry->offset, token, n_bytes) == 0)
            return slot;
    }
}

/* At most half of the slots are in use. */
static bool make_room(struct vocabulary *vocabulary)
{
    size_t n_slots = size_max(vocabulary->n_slots, 16);
    while (n_slots / 2 < vocabulary->n_entries + 1)
        n_slots *= 2;
    if (n_slots == vocabulary->n_slots)
        return true;
    struct vocabulary_slot *slots = calloc(n_slots, sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < vocabulary->n_slots; i++) {
        size_t at = vocabulary->slots[i].hash;
        if (vocabulary->slots[i].next_id == 0)
            continue;
        while (slots[at & (n_slots - 1)].next_id != 0)
            at++;
        slots[at & (n_slots - 1)] = vocabulary->slots[i];
    }
    free(vocabulary->slots);
    vocabulary->slots = slots;
    vocabulary->n_slots = n_slots;
    return true;
}

/* ---- tokens ---- */

void vocabulary_finish(struct vocabulary *vocabulary)
{
    free(vocabulary->slots);
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
    if (n_bytes > UINT32_MAX)
        return error_set(err, ERROR_TOO_LARGE, NULL, "a token has %zu bytes", n_bytes);
    if (!make_room(vocabulary))
        return error_no_memory(err);
    uint32_t hash = (uint32_t)map_hash(token, n_bytes);
    struct vocabulary_slot *slot = find_slot(vocabulary, token, n_bytes, hash);
    if (slot->next_id != 0)
        return error_set(err, ERROR_BAD_INPUT, NULL, "token '%s' is there twice", token);
    if (!reserve(vocabulary, id + 1, err))
        return false;
    struct vocabulary_token *entry = &vocabulary->tokens[id];
    if (entry->is_there)
        return error_set(err, ERROR_BAD_INPUT, NULL, "id %zu has two tokens, '%s' and '%s'", id,
                         vocabulary->text.data + entry->offset, token);
    *entry = (struct vocabulary_token){
        .offset = vocabulary->text.n_bytes, .n_bytes = (uint32_t)n_bytes, .is_there = true};
    if (!buffer_append(&vocabulary->text, token, n_bytes) || !buffer_append_byte(&vocabulary->text, '\0'))
        return error_no_memory(err);
    *slot = (struct vocabulary_slot){.hash = hash, .next_id = (uint32_t)id + 1};
    vocabulary->n_tokens = size_max(vocabulary->n_tokens, id + 1);
    vocabulary->longest = size_max(vocabulary->longest, n_bytes);
    vocabulary->n_entries++;
    return true;
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *token, size_t n_bytes)
{
    if (vocabulary->n_slots == 0)
        return -1;
    return (int32_t)find_slot(vocabulary, token, n_bytes, (uint32_t)map_hash(token, n_bytes))->next_id - 1;
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
