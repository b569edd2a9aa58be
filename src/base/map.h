/*
 * map.h - a hash table from strings to pointers. Seeded at random per process, because keys come
 * from outside. Not thread-safe. Values are the caller's; keys are copied.
 */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_entry;

struct map {
    struct map_entry *entries; /* open addressing, load factor <= 1/2 */
    size_t n_slots, n_entries, n_used;
    size_t n_rebuilds; /* how often the entries have moved: positions of map_next from before are void then */
};

void map_init(struct map *map);
void map_finish(struct map *map); /* frees keys and table, not the values; zeroed maps are fine */

void *map_get(const struct map *map, const char *key);                     /* NULL: not there */
void *map_get_bytes(const struct map *map, const char *key, size_t n_key); /* key need not end in NUL */

/* Sets or replaces; `value` must not be NULL. False: no memory, nothing changed. */
bool map_set(struct map *map, const char *key, void *value);
bool map_set_bytes(struct map *map, const char *key, size_t n_key, void *value);

/* Takes the entry out and returns its value, NULL if there was none. */
void *map_remove(struct map *map, const char *key);

/* What these maps hash with, for tables of another kind over strings from outside. */
uint64_t map_hash(const char *key, size_t n_key);

/* Walks in no particular order: start with *position = 0; false at the end. What is set or removed in between may be met or not;
   when n_rebuilds has changed, begin again. `key_out` may be NULL. */
bool map_next(const struct map *map, size_t *position, const char **key_out, void **value_out);

#endif
