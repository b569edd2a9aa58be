/*
 * registry_internal.h - what registry.c, registry_load.c, registry_residency.c, registry_merge.c and registry_consider.c share.
 *
 * A generation is one loaded adapter under an id, counted: one reference from its slot, one from each lease,
 * one from its merge while that runs. The last one posts it to the keeper, which frees it there.
 */
#ifndef LORA_REGISTRY_INTERNAL_H
#define LORA_REGISTRY_INTERNAL_H

#include <pthread.h>

#include "base/list.h"
#include "base/map.h"
#include "lora/keeper.h"
#include "lora/merge_policy.h"
#include "lora/registry.h"

/* Building W', in slices on the keeper. */
struct merge_work {
    struct keeper_job job;
    struct list parked;     /* waits for memory; keeper only */
    struct merge_job *work; /* keeper only */
    uint64_t reserved;      /* keeper only: bytes counted in merged_bytes */
    double spent_us;        /* keeper only: processor time */
    bool *sites;            /* keeper only: which of the adapter's sites; NULL: all */
    uint64_t bytes;         /* what W' will take; guarded by the registry's lock */
    double value_per_byte;  /* an automatic one's, when it was decided; keeper only */
};

enum { N_BUSY = 256 };

struct slot_generation {
    struct keeper_job grave; /* posted when the last reference goes */
    struct registry *registry;
    struct adapter *adapter; /* these three: set before it is shared */
    struct view *view;
    uint64_t merge_bytes;
    char id[LORAD_ID_SIZE];
    struct merge_work merge;
    struct merge_meter meter; /* the engine's thread writes, any reads */
    atomic_bool is_due;       /* the meter says so; taken back by the keeper when it looks */
    atomic_bool is_merged;    /* there is a full W' */
    atomic_bool is_revoked;   /* unloaded by force: who still holds it is to let go */
    /* Guarded by the registry's lock. */
    struct list link; /* in registry->generations while there are references */
    unsigned n_references;
    uint64_t n_in_flight;
    struct list busy; /* in registry->busy while that is not 0 */
    uint64_t n_requests, n_loads;           /* these and the counters: taken over from the slot when unloaded */
    struct lorad_adapter_counters counters;
    bool is_current; /* its slot's present one */
    bool is_unloaded;
    uint64_t unloaded; /* when: the registry's tick */
    bool is_pinned; /* as its slot */
    struct merged *merged;
    struct view *merged_view;
    enum lorad_merged_state merged_state;
    bool has_merge;           /* the merge job holds a reference */
    bool has_merge_error;
    struct error merge_error; /* why the last merge that was asked for did not come about */
    bool is_automatic;        /* the merge that is queued or being built was asked for by nobody */
    bool is_kept;             /* W' was asked for by registry_merge */
    uint64_t requested_us;    /* when a request last asked for W'; 0: never */
    char merge_reason[192];   /* what was last decided, and why */
    uint64_t last_used;
    enum lorad_mode default_mode; /* the slot's, when it was unloaded */
    char *path;                   /* likewise */
    int64_t loaded_unix;
};

/* Guarded by the registry's lock. */
struct slot {
    char id[LORAD_ID_SIZE];
    struct slot_generation *generation; /* NULL: being loaded for the first time, or failed */
    char *error;                        /* failed: why */
    char digest[LORAD_DIGEST_SIZE];     /* of the generation, or of what failed to be restored */
    char *path;
    bool is_upload, is_remembered, allow_other_heads, is_pinned;
    bool is_available;    /* no generation, but the next use loads it from `path` */
    struct first_use *first_use; /* a load on use that is under way; NULL: none */
    enum lorad_mode default_mode;
    uint64_t n_requests, n_loads;
    struct lorad_adapter_counters counters;
    uint64_t n_arrived, n_served; /* loads, in order: an unload waits for those before it */
    size_t n_waiters;             /* threads that hold on to the slot while they wait */
};

struct registry {
    const struct model *model;
    char *adapters_dir, *state_dir;
    void (*event)(void *context, const char *event, const char *id, const char *message);
    void *event_context;
    struct view *base_view;
    struct keeper *keeper;
    struct list parked; /* keeper only: merges that wait for memory */
    bool auto_merge, is_lazy;
    char *reserved_id;
    struct catalogue *catalogue; /* lazy: what adapters_dir holds */
    struct keeper_job consider;
    atomic_bool is_consider_posted;
    _Atomic double us_per_byte; /* what merging costs; the keeper learns it */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* loads, unloads and merges that ended */
    bool is_stopping;
    bool is_retry_posted;
    struct keeper_job retry;
    struct map slots;
    struct list generations;
    struct list busy[N_BUSY]; /* generations that requests hold, by the hash of their ids: to find those of one id */
    uint64_t tick;
    struct registry_stats stats;
};

