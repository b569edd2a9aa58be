/*
 * bench.h - what the files of the bench share: an open lorad, adapters made for it, clients that stamp their tokens, figures.
 *
 * A scenario sees lorad through its public API, as any client does; only bench_adapters.c and bench_limits.c look inside, for
 * the base's sites and the bytes of its weights. What is compared is measured in turns (A B A B ...), since a machine's speed
 * drifts: a ratio is taken within a turn, and the median over the turns is reported.
 */
#ifndef LORAD_BENCH_H
#define LORAD_BENCH_H

#include <poll.h>

#include <jansson.h>

#include "lorad/lorad_internal.h"

#define BENCH_BASE SIZE_MAX /* instead of an adapter's number */

struct bench {
    struct lorad *lorad;
    struct lorad_bench_options options; /* complete */
    char *directory;                    /* where adapters are written */
    uint64_t n_prompts;                 /* made so far: each is another one */
};

/* -- bench_options.c -- */

/* The scenario's own values for what is 0; ERROR_BAD_INPUT names the flag that is out of range or of another scenario. */
bool bench_complete_options(const struct lorad_bench_options *given, struct lorad_bench_options *out, struct error *err);

/* -- bench_adapters.c: random adapters are number 0, 1, ...; their ids are "bench-0", ... -- */

const char *bench_adapter_dtype_name(const struct bench *bench);

/* Writes, loads and removes the files of adapters `first`.. of this rank. */
bool bench_add_adapters(struct bench *bench, size_t first, size_t n, size_t rank, struct error *err);
/* The parts, for those who time the load: the directory is the caller's to free, and to remove (directory_remove). */
char *bench_write_adapter(struct bench *bench, size_t adapter, size_t rank, struct error *err);
bool bench_load_adapter(struct bench *bench, size_t adapter, const char *directory, struct error *err);
bool bench_merge_adapter(struct bench *bench, size_t adapter, unsigned wait_ms, struct error *err);
bool bench_unload_adapters(struct bench *bench, size_t first, size_t n, struct error *err);

/* -- bench_client.c: clients in one thread that polls their streams -- */

/* What a client asks for. Prompts of one `beginning` share their first n_common tokens; the rest is another one each time. */
struct bench_ask {
    size_t adapter; /* or BENCH_BASE */
    enum lorad_mode mode;
    size_t n_prompt, n_new;
    size_t n_common;
    uint64_t beginning;
};

struct bench_client {
    struct lorad_stream *stream; /* NULL: over */
    uint64_t submitted_us;
    uint64_t *stamps_us; /* of its tokens */
    size_t n_tokens, n_room;
    bool is_cancelled;
    enum lorad_mode mode; /* that answered, known when it is over */
    struct lorad_usage usage;
};

/* Clients that are polled together. Pointers to them hold until crowd_finish. */
struct crowd {
    struct bench_client *clients; /* n_clients of n_room */
    struct pollfd *polls;
    struct bench_client **polled;
    size_t n_clients, n_room, n_open;
};
bool crowd_init(struct crowd *crowd, size_t n_room, struct error *err);
void crowd_finish(struct crowd *crowd);

struct bench_client *crowd_ask(struct crowd *crowd, struct bench *bench, const struct bench_ask *ask, struct error *err);
/* Waits for events until then at the latest, and takes all that are there. A request that ended before its time: an error. */
bool crowd_wait(struct crowd *crowd, uint64_t until_us, struct error *err);
bool crowd_wait_for_all(struct crowd *crowd, struct error *err);
void client_cancel(struct bench_client *client);

/* One request alone: its first token's time, in ms from the submission, and its usage (may be NULL). */
bool bench_ask_one(struct bench *bench, const struct bench_ask *ask, double *first_token_ms, struct lorad_usage *usage,
                   struct error *err);

/* -- bench_figures.c -- */

/* Zeroed is empty. */
struct series {
    double *values;
    size_t n, n_room;
};
bool series_add(struct series *series, double value, struct error *err);
bool series_append(struct series *series, const struct series *more, struct error *err);
void series_finish(struct series *series);
/* The value that a share `p` of all values does not exceed (nearest rank); NAN for none. Exact. */
double series_percentile(const struct series *series, double p);
double series_median(const struct series *series); /* the mean of the two in the middle */
/* Of a[i] / b[i]. */
double series_median_ratio(const struct series *a, const struct series *b);
/* {"median", "minimum", "maximum", "values"}, or null for none. */
json_t *series_json(const struct series *series);
/* {"p50", "p95", "p99", "maximum", "n"}, or null for none. */
json_t *series_latency_json(const struct series *series);
/* The values at `n` equal shares (all of them, if there are fewer), growing: the distribution, to be drawn. */
json_t *series_quantiles_json(const struct series *series, size_t n);
json_t *json_number(double value); /* null when it is not finite */

/* -- bench_limits.c -- */

/* Bytes per second that all threads together read from memory; NAN without memory for it. */
double bench_measure_bandwidth(const struct bench *bench);
/* Bytes that a decode step must read: of the base's weights, and of the cache for each position before a token. */
uint64_t bench_weight_bytes(const struct bench *bench);
uint64_t bench_kv_bytes_per_position(const struct bench *bench);

/* -- bench_throughput.c -- */

/* One way to serve the same clients, measured in turns with others. */
struct variant {
    size_t n_clients;
    size_t first_adapter, n_adapters; /* client i uses first_adapter + i mod n_adapters; 0: the base */
    enum lorad_mode mode;
    bool is_whole;       /* all tokens over all the time, prefill with it; else decoding while all clients decode */
    struct series rates; /* tokens per second, one for each turn */
    size_t n_answers[4]; /* by enum lorad_mode, over all turns */
};
/* A turn of each to warm up, then n_repeats turns, the variants one after the other in each. */
bool bench_take_turns(struct bench *bench, struct variant *const *variants, size_t n, struct error *err);
json_t *variant_json(const struct variant *variant);
void variant_finish(struct variant *variant);

/* "measuring", as a share of `n`. */
void bench_progress(const struct bench *bench, size_t done, size_t n);

/* -- The scenarios: each adds its figures to `report` -- */

bool bench_steady(struct bench *bench, json_t *report, struct error *err);
bool bench_mix(struct bench *bench, json_t *report, struct error *err);
bool bench_ranks(struct bench *bench, json_t *report, struct error *err);
bool bench_adapters(struct bench *bench, json_t *report, struct error *err);
bool bench_modes(struct bench *bench, json_t *report, struct error *err);
bool bench_swap(struct bench *bench, json_t *report, struct error *err);
bool bench_starvation(struct bench *bench, json_t *report, struct error *err);
bool bench_prefix(struct bench *bench, json_t *report, struct error *err);

#endif
