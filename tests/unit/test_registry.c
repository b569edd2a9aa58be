#include "lora/registry.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/file.h"
#include "lora/report.h"
#include "support/check.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

#define BIG ((uint64_t)1 << 30)

static struct model *model;

static int load_model(void **state)
{
    struct error err;
    (void)state;
    model = tiny_model_load((struct tiny_model){0}, MODEL_WEIGHTS_NATIVE,
                            kernels_select(cpu_detect_features(), "c", &err));
    return model ? 0 : -1;
}

static int free_model(void **state)
{
    (void)state;
    model_destroy(model);
    return 0;
}

/* A registry with a place for adapters and one for its state. */
struct place {
    char *folder, *adapters, *state;
    struct registry *registry;
    atomic_uint n_events, n_evictions, n_merges;
    bool has_no_auto_merge;
    atomic_bool asks_again; /* drops the next W' when it is there and asks for it once more */
};

static void count_event(void *context, const char *event, const char *id, const char *message)
{
    struct place *place = context;
    (void)message;
    atomic_fetch_add(&place->n_events, 1);
    if (strcmp(event, "adapter_evicted") == 0)
        atomic_fetch_add(&place->n_evictions, 1);
    if (strcmp(event, "adapter_merged") != 0)
        return;
    atomic_fetch_add(&place->n_merges, 1);
    if (atomic_exchange(&place->asks_again, false)) {
        struct error err = {0};
        assert_ok(registry_unmerge(place->registry, id, &err), &err);
        assert_ok(registry_merge(place->registry, id, 0, &err), &err);
    }
}

static void open_registry(struct place *place, uint64_t adapter_memory, uint64_t merged_memory)
{
    struct error err = {0};
    struct registry_options options = {.model = model,
                                       .adapters_dir = place->adapters,
                                       .state_dir = place->state,
                                       .adapter_memory = adapter_memory,
                                       .merged_memory = merged_memory,
                                       .auto_merge = !place->has_no_auto_merge,
                                       .event = count_event,
                                       .event_context = place};
    place->registry = registry_create(&options, &err);
    if (!place->registry)
        fail_msg("%s", err.message);
    assert_ok(registry_restore(place->registry, &err), &err);
}

static void begin_with(struct place *place, uint64_t adapter_memory, uint64_t merged_memory)
{
    *place = (struct place){.folder = scratch_create()};
    place->adapters = path_join(place->folder, "adapters");
    place->state = path_join(place->folder, "state");
    assert_true(directory_create(place->adapters, NULL));
    open_registry(place, adapter_memory, merged_memory);
}

static void begin(struct place *place)
{
    begin_with(place, BIG, BIG);
}

static void end(struct place *place)
{
    registry_destroy(place->registry);
    scratch_remove(place->folder);
    free(place->adapters);
    free(place->state);
}

static void put_adapter(const char *parent, const char *name, struct tiny_adapter spec)
{
    char *from = tiny_adapter_write(model, spec), *to = path_join(parent, name);
    char *command = NULL;
    assert_true(asprintf(&command, "mkdir -p '%s' && cp '%s'/* '%s'/", to, from, to) > 0);
    assert_int_equal(system(command), 0);
    free(command);
    free(to);
    tiny_remove(from);
}

static bool load(struct place *place, const char *id, const char *path, struct lorad_load_report *report,
                 struct error *err)
{
    return registry_load(place->registry, id, &(struct lorad_load_options){.path = path}, report, err);
}

static void must_load(struct place *place, const char *id, const char *path)
{
    struct error err = {0};
    assert_ok(load(place, id, path, NULL, &err), &err);
}

static bool acquire(struct place *place, const char *id, struct lease *out, struct error *err)
{
    return registry_acquire(place->registry, &(struct lorad_adapter_choice){id, 1}, 1, 1, false,
                            LORAD_MODE_AUTO, 0, out, err);
}

static struct lease must_acquire(struct place *place, const char *id, enum lorad_mode mode, unsigned wait_ms)
{
    struct lease lease;
    struct error err = {0};
    struct lorad_adapter_choice choice = {id, 1};
    assert_ok(registry_acquire(place->registry, &choice, 1, 1, true, mode, wait_ms, &lease, &err), &err);
    return lease;
}

static struct lorad_adapter_info look(struct place *place, const char *id)
{
    struct lorad_adapter_list list;
    struct error err = {0};
    assert_ok(registry_list(place->registry, id, &list, &err), &err);
    assert_int_equal(list.n_adapters, 1);
    struct lorad_adapter_info info = list.adapters[0];
    free(info.path);
    free(info.error);
    free(list.adapters);
    return info;
}

static struct registry_stats stats_of(struct place *place)
{
    struct registry_stats stats;
    registry_stats_read(place->registry, &stats);
    return stats;
}

/* The keeper frees later; a load that fails waits until it has got there. Twice: what it frees may post once
 * more. */
static void await_keeper(struct place *place)
{
    struct lorad_load_options nothing = {.path = "/nowhere", .trusted_path = true};
    for (int i = 0; i < 2; i++)
        assert_false(registry_load(place->registry, "nobody", &nothing, NULL, NULL));
}

static void a_loaded_adapter_answers_under_its_id(void **state)
{
    struct place place;
    struct error err = {0};
    struct lease lease;
    struct lorad_load_report report;
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){.rank = 3});
    assert_ok(load(&place, "poet", "poet", &report, &err), &err);
    assert_string_equal(report.id, "poet");
    assert_false(report.replaced || report.unchanged);
    assert_int_equal(report.tensors_applied, report.tensors_present);
    assert_ok(acquire(&place, "poet", &lease, &err), &err);
    assert_string_equal(lease.parts[0].digest, report.digest);
    assert_true(lease.view->has_deltas);
    assert_int_equal(lease.mode, LORAD_MODE_ON_THE_FLY);
    lease_count(&lease, &(struct lorad_usage){.completion_tokens = 7}, LORAD_MODE_ON_THE_FLY);
    assert_int_equal(look(&place, "poet").requests_in_flight, 1);
    lease_release(&lease);
    assert_int_equal(look(&place, "poet").counters.completion_tokens, 7);
    assert_int_equal(look(&place, "poet").requests_in_flight, 0);
    assert_int_equal(look(&place, "poet").state, LORAD_ADAPTER_READY);
    report_finish(&report);
    end(&place);
}

