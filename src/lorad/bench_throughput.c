/*
 * bench_throughput.c - ways to serve the same clients, measured in turns.
 *
 * The decode rate is taken from the window in which every client decodes: after the last first token, up to the first last one.
 * Where more requests wait than run there is no such window; then it is all tokens over all the time.
 */
#include <math.h>

#include "base/bytes.h"
#include "lorad/bench.h"

/* Fewer steps say more about the clock than about the engine. */
enum { WINDOW_STEPS = 3 };

static size_t adapter_of(const struct variant *variant, size_t client)
{
    return variant->n_adapters ? variant->first_adapter + client % variant->n_adapters : BENCH_BASE;
}

static bool ask_all(struct bench *bench, const struct variant *variant, size_t n_new, struct crowd *crowd, struct error *err)
{
    bool ok = true;
    for (size_t i = 0; ok && i < variant->n_clients; i++) {
        struct bench_ask ask = {.adapter = adapter_of(variant, i), .mode = variant->mode,
                                .n_prompt = bench->options.prompt_tokens, .n_new = n_new};
        ok = crowd_ask(crowd, bench, &ask, err) != NULL;
    }
    return ok && crowd_wait_for_all(crowd, err);
}

static bool find_window(const struct crowd *crowd, uint64_t *begin_us, uint64_t *end_us)
{
    *begin_us = 0;
    *end_us = UINT64_MAX;
    for (size_t i = 0; i < crowd->n_clients; i++) {
        const struct bench_client *client = &crowd->clients[i];
        if (client->stamps_us[0] > *begin_us)
            *begin_us = client->stamps_us[0];
        if (client->stamps_us[client->n_tokens - 1] < *end_us)
            *end_us = client->stamps_us[client->n_tokens - 1];
    }
    return *begin_us < *end_us;
}

static bool measure_decode(const struct crowd *crowd, double *rate, struct error *err)
{
    uint64_t begin_us, end_us;
    size_t n_tokens = 0;
    bool has_window = find_window(crowd, &begin_us, &end_us);
    for (size_t i = 0; has_window && i < crowd->n_clients; i++)
        for (size_t j = 0; j < crowd->clients[i].n_tokens; j++)
            n_tokens += crowd->clients[i].stamps_us[j] > begin_us && crowd->clients[i].stamps_us[j] <= end_us;
    if (!has_window || n_tokens < WINDOW_STEPS * crowd->n_clients)
        return error_set(err, ERROR_BAD_INPUT, "tokens",
                         "are so few that the first of %zu clients ended before all of them decoded for %d steps",
                         crowd->n_clients, WINDOW_STEPS);
    *rate = (double)n_tokens / ((double)(end_us - begin_us) / 1e6);
    return true;
}

static double measure_whole(const struct crowd *crowd)
{
    uint64_t begin_us = crowd->clients[0].submitted_us, end_us = begin_us;
    size_t n_tokens = 0;
    for (size_t i = 0; i < crowd->n_clients; i++) {
        const struct bench_client *client = &crowd->clients[i];
        n_tokens += client->n_tokens;
        if (client->stamps_us[client->n_tokens - 1] > end_us)
            end_us = client->stamps_us[client->n_tokens - 1];
    }
    return (double)n_tokens / ((double)(end_us - begin_us) / 1e6);
}

static bool take_turn(struct bench *bench, struct variant *variant, struct error *err)
{
    struct crowd crowd;
    double rate = NAN;
    bool ok = crowd_init(&crowd, variant->n_clients, err) &&
              ask_all(bench, variant, bench->options.new_tokens, &crowd, err);
    if (ok && variant->is_whole)
        rate = measure_whole(&crowd);
    else
        ok = ok && measure_decode(&crowd, &rate, err);
    for (size_t i = 0; ok && i < crowd.n_clients; i++)
        variant->n_answers[crowd.clients[i].mode]++;
    crowd_finish(&crowd);
    return ok && series_add(&variant->rates, rate, err);
}

/* Every page that the variant reads has been read, and every arena has grown. */
static bool warm_up(struct bench *bench, const struct variant *variant, struct error *err)
{
    struct crowd crowd;
    bool ok = crowd_init(&crowd, variant->n_clients, err) &&
              ask_all(bench, variant, size_min(bench->options.new_tokens, 4), &crowd, err);
    crowd_finish(&crowd);
    return ok;
}

bool bench_take_turns(struct bench *bench, struct variant *const *variants, size_t n, struct error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!warm_up(bench, variants[i], err))
            return false;
    for (size_t repeat = 0; repeat < bench->options.n_repeats; repeat++)
        for (size_t i = 0; i < n; i++) {
            bench_progress(bench, repeat * n + i, bench->options.n_repeats * n);
            if (!take_turn(bench, variants[i], err))
                return false;
        }
    bench_progress(bench, 1, 1);
    return true;
}

json_t *variant_json(const struct bench *bench, const struct variant *variant)
{
    json_t *out = json_object(), *modes = json_object();
    double limit = bench_limit_of_variant(bench, variant);
    json_object_set_new(modes, "on_the_fly", json_integer((json_int_t)variant->n_answers[LORAD_MODE_ON_THE_FLY]));
    json_object_set_new(modes, "merged", json_integer((json_int_t)variant->n_answers[LORAD_MODE_MERGED]));
    json_object_set_new(modes, "partly_merged", json_integer((json_int_t)variant->n_answers[LORAD_MODE_PARTLY_MERGED]));
    json_object_set_new(out, "clients", json_integer((json_int_t)variant->n_clients));
    json_object_set_new(out, "adapters", json_integer((json_int_t)variant->n_adapters));
    json_object_set_new(out, "tokens_per_second", series_json(&variant->rates));
    json_object_set_new(out, "limit_tokens_per_second", json_number(limit));
    json_object_set_new(out, "share_of_limit", json_number(series_median(&variant->rates) / limit));
    json_object_set_new(out, "answers", modes);
    return out;
}

void variant_finish(struct variant *variant)
{
    series_finish(&variant->rates);
}
