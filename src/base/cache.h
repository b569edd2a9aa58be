/*
 * cache.h - how much of the memory may lie in the processor's caches.
 */
#ifndef BASE_CACHE_H
#define BASE_CACHE_H

#include <stdint.h>

/* Bytes of the last-level caches of all processors together; 0 when the system does not say. `root` stands before "/sys" ("" for this
   machine). */
uint64_t cache_last_level_bytes(const char *root);

#endif
