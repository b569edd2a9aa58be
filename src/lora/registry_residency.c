/*
 * registry_residency.c - which adapters are in memory, where they are loaded on use.
 *
 * Who names an adapter that is not there waits for its load; who comes meanwhile joins. What a load brings is held for all who waited
 * until each has taken it, so that the next load cannot take it away again before it was used once.
 *
 * A load that knows its bytes makes room on the keeper, where what is evicted is freed at once: the least recently used first, and none
 * that is pinned, used by a request, or being merged. It is looked first whether that would be enough: a load that cannot succeed evicts
 * nothing.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "lora/catalogue.h"
#include "lora/registry_internal.h"
#include "lora/source.h"

/* -- Making room --------------------------------------------------------------------------- */

/* What nobody has but its slot. A merge, a waiting request and a lease each hold a reference. */
static bool is_evictable_locked(const struct slot_generation *generation, const char *asker)
{
    return generation->registry->is_lazy && generation->is_current && !generation->is_pinned &&
           generation->n_references == 1 && strcmp(generation->id, asker) != 0;
}

struct room {
    uint64_t limit, used, evictable, pinned;
};

static struct room look_for_room_locked(const struct registry *registry, const char *asker)
{
    struct room room = {.limit = registry->stats.adapter_bytes_limit, .used = registry->stats.adapter_bytes};
    LIST_FOR_EACH (link, &registry->generations) {
        const struct slot_generation *generation = LIST_ENTRY(link, struct slot_generation, link);
        uint64_t n_bytes = generation->adapter->resident_bytes;
        if (is_evictable_locked(generation, asker))
            room.evictable += n_bytes;
        else if (generation->is_pinned)
            room.pinned += n_bytes;
    }
    return room;
}

static struct slot_generation *find_victim_locked(const struct registry *registry, const char *asker)
{
    struct slot_generation *victim = NULL;
    LIST_FOR_EACH (link, &registry->generations) {
        struct slot_generation *generation = LIST_ENTRY(link, struct slot_generation, link);
        if (is_evictable_locked(generation, asker) && (!victim || generation->last_used < victim->last_used))
            victim = generation;
    }
    return victim;
}

/* Out of its slot, which stays listed. Its W' goes with it. */
static void evict_locked(struct slot_generation *victim, struct view **view_out, struct merged **merged_out)
{
    struct registry *registry = victim->registry;
    struct slot *slot = map_get(&registry->slots, victim->id);
    assert(slot && slot->generation == victim);
    slot_set_generation_locked(registry, slot, NULL);
    slot->is_available = true;
    victim->is_current = false;
    registry->stats.evictions++;
    generation_drop_merge_locked(victim, view_out, merged_out);
}

/* False: there is nobody. */
static bool evict_one(struct registry *registry, const char *asker)
{
    struct view *view = NULL;
    struct merged *merged = NULL;
    char id[LORAD_ID_SIZE];
    registry_lock(registry);
    struct slot_generation *victim = find_victim_locked(registry, asker);
    uint64_t n_bytes = victim ? victim->adapter->resident_bytes : 0;
    if (victim) {
        memcpy(id, victim->id, sizeof id);
        evict_locked(victim, &view, &merged);
    }
    registry_unlock(registry);
    if (!victim)
        return false;
    view_unref(view);
    merged_unref(merged);
    generation_unref(victim); /* the last reference: freed here, on the keeper */
    registry_tell(registry, "adapter_set_aside", id, "made room for '%s' (%" PRIu64 " bytes); its next use loads it again",
                  asker, n_bytes);
    return true;
}

static bool refuse_for_room(const struct registry *registry, const struct room *room, uint64_t n_bytes, struct error *err)
{
    uint64_t n_free = room->used < room->limit ? room->limit - room->used : 0;
    if (!registry->is_lazy)
        return error_set(err, ERROR_TOO_LARGE, "adapter_memory",
                         "the adapter needs %" PRIu64 " bytes of memory, and %" PRIu64 " are free", n_bytes, n_free);
    return error_set(err, ERROR_TOO_LARGE, "adapter_memory",
                     "the adapter needs %" PRIu64 " bytes of memory; of %" PRIu64 ", %" PRIu64 " are free, %" PRIu64
                     " can make room, %" PRIu64 " are pinned and %" PRIu64 " in use",
                     n_bytes, room->limit, n_free, room->evictable, room->pinned,
                     room->used - room->evictable - room->pinned);
}

bool registry_make_room(struct registry *registry, const char *id, uint64_t n_bytes, bool is_trial, struct error *err)
{
    for (;;) {
        registry_lock(registry);
        struct room room = look_for_room_locked(registry, id);
        registry_unlock(registry);
        if (room.used <= room.limit && n_bytes <= room.limit - room.used)
            return true;
        uint64_t n_staying = room.used - room.evictable;
        if (n_staying > room.limit || n_bytes > room.limit - n_staying)
            return refuse_for_room(registry, &room, n_bytes, err);
        /* Whom a request has taken in between cannot go any more; then there is another, or it is refused after all. */
        if (is_trial)
            return true;
        evict_one(registry, id);
    }
}

