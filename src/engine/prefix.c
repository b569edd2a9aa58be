/*
 * prefix.c - an entry per block: in a hash table while it is published, in a list while nobody holds it.
 *
 * A published block has one reference of the table's own. Each publication gets a number that is never used again,
 * and its successors name it: so a successor of an evicted block is never found, whatever takes the block's place. A sequence
 * that holds a block holds all before it and gives them back from the end, so that in the list no block stands behind its successor.
 */
#include "engine/prefix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/digest.h"

struct entry {
    uint64_t number;      /* of this publication; 0: not published */
    uint64_t predecessor; /* the number of the block before; 0: it is the first, and `identity` says of what */
    char identity[DIGEST_HEX_SIZE];
    int32_t tokens[KV_BLOCK_TOKENS];
    uint32_t bucket, next_in_bucket; /* KV_NO_BLOCK: the last */
    uint32_t older, newer;           /* in the list of those that nobody holds */
    bool is_idle;                    /* in that list */
};

struct prefix {
    struct kv *kv;
    struct entry *entries; /* by block */
    uint32_t *buckets;     /* n_buckets, a power of two: the first block, or KV_NO_BLOCK */
    size_t n_buckets;
    uint64_t seed;         /* so that nobody outside can choose what collides */
    uint64_t n_published;
    uint32_t oldest, newest;
    size_t n_idle;
    uint64_t n_evicted;
};

struct prefix *prefix_create(struct kv *kv, struct error *err)
{
    struct prefix *prefix = calloc(1, sizeof *prefix);
    size_t n_buckets = 16;
    while (n_buckets < kv_n_blocks(kv))
        n_buckets *= 2;
    if (prefix) {
        *prefix = (struct prefix){.kv = kv, .n_buckets = n_buckets, .oldest = KV_NO_BLOCK, .newest = KV_NO_BLOCK};
        prefix->entries = calloc(kv_n_blocks(kv), sizeof *prefix->entries);
        prefix->buckets = malloc(n_buckets * sizeof *prefix->buckets);
    }
    if (!prefix || !prefix->entries || !prefix->buckets) {
        prefix_destroy(prefix);
        error_no_memory(err);
        return NULL;
    }
    for (size_t i = 0; i < n_buckets; i++)
        prefix->buckets[i] = KV_NO_BLOCK;
    if (getrandom(&prefix->seed, sizeof prefix->seed, 0) != (ssize_t)sizeof prefix->seed)
        prefix->seed = clock_now_us();
    return prefix;
}

void prefix_destroy(struct prefix *prefix)
{
    if (!prefix)
        return;
    free(prefix->entries);
    free(prefix->buckets);
    free(prefix);
}

size_t prefix_n_available(const struct prefix *prefix)
{
    return kv_n_free(prefix->kv) + prefix->n_idle;
}

size_t prefix_n_cached(const struct prefix *prefix)
{
    return prefix->n_idle;
}

uint64_t prefix_n_evicted(const struct prefix *prefix)
{
    return prefix->n_evicted;
}

/* ---- the list of those that nobody holds ---- */

static void append_idle(struct prefix *prefix, uint32_t block)
{
    struct entry *entry = &prefix->entries[block];
    entry->is_idle = true;
    entry->older = prefix->newest;
    entry->newer = KV_NO_BLOCK;
    *(prefix->newest == KV_NO_BLOCK ? &prefix->oldest : &prefix->entries[prefix->newest].newer) = block;
    prefix->newest = block;
    prefix->n_idle++;
}

static void remove_idle(struct prefix *prefix, uint32_t block)
{
    struct entry *entry = &prefix->entries[block];
    *(entry->older == KV_NO_BLOCK ? &prefix->oldest : &prefix->entries[entry->older].newer) = entry->newer;
    *(entry->newer == KV_NO_BLOCK ? &prefix->newest : &prefix->entries[entry->newer].older) = entry->older;
    entry->is_idle = false;
    prefix->n_idle--;
}

/* ---- the table ---- */

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}

static uint32_t bucket_of(const struct prefix *prefix, const struct prefix_cursor *cursor, const int32_t *tokens)
{
    uint64_t hash = mix(prefix->seed, cursor->last);
    if (cursor->last == 0)
        for (const char *c = cursor->identity; *c; c++)
            hash = mix(hash, (unsigned char)*c);
    for (size_t i = 0; i < KV_BLOCK_TOKENS; i++)
        hash = mix(hash, (uint32_t)tokens[i]);
    return (uint32_t)((hash ^ hash >> 32) & (prefix->n_buckets - 1));
}

