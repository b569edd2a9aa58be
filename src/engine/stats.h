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

struct stats {
    _Atomic uint64_t requests_total, requests_finished[5], requests_rejected;
    _Atomic uint64_t requests_running; /* gauge */
    _Atomic uint64_t prompt_tokens, completion_tokens;
    _Atomic uint64_t steps, step_tokens, step_sequences;
    _Atomic uint64_t kv_blocks_used; /* gauge */
    struct histogram time_to_first_token, inter_token, step_time, queue_time;
};

void stats_init(struct stats *stats);

static inline void stats_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline void stats_subtract(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_sub_explicit(counter, n, memory_order_relaxed);
}

/* Fills what is counted here; requests_waiting, kv_blocks and kv_block_tokens are not. */
void stats_read(const struct stats *stats, struct lorad_stats *out);

#endif
