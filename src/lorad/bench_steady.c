/*
 * bench_steady.c - prefill and decode speed, and the share of the machine's limit that each reaches.
 */
#include <math.h>

#include "base/bytes.h"
#include "lorad/bench.h"

struct speeds {
    struct series prefill_rate, prefill_ms, prefill_limit, decode_rate, step_ms;
};

static void speeds_finish(struct speeds *speeds)
{
    series_finish(&speeds->prefill_rate);
    series_finish(&speeds->prefill_ms);
    series_finish(&speeds->prefill_limit);
    series_finish(&speeds->decode_rate);
    series_finish(&speeds->step_ms);
}

static struct bench_ask ask_of(const struct lorad_bench_options *options, size_t client, size_t n_new)
{
    return (struct bench_ask){
        .adapter = options->n_adapters ? client % options->n_adapters : BENCH_BASE,
        .mode = options->merged ? LORAD_MODE_MERGED : LORAD_MODE_ON_THE_FLY,
        .n_prompt = options->prompt_tokens,
        .n_new = n_new,
    };
}

static struct bench_batch batch_of(const struct lorad_bench_options *options, size_t n_sequences)
{
    return (struct bench_batch){.n_sequences = n_sequences, .n_adapters = size_min(options->n_adapters, n_sequences),
                                .rank = options->rank, .is_merged = options->merged};
}

static double prefill_limit(const struct bench *bench, const struct limit_rate rates[N_PEAK_KINDS])
{
    struct bench_batch batch = batch_of(&bench->options, 1);
    struct bench_work work = bench_prefill_work(bench, &batch, bench->options.prompt_tokens);
    return (double)bench->options.prompt_tokens / bench_least_seconds_at(bench, rates, &work);
}

static bool add_rates(const struct bench *bench, struct limit_rate rates[N_PEAK_KINDS], struct error *err)
{
    struct lorad_limits_options options = bench->options.limits;
    options.n_threads = bench->limits.n_threads;
    return limits_add_rates(rates, &options, err);
}

/* Between two measurements of what the machine can compute. */
static bool run_prefill(struct bench *bench, struct speeds *speeds, struct error *err)
{
    struct lorad_usage usage;
    struct limit_rate rates[N_PEAK_KINDS] = {0};
    double first_token_ms;
    struct bench_ask ask = ask_of(&bench->options, 0, 1);
    bool ok = add_rates(bench, rates, err) && bench_ask_one(bench, &ask, &first_token_ms, &usage, err) && add_rates(bench, rates, err) &&
              series_add(&speeds->prefill_ms, usage.prefill_ms, err) &&
              series_add(&speeds->prefill_rate, (double)ask.n_prompt / usage.prefill_ms * 1e3, err) &&
              series_add(&speeds->prefill_limit, prefill_limit(bench, rates), err);
    limits_finish_rates(rates);
    return ok;
}

/* All sequences together. The last to start has the shortest decode time: no prefill of another falls into it. */
static bool run_decode(struct bench *bench, struct speeds *speeds, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct crowd crowd;
    double shortest_ms = INFINITY, n_steps = (double)(options->new_tokens - 1);
    bool ok = crowd_init(&crowd, options->n_sequences, err);
    for (size_t i = 0; ok && i < options->n_sequences; i++) {
        struct bench_ask ask = ask_of(options, i, options->new_tokens);
        ok = crowd_ask(&crowd, bench, &ask, err) != NULL;
    }
    ok = ok && crowd_wait_for_all(&crowd, err);
    for (size_t i = 0; ok && i < crowd.n_clients; i++)
        shortest_ms = fmin(shortest_ms, crowd.clients[i].usage.decode_ms);
    crowd_finish(&crowd);
    return ok && series_add(&speeds->step_ms, shortest_ms / n_steps, err) &&
           series_add(&speeds->decode_rate, n_steps * (double)options->n_sequences / shortest_ms * 1e3, err);
}

static void add_prefill(const struct speeds *speeds, json_t *report)
{
    json_object_set_new(report, "prefill_tokens_per_second", json_number(series_median(&speeds->prefill_rate)));
    json_object_set_new(report, "prefill_limit_tokens_per_second", json_number(series_median(&speeds->prefill_limit)));
    json_object_set_new(report, "prefill_share_of_limit", json_number(series_median_ratio(&speeds->prefill_rate, &speeds->prefill_limit)));
    json_object_set_new(report, "prefill_ms", json_number(series_median(&speeds->prefill_ms)));
}

static void add_decode(const struct bench *bench, const struct speeds *speeds, json_t *report)
{
    const struct lorad_bench_options *options = &bench->options;
    double mean_context = (double)options->prompt_tokens + (double)options->new_tokens / 2;
    struct bench_batch batch = batch_of(options, options->n_sequences);
    struct bench_work work = bench_decode_work(bench, &batch, mean_context);
    double step_ms = series_median(&speeds->step_ms), rate = series_median(&speeds->decode_rate);
    double limit = (double)options->n_sequences / bench_least_seconds(bench, &work);
    double bandwidth = limits_read_rate(&bench->limits), reached = work.n_bytes / step_ms * 1e3;
    json_object_set_new(report, "decode_tokens_per_second", json_number(rate));
    json_object_set_new(report, "decode_limit_tokens_per_second", json_number(limit));
    json_object_set_new(report, "decode_share_of_limit", json_number(rate / limit));
    json_object_set_new(report, "decode_step_ms", json_number(step_ms));
    json_object_set_new(report, "bytes_per_step", json_number(work.n_bytes));
    json_object_set_new(report, "bytes_per_token", json_number(work.n_bytes / (double)options->n_sequences));
    json_object_set_new(report, "read_bytes_per_second", json_number(reached));
    json_object_set_new(report, "memory_bytes_per_second", json_number(bandwidth));
    json_object_set_new(report, "share_of_memory_bandwidth", json_number(reached / bandwidth));
}

static void add_figures(const struct bench *bench, const struct speeds *speeds, json_t *report)
{
    json_object_set_new(report, "adapters", json_integer((json_int_t)bench->options.n_adapters));
    json_object_set_new(report, "rank", json_integer((json_int_t)bench->options.rank));
    json_object_set_new(report, "sequences", json_integer((json_int_t)bench->options.n_sequences));
    json_object_set_new(report, "prompt_tokens", json_integer((json_int_t)bench->options.prompt_tokens));
    json_object_set_new(report, "new_tokens", json_integer((json_int_t)bench->options.new_tokens));
    json_object_set_new(report, "merged", json_boolean(bench->options.merged));
    add_prefill(speeds, report);
    add_decode(bench, speeds, report);
}

bool bench_steady(struct bench *bench, json_t *report, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct speeds speeds = {0}, warm_up = {0};
    bool ok = bench_add_adapters(bench, 0, options->n_adapters, options->rank, err);
    for (size_t i = 0; ok && options->merged && i < options->n_adapters; i++)
        ok = bench_merge_adapter(bench, i, 600000, err);
    ok = ok && run_decode(bench, &warm_up, err); /* pages, caches and arenas */
    for (size_t i = 0; ok && i < options->n_repeats; i++) {
        bench_progress(bench, i, options->n_repeats);
        ok = run_prefill(bench, &speeds, err) && run_decode(bench, &speeds, err);
    }
    if (ok) {
        bench_progress(bench, options->n_repeats, options->n_repeats);
        add_figures(bench, &speeds, report);
    }
    speeds_finish(&warm_up);
    speeds_finish(&speeds);
    return ok;
}
