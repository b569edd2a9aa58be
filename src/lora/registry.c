/*
 * registry.c - the table, and what requests do with it: acquire and release. registry_load.c fills it,
 * registry_residency.c decides what of it is in memory, registry_merge.c keeps W', registry_consider.c decides which ones nobody has to ask for.
 */
#include "lora/registry.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/limits.h"
#include "lora/catalogue.h"
#include "lora/registry_internal.h"
#include "lora/source.h"
#include "base/file.h"

void registry_lock(struct registry *registry)
{
    pthread_mutex_lock(&registry->lock);
}

void registry_unlock(struct registry *registry)
{
    pthread_mutex_unlock(&registry->lock);
}

void registry_tell(struct registry *registry, const char *event, const char *id, const char *format, ...)
{
    char message[640];
    va_list arguments;
    if (!registry->event)
        return;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    registry->event(registry->event_context, event, id, message);
}

void registry_deadline(struct timespec *out, unsigned wait_ms)
{
    clock_gettime(CLOCK_MONOTONIC, out);
    out->tv_sec += wait_ms / 1000;
    out->tv_nsec += (long)(wait_ms % 1000) * 1000000L;
    if (out->tv_nsec >= 1000000000L) {
        out->tv_sec++;
        out->tv_nsec -= 1000000000L;
    }
}

bool registry_wait_until(struct registry *registry, const struct timespec *deadline)
{
    return pthread_cond_timedwait(&registry->changed, &registry->lock, deadline) != ETIMEDOUT;
}

bool adapter_id_is_valid(const char *id)
{
    size_t n = strlen(id);
    if (n == 0 || n > LIMIT_ADAPTER_ID_BYTES)
        return false;
    for (size_t i = 0; i < n; i++) {
        bool is_word = (id[i] >= 'a' && id[i] <= 'z') || (id[i] >= 'A' && id[i] <= 'Z') ||
                       (id[i] >= '0' && id[i] <= '9');
        if (!is_word && (i == 0 || !strchr("._-", id[i])))
            return false;
    }
    return true;
}

/* -- Generations --------------------------------------------------------------------------- */

static bool run_grave(struct keeper_job *job)
{
    struct slot_generation *generation = LIST_ENTRY(job, struct slot_generation, grave);
    view_unref(generation->merged_view);
    merged_unref(generation->merged);
    view_unref(generation->view);
    adapter_unref(generation->adapter);
    free(generation->path);
    free(generation);
    return false;
}

bool generation_drop_locked(struct slot_generation *generation)
{
    assert(generation->n_references > 0);
    if (--generation->n_references > 0)
        return false;
    list_remove(&generation->link);
    return true;
}

void generation_bury(struct slot_generation *generation)
{
    struct keeper *keeper = generation->registry->keeper;
    generation->grave.run = run_grave;
    if (keeper_is_current(keeper) || !keeper_post(keeper, &generation->grave))
        run_grave(&generation->grave);
}

void generation_unref(struct slot_generation *generation)
{
    if (!generation)
        return;
    registry_lock(generation->registry);
    bool is_last = generation_drop_locked(generation);
    registry_unlock(generation->registry);
    if (is_last)
        generation_bury(generation);
}

struct slot_generation *registry_find_locked(struct registry *registry, const char *id, struct error *err)
{
    struct slot *slot = map_get(&registry->slots, id);
    if (slot && slot->generation)
        return slot->generation;
    if (!slot)
        error_set(err, ERROR_NOT_FOUND, "adapter", "there is no adapter '%s'", id);
    else if (slot->is_available)
        error_set(err, ERROR_UNAVAILABLE, "adapter", "adapter '%s' is not in memory", id);
    else if (slot->error)
        error_set(err, ERROR_UNAVAILABLE, "adapter", "adapter '%s' could not be restored: %s", id,
                  slot->error);
    else
        error_set(err, ERROR_UNAVAILABLE, "adapter", "adapter '%s' is still being loaded", id);
    return NULL;
}