static void an_unknown_adapter_is_not_found_and_never_the_base(void **state)
{
    struct place place;
    struct error err = {0};
    struct lease lease;
    (void)state;
    begin(&place);
    assert_false(acquire(&place, "nobody", &lease, &err));
    assert_error(&err, ERROR_NOT_FOUND, "adapter", "nobody");
    assert_false(registry_unload(place.registry, "nobody", NULL, false, &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
    assert_ok(registry_acquire(place.registry, NULL, 0, 1, false, LORAD_MODE_AUTO, 0, &lease, &err), &err);
    assert_false(lease.view->has_deltas);
    assert_int_equal(lease.n_parts, 0);
    lease_release(&lease);
    end(&place);
}

static void replacing_an_adapter_leaves_its_users_alone(void **state)
{
    struct place place;
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "one", (struct tiny_adapter){.rank = 4, .seed = 1});
    put_adapter(place.adapters, "two", (struct tiny_adapter){.rank = 8, .seed = 2});
    must_load(&place, "poet", "one");
    struct lease before = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    must_load(&place, "poet", "two");
    struct lease after = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    size_t site = model->layer_sites[0][PROJECTION_Q];
    assert_int_equal(before.view->sites[site].deltas[0].rank, 4);
    assert_int_equal(after.view->sites[site].deltas[0].rank, 8);
    assert_string_not_equal(before.parts[0].digest, after.parts[0].digest);
    uint64_t both = stats_of(&place).adapter_bytes;
    lease_release(&before);
    await_keeper(&place);
    assert_true(stats_of(&place).adapter_bytes < both);
    assert_int_equal(stats_of(&place).adapter_bytes, look(&place, "poet").resident_bytes);
    lease_release(&after);
    end(&place);
}

static void an_unloaded_adapter_drains_and_its_bytes_come_back(void **state)
{
    struct place place;
    struct error err = {0};
    struct lease lease;
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){.rank = 4});
    must_load(&place, "poet", "poet");
    lease = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    assert_ok(registry_unload(place.registry, "poet", NULL, false, &err), &err);
    struct lease refused;
    assert_false(acquire(&place, "poet", &refused, &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
    assert_int_equal(look(&place, "poet").state, LORAD_ADAPTER_DRAINING);
    assert_int_equal(look(&place, "poet").requests_in_flight, 1);
    assert_true(stats_of(&place).adapter_bytes > 0);
    lease_release(&lease);
    await_keeper(&place);
    assert_int_equal(stats_of(&place).adapter_bytes, 0);
    struct lorad_adapter_list list;
    assert_false(registry_list(place.registry, "poet", &list, &err));
    end(&place);
}

static void a_failed_load_leaves_the_old_generation_serving(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "good", (struct tiny_adapter){0});
    put_adapter(place.adapters, "bad", (struct tiny_adapter){.more_config = "\"use_qalora\": true"});
    must_load(&place, "poet", "good");
    struct lorad_adapter_info before = look(&place, "poet");
    assert_false(load(&place, "poet", "bad", NULL, &err));
    assert_int_equal(err.code, ERROR_MISMATCH);
    assert_string_equal(look(&place, "poet").digest, before.digest);
    assert_false(load(&place, "fresh", "bad", NULL, &err));
    struct lorad_adapter_list list;
    assert_false(registry_list(place.registry, "fresh", &list, &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
    assert_int_equal(stats_of(&place).load_failures, 2);
    assert_int_equal(stats_of(&place).adapter_bytes, before.resident_bytes);
    end(&place);
}

static void a_path_outside_of_the_adapters_directory_is_refused(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    put_adapter(place.folder, "outside", (struct tiny_adapter){0});
    assert_false(load(&place, "poet", "../outside", NULL, &err));
    assert_int_equal(err.code, ERROR_BAD_INPUT);
    assert_string_equal(err.param, "path");
    char *path = path_join(place.folder, "outside"), *link = path_join(place.adapters, "link");
    assert_int_equal(symlink(path, link), 0);
    assert_false(load(&place, "poet", "link", NULL, &err));
    assert_int_equal(err.code, ERROR_BAD_INPUT);
    assert_ok(registry_load(place.registry, "poet",
                            &(struct lorad_load_options){.path = path, .trusted_path = true}, NULL, &err),
              &err);
    free(path);
    free(link);
    end(&place);
}

static void the_same_content_again_changes_nothing(void **state)
{
    struct place place;
    struct error err = {0};
    struct lorad_load_report report;
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){0});
    must_load(&place, "poet", "poet");
    struct lease lease = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    struct lorad_load_options options = {
        .path = "poet", .has_default_mode = true, .default_mode = LORAD_MODE_ON_THE_FLY};
    assert_ok(registry_load(place.registry, "poet", &options, &report, &err), &err);
    assert_true(report.unchanged);
    assert_false(report.replaced);
    struct lease again = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    assert_ptr_equal(lease.view, again.view);
    assert_int_equal(look(&place, "poet").default_mode, LORAD_MODE_ON_THE_FLY);
    assert_int_equal(look(&place, "poet").n_loads, 2);
    report_finish(&report);
    lease_release(&lease);
    lease_release(&again);
    end(&place);
}

static void the_same_content_is_checked_again_when_less_is_allowed(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    char *command = NULL;
    put_adapter(place.adapters, "judge", (struct tiny_adapter){0});
    assert_true(asprintf(&command, "sed -i s/CAUSAL_LM/SEQ_CLS/ '%s/judge/adapter_config.json'", place.adapters) > 0);
    assert_int_equal(system(command), 0);
    free(command);
    struct lorad_load_options options = {.path = "judge", .allow_other_heads = true};
    assert_ok(registry_load(place.registry, "judge", &options, NULL, &err), &err);
    assert_false(load(&place, "judge", "judge", NULL, &err));
    assert_non_null(strstr(err.message, "SEQ_CLS"));
    assert_int_equal(look(&place, "judge").n_loads, 1);
    end(&place);
}

