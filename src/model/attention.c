/*
 * attention.c - a unit of work is some neighbouring queries of a sequence with one key/value head: what a call of the kernel walks the
 * keys and values once for. While a prompt is read, a query needs keys that other units would write, so
 * all keys are written first; in decoding each unit writes its own. Keys and values are always read from the cache, after they
 * were rounded to its type: a chunk's own tokens see each other as those of later chunks see them.
 */
#include "model/attention.h"

#include "base/bytes.h"
#include "model/family.h"

enum {
    UNIT_ROWS = 96,       /* heads times tokens of a unit: more share what is read, fewer stay in the nearer caches */
    LEAST_WORK = 1 << 15  /* multiplications that are worth another part */
};

struct attention_unit {
    const struct batch_sequence *sequence;
    size_t kv_head, first, n_tokens; /* tokens within the sequence's */
};

struct run {
    struct attention *attention;
    size_t layer, window; /* 0: none */
    float scale;
};

/* Keys that all of the sequence's tokens here look at. */
static size_t count_keys(const struct batch_sequence *sequence)
{
    size_t n = sequence->n_tokens;
    return n * sequence->first_position + n * (n + 1) / 2;
}

/* Neighbouring units of a head are neighbours in the plan, and so are heads: in a block of the cache they lie side by side. */
static size_t plan_units(const struct attention *attention, size_t n_most, struct attention_unit *units)
{
    size_t n = 0;
    for (size_t s = 0; s < attention->batch->n_sequences; s++) {
        const struct batch_sequence *sequence = &attention->batch->sequences[s];
        for (size_t kv_head = 0; kv_head < attention->model->config.n_kv_heads; kv_head++)
            for (size_t first = 0, n_tokens; first < sequence->n_tokens; first += n_tokens, n++) {
                n_tokens = size_min(n_most, sequence->n_tokens - first);
                if (units)
                    units[n] = (struct attention_unit){sequence, kv_head, first, n_tokens};
            }
    }
    return n;
}

bool attention_plan(struct attention *attention, struct arena *arena, struct error *err)
{
    const struct model_config *config = &attention->model->config;
    size_t n_threads = pool_n_threads(attention->pool), n_keys = 0, n_group = config->n_heads / config->n_kv_heads;
    size_t n_most = size_max(UNIT_ROWS / n_group, 1);
    attention->is_decode = true;
    for (size_t s = 0; s < attention->batch->n_sequences; s++) {
        const struct batch_sequence *sequence = &attention->batch->sequences[s];
        n_keys += config->n_kv_heads * count_keys(sequence);
        attention->is_decode &= sequence->n_tokens == 1;
    }
    attention->n_units = plan_units(attention, n_most, NULL);
    attention->n_parts = size_min(attention->n_units, 2 * n_keys * n_group * config->d_head / LEAST_WORK + 1);
    attention->n_scratch = kernels_attend_scratch((attention->is_decode ? 1 : n_most) * n_group, config->d_head);
    attention->units = arena_allocate(arena, attention->n_units * sizeof *attention->units);
    attention->scratch = arena_allocate(arena, n_threads * attention->n_scratch * sizeof *attention->scratch);
    if (!attention->units || !attention->scratch)
        return error_no_memory(err);
    plan_units(attention, n_most, attention->units);
    return true;
}

static float *qkv_row(const struct attention *attention, size_t token)
{
    const struct model_config *config = &attention->model->config;
    return attention->qkv + token * (config->n_heads + 2 * config->n_kv_heads) * config->d_head;
}

/* Norm per head, then rotation, as far as the family has them. */
static void prepare_head(const struct run *run, float *x, size_t token, enum norm_role role)
{
    const struct attention *attention = run->attention;
    const struct model *model = attention->model;
    size_t norm = model->layer_norms[run->layer][role], d_head = model->config.d_head;
    if (norm != SIZE_MAX)
        model->kernels->rms_norm(x, x, attention->views[token]->norms[norm].weight, d_head, model->config.norm_eps);
    if (attention->cosine)
        model->kernels->rope(x, attention->cosine + token * (d_head / 2), attention->sine + token * (d_head / 2), d_head);
}

