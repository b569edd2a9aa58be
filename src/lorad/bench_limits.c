/*
 * bench_limits.c - the limit beside each figure: the bytes that a computation must read and the operations that it must do, against what
 * the machine was measured to do at best (limits.c). The longer of the two is the least time; nobody is faster, however the
 * work is arranged.
 */
#include <math.h>

#include "base/bytes.h"
#include "lorad/bench.h"

/* Of all sites that multiply: elements by the rate at which they can be had, and bytes as they are held. */
struct weights {
    double n_linear[N_PEAK_KINDS], n_head[N_PEAK_KINDS], n_bytes;
};

static enum peak_kind kind_of(enum weight_type type)
{
    if (type == WEIGHT_Q8 || type == WEIGHT_Q4)
        return PEAK_INT8;
    return type == WEIGHT_BF16 ? PEAK_BF16 : PEAK_F32; /* f16 is widened */
}

static struct weights count_weights(const struct model *model)
{
    struct weights out = {0};
    for (size_t i = 0; i < model->n_sites; i++) {
        const struct site *site = &model->sites[i];
        if (site->kind != SITE_LINEAR && site->kind != SITE_HEAD)
            continue;
        double *n = site->kind == SITE_HEAD ? out.n_head : out.n_linear;
        n[kind_of(site->weight->type)] += (double)site->n_in * (double)site->n_out;
        out.n_bytes += (double)matrix_bytes(site->weight);
    }
    return out;
}

static double kv_bytes_per_position(const struct bench *bench)
{
    return (double)(kv_block_bytes(bench->lorad->model, kv_type_of(&bench->options.open)) / KV_BLOCK_TOKENS);
}

/* Of queries with keys and of probabilities with values, for one token with `context` positions before it. */
static double attention_operations(const struct model *model, double context)
{
    const struct model_config *config = &model->config;
    return 4.0 * (double)(config->n_heads * config->d_head * config->n_layers) * context;
}

/* Elements of one adapter's pairs on all linear sites. */
static double adapter_elements(const struct model *model, size_t rank)
{
    double n = 0;
    for (size_t i = 0; i < model->n_sites; i++)
        if (model->sites[i].kind == SITE_LINEAR)
            n += (double)rank * (double)(model->sites[i].n_in + model->sites[i].n_out);
    return n;
}

static double adapter_bytes(const struct bench *bench, size_t rank)
{
    return adapter_elements(bench->lorad->model, rank) * (bench->options.adapter_dtype == LORAD_ELEMENT_F32 ? 4 : 2);
}

struct bench_work bench_decode_work(const struct bench *bench, const struct bench_batch *batch, double context)
{
    const struct model *model = bench->lorad->model;
    struct weights weights = count_weights(model);
    double n = (double)batch->n_sequences, n_different = (double)size_min(batch->n_adapters, batch->n_sequences);
    struct bench_work work = {.n_bytes = weights.n_bytes + kv_bytes_per_position(bench) * context * n};
    for (int kind = 0; kind < N_PEAK_KINDS; kind++)
        work.n_operations[kind] = 2 * (weights.n_linear[kind] + weights.n_head[kind]) * n;
    work.n_operations[PEAK_F32] += attention_operations(model, context) * n;
    if (n_different > 0 && batch->is_merged) {
        work.n_bytes += weights.n_bytes * (n_different - 1); /* one W' each */
    } else if (n_different > 0) {
        work.n_bytes += adapter_bytes(bench, batch->rank) * n_different;
        work.n_operations[PEAK_F32] += 2 * adapter_elements(model, batch->rank) * n;
    }
    return work;
}

struct bench_work bench_prefill_work(const struct bench *bench, const struct bench_batch *batch, size_t n_tokens)
{
    const struct model *model = bench->lorad->model;
    struct weights weights = count_weights(model);
    double n = (double)n_tokens;
    struct bench_work work = {.n_bytes = weights.n_bytes + kv_bytes_per_position(bench) * n};
    for (int kind = 0; kind < N_PEAK_KINDS; kind++)
        work.n_operations[kind] = 2 * (weights.n_linear[kind] * n + weights.n_head[kind]);
    work.n_operations[PEAK_F32] += attention_operations(model, n / 2) * n;
    if (batch->n_adapters > 0 && !batch->is_merged) {
        work.n_bytes += adapter_bytes(bench, batch->rank);
        work.n_operations[PEAK_F32] += 2 * adapter_elements(model, batch->rank) * n;
    }
    return work;
}

double bench_least_seconds(const struct limits *limits, const struct bench_work *work)
{
    double reading = work->n_bytes / limits_read_rate(limits), computing = 0;
    for (int kind = 0; kind < N_PEAK_KINDS; kind++)
        computing += work->n_operations[kind] / limits_rate(limits, (enum peak_kind)kind);
    return fmax(reading, computing);
}

/* A step of it on the fly or merged, whichever is faster where both are allowed. */
static double least_step_seconds(const struct bench *bench, const struct variant *variant, size_t n_sequences, double context)
{
    struct bench_batch batch = {.n_sequences = n_sequences, .n_adapters = variant->n_adapters, .rank = variant->rank,
                                .is_merged = variant->mode == LORAD_MODE_MERGED};
    struct bench_work work = bench_decode_work(bench, &batch, context);
    double seconds = bench_least_seconds(&bench->limits, &work);
    if (variant->mode == LORAD_MODE_AUTO) {
        batch.is_merged = true;
        work = bench_decode_work(bench, &batch, context);
        seconds = fmin(seconds, bench_least_seconds(&bench->limits, &work));
    }
    return seconds;
}

/* While all clients decode; or with their prompts, where not all run at a time: then a step is as full as it may be. */
double bench_limit_of_variant(const struct bench *bench, const struct variant *variant)
{
    const struct lorad_bench_options *options = &bench->options;
    double context = (double)options->prompt_tokens + (double)options->new_tokens / 2, seconds;
    if (!variant->is_whole)
        return (double)variant->n_clients / least_step_seconds(bench, variant, variant->n_clients, context);
    size_t n_at_a_time = size_min(options->open.max_sequences, variant->n_clients);
    struct bench_batch one = {.n_sequences = 1, .n_adapters = variant->n_adapters > 0, .rank = variant->rank};
    struct bench_work prompt = bench_prefill_work(bench, &one, options->prompt_tokens);
    double n_steps = (double)(options->new_tokens - 1) * (double)variant->n_clients / (double)n_at_a_time;
    prompt.n_bytes = 0; /* it may share a step with those who decode */
    seconds = n_steps * least_step_seconds(bench, variant, n_at_a_time, context) +
              (double)variant->n_clients * bench_least_seconds(&bench->limits, &prompt);
    return (double)(options->new_tokens * variant->n_clients) / seconds;
}
