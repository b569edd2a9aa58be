/*
 * bench_swap.c - what loading and merging do to those who are being served: the time between tokens of running streams while
 * adapters load and merge, against the same streams undisturbed; and how soon a new adapter answers.
 *
 * Undisturbed is measured before and after the loading of the same streams, so that both have the same mean context. All files
 * are written before, and each turn loads the same adapters anew.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "lorad/bench.h"

/* Adapter 0 is what the streams use; 1.. are loaded and unloaded. */
enum { FIRST_LOADED = 1, N_QUANTILES = 1000 };

struct swap {
    struct bench *bench;
    char **directories; /* n_adapters */
    struct series quiet_ms, loading_ms, p99_ratios, loading_seconds;
    struct series fresh_ms, known_ms, added_ms;
};

/* ---- the loader's thread ---- */

struct loader {
    struct swap *swap;
    pthread_t thread;
    atomic_bool is_done;
    bool ok;
    struct error err;
};

/* A merge after every few loads, so that they go on side by side; then it waits for all of them. */
static bool load_and_merge(struct swap *swap, struct error *err)
{
    const struct lorad_bench_options *options = &swap->bench->options;
    size_t n_asked = 0;
    for (size_t i = 0; i < options->n_adapters; i++) {
        if (!bench_load_adapter(swap->bench, FIRST_LOADED + i, swap->directories[i], err))
            return false;
        for (; n_asked < (i + 1) * options->n_merges / options->n_adapters; n_asked++)
            if (!bench_merge_adapter(swap->bench, FIRST_LOADED + n_asked, 0, err))
                return false;
    }
    for (size_t i = 0; i < n_asked; i++)
        if (!bench_merge_adapter(swap->bench, FIRST_LOADED + i, 600000, err))
            return false;
    return true;
}

static void *run_loader(void *context)
{
    struct loader *loader = context;
    loader->ok = load_and_merge(loader->swap, &loader->err);
    atomic_store(&loader->is_done, true);
    return NULL;
}

/* ---- the streams ---- */

/* Streams as long as the context lets them be; they are cancelled when all is measured. */
static bool begin_streams(struct swap *swap, struct crowd *crowd, struct error *err)
{
    struct bench *bench = swap->bench;
    size_t context = lorad_model(bench->lorad)->context, n_prompt = bench->options.prompt_tokens;
    if (n_prompt + bench->options.new_tokens >= context)
        return error_set(err, ERROR_BAD_INPUT, "prompt", "and the tokens are %zu, but the context has %zu positions",
                         n_prompt + bench->options.new_tokens, context);
    struct bench_ask ask = {.adapter = 0, .mode = LORAD_MODE_ON_THE_FLY, .n_prompt = n_prompt, .n_new = context - n_prompt};
    bool ok = true;
    for (size_t i = 0; ok && i < bench->options.n_sequences; i++)
        ok = crowd_ask(crowd, bench, &ask, err) != NULL;
    return ok;
}

static size_t fewest_tokens(const struct crowd *crowd)
{
    size_t n = SIZE_MAX;
    for (size_t i = 0; i < crowd->n_clients; i++)
        n = size_min(n, crowd->clients[i].n_tokens);
    return n;
}

static bool check_all_run(const struct crowd *crowd, struct error *err)
{
    return crowd->n_open == crowd->n_clients ||
           error_set(err, ERROR_BAD_INPUT, "context", "is too short: a stream reached its end before all adapters were there");
}

/* Until each stream has `n` more tokens. *end_us: then. */
static bool stream_tokens(struct crowd *crowd, size_t n, uint64_t *end_us, struct error *err)
{
    size_t wanted = fewest_tokens(crowd) + n;
    while (fewest_tokens(crowd) < wanted)
        if (!crowd_wait(crowd, UINT64_MAX, err) || !check_all_run(crowd, err))
            return false;
    *end_us = clock_now_us();
    return true;
}

