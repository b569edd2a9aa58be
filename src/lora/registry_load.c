/*
 * registry_load.c - loads, unloads and the state file: commands to the keeper, whose posters wait for them.
 *
 * A load: check, read, (an upload gets its lasting name), save the state as it will be, publish. What comes
 * before the publishing can fail and changes nothing; after it nothing can fail. An id is taken off the table
 * at once when it is unloaded; the answer waits until that is saved.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "lora/peft_directory.h"
#include "lora/registry_internal.h"
#include "lora/report.h"
#include "lora/source.h"
#include "lora/state.h"

/* -- The end of an adapter ----------------------------------------------------------------- */

struct adapter_grave {
    struct keeper_job job;
    struct registry *registry;
    struct adapter *adapter;
};

static bool run_adapter_grave(struct keeper_job *job)
{
    struct adapter_grave *grave = LIST_ENTRY(job, struct adapter_grave, job);
    struct registry *registry = grave->registry;
    uint64_t n_bytes = grave->adapter->resident_bytes;
    adapter_destroy(grave->adapter);
    free(grave);
    registry_lock(registry);
    registry->stats.adapter_bytes -= n_bytes;
    registry_unlock(registry);
    return false;
}

static void dispose_adapter(struct adapter *adapter)
{
    struct adapter_grave *grave = adapter->dispose_context;
    struct keeper *keeper = grave->registry->keeper;
    if (keeper_is_current(keeper) || !keeper_post(keeper, &grave->job))
        run_adapter_grave(&grave->job);
}

/* From now on the adapter's bytes count, until it is destroyed on the keeper. */
static bool adopt(struct registry *registry, struct adapter *adapter, struct error *err)
{
    struct adapter_grave *grave = calloc(1, sizeof *grave);
    if (!grave)
        return error_no_memory(err);
    *grave =
        (struct adapter_grave){.job = {.run = run_adapter_grave}, .registry = registry, .adapter = adapter};
    adapter->dispose = dispose_adapter;
    adapter->dispose_context = grave;
    registry_lock(registry);
    registry->stats.adapter_bytes += adapter->resident_bytes;
    registry_unlock(registry);
    return true;
}

/* -- Commands ------------------------------------------------------------------------------ */

/* Lives on its poster's stack, who waits; `is_done` is guarded by the registry's lock. */
struct command {
    struct keeper_job job;
    struct registry *registry;
    const char *id;
    struct error *err;
    bool ok, is_done;
    /* a load */
    const struct lorad_load_options *options;
    const char *directory;       /* where to read */
    const char *expected_digest; /* restoring: the content must be this; NULL: any */
    bool is_restore;
    const struct origin *origin;        /* on use: as it was when it was asked for */
    struct slot_generation *generation; /* on use: what came of it, with a reference */
    struct lorad_load_report report;
    /* an unload */
    const char *upload; /* a directory to remove when nobody wants it; NULL: none */
};

static void complete(struct command *command, bool ok)
{
    struct registry *registry = command->registry;
    registry_lock(registry);
    command->ok = ok;
    command->is_done = true;
    pthread_cond_broadcast(&registry->changed);
    registry_unlock(registry);
}

