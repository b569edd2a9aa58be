/*
 * lorad.c - putting the parts together, and taking them apart in the right order.
 *
 * Opening: kernels, model, tokenizer, pool, registry, engine. Closing goes the other way round: the engine first, since
 * its sequences hold leases of the registry; the model last, since everything points into it.
 */
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cpu.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "kernels/blas.h"
#include "lorad/lorad_internal.h"

#define DEFAULT_CONTEXT 8192
#define DEFAULT_BATCH_TOKENS 256
#define DEFAULT_QUEUE 1024

const char *lorad_version(void)
{
    return LORAD_VERSION;
}

static void log_weights_cache(const struct model *model)
{
    char path[600], reason[700];
    log_quote(model->cache.path, path, sizeof path);
    if (model->cache_refused)
        log_event(LOG_WARNING, "weights_cache_refused", "path=%s message=%s", path,
                  log_quote(model->cache_refused, reason, sizeof reason));
    if (model->cache_failed)
        log_event(LOG_WARNING, "weights_cache_failed", "path=%s message=%s", path,
                  log_quote(model->cache_failed, reason, sizeof reason));
    else
        log_event(LOG_INFO,
                  model->cache_was_written ? "weights_cache_written"
                  : model->cache_was_read  ? "weights_cache_read"
                                           : "weights_cache_mapped",
                  "path=%s shared=%s", path, model->cache.file.data ? "true" : "false");
}

struct model *open_model(const struct lorad_options *options, const struct kernels **kernels_out, struct error *err)
{
    static const enum model_weights weights[] = {
        [LORAD_WEIGHTS_NATIVE] = MODEL_WEIGHTS_NATIVE,
        [LORAD_WEIGHTS_F32] = MODEL_WEIGHTS_F32,
        [LORAD_WEIGHTS_F16] = MODEL_WEIGHTS_F16,
        [LORAD_WEIGHTS_BF16] = MODEL_WEIGHTS_BF16,
        [LORAD_WEIGHTS_Q8] = MODEL_WEIGHTS_Q8,
        [LORAD_WEIGHTS_Q4] = MODEL_WEIGHTS_Q4,
    };
    const struct kernels *kernels = kernels_select(cpu_detect_features(), options->cpu, err);
    if (!kernels)
        return NULL;
    if (!options->model_path || !options->model_path[0]) {
        error_set(err, ERROR_BAD_INPUT, "model", "no model was named");
        return NULL;
    }
    *kernels_out = kernels;
    struct model_options open = {
        .directory = options->model_path,
        .weights = weights[options->weights],
        .cache_directory = options->weights_cache,
        .kernels = kernels,
        .progress = options->progress,
        .progress_context = options->progress_context,
    };
    struct model *model = model_open(&open, err);
    if (model && options->weights_cache)
        log_weights_cache(model);
    return model;
}

enum weight_type kv_type_of(const struct lorad_options *options)
{
    static const enum weight_type types[] = {
        [LORAD_KV_BF16] = WEIGHT_BF16,
        [LORAD_KV_F16] = WEIGHT_F16,
        [LORAD_KV_F32] = WEIGHT_F32,
    };
    return types[options->kv_type];
}

/* The last component of a path, without slashes at its end: what a model is called when nobody says. */
static char *name_of_path(const char *path)
{
    char *real = realpath(path, NULL);
    char *copy = real ? real : strdup(path);
    if (!copy)
        return NULL;
    size_t n = strlen(copy);
    while (n > 1 && copy[n - 1] == '/')
        copy[--n] = '\0';
    const char *slash = strrchr(copy, '/');
    char *name = strdup(slash && slash[1] ? slash + 1 : copy);
    free(copy);
    return name;
}

/* A quarter of the memory for keys and values, at least one sequence, at most all sequences at full length. */
static uint64_t choose_kv_memory(const struct model *model, enum weight_type kv_type, size_t context, size_t n_sequences)
{
    uint64_t one = (context / KV_BLOCK_TOKENS + 1) * kv_block_bytes(model, kv_type);
    uint64_t all = one * n_sequences;
    uint64_t quarter = memory_usable_bytes() / 4;
    uint64_t chosen = all < quarter ? all : quarter;
    return chosen < one ? one : chosen;
}