/* *end_us: when the last adapter was there. */
static bool stream_while_loading(struct swap *swap, struct crowd *crowd, uint64_t *end_us, struct error *err)
{
    struct loader loader = {.swap = swap};
    bool ok = true;
    if (pthread_create(&loader.thread, NULL, run_loader, &loader) != 0)
        return error_set(err, ERROR_INTERNAL, NULL, "no thread for loading can be made");
    while (ok && !atomic_load(&loader.is_done))
        ok = crowd_wait(crowd, clock_now_us() + 5000, err) && check_all_run(crowd, err);
    *end_us = clock_now_us();
    pthread_join(loader.thread, NULL);
    if (ok && !loader.ok) {
        if (err)
            *err = loader.err;
        return false;
    }
    return ok;
}

/* Times between tokens: a gap counts as loading when a part of it lies between begin and end. */
static bool sort_gaps(const struct crowd *crowd, uint64_t from_us, uint64_t begin_us, uint64_t end_us, struct series *quiet,
                      struct series *loading, struct error *err)
{
    for (size_t i = 0; i < crowd->n_clients; i++) {
        const struct bench_client *client = &crowd->clients[i];
        for (size_t j = 1; j < client->n_tokens; j++) {
            uint64_t a = client->stamps_us[j - 1], b = client->stamps_us[j];
            if (a >= from_us && !series_add(a < end_us && b > begin_us ? loading : quiet, (double)(b - a) / 1e3, err))
                return false;
        }
    }
    return true;
}

static bool take_gaps(struct swap *swap, const struct crowd *crowd, const uint64_t marks_us[3], struct error *err)
{
    struct series quiet = {0}, loading = {0};
    bool ok = sort_gaps(crowd, marks_us[0], marks_us[1], marks_us[2], &quiet, &loading, err) &&
              series_append(&swap->quiet_ms, &quiet, err) && series_append(&swap->loading_ms, &loading, err) &&
              series_add(&swap->p99_ratios, series_percentile(&loading, 0.99) / series_percentile(&quiet, 0.99), err) &&
              series_add(&swap->loading_seconds, (double)(marks_us[2] - marks_us[1]) / 1e6, err);
    series_finish(&quiet);
    series_finish(&loading);
    return ok;
}

static bool stream_a_turn(struct swap *swap, struct error *err)
{
    const struct lorad_bench_options *options = &swap->bench->options;
    struct crowd crowd;
    uint64_t marks_us[3], end_us; /* all stream, loading begins, loading is over */
    bool ok = crowd_init(&crowd, options->n_sequences, err) && begin_streams(swap, &crowd, err) &&
              stream_tokens(&crowd, 2, &marks_us[0], err) && stream_tokens(&crowd, options->new_tokens, &marks_us[1], err) &&
              stream_while_loading(swap, &crowd, &marks_us[2], err) &&
              stream_tokens(&crowd, options->new_tokens, &end_us, err);
    ok = ok && take_gaps(swap, &crowd, marks_us, err);
    for (size_t i = 0; i < crowd.n_clients; i++)
        client_cancel(&crowd.clients[i]);
    ok = ok && crowd_wait_for_all(&crowd, err);
    crowd_finish(&crowd);
    return ok && bench_unload_adapters(swap->bench, FIRST_LOADED, options->n_adapters, err);
}

/* ---- the first token after a load ---- */