void slot_set_generation_locked(struct registry *registry, struct slot *slot, struct slot_generation *generation)
{
    registry->stats.adapters += generation != NULL;
    registry->stats.adapters -= slot->generation != NULL;
    slot->generation = generation;
}

void slot_settle_locked(struct registry *registry, struct slot *slot)
{
    if (slot->generation || slot->is_available || slot->error || slot->n_waiters > 0 ||
        slot->n_served < slot->n_arrived)
        return;
    map_remove(&registry->slots, slot->id);
    free(slot->path);
    free(slot);
}

bool registry_check_match(const char *if_match, const char *digest_or_null, struct error *err)
{
    if (!if_match ||
        (digest_or_null && (strcmp(if_match, "*") == 0 || strcmp(if_match, digest_or_null) == 0)))
        return true;
    return error_set(err, ERROR_CONFLICT, "if_match", "another generation is there (%s)",
                     digest_or_null ? digest_or_null : "none");
}

/* -- Who is in flight ---------------------------------------------------------------------- */

/* FNV-1a: ids that collide share a list, and no more. */
static struct list *busy_of(struct registry *registry, const char *id)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char *c = id; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    return &registry->busy[(hash ^ hash >> 32) % N_BUSY];
}

static struct slot_generation *busy_at(struct list *link)
{
    return LIST_ENTRY(link, struct slot_generation, busy);
}

/* One more request holds it. */
static void begin_use_locked(struct slot_generation *generation)
{
    generation->n_references++;
    if (generation->n_in_flight++ == 0)
        list_append(busy_of(generation->registry, generation->id), &generation->busy);
}

/* As generation_drop_locked. */
static bool end_use_locked(struct slot_generation *generation)
{
    assert(generation->n_in_flight > 0);
    if (--generation->n_in_flight == 0)
        list_remove(&generation->busy);
    return generation_drop_locked(generation);
}

/* Under the id, whichever generation they hold. */
static uint64_t count_in_flight_locked(struct registry *registry, const char *id)
{
    uint64_t n = 0;
    struct list *busy = busy_of(registry, id);
    LIST_FOR_EACH (link, busy)
        n += strcmp(busy_at(link)->id, id) == 0 ? busy_at(link)->n_in_flight : 0;
    return n;
}

uint64_t registry_revoke_locked(struct registry *registry, const char *id, const char *digest_or_null)
{
    uint64_t n = 0;
    struct list *busy = busy_of(registry, id);
    LIST_FOR_EACH (link, busy) {
        struct slot_generation *generation = busy_at(link);
        if (strcmp(generation->id, id) != 0 ||
            (digest_or_null && strcmp(generation->adapter->digest, digest_or_null) != 0))
            continue;
        atomic_store(&generation->is_revoked, true);
        n += generation->n_in_flight;
    }
    return n;
}

/* -- Leases -------------------------------------------------------------------------------- */

static bool check_choices(const struct lorad_adapter_choice *choices, size_t n_choices, struct error *err)
{
    if (n_choices > LIMIT_REQUEST_ADAPTERS)
        return error_set(err, ERROR_BAD_INPUT, "adapters", "a request may name %d adapters, not %zu",
                         LIMIT_REQUEST_ADAPTERS, n_choices);
    for (size_t i = 0; i < n_choices; i++)
        if (!choices[i].id)
            return error_set(err, ERROR_BAD_INPUT, "adapter", "an adapter has no id");
    return true;
}

static bool allocate_lease(struct lease *lease, struct registry *registry, size_t n_parts, struct error *err)
{
    *lease = (struct lease){.registry = registry, .mode = LORAD_MODE_ON_THE_FLY};
    if (n_parts == 0)
        return true;
    lease->parts = calloc(n_parts, sizeof *lease->parts);
    lease->generations = calloc(n_parts, sizeof *lease->generations);
    if (lease->parts && lease->generations)
        return true;
    free(lease->parts);
    free(lease->generations);
    return error_no_memory(err);
}