void registry_lock(struct registry *registry);
void registry_unlock(struct registry *registry);

/* Calls the event callback; keeper only. */
void registry_tell(struct registry *registry, const char *event, const char *id, const char *format, ...)
    PRINTF_LIKE(4, 5);

/* Drops one reference under the lock: true when it was the last, and generation_bury is due after unlocking.
 */
bool generation_drop_locked(struct slot_generation *generation);
void generation_bury(struct slot_generation *generation);
void generation_unref(struct slot_generation *generation);

/* The slot's generation, or the error: not found, loading, failed. */
struct slot_generation *registry_find_locked(struct registry *registry, const char *id, struct error *err);
/* What answers under the slot's id from now on; NULL: nothing. The reference in it is the caller's to move. */
void slot_set_generation_locked(struct registry *registry, struct slot *slot, struct slot_generation *generation);
/* All leases of the id, whichever generation they hold; with a digest, only of that one. How many. */
uint64_t registry_revoke_locked(struct registry *registry, const char *id, const char *digest_or_null);
/* Takes the slot out of the table when nothing is in it and nobody waits for it. */
void slot_settle_locked(struct registry *registry, struct slot *slot);

/* -- Residency, where adapters are loaded on use (registry_residency.c) -- */

/* Where an adapter that is not there is read from. */
struct origin {
    char *directory;
    bool is_upload, allow_other_heads;
    bool is_known; /* the slot says so, not adapters_dir: it must not have been unloaded in between */
};
/* Loads what is not there; joins a load on use that is under way. The generation, with a reference for the caller, so that it stays
   until the caller has got hold of it otherwise. Not with the lock. */
struct slot_generation *registry_make_resident(struct registry *registry, const char *id, struct error *err);
/* Keeper only: room for the generation of `id`, in which others may have to go. `is_trial`: only says whether there would be. */
bool registry_make_room(struct registry *registry, const char *id, uint64_t n_bytes, bool is_trial, struct error *err) MUST_USE;
/* registry_load.c: carries out a load on use, for which the slot expects a load already (n_arrived). */
struct slot_generation *registry_load_on_use(struct registry *registry, const char *id, const struct origin *origin,
                                             struct error *err);

bool registry_check_match(const char *if_match, const char *digest_or_null, struct error *err) MUST_USE;

/* Wants the full W': true when the caller must post generation->merge.job after unlocking (generation_start_merge). */
bool generation_ask_merge_locked(struct slot_generation *generation);
/* Starts the job for a W' at merge.sites, merge.bytes of it. True: as above. */
bool generation_queue_merge_locked(struct slot_generation *generation);
bool generation_is_being_merged(const struct slot_generation *generation);
bool generation_is_merged(const struct slot_generation *generation); /* in full */
void generation_start_merge(struct slot_generation *generation);
/* Drops what is cached or being built: the references that the caller is to drop after unlocking. */
void generation_drop_merge_locked(struct slot_generation *generation, struct view **view_out,
                                  struct merged **merged_out);
void registry_retry_parked(struct registry *registry); /* without the lock */
bool registry_run_retry(struct keeper_job *job);
bool generation_run_merge(struct keeper_job *job);
/* What W' costs to make, as far as is known. */
double generation_price_us(const struct slot_generation *generation);
/* Where a cached W' stands among those that may have to go. */
struct merge_rank generation_rank_locked(const struct slot_generation *generation, uint64_t now_us);
/* Counts what was decided and remembers why. */
void generation_decide_locked(struct slot_generation *generation, enum lorad_merge_decision decision,
                              const char *format, ...) PRINTF_LIKE(3, 4);

/* An adapter's meter says that merging pays: has the keeper look. Takes no lock of the registry. */
void registry_post_consider(struct registry *registry, struct slot_generation *generation);
bool registry_run_consider(struct keeper_job *job);

/* True: until `changed` is signalled or the time (monotonic) is over. */
void registry_deadline(struct timespec *out, unsigned wait_ms);
bool registry_wait_until(struct registry *registry, const struct timespec *deadline);

#endif
