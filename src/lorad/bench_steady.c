/*
 * bench_steady.c - prefill and decode speed, and the share of the machine's limit that each reaches.
 */
#include <math.h>

#include "base/bytes.h"
#include "lorad/bench.h"

/* What was reached in each turn, and what the machine allowed then. */
struct speeds {
    struct series prefill_rate, prefill_ms, prefill_limit, decode_rate, step_ms, decode_limit;
    struct series reading, memory; /* bytes per second while decoding */
};

static void speeds_finish(struct speeds *speeds)
{
    series_finish(&speeds->prefill_rate);
    series_finish(&speeds->prefill_ms);
    series_finish(&speeds->prefill_limit);
    series_finish(&speeds->decode_rate);
    series_finish(&speeds->step_ms);
    series_finish(&speeds->decode_limit);
    series_finish(&speeds->reading);
    series_finish(&speeds->memory);
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

static bool run_prefill(struct bench *bench, struct speeds *speeds, struct error *err)
{
    struct lorad_usage usage;
    double first_token_ms;
    struct bench_ask ask = ask_of(&bench->options, 0, 1);
    return bench_ask_one(bench, &ask, &first_token_ms, &usage, err) && series_add(&speeds->prefill_ms, usage.prefill_ms, err) &&
           series_add(&speeds->prefill_rate, (double)ask.n_prompt / usage.prefill_ms * 1e3, err);
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

static struct bench_work decode_work(const struct bench *bench)
{
    const struct lorad_bench_options *options = &bench->options;
    struct bench_batch batch = batch_of(options, options->n_sequences);
    return bench_decode_work(bench, &batch, (double)options->prompt_tokens + (double)options->new_tokens / 2);
}

/* Of a prefill by what the machine allowed before and after it; of decoding by what it allows right after that, since the prompts of its sequences
   lie between that and what came before. */
static bool add_limits(const struct bench *bench, const struct limits *before_prefill, const struct limits *after_prefill,
                       const struct limits *after_decode, struct speeds *speeds, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct bench_batch one = batch_of(options, 1);
    struct bench_work prefill = bench_prefill_work(bench, &one, options->prompt_tokens), decode = decode_work(bench);
    double per_second = (1 / bench_least_seconds(before_prefill, &prefill) + 1 / bench_least_seconds(after_prefill, &prefill)) / 2;
    double step_ms = speeds->step_ms.values[speeds->step_ms.n - 1];
    return series_add(&speeds->prefill_limit, (double)options->prompt_tokens * per_second, err) &&
           series_add(&speeds->decode_limit, (double)options->n_sequences / bench_least_seconds(after_decode, &decode), err) &&
           series_add(&speeds->reading, decode.n_bytes / step_ms * 1e3, err) &&
           series_add(&speeds->memory, limits_read_rate(after_decode), err);
}

/* `now`: what the machine allows before, then what it allows after the turn. */
static bool run_turn(struct bench *bench, struct limits *now, struct speeds *speeds, struct error *err)
{
    const struct lorad_limits_options *options = &bench->options.limits;
    struct limits after_prefill = {0}, after_decode = {0};
    bool ok = run_prefill(bench, speeds, err) && limits_measure_again(&bench->limits, options, &after_prefill, err) &&
              run_decode(bench, speeds, err) && limits_measure_again(&bench->limits, options, &after_decode, err) &&
              add_limits(bench, now, &after_prefill, &after_decode, speeds, err);
    limits_finish(&after_prefill);
    limits_finish(now);
    *now = after_decode;
    return ok;
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
    struct bench_work work = decode_work(bench);
    json_object_set_new(report, "decode_tokens_per_second", json_number(series_median(&speeds->decode_rate)));
    json_object_set_new(report, "decode_limit_tokens_per_second", json_number(series_median(&speeds->decode_limit)));
    json_object_set_new(report, "decode_share_of_limit", json_number(series_median_ratio(&speeds->decode_rate, &speeds->decode_limit)));
    json_object_set_new(report, "decode_step_ms", json_number(series_median(&speeds->step_ms)));
    json_object_set_new(report, "bytes_per_step", json_number(work.n_bytes));
    json_object_set_new(report, "bytes_per_token", json_number(work.n_bytes / (double)bench->options.n_sequences));
    json_object_set_new(report, "read_bytes_per_second", json_number(series_median(&speeds->reading)));
    json_object_set_new(report, "memory_bytes_per_second", json_number(series_median(&speeds->memory)));
    json_object_set_new(report, "share_of_memory_bandwidth", json_number(series_median_ratio(&speeds->reading, &speeds->memory)));
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
    struct limits now = {0};
    bool ok = bench_add_adapters(bench, 0, options->n_adapters, options->rank, err);
    for (size_t i = 0; ok && options->merged && i < options->n_adapters; i++)
        ok = bench_merge_adapter(bench, i, 600000, err);
    ok = ok && run_decode(bench, &warm_up, err) && /* pages, caches and arenas */
         limits_measure_again(&bench->limits, &options->limits, &now, err);
    for (size_t i = 0; ok && i < options->n_repeats; i++) {
        bench_progress(bench, i, options->n_repeats);
        ok = run_turn(bench, &now, &speeds, err);
    }
    if (ok) {
        bench_progress(bench, options->n_repeats, options->n_repeats);
        add_figures(bench, &speeds, report);
    }
    limits_finish(&now);
    speeds_finish(&warm_up);
    speeds_finish(&speeds);
    return ok;
}