/* -- Loading on use ------------------------------------------------------------------------ */

/* A load on use, shared by all who wait for it: the last one frees it. Guarded by the registry's lock. */
struct first_use {
    size_t n_waiting; /* but the one who leads, and holds one reference of its own */
    bool is_done;
    struct slot_generation *generation; /* with a reference for each who waits; NULL: `problem` */
    struct error problem;
};

static bool copy_origin_locked(const struct slot *slot, struct origin *out)
{
    *out = (struct origin){0};
    if (!slot || !slot->path || (!slot->is_available && !slot->error))
        return true;
    out->is_known = true;
    out->is_upload = slot->is_upload;
    out->allow_other_heads = slot->allow_other_heads;
    out->directory = strdup(slot->path);
    return out->directory != NULL;
}

/* Where to read it from: what the slot says, else what lies under its name. */
static bool find_origin(struct registry *registry, const char *id, struct origin *origin, struct error *err)
{
    char *known = origin->directory;
    if (registry->reserved_id && strcmp(id, registry->reserved_id) == 0)
        return error_set(err, ERROR_NOT_FOUND, "adapter", "there is no adapter '%s'", id);
    if (origin->is_upload)
        return true;
    origin->directory = known ? source_confine(registry->adapters_dir, known, err)
                              : catalogue_find(registry->catalogue, id, err);
    free(known);
    return origin->directory != NULL;
}

