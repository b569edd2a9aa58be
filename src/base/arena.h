/*
 * arena.h - memory that dies together: bump allocation, one reset. Used by one thread at a time.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena {
    struct arena_chunk *first, *current;
    size_t chunk_bytes; /* the least that is asked from malloc at a time */
};

void arena_init(struct arena *arena, size_t chunk_bytes);
void arena_finish(struct arena *arena); /* frees all; zeroed arenas are fine */

/* `n_bytes` aligned to 64, not initialised; NULL when memory is out. Zero bytes give a valid pointer. */
void *arena_allocate(struct arena *arena, size_t n_bytes);

/* As above for `n` elements of `size`, zeroed; NULL also when the product does not fit. */
void *arena_allocate_array(struct arena *arena, size_t n, size_t size);

/* A copy of `n_bytes` of text with a NUL after it. */
char *arena_copy_text(struct arena *arena, const char *text, size_t n_bytes);

/* Everything is free again; the chunks are kept, so that a step at its usual size calls no malloc. */
void arena_reset(struct arena *arena);

#endif
