/*
 * bench.h - what the files of the bench share: an open lorad, adapters made for it, clients that stamp their tokens, figures.
 *
 * A scenario sees lorad through its public API, as any client does; only bench_adapters.c and bench_limits.c look inside, for
 * the base's sites and what its weights cost, and bench_quality.c, which runs models by itself. What is compared is measured in turns
 * (A B A B ...), since a machine's speed drifts: a ratio is taken within a turn, and the median over the turns is reported.
 */
#ifndef LORAD_BENCH_H
#define LORAD_BENCH_H

#include <poll.h>

#include <jansson.h>

#include "kernels/peak.h"
#include "lorad/lorad_internal.h"

#define BENCH_BASE SIZE_MAX /* instead of an adapter's number */

/* Measured values; zeroed is empty. See bench_figures.c. */
struct series {
    double *values;
    size_t n, n_room;
};

/* -- limits.c: what this machine can do at best -- */

#define LIMIT_STREAMS 2 /* ways of reading: one stream per thread, and four */
struct limit_memory {
    struct series rates[LIMIT_STREAMS]; /* bytes per second */
    double huge_share;                  /* of the buffer that really lay on huge pages */
};
struct limit_rate {
    struct series rates; /* operations per second */
    const char *instruction;
    bool is_widened; /* to f32, there being no instruction for the type */
};
struct limits {
    size_t n_threads;
    uint64_t cache_bytes, buffer_bytes;
    struct limit_memory huge_pages, small_pages;
    struct limit_rate rates[N_PEAK_KINDS];
};

bool limits_measure(const struct lorad_limits_options *options, struct limits *out, struct error *err);
/* The same of huge pages alone, each once: a shared machine moves within seconds, so what is compared with a limit wants it measured beside. The buffer takes
   an eighth of the memory at most, unless its size was given, since a model is there too. Both write *out only when all went well; the caller finishes it. */
bool limits_measure_again(const struct limits *limits, const struct lorad_limits_options *options, struct limits *out, struct error *err);
void limits_finish(struct limits *limits);
/* Medians of the best way: bytes read and operations, per second. What the instruction for a type does more slowly than f32 is better
   widened (vdpbf16ps on some processors). */
double limits_read_rate(const struct limits *limits);
double limits_rate(const struct limits *limits, enum peak_kind kind);
json_t *limits_json(const struct limits *limits);

struct bench {
    struct limits limits; /* of the same threads */
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
/* Malloc'ed. */
char *report_text(const json_t *report, struct error *err);

/* -- bench_limits.c: the least time that something can take -- */

/* The sequences of a step. */
struct bench_batch {
    size_t n_sequences;
    size_t n_adapters, rank; /* different ones; 0: the base */
    bool is_merged;
};
/* What must be read and computed, however it is done. */
struct bench_work {
    double n_bytes;
    double n_operations[N_PEAK_KINDS]; /* with the base's weights by their type; attention and low-rank pairs in f32 */
};
/* One step in which each sequence decodes a token with `context` positions before it. */
struct bench_work bench_decode_work(const struct bench *bench, const struct bench_batch *batch, double context);
/* A prompt of `n_tokens`, in one step. */
struct bench_work bench_prefill_work(const struct bench *bench, const struct bench_batch *batch, size_t n_tokens);
double bench_least_seconds(const struct limits *limits, const struct bench_work *work);
struct variant;
/* Tokens per second. */
double bench_limit_of_variant(const struct bench *bench, const struct variant *variant);

/* -- bench_throughput.c -- */

/* One way to serve the same clients, measured in turns with others. */
struct variant {
    size_t n_clients;
    size_t rank;                      /* of its adapters */
    size_t first_adapter, n_adapters; /* client i uses first_adapter + i mod n_adapters; 0: the base */
    enum lorad_mode mode;
    bool is_whole;       /* all tokens over all the time, prefill with it; else decoding while all clients decode */
    struct series rates; /* tokens per second, one for each turn */
    size_t n_answers[4]; /* by enum lorad_mode, over all turns */
};
/* A turn of each to warm up, then n_repeats turns, the variants one after the other in each. */
bool bench_take_turns(struct bench *bench, struct variant *const *variants, size_t n, struct error *err);
/* Its rates, with the limit and the share of it that is reached. */
json_t *variant_json(const struct bench *bench, const struct variant *variant);
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
bool bench_quality(const struct lorad_bench_options *options, json_t *report, struct error *err); /* opens models itself */

#endif
