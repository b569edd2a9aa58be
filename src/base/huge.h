/*
 * huge.h - large memory that is read as a stream: on huge pages where the system grants them, which saves a sixth of the time and more.
 */
#ifndef BASE_HUGE_H
#define BASE_HUGE_H

#include <stddef.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

/* Zeros, from a huge page's border on; a page is taken when it is first touched, by whoever touches it. NULL: no memory, or n_bytes is 0. */
void *huge_allocate(size_t n_bytes);
void huge_free(void *memory, size_t n_bytes); /* as many as were asked for; NULL is fine */

/* Not initialised, 64-byte aligned, freed with free(): what is large lies on huge pages but for its end. NULL: no memory. */
void *huge_malloc(size_t n_bytes);

#endif
