/*
 * registry_merge.c - W' under a byte budget.
 *
 * A merge reserves its bytes before it begins; they count until the memory is really freed, so what was
 * evicted but is still held by requests counts too. Which W' goes first, merge_policy.h says. A merge for which
 * the room will only come when requests end is parked, and tried again whenever something was freed.
 *
 * A partial W' stays until the full one takes its place, or needs its room.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
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

bool generation_is_merged(const struct slot_generation *generation)
{
    return generation->merged && !generation->merged->is_partial;
}

bool generation_is_being_merged(const struct slot_generation *generation)
{
    return generation->merged_state == LORAD_MERGED_QUEUED ||
           generation->merged_state == LORAD_MERGED_BUILDING;
}

static enum lorad_merged_state settled_state(const struct slot_generation *generation)
{
    if (!generation->merged)
        return generation->has_merge_error ? LORAD_MERGED_REFUSED : LORAD_MERGED_NO;
    return generation->merged->is_partial ? LORAD_MERGED_PARTLY : LORAD_MERGED_YES;
}

static void refuse_locked(struct slot_generation *generation)
{
    generation->has_merge_error = true;
    error_set(&generation->merge_error, ERROR_TOO_LARGE, "merged_memory",
              "W' needs %llu bytes, and %llu are all there is for merged weights",
              (unsigned long long)generation->merge_bytes,
              (unsigned long long)generation->registry->stats.merged_bytes_limit);
    if (!generation_is_being_merged(generation))
        generation->merged_state = settled_state(generation);
}

bool generation_ask_merge_locked(struct slot_generation *generation)
{
    if (generation_is_merged(generation) || !generation->is_current)
        return false;
    if (generation->merge_bytes > generation->registry->stats.merged_bytes_limit) {
        refuse_locked(generation);
        return false;
    }
    generation->has_merge_error = false;
    generation->is_automatic = false;
    generation->merge.bytes = generation->merge_bytes;
    return generation_queue_merge_locked(generation);
}

bool generation_queue_merge_locked(struct slot_generation *generation)
{
    if (generation->merged_state != LORAD_MERGED_BUILDING)
        generation->merged_state = LORAD_MERGED_QUEUED;
    if (generation->has_merge)
        return false; /* a job that was told to stop and has not yet: it goes on */
    generation->has_merge = true;
    generation->n_references++;
    return true;
}

/* The cached W', for the caller to drop after unlocking; what is being built goes on. */
static void take_merged_locked(struct slot_generation *generation, struct view **view_out,
                               struct merged **merged_out)
{
    *view_out = generation->merged_view;
    *merged_out = generation->merged;
    generation->registry->stats.merged -= generation->merged != NULL;
    generation->merged_view = NULL;
    generation->merged = NULL;
    atomic_store(&generation->is_merged, false);
    if (!generation_is_being_merged(generation))
        generation->merged_state = settled_state(generation);
}

void generation_drop_merge_locked(struct slot_generation *generation, struct view **view_out,
                                  struct merged **merged_out)
{
    take_merged_locked(generation, view_out, merged_out);
    generation->is_kept = generation->has_merge_error = false;
    generation->requested_us = 0;
    generation->merged_state = LORAD_MERGED_NO;
}

void generation_start_merge(struct slot_generation *generation)
{
    struct merge_work *merge = &generation->merge;
    merge->job = (struct keeper_job){.run = generation_run_merge, .in_slices = true};
    merge->work = NULL;
    merge->reserved = 0;
    merge->spent_us = 0;
    if (keeper_post(generation->registry->keeper, &merge->job))
        return;
    registry_lock(generation->registry);
    generation->has_merge = false;
    generation->merged_state = settled_state(generation);
    registry_unlock(generation->registry);
    free(merge->sites);
    merge->sites = NULL;
    generation_unref(generation);
}

