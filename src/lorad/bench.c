/*
 * bench.c - lorad_bench: prefill and decode speed, and the share of the memory bandwidth that decoding reaches.
 *
 * The limit first: a decode step must read every weight that its sequences use once. So the bench counts those
 * bytes, measures how fast all threads together can read memory, and reports the ratio. Random adapters are
 * written as PEFT directories and loaded like anybody's.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/file.h"
#include "base/json.h"
#include "lorad/lorad_internal.h"

#define READ_BYTES ((size_t)512 << 20)
#define MAX_REPEATS 64
#define MAX_SEQUENCES 256

/* -- How fast memory can be read ----------------------------------------------------------- */

struct read_job {
    const uint64_t *words;
    size_t n_words;
    uint64_t sums[256];
};

static void read_part(void *context, size_t part, size_t n_parts, size_t thread)
{
    struct read_job *job = context;
    size_t begin = job->n_words * part / n_parts, end = job->n_words * (part + 1) / n_parts;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = begin; i + 4 <= end; i += 4) {
        a += job->words[i];
        b += job->words[i + 1];
        c += job->words[i + 2];
        d += job->words[i + 3];
    }
    job->sums[thread & 255] += a + b + c + d;
}

/* The best of a few passes over a buffer much larger than the caches, bytes per second. */
static double measure_read_bandwidth(struct pool *pool)
{
    struct read_job job = {.n_words = READ_BYTES / 8};
    uint64_t *words = malloc(READ_BYTES);
    double best = 0;
    if (!words)
        return NAN;
    memset(words, 1, READ_BYTES);
    job.words = words;
    for (int pass = 0; pass < 6; pass++) {
        uint64_t begin = clock_now_us();
        pool_run(pool, read_part, &job, pool_n_threads(pool));
        double seconds = (double)(clock_now_us() - begin) / 1e6;
        if ((double)READ_BYTES / seconds > best)
            best = (double)READ_BYTES / seconds;
    }
    free(words);
    return best;
}

/* Bytes that one decode step of the base must read: every linear site and the head. */
static uint64_t bytes_per_step(const struct model *model)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < model->n_sites; i++) {
        const struct site *site = &model->sites[i];
        if (site->kind == SITE_LINEAR || site->kind == SITE_HEAD)
            bytes += (uint64_t)site->n_in * site->n_out * weight_type_size(site->weight->type);
    }
    return bytes;
}

static uint64_t kv_bytes_per_position(const struct model *model, enum weight_type type)
{
    return kv_block_bytes(model, type) / KV_BLOCK_TOKENS;
}

/* -- Random adapters -------------------------------------------------------------------------- */

static float random_value(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return ((float)(*state >> 40) / (float)(1 << 24) - 0.5f) * 0.02f;
}

static const enum dtype DTYPES[] = {[LORAD_ELEMENT_BF16] = DTYPE_BF16, [LORAD_ELEMENT_F16] = DTYPE_F16,
                                    [LORAD_ELEMENT_F32] = DTYPE_F32};

static bool make_pair(const struct site *site, size_t rank, enum dtype dtype, struct tensor *a, struct tensor *b,
                      char names[2][256], uint64_t *seed, struct error *err)
{
    size_t n_a = rank * site->n_in, n_b = site->n_out * rank, size = dtype_size(dtype);
    char *values = malloc((n_a + n_b) * size);
    if (!values)
        return error_no_memory(err);
    for (size_t i = 0; i < n_a + n_b; i++) {
        float value = random_value(seed);
        dtype_from_f32(values + i * size, dtype, &value, 1);
    }
    snprintf(names[0], sizeof names[0], "base_model.model.%s.lora_A.weight", site->path);
    snprintf(names[1], sizeof names[1], "base_model.model.%s.lora_B.weight", site->path);
    *a = (struct tensor){.name = names[0], .dtype = dtype, .n_dims = 2, .shape = {rank, site->n_in},
                         .n_elements = n_a, .n_bytes = n_a * size, .data = values};
    *b = (struct tensor){.name = names[1], .dtype = dtype, .n_dims = 2, .shape = {site->n_out, rank},
                         .n_elements = n_b, .n_bytes = n_b * size, .data = values + n_a * size};
    return true;
}

