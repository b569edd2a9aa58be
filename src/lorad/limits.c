/*
 * limits.c - lorad_limits: what all threads together can do at best on this machine.
 *
 * Memory is read through a buffer that the last-level cache cannot hold, on huge pages and on small ones, as one stream per thread and as
 * four; whichever is faster is the limit. Rates are those of peak.h's loops. A repeat takes about as long as was asked for, and all
 * threads begin and end together, as in a kernel call. Memory comes first: it moves most, so it is what has to be near to what is compared with it.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/cache.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/file.h"
#include "lorad/bench.h"

enum { MOST_REPEATS = 64, CACHE_MULTIPLE = 4 };
#define LEAST_BUFFER ((uint64_t)512 << 20)
#define MOST_BUFFER ((uint64_t)4 << 30)

static const size_t N_STREAMS[LIMIT_STREAMS] = {1, 4};
static const char *const KIND_NAMES[N_PEAK_KINDS] = {[PEAK_F32] = "f32", [PEAK_BF16] = "bf16", [PEAK_INT8] = "int8"};

struct measuring {
    struct pool *pool;
    double seconds; /* a repeat */
    size_t n_repeats, n_measured, n_all;
    lorad_progress *progress;
    void *progress_context;
};

static double seconds_of(const struct lorad_limits_options *options)
{
    return options->seconds > 0 ? options->seconds : 0.1;
}

static size_t threads_of(const struct lorad_limits_options *options)
{
    return options->n_threads ? options->n_threads : cpu_usable_cores();
}

/* -- One repeat ---------------------------------------------------------------------------- */

/* Something that all threads do `n` times. */
struct work {
    pool_task *task;
    size_t n;
    const struct peak_loop *loop;
    char *bytes;
    size_t n_bytes, n_streams;
    uint64_t seen[64]; /* what was read: nobody may find that it is of no use */
};

static double time_work(struct pool *pool, struct work *work)
{
    uint64_t begin_us = clock_now_us();
    pool_run(pool, work->task, work, pool_n_threads(pool));
    return (double)(clock_now_us() - begin_us + 1) / 1e6;
}

/* How often the work is to be done, so that it takes this long. */
static size_t find_count(struct pool *pool, struct work *work, double seconds)
{
    enum { MOST_DOUBLINGS = 40 };
    double took = 0;
    work->n = 1;
    for (int i = 0; i < MOST_DOUBLINGS; i++) {
        took = time_work(pool, work);
        if (took >= seconds / 4)
            break;
        work->n *= 2;
    }
    double wanted = (double)work->n * seconds / took;
    return wanted > 1 ? (size_t)(wanted + 0.5) : 1;
}

/* `amount`: of what one thread does in doing it once. */
static bool measure(struct measuring *measuring, struct work *work, double amount, struct series *rates, struct error *err)
{
    bool ok = true;
    work->n = find_count(measuring->pool, work, measuring->seconds);
    for (size_t i = 0; ok && i < measuring->n_repeats; i++) {
        double all = amount * (double)work->n * (double)pool_n_threads(measuring->pool);
        ok = series_add(rates, all / time_work(measuring->pool, work), err);
    }
    measuring->n_measured++;
    if (measuring->progress)
        measuring->progress(measuring->progress_context, "measuring the machine",
                            (double)measuring->n_measured / (double)measuring->n_all);
    return ok;
}

/* -- Memory -------------------------------------------------------------------------------- */

static char *part_of(const struct work *work, size_t part, size_t n_parts)
{
    return work->bytes + work->n_bytes / n_parts * part;
}

static void touch_part(void *context, size_t part, size_t n_parts, size_t thread)
{
    const struct work *work = context;
    (void)thread;
    peak_touch(part_of(work, part, n_parts), work->n_bytes / n_parts);
}

static void read_part(void *context, size_t part, size_t n_parts, size_t thread)
{
    struct work *work = context;
    uint64_t seen = 0;
    (void)thread;
    for (size_t i = 0; i < work->n; i++)
        seen += peak_read(part_of(work, part, n_parts), work->n_bytes / n_parts, work->n_streams);
    work->seen[part & 63] = seen;
}

/* Bytes of ours that lie on huge pages; 0 when the system does not say. */
static double huge_bytes(void)
{
    struct buffer text;
    unsigned long long kilobytes = 0;
    buffer_init(&text, 1 << 16);
    if (file_read_system_text(&text, "/proc/self/smaps_rollup")) {
        const char *line = strstr(buffer_text(&text), "AnonHugePages:");
        if (line)
            kilobytes = strtoull(line + strlen("AnonHugePages:"), NULL, 10);
    }
    buffer_finish(&text);
    return (double)kilobytes * 1024;
}