/* Makes the queries of one key/value head ready and writes its key and value to the cache. */
static void prepare(const struct run *run, const struct batch_sequence *sequence, size_t index, size_t kv_head)
{
    struct attention *attention = run->attention;
    const struct model_config *config = &attention->model->config;
    size_t token = sequence->first_token + index, position = sequence->first_position + index;
    size_t d_head = config->d_head, n_group = config->n_heads / config->n_kv_heads;
    float *q = qkv_row(attention, token) + kv_head * n_group * d_head;
    float *k = qkv_row(attention, token) + (config->n_heads + kv_head) * d_head;
    const float *v = k + config->n_kv_heads * d_head;

    for (size_t head = 0; head < n_group; head++)
        prepare_head(run, q + head * d_head, token, NORM_ROLE_Q);
    prepare_head(run, k, token, NORM_ROLE_K);
    kv_write(attention->kv, sequence->blocks[position / KV_BLOCK_TOKENS], run->layer, kv_head, position % KV_BLOCK_TOKENS, k, v);
}

static void attend(const struct run *run, const struct attention_unit *unit, size_t thread)
{
    struct attention *attention = run->attention;
    const struct model_config *config = &attention->model->config;
    const struct batch_sequence *sequence = unit->sequence;
    size_t n_group = config->n_heads / config->n_kv_heads, head_at = unit->kv_head * n_group * config->d_head;
    size_t token = sequence->first_token + unit->first, n_out = config->n_heads * config->d_head;
    struct attend work = {.out = attention->out + token * n_out + head_at,
                          .out_stride = n_out,
                          .q = qkv_row(attention, token) + head_at,
                          .q_stride = n_out + 2 * config->n_kv_heads * config->d_head,
                          .n_tokens = unit->n_tokens,
                          .n_heads = n_group,
                          .d_head = config->d_head,
                          .first_position = sequence->first_position + unit->first,
                          .window = run->window,
                          .scale = run->scale,
                          .blocks = sequence->blocks,
                          .keys = kv_keys(attention->kv, 0, run->layer, unit->kv_head),
                          .values = kv_values(attention->kv, 0, run->layer, unit->kv_head),
                          .block_bytes = kv_stride(attention->kv),
                          .scratch = attention->scratch + thread * attention->n_scratch};
    attention->model->kernels->attend[kv_type(attention->kv)](&work);
}

static void prepare_tokens(void *context, size_t part, size_t n_parts, size_t thread)
{
    const struct run *run = context;
    const struct batch *batch = run->attention->batch;
    size_t from = part * batch->n_tokens / n_parts, to = (part + 1) * batch->n_tokens / n_parts;
    (void)thread;
    for (size_t s = 0; s < batch->n_sequences; s++) {
        const struct batch_sequence *sequence = &batch->sequences[s];
        size_t first = size_max(from, sequence->first_token);
        size_t end = size_min(to, sequence->first_token + sequence->n_tokens);
        for (size_t token = first; token < end; token++)
            for (size_t kv_head = 0; kv_head < run->attention->model->config.n_kv_heads; kv_head++)
                prepare(run, sequence, token - sequence->first_token, kv_head);
    }
}

static void attend_units(void *context, size_t part, size_t n_parts, size_t thread)
{
    const struct run *run = context;
    const struct attention *attention = run->attention;
    for (size_t i = part * attention->n_units / n_parts; i < (part + 1) * attention->n_units / n_parts; i++) {
        if (attention->is_decode)
            prepare(run, attention->units[i].sequence, 0, attention->units[i].kv_head);
        attend(run, &attention->units[i], thread);
    }
}

void attention_run(struct attention *attention, size_t layer)
{
    const struct model_config *config = &attention->model->config;
    bool is_windowed = config->layer_is_windowed && config->layer_is_windowed[layer];
    struct run run = {.attention = attention, .layer = layer, .window = is_windowed ? config->sliding_window : 0,
                      .scale = config->attention_scale};
    if (config->scale_by_inverse_layer)
        run.scale /= (float)(layer + 1);
    if (!attention->is_decode) {
        size_t n_parts = size_min(attention->batch->n_tokens, attention->n_parts);
        pool_run(attention->pool, prepare_tokens, &run, size_min(n_parts, 4 * pool_n_threads(attention->pool)));
    }
    pool_run(attention->pool, attend_units, &run, attention->n_parts);
}
