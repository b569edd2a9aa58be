/*
 * stats.h - the engine's counters and histograms: written by the engine and by whoever submits, read from anywhere. Atomics, no lock;
 * a reading is not one moment's, but each number only grows (gauges aside).
 */
#ifndef ENGINE_STATS_H
#define ENGINE_STATS_H

#include <stdatomic.h>

#include <lorad/lorad.h>

struct histogram {
    const double *bounds; /* LORAD_HISTOGRAM_BUCKETS upper bounds in seconds, the last is infinity */
    _Atomic uint64_t counts[LORAD_HISTOGRAM_BUCKETS];
    _Atomic uint64_t sum_us;
};

void histogram_add(struct histogram *histogram, uint64_t us);

/* Why a sequence that may run either way runs as it does. */
enum mode_reason {
    MODE_ONLY_ON_THE_FLY,   /* there is no W' */
    MODE_ON_THE_FLY_CHEAPER, /* in the batch that it joins */
    MODE_MERGED_CHEAPER,
    N_MODE_REASONS
};

struct stats {
    _Atomic uint64_t requests_total, requests_finished[5], requests_rejected;
    _Atomic uint64_t requests_running; /* gauge */
    _Atomic uint64_t prompt_tokens, completion_tokens;
    _Atomic uint64_t steps, step_tokens, step_sequences;
    _Atomic uint64_t kv_blocks_available, kv_blocks_cached; /* gauges: what could be given out; of that, published ones */
    _Atomic uint64_t prefix_tokens_sought, prefix_tokens_found, prefix_evictions;
    _Atomic uint64_t preemptions, pauses;
    _Atomic uint64_t choices[N_MODE_REASONS];
    struct histogram time_to_first_token, inter_token, step_time, queue_time;
};

void stats_init(struct stats *stats);

static inline void stats_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline void stats_set(_Atomic uint64_t *gauge, uint64_t n)
{
    atomic_store_explicit(gauge, n, memory_order_relaxed);
}

static inline void stats_subtract(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_sub_explicit(counter, n, memory_order_relaxed);
}

/* Fills what is counted here; requests_waiting, kv_blocks and kv_block_tokens are not. */
void stats_read(const struct stats *stats, struct lorad_stats *out);

#endif
