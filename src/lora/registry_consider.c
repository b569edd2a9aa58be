/*
 * registry_consider.c - which W' to make though nobody has asked for it.
 *
 * The engine's thread meters what each adapter loses by not being merged. When that reaches the merge's price, it marks
 * the adapter and posts the registry's one job, in which the keeper looks at all that are marked: is W' still worth it, is there
 * room, or something less valuable in the way, and if not for all of W', then for which sites.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "lora/registry_internal.h"

double generation_price_us(const struct slot_generation *generation)
{
    return (double)generation->merge_bytes *
           atomic_load_explicit(&generation->registry->us_per_byte, memory_order_relaxed);
}

void generation_decide_locked(struct slot_generation *generation, enum lorad_merge_decision decision,
                              const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(generation->merge_reason, sizeof generation->merge_reason, format, arguments);
    va_end(arguments);
    generation->registry->stats.merge_decisions[decision]++;
}

/* Called on the engine's thread. */
void registry_post_consider(struct registry *registry, struct slot_generation *generation)
{
    if (!registry->auto_merge)
        return;
    atomic_store(&generation->is_due, true);
    if (!atomic_exchange(&registry->is_consider_posted, true) && !keeper_post(registry->keeper, &registry->consider))
        atomic_store(&registry->is_consider_posted, false); /* closed: nothing is merged any more */
}

/* -- One decision -------------------------------------------------------------------------- */

struct plan {
    struct slot_generation *generation; /* a reference */
    double value_us;                    /* of the full W' */
    uint64_t room;                      /* bytes */
    struct merge_offer *offers;         /* adapter->n_sites at most */
    size_t n_offers;
    bool *sites; /* chosen; NULL: all */
    uint64_t bytes;
    double share; /* of the gain */
    enum lorad_merge_decision decision;
};

/* May it be merged, or merged further? Not while a merge is on its way. */
static bool is_open_locked(const struct slot_generation *generation)
{
    return generation->is_current && !generation->has_merge && !generation_is_merged(generation) &&
           !generation->registry->is_stopping;
}

/* What of the budget is free, or taken by what is worth less per byte. */
static uint64_t find_room_locked(const struct slot_generation *asker, double value_per_byte, uint64_t now_us)
{
    const struct registry *registry = asker->registry;
    uint64_t limit = registry->stats.merged_bytes_limit, n_staying = 0;
    LIST_FOR_EACH (link, &registry->generations) {
        const struct slot_generation *other = LIST_ENTRY(link, struct slot_generation, link);
        if (other == asker)
            continue;
        if (other->merged) {
            struct merge_rank rank = generation_rank_locked(other, now_us);
            n_staying += merge_may_displace(value_per_byte, &rank) ? 0 : other->merged->bytes;
        }
        if (other->is_current && generation_is_being_merged(other))
            n_staying += other->merge.bytes;
    }
    return n_staying < limit ? limit - n_staying : 0;
}

static struct slot_generation *take_due_locked(struct registry *registry)
{
    LIST_FOR_EACH (link, &registry->generations) {
        struct slot_generation *generation = LIST_ENTRY(link, struct slot_generation, link);
        if (atomic_exchange(&generation->is_due, false) && is_open_locked(generation))
            return generation;
    }
    return NULL;
}

/* The next one that is due, with what decides about it. */
static bool next_plan(struct registry *registry, struct plan *out)
{
    uint64_t now_us = clock_now_us();
    registry_lock(registry);
    struct slot_generation *generation = take_due_locked(registry);
    if (generation) {
        *out = (struct plan){.generation = generation,
                             .value_us = merge_meter_value(&generation->meter, now_us)};
        out->room = find_room_locked(generation, out->value_us / (double)generation->merge_bytes, now_us);
        generation->n_references++;
    }
    registry_unlock(registry);
    return generation != NULL;
}

static bool make_offers(struct plan *plan)
{
    const struct adapter *adapter = plan->generation->adapter;
    plan->offers = calloc(adapter->n_sites + 1, sizeof *plan->offers);
    plan->sites = calloc(adapter->n_sites + 1, sizeof *plan->sites);
    if (!plan->offers || !plan->sites)
        return false;
    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct adapter_site *from = &adapter->sites[i];
        const struct site *site = &adapter->model->sites[from->site];
        bool is_table = site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION;
        uint64_t n_bytes = merge_site_bytes(adapter, i);
        if (n_bytes > 0)
            plan->offers[plan->n_offers++] = (struct merge_offer){
                .index = i,
                .bytes = n_bytes,
                .gain = from->has_delta ? merge_site_gain(from->delta.rank, site->n_in, site->n_out, is_table) : 0};
    }
    return true;
}