static void if_match_makes_a_replace_compare_and_set(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "one", (struct tiny_adapter){.seed = 1});
    put_adapter(place.adapters, "two", (struct tiny_adapter){.seed = 2});
    struct lorad_load_options options = {.path = "one", .if_match = "*"};
    assert_false(registry_load(place.registry, "poet", &options, NULL, &err));
    assert_error(&err, ERROR_CONFLICT, "if_match", "another generation");
    must_load(&place, "poet", "one");
    struct lorad_adapter_info first = look(&place, "poet");
    options = (struct lorad_load_options){.path = "two", .if_match = first.digest};
    assert_ok(registry_load(place.registry, "poet", &options, NULL, &err), &err);
    assert_false(registry_load(place.registry, "poet", &options, NULL, &err));
    assert_string_equal(err.param, "if_match");
    assert_false(registry_unload(place.registry, "poet", first.digest, false, &err));
    assert_int_equal(err.code, ERROR_CONFLICT);
    options = (struct lorad_load_options){.path = "one", .only_new = true};
    assert_false(registry_load(place.registry, "poet", &options, NULL, &err));
    assert_int_equal(err.code, ERROR_CONFLICT);
    assert_ok(registry_unload(place.registry, "poet", look(&place, "poet").digest, false, &err), &err);
    end(&place);
}

static void a_dry_run_only_checks(void **state)
{
    struct place place;
    struct error err = {0};
    struct lorad_load_report report;
    struct lorad_adapter_list list;
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){0});
    struct lorad_load_options options = {.path = "poet", .dry_run = true};
    assert_ok(registry_load(place.registry, "poet", &options, &report, &err), &err);
    assert_true(report.n_sites > 0);
    report_finish(&report);
    assert_false(registry_list(place.registry, "poet", &list, &err));
    assert_int_equal(stats_of(&place).adapter_bytes, 0);
    end(&place);
}

static void a_load_over_the_budget_says_what_is_needed(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){0});
    must_load(&place, "poet", "poet");
    uint64_t n_bytes = look(&place, "poet").resident_bytes;
    end(&place);
    begin_with(&place, n_bytes + n_bytes / 2, BIG);
    put_adapter(place.adapters, "one", (struct tiny_adapter){.seed = 1});
    put_adapter(place.adapters, "two", (struct tiny_adapter){.seed = 2});
    must_load(&place, "one", "one");
    assert_false(load(&place, "two", "two", NULL, &err));
    assert_error(&err, ERROR_TOO_LARGE, "adapter_memory", "are free");
    assert_ok(registry_unload(place.registry, "one", NULL, false, &err), &err);
    must_load(&place, "two", "two");
    end(&place);
}

static void merged_weights_serve_once_they_are_there(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){0});
    must_load(&place, "poet", "poet");
    struct lease lease = must_acquire(&place, "poet", LORAD_MODE_MERGED, 10000);
    assert_int_equal(lease.mode, LORAD_MODE_MERGED);
    assert_false(lease.view->has_deltas);
    size_t site = model->layer_sites[0][PROJECTION_Q];
    assert_ptr_not_equal(lease.view->sites[site].weight, model->sites[site].weight);
    assert_ptr_equal(lease.view->sites[model->head_site].weight, model->sites[model->head_site].weight);
    struct lease automatic = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    assert_true(automatic.view->has_deltas);
    assert_int_equal(automatic.mode, LORAD_MODE_ON_THE_FLY);
    assert_ptr_equal(automatic.merged_view, lease.view);
    assert_int_equal(automatic.merged_mode, LORAD_MODE_MERGED);
    struct lease fly = must_acquire(&place, "poet", LORAD_MODE_ON_THE_FLY, 0);
    assert_true(fly.view->has_deltas);
    assert_null(fly.merged_view);
    uint64_t n_bytes = stats_of(&place).merged_bytes;
    assert_int_equal(n_bytes, look(&place, "poet").merged_bytes);
    assert_int_equal(look(&place, "poet").merged, LORAD_MERGED_YES);
    assert_ok(registry_unmerge(place.registry, "poet", &err), &err);
    assert_int_equal(look(&place, "poet").merged, LORAD_MERGED_NO);
    lease_release(&fly);
    lease_release(&lease);
    await_keeper(&place);
    assert_int_equal(stats_of(&place).merged_bytes, n_bytes);
    lease_release(&automatic);
    await_keeper(&place);
    assert_int_equal(stats_of(&place).merged_bytes, 0);
    end(&place);
}

static void a_merge_that_is_asked_for_while_its_last_one_ends_begins_anew(void **state)
{
    struct place place;
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){0});
    must_load(&place, "poet", "poet");
    atomic_store(&place.asks_again, true);
    struct lease lease = must_acquire(&place, "poet", LORAD_MODE_MERGED, 10000);
    lease_release(&lease);
    for (int i = 0; i < 500 && look(&place, "poet").merged != LORAD_MERGED_YES; i++)
        usleep(10000);
    assert_int_equal(look(&place, "poet").merged, LORAD_MERGED_YES);
    assert_int_equal(atomic_load(&place.n_merges), 2);
    end(&place);
}

static void an_adapter_that_is_merged_by_default_is_merged_after_loading(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){0});
    struct lorad_load_options options = {
        .path = "poet", .has_default_mode = true, .default_mode = LORAD_MODE_MERGED};
    assert_ok(registry_load(place.registry, "poet", &options, NULL, &err), &err);
    assert_int_not_equal(look(&place, "poet").merged, LORAD_MERGED_NO);
    assert_ok(registry_merge(place.registry, "poet", 10000, &err), &err);
    assert_int_equal(look(&place, "poet").merged, LORAD_MERGED_YES);
    assert_int_equal(stats_of(&place).merges, 1);
    end(&place);
}

static void the_least_recently_used_merged_weights_make_room(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "one", (struct tiny_adapter){0});
    must_load(&place, "one", "one");
    assert_ok(registry_merge(place.registry, "one", 10000, &err), &err);
    uint64_t n_bytes = look(&place, "one").merged_bytes;
    end(&place);

    begin_with(&place, BIG, 2 * n_bytes + 8);
    put_adapter(place.adapters, "one", (struct tiny_adapter){.seed = 1});
    put_adapter(place.adapters, "two", (struct tiny_adapter){.seed = 2});
    put_adapter(place.adapters, "three", (struct tiny_adapter){.seed = 3});
    const char *const ids[] = {"one", "two", "three"};
    for (size_t i = 0; i < 3; i++) {
        must_load(&place, ids[i], ids[i]);
        struct lease lease = must_acquire(&place, ids[i], LORAD_MODE_MERGED, 10000);
        assert_int_equal(lease.mode, LORAD_MODE_MERGED);
        lease_release(&lease);
    }
    assert_int_equal(look(&place, "one").merged, LORAD_MERGED_NO);
    assert_int_equal(look(&place, "two").merged, LORAD_MERGED_YES);
    assert_int_equal(look(&place, "three").merged, LORAD_MERGED_YES);
    assert_int_equal(stats_of(&place).merge_evictions, 1);
    assert_int_equal(atomic_load(&place.n_evictions), 1);
    end(&place);
}

