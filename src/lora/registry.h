/*
 * registry.h - which adapters there are, and the view that each one stands for now.
 *
 * Any thread may call anything here. The one lock inside guards the table and is never held during I/O, arithmetic or a
 * call into another module. A slot's generation is replaced, never changed: whoever acquired the old one keeps it until
 * lease_release(). Loading, merging, freeing and saving happen on the keeper, the registry's own background thread; a load takes
 * precedence over a merge at the next slice.
 */
#ifndef LORA_REGISTRY_H
#define LORA_REGISTRY_H

#include <stdatomic.h>

#include <lorad/types.h>

#include "lora/compose.h"

struct registry;
struct slot_generation;

struct registry_options {
    const struct model *model;
    const char *adapters_dir;   /* NULL: paths are refused unless trusted */
    const char *state_dir;      /* NULL: nothing is kept, uploads are refused */
    uint64_t adapter_memory, merged_memory; /* bytes */
    bool lazy;                /* adapters_dir's are loaded on use; those not in use make room for others */
    const char *reserved_id;  /* never an adapter's, whatever adapters_dir holds; NULL: none */
    const _Atomic size_t *n_running; /* requests that the engine computes; NULL: not known. A merge gets out of their way */
    bool auto_merge; /* makes a W' that pays without being asked (lease_gain) */
    /* Told what happened, from the keeper thread; may be NULL. `message` is one line. */
    void (*event)(void *context, const char *event, const char *id, const char *message);
    void *event_context;
};

struct registry *registry_create(const struct registry_options *options, struct error *err);
/* Loads what state_dir remembers; lazy: only what is pinned, the rest on use. An adapter that fails stays listed as FAILED; only a broken state file is an error. */
bool registry_restore(struct registry *registry, struct error *err) MUST_USE;
void registry_stop(struct registry *registry);    /* refuses new work from now on; a merge ends early, a load does not */
void registry_destroy(struct registry *registry); /* all leases are released; joins the keeper */

bool registry_load(struct registry *registry, const char *id, const struct lorad_load_options *options,
                   struct lorad_load_report *report, struct error *err) MUST_USE;
/* New requests get ERROR_NOT_FOUND. `force`: leases of the id are revoked, those of generations that were unloaded before too; if
   there are such, it is no error that the id itself is gone. */
bool registry_unload(struct registry *registry, const char *id, const char *if_match, bool force,
                     struct error *err) MUST_USE;
bool registry_merge(struct registry *registry, const char *id, unsigned wait_ms, struct error *err) MUST_USE;
bool registry_unmerge(struct registry *registry, const char *id, struct error *err) MUST_USE;
bool registry_list(struct registry *registry, const char *id_or_null, struct lorad_adapter_list *out,
                   struct error *err) MUST_USE;
/* The same, with what of adapters_dir was not used yet. Reads the directory when it has changed. */
bool registry_list_all(struct registry *registry, const char *id_or_null, struct lorad_adapter_list *out,
                       struct error *err) MUST_USE;
char *registry_stage(struct registry *registry, struct error *err); /* a fresh directory for an upload */
void registry_unstage(const char *directory);

/* What a request holds: the view, and the generations behind it. */
struct lease {
    struct view *view;                 /* one reference */
    enum lorad_mode mode;              /* of `view` */
    struct view *merged_view;          /* mode auto: W' as it is now, with one reference, for the engine to choose; else NULL */
    enum lorad_mode merged_mode;       /* of `merged_view` */
    bool is_metered;                   /* one adapter as it is, in mode auto: lease_gain wants to know */
    struct lorad_answered_by *parts;   /* n_parts; none for the base */
    size_t n_parts;
    struct slot_generation **generations; /* n_parts; private */
    struct registry *registry;
};

/* The view for this choice of adapters, now. No adapters: the base. An unknown id is ERROR_NOT_FOUND with param "adapter"; one that
   is loading ERROR_UNAVAILABLE; lazy: what is not there is loaded first, and this waits (not on the engine's thread). Mode merged: the full W' when it is there or becomes so within wait_ms (its building is asked for), else on
   the fly. Mode auto: on the fly, and as merged_view the W' that there is now, full or partial. W' needs one adapter with weight * scale
   1. */
bool registry_acquire(struct registry *registry, const struct lorad_adapter_choice *choices, size_t n_choices,
                      double scale, bool has_mode, enum lorad_mode mode, unsigned wait_ms, struct lease *out,
                      struct error *err) MUST_USE;
/* The very same view for one more request, whatever has been loaded since. `from` is held by somebody meanwhile. */
bool registry_share(const struct lease *from, struct lease *out, struct error *err) MUST_USE;
/* How a request ended, for the counters of its adapters. `mode`: the one that was used. */
void lease_count(struct lease *lease, const struct lorad_usage *usage, enum lorad_mode mode);
/* A step would have been `gain_us` shorter with the adapter merged (or was, when it is): what a W' is worth. Engine thread, once a step for
   each adapter; takes no lock. Only for leases of one adapter as it is. When what was lost has reached the price of the merge, the keeper
   decides whether to make it. */
void lease_gain(struct lease *lease, double gain_us);
/* Whether an adapter of it was unloaded by force. Any thread; takes no lock. */
bool lease_is_revoked(const struct lease *lease);
void lease_release(struct lease *lease); /* exactly once; any thread; quick */

struct registry_stats {
    uint64_t adapters, adapter_bytes, adapter_bytes_limit, merged, merged_bytes, merged_bytes_limit;
    uint64_t merges, merge_evictions, loads, load_failures, unloads;
    uint64_t evictions; /* adapters that made room for others */
    uint64_t merge_decisions[LORAD_N_DECISIONS];
};
void registry_stats_read(struct registry *registry, struct registry_stats *out);

bool adapter_id_is_valid(const char *id);

#endif