static bool is_same(const struct entry *entry, const struct prefix_cursor *cursor, const int32_t *tokens)
{
    return entry->predecessor == cursor->last && memcmp(entry->tokens, tokens, sizeof entry->tokens) == 0 &&
           (cursor->last != 0 || strcmp(entry->identity, cursor->identity) == 0);
}

static uint32_t look_up(const struct prefix *prefix, const struct prefix_cursor *cursor, const int32_t *tokens)
{
    uint32_t block = prefix->buckets[bucket_of(prefix, cursor, tokens)];
    while (block != KV_NO_BLOCK && !is_same(&prefix->entries[block], cursor, tokens))
        block = prefix->entries[block].next_in_bucket;
    return block;
}

static void insert(struct prefix *prefix, const struct prefix_cursor *cursor, const int32_t *tokens, uint32_t block)
{
    struct entry *entry = &prefix->entries[block];
    entry->number = ++prefix->n_published;
    entry->predecessor = cursor->last;
    memcpy(entry->tokens, tokens, sizeof entry->tokens);
    memset(entry->identity, 0, sizeof entry->identity);
    if (cursor->last == 0)
        strncpy(entry->identity, cursor->identity, sizeof entry->identity - 1);
    entry->bucket = bucket_of(prefix, cursor, tokens);
    entry->next_in_bucket = prefix->buckets[entry->bucket];
    prefix->buckets[entry->bucket] = block;
    kv_retain(prefix->kv, block);
}

static void evict_oldest(struct prefix *prefix)
{
    uint32_t block = prefix->oldest;
    struct entry *entry = &prefix->entries[block];
    uint32_t *link = &prefix->buckets[entry->bucket];
    while (*link != block)
        link = &prefix->entries[*link].next_in_bucket;
    *link = entry->next_in_bucket;
    remove_idle(prefix, block);
    entry->number = 0;
    kv_release(prefix->kv, block);
    prefix->n_evicted++;
}

/* ---- taking and giving back ---- */

uint32_t prefix_acquire(struct prefix *prefix)
{
    if (kv_n_free(prefix->kv) == 0 && prefix->n_idle > 0)
        evict_oldest(prefix);
    return kv_acquire(prefix->kv);
}

static void take(struct prefix *prefix, uint32_t block)
{
    if (prefix->entries[block].is_idle)
        remove_idle(prefix, block);
    kv_retain(prefix->kv, block);
}

static void release(struct prefix *prefix, uint32_t block)
{
    kv_release(prefix->kv, block);
    if (prefix->entries[block].number != 0 && kv_n_references(prefix->kv, block) == 1)
        append_idle(prefix, block);
}

void prefix_release(struct prefix *prefix, const uint32_t *blocks, size_t n_blocks)
{
    while (n_blocks-- > 0)
        release(prefix, blocks[n_blocks]);
}

static bool has_identity(const struct prefix_cursor *cursor)
{
    return cursor->identity && cursor->identity[0];
}

size_t prefix_find(struct prefix *prefix, struct prefix_cursor *cursor, const int32_t *tokens, size_t n_tokens,
                   uint32_t *blocks_out)
{
    size_t n = 0;
    cursor->last = 0;
    if (!has_identity(cursor))
        return 0;
    for (; (n + 1) * KV_BLOCK_TOKENS <= n_tokens; n++) {
        uint32_t block = look_up(prefix, cursor, tokens + n * KV_BLOCK_TOKENS);
        if (block == KV_NO_BLOCK)
            break;
        take(prefix, block);
        cursor->last = prefix->entries[block].number;
        blocks_out[n] = block;
    }
    return n;
}

uint32_t prefix_publish(struct prefix *prefix, struct prefix_cursor *cursor, const int32_t *tokens, uint32_t block)
{
    if (!has_identity(cursor))
        return block;
    assert(prefix->entries[block].number == 0);
    uint32_t known = look_up(prefix, cursor, tokens);
    if (known != KV_NO_BLOCK) {
        take(prefix, known);
        release(prefix, block);
        block = known;
    } else {
        insert(prefix, cursor, tokens, block);
    }
    cursor->last = prefix->entries[block].number;
    return block;
}