static bool write_config(const char *directory, size_t rank, struct error *err)
{
    char text[256];
    char *path = path_join(directory, "adapter_config.json");
    int n = snprintf(text, sizeof text,
                     "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"r\": %zu, \"lora_alpha\": %zu, "
                     "\"target_modules\": \"all-linear\"}", rank, 2 * rank);
    bool ok = path ? file_replace(path, text, (size_t)n, err) : error_no_memory(err);
    free(path);
    return ok;
}

static bool write_random_adapter(const struct model *model, const char *directory, size_t rank, enum dtype dtype,
                                 uint64_t seed, struct error *err)
{
    struct tensor *tensors = calloc(2 * model->n_sites, sizeof *tensors);
    char (*names)[2][256] = calloc(model->n_sites, sizeof *names);
    char *path = path_join(directory, "adapter_model.safetensors");
    size_t n = 0;
    bool ok = tensors && names && path ? true : error_no_memory(err);
    for (size_t i = 0; ok && i < model->n_sites; i++)
        if (model->sites[i].kind == SITE_LINEAR) {
            ok = make_pair(&model->sites[i], rank, dtype, &tensors[n], &tensors[n + 1], names[i], &seed, err);
            n += ok ? 2 : 0;
        }
    ok = ok && write_config(directory, rank, err) && safetensors_write(path, tensors, n, err);
    for (size_t i = 0; i < n; i += 2)
        free((void *)tensors[i].data);
    free(tensors);
    free(names);
    free(path);
    return ok;
}

static bool load_random_adapters(struct lorad *lorad, const struct lorad_bench_options *options, struct error *err)
{
    char directory[] = "/tmp/lorad-bench-XXXXXX", id[32];
    struct lorad_load_options load = {.path = directory, .trusted_path = true};
    bool ok = mkdtemp(directory) != NULL || error_set(err, ERROR_IO, NULL, "no temporary directory in /tmp");
    for (size_t i = 0; ok && i < options->n_adapters; i++) {
        snprintf(id, sizeof id, "bench-%zu", i);
        ok = write_random_adapter(lorad->model, directory, options->rank, DTYPES[options->adapter_dtype], i + 1, err) &&
             lorad_adapter_load(lorad, id, &load, NULL, err) &&
             (!options->merged || lorad_adapter_merge(lorad, id, 600000, err));
    }
    if (!directory_remove(directory, NULL))
        return ok; /* the files stay in /tmp; nothing else depends on them */
    return ok;
}

/* -- Runs --------------------------------------------------------------------------------------- */

struct run_result {
    double prefill_tokens_per_second, decode_tokens_per_second, step_ms, first_token_ms;
};

static struct lorad_stream *submit_one(struct lorad *lorad, const struct lorad_bench_options *options,
                                       const int32_t *ids, size_t n_ids, size_t new_tokens, size_t index,
                                       struct error *err)
{
    struct lorad_request request;
    char id[32];
    struct lorad_adapter_choice choice = {.id = id, .weight = 1};
    lorad_request_init(lorad, &request);
    request.input_ids = ids;
    request.n_input_ids = n_ids;
    request.max_tokens = new_tokens;
    request.ignore_eos = true;
    request.sampling.temperature = 0;
    request.has_mode = true;
    request.mode = options->merged ? LORAD_MODE_MERGED : LORAD_MODE_ON_THE_FLY;
    if (options->n_adapters > 0) {
        snprintf(id, sizeof id, "bench-%zu", index % options->n_adapters);
        request.adapters = &choice;
        request.n_adapters = 1;
    }
    return lorad_submit(lorad, &request, err);
}

static bool wait_for_end(struct lorad_stream *stream, struct lorad_usage *usage, struct error *err)
{
    struct lorad_event event;
    for (;;) {
        while (lorad_stream_next(stream, &event))
            if (event.kind == LORAD_EVENT_END) {
                *usage = event.usage;
                if (event.finish == LORAD_FINISH_LENGTH)
                    return true;
                return error_set(err, ERROR_INTERNAL, NULL, "a sequence ended early: %s",
                                 event.error_message ? event.error_message : "no reason given");
            }
        lorad_stream_wait(stream, -1);
    }
}