/* From the load call's return, against the same length of prompt through the adapter that was there. The server is idle. */
static bool time_first_tokens(struct swap *swap, struct error *err)
{
    struct bench *bench = swap->bench;
    struct bench_ask ask = {.mode = LORAD_MODE_ON_THE_FLY, .n_prompt = bench->options.prompt_tokens, .n_new = 1};
    bool ok = true;
    for (size_t i = 0; ok && i < bench->options.n_adapters; i++) {
        struct bench_ask fresh = ask;
        double fresh_ms = 0, known_ms = 0;
        fresh.adapter = FIRST_LOADED + i;
        ok = bench_ask_one(bench, &ask, &known_ms, NULL, err) &&
             bench_load_adapter(bench, fresh.adapter, swap->directories[i], err) &&
             bench_ask_one(bench, &fresh, &fresh_ms, NULL, err) && series_add(&swap->fresh_ms, fresh_ms, err) &&
             series_add(&swap->known_ms, known_ms, err) && series_add(&swap->added_ms, fresh_ms - known_ms, err);
    }
    return ok && bench_unload_adapters(bench, FIRST_LOADED, bench->options.n_adapters, err);
}

/* ---- the scenario ---- */

static bool write_files(struct swap *swap, struct error *err)
{
    const struct lorad_bench_options *options = &swap->bench->options;
    swap->directories = calloc(options->n_adapters, sizeof *swap->directories);
    if (!swap->directories)
        return error_no_memory(err);
    for (size_t i = 0; i < options->n_adapters; i++)
        if (!(swap->directories[i] = bench_write_adapter(swap->bench, FIRST_LOADED + i, options->rank, err)))
            return false;
    return true;
}

static void swap_finish(struct swap *swap)
{
    struct series *all[] = {&swap->quiet_ms, &swap->loading_ms, &swap->p99_ratios, &swap->loading_seconds,
                            &swap->fresh_ms, &swap->known_ms, &swap->added_ms};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        series_finish(all[i]);
    for (size_t i = 0; swap->directories && i < swap->bench->options.n_adapters; i++)
        free(swap->directories[i]);
    free(swap->directories);
}

static void add_figures(const struct swap *swap, json_t *report)
{
    json_object_set_new(report, "inter_token_quiet_ms", series_latency_json(&swap->quiet_ms));
    json_object_set_new(report, "inter_token_loading_ms", series_latency_json(&swap->loading_ms));
    json_object_set_new(report, "loading_to_quiet_p50",
                        json_number(series_percentile(&swap->loading_ms, 0.5) / series_percentile(&swap->quiet_ms, 0.5)));
    json_object_set_new(report, "loading_to_quiet_p99",
                        json_number(series_percentile(&swap->loading_ms, 0.99) / series_percentile(&swap->quiet_ms, 0.99)));
    json_object_set_new(report, "loading_to_quiet_p99_turns", series_json(&swap->p99_ratios));
    json_object_set_new(report, "loading_seconds", series_json(&swap->loading_seconds));
    json_object_set_new(report, "quiet_quantiles_ms", series_quantiles_json(&swap->quiet_ms, N_QUANTILES));
    json_object_set_new(report, "loading_quantiles_ms", series_quantiles_json(&swap->loading_ms, N_QUANTILES));
    json_object_set_new(report, "first_token_after_load_ms", series_latency_json(&swap->fresh_ms));
    json_object_set_new(report, "first_token_known_ms", series_latency_json(&swap->known_ms));
    json_object_set_new(report, "first_token_added_ms", series_latency_json(&swap->added_ms));
}

bool bench_swap(struct bench *bench, json_t *report, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct swap swap = {.bench = bench};
    struct bench_ask ask = {.mode = LORAD_MODE_ON_THE_FLY, .n_prompt = options->prompt_tokens, .n_new = 2};
    double ms;
    bool ok = write_files(&swap, err) && bench_add_adapters(bench, 0, 1, options->rank, err) &&
              bench_ask_one(bench, &ask, &ms, NULL, err) && time_first_tokens(&swap, err);
    for (size_t i = 0; ok && i < options->n_repeats; i++) {
        bench_progress(bench, i, options->n_repeats);
        ok = stream_a_turn(&swap, err);
    }
    if (ok) {
        bench_progress(bench, 1, 1);
        add_figures(&swap, report);
    }
    swap_finish(&swap);
    return ok;
}
