/*
 * arena.c - a list of chunks. Those before `current` are in use, those behind it are free.
 *
 * Under AddressSanitizer what was not handed out is poisoned, and a gap follows each allocation,
 * so that an overrun inside the arena is found as one of malloc's would be.
 */
#include "base/arena.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/huge.h"

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif

#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
enum { GAP = 64 };
static void hide(void *from, size_t n_bytes)
{
    __asan_poison_memory_region(from, n_bytes);
}
static void show(void *from, size_t n_bytes)
{
    __asan_unpoison_memory_region(from, n_bytes);
}
#else
enum { GAP = 0 };
static void hide(void *from, size_t n_bytes)
{
    (void)from, (void)n_bytes;
}
static void show(void *from, size_t n_bytes)
{
    (void)from, (void)n_bytes;
}
#endif

enum { ALIGNMENT = 64 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t n_bytes, n_used; /* of the bytes behind this header */
    char padding[ALIGNMENT - 3 * sizeof(size_t)];
};
static_assert(sizeof(struct arena_chunk) == ALIGNMENT, "the bytes behind the header stay aligned");

static char *chunk_data(struct arena_chunk *chunk)
{
    return (char *)(chunk + 1);
}

static bool fits(const struct arena_chunk *chunk, size_t n_bytes)
{
    return chunk && chunk->n_bytes - chunk->n_used >= n_bytes;
}

static struct arena_chunk *chunk_create(size_t n_bytes)
{
    size_t n_total;
    if (!size_add(n_bytes, sizeof(struct arena_chunk), &n_total))
        return NULL;
    struct arena_chunk *chunk = huge_malloc(n_total);
    if (!chunk)
        return NULL;
    *chunk = (struct arena_chunk){.n_bytes = n_bytes};
    hide(chunk_data(chunk), n_bytes);
    return chunk;
}

/* Takes a free chunk that is large enough out of the list behind `current`, or NULL. */
static struct arena_chunk *unlink_free(struct arena *arena, size_t n_bytes)
{
    if (!arena->current)
        return NULL;
    for (struct arena_chunk **link = &arena->current->next; *link; link = &(*link)->next)
        if (fits(*link, n_bytes)) {
            struct arena_chunk *chunk = *link;
            *link = chunk->next;
            return chunk;
        }
    return NULL;
}

/* Makes a chunk with room for `n_bytes` the current one. */
static bool advance(struct arena *arena, size_t n_bytes)
{
    struct arena_chunk *chunk = unlink_free(arena, n_bytes);
    if (!chunk)
        chunk = chunk_create(size_max(n_bytes, arena->chunk_bytes));
    if (!chunk)
        return false;
    struct arena_chunk **link = arena->current ? &arena->current->next : &arena->first;
    chunk->next = *link;
    *link = chunk;
    arena->current = chunk;
    return true;
}

void arena_init(struct arena *arena, size_t chunk_bytes)
{
    assert(chunk_bytes <= (size_t)1 << 40);
    *arena = (struct arena){.chunk_bytes = align_up(chunk_bytes, ALIGNMENT)};
}

void arena_finish(struct arena *arena)
{
    if (!arena)
        return;
    for (struct arena_chunk *chunk = arena->first, *next; chunk; chunk = next) {
        next = chunk->next;
        show(chunk_data(chunk), chunk->n_bytes);
        free(chunk);
    }
    *arena = (struct arena){.chunk_bytes = arena->chunk_bytes};
}

void *arena_allocate(struct arena *arena, size_t n_bytes)
{
    size_t n_rounded;
    if (!size_add(n_bytes, ALIGNMENT - 1 + GAP, &n_rounded))
        return NULL;
    n_rounded &= ~(size_t)(ALIGNMENT - 1);
    n_rounded = size_max(n_rounded, ALIGNMENT);
    if (!fits(arena->current, n_rounded) && !advance(arena, n_rounded))
        return NULL;

    struct arena_chunk *chunk = arena->current;
    char *memory = chunk_data(chunk) + chunk->n_used;
    chunk->n_used += n_rounded;
    show(memory, n_bytes);
    return memory;
}

void *arena_allocate_array(struct arena *arena, size_t n, size_t size)
{
    size_t n_bytes;
    if (!size_multiply(n, size, &n_bytes))
        return NULL;
    void *memory = arena_allocate(arena, n_bytes);
    if (memory)
        memset(memory, 0, n_bytes);
    return memory;
}

char *arena_copy_text(struct arena *arena, const char *text, size_t n_bytes)
{
    size_t n_total;
    char *copy = size_add(n_bytes, 1, &n_total) ? arena_allocate(arena, n_total) : NULL;
    if (!copy)
        return NULL;
    if (n_bytes)
        memcpy(copy, text, n_bytes);
    copy[n_bytes] = '\0';
    return copy;
}

void arena_reset(struct arena *arena)
{
    for (struct arena_chunk *chunk = arena->first; chunk; chunk = chunk->next) {
        chunk->n_used = 0;
        hide(chunk_data(chunk), chunk->n_bytes);
    }
    arena->current = arena->first;
}