static void a_merge_waits_for_the_memory_that_requests_hold(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "one", (struct tiny_adapter){0});
    must_load(&place, "one", "one");
    assert_ok(registry_merge(place.registry, "one", 10000, &err), &err);
    uint64_t n_bytes = look(&place, "one").merged_bytes;
    end(&place);

    begin_with(&place, BIG, n_bytes + 8);
    put_adapter(place.adapters, "one", (struct tiny_adapter){.seed = 1});
    put_adapter(place.adapters, "two", (struct tiny_adapter){.seed = 2});
    must_load(&place, "one", "one");
    must_load(&place, "two", "two");
    struct lease held = must_acquire(&place, "one", LORAD_MODE_MERGED, 10000);
    assert_int_equal(held.mode, LORAD_MODE_MERGED);
    struct lease other = must_acquire(&place, "two", LORAD_MODE_MERGED, 50);
    assert_int_equal(other.mode, LORAD_MODE_ON_THE_FLY);
    assert_int_equal(look(&place, "two").merged, LORAD_MERGED_QUEUED);
    lease_release(&other);
    lease_release(&held);
    assert_ok(registry_merge(place.registry, "two", 10000, &err), &err);
    assert_int_equal(look(&place, "two").merged, LORAD_MERGED_YES);
    end(&place);
}

static void a_merge_that_can_never_fit_is_refused_with_the_reason(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin_with(&place, BIG, 100);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){0});
    must_load(&place, "poet", "poet");
    assert_false(registry_merge(place.registry, "poet", 0, &err));
    assert_error(&err, ERROR_TOO_LARGE, "merged_memory", "W' needs");
    assert_int_equal(look(&place, "poet").merged, LORAD_MERGED_REFUSED);
    struct lease lease = must_acquire(&place, "poet", LORAD_MODE_MERGED, 10000);
    assert_int_equal(lease.mode, LORAD_MODE_ON_THE_FLY);
    lease_release(&lease);
    end(&place);
}

/* -- Merged weights that manage themselves --------------------------------------------------- */

static uint64_t bytes_of_one_merge(void)
{
    struct place place;
    begin(&place);
    put_adapter(place.adapters, "one", (struct tiny_adapter){0});
    must_load(&place, "one", "one");
    struct lease lease = must_acquire(&place, "one", LORAD_MODE_MERGED, 10000);
    uint64_t n_bytes = look(&place, "one").merged_bytes;
    lease_release(&lease);
    end(&place);
    return n_bytes;
}

static void put_and_load(struct place *place, const char *id, unsigned seed)
{
    put_adapter(place->adapters, id, (struct tiny_adapter){.seed = seed});
    must_load(place, id, id);
}

static void gain(struct place *place, const char *id, double us)
{
    struct lease lease = must_acquire(place, id, LORAD_MODE_AUTO, 0);
    assert_true(lease.is_metered);
    lease_gain(&lease, us);
    lease_release(&lease);
}

/* The keeper decides after the messages that came before, and merges when none is left. */
static void await_decision(struct place *place, const char *id)
{
    for (int i = 0; i < 500; i++) {
        enum lorad_merged_state now = look(place, id).merged;
        if (look(place, id).merge_reason[0] && now != LORAD_MERGED_QUEUED && now != LORAD_MERGED_BUILDING)
            return;
        usleep(5000);
    }
    fail_msg("nothing was decided on %s", id);
}

static void what_is_lost_on_the_fly_beyond_the_price_is_merged_in_the_background(void **state)
{
    struct place place;
    (void)state;
    begin(&place);
    put_and_load(&place, "poet", 1);
    gain(&place, "poet", look(&place, "poet").merge_price_us / 2);
    await_keeper(&place);
    assert_int_equal(look(&place, "poet").merged, LORAD_MERGED_NO);
    gain(&place, "poet", 1e9);
    await_decision(&place, "poet");
    struct lorad_adapter_info info = look(&place, "poet");
    assert_int_equal(info.merged, LORAD_MERGED_YES);
    assert_int_equal(info.merged_sites, info.n_sites);
    assert_true(info.merge_value_us_per_s > 0);
    assert_non_null(strstr(info.merge_reason, "merged: it lost"));
    assert_int_equal(stats_of(&place).merge_decisions[LORAD_DECISION_MERGED], 1);
    struct lease lease = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0), shared;
    struct error err = {0};
    assert_true(lease.view->has_deltas);
    assert_false(lease.merged_view->has_deltas);
    assert_string_not_equal(lease.view->identity, lease.merged_view->identity);
    assert_ok(registry_share(&lease, &shared, &err), &err);
    assert_ptr_equal(shared.merged_view, lease.merged_view);
    assert_int_equal(shared.merged_mode, LORAD_MODE_MERGED);
    assert_true(shared.is_metered);
    lease_release(&lease);
    lease_release(&shared);
    end(&place);
}

static void nothing_is_merged_unasked_when_that_is_off(void **state)
{
    struct place place = {0};
    (void)state;
    begin(&place);
    registry_destroy(place.registry);
    place.has_no_auto_merge = true;
    open_registry(&place, BIG, BIG);
    put_and_load(&place, "poet", 1);
    gain(&place, "poet", 1e9);
    await_keeper(&place);
    assert_int_equal(look(&place, "poet").merged, LORAD_MERGED_NO);
    assert_true(look(&place, "poet").merge_value_us_per_s > 0);
    end(&place);
}

