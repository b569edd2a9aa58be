/*
 * bench_starvation.c - one adapter sends many requests at once, another asks now and then: how long does the second one wait for
 * its first token, against an idle server?
 *
 * In turns: the quiet requests alone, then while the flood lasts. Only requests that were sent while flood requests were left
 * count, and there must be some.
 */
#include "base/clock.h"
#include "lorad/bench.h"

enum { FLOODING = 0, ASKING = 1, LEAST_REQUESTS = 3 };

struct starvation_figures {
    struct series idle_ms, flooded_ms; /* first tokens of all turns */
    struct series p95_ratios;          /* of each turn */
    struct series flood_seconds;
};

static struct bench_ask ask_of(const struct lorad_bench_options *options, size_t adapter)
{
    return (struct bench_ask){.adapter = adapter, .mode = LORAD_MODE_ON_THE_FLY, .n_prompt = options->prompt_tokens,
                              .n_new = options->new_tokens};
}

static bool begin_flood(struct bench *bench, size_t n_flood, struct crowd *crowd, struct error *err)
{
    struct bench_ask ask = ask_of(&bench->options, FLOODING);
    bool ok = true;
    for (size_t i = 0; ok && i < n_flood; i++)
        ok = crowd_ask(crowd, bench, &ask, err) != NULL;
    return ok;
}

static size_t count_open(const struct bench_client *clients, size_t n)
{
    size_t n_open = 0;
    for (size_t i = 0; i < n; i++)
        n_open += clients[i].stream != NULL;
    return n_open;
}

/* Asks each period until all requests are sent or the flood, if there is one, has passed. */
static bool ask_in_periods(struct bench *bench, size_t n_flood, struct crowd *crowd, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct bench_ask ask = ask_of(options, ASKING);
    uint64_t next_us = clock_now_us() + (n_flood ? options->period_ms * 1000 / 2 : 0);
    for (size_t n_asked = 0; n_asked < options->n_requests;) {
        if (!crowd_wait(crowd, next_us, err))
            return false;
        if (n_flood > 0 && count_open(crowd->clients, n_flood) == 0)
            break;
        if (clock_now_us() < next_us)
            continue;
        if (!crowd_ask(crowd, bench, &ask, err))
            return false;
        n_asked++;
        next_us += options->period_ms * 1000;
    }
    return true;
}

static bool take_first_tokens(const struct crowd *crowd, size_t n_flood, struct series *out, struct error *err)
{
    bool ok = true;
    for (size_t i = n_flood; ok && i < crowd->n_clients; i++) {
        const struct bench_client *client = &crowd->clients[i];
        ok = series_add(out, (double)(client->stamps_us[0] - client->submitted_us) / 1e3, err);
    }
    return ok;
}

static double flood_seconds(const struct crowd *crowd, size_t n_flood)
{
    uint64_t end_us = crowd->clients[0].submitted_us;
    for (size_t i = 0; i < n_flood; i++) {
        const struct bench_client *client = &crowd->clients[i];
        if (client->stamps_us[client->n_tokens - 1] > end_us)
            end_us = client->stamps_us[client->n_tokens - 1];
    }
    return (double)(end_us - crowd->clients[0].submitted_us) / 1e6;
}

/* First tokens' times with a flood of `n_flood` before them; 0: alone. */
static bool measure(struct bench *bench, size_t n_flood, struct series *first_tokens_ms, double *seconds, struct error *err)
{
    struct crowd crowd;
    bool ok = crowd_init(&crowd, n_flood + bench->options.n_requests, err) && begin_flood(bench, n_flood, &crowd, err) &&
              ask_in_periods(bench, n_flood, &crowd, err) && crowd_wait_for_all(&crowd, err) &&
              take_first_tokens(&crowd, n_flood, first_tokens_ms, err);
    if (ok && n_flood > 0)
        *seconds = flood_seconds(&crowd, n_flood);
    if (ok && first_tokens_ms->n < LEAST_REQUESTS)
        ok = error_set(err, ERROR_BAD_INPUT, "flood", "is over after %.1f s, in which only %zu requests were sent beside it", *seconds,
                       first_tokens_ms->n);
    crowd_finish(&crowd);
    return ok;
}

static bool take_turn(struct bench *bench, struct starvation_figures *figures, struct error *err)
{
    struct series idle = {0}, flooded = {0};
    double seconds = 0;
    bool ok = measure(bench, 0, &idle, &seconds, err) && measure(bench, bench->options.n_flood, &flooded, &seconds, err) &&
              series_append(&figures->idle_ms, &idle, err) && series_append(&figures->flooded_ms, &flooded, err) &&
              series_add(&figures->p95_ratios, series_percentile(&flooded, 0.95) / series_percentile(&idle, 0.95), err) &&
              series_add(&figures->flood_seconds, seconds, err);
    series_finish(&idle);
    series_finish(&flooded);
    return ok;
}

bool bench_starvation(struct bench *bench, json_t *report, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct starvation_figures figures = {0};
    struct bench_ask ask = ask_of(options, ASKING);
    double ms;
    bool ok = bench_add_adapters(bench, 0, 2, options->rank, err) && bench_ask_one(bench, &ask, &ms, NULL, err);
    for (size_t i = 0; ok && i < options->n_repeats; i++) {
        bench_progress(bench, i, options->n_repeats);
        ok = take_turn(bench, &figures, err);
    }
    if (ok) {
        bench_progress(bench, 1, 1);
        json_object_set_new(report, "first_token_idle_ms", series_latency_json(&figures.idle_ms));
        json_object_set_new(report, "first_token_flooded_ms", series_latency_json(&figures.flooded_ms));
        json_object_set_new(report, "flooded_to_idle_p50", json_number(series_percentile(&figures.flooded_ms, 0.50) /
                                                                       series_percentile(&figures.idle_ms, 0.50)));
        json_object_set_new(report, "flooded_to_idle_p95", json_number(series_percentile(&figures.flooded_ms, 0.95) /
                                                                       series_percentile(&figures.idle_ms, 0.95)));
        json_object_set_new(report, "flooded_to_idle_p95_turns", series_json(&figures.p95_ratios));
        json_object_set_new(report, "flood_seconds", series_json(&figures.flood_seconds));
    }
    series_finish(&figures.idle_ms);
    series_finish(&figures.flooded_ms);
    series_finish(&figures.p95_ratios);
    series_finish(&figures.flood_seconds);
    return ok;
}