/* Waits for the load that somebody else leads. */
static struct slot_generation *await_locked(struct registry *registry, struct first_use *use, struct error *err)
{
    struct slot_generation *generation = NULL;
    use->n_waiting++;
    while (!use->is_done && !registry->is_stopping)
        pthread_cond_wait(&registry->changed, &registry->lock);
    if (!use->is_done)
        error_set(err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
    else if (use->generation)
        generation = use->generation;
    else if (err)
        *err = use->problem;
    if (--use->n_waiting == 0 && use->is_done)
        free(use);
    return generation;
}

/* What there is without a load of our own: the generation, or one that is being loaded on use. False: nothing. */
static bool join_locked(struct registry *registry, const char *id, struct slot_generation **out, struct error *err)
{
    struct slot *slot = map_get(&registry->slots, id);
    *out = NULL;
    if (slot && slot->generation) {
        *out = slot->generation;
        slot->generation->n_references++;
        return true;
    }
    if (slot && slot->first_use) {
        *out = await_locked(registry, slot->first_use, err);
        return true;
    }
    return false;
}

/* The slot expects one load more, and is there until that is settled. */
static bool begin_locked(struct registry *registry, const char *id, struct slot **fresh, struct first_use *use)
{
    struct slot *slot = map_get(&registry->slots, id);
    if (!slot) {
        memcpy((*fresh)->id, id, strlen(id) + 1);
        if (!map_set(&registry->slots, id, *fresh))
            return false;
        slot = *fresh;
        *fresh = NULL;
    }
    slot->n_arrived++;
    slot->n_waiters++;
    slot->first_use = use;
    return true;
}

/* Hands the outcome to all who wait. */
static void settle(struct registry *registry, const char *id, struct first_use *use, struct slot_generation *generation,
                   const struct error *problem)
{
    registry_lock(registry);
    struct slot *slot = map_get(&registry->slots, id);
    slot->first_use = NULL;
    slot->n_waiters--;
    slot_settle_locked(registry, slot);
    use->is_done = true;
    use->generation = generation;
    use->problem = *problem;
    if (generation)
        generation->n_references += (unsigned)use->n_waiting;
    bool is_last = use->n_waiting == 0;
    pthread_cond_broadcast(&registry->changed);
    registry_unlock(registry);
    if (is_last)
        free(use);
}

static struct slot_generation *lead(struct registry *registry, const char *id, const struct origin *origin, struct error *err)
{
    struct slot_generation *generation = NULL;
    struct error problem = {0};
    struct slot *fresh = calloc(1, sizeof *fresh);
    struct first_use *use = calloc(1, sizeof *use);
    bool has_begun = false, ok = (fresh && use) || error_no_memory(err);
    registry_lock(registry);
    if (ok && registry->is_stopping)
        ok = error_set(err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
    if (ok && !join_locked(registry, id, &generation, err)) {
        has_begun = begin_locked(registry, id, &fresh, use);
        ok = has_begun || error_no_memory(err);
    }
    registry_unlock(registry);
    free(fresh);
    if (!has_begun) {
        free(use);
        return generation;
    }
    generation = registry_load_on_use(registry, id, origin, &problem);
    if (!generation && err)
        *err = problem;
    settle(registry, id, use, generation, &problem);
    return generation;
}

/* An id that is neither known nor in the directory may still be on its way: the error says so. */
static void explain_absence(struct registry *registry, const char *id, struct error *err)
{
    registry_lock(registry);
    if (registry_find_locked(registry, id, err))
        error_set(err, ERROR_UNAVAILABLE, "adapter", "adapter '%s' has just been loaded: ask again", id);
    registry_unlock(registry);
}

struct slot_generation *registry_make_resident(struct registry *registry, const char *id, struct error *err)
{
    struct slot_generation *generation;
    struct origin origin = {0};
    registry_lock(registry);
    bool has_joined = join_locked(registry, id, &generation, err);
    bool ok = has_joined || copy_origin_locked(map_get(&registry->slots, id), &origin) || error_no_memory(err);
    registry_unlock(registry);
    if (has_joined || !ok)
        return generation;
    if (find_origin(registry, id, &origin, err))
        generation = lead(registry, id, &origin, err);
    else if (!origin.is_known && err && err->code == ERROR_NOT_FOUND)
        explain_absence(registry, id, err);
    free(origin.directory);
    return generation;
}

/* -- Listing ------------------------------------------------------------------------------- */

static bool describe_unused(const struct registry *registry, const char *id, struct lorad_adapter_info *out)
{
    *out = (struct lorad_adapter_info){.state = LORAD_ADAPTER_AVAILABLE};
    memcpy(out->id, id, strlen(id) + 1);
    out->path = path_join(registry->adapters_dir, id);
    return out->path != NULL;
}

static void free_list(struct lorad_adapter_list *list)
{
    for (size_t i = 0; i < list->n_adapters; i++) {
        free(list->adapters[i].path);
        free(list->adapters[i].error);
    }
    free(list->adapters);
}

/* Both are sorted by id; `list` goes into the larger one that comes back. */
static bool merge_names(const struct registry *registry, struct lorad_adapter_list *list,
                        const struct catalogue_names *names)
{
    struct lorad_adapter_list all = {0};
    size_t i = 0, j = 0;
    all.adapters = malloc((list->n_adapters + names->n_names + 1) * sizeof *all.adapters);
    bool ok = all.adapters != NULL;
    while (ok && (i < list->n_adapters || j < names->n_names)) {
        int order = i == list->n_adapters  ? 1
                    : j == names->n_names ? -1
                                          : strcmp(list->adapters[i].id, names->names[j]);
        bool is_reserved = order > 0 && registry->reserved_id && strcmp(names->names[j], registry->reserved_id) == 0;
        if (order <= 0)
            all.adapters[all.n_adapters++] = list->adapters[i++];
        else if (!is_reserved)
            ok = describe_unused(registry, names->names[j], &all.adapters[all.n_adapters++]);
        j += order >= 0;
    }
    for (; i < list->n_adapters; i++) /* only when memory is out: to be freed with the rest */
        if (all.adapters)
            all.adapters[all.n_adapters++] = list->adapters[i];
    if (!all.adapters)
        return false;
    free(list->adapters);
    *list = all;
    return ok;
}

static bool add_unused(struct registry *registry, struct lorad_adapter_list *list, struct error *err)
{
    struct catalogue_names *names = catalogue_read(registry->catalogue, err);
    if (!names)
        return false;
    bool ok = merge_names(registry, list, names) || error_no_memory(err);
    catalogue_names_unref(names);
    return ok;
}

static bool list_unused(struct registry *registry, const char *id, struct lorad_adapter_list *list, struct error *err)
{
    char *path = catalogue_find(registry->catalogue, id, err);
    if (!path || (registry->reserved_id && strcmp(id, registry->reserved_id) == 0)) {
        free(path);
        return error_set(err, ERROR_NOT_FOUND, "adapter", "there is no adapter '%s'", id);
    }
    free(path);
    list->adapters = calloc(1, sizeof *list->adapters);
    list->n_adapters = list->adapters != NULL;
    return (list->adapters && describe_unused(registry, id, list->adapters)) || error_no_memory(err);
}

bool registry_list_all(struct registry *registry, const char *id_or_null, struct lorad_adapter_list *out, struct error *err)
{
    struct lorad_adapter_list list = {0};
    struct error problem = {0};
    bool ok = registry_list(registry, id_or_null, &list, &problem);
    if (registry->is_lazy && ok && !id_or_null)
        ok = add_unused(registry, &list, &problem);
    else if (registry->is_lazy && !ok && problem.code == ERROR_NOT_FOUND)
        ok = list_unused(registry, id_or_null, &list, &problem);
    if (ok) {
        *out = list;
        return true;
    }
    free_list(&list);
    if (err)
        *err = problem;
    return false;
}