static void the_least_valuable_makes_room_and_only_for_what_is_worth_more(void **state)
{
    struct place place;
    (void)state;
    uint64_t n_bytes = bytes_of_one_merge();
    begin_with(&place, BIG, 2 * n_bytes + 8);
    put_and_load(&place, "best", 1);
    put_and_load(&place, "least", 2);
    put_and_load(&place, "middle", 3);
    put_and_load(&place, "late", 4);
    gain(&place, "best", 1e10);
    await_decision(&place, "best");
    gain(&place, "least", 1e7);
    await_decision(&place, "least");
    gain(&place, "middle", 1e9);
    await_decision(&place, "middle");
    assert_int_equal(look(&place, "best").merged, LORAD_MERGED_YES);
    assert_int_equal(look(&place, "middle").merged, LORAD_MERGED_YES);
    assert_int_equal(look(&place, "least").merged, LORAD_MERGED_NO);
    assert_non_null(strstr(look(&place, "least").merge_reason, "'middle'"));
    gain(&place, "late", 1.1e9); /* not by enough */
    await_decision(&place, "late");
    assert_int_equal(look(&place, "late").merged, LORAD_MERGED_NO);
    assert_int_equal(look(&place, "middle").merged, LORAD_MERGED_YES);
    assert_int_equal(stats_of(&place).merge_decisions[LORAD_DECISION_NO_ROOM], 1);
    assert_int_equal(stats_of(&place).merge_decisions[LORAD_DECISION_EVICTED], 1);
    end(&place);
}

static void what_was_asked_for_is_kept_before_what_manages_itself(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    uint64_t n_bytes = bytes_of_one_merge();
    begin_with(&place, BIG, 2 * n_bytes + 8);
    put_and_load(&place, "asked", 1);
    put_and_load(&place, "hot", 2);
    put_and_load(&place, "hotter", 3);
    assert_ok(registry_merge(place.registry, "asked", 10000, &err), &err);
    gain(&place, "hot", 1e8);
    await_decision(&place, "hot");
    gain(&place, "hotter", 1e10);
    await_decision(&place, "hotter");
    assert_int_equal(look(&place, "asked").merged, LORAD_MERGED_YES);
    assert_int_equal(look(&place, "hot").merged, LORAD_MERGED_NO);
    assert_int_equal(look(&place, "hotter").merged, LORAD_MERGED_YES);
    end(&place);
}

static void where_all_of_it_does_not_fit_the_best_sites_are_merged(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    uint64_t n_bytes = bytes_of_one_merge();
    begin_with(&place, BIG, n_bytes * 6 / 10);
    put_and_load(&place, "poet", 1);
    gain(&place, "poet", 1e9);
    await_decision(&place, "poet");
    struct lorad_adapter_info info = look(&place, "poet");
    assert_int_equal(info.merged, LORAD_MERGED_PARTLY);
    assert_true(info.merged_sites > 0 && info.merged_sites < info.n_sites);
    assert_true(info.merged_bytes <= n_bytes * 6 / 10);
    assert_int_equal(stats_of(&place).merge_decisions[LORAD_DECISION_PARTLY_MERGED], 1);
    struct lease lease = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    assert_int_equal(lease.merged_mode, LORAD_MODE_PARTLY_MERGED);
    assert_true(lease.merged_view->has_deltas);
    size_t k = model->layer_sites[0][PROJECTION_K], down = model->layer_sites[0][PROJECTION_DOWN];
    assert_int_equal(lease.merged_view->sites[k].n_deltas, 0);
    assert_int_equal(lease.merged_view->sites[down].n_deltas, 1);
    struct lease asked = must_acquire(&place, "poet", LORAD_MODE_MERGED, 10000);
    assert_int_equal(asked.mode, LORAD_MODE_ON_THE_FLY);
    assert_ptr_equal(asked.view, lease.view);
    assert_false(registry_merge(place.registry, "poet", 10000, &err));
    assert_error(&err, ERROR_TOO_LARGE, "merged_memory", "W' needs");
    assert_int_equal(look(&place, "poet").merged, LORAD_MERGED_PARTLY);
    lease_release(&asked);
    lease_release(&lease);
    end(&place);
}

static void who_asks_for_merged_weights_never_gets_partial_ones(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    uint64_t n_bytes = bytes_of_one_merge();
    begin_with(&place, BIG, n_bytes * 16 / 10);
    put_and_load(&place, "asked", 1);
    put_and_load(&place, "poet", 2);
    assert_ok(registry_merge(place.registry, "asked", 10000, &err), &err);
    gain(&place, "poet", 1e9);
    await_decision(&place, "poet");
    assert_int_equal(look(&place, "poet").merged, LORAD_MERGED_PARTLY);
    assert_ok(registry_unmerge(place.registry, "asked", &err), &err);
    struct lease lease = must_acquire(&place, "poet", LORAD_MODE_MERGED, 10000);
    assert_int_equal(lease.mode, LORAD_MODE_MERGED);
    assert_false(lease.view->has_deltas);
    assert_null(lease.merged_view);
    lease_release(&lease);
    await_keeper(&place);
    assert_int_equal(stats_of(&place).merged_bytes, n_bytes);
    end(&place);
}

static void several_adapters_and_scales_make_a_view_of_their_own(void **state)
{
    struct place place;
    struct error err = {0};
    struct lease lease;
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "one", (struct tiny_adapter){.seed = 1, .rank = 2});
    put_adapter(place.adapters, "two", (struct tiny_adapter){.seed = 2, .rank = 3});
    must_load(&place, "one", "one");
    must_load(&place, "two", "two");
    struct lorad_adapter_choice both[] = {{"one", 0.5}, {"two", 2}};
    assert_ok(registry_acquire(place.registry, both, 2, 0.5, true, LORAD_MODE_MERGED, 1000, &lease, &err),
              &err);
    assert_int_equal(lease.mode, LORAD_MODE_ON_THE_FLY);
    size_t site = model->layer_sites[1][PROJECTION_V];
    assert_int_equal(lease.view->sites[site].n_deltas, 2);
    assert_float_equal(lease.view->sites[site].deltas[0].scale, 8.0 / 2 * 0.25, 1e-6);
    assert_float_equal(lease.view->sites[site].deltas[1].scale, 8.0 / 3 * 1, 1e-6);
    lease_release(&lease);
    assert_ok(registry_acquire(place.registry, both, 1, 0, false, LORAD_MODE_AUTO, 0, &lease, &err), &err);
    assert_false(lease.view->has_deltas);
    assert_int_equal(lease.n_parts, 1);
    lease_release(&lease);
    end(&place);
}

