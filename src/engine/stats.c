#include "engine/stats.h"

#include <math.h>

static const double short_times[LORAD_HISTOGRAM_BUCKETS] = {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                                            0.2,    0.5,   1,     2,     5,    10,   30,   INFINITY};
static const double long_times[LORAD_HISTOGRAM_BUCKETS] = {0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5,
                                                           1,     2,     5,    10,   20,   60,  180, INFINITY};

void histogram_add(struct histogram *histogram, uint64_t us)
{
    double seconds = (double)us * 1e-6;
    size_t i = 0;
    while (seconds > histogram->bounds[i])
        i++;
    stats_add(&histogram->counts[i], 1);
    stats_add(&histogram->sum_us, us);
}

static void histogram_read(const struct histogram *histogram, struct lorad_histogram *out)
{
    out->bounds = histogram->bounds;
    out->n_buckets = LORAD_HISTOGRAM_BUCKETS;
    out->n = 0;
    for (size_t i = 0; i < LORAD_HISTOGRAM_BUCKETS; i++)
        out->n += out->counts[i] = atomic_load_explicit(&histogram->counts[i], memory_order_relaxed);
    out->sum = (double)atomic_load_explicit(&histogram->sum_us, memory_order_relaxed) * 1e-6;
}

void stats_init(struct stats *stats)
{
    stats->step_time.bounds = stats->inter_token.bounds = short_times;
    stats->time_to_first_token.bounds = stats->queue_time.bounds = long_times;
}

static uint64_t load(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void stats_read(const struct stats *stats, struct lorad_stats *out)
{
    out->requests_total = load(&stats->requests_total);
    for (size_t i = 0; i < sizeof stats->requests_finished / sizeof *stats->requests_finished; i++)
        out->requests_finished[i] = load(&stats->requests_finished[i]);
    out->requests_rejected = load(&stats->requests_rejected);
    out->requests_running = load(&stats->requests_running);
    out->prompt_tokens_total = load(&stats->prompt_tokens);
    out->completion_tokens_total = load(&stats->completion_tokens);
    out->steps_total = load(&stats->steps);
    out->step_tokens_total = load(&stats->step_tokens);
    out->step_sequences_total = load(&stats->step_sequences);
    out->kv_blocks_cached = load(&stats->kv_blocks_cached);
    out->prefix_tokens_sought_total = load(&stats->prefix_tokens_sought);
    out->prefix_tokens_found_total = load(&stats->prefix_tokens_found);
    out->prefix_evictions_total = load(&stats->prefix_evictions);
    out->preemptions_total = load(&stats->preemptions);
    out->pauses_total = load(&stats->pauses);
    out->mode_only_on_the_fly_total = load(&stats->choices[MODE_ONLY_ON_THE_FLY]);
    out->mode_on_the_fly_cheaper_total = load(&stats->choices[MODE_ON_THE_FLY_CHEAPER]);
    out->mode_merged_cheaper_total = load(&stats->choices[MODE_MERGED_CHEAPER]);
    histogram_read(&stats->time_to_first_token, &out->time_to_first_token);
    histogram_read(&stats->inter_token, &out->inter_token);
    histogram_read(&stats->step_time, &out->step_time);
    histogram_read(&stats->queue_time, &out->queue_time);
}
