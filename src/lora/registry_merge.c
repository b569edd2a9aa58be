/*
 * registry_merge.c - W' under a byte budget.
 *
 * A merge reserves its bytes before it begins; they count until the memory is really freed, so what was
 * evicted but is still held by requests counts too. The least recently used W' goes first. A merge for which
 * the room will only come when requests end is parked, and tried again whenever something was freed.
 */
#include <stdlib.h>
#include <string.h>

#include "lora/registry_internal.h"

/* -- The end of a W' ----------------------------------------------------------------------- */

struct merged_grave {
    struct keeper_job job;
    struct registry *registry;
    struct merged *merged;
};

static bool run_grave(struct keeper_job *job)
{
    struct merged_grave *grave = LIST_ENTRY(job, struct merged_grave, job);
    struct registry *registry = grave->registry;
    uint64_t n_bytes = grave->merged->bytes;
    merged_destroy(grave->merged);
    free(grave);
    registry_lock(registry);
    registry->stats.merged_bytes -= n_bytes;
    registry_unlock(registry);
    registry_retry_parked(registry);
    return false;
}

static void dispose(struct merged *merged)
{
    struct merged_grave *grave = merged->dispose_context;
    struct keeper *keeper = grave->registry->keeper;
    if (keeper_is_current(keeper) || !keeper_post(keeper, &grave->job))
        run_grave(&grave->job);
}

/* -- Asking -------------------------------------------------------------------------------- */

bool generation_ask_merge_locked(struct slot_generation *generation)
{
    struct registry *registry = generation->registry;
    if (generation->merged || !generation->is_current)
        return false;
    if (generation->merge_bytes > registry->stats.merged_bytes_limit) {
        generation->merged_state = LORAD_MERGED_REFUSED;
        error_set(&generation->merge_error, ERROR_TOO_LARGE, "merged_memory",
                  "W' needs %llu bytes, and %llu are all there is for merged weights",
                  (unsigned long long)generation->merge_bytes,
                  (unsigned long long)registry->stats.merged_bytes_limit);
        return false;
    }
    if (generation->merged_state != LORAD_MERGED_BUILDING)
        generation->merged_state = LORAD_MERGED_QUEUED;
    if (generation->has_merge)
        return false; /* a job that was told to stop and has not yet: it goes on */
    generation->has_merge = true;
    generation->n_references++;
    return true;
}

void generation_drop_merge_locked(struct slot_generation *generation, struct view **view_out,
                                  struct merged **merged_out)
{
    *view_out = generation->merged_view;
    *merged_out = generation->merged;
    generation->merged_view = NULL;
    generation->merged = NULL;
    generation->merged_state = LORAD_MERGED_NO;
}

void generation_start_merge(struct slot_generation *generation)
{
    struct merge_work *merge = &generation->merge;
    merge->job = (struct keeper_job){.run = generation_run_merge, .in_slices = true};
    merge->work = NULL;
    merge->reserved = 0;
    if (keeper_post(generation->registry->keeper, &merge->job))
        return;
    registry_lock(generation->registry);
    generation->has_merge = false;
    generation->merged_state = LORAD_MERGED_NO;
    registry_unlock(generation->registry);
    generation_unref(generation);
}

