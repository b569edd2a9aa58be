/*
 * map.c - linear probing over SipHash-2-4 (Aumasson, Bernstein 2012) with a random key, so that
 * nobody can choose names that collide. A removed entry leaves a gravestone until the next growth.
 */
#include "base/map.h"

#include <assert.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

enum { FIRST_SLOTS = 16 };

struct map_entry {
    char *key; /* NULL: never used */
    size_t n_key;
    uint64_t hash;
    void *value; /* NULL with a key: a gravestone */
};

static char gravestone[1];
static uint64_t seed[2];
static pthread_once_t seed_once = PTHREAD_ONCE_INIT;

static void make_seed(void)
{
    if (getrandom(seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed)
        return;
    /* Early in boot, or forbidden: guessable with effort, but never a constant. */
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    seed[0] = (uint64_t)now.tv_nsec * 0x9E3779B97F4A7C15u ^ (uint64_t)getpid();
    seed[1] = (uint64_t)(uintptr_t)&now ^ (uint64_t)now.tv_sec << 32;
}

static uint64_t rotate(uint64_t value, int n_bits)
{
    return value << n_bits | value >> (64 - n_bits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
    v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
}

static void sip_absorb(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_round(v);
    sip_round(v);
    v[0] ^= word;
}

uint64_t map_hash(const char *key, size_t n_key)
{
    pthread_once(&seed_once, make_seed);
    uint64_t v[4] = {seed[0] ^ 0x736F6D6570736575u, seed[1] ^ 0x646F72616E646F6Du,
                     seed[0] ^ 0x6C7967656E657261u, seed[1] ^ 0x7465646279746573u};
    size_t n_whole = n_key & ~(size_t)7;
    for (size_t i = 0; i < n_whole; i += 8)
        sip_absorb(v, load_le64(key + i));

    unsigned char last[8] = {0};
    if (n_key > n_whole)
        memcpy(last, key + n_whole, n_key - n_whole);
    last[7] = (unsigned char)n_key;
    sip_absorb(v, load_le64(last));
    v[2] ^= 0xFF;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The entry of `key`, or the never used slot where the search ended. The load factor leaves one. */
static struct map_entry *find(const struct map *map, const char *key, size_t n_key, uint64_t hash)
{
    for (size_t i = hash & (map->n_slots - 1);; i = (i + 1) & (map->n_slots - 1)) {
        struct map_entry *entry = &map->entries[i];
        if (!entry->key || (entry->value && entry->hash == hash && entry->n_key == n_key &&
                            memcmp(entry->key, key, n_key) == 0))
            return entry;
    }
}

static bool rebuild(struct map *map, size_t n_slots)
{
    struct map_entry *entries = calloc(n_slots, sizeof *entries);
    if (!entries)
        return false;
    struct map next = {.entries = entries, .n_slots = n_slots, .n_rebuilds = map->n_rebuilds + 1};
    for (size_t i = 0; i < map->n_slots; i++) {
        struct map_entry *old = &map->entries[i];
        if (!old->value)
            continue;
        *find(&next, old->key, old->n_key, old->hash) = *old;
        next.n_entries++;
    }
    next.n_used = next.n_entries;
    free(map->entries);
    *map = next;
    return true;
}

/* Room for one more. Gravestones count as used, so that a search always ends. */
static bool make_room(struct map *map)
{
    if (map->n_used + 1 <= map->n_slots / 2)
        return true;
    size_t n_slots = FIRST_SLOTS, n_needed;
    if (!size_multiply(map->n_entries + 1, 4, &n_needed))
        return false;
    while (n_slots < n_needed)
        if (!size_multiply(n_slots, 2, &n_slots))
            return false;
    return rebuild(map, n_slots);
}

void map_init(struct map *map)
{
    *map = (struct map){0};
}

void map_finish(struct map *map)
{
    if (!map)
        return;
    for (size_t i = 0; i < map->n_slots; i++)
        if (map->entries[i].value)
            free(map->entries[i].key);
    free(map->entries);
    map_init(map);
}

void *map_get_bytes(const struct map *map, const char *key, size_t n_key)
{
    if (map->n_entries == 0)
        return NULL;
    return find(map, key, n_key, map_hash(key, n_key))->value;
}

void *map_get(const struct map *map, const char *key)
{
    return map_get_bytes(map, key, strlen(key));
}

bool map_set_bytes(struct map *map, const char *key, size_t n_key, void *value)
{
    assert(value);
    uint64_t hash = map_hash(key, n_key);
    if (!make_room(map))
        return false;
    struct map_entry *entry = find(map, key, n_key, hash);
    if (entry->key) {
        entry->value = value;
        return true;
    }

    size_t n_copy;
    char *copy = size_add(n_key, 1, &n_copy) ? malloc(n_copy) : NULL;
    if (!copy)
        return false;
    if (n_key)
        memcpy(copy, key, n_key);
    copy[n_key] = '\0';
    *entry = (struct map_entry){copy, n_key, hash, value};
    map->n_entries++;
    map->n_used++;
    return true;
}

bool map_set(struct map *map, const char *key, void *value)
{
    return map_set_bytes(map, key, strlen(key), value);
}

void *map_remove(struct map *map, const char *key)
{
    if (map->n_entries == 0)
        return NULL;
    size_t n_key = strlen(key);
    struct map_entry *entry = find(map, key, n_key, map_hash(key, n_key));
    if (!entry->key)
        return NULL;
    void *value = entry->value;
    free(entry->key);
    *entry = (struct map_entry){.key = gravestone};
    map->n_entries--;
    return value;
}

bool map_next(const struct map *map, size_t *position, const char **key_out, void **value_out)
{
    for (; *position < map->n_slots; ++*position) {
        const struct map_entry *entry = &map->entries[*position];
        if (!entry->value)
            continue;
        if (key_out)
            *key_out = entry->key;
        if (value_out)
            *value_out = entry->value;
        ++*position;
        return true;
    }
    return false;
}