static char *stage_adapter(struct place *place, struct tiny_adapter spec)
{
    struct error err = {0};
    char *directory = registry_stage(place->registry, &err);
    if (!directory)
        fail_msg("%s", err.message);
    put_adapter(directory, ".", spec);
    return directory;
}

static void the_registry_survives_a_restart(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "kept", (struct tiny_adapter){.seed = 1});
    put_adapter(place.adapters, "changed", (struct tiny_adapter){.seed = 2});
    put_adapter(place.adapters, "gone", (struct tiny_adapter){.seed = 3});
    must_load(&place, "kept", "kept");
    must_load(&place, "changed", "changed");
    must_load(&place, "gone", "gone");
    char *staged = stage_adapter(&place, (struct tiny_adapter){.seed = 4});
    struct lorad_load_options upload = {.path = staged, .staged = true};
    assert_ok(registry_load(place.registry, "uploaded", &upload, NULL, &err), &err);
    assert_false(path_is_directory(staged));
    free(staged);
    char *left_behind = registry_stage(place.registry, &err);
    assert_ok(registry_unload(place.registry, "gone", NULL, false, &err), &err);
    struct lorad_adapter_info kept = look(&place, "kept"), uploaded = look(&place, "uploaded");
    registry_destroy(place.registry);

    put_adapter(place.adapters, "changed", (struct tiny_adapter){.seed = 5});
    open_registry(&place, BIG, BIG);
    assert_string_equal(look(&place, "kept").digest, kept.digest);
    assert_string_equal(look(&place, "uploaded").digest, uploaded.digest);
    assert_int_equal(look(&place, "uploaded").state, LORAD_ADAPTER_READY);
    assert_int_equal(look(&place, "changed").state, LORAD_ADAPTER_FAILED);
    assert_int_equal(stats_of(&place).adapters, 2);
    assert_false(path_is_directory(left_behind));
    struct lease lease;
    assert_false(acquire(&place, "changed", &lease, &err));
    assert_error(&err, ERROR_UNAVAILABLE, "adapter", "have changed");
    must_load(&place, "changed", "changed");
    assert_ok(registry_unload(place.registry, "uploaded", NULL, false, &err), &err);
    char *uploads = path_join(place.state, "uploads"), *kept_upload = path_join(uploads, uploaded.digest);
    assert_false(path_is_directory(kept_upload));
    free(kept_upload);
    free(uploads);
    free(left_behind);
    end(&place);
}

static void a_broken_state_file_is_an_error(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    registry_destroy(place.registry);
    scratch_write_text(place.state, "registry.json", "{\"version\": 2, \"adapters\": []}");
    struct registry_options options = {
        .model = model, .state_dir = place.state, .adapter_memory = BIG, .merged_memory = BIG};
    struct registry *registry = registry_create(&options, &err);
    assert_non_null(registry);
    assert_false(registry_restore(registry, &err));
    assert_non_null(strstr(err.message, "registry.json"));
    registry_destroy(registry);
    place.registry = NULL;
    end(&place);
}

static void ids_are_words(void **state)
{
    char long_id[140];
    (void)state;
    memset(long_id, 'a', sizeof long_id);
    long_id[128] = '\0';
    assert_true(adapter_id_is_valid(long_id));
    long_id[128] = 'a';
    long_id[129] = '\0';
    assert_false(adapter_id_is_valid(long_id));
    assert_true(adapter_id_is_valid("a.B_c-9"));
    assert_false(adapter_id_is_valid(""));
    assert_false(adapter_id_is_valid(".."));
    assert_false(adapter_id_is_valid("-a"));
    assert_false(adapter_id_is_valid("a/b"));
    assert_false(adapter_id_is_valid("a\n"));
    assert_false(adapter_id_is_valid("\xc3\xa4"));
}

static struct lorad_adapter_counters counters_of(struct place *place, const char *id)
{
    return look(place, id).counters;
}

static void what_requests_came_to_is_counted_and_survives_a_replacement(void **state)
{
    struct place place;
    const struct lorad_usage usage = {.prompt_tokens = 9, .completion_tokens = 4, .cached_tokens = 5,
                                      .n_preemptions = 2, .queue_ms = 250, .prefill_ms = 500, .decode_ms = 1000};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "one", (struct tiny_adapter){.seed = 1});
    put_adapter(place.adapters, "two", (struct tiny_adapter){.seed = 2});
    must_load(&place, "poet", "one");
    struct lease before = must_acquire(&place, "poet", LORAD_MODE_ON_THE_FLY, 0);
    must_load(&place, "poet", "two");
    struct lease after = must_acquire(&place, "poet", LORAD_MODE_ON_THE_FLY, 0);
    lease_count(&before, &usage, LORAD_MODE_MERGED);
    lease_count(&after, &usage, LORAD_MODE_PARTLY_MERGED);
    lease_count(&after, &(struct lorad_usage){.prompt_tokens = 1, .queue_ms = 8000}, LORAD_MODE_ON_THE_FLY);

    struct lorad_adapter_counters counters = counters_of(&place, "poet");
    assert_int_equal(counters.requests[LORAD_MODE_MERGED], 1);
    assert_int_equal(counters.requests[LORAD_MODE_PARTLY_MERGED], 1);
    assert_int_equal(counters.requests[LORAD_MODE_ON_THE_FLY], 1);
    assert_int_equal(counters.prompt_tokens, 19);
    assert_int_equal(counters.cached_tokens, 10);
    assert_int_equal(counters.completion_tokens, 8);
    assert_int_equal(counters.preemptions, 4);
    assert_int_equal(counters.first_tokens, 2); /* who got no token waited for none */
    assert_true(counters.first_token_seconds == 1.5);
    lease_release(&before);
    lease_release(&after);
    end(&place);
}

