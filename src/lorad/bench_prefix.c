/*
 * bench_prefix.c - requests that begin alike, one after the other through one adapter: the first token's time of the first, and
 * of those after it.
 */
#include "lorad/bench.h"

struct prefix_figures {
    struct series cold_ms, warm_ms, ratios, cached;
};

static void prefix_figures_finish(struct prefix_figures *figures)
{
    series_finish(&figures->cold_ms);
    series_finish(&figures->warm_ms);
    series_finish(&figures->ratios);
    series_finish(&figures->cached);
}

/* A beginning that nobody has seen, then the same with other endings. */
static bool measure_beginning(struct bench *bench, size_t repeat, struct prefix_figures *figures, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct series warm = {0};
    size_t n_ending = options->prompt_tokens / 8 + 1;
    struct bench_ask ask = {.mode = LORAD_MODE_ON_THE_FLY, .n_prompt = options->prompt_tokens, .n_new = options->new_tokens,
                            .n_common = options->prompt_tokens - n_ending, .beginning = repeat + 1};
    double ms, cold_ms = 0;
    struct lorad_usage usage;
    bool ok = bench_ask_one(bench, &ask, &cold_ms, NULL, err) && series_add(&figures->cold_ms, cold_ms, err);
    for (size_t i = 1; ok && i < options->n_requests; i++)
        ok = bench_ask_one(bench, &ask, &ms, &usage, err) && series_add(&warm, ms, err) &&
             series_add(&figures->warm_ms, ms, err) && series_add(&figures->cached, (double)usage.cached_tokens, err);
    ok = ok && series_add(&figures->ratios, series_median(&warm) / cold_ms, err);
    series_finish(&warm);
    return ok;
}

bool bench_prefix(struct bench *bench, json_t *report, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct prefix_figures figures = {0}, warm_up = {0};
    bool ok = bench_add_adapters(bench, 0, 1, options->rank, err) && measure_beginning(bench, 0, &warm_up, err);
    for (size_t i = 0; ok && i < options->n_repeats; i++) {
        bench_progress(bench, i, options->n_repeats);
        ok = measure_beginning(bench, i + 1, &figures, err);
    }
    if (ok) {
        struct bench_batch batch = {.n_sequences = 1, .n_adapters = 1, .rank = options->rank};
        struct bench_work work = bench_prefill_work(bench, &batch, options->prompt_tokens);
        double limit_ms = bench_least_seconds(&bench->limits, &work) * 1e3;
        bench_progress(bench, 1, 1);
        json_object_set_new(report, "first_token_cold_ms", series_latency_json(&figures.cold_ms));
        json_object_set_new(report, "first_token_cold_limit_ms", json_number(limit_ms));
        json_object_set_new(report, "cold_share_of_limit", json_number(limit_ms / series_median(&figures.cold_ms)));
        json_object_set_new(report, "first_token_warm_ms", series_latency_json(&figures.warm_ms));
        json_object_set_new(report, "warm_to_cold", json_number(series_median(&figures.ratios)));
        json_object_set_new(report, "common_tokens",
                            json_integer((json_int_t)(options->prompt_tokens - options->prompt_tokens / 8 - 1)));
        json_object_set_new(report, "cached_tokens", series_json(&figures.cached));
    }
    prefix_figures_finish(&warm_up);
    prefix_figures_finish(&figures);
    return ok;
}