static size_t choose_context(const struct model *model, size_t wanted, struct error *err)
{
    size_t maximum = model->config.max_positions;
    if (wanted == 0)
        return maximum < DEFAULT_CONTEXT ? maximum : DEFAULT_CONTEXT;
    if (wanted > maximum) {
        error_set(err, ERROR_BAD_INPUT, "context", "is %zu, but the model has %zu positions", wanted, maximum);
        return 0;
    }
    return wanted;
}

/* A tokenizer that knows more ids than the model has rows would make prompts that the model cannot read. */
static bool check_vocabulary(const struct lorad *lorad, struct error *err)
{
    size_t n_tokens = tokenizer_n_vocab(lorad->tokenizer);
    if (n_tokens > lorad->model->config.n_vocab)
        return error_set(err, ERROR_MISMATCH, "tokenizer.json", "has ids up to %zu, but the model's vocabulary is %zu",
                         n_tokens - 1, lorad->model->config.n_vocab);
    return true;
}

static void log_registry_event(void *context, const char *event, const char *id, const char *message)
{
    char quoted[700];
    (void)context;
    bool failed = strstr(event, "fail") != NULL;
    log_event(failed ? LOG_WARNING : LOG_INFO, event, "id=%s message=%s", id,
              log_quote(message, quoted, sizeof quoted));
}

static void fill_info(struct lorad *lorad, size_t n_threads, enum weight_type kv_type, uint64_t kv_bytes)
{
    const struct model *model = lorad->model;
    lorad->info = (struct lorad_model_info){
        .name = lorad->name,
        .path = lorad->path,
        .family = family_name(model->config.family),
        .weights = model->weights_name,
        .kv_type = weight_type_name(kv_type),
        .kernels = model->kernels->name,
        .n_layers = model->config.n_layers,
        .d_model = model->config.d_model,
        .n_heads = model->config.n_heads,
        .n_kv_heads = model->config.n_kv_heads,
        .d_head = model->config.d_head,
        .n_vocab = model->config.n_vocab,
        .context = lorad->context,
        .n_threads = n_threads,
        .n_parameters = model->n_parameters,
        .weight_bytes = model->weight_bytes,
        .kv_bytes = kv_bytes,
        .loaded_unix = (int64_t)time(NULL),
    };
}

static bool open_registry(struct lorad *lorad, const struct lorad_options *options, struct error *err)
{
    uint64_t eighth = memory_usable_bytes() / 8;
    struct registry_options registry = {
        .model = lorad->model,
        .adapters_dir = options->adapters_dir,
        .state_dir = options->state_dir,
        .adapter_memory = options->adapter_memory ? options->adapter_memory : eighth,
        .merged_memory = options->merged_memory ? options->merged_memory : eighth,
        .lazy = options->lazy,
        .reserved_id = lorad->name,
        .n_running = &lorad->n_running,
        .auto_merge = !options->no_auto_merge,
        .event = log_registry_event,
    };
    lorad->registry = registry_create(&registry, err);
    return lorad->registry && registry_restore(lorad->registry, err);
}

static void log_calibration(const struct engine *engine)
{
    const struct cost_model *cost = engine_cost(engine);
    log_event(LOG_INFO, "calibrated", "ms_1=%.2f ms_8=%.2f ms_32=%.2f barriers_ms=%.2f max_sequences=%zu",
              cost_weights_us(cost, 1) / 1000, cost_weights_us(cost, 8) / 1000, cost_weights_us(cost, 32) / 1000,
              cost->barriers_us / 1000, engine_max_sequences(engine));
}

static bool open_engine(struct lorad *lorad, const struct lorad_options *options, struct error *err)
{
    size_t n_threads = options->n_threads ? options->n_threads : cpu_usable_cores();
    size_t n_sequences = options->max_sequences ? options->max_sequences : ENGINE_SEQUENCES;
    enum weight_type kv_type = kv_type_of(options);
    uint64_t kv_memory = options->kv_memory;
    if (kv_memory == 0)
        kv_memory = choose_kv_memory(lorad->model, kv_type, lorad->context, n_sequences);
    struct engine_options engine = {
        .model = lorad->model,
        .tokenizer = lorad->tokenizer,
        .kv_memory = kv_memory,
        .kv_type = kv_type,
        .context = lorad->context,
        .max_sequences = options->max_sequences,
        .max_batch_tokens = options->max_batch_tokens ? options->max_batch_tokens : DEFAULT_BATCH_TOKENS,
        .max_queue = options->max_queue ? options->max_queue : DEFAULT_QUEUE,
        .n_running = &lorad->n_running,
        .calibrate = true,
    };
    lorad->pool = pool_create(n_threads, err);
    engine.pool = lorad->pool;
    lorad->engine = lorad->pool ? engine_create(&engine, err) : NULL;
    if (!lorad->engine)
        return false;
    fill_info(lorad, n_threads, kv_type, kv_memory);
    log_calibration(lorad->engine);
    return true;
}