static void what_drains_keeps_its_counters_and_its_successor_begins_at_0(void **state)
{
    struct place place;
    struct error err = {0};
    const struct lorad_usage usage = {.completion_tokens = 3};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){0});
    must_load(&place, "poet", "poet");
    struct lease first = must_acquire(&place, "poet", LORAD_MODE_ON_THE_FLY, 0);
    struct lease second = must_acquire(&place, "poet", LORAD_MODE_ON_THE_FLY, 0);
    lease_count(&first, &usage, LORAD_MODE_ON_THE_FLY);
    assert_ok(registry_unload(place.registry, "poet", NULL, false, &err), &err);
    lease_count(&second, &usage, LORAD_MODE_ON_THE_FLY);
    assert_int_equal(counters_of(&place, "poet").completion_tokens, 6);
    must_load(&place, "poet", "poet");
    assert_int_equal(counters_of(&place, "poet").completion_tokens, 0);
    assert_int_equal(look(&place, "poet").requests_in_flight, 2);
    assert_int_equal(look(&place, "poet").state, LORAD_ADAPTER_READY);
    lease_release(&first);
    lease_release(&second);
    end(&place);
}

static void unloading_by_force_revokes_every_lease_of_the_id(void **state)
{
    struct place place;
    struct error err = {0};
    struct lease mixed;
    const struct lorad_adapter_choice choices[] = {{"other", 1}, {"poet", 0.5}};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "one", (struct tiny_adapter){.seed = 1});
    put_adapter(place.adapters, "two", (struct tiny_adapter){.seed = 2});
    must_load(&place, "poet", "one");
    must_load(&place, "other", "one");
    struct lease replaced = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    must_load(&place, "poet", "two");
    struct lease present = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    struct lease other = must_acquire(&place, "other", LORAD_MODE_AUTO, 0);
    assert_ok(registry_acquire(place.registry, choices, 2, 1, false, LORAD_MODE_AUTO, 0, &mixed, &err), &err);
    assert_false(lease_is_revoked(&present));
    assert_false(registry_unload(place.registry, "poet", "another digest", true, &err));
    assert_int_equal(err.code, ERROR_CONFLICT);
    assert_false(lease_is_revoked(&present));

    assert_ok(registry_unload(place.registry, "poet", NULL, true, &err), &err);
    assert_true(lease_is_revoked(&replaced) && lease_is_revoked(&present) && lease_is_revoked(&mixed));
    assert_false(lease_is_revoked(&other));
    must_load(&place, "poet", "two");
    struct lease next = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    assert_false(lease_is_revoked(&next));
    lease_release(&replaced);
    lease_release(&present);
    lease_release(&mixed);
    lease_release(&other);
    lease_release(&next);
    end(&place);
}