static bool run_prefill(struct lorad *lorad, const struct lorad_bench_options *options, const int32_t *ids,
                        struct run_result *out, struct error *err)
{
    struct lorad_usage usage;
    struct lorad_stream *stream = submit_one(lorad, options, ids, options->prompt_tokens, 1, 0, err);
    bool ok = stream && wait_for_end(stream, &usage, err);
    lorad_stream_close(stream);
    if (ok) {
        out->first_token_ms = usage.prefill_ms;
        out->prefill_tokens_per_second = (double)options->prompt_tokens / usage.prefill_ms * 1e3;
    }
    return ok;
}

/* All sequences together. The last to start has the shortest decode time: no prefill of another falls into it. */
static bool run_decode(struct lorad *lorad, const struct lorad_bench_options *options, const int32_t *ids,
                       struct run_result *out, struct error *err)
{
    struct lorad_stream *streams[MAX_SEQUENCES] = {0};
    struct lorad_usage usage;
    double shortest_ms = INFINITY;
    bool ok = true;
    for (size_t i = 0; ok && i < options->n_sequences; i++) {
        streams[i] = submit_one(lorad, options, ids, options->prompt_tokens, options->new_tokens, i, err);
        ok = streams[i] != NULL;
    }
    for (size_t i = 0; ok && i < options->n_sequences; i++) {
        ok = wait_for_end(streams[i], &usage, err);
        if (ok && usage.decode_ms < shortest_ms)
            shortest_ms = usage.decode_ms;
    }
    for (size_t i = 0; i < options->n_sequences; i++)
        lorad_stream_close(streams[i]);
    if (ok) {
        double n_steps = (double)(options->new_tokens - 1);
        out->step_ms = shortest_ms / n_steps;
        out->decode_tokens_per_second = n_steps * (double)options->n_sequences / shortest_ms * 1e3;
    }
    return ok;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(const struct run_result *results, size_t n, size_t offset)
{
    double values[MAX_REPEATS];
    for (size_t i = 0; i < n; i++)
        memcpy(&values[i], (const char *)&results[i] + offset, sizeof values[i]);
    qsort(values, n, sizeof *values, compare_doubles);
    return values[n / 2];
}
#define MEDIAN(results, n, field) median_of(results, n, offsetof(struct run_result, field))

/* -- The report ------------------------------------------------------------------------------------ */

static uint64_t adapter_bytes_read(struct lorad *lorad, const struct lorad_bench_options *options)
{
    struct lorad_stats stats;
    if (options->n_adapters == 0 || options->merged)
        return 0;
    lorad_stats_read(lorad, &stats);
    size_t used = size_min(options->n_adapters, options->n_sequences);
    return stats.adapter_bytes / options->n_adapters * used;
}

static char *make_report(struct lorad *lorad, const struct lorad_bench_options *options,
                         const struct run_result *results, struct error *err)
{
    const struct lorad_model_info *info = lorad_model(lorad);
    size_t n = options->n_repeats;
    double bandwidth = measure_read_bandwidth(lorad->pool);
    double step_ms = MEDIAN(results, n, step_ms);
    double mean_context = (double)options->prompt_tokens + (double)options->new_tokens / 2;
    /* Merged views that differ stream one W' each. */
    size_t n_weight_passes = options->merged ? size_max(1, size_min(options->n_adapters, options->n_sequences)) : 1;
    double bytes = (double)(bytes_per_step(lorad->model) * n_weight_passes + adapter_bytes_read(lorad, options)) +
                   (double)kv_bytes_per_position(lorad->model, kv_type_of(&options->open)) * mean_context * (double)options->n_sequences;
    json_t *out = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I}", "model", info->name,
                            "family", info->family, "weights", info->weights, "kernels", info->kernels, "threads",
                            (json_int_t)info->n_threads, "adapters", (json_int_t)options->n_adapters, "rank",
                            (json_int_t)options->rank, "sequences", (json_int_t)options->n_sequences,
                            "prompt_tokens", (json_int_t)options->prompt_tokens, "new_tokens",
                            (json_int_t)options->new_tokens, "merged", options->merged, "repeats", (json_int_t)n);
    json_object_set_new(out, "kv_type", json_string(info->kv_type));
    json_object_set_new(out, "adapter_dtype", json_string(dtype_name(DTYPES[options->adapter_dtype])));
    json_object_set_new(out, "prefill_tokens_per_second", json_real(MEDIAN(results, n, prefill_tokens_per_second)));
    json_object_set_new(out, "prefill_ms", json_real(MEDIAN(results, n, first_token_ms)));
    json_object_set_new(out, "decode_tokens_per_second", json_real(MEDIAN(results, n, decode_tokens_per_second)));
    json_object_set_new(out, "decode_step_ms", json_real(step_ms));
    json_object_set_new(out, "bytes_per_step", json_real(bytes));
    json_object_set_new(out, "bytes_per_token", json_real(bytes / (double)options->n_sequences));
    json_object_set_new(out, "read_bytes_per_second", json_real(bytes / step_ms * 1e3));
    json_object_set_new(out, "memory_bytes_per_second", json_real(bandwidth));
    json_object_set_new(out, "share_of_memory_bandwidth", json_real(bytes / step_ms * 1e3 / bandwidth));
    char *text = out ? json_dumps(out, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(out);
    if (!text)
        error_no_memory(err);
    return text;
}

