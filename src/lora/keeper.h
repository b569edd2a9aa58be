/*
 * keeper.h - the background thread: one job after the other, in the order of arrival; work that comes in
 * slices runs in between.
 *
 * A message is either done at once (loads, freeing, saving) or in slices (merges): of the latter the oldest
 * goes on while no other message waits. The thread runs at low priority: running requests go before. Any thread may post. What a job's functions do is the poster's
 * business; they run on the keeper's thread without any lock.
 */
#ifndef LORA_KEEPER_H
#define LORA_KEEPER_H

#include <stdatomic.h>
#include <stddef.h>

#include "base/error.h"
#include "base/list.h"

struct keeper;

struct keeper_job {
    struct list link; /* the keeper's while the job is posted */
    /* Does the work, or a slice of it (a few ms). True: there is more to do, call again; false: ended, and
       the job (which this call may have freed) is not touched again. */
    bool (*run)(struct keeper_job *job);
    bool in_slices;
};

/* `n_running`: how many requests the engine computes now, which must outlive the keeper: while it is not 0 slices are few and far
   between. NULL: there is no such number. */
struct keeper *keeper_create(const _Atomic size_t *n_running, struct error *err);

/* False when the keeper is closed: the job stays the caller's. */
bool keeper_post(struct keeper *keeper, struct keeper_job *job);

/* Jobs that are in slices are called with keeper_is_stopping true from now on, and are to end then. */
void keeper_stop(struct keeper *keeper);
bool keeper_is_stopping(const struct keeper *keeper);

bool keeper_is_current(const struct keeper *keeper); /* called on the keeper's thread? */

/* Runs what was posted, refuses what comes later, joins, frees. NULL is fine. */
void keeper_destroy(struct keeper *keeper);

#endif