static void force_also_reaches_what_an_unload_left_running(void **state)
{
    struct place place;
    struct error err = {0};
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){0});
    must_load(&place, "poet", "poet");
    struct lease lease = must_acquire(&place, "poet", LORAD_MODE_AUTO, 0);
    assert_ok(registry_unload(place.registry, "poet", NULL, false, &err), &err);
    assert_false(lease_is_revoked(&lease));
    assert_false(registry_unload(place.registry, "poet", NULL, false, &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
    assert_false(registry_unload(place.registry, "poet", "another digest", true, &err));
    assert_false(lease_is_revoked(&lease));
    assert_ok(registry_unload(place.registry, "poet", lease.parts[0].digest, true, &err), &err);
    assert_true(lease_is_revoked(&lease));
    lease_release(&lease);
    assert_false(registry_unload(place.registry, "poet", NULL, true, &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
    end(&place);
}

/* -- Churn --------------------------------------------------------------------------------- */

enum { N_CLIENTS = 3, N_LOADERS = 2, N_CYCLES = 40 };

struct churn {
    struct place *place;
    unsigned seed;
    atomic_bool *stop;
    unsigned n_served, n_revoked;
};

static const char *const churn_ids[] = {"a", "b", "c"};

/* Every lease holds what it says: the digest's own rank in every delta. */
static void use_lease(const struct lease *lease)
{
    size_t site = model->layer_sites[1][PROJECTION_DOWN];
    const struct site_view *view = &lease->view->sites[site];
    if (lease->mode == LORAD_MODE_MERGED)
        assert_int_equal(view->n_deltas, 0);
    else
        assert_int_equal(view->n_deltas, 1);
    volatile float first =
        view->n_deltas ? *(const float *)view->deltas[0].a : *(const float *)view->weight->data;
    (void)first;
}

static void *run_client(void *context)
{
    struct churn *churn = context;
    while (!atomic_load(churn->stop)) {
        struct lease lease;
        struct error err;
        enum lorad_mode mode = (enum lorad_mode)(rand_r(&churn->seed) % 3);
        struct lorad_adapter_choice choice = {churn_ids[rand_r(&churn->seed) % 3], 1};
        if (!registry_acquire(churn->place->registry, &choice, 1, 1, true, mode,
                              (unsigned)rand_r(&churn->seed) % 3, &lease, &err)) {
            if (err.code != ERROR_NOT_FOUND && err.code != ERROR_UNAVAILABLE)
                abort();
            sched_yield();
            continue;
        }
        use_lease(&lease);
        churn->n_revoked += lease_is_revoked(&lease);
        if (lease.is_metered && churn->seed % 8 == 0)
            lease_gain(&lease, 1e6);
        struct view *longer = view_ref(lease.view);
        lease_count(&lease, &(struct lorad_usage){.completion_tokens = 1}, LORAD_MODE_ON_THE_FLY);
        lease_release(&lease);
        view_unref(longer);
        churn->n_served++;
    }
    return NULL;
}

static void *run_loader(void *context)
{
    static const char *const paths[] = {"one", "two", "three"};
    struct churn *churn = context;
    struct registry *registry = churn->place->registry;
    for (int i = 0; i < N_CYCLES; i++) {
        struct error err = {0};
        struct lorad_adapter_list list;
        const char *id = churn_ids[rand_r(&churn->seed) % 3];
        struct lorad_load_options options = {.path = paths[rand_r(&churn->seed) % 3],
                                             .has_default_mode = true,
                                             .default_mode = (enum lorad_mode)(rand_r(&churn->seed) % 3)};
        if (!registry_load(registry, id, &options, NULL, &err) && err.code != ERROR_CONFLICT)
            abort();
        if (rand_r(&churn->seed) % 2 && !registry_merge(registry, id, 1, &err) && err.code != ERROR_NOT_FOUND)
            abort();
        if (rand_r(&churn->seed) % 4 == 0 && !registry_unmerge(registry, id, &err) &&
            err.code != ERROR_NOT_FOUND)
            abort();
        if (rand_r(&churn->seed) % 3 == 0 && !registry_unload(registry, id, NULL, i % 2, &err) &&
            err.code != ERROR_NOT_FOUND)
            abort();
        if (registry_list(registry, NULL, &list, &err)) {
            for (size_t k = 0; k < list.n_adapters; k++) {
                free(list.adapters[k].path);
                free(list.adapters[k].error);
            }
            free(list.adapters);
        }
    }
    return NULL;
}

static void loading_replacing_unloading_and_merging_under_traffic_leaves_nothing_behind(void **state)
{
    struct place place;
    struct error err = {0};
    pthread_t clients[N_CLIENTS], loaders[N_LOADERS];
    struct churn churns[N_CLIENTS + N_LOADERS];
    atomic_bool stop = false;
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "one", (struct tiny_adapter){.seed = 1, .rank = 2});
    must_load(&place, "a", "one");
    assert_ok(registry_merge(place.registry, "a", 10000, &err), &err);
    uint64_t n_bytes = look(&place, "a").merged_bytes;
    end(&place);

    begin_with(&place, BIG, 2 * n_bytes + 8);
    put_adapter(place.adapters, "one", (struct tiny_adapter){.seed = 1, .rank = 2});
    put_adapter(place.adapters, "two", (struct tiny_adapter){.seed = 2, .rank = 3});
    put_adapter(place.adapters, "three", (struct tiny_adapter){.seed = 3, .rank = 4});
    for (unsigned i = 0; i < N_CLIENTS + N_LOADERS; i++)
        churns[i] = (struct churn){.place = &place, .seed = i + 1, .stop = &stop};
    for (size_t i = 0; i < N_CLIENTS; i++)
        assert_int_equal(pthread_create(&clients[i], NULL, run_client, &churns[i]), 0);
    for (size_t i = 0; i < N_LOADERS; i++)
        assert_int_equal(pthread_create(&loaders[i], NULL, run_loader, &churns[N_CLIENTS + i]), 0);
    for (size_t i = 0; i < N_LOADERS; i++)
        pthread_join(loaders[i], NULL);
    atomic_store(&stop, true);
    for (size_t i = 0; i < N_CLIENTS; i++)
        pthread_join(clients[i], NULL);

    for (size_t i = 0; i < 3; i++)
        if (!registry_unload(place.registry, churn_ids[i], NULL, false, &err))
            assert_int_equal(err.code, ERROR_NOT_FOUND);
    /* With a pause: the keeper gives way to whoever asks, and ends a merge only when nobody does. */
    for (int i = 0; i < 1000 && (stats_of(&place).adapter_bytes || stats_of(&place).merged_bytes); i++) {
        await_keeper(&place);
        usleep(5000);
    }
    assert_int_equal(stats_of(&place).adapter_bytes, 0);
    assert_int_equal(stats_of(&place).merged_bytes, 0);
    assert_int_equal(stats_of(&place).adapters, 0);
    assert_int_equal(stats_of(&place).merged, 0);
    end(&place);
}

static void stopping_ends_waiting_requests_and_refuses_new_work(void **state)
{
    struct place place;
    struct error err = {0};
    struct lease lease;
    (void)state;
    begin(&place);
    put_adapter(place.adapters, "poet", (struct tiny_adapter){0});
    must_load(&place, "poet", "poet");
    assert_ok(registry_merge(place.registry, "poet", 0, &err), &err);
    registry_stop(place.registry);
    assert_false(acquire(&place, "poet", &lease, &err));
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    assert_false(load(&place, "poet", "poet", NULL, &err));
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    end(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loaded_adapter_answers_under_its_id),
        cmocka_unit_test(an_unknown_adapter_is_not_found_and_never_the_base),
        cmocka_unit_test(replacing_an_adapter_leaves_its_users_alone),
        cmocka_unit_test(an_unloaded_adapter_drains_and_its_bytes_come_back),
        cmocka_unit_test(a_failed_load_leaves_the_old_generation_serving),
        cmocka_unit_test(a_path_outside_of_the_adapters_directory_is_refused),
        cmocka_unit_test(the_same_content_again_changes_nothing),
        cmocka_unit_test(the_same_content_is_checked_again_when_less_is_allowed),
        cmocka_unit_test(if_match_makes_a_replace_compare_and_set),
        cmocka_unit_test(a_dry_run_only_checks),
        cmocka_unit_test(a_load_over_the_budget_says_what_is_needed),
        cmocka_unit_test(merged_weights_serve_once_they_are_there),
        cmocka_unit_test(a_merge_that_is_asked_for_while_its_last_one_ends_begins_anew),
        cmocka_unit_test(an_adapter_that_is_merged_by_default_is_merged_after_loading),
        cmocka_unit_test(the_least_recently_used_merged_weights_make_room),
        cmocka_unit_test(a_merge_waits_for_the_memory_that_requests_hold),
        cmocka_unit_test(a_merge_that_can_never_fit_is_refused_with_the_reason),
        cmocka_unit_test(what_is_lost_on_the_fly_beyond_the_price_is_merged_in_the_background),
        cmocka_unit_test(nothing_is_merged_unasked_when_that_is_off),
        cmocka_unit_test(the_least_valuable_makes_room_and_only_for_what_is_worth_more),
        cmocka_unit_test(what_was_asked_for_is_kept_before_what_manages_itself),
        cmocka_unit_test(where_all_of_it_does_not_fit_the_best_sites_are_merged),
        cmocka_unit_test(who_asks_for_merged_weights_never_gets_partial_ones),
        cmocka_unit_test(several_adapters_and_scales_make_a_view_of_their_own),
        cmocka_unit_test(the_registry_survives_a_restart),
        cmocka_unit_test(a_broken_state_file_is_an_error),
        cmocka_unit_test(ids_are_words),
        cmocka_unit_test(what_requests_came_to_is_counted_and_survives_a_replacement),
        cmocka_unit_test(what_drains_keeps_its_counters_and_its_successor_begins_at_0),
        cmocka_unit_test(unloading_by_force_revokes_every_lease_of_the_id),
        cmocka_unit_test(force_also_reaches_what_an_unload_left_running),
        cmocka_unit_test(loading_replacing_unloading_and_merging_under_traffic_leaves_nothing_behind),
        cmocka_unit_test(stopping_ends_waiting_requests_and_refuses_new_work),
    };
    return cmocka_run_group_tests(tests, load_model, free_model);
}