static bool check_options(const struct lorad_bench_options *options, struct error *err)
{
    if (options->prompt_tokens == 0)
        return error_set(err, ERROR_BAD_INPUT, "prompt", "must be at least 1 token");
    if (options->new_tokens < 2)
        return error_set(err, ERROR_BAD_INPUT, "tokens", "must be at least 2, to have a time between tokens");
    if (options->n_sequences == 0 || options->n_sequences > MAX_SEQUENCES)
        return error_set(err, ERROR_BAD_INPUT, "clients", "must be in 1..%d", MAX_SEQUENCES);
    if (options->n_repeats == 0 || options->n_repeats > MAX_REPEATS)
        return error_set(err, ERROR_BAD_INPUT, "repeats", "must be in 1..%d", MAX_REPEATS);
    if (options->n_adapters > 0 && options->rank == 0)
        return error_set(err, ERROR_BAD_INPUT, "rank", "must be at least 1");
    return true;
}

static void report_progress(const struct lorad_bench_options *options, size_t done)
{
    if (options->open.progress)
        options->open.progress(options->open.progress_context, "measuring",
                               (double)done / (double)options->n_repeats);
}

char *lorad_bench(const struct lorad_bench_options *options, struct error *err)
{
    struct lorad_options open = options->open;
    struct run_result results[MAX_REPEATS];
    int32_t *ids = NULL;
    char *report = NULL;
    if (!check_options(options, err))
        return NULL;
    open.max_sequences = size_max(open.max_sequences, options->n_sequences);
    struct lorad *lorad = lorad_open(&open, err);
    if (!lorad)
        return NULL;
    ids = malloc(options->prompt_tokens * sizeof *ids);
    if (!ids) {
        error_no_memory(err);
        goto done;
    }
    for (size_t i = 0; i < options->prompt_tokens; i++)
        ids[i] = (int32_t)((i * 7919 + 13) % lorad->model->config.n_vocab);
    if (!load_random_adapters(lorad, options, err))
        goto done;
    if (!run_decode(lorad, options, ids, &results[0], err)) /* warms pages, caches and arenas */
        goto done;
    for (size_t i = 0; i < options->n_repeats; i++) {
        report_progress(options, i);
        if (!run_prefill(lorad, options, ids, &results[i], err) || !run_decode(lorad, options, ids, &results[i], err))
            goto done;
    }
    report_progress(options, options->n_repeats);
    report = make_report(lorad, options, results, err);
done:
    free(ids);
    lorad_close(lorad);
    return report;
}