static bool run_command(struct command *command, bool (*run)(struct keeper_job *job))
{
    struct registry *registry = command->registry;
    command->job = (struct keeper_job){.run = run};
    if (!keeper_post(registry->keeper, &command->job))
        return error_set(command->err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
    registry_lock(registry);
    while (!command->is_done)
        pthread_cond_wait(&registry->changed, &registry->lock);
    registry_unlock(registry);
    return command->ok;
}

/* -- Saving -------------------------------------------------------------------------------- */

static bool fill_entry(struct state_entry *out, const char *id, const char *digest, const char *path,
                       bool is_upload, bool allow_other_heads, bool is_pinned, enum lorad_mode mode)
{
    *out = (struct state_entry){.is_upload = is_upload,
                                .allow_other_heads = allow_other_heads,
                                .is_pinned = is_pinned,
                                .default_mode = mode};
    snprintf(out->id, sizeof out->id, "%s", id);
    snprintf(out->digest, sizeof out->digest, "%s", digest);
    out->path = is_upload ? NULL : strdup(path);
    return is_upload || out->path;
}

/* What the table remembers now, but for `except`; room for one entry more. */
static bool snapshot(struct registry *registry, const char *except, struct state *out, struct error *err)
{
    struct state state = {0};
    size_t position = 0;
    void *value;
    registry_lock(registry);
    state.entries = calloc(registry->slots.n_entries + 1, sizeof *state.entries);
    bool ok = state.entries != NULL;
    while (ok && map_next(&registry->slots, &position, NULL, &value)) {
        const struct slot *slot = value;
        if (slot->is_remembered && (slot->generation || slot->error || slot->is_available) &&
            (!except || strcmp(slot->id, except) != 0))
            ok = fill_entry(&state.entries[state.n_entries++], slot->id, slot->digest, slot->path,
                            slot->is_upload, slot->allow_other_heads, slot->is_pinned, slot->default_mode);
    }
    registry_unlock(registry);
    if (ok) {
        *out = state;
        return true;
    }
    state_finish(&state);
    return error_no_memory(err);
}

static bool save_with(struct registry *registry, const struct state_entry *entry, const char *except,
                      struct error *err)
{
    struct state state;
    if (!registry->state_dir)
        return true;
    if (!snapshot(registry, except, &state, err))
        return false;
    if (entry)
        state.entries[state.n_entries++] = *entry;
    bool ok = state_write(&state, registry->state_dir, err);
    state.n_entries -= entry != NULL; /* its path is the caller's */
    state_finish(&state);
    return ok;
}

static bool is_upload_wanted(struct registry *registry, const char *path)
{
    size_t position = 0;
    void *value;
    bool is_wanted = false;
    registry_lock(registry);
    while (!is_wanted && map_next(&registry->slots, &position, NULL, &value)) {
        const struct slot *slot = value;
        is_wanted = slot->is_upload && slot->path && strcmp(slot->path, path) == 0;
    }
    registry_unlock(registry);
    return is_wanted;
}

/* Keeper only: nobody can come to want it in between. What cannot be removed is swept at the next start. */
static void remove_upload(struct registry *registry, const char *path)
{
    struct error problem;
    if (path && !is_upload_wanted(registry, path) && !directory_remove(path, &problem))
        registry_tell(registry, "upload_remove_failed", "", "%s", problem.message);
}

/* -- Loading, on the keeper ---------------------------------------------------------------- */

/* What a load found out, step by step. */
struct loading {
    struct command *command;
    struct registry *registry;
    const struct lorad_load_options *options;
    bool is_remembered, is_pinned;
    enum lorad_mode default_mode;
    bool is_resident;                        /* there is a generation */
    char previous_digest[LORAD_DIGEST_SIZE]; /* of it, or of what the next use would load; "": none */
    bool is_stricter;                        /* than the load of the present content was: it must be checked again */
    struct slot_generation *generation;      /* the new one, not yet public */
    char *path;                              /* where it will be listed as coming from */
};

/* The slot, and what of it decides whether this load may begin. */
static bool look_at_slot(struct loading *loading, struct error *err)
{
    struct registry *registry = loading->registry;
    const struct lorad_load_options *options = loading->options;
    const struct command *command = loading->command;
    registry_lock(registry);
    const struct slot *slot = map_get(&registry->slots, loading->command->id);
    bool is_there = slot->generation || slot->is_available, is_stopping = registry->is_stopping;
    bool is_gone = command->origin && command->origin->is_known && !is_there && !slot->error;
    loading->is_resident = slot->generation != NULL;
    if (is_there)
        memcpy(loading->previous_digest, slot->digest, sizeof loading->previous_digest);
    if (command->origin)
        loading->is_remembered = slot->is_remembered;
    loading->is_pinned = options->has_pin ? options->pin : slot->is_pinned;
    loading->is_stricter = slot->allow_other_heads && !options->allow_other_heads;
    loading->default_mode = options->has_default_mode ? options->default_mode : slot->default_mode;
    registry_unlock(registry);
    if (is_stopping)
        return error_set(err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
    if (is_gone)
        return error_set(err, ERROR_NOT_FOUND, "adapter", "there is no adapter '%s'", command->id);
    if (options->only_new && is_there)
        return error_set(err, ERROR_CONFLICT, "id", "adapter '%s' is there already", command->id);
    return registry_check_match(options->if_match, is_there ? loading->previous_digest : NULL, err);
}

static bool check_expected(const struct command *command, const char *digest, struct error *err)
{
    if (!command->expected_digest || strcmp(command->expected_digest, digest) == 0)
        return true;
    return error_set(err, ERROR_CONFLICT, "digest",
                     "its files have changed since: they were %.12s..., and are %.12s...",
                     command->expected_digest, digest);
}

static struct slot_generation *create_generation(struct registry *registry, const char *id,
                                                 struct adapter *adapter, struct error *err)
{
    const struct compose_part part = {.adapter = adapter, .factor = 1};
    struct slot_generation *generation = calloc(1, sizeof *generation);
    if (!generation) {
        error_no_memory(err);
        return NULL;
    }
    generation->view = compose_on_the_fly(registry->model, &part, 1, err);
    if (!generation->view) {
        free(generation);
        return NULL;
    }
    generation->registry = registry;
    generation->adapter = adapter;
    generation->merge_bytes = merge_bytes(adapter, NULL);
    generation->n_references = 1;
    generation->is_current = true;
    generation->loaded_unix = (int64_t)time(NULL);
    snprintf(generation->id, sizeof generation->id, "%s", id);
    list_init(&generation->link);
    return generation;
}

static bool make_room(void *context, uint64_t n_bytes, struct error *err)
{
    const struct loading *loading = context;
    return registry_make_room(loading->registry, loading->command->id, n_bytes, loading->options->dry_run, err);
}

static size_t file_limit_of(const struct registry *registry)
{
    return adapter_file_limit(registry->model, registry->stats.adapter_bytes_limit); /* never changes */
}

/* Reads the adapter into a generation of its own. */
static bool read_adapter(struct loading *loading, struct error *err)
{
    struct command *command = loading->command;
    const struct adapter_room room = {.make = make_room, .context = loading};
    struct adapter *adapter =
        adapter_load_into(command->directory, loading->registry->model, loading->options->allow_other_heads,
                          file_limit_of(loading->registry), &room, err);
    if (!adapter)
        return false;
    bool ok =
        check_expected(command, adapter->digest, err) && report_copy(&command->report, &adapter->report, err);
    if (ok && !loading->options->dry_run) {
        ok = adopt(loading->registry, adapter, err);
        loading->generation = ok ? create_generation(loading->registry, command->id, adapter, err) : NULL;
        ok = loading->generation != NULL;
    }
    if (!loading->generation)
        adapter_unref(adapter);
    return ok;
}

/* The upload gets its lasting place; a directory stays where it is. */
static bool settle_path(struct loading *loading, const char *digest, struct error *err)
{
    if (loading->options->staged)
        loading->path = source_keep(loading->registry->state_dir, loading->command->directory, digest, err);
    else
        loading->path = strdup(loading->command->directory);
    return loading->path || (loading->options->staged ? false : error_no_memory(err));
}

static bool save(struct loading *loading, const char *digest, struct error *err)
{
    struct state_entry entry;
    const char *id = loading->command->id;
    if (loading->command->is_restore || !loading->registry->state_dir)
        return true;
    bool is_as_saved = !loading->is_remembered || strcmp(digest, loading->previous_digest) == 0;
    if (loading->command->origin && is_as_saved)
        return true;
    if (!loading->is_remembered)
        return save_with(loading->registry, NULL, id, err);
    if (!fill_entry(&entry, id, digest, loading->path, loading->options->staged,
                    loading->options->allow_other_heads, loading->is_pinned, loading->default_mode))
        return error_no_memory(err);
    bool ok = save_with(loading->registry, &entry, id, err);
    free(entry.path);
    return ok;
}

static bool refuse_unloaded(const struct loading *loading, struct error *err)
{
    return error_set(err, ERROR_CONFLICT, "id", "adapter '%s' was unloaded in between", loading->command->id);
}

/* Swaps it in. No generation of our own: the one that is there has the same content and stays. The only way to fail
   is that somebody unloaded in between what this load stands on. */
static bool publish(struct loading *loading, struct error *err)
{
    struct registry *registry = loading->registry;
    struct slot_generation *old = NULL, *merge = NULL;
    struct view *view = NULL;
    struct merged *merged = NULL;
    registry_lock(registry);
    struct slot *slot = map_get(&registry->slots, loading->command->id);
    const struct origin *origin = loading->command->origin;
    bool is_there = slot->generation || (loading->generation && (slot->is_available || slot->error));
    bool needs_present = !loading->generation || loading->options->if_match || (origin && origin->is_known);
    if (needs_present && !is_there) {
        registry_unlock(registry);
        return refuse_unloaded(loading, err);
    }
    char *old_path = slot->path, *old_error = slot->error;
    bool was_upload = slot->is_upload;
    slot->path = loading->path;
    slot->error = NULL;
    slot->is_upload = loading->options->staged;
    slot->is_remembered = loading->is_remembered;
    slot->allow_other_heads = loading->options->allow_other_heads;
    slot->default_mode = loading->default_mode;
    slot->is_pinned = loading->is_pinned;
    slot->is_available = false;
    slot->n_loads++;
    registry->stats.loads++;
    if (loading->generation) {
        old = slot->generation;
        slot_set_generation_locked(registry, slot, loading->generation);
        memcpy(slot->digest, loading->generation->adapter->digest, sizeof slot->digest);
        list_append(&registry->generations, &loading->generation->link);
    }
    slot->generation->is_pinned = slot->is_pinned;
    slot->generation->last_used = ++registry->tick;
    if (old) {
        old->is_current = false;
        generation_drop_merge_locked(old, &view, &merged);
    }
    if (slot->default_mode == LORAD_MODE_MERGED && generation_ask_merge_locked(slot->generation))
        merge = slot->generation;
    registry_unlock(registry);
    loading->path = NULL;
    loading->generation = NULL;

    if (merge)
        generation_start_merge(merge);
    view_unref(view);
    merged_unref(merged);
    if (old) {
        generation_unref(old);
        registry_retry_parked(registry); /* its merge, if that waits, ends now */
    }
    if (was_upload)
        remove_upload(registry, old_path);
    free(old_path);
    free(old_error);
    return true;
}

/* The slot's present content once more: only where it comes from and how it is served may change. */
static bool keep_present(struct loading *loading, struct error *err)
{
    struct registry *registry = loading->registry;
    struct command *command = loading->command;
    registry_lock(registry);
    struct slot *slot = map_get(&registry->slots, command->id);
    struct adapter *adapter = slot->generation ? adapter_ref(slot->generation->adapter) : NULL;
    registry_unlock(registry);
    if (!adapter)
        return refuse_unloaded(loading, err);
    bool ok = report_copy(&command->report, &adapter->report, err);
    adapter_unref(adapter);
    command->report.unchanged = true;
    return ok;
}

static bool has_present_content(struct loading *loading)
{
    char digest[DIGEST_HEX_SIZE];
    if (!loading->is_resident || loading->is_stricter ||
        !peft_directory_digest(loading->command->directory, file_limit_of(loading->registry), digest,
                               NULL)) /* the load itself will say why */
        return false;
    return strcmp(digest, loading->previous_digest) == 0;
}

static bool load(struct loading *loading, struct error *err)
{
    struct command *command = loading->command;
    if (!look_at_slot(loading, err))
        return false;
    if (command->origin && loading->is_resident)
        return true; /* somebody else's load came first */
    bool ok = has_present_content(loading) ? keep_present(loading, err) : read_adapter(loading, err);
    if (!ok)
        return false;
    if (!loading->is_resident && strcmp(loading->previous_digest, command->report.digest) == 0)
        command->report.unchanged = true;
    command->report.replaced = loading->previous_digest[0] && !command->report.unchanged;
    snprintf(command->report.id, sizeof command->report.id, "%s", command->id);
    if (loading->options->dry_run)
        return true;
    if (!settle_path(loading, command->report.digest, err) || !save(loading, command->report.digest, err))
        return false;
    return publish(loading, err);
}

static void undo(struct loading *loading)
{
    if (loading->path && loading->options->staged)
        remove_upload(loading->registry, loading->path);
    free(loading->path);
    if (!loading->generation)
        return;
    view_unref(loading->generation->view);
    adapter_unref(loading->generation->adapter);
    free(loading->generation);
}

/* What could not be restored stays listed, with the reason. */
static void mark_failed(struct loading *loading, const struct error *problem)
{
    struct registry *registry = loading->registry;
    char *text = strdup(problem->message);
    registry_lock(registry);
    struct slot *slot = map_get(&registry->slots, loading->command->id);
    if (!slot->generation) {
        free(slot->error);
        slot->error = text;
        text = NULL;
    }
    registry_unlock(registry);
    free(text);
}

static void tell_loaded(const struct command *command, bool was_resident)
{
    const struct lorad_load_report *report = &command->report;
    registry_tell(command->registry,
                  report->replaced                    ? "adapter_replaced"
                  : report->unchanged && was_resident ? "adapter_unchanged"
                                                      : "adapter_loaded",
                  command->id, "%zu of %zu tensors, %zu sites, %" PRIu64 " bytes, %s", report->tensors_applied,
                  report->tensors_present, report->n_sites, report->resident_bytes, report->digest);
}

/* What was loaded on use stays until those who wait have it. */
static void hold_locked(struct command *command, const struct slot *slot)
{
    command->generation = slot->generation;
    if (command->generation)
        command->generation->n_references++;
}

static bool run_load(struct keeper_job *job)
{
    struct command *command = LIST_ENTRY(job, struct command, job);
    struct registry *registry = command->registry;
    struct error problem = {0};
    struct loading loading = {.command = command,
                              .registry = registry,
                              .options = command->options,
                              .is_remembered = command->is_restore || !command->options->trusted_path};
    bool ok = load(&loading, &problem);
    bool is_kept = ok && !loading.options->dry_run;
    if (!ok) {
        undo(&loading);
        report_finish(&command->report);
        if (command->is_restore)
            mark_failed(&loading, &problem);
        if (command->err)
            *command->err = problem;
        registry_tell(registry, "adapter_load_failed", command->id, "%s", problem.message);
    }
    if (command->options->staged && !is_kept && !command->is_restore)
        remove_upload(registry, command->directory);
    if (is_kept && command->report.digest[0])
        tell_loaded(command, loading.is_resident);
    registry_lock(registry);
    registry->stats.load_failures += !ok;
    struct slot *slot = map_get(&registry->slots, command->id);
    slot->n_served++;
    if (ok && command->origin)
        hold_locked(command, slot);
    slot_settle_locked(registry, slot);
    registry_unlock(registry);
    complete(command, ok);
    return false;
}

/* -- Loading, on the caller's side --------------------------------------------------------- */

/* The slot, made if need be, with one more load on its way. */
static bool arrive(struct registry *registry, const char *id, struct error *err)
{
    struct slot *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return error_no_memory(err);
    memcpy(fresh->id, id, strlen(id) + 1);
    registry_lock(registry);
    struct slot *slot = map_get(&registry->slots, id);
    bool is_stopping = registry->is_stopping, ok = !is_stopping;
    if (ok && !slot) {
        ok = map_set(&registry->slots, id, fresh);
        slot = fresh;
        fresh = ok ? NULL : fresh;
    }
    if (ok)
        slot->n_arrived++;
    registry_unlock(registry);
    free(fresh);
    if (is_stopping)
        return error_set(err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
    return ok || error_no_memory(err);
}

static void leave(struct registry *registry, const char *id)
{
    registry_lock(registry);
    struct slot *slot = map_get(&registry->slots, id);
    slot->n_served++;
    slot_settle_locked(registry, slot);
    pthread_cond_broadcast(&registry->changed);
    registry_unlock(registry);
}

static char *find_directory(const struct registry *registry, const struct lorad_load_options *options,
                            struct error *err)
{
    if (!options->path || !*options->path) {
        error_set(err, ERROR_BAD_INPUT, "path", "is missing");
        return NULL;
    }
    if (options->staged && !registry->state_dir) {
        error_set(err, ERROR_BAD_INPUT, NULL, "uploads are not taken here: the daemon has no --state-dir");
        return NULL;
    }
    if (!options->staged && !options->trusted_path)
        return source_confine(registry->adapters_dir, options->path, err);
    char *copy = strdup(options->path);
    if (!copy)
        error_no_memory(err);
    return copy;
}

/* `command` has its id, options, err; its report is handed out on success. */
static bool submit_load(struct command *command)
{
    struct registry *registry = command->registry;
    if (!arrive(registry, command->id, command->err))
        return false;
    if (run_command(command, run_load))
        return true;
    if (!command->is_done)
        leave(registry, command->id); /* the keeper never saw it */
    return false;
}

bool registry_load(struct registry *registry, const char *id, const struct lorad_load_options *options,
                   struct lorad_load_report *report, struct error *err)
{
    if (!adapter_id_is_valid(id))
        return error_set(
            err, ERROR_BAD_INPUT, "id",
            "must be 1 to 128 letters, digits, '.', '_' or '-', and begin with a letter or digit");
    char *directory = find_directory(registry, options, err);
    if (!directory)
        return false;
    struct command command = {
        .registry = registry, .id = id, .options = options, .directory = directory, .err = err};
    bool ok = submit_load(&command);
    free(directory);
    if (ok && report)
        *report = command.report;
    else if (ok)
        report_finish(&command.report);
    return ok;
}

struct slot_generation *registry_load_on_use(struct registry *registry, const char *id, const struct origin *origin,
                                             struct error *err)
{
    const struct lorad_load_options options = {
        .staged = origin->is_upload, .trusted_path = true, .allow_other_heads = origin->allow_other_heads};
    struct command command = {.registry = registry,
                              .id = id,
                              .options = &options,
                              .directory = origin->directory,
                              .origin = origin,
                              .err = err};
    bool ok = run_command(&command, run_load);
    if (ok)
        report_finish(&command.report);
    else if (!command.is_done)
        leave(registry, id); /* the keeper never saw it */
    if (ok && !command.generation)
        error_set(err, ERROR_UNAVAILABLE, "adapter", "adapter '%s' was unloaded in between", id);
    return command.generation;
}

/* -- Unloading ----------------------------------------------------------------------------- */

static bool run_unload(struct keeper_job *job)
{
    struct command *command = LIST_ENTRY(job, struct command, job);
    struct error problem = {0};
    bool ok = save_with(command->registry, NULL, NULL, &problem);
    if (!ok) {
        error_prefix(&problem, "adapter '%s' is unloaded, but will be back after a restart", command->id);
        if (command->err)
            *command->err = problem;
    } else {
        remove_upload(command->registry, command->upload);
    }
    registry_tell(command->registry, ok ? "adapter_unloaded" : "state_save_failed", command->id, "%s",
                  ok ? "new requests get 404" : problem.message);
    complete(command, ok);
    return false;
}

/* Loads of this id that came before go first. */
static struct slot *await_turn_locked(struct registry *registry, const char *id)
{
    struct slot *slot = map_get(&registry->slots, id);
    if (!slot)
        return NULL;
    uint64_t ticket = slot->n_arrived;
    slot->n_waiters++;
    while (slot->n_served < ticket && !registry->is_stopping)
        pthread_cond_wait(&registry->changed, &registry->lock);
    slot->n_waiters--;
    return slot;
}

static bool check_unload_locked(struct registry *registry, struct slot *slot, const char *id,
                                const char *if_match, struct error *err)
{
    if (registry->is_stopping)
        return error_set(err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
    if (!slot || (!slot->generation && !slot->error && !slot->is_available))
        return error_set(err, ERROR_NOT_FOUND, "adapter", "there is no adapter '%s'", id);
    bool is_there = slot->generation || slot->is_available;
    return registry_check_match(if_match, is_there ? slot->digest : NULL, err);
}

/* Takes the generation out of its slot; what it was known by goes along, to be listed while it drains. */
static struct slot_generation *take_out_locked(struct registry *registry, struct slot *slot,
                                               char **upload_out)
{
    struct slot_generation *generation = slot->generation;
    *upload_out = slot->is_upload && slot->path ? strdup(slot->path) : NULL;
    if (generation) {
        generation->is_current = false;
        generation->is_unloaded = true;
        generation->unloaded = ++registry->tick;
        generation->n_requests = slot->n_requests;
        generation->counters = slot->counters;
        generation->n_loads = slot->n_loads;
        generation->default_mode = slot->default_mode;
        generation->path = slot->path;
        slot->path = NULL;
    }
    free(slot->error);
    free(slot->path);
    slot_set_generation_locked(registry, slot, NULL);
    slot->error = slot->path = NULL;
    slot->is_upload = slot->is_remembered = slot->is_available = slot->is_pinned = false;
    slot->default_mode = LORAD_MODE_AUTO;
    slot->n_requests = slot->n_loads = 0;
    slot->counters = (struct lorad_adapter_counters){0};
    memset(slot->digest, 0, sizeof slot->digest);
    registry->stats.unloads++;
    slot_settle_locked(registry, slot);
    return generation;
}

/* Nothing is there to be unloaded; but what was before may still be running. */
static bool revoke_past_locked(struct registry *registry, const char *id, const char *if_match)
{
    return registry_revoke_locked(registry, id, if_match && strcmp(if_match, "*") != 0 ? if_match : NULL) > 0;
}

bool registry_unload(struct registry *registry, const char *id, const char *if_match, bool force,
                     struct error *err)
{
    struct slot_generation *generation = NULL;
    struct view *view = NULL;
    struct merged *merged = NULL;
    char *upload = NULL;
    registry_lock(registry);
    struct slot *slot = await_turn_locked(registry, id);
    struct error problem = {0};
    bool ok = check_unload_locked(registry, slot, id, if_match, &problem), is_past = false;
    if (ok) {
        if (force)
            registry_revoke_locked(registry, id, NULL);
        generation = take_out_locked(registry, slot, &upload);
        if (generation)
            generation_drop_merge_locked(generation, &view, &merged);
        pthread_cond_broadcast(&registry->changed);
    } else {
        is_past = force && problem.code == ERROR_NOT_FOUND && revoke_past_locked(registry, id, if_match);
        if (slot)
            slot_settle_locked(registry, slot);
    }
    registry_unlock(registry);
    if (!ok) {
        if (!is_past && err)
            *err = problem;
        return is_past;
    }
    view_unref(view);
    merged_unref(merged);
    generation_unref(generation);
    registry_retry_parked(registry);
    struct command command = {.registry = registry, .id = id, .err = err, .upload = upload};
    ok = run_command(&command, run_unload);
    free(upload);
    return ok;
}

/* -- After a start ------------------------------------------------------------------------- */

/* Puts what the file says into the slot first, so that a failure is listed with it. */
static bool prepare_slot(struct registry *registry, const struct state_entry *entry, const char *path,
                         struct error *err)
{
    char *copy = strdup(path);
    if (!copy || !arrive(registry, entry->id, err)) {
        free(copy);
        return copy ? false : error_no_memory(err);
    }
    registry_lock(registry);
    struct slot *slot = map_get(&registry->slots, entry->id);
    free(slot->path);
    slot->path = copy;
    slot->is_upload = entry->is_upload;
    slot->is_remembered = true;
    slot->allow_other_heads = entry->allow_other_heads;
    slot->default_mode = entry->default_mode;
    slot->is_pinned = entry->is_pinned;
    slot->is_available = registry->is_lazy && !entry->is_pinned;
    memcpy(slot->digest, entry->digest, sizeof slot->digest);
    registry_unlock(registry);
    return true;
}

static bool restore_entry(struct registry *registry, const struct state_entry *entry, struct error *err)
{
    struct error problem = {0};
    char *known =
        entry->is_upload ? source_upload_path(registry->state_dir, entry->digest) : strdup(entry->path);
    if (!known)
        return error_no_memory(err);
    /* A path from before must still lie inside what is allowed now; one that does not fails below, with its
     * reason. */
    char *directory =
        entry->is_upload ? strdup(known) : source_confine(registry->adapters_dir, known, &problem);
    struct lorad_load_options options = {.staged = entry->is_upload,
                                         .allow_other_heads = entry->allow_other_heads,
                                         .has_default_mode = true,
                                         .default_mode = entry->default_mode};
    struct command command = {.registry = registry,
                              .id = entry->id,
                              .options = &options,
                              .directory = directory,
                              .expected_digest = entry->digest,
                              .is_restore = true,
                              .err = &problem};
    bool ok = prepare_slot(registry, entry, known, err);
    if (ok && registry->is_lazy && !entry->is_pinned) {
        leave(registry, entry->id); /* its first use loads it, or says why not */
    } else if (ok && directory) {
        if (run_command(&command, run_load))
            report_finish(&command.report);
        else if (!command.is_done)
            leave(registry, entry->id);
    } else if (ok) {
        struct loading loading = {.command = &command, .registry = registry};
        mark_failed(&loading, &problem);
        leave(registry, entry->id);
    }
    free(directory);
    free(known);
    return ok;
}

static bool sweep_uploads(struct registry *registry, const struct state *state, struct error *err)
{
    struct map wanted;
    bool ok = true;
    map_init(&wanted);
    for (size_t i = 0; ok && i < state->n_entries; i++) {
        char *path = state->entries[i].is_upload
                         ? source_upload_path(registry->state_dir, state->entries[i].digest)
                         : NULL;
        if (path)
            ok = map_set(&wanted, path, (void *)&state->entries[i]) || error_no_memory(err);
        free(path);
    }
    ok = ok && source_sweep(registry->state_dir, &wanted, err);
    map_finish(&wanted);
    return ok;
}

bool registry_restore(struct registry *registry, struct error *err)
{
    struct state state;
    if (!registry->state_dir)
        return true;
    if (!state_read(&state, registry->state_dir, err))
        return false;
    bool ok = sweep_uploads(registry, &state, err);
    for (size_t i = 0; ok && i < state.n_entries; i++)
        ok = restore_entry(registry, &state.entries[i], err);
    state_finish(&state);
    return ok;
}