bool registry_merge(struct registry *registry, const char *id, unsigned wait_ms, struct error *err)
{
    struct timespec deadline;
    bool is_new = false;
    struct slot_generation *held = registry->is_lazy ? registry_make_resident(registry, id, err) : NULL;
    if (registry->is_lazy && !held)
        return false;
    registry_deadline(&deadline, wait_ms);
    registry_lock(registry);
    struct slot_generation *generation = NULL;
    if (registry->is_stopping)
        error_set(err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
    else
        generation = registry_find_locked(registry, id, err);
    if (!generation) {
        registry_unlock(registry);
        generation_unref(held);
        return false;
    }
    generation->n_references++;
    generation->is_kept = true;
    is_new = generation_ask_merge_locked(generation);
    registry_unlock(registry);
    generation_unref(held);
    if (is_new)
        generation_start_merge(generation);

    registry_lock(registry);
    while (wait_ms > 0 && !registry->is_stopping && generation_is_being_merged(generation) &&
           registry_wait_until(registry, &deadline))
        ;
    bool is_refused = generation->has_merge_error;
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
    const struct slot *slot = map_get(&registry->slots, id);
    bool is_away = slot && slot->is_available; /* and its W' is gone */
    struct slot_generation *generation = is_away ? NULL : registry_find_locked(registry, id, err);
    if (generation)
        generation_drop_merge_locked(generation, &view, &merged);
    pthread_cond_broadcast(&registry->changed);
    registry_unlock(registry);
    view_unref(view);
    merged_unref(merged);
    registry_retry_parked(registry); /* it may be the one that was dropped */
    return is_away || generation;
}

/* -- Eviction ------------------------------------------------------------------------------ */

static enum merge_claim claim_of_locked(const struct slot_generation *generation, uint64_t now_us)
{
    const struct slot *slot = map_get(&generation->registry->slots, generation->id);
    if (generation->is_kept || (slot && slot->default_mode == LORAD_MODE_MERGED))
        return MERGE_KEPT;
    bool is_requested =
        generation->requested_us > 0 && now_us < generation->requested_us + MERGE_HALF_LIFE_US;
    return is_requested ? MERGE_REQUESTED : MERGE_AUTOMATIC;
}

struct merge_rank generation_rank_locked(const struct slot_generation *generation, uint64_t now_us)
{
    double value = merge_meter_value(&generation->meter, now_us);
    return (struct merge_rank){.claim = claim_of_locked(generation, now_us),
                               .is_held = atomic_load(&generation->merged_view->ref.count) > 1,
                               .value_per_byte = value / (double)generation->merged->bytes,
                               .last_used = generation->last_used};
}

/* Whose W' makes room for that of `asker`: its own partial one before all others. NULL: nobody's. */
static struct slot_generation *find_victim_locked(struct registry *registry, const struct slot_generation *asker)
{
    struct slot_generation *victim = NULL;
    struct merge_rank best = {0};
    uint64_t now_us = clock_now_us();
    LIST_FOR_EACH (link, &registry->generations) {
        struct slot_generation *generation = LIST_ENTRY(link, struct slot_generation, link);
        if (!generation->merged)
            continue;
        if (generation == asker)
            return generation;
        struct merge_rank rank = generation_rank_locked(generation, now_us);
        if (asker->is_automatic && !merge_may_displace(asker->merge.value_per_byte, &rank))
            continue;
        if (!victim || merge_goes_before(&rank, &best)) {
            victim = generation;
            best = rank;
        }
    }
    return victim;
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

/* Evicts one W' to make room for that of `asker`. False: none may go. */
static bool evict_one(struct slot_generation *asker)
{
    struct registry *registry = asker->registry;
    struct view *view = NULL;
    struct merged *merged = NULL;
    char id[LORAD_ID_SIZE];
    registry_lock(registry);
    struct slot_generation *victim = find_victim_locked(registry, asker);
    if (victim) {
        memcpy(id, victim->id, sizeof id);
        take_merged_locked(victim, &view, &merged);
        registry->stats.merge_evictions++;
        if (victim != asker)
            generation_decide_locked(victim, LORAD_DECISION_EVICTED, "evicted: its room (%llu bytes) went to '%s'",
                                     (unsigned long long)merged->bytes, asker->id);
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

/* -- Building ------------------------------------------------------------------------------ */

static bool is_wanted_locked(const struct slot_generation *generation)
{
    return generation_is_being_merged(generation) && generation->is_current && !generation->registry->is_stopping;
}

enum room { ROOM_RESERVED, ROOM_LATER, ROOM_NEEDS_EVICTION, ROOM_NONE };

static enum room try_reserve(struct slot_generation *generation)
{
    struct registry *registry = generation->registry;
    struct registry_stats *stats = &registry->stats;
    enum room room = ROOM_NEEDS_EVICTION;
    registry_lock(registry);
    if (stats->merged_bytes + generation->merge.bytes <= stats->merged_bytes_limit) {
        stats->merged_bytes += generation->merge.bytes;
        generation->merge.reserved = generation->merge.bytes;
        if (generation->merged_state == LORAD_MERGED_QUEUED)
            generation->merged_state = LORAD_MERGED_BUILDING;
        room = ROOM_RESERVED;
    } else if (count_cached_locked(registry) + generation->merge.bytes <= stats->merged_bytes_limit) {
        room = ROOM_LATER; /* enough was evicted, and comes back when the requests that hold it end */
    }
    registry_unlock(registry);
    return room;
}

/* An automatic merge whose room others have taken since it was decided is not wanted any more. */
static bool give_up_automatic(struct slot_generation *generation)
{
    registry_lock(generation->registry);
    bool is_automatic = generation->is_automatic;
    if (is_automatic) {
        generation->merged_state = settled_state(generation);
        generation_decide_locked(generation, LORAD_DECISION_NO_ROOM,
                                 "not merged: the room for its W' (%llu bytes) was taken before it began",
                                 (unsigned long long)generation->merge.bytes);
    }
    registry_unlock(generation->registry);
    return is_automatic;
}

/* Counts the bytes of a merge that is about to begin, making room if need be. LATER: there will be room then. */
static enum room reserve(struct slot_generation *generation)
{
    enum room room;
    do
        room = try_reserve(generation);
    while (room == ROOM_NEEDS_EVICTION && evict_one(generation));
    if (room == ROOM_NEEDS_EVICTION)
        return give_up_automatic(generation) ? ROOM_NONE : ROOM_LATER;
    return room;
}

/* Ends what was begun, and gives its bytes back. */
static uint64_t abandon(struct slot_generation *generation)
{
    struct merge_work *merge = &generation->merge;
    uint64_t n_freed = merge->reserved;
    merge_end(merge->work);
    free(merge->sites);
    merge->work = NULL;
    merge->sites = NULL;
    merge->reserved = 0;
    merge->spent_us = 0;
    registry_lock(generation->registry);
    generation->registry->stats.merged_bytes -= n_freed;
    registry_unlock(generation->registry);
    return n_freed;
}

/* `problem`: why it is refused; NULL: it is there, or not wanted any more. True: somebody has come to want it since, and
 * the job begins anew. */
static bool finish_merge(struct slot_generation *generation, const struct error *problem)
{
    struct registry *registry = generation->registry;
    uint64_t n_freed = abandon(generation);
    registry_lock(registry);
    if (!problem && is_wanted_locked(generation)) {
        generation->merged_state = LORAD_MERGED_QUEUED;
        registry_unlock(registry);
        return true;
    }
    generation->has_merge = false;
    if (problem) {
        generation->has_merge_error = true;
        generation->merge_error = *problem;
    }
    generation->merged_state = settled_state(generation);
    pthread_cond_broadcast(&registry->changed);
    registry_unlock(registry);
    if (problem)
        registry_tell(registry, "adapter_merge_failed", generation->id, "%s", problem->message);
    if (n_freed > 0)
        registry_retry_parked(registry);
    generation_unref(generation);
    return false;
}

/* Swaps it in, for the smaller one that may be there; `view` and `merged` come back as what is to be dropped. */
static bool publish(struct slot_generation *generation, struct view **view, struct merged **merged)
{
    struct registry *registry = generation->registry;
    struct view *new_view = *view;
    struct merged *new_merged = *merged;
    registry_lock(registry);
    bool is_outgrown = new_merged->is_partial && !generation->is_automatic;
    bool is_wanted = is_wanted_locked(generation) && !is_outgrown;
    if (is_wanted) {
        take_merged_locked(generation, view, merged);
        generation->merged = new_merged;
        registry->stats.merged++;
        generation->merged_view = new_view;
        generation->merged_state = settled_state(generation);
        generation->last_used = ++registry->tick;
        atomic_store(&generation->is_merged, !new_merged->is_partial);
        registry->stats.merges++;
        registry->us_per_byte =
            merge_learn_price(registry->us_per_byte, generation->merge.spent_us, new_merged->bytes);
    }
    registry_unlock(registry);
    return is_wanted;
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
    uint64_t n_bytes = merged->bytes;
    size_t n_sites = merged->n_merged;
    bool is_partial = merged->is_partial;
    struct view *view = compose_merged(registry->model, generation->adapter, merged, err);
    bool ok = view != NULL;
    if (ok && publish(generation, &view, &merged))
        registry_tell(registry, is_partial ? "adapter_partly_merged" : "adapter_merged", generation->id,
                      "%llu bytes of merged weights, %zu sites, %.0f ms of processor time",
                      (unsigned long long)n_bytes, n_sites, merge->spent_us / 1000);
    view_unref(view);
    merged_unref(merged);
    return ok;
}

static double thread_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* A slice. */
static bool work_on(struct slot_generation *generation, bool *done_out, struct error *err)
{
    struct merge_work *merge = &generation->merge;
    double begun_us = thread_us();
    if (!merge->work)
        merge->work = merge_begin(generation->adapter, merge->sites, err);
    bool ok = merge->work && merge_step(merge->work, done_out, err);
    merge->spent_us += thread_us() - begun_us;
    return ok;
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
    bool is_outgrown = merge->sites && !generation->is_automatic; /* somebody has asked for the full one since */
    registry_unlock(registry);
    if (!is_wanted)
        return finish_merge(generation, NULL);
    if (is_outgrown)
        abandon(generation);
    enum room room = merge->work ? ROOM_RESERVED : reserve(generation);
    if (room == ROOM_NONE)
        return finish_merge(generation, NULL);
    if (room == ROOM_LATER) {
        list_append(&registry->parked, &merge->parked);
        return false;
    }
    bool ok = work_on(generation, &is_done, &problem);
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