/* As the engine lays out its weights: each part is first touched by a thread that may read it. */
static bool measure_memory(struct measuring *measuring, size_t n_bytes, int advice, struct limit_memory *out, struct error *err)
{
    double huge_before = huge_bytes();
    struct work work = {.n_bytes = n_bytes, .n = 1, .task = touch_part};
    work.bytes = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (work.bytes == MAP_FAILED)
        return error_no_memory(err);
    madvise(work.bytes, n_bytes, advice);
    pool_run(measuring->pool, touch_part, &work, pool_n_threads(measuring->pool));
    out->huge_share = fmax(0, fmin(1, (huge_bytes() - huge_before) / (double)n_bytes));
    work.task = read_part;
    bool ok = true;
    for (size_t i = 0; ok && i < LIMIT_STREAMS; i++) {
        work.n_streams = N_STREAMS[i];
        ok = measure(measuring, &work, (double)(n_bytes / pool_n_threads(measuring->pool)), &out->rates[i], err);
    }
    munmap(work.bytes, n_bytes);
    return ok;
}

/* -- Rates --------------------------------------------------------------------------------- */

enum { ROUNDS = 1024 }; /* of a loop that is run once: what the clock cannot see */

static void run_loop(void *context, size_t part, size_t n_parts, size_t thread)
{
    const struct work *work = context;
    (void)part, (void)n_parts, (void)thread;
    work->loop->run(work->n * ROUNDS);
}

static bool measure_rates(struct measuring *measuring, struct limit_rate rates[N_PEAK_KINDS], struct error *err)
{
    bool ok = true;
    for (int kind = 0; ok && kind < N_PEAK_KINDS; kind++) {
        struct limit_rate *out = &rates[kind];
        const struct peak_loop *loop = peak_choose((enum peak_kind)kind, cpu_detect_features(), &out->is_widened);
        struct work work = {.task = run_loop, .loop = loop};
        out->instruction = loop->name;
        ok = measure(measuring, &work, (double)loop->n_operations * ROUNDS, &out->rates, err);
    }
    return ok;
}

/* -- All ----------------------------------------------------------------------------------- */

/* So large that of a pass at most a quarter still lies in the cache from the last one; but never most of the memory. */
static uint64_t choose_buffer(uint64_t cache_bytes)
{
    uint64_t wanted = cache_bytes * CACHE_MULTIPLE, most = memory_usable_bytes() / 4;
    wanted = wanted < LEAST_BUFFER ? LEAST_BUFFER : wanted > MOST_BUFFER ? MOST_BUFFER : wanted;
    return wanted < most ? wanted : most;
}

static bool check_options(const struct lorad_limits_options *options, struct error *err)
{
    if (options->n_repeats > MOST_REPEATS)
        return error_set(err, ERROR_BAD_INPUT, "repeats", "is %zu, but must be in 1..%d", options->n_repeats, MOST_REPEATS);
    if (!(options->seconds >= 0 && options->seconds <= 60))
        return error_set(err, ERROR_BAD_INPUT, "limits-seconds", "is %g, but must be in 0..60", options->seconds);
    if (options->buffer_bytes != 0 && options->buffer_bytes < (uint64_t)1 << 20)
        return error_set(err, ERROR_BAD_INPUT, "limits-buffer", "is less than 1 MiB");
    if (options->buffer_bytes > memory_usable_bytes())
        return error_set(err, ERROR_BAD_INPUT, "limits-buffer", "is more than the memory there is");
    return true;
}

/* `limits` has the number of threads and the buffer's size. */
static bool measure_all(struct measuring *measuring, bool has_small_pages, struct limits limits, struct limits *out, struct error *err)
{
    measuring->pool = pool_create(limits.n_threads, err);
    bool ok = measuring->pool && measure_memory(measuring, limits.buffer_bytes, MADV_HUGEPAGE, &limits.huge_pages, err) &&
              (!has_small_pages || measure_memory(measuring, limits.buffer_bytes, MADV_NOHUGEPAGE, &limits.small_pages, err)) &&
              measure_rates(measuring, limits.rates, err);
    pool_destroy(measuring->pool);
    if (ok)
        *out = limits;
    else
        limits_finish(&limits);
    return ok;
}

