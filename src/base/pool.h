/*
 * pool.h - compute threads for fork-join work.
 *
 * One thread (the engine) calls pool_run; the caller takes part in the work. Parts are handed
 * out in any order to any thread, so a task must give the same result however parts fall.
 * Every computing thread runs with denormals flushed (FTZ|DAZ), the caller while inside too.
 */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include <stddef.h>

#include "base/error.h"

struct pool;

/* `part` is in [0, n_parts), `thread` in [0, pool_n_threads). */
typedef void pool_task(void *context, size_t part, size_t n_parts, size_t thread);

/* `n_threads` counts the caller: 1 makes a pool without threads. NULL on failure. */
struct pool *pool_create(size_t n_threads, struct error *err);
void pool_destroy(struct pool *pool); /* joins; NULL is fine */
size_t pool_n_threads(const struct pool *pool);

/* Runs task(context, 0..n_parts-1) and returns when all are done. Workers spin briefly for the
   next run, then sleep. Calls no malloc. */
void pool_run(struct pool *pool, pool_task *task, void *context, size_t n_parts);

/* Sets FTZ|DAZ for the calling thread and leaves it so. */
void compute_thread_begin(void);

#endif