/* Nobody would look for a set that is never chosen by itself. */
static void log_faster_bf16(const struct lorad_options *options, const struct model *model)
{
    static const char FASTER[] = "avx512amxbf16";
    struct error unused;
    bool is_chosen = options->cpu && options->cpu[0];
    if (!is_chosen && strcmp(model->weights_name, "bf16") == 0 && kernels_select(cpu_detect_features(), FASTER, &unused))
        log_event(LOG_INFO, "faster_cpu", "set=%s message=\"prompts of bf16 weights are computed several times as fast with --cpu %s, "
                  "in another order of sums: the last bits of the answers are not those of other machines\"", FASTER, FASTER);
}

struct lorad *lorad_open(const struct lorad_options *options, struct error *err)
{
    const struct kernels *kernels;
    struct lorad *lorad = calloc(1, sizeof *lorad);
    if (!lorad) {
        error_no_memory(err);
        return NULL;
    }
    lorad->model = open_model(options, &kernels, err);
    if (!lorad->model)
        goto fail;
    log_faster_bf16(options, lorad->model);
    lorad->tokenizer = tokenizer_load(options->model_path, err);
    if (!lorad->tokenizer || !check_vocabulary(lorad, err))
        goto fail;
    malloc_trim(0); /* the tree of a large tokenizer.json leaves tens of megabytes of holes */
    lorad->context = choose_context(lorad->model, options->context, err);
    if (lorad->context == 0)
        goto fail;
    lorad->path = strdup(options->model_path);
    lorad->name = options->served_name ? strdup(options->served_name) : name_of_path(options->model_path);
    if (!lorad->path || !lorad->name) {
        error_no_memory(err);
        goto fail;
    }
    if (!open_registry(lorad, options, err) || !open_engine(lorad, options, err))
        goto fail;
    return lorad;

fail:
    lorad_close(lorad);
    return NULL;
}

void lorad_drain(struct lorad *lorad)
{
    atomic_store(&lorad->draining, true);
    engine_drain(lorad->engine);
    registry_stop(lorad->registry); /* wakes who waits for merged weights: for hours, if asked so */
}

bool lorad_is_draining(struct lorad *lorad)
{
    return atomic_load(&lorad->draining);
}

bool lorad_is_idle(struct lorad *lorad)
{
    return engine_is_idle(lorad->engine);
}

void lorad_close(struct lorad *lorad)
{
    if (!lorad)
        return;
    if (lorad->registry)
        registry_stop(lorad->registry);
    engine_destroy(lorad->engine);
    if (lorad->registry)
        registry_destroy(lorad->registry);
    pool_destroy(lorad->pool);
    tokenizer_destroy(lorad->tokenizer);
    model_destroy(lorad->model);
    free(lorad->path);
    free(lorad->name);
    free(lorad);
}

const struct lorad_model_info *lorad_model(const struct lorad *lorad)
{
    return &lorad->info;
}

void lorad_stats_read(struct lorad *lorad, struct lorad_stats *out)
{
    struct registry_stats registry;
    memset(out, 0, sizeof *out);
    engine_stats_read(lorad->engine, out);
    registry_stats_read(lorad->registry, &registry);
    out->adapters_loaded = registry.adapters;
    out->adapter_bytes = registry.adapter_bytes;
    out->adapter_bytes_limit = registry.adapter_bytes_limit;
    out->merged_count = registry.merged;
    out->merged_bytes = registry.merged_bytes;
    out->merged_bytes_limit = registry.merged_bytes_limit;
    out->merges_total = registry.merges;
    out->merge_evictions_total = registry.merge_evictions;
    out->adapter_evictions_total = registry.evictions;
    out->loads_total = registry.loads;
    out->load_failures_total = registry.load_failures;
    out->unloads_total = registry.unloads;
    memcpy(out->merge_decisions, registry.merge_decisions, sizeof out->merge_decisions);
}