bool limits_measure(const struct lorad_limits_options *options, struct limits *out, struct error *err)
{
    struct limits limits = {.n_threads = threads_of(options), .cache_bytes = cache_last_level_bytes("")};
    struct measuring measuring = {.seconds = seconds_of(options),
                                  .n_repeats = options->n_repeats ? options->n_repeats : 5,
                                  .n_all = 2 * LIMIT_STREAMS + N_PEAK_KINDS,
                                  .progress = options->progress,
                                  .progress_context = options->progress_context};
    limits.buffer_bytes = options->buffer_bytes ? options->buffer_bytes : choose_buffer(limits.cache_bytes);
    return check_options(options, err) && measure_all(&measuring, true, limits, out, err);
}

bool limits_measure_again(const struct limits *limits, const struct lorad_limits_options *options, struct limits *out, struct error *err)
{
    struct limits again = {.n_threads = limits->n_threads, .cache_bytes = limits->cache_bytes};
    struct measuring measuring = {.seconds = seconds_of(options), .n_repeats = 1};
    uint64_t most = options->buffer_bytes ? options->buffer_bytes : memory_usable_bytes() / 8;
    again.buffer_bytes = limits->buffer_bytes < most ? limits->buffer_bytes : most;
    return measure_all(&measuring, false, again, out, err);
}

void limits_finish(struct limits *limits)
{
    for (size_t i = 0; i < LIMIT_STREAMS; i++) {
        series_finish(&limits->huge_pages.rates[i]);
        series_finish(&limits->small_pages.rates[i]);
    }
    for (size_t i = 0; i < N_PEAK_KINDS; i++)
        series_finish(&limits->rates[i].rates);
}

static size_t best_streams(const struct limit_memory *memory)
{
    size_t best = 0;
    for (size_t i = 1; i < LIMIT_STREAMS; i++)
        if (series_median(&memory->rates[i]) > series_median(&memory->rates[best]))
            best = i;
    return best;
}

static double memory_rate(const struct limit_memory *memory)
{
    return series_median(&memory->rates[best_streams(memory)]);
}

double limits_read_rate(const struct limits *limits)
{
    return fmax(memory_rate(&limits->huge_pages), memory_rate(&limits->small_pages));
}

double limits_rate(const struct limits *limits, enum peak_kind kind)
{
    return fmax(series_median(&limits->rates[kind].rates), series_median(&limits->rates[PEAK_F32].rates));
}

static json_t *memory_json(const struct limit_memory *memory)
{
    size_t best = best_streams(memory);
    json_t *out = json_object();
    json_object_set_new(out, "bytes_per_second", series_json(&memory->rates[best]));
    json_object_set_new(out, "streams_per_thread", json_integer((json_int_t)N_STREAMS[best]));
    json_object_set_new(out, "share_on_huge_pages", json_number(memory->huge_share));
    return out;
}

static json_t *rate_json(const struct limits *limits, enum peak_kind kind)
{
    const struct limit_rate *rate = &limits->rates[kind];
    json_t *out = json_object();
    json_object_set_new(out, "limit_operations_per_second", json_number(limits_rate(limits, kind)));
    json_object_set_new(out, "operations_per_second", series_json(&rate->rates));
    json_object_set_new(out, "instruction", json_string(rate->instruction));
    json_object_set_new(out, "widened_to_f32", json_boolean(rate->is_widened));
    return out;
}

json_t *limits_json(const struct limits *limits)
{
    json_t *out = json_object();
    json_object_set_new(out, "threads", json_integer((json_int_t)limits->n_threads));
    json_object_set_new(out, "cache_bytes", limits->cache_bytes ? json_integer((json_int_t)limits->cache_bytes) : json_null());
    json_object_set_new(out, "buffer_bytes", json_integer((json_int_t)limits->buffer_bytes));
    json_object_set_new(out, "buffer_may_lie_in_cache",
                        json_boolean(limits->buffer_bytes < limits->cache_bytes * CACHE_MULTIPLE || limits->cache_bytes == 0));
    json_object_set_new(out, "huge_pages", memory_json(&limits->huge_pages));
    json_object_set_new(out, "small_pages", memory_json(&limits->small_pages));
    json_object_set_new(out, "read_bytes_per_second", json_number(limits_read_rate(limits)));
    for (size_t i = 0; i < N_PEAK_KINDS; i++)
        json_object_set_new(out, KIND_NAMES[i], rate_json(limits, (enum peak_kind)i));
    return out;
}

char *lorad_limits(const struct lorad_limits_options *options, struct error *err)
{
    struct limits limits;
    if (!limits_measure(options, &limits, err))
        return NULL;
    json_t *report = limits_json(&limits);
    char *text = report_text(report, err);
    json_decref(report);
    limits_finish(&limits);
    return text;
}