bool registry_merge(struct registry *registry, const char *id, unsigned wait_ms, struct error *err)
{
    struct timespec deadline;
    bool is_new = false;
    registry_deadline(&deadline, wait_ms);
    registry_lock(registry);
    struct slot_generation *generation = NULL;
    if (registry->is_stopping)
        error_set(err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
    else
        generation = registry_find_locked(registry, id, err);
    if (!generation) {
        registry_unlock(registry);
        return false;
    }
    generation->n_references++;
    is_new = generation_ask_merge_locked(generation);
    registry_unlock(registry);
    if (is_new)
        generation_start_merge(generation);

    registry_lock(registry);
    while (wait_ms > 0 && !registry->is_stopping &&
           (generation->merged_state == LORAD_MERGED_QUEUED ||
            generation->merged_state == LORAD_MERGED_BUILDING) &&
           registry_wait_until(registry, &deadline))
        ;
    bool is_refused = generation->merged_state == LORAD_MERGED_REFUSED;
    struct error refusal = generation->merge_error;
    registry_unlock(registry);
    generation_unref(generation);
    return !is_refused || error_set(err, refusal.code, refusal.param, "%s", refusal.message);
}

bool registry_unmerge(struct registry *registry, const char *id, struct error *err)
{
    struct view *view = NULL;
    struct merged *merged = NULL;
    registry_lock(registry);
    struct slot_generation *generation = registry_find_locked(registry, id, err);
    if (generation)
        generation_drop_merge_locked(generation, &view, &merged);
    pthread_cond_broadcast(&registry->changed);
    registry_unlock(registry);
    view_unref(view);
    merged_unref(merged);
    registry_retry_parked(registry); /* it may be the one that was dropped */
    return generation != NULL;
}

/* -- Building ------------------------------------------------------------------------------ */

static bool is_wanted_locked(const struct slot_generation *generation)
{
    bool is_asked =
        generation->merged_state == LORAD_MERGED_QUEUED || generation->merged_state == LORAD_MERGED_BUILDING;
    return is_asked && generation->is_current && !generation->registry->is_stopping;
}

static bool is_held(const struct slot_generation *generation)
{
    return atomic_load(&generation->merged_view->ref.count) > 1;
}

/* The least recently used W', of those that no request holds if there is one: only that gives its memory back
 * at once. */
static struct slot_generation *find_oldest_locked(struct registry *registry)
{
    struct slot_generation *oldest = NULL;
    LIST_FOR_EACH (link, &registry->generations) {
        struct slot_generation *generation = LIST_ENTRY(link, struct slot_generation, link);
        if (!generation->merged)
            continue;
        if (!oldest || (is_held(oldest) && !is_held(generation)) ||
            (is_held(oldest) == is_held(generation) && generation->last_used < oldest->last_used))
            oldest = generation;
    }
    return oldest;
}

static uint64_t count_cached_locked(const struct registry *registry)
{
    uint64_t n_bytes = 0;
    LIST_FOR_EACH (link, &registry->generations) {
        const struct slot_generation *generation = LIST_ENTRY(link, struct slot_generation, link);
        n_bytes += generation->merged ? generation->merged->bytes : 0;
    }
    return n_bytes;
}

/* Evicts the least recently used W'. False: there is none. */
static bool evict_one(struct registry *registry)
{
    struct view *view = NULL;
    struct merged *merged = NULL;
    char id[LORAD_ID_SIZE];
    registry_lock(registry);
    struct slot_generation *oldest = find_oldest_locked(registry);
    if (oldest) {
        memcpy(id, oldest->id, sizeof id);
        generation_drop_merge_locked(oldest, &view, &merged);
        registry->stats.merge_evictions++;
    }
    registry_unlock(registry);
    if (!merged)
        return false;
    registry_tell(registry, "adapter_evicted", id, "its merged weights made room (%llu bytes)",
                  (unsigned long long)merged->bytes);
    view_unref(view);
    merged_unref(merged);
    return true;
}

enum room { ROOM_RESERVED, ROOM_LATER, ROOM_NEEDS_EVICTION };

static enum room try_reserve(struct slot_generation *generation)
{
    struct registry *registry = generation->registry;
    struct registry_stats *stats = &registry->stats;
    enum room room = ROOM_NEEDS_EVICTION;
    registry_lock(registry);
    if (stats->merged_bytes + generation->merge_bytes <= stats->merged_bytes_limit) {
        stats->merged_bytes += generation->merge_bytes;
        generation->merge.reserved = generation->merge_bytes;
        if (generation->merged_state == LORAD_MERGED_QUEUED)
            generation->merged_state = LORAD_MERGED_BUILDING;
        room = ROOM_RESERVED;
    } else if (count_cached_locked(registry) + generation->merge_bytes <= stats->merged_bytes_limit) {
        room = ROOM_LATER; /* enough was evicted, and comes back when the requests that hold it end */
    }
    registry_unlock(registry);
    return room;
}

/* Counts the bytes of a merge that is about to begin, making room if need be. False: there will be room
 * later. */
static bool reserve(struct slot_generation *generation)
{
    enum room room;
    do
        room = try_reserve(generation);
    while (room == ROOM_NEEDS_EVICTION && evict_one(generation->registry));
    return room == ROOM_RESERVED;
}

/* `problem`: why it is refused; NULL: it is there, or not wanted any more. True: somebody has come to want it since, and
 * the job begins anew. */
static bool finish_merge(struct slot_generation *generation, const struct error *problem)
{
    struct registry *registry = generation->registry;
    struct merge_work *merge = &generation->merge;
    uint64_t n_freed = merge->reserved;
    merge_end(merge->work);
    merge->work = NULL;
    merge->reserved = 0;
    registry_lock(registry);
    registry->stats.merged_bytes -= n_freed;
    if (!problem && !generation->merged && is_wanted_locked(generation)) {
        generation->merged_state = LORAD_MERGED_QUEUED;
        registry_unlock(registry);
        return true;
    }
    generation->has_merge = false;
    if (problem) {
        generation->merged_state = LORAD_MERGED_REFUSED;
        generation->merge_error = *problem;
    } else if (!generation->merged) {
        generation->merged_state = LORAD_MERGED_NO;
    }
    pthread_cond_broadcast(&registry->changed);
    registry_unlock(registry);
    if (problem)
        registry_tell(registry, "adapter_merge_failed", generation->id, "%s", problem->message);
    if (n_freed > 0)
        registry_retry_parked(registry);
    generation_unref(generation);
    return false;
}

static bool install(struct slot_generation *generation, struct error *err)
{
    struct registry *registry = generation->registry;
    struct merge_work *merge = &generation->merge;
    struct merged_grave *grave = calloc(1, sizeof *grave);
    if (!grave)
        return error_no_memory(err);
    struct merged *merged = merge_take(merge->work);
    *grave = (struct merged_grave){.job = {.run = run_grave}, .registry = registry, .merged = merged};
    merged->dispose = dispose;
    merged->dispose_context = grave;
    merge->reserved = 0; /* from here on the grave gives the bytes back */
    struct view *view = compose_merged(registry->model, generation->adapter, merged, err);
    registry_lock(registry);
    bool is_wanted = view && is_wanted_locked(generation);
    if (is_wanted) {
        generation->merged = merged;
        generation->merged_view = view;
        generation->merged_state = LORAD_MERGED_YES;
        generation->last_used = ++registry->tick;
        registry->stats.merges++;
    }
    registry_unlock(registry);
    if (is_wanted) {
        registry_tell(registry, "adapter_merged", generation->id, "%llu bytes of merged weights",
                      (unsigned long long)merged->bytes);
        return true;
    }
    bool ok = view != NULL;
    view_unref(view);
    merged_unref(merged);
    return ok;
}

static bool begin(struct slot_generation *generation, struct error *err)
{
    generation->merge.work = merge_begin(generation->adapter, err);
    return generation->merge.work != NULL;
}

bool generation_run_merge(struct keeper_job *job)
{
    struct slot_generation *generation = LIST_ENTRY(job, struct slot_generation, merge.job);
    struct registry *registry = generation->registry;
    struct merge_work *merge = &generation->merge;
    struct error problem = {0};
    bool is_done = false;

    registry_lock(registry);
    bool is_wanted = is_wanted_locked(generation);
    registry_unlock(registry);
    if (!is_wanted)
        return finish_merge(generation, NULL);
    if (!merge->work && !reserve(generation)) {
        list_append(&registry->parked, &merge->parked);
        return false;
    }
    bool ok = (merge->work || begin(generation, &problem)) && merge_step(merge->work, &is_done, &problem);
    if (ok && !is_done)
        return true;
    ok = ok && install(generation, &problem);
    return finish_merge(generation, ok ? NULL : &problem);
}

/* -- Parked merges ------------------------------------------------------------------------- */

bool registry_run_retry(struct keeper_job *job)
{
    struct registry *registry = LIST_ENTRY(job, struct registry, retry);
    struct list again;
    registry_lock(registry);
    registry->is_retry_posted = false;
    registry_unlock(registry);
    list_init(&again);
    while (!list_is_empty(&registry->parked)) {
        struct list *link = registry->parked.next;
        list_remove(link);
        list_append(&again, link);
    }
    while (!list_is_empty(&again)) {
        struct slot_generation *generation = LIST_ENTRY(again.next, struct slot_generation, merge.parked);
        list_remove(again.next);
        /* When the keeper is closed nobody would run it; then it is not wanted either, and ends at once. */
        if (!keeper_post(registry->keeper, &generation->merge.job))
            generation_run_merge(&generation->merge.job);
    }
    return false;
}

void registry_retry_parked(struct registry *registry)
{
    registry_lock(registry);
    bool is_due = !registry->is_retry_posted;
    registry->is_retry_posted = true;
    registry_unlock(registry);
    if (is_due && !keeper_post(registry->keeper, &registry->retry) && keeper_is_current(registry->keeper))
        registry_run_retry(&registry->retry);
}