/* Pins the generations behind the choices, all of one moment. */
static bool pin_locked(struct lease *lease, const struct lorad_adapter_choice *choices, size_t n_choices,
                       struct error *err)
{
    struct registry *registry = lease->registry;
    if (registry->is_stopping)
        return error_set(err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
    for (size_t i = 0; i < n_choices; i++) {
        lease->generations[i] = registry_find_locked(registry, choices[i].id, err);
        if (!lease->generations[i])
            return false;
    }
    for (size_t i = 0; i < n_choices; i++) {
        struct slot_generation *generation = lease->generations[i];
        struct slot *slot = map_get(&registry->slots, choices[i].id);
        struct lorad_answered_by *part = &lease->parts[i];
        begin_use_locked(generation);
        generation->last_used = ++registry->tick;
        slot->n_requests++;
        memcpy(part->id, generation->id, sizeof part->id);
        memcpy(part->digest, generation->adapter->digest, sizeof part->digest);
        part->weight = choices[i].weight;
    }
    lease->n_parts = n_choices;
    return true;
}

/* The first choice that is not there and could be loaded; NULL: none. */
static const char *find_absent_locked(struct registry *registry, const struct lorad_adapter_choice *choices, size_t n_choices)
{
    for (size_t i = 0; registry->is_lazy && !registry->is_stopping && i < n_choices; i++) {
        const struct slot *slot = map_get(&registry->slots, choices[i].id);
        if (!slot || !slot->generation)
            return choices[i].id;
    }
    return NULL;
}

/* Pins; loads first what is not there. What was loaded is held until all is pinned, so that one choice does not make room for
   another. Lets go of the lock in between. */
static bool pin_on_use_locked(struct lease *lease, const struct lorad_adapter_choice *choices, size_t n_choices,
                              struct error *err)
{
    enum { SPARE_LOADS = 4 }; /* for what was there, and unloaded or evicted while another was loaded */
    struct registry *registry = lease->registry;
    struct slot_generation *held[LIMIT_REQUEST_ADAPTERS + SPARE_LOADS];
    size_t n_held = 0;
    bool ok = true;
    for (const char *id; ok && n_held < n_choices + SPARE_LOADS &&
                         (id = find_absent_locked(registry, choices, n_choices)) != NULL;) {
        registry_unlock(registry);
        held[n_held] = registry_make_resident(registry, id, err);
        ok = held[n_held] != NULL;
        n_held += ok;
        registry_lock(registry);
    }
    ok = ok && pin_locked(lease, choices, n_choices, err);
    if (n_held > 0) {
        registry_unlock(registry);
        for (size_t i = 0; i < n_held; i++)
            generation_unref(held[i]);
        registry_lock(registry);
    }
    return ok;
}

/* A request wants the full W': asks for it, and waits. Called with the lock, lets go of it in between. */
static void want_merged_locked(struct slot_generation *generation, unsigned wait_ms)
{
    struct registry *registry = generation->registry;
    generation->requested_us = clock_now_us();
    if (!generation->has_merge_error && generation_ask_merge_locked(generation)) {
        registry_unlock(registry);
        generation_start_merge(generation);
        registry_lock(registry);
    }
    if (wait_ms > 0 && generation_is_being_merged(generation)) {
        struct timespec deadline;
        registry_deadline(&deadline, wait_ms);
        while (!registry->is_stopping && generation_is_being_merged(generation) &&
               registry_wait_until(registry, &deadline))
            ;
    }
}

/* One adapter as it is: its cached views. Called with the lock; may let go of it in between. */
static void choose_view_locked(struct lease *lease, enum lorad_mode mode, unsigned wait_ms)
{
    struct slot_generation *generation = lease->generations[0];
    if (mode == LORAD_MODE_MERGED)
        want_merged_locked(generation, wait_ms);
    bool is_merged = mode == LORAD_MODE_MERGED && generation_is_merged(generation);
    lease->mode = is_merged ? LORAD_MODE_MERGED : LORAD_MODE_ON_THE_FLY;
    lease->view = view_ref(is_merged ? generation->merged_view : generation->view);
    lease->is_metered = mode == LORAD_MODE_AUTO;
    if (lease->is_metered && generation->merged) {
        lease->merged_view = view_ref(generation->merged_view);
        lease->merged_mode = generation_is_merged(generation) ? LORAD_MODE_MERGED : LORAD_MODE_PARTLY_MERGED;
    }
}

static struct view *mix_views(const struct lease *lease, const struct lorad_adapter_choice *choices,
                              double scale, struct error *err)
{
    struct compose_part parts[LIMIT_REQUEST_ADAPTERS];
    for (size_t i = 0; i < lease->n_parts; i++)
        parts[i] = (struct compose_part){.adapter = lease->generations[i]->adapter,
                                         .factor = choices[i].weight * scale};
    return compose_on_the_fly(lease->registry->model, parts, lease->n_parts, err);
}

bool registry_acquire(struct registry *registry, const struct lorad_adapter_choice *choices, size_t n_choices,
                      double scale, bool has_mode, enum lorad_mode mode, unsigned wait_ms, struct lease *out,
                      struct error *err)
{
    struct lease lease;
    if (!check_choices(choices, n_choices, err) || !allocate_lease(&lease, registry, n_choices, err))
        return false;
    bool is_plain_choice = n_choices == 1 && choices[0].weight * scale == 1;
    registry_lock(registry);
    bool ok = pin_on_use_locked(&lease, choices, n_choices, err);
    if (ok && is_plain_choice) {
        const struct slot *slot = map_get(&registry->slots, choices[0].id); /* may be unloaded since, and listed no more */
        choose_view_locked(&lease, has_mode ? mode : slot ? slot->default_mode : LORAD_MODE_AUTO, wait_ms);
    }
    registry_unlock(registry);
    if (ok && n_choices == 0)
        lease.view = view_ref(registry->base_view);
    else if (ok && !lease.view)
        lease.view = mix_views(&lease, choices, scale, err);
    if (lease.view) {
        *out = lease;
        return true;
    }
    lease_release(&lease);
    return false;
}

bool registry_share(const struct lease *from, struct lease *out, struct error *err)
{
    struct registry *registry = from->registry;
    struct lease lease;
    if (!allocate_lease(&lease, registry, from->n_parts, err))
        return false;
    registry_lock(registry);
    for (size_t i = 0; i < from->n_parts; i++) {
        struct slot_generation *generation = from->generations[i];
        struct slot *slot = generation->is_unloaded ? NULL : map_get(&registry->slots, generation->id);
        begin_use_locked(generation);
        if (slot)
            slot->n_requests++;
        lease.generations[i] = generation;
        lease.parts[i] = from->parts[i];
    }
    registry_unlock(registry);
    lease.n_parts = from->n_parts;
    lease.mode = from->mode;
    lease.view = view_ref(from->view);
    lease.merged_mode = from->merged_mode;
    lease.is_metered = from->is_metered;
    lease.merged_view = from->merged_view ? view_ref(from->merged_view) : NULL;
    *out = lease;
    return true;
}

void lease_gain(struct lease *lease, double gain_us)
{
    assert(lease->is_metered);
    struct slot_generation *generation = lease->generations[0];
    if (merge_meter_add(&generation->meter, gain_us, generation_price_us(generation),
                        atomic_load(&generation->is_merged), clock_now_us()))
        registry_post_consider(lease->registry, generation);
}

static void count_request(struct lorad_adapter_counters *counters, const struct lorad_usage *usage,
                          enum lorad_mode mode)
{
    counters->requests[mode]++;
    counters->prompt_tokens += usage->prompt_tokens;
    counters->cached_tokens += usage->cached_tokens;
    counters->completion_tokens += usage->completion_tokens;
    counters->preemptions += usage->n_preemptions;
    if (usage->completion_tokens > 0) {
        counters->first_tokens++;
        counters->first_token_seconds += (usage->queue_ms + usage->prefill_ms) / 1e3;
    }
}

void lease_count(struct lease *lease, const struct lorad_usage *usage, enum lorad_mode mode)
{
    if (lease->n_parts == 0)
        return;
    registry_lock(lease->registry);
    for (size_t i = 0; i < lease->n_parts; i++) {
        struct slot_generation *generation = lease->generations[i];
        struct slot *slot = generation->is_unloaded ? NULL : map_get(&lease->registry->slots, generation->id);
        count_request(slot ? &slot->counters : &generation->counters, usage, mode);
    }
    registry_unlock(lease->registry);
}

bool lease_is_revoked(const struct lease *lease)
{
    for (size_t i = 0; i < lease->n_parts; i++)
        if (atomic_load_explicit(&lease->generations[i]->is_revoked, memory_order_relaxed))
            return true;
    return false;
}

void lease_release(struct lease *lease)
{
    struct registry *registry = lease->registry;
    view_unref(lease->view);
    view_unref(lease->merged_view);
    if (lease->n_parts > 0) {
        registry_lock(registry);
        for (size_t i = 0; i < lease->n_parts; i++)
            if (!end_use_locked(lease->generations[i]))
                lease->generations[i] = NULL;
        registry_unlock(registry);
    }
    for (size_t i = 0; i < lease->n_parts; i++)
        if (lease->generations[i])
            generation_bury(lease->generations[i]);
    free(lease->parts);
    free(lease->generations);
    memset(lease, 0, sizeof *lease);
}

/* -- Looking ------------------------------------------------------------------------------- */

static char *copy_text(const char *text, bool *failed)
{
    char *copy = text ? strdup(text) : NULL;
    *failed |= text && !copy;
    return copy;
}

static void describe_generation(struct lorad_adapter_info *out, const struct slot_generation *generation)
{
    const struct adapter *adapter = generation->adapter;
    memcpy(out->digest, adapter->digest, sizeof out->digest);
    out->merged = generation->merged_state;
    out->n_sites = adapter->n_sites;
    out->rank_min = adapter->rank_min;
    out->rank_max = adapter->rank_max;
    out->alpha = adapter->alpha;
    out->dora = adapter->use_dora;
    out->rslora = adapter->use_rslora;
    out->resident_bytes = adapter->resident_bytes;
    out->merged_bytes = generation->merged ? generation->merged->bytes : 0;
    out->loaded_unix = generation->loaded_unix;
    out->merged_sites = generation->merged ? generation->merged->n_merged : 0;
    out->merge_value_us_per_s = merge_value_rate(merge_meter_value(&generation->meter, clock_now_us()));
    out->merge_price_us = generation_price_us(generation);
    memcpy(out->merge_reason, generation->merge_reason, sizeof out->merge_reason);
}

static bool describe_slot_locked(struct registry *registry, struct lorad_adapter_info *out, const struct slot *slot)
{
    bool failed = false;
    *out = (struct lorad_adapter_info){.default_mode = slot->default_mode,
                                       .n_loads = slot->n_loads,
                                       .requests_total = slot->n_requests,
                                       .counters = slot->counters,
                                       .pinned = slot->is_pinned};
    memcpy(out->id, slot->id, sizeof out->id);
    memcpy(out->digest, slot->digest, sizeof out->digest);
    out->state = slot->generation ? LORAD_ADAPTER_READY
                 : slot->error        ? LORAD_ADAPTER_FAILED
                 : slot->is_available ? LORAD_ADAPTER_AVAILABLE
                                      : LORAD_ADAPTER_LOADING;
    out->path = copy_text(slot->path, &failed);
    out->error = copy_text(slot->generation ? NULL : slot->error, &failed);
    out->requests_in_flight = count_in_flight_locked(registry, slot->id);
    if (slot->generation)
        describe_generation(out, slot->generation);
    return !failed;
}

static bool describe_draining_locked(struct registry *registry, struct lorad_adapter_info *out,
                                     const struct slot_generation *generation)
{
    bool failed = false;
    *out = (struct lorad_adapter_info){.state = LORAD_ADAPTER_DRAINING,
                                       .default_mode = generation->default_mode,
                                       .n_loads = generation->n_loads,
                                       .requests_total = generation->n_requests,
                                       .counters = generation->counters};
    memcpy(out->id, generation->id, sizeof out->id);
    out->path = copy_text(generation->path, &failed);
    out->requests_in_flight = count_in_flight_locked(registry, generation->id);
    describe_generation(out, generation);
    return !failed;
}

/* Of an id that is gone, the generation that was unloaded last and still runs; NULL: there is none. */
static struct slot_generation *find_draining_locked(struct registry *registry, const char *id)
{
    struct slot_generation *last = NULL;
    struct list *busy = busy_of(registry, id);
    LIST_FOR_EACH (link, busy) {
        struct slot_generation *generation = busy_at(link);
        if (generation->is_unloaded && strcmp(generation->id, id) == 0 &&
            (!last || generation->unloaded > last->unloaded))
            last = generation;
    }
    return last && !map_get(&registry->slots, id) ? last : NULL;
}

static void drop_texts(struct lorad_adapter_list *list)
{
    for (size_t i = 0; i < list->n_adapters; i++) {
        free(list->adapters[i].path);
        free(list->adapters[i].error);
    }
    list->n_adapters = 0;
}

static bool look_at_one(struct registry *registry, const char *id, struct lorad_adapter_list *list,
                        struct error *err)
{
    list->adapters = calloc(1, sizeof *list->adapters);
    if (!list->adapters)
        return error_no_memory(err);
    registry_lock(registry);
    const struct slot *slot = map_get(&registry->slots, id);
    const struct slot_generation *draining = slot ? NULL : find_draining_locked(registry, id);
    list->n_adapters = slot || draining;
    bool ok = slot       ? describe_slot_locked(registry, list->adapters, slot)
              : draining ? describe_draining_locked(registry, list->adapters, draining)
                         : true;
    registry_unlock(registry);
    if (!ok)
        return error_no_memory(err);
    return list->n_adapters > 0 ||
           error_set(err, ERROR_NOT_FOUND, "adapter", "there is no adapter '%s'", id);
}

/* Requests wait for the lock: the table is copied so many at a time, and what changes meanwhile is seen or not. */
enum { PORTION = 64 };

struct listing {
    struct lorad_adapter_list list;
    size_t capacity;
    size_t position, n_rebuilds; /* in the table, and of the table when the walk began */
};

static bool make_room(struct listing *listing, size_t n)
{
    size_t n_needed = listing->list.n_adapters + n;
    if (n_needed <= listing->capacity)
        return true;
    size_t capacity = listing->capacity * 2 > n_needed ? listing->capacity * 2 : n_needed;
    struct lorad_adapter_info *adapters = reallocarray(listing->list.adapters, capacity, sizeof *adapters);
    if (!adapters)
        return false;
    listing->list.adapters = adapters;
    listing->capacity = capacity;
    return true;
}

static bool copy_portion_locked(struct registry *registry, struct listing *listing, bool *has_more)
{
    struct lorad_adapter_list *list = &listing->list;
    void *value;
    bool ok = true;
    for (size_t i = 0; ok && *has_more && i < PORTION; i++) {
        *has_more = map_next(&registry->slots, &listing->position, NULL, &value);
        if (*has_more)
            ok = describe_slot_locked(registry, &list->adapters[list->n_adapters++], value);
    }
    return ok;
}

static bool list_slots(struct registry *registry, struct listing *listing)
{
    bool ok = true, has_more = true;
    while (ok && has_more && make_room(listing, PORTION)) {
        registry_lock(registry);
        bool has_moved = registry->slots.n_rebuilds != listing->n_rebuilds;
        listing->n_rebuilds = registry->slots.n_rebuilds;
        if (!has_moved)
            ok = copy_portion_locked(registry, listing, &has_more);
        registry_unlock(registry);
        if (has_moved) {
            drop_texts(&listing->list);
            listing->position = 0;
        }
    }
    return ok && !has_more;
}

static size_t count_unloaded_locked(struct registry *registry)
{
    size_t n = 0;
    for (size_t i = 0; i < N_BUSY; i++)
        LIST_FOR_EACH (link, &registry->busy[i])
            n += busy_at(link)->is_unloaded;
    return n;
}

static bool copy_draining_locked(struct registry *registry, struct lorad_adapter_list *list)
{
    bool ok = true;
    for (size_t i = 0; i < N_BUSY; i++)
        LIST_FOR_EACH (link, &registry->busy[i]) {
            const struct slot_generation *generation = busy_at(link);
            if (ok && generation->is_unloaded && find_draining_locked(registry, generation->id) == generation)
                ok = describe_draining_locked(registry, &list->adapters[list->n_adapters++], generation);
        }
    return ok;
}

/* There are no more of them than requests. */
static bool list_draining(struct registry *registry, struct listing *listing)
{
    bool ok = true, fits = false;
    while (ok && !fits) {
        registry_lock(registry);
        size_t n = count_unloaded_locked(registry);
        fits = listing->list.n_adapters + n <= listing->capacity;
        if (fits)
            ok = copy_draining_locked(registry, &listing->list);
        registry_unlock(registry);
        ok = ok && (fits || make_room(listing, n));
    }
    return ok;
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp(((const struct lorad_adapter_info *)a)->id, ((const struct lorad_adapter_info *)b)->id);
}

/* By id; who was met twice, because it was unloaded or came back meanwhile, stays once. */
static void sort_list(struct lorad_adapter_list *list)
{
    size_t n = 0;
    qsort(list->adapters, list->n_adapters, sizeof *list->adapters, compare_ids);
    for (size_t i = 0; i < list->n_adapters; i++) {
        struct lorad_adapter_info *info = &list->adapters[i];
        if (n == 0 || compare_ids(&list->adapters[n - 1], info) != 0) {
            list->adapters[n++] = *info;
            continue;
        }
        free(info->path);
        free(info->error);
    }
    list->n_adapters = n;
}

static bool list_all(struct registry *registry, struct lorad_adapter_list *list, struct error *err)
{
    struct listing listing = {0};
    bool ok = list_slots(registry, &listing) && list_draining(registry, &listing);
    *list = listing.list;
    if (!ok)
        return error_no_memory(err);
    sort_list(list);
    return true;
}

bool registry_list(struct registry *registry, const char *id_or_null, struct lorad_adapter_list *out,
                   struct error *err)
{
    struct lorad_adapter_list list = {0};
    if (id_or_null ? look_at_one(registry, id_or_null, &list, err) : list_all(registry, &list, err)) {
        *out = list;
        return true;
    }
    drop_texts(&list);
    free(list.adapters);
    return false;
}

void registry_stats_read(struct registry *registry, struct registry_stats *out)
{
    registry_lock(registry);
    *out = registry->stats;
    registry_unlock(registry);
}

/* -- Life ---------------------------------------------------------------------------------- */

char *registry_stage(struct registry *registry, struct error *err)
{
    return source_stage(registry->state_dir, err);
}

void registry_unstage(const char *directory)
{
    /* What stays is swept at the next start. */
    if (directory && !directory_remove(directory, NULL))
        return;
}

static bool init_lock(struct registry *registry)
{
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return false;
    bool ok = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
              pthread_mutex_init(&registry->lock, NULL) == 0;
    if (ok && pthread_cond_init(&registry->changed, &attributes) != 0) {
        pthread_mutex_destroy(&registry->lock);
        ok = false;
    }
    pthread_condattr_destroy(&attributes);
    return ok;
}

static void free_registry(struct registry *registry)
{
    view_unref(registry->base_view);
    map_finish(&registry->slots);
    catalogue_destroy(registry->catalogue);
    free(registry->reserved_id);
    free(registry->adapters_dir);
    free(registry->state_dir);
    pthread_cond_destroy(&registry->changed);
    pthread_mutex_destroy(&registry->lock);
    free(registry);
}

struct registry *registry_create(const struct registry_options *options, struct error *err)
{
    bool failed = false;
    if (options->lazy && !options->adapters_dir) {
        error_set(err, ERROR_BAD_INPUT, "lazy", "needs --adapters-dir: the directory of the adapters that are loaded on use");
        return NULL;
    }
    struct registry *registry = calloc(1, sizeof *registry);
    if (!registry || !init_lock(registry)) {
        free(registry);
        error_no_memory(err);
        return NULL;
    }
    registry->model = options->model;
    registry->event = options->event;
    registry->event_context = options->event_context;
    registry->retry.run = registry_run_retry;
    registry->auto_merge = options->auto_merge;
    registry->consider.run = registry_run_consider;
    registry->us_per_byte = MERGE_FIRST_US_PER_BYTE;
    registry->stats.adapter_bytes_limit = options->adapter_memory;
    registry->stats.merged_bytes_limit = options->merged_memory;
    list_init(&registry->parked);
    list_init(&registry->generations);
    for (size_t i = 0; i < N_BUSY; i++)
        list_init(&registry->busy[i]);
    map_init(&registry->slots);
    registry->adapters_dir = copy_text(options->adapters_dir, &failed);
    registry->state_dir = copy_text(options->state_dir, &failed);
    registry->reserved_id = copy_text(options->reserved_id, &failed);
    registry->is_lazy = options->lazy;
    registry->catalogue = options->lazy && !failed ? catalogue_create(registry->adapters_dir) : NULL;
    failed |= options->lazy && !registry->catalogue;
    if (failed)
        error_no_memory(err);
    registry->base_view = failed ? NULL : view_create_base(options->model, err);
    registry->keeper = registry->base_view ? keeper_create(options->n_running, err) : NULL;
    if (registry->keeper)
        return registry;
    free_registry(registry);
    return NULL;
}

void registry_stop(struct registry *registry)
{
    registry_lock(registry);
    registry->is_stopping = true;
    pthread_cond_broadcast(&registry->changed);
    registry_unlock(registry);
    keeper_stop(registry->keeper);
}

/* All slots let go of their generations; their ends reach the keeper before it is closed. */
static void empty_slots(struct registry *registry)
{
    size_t position = 0;
    void *value;
    while (map_next(&registry->slots, &position, NULL, &value)) {
        struct slot *slot = value;
        struct slot_generation *generation = slot->generation;
        if (generation) {
            registry_lock(registry);
            generation->is_current = false;
            registry_unlock(registry);
            generation_unref(generation);
        }
        free(slot->error);
        free(slot->path);
        free(slot);
    }
}

void registry_destroy(struct registry *registry)
{
    if (!registry)
        return;
    registry_stop(registry);
    empty_slots(registry);
    registry_retry_parked(registry); /* the keeper is stopping: parked merges end */
    keeper_destroy(registry->keeper);
    assert(list_is_empty(&registry->generations));
    free_registry(registry);
}