/* The full W' when it fits, or what fits of it. False: no memory. */
static bool choose(struct plan *plan)
{
    const struct slot_generation *generation = plan->generation;
    plan->bytes = generation->merge_bytes;
    plan->share = 1;
    if (plan->bytes <= plan->room)
        return true;
    if (!make_offers(plan))
        return false;
    for (size_t i = 0; i < generation->adapter->n_sites; i++)
        plan->sites[i] = false;
    uint64_t n_fixed = merge_bytes(generation->adapter, plan->sites), n_chosen;
    plan->share = merge_choose(plan->offers, plan->n_offers, plan->room > n_fixed ? plan->room - n_fixed : 0, &n_chosen);
    for (size_t i = 0; i < plan->n_offers; i++)
        plan->sites[plan->offers[i].index] = plan->offers[i].is_chosen;
    plan->bytes = merge_bytes(generation->adapter, plan->sites);
    return true;
}

static void decide(struct plan *plan)
{
    double us_per_byte = plan->generation->registry->us_per_byte;
    if (plan->share < MERGE_LEAST_SHARE)
        plan->decision = LORAD_DECISION_NO_ROOM;
    else if (plan->value_us * plan->share < (double)plan->bytes * us_per_byte)
        plan->decision = LORAD_DECISION_NO_GAIN;
    else
        plan->decision = plan->sites ? LORAD_DECISION_PARTLY_MERGED : LORAD_DECISION_MERGED;
}

static void explain_locked(const struct plan *plan)
{
    struct slot_generation *generation = plan->generation;
    double gain_ms = plan->value_us / 1000, price_ms = generation_price_us(generation) / 1000;
    if (plan->decision == LORAD_DECISION_NO_ROOM)
        generation_decide_locked(generation, plan->decision,
                                 "not merged: W' needs %llu bytes, and %llu are free or held by what is worth less",
                                 (unsigned long long)generation->merge_bytes, (unsigned long long)plan->room);
    else if (plan->decision == LORAD_DECISION_NO_GAIN)
        generation_decide_locked(generation, plan->decision,
                                 "not merged: of late it lost %.0f ms on the fly, and merging costs %.0f ms", gain_ms,
                                 price_ms);
    else if (plan->decision == LORAD_DECISION_PARTLY_MERGED)
        generation_decide_locked(generation, plan->decision,
                                 "partly merged: it lost %.0f ms on the fly, and %.0f %% of that can be saved in %llu bytes",
                                 gain_ms, 100 * plan->share, (unsigned long long)plan->bytes);
    else
        generation_decide_locked(generation, plan->decision,
                                 "merged: it lost %.0f ms on the fly, and merging costs %.0f ms", gain_ms, price_ms);
}

/* A partial W' that would be no larger than the one that is there is no news. */
static bool is_news_locked(const struct plan *plan)
{
    const struct merged *present = plan->generation->merged;
    return !present || (plan->decision <= LORAD_DECISION_PARTLY_MERGED && plan->bytes > present->bytes);
}

/* Makes it so. The sites become the merge's. */
static void carry_out(struct plan *plan)
{
    struct slot_generation *generation = plan->generation;
    struct registry *registry = generation->registry;
    char reason[sizeof generation->merge_reason] = "";
    bool is_merge = plan->decision <= LORAD_DECISION_PARTLY_MERGED, is_new = false;
    registry_lock(registry);
    bool is_open = is_open_locked(generation) && is_news_locked(plan);
    if (is_open) {
        explain_locked(plan);
        memcpy(reason, generation->merge_reason, sizeof reason);
    }
    if (is_open && is_merge) {
        generation->is_automatic = true;
        generation->merge.bytes = plan->bytes;
        generation->merge.value_per_byte = plan->value_us * plan->share / (double)plan->bytes;
        generation->merge.sites = plan->sites;
        plan->sites = NULL;
        is_new = generation_queue_merge_locked(generation);
    }
    registry_unlock(registry);
    if (reason[0])
        registry_tell(registry, "adapter_merge_decided", generation->id, "%s", reason);
    if (is_new)
        generation_start_merge(generation);
}

bool registry_run_consider(struct keeper_job *job)
{
    struct registry *registry = LIST_ENTRY(job, struct registry, consider);
    struct plan plan;
    atomic_store(&registry->is_consider_posted, false); /* first: what is marked from now on posts anew */
    while (next_plan(registry, &plan)) {
        if (choose(&plan)) {
            decide(&plan);
            carry_out(&plan);
        }
        free(plan.offers);
        free(plan.sites);
        generation_unref(plan.generation);
    }
    return false;
}
