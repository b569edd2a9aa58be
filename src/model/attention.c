/*
 * attention.c - a unit of work is some neighbouring queries of a sequence with one key/value head; units are cut to about
 * the same number of keys. While a prompt is read, a query needs keys that other units would write, so
 * all keys are written first; in decoding each unit writes its own. Keys and values are always read from the cache, after they
 * were rounded to its type: a chunk's own tokens see each other as those of later chunks see them.
 */
#include "model/attention.h"

#include "base/bytes.h"
#include "model/family.h"

enum {
    UNITS_PER_THREAD = 8,
    LEAST_KEYS = 256,      /* of one unit, unless a sequence has fewer */
    LEAST_WORK = 1 << 15,  /* multiplications that are worth another part */
    SCORE_STEP = 1024      /* scratch grows in powers of two from here, so that steps reuse it */
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

static size_t round_up_to_power(size_t n, size_t least)
{
    size_t power = least;
    while (power < n)
        power *= 2;
    return power;
}

/* Keys that tokens [first, first + n) of the sequence look at. */
static size_t count_keys(const struct batch_sequence *sequence, size_t first, size_t n)
{
    return n * (sequence->first_position + first) + n * (n + 1) / 2;
}

/* How many tokens from `first` on make a unit. */
static size_t cut(const struct batch_sequence *sequence, size_t first, size_t target)
{
    size_t n = 1, n_left = sequence->n_tokens - first;
    while (n < n_left && count_keys(sequence, first, n + 1) <= target)
        n++;
    return n;
}

static size_t plan_units(struct attention *attention, size_t target, struct attention_unit *units)
{
    size_t n = 0;
    for (size_t s = 0; s < attention->batch->n_sequences; s++) {
        const struct batch_sequence *sequence = &attention->batch->sequences[s];
        for (size_t kv_head = 0; kv_head < attention->model->config.n_kv_heads; kv_head++)
            for (size_t first = 0, n_tokens; first < sequence->n_tokens; first += n_tokens, n++) {
                n_tokens = cut(sequence, first, target);
                if (units)
                    units[n] = (struct attention_unit){sequence, kv_head, first, n_tokens};
            }
    }
    return n;
}

bool attention_plan(struct attention *attention, struct arena *arena, struct error *err)
{
    const struct model_config *config = &attention->model->config;
    size_t n_threads = pool_n_threads(attention->pool), n_keys = 0, n_positions = 0;
    attention->is_decode = true;
    for (size_t s = 0; s < attention->batch->n_sequences; s++) {
        const struct batch_sequence *sequence = &attention->batch->sequences[s];
        n_keys += count_keys(sequence, 0, sequence->n_tokens);
        n_positions = size_max(n_positions, sequence->first_position + sequence->n_tokens);
        attention->is_decode &= sequence->n_tokens == 1;
    }
    n_keys *= config->n_kv_heads;
    size_t n_group = config->n_heads / config->n_kv_heads;
    size_t target = size_max(n_keys / (n_threads * UNITS_PER_THREAD), LEAST_KEYS);
    attention->n_units = plan_units(attention, target, NULL);
    attention->n_parts = size_min(attention->n_units, 2 * n_keys * n_group * config->d_head / LEAST_WORK + 1);

    n_positions = round_up_to_power(n_positions, SCORE_STEP);
    attention->n_scores = n_positions * n_group;
    attention->n_blocks = n_positions / KV_BLOCK_TOKENS;
    size_t n_units = round_up_to_power(attention->n_units, 64), n_addresses = n_threads * attention->n_blocks;
    attention->units = arena_allocate(arena, n_units * sizeof *attention->units);
    attention->scores = arena_allocate(arena, n_threads * attention->n_scores * sizeof *attention->scores);
    attention->keys = arena_allocate(arena, n_addresses * sizeof *attention->keys);
    attention->values = arena_allocate(arena, n_addresses * sizeof *attention->values);
    if (!attention->units || !attention->scores || !attention->keys || !attention->values)
        return error_no_memory(err);
    plan_units(attention, target, attention->units);
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
    uint32_t block = sequence->blocks[position / KV_BLOCK_TOKENS];
    enum weight_type type = kv_type(attention->kv);
    size_t row = position % KV_BLOCK_TOKENS * d_head * weight_type_size(type);
    const struct kernels *kernels = attention->model->kernels;
    kernels->narrow[type]((char *)kv_keys(attention->kv, block, run->layer, kv_head) + row, k, d_head);
    kernels->narrow[type]((char *)kv_values(attention->kv, block, run->layer, kv_head) + row, v, d_head);
}

static void attend(const struct run *run, const struct attention_unit *unit, size_t thread)
{
    struct attention *attention = run->attention;
    const struct model_config *config = &attention->model->config;
    const struct batch_sequence *sequence = unit->sequence;
    const struct kernels *kernels = attention->model->kernels;
    enum weight_type type = kv_type(attention->kv);
    size_t d_head = config->d_head, n_group = config->n_heads / config->n_kv_heads;
    size_t n_before = sequence->first_position + unit->first;
    size_t first_seen = run->window && n_before + 1 > run->window ? n_before + 1 - run->window : 0;
    const void **keys = attention->keys + thread * attention->n_blocks;
    const void **values = attention->values + thread * attention->n_blocks;

    for (size_t b = first_seen / KV_BLOCK_TOKENS; b < ceil_divide(n_before + unit->n_tokens, KV_BLOCK_TOKENS); b++) {
        keys[b] = kv_keys(attention->kv, sequence->blocks[b], run->layer, unit->kv_head);
        values[b] = kv_values(attention->kv, sequence->blocks[b], run->layer, unit->kv_head);
    }
    for (size_t i = 0; i < unit->n_tokens; i++) {
        size_t token = sequence->first_token + unit->first + i, n_positions = n_before + i + 1;
        size_t first = run->window && n_positions > run->window ? n_positions - run->window : 0;
        size_t head_at = unit->kv_head * n_group * d_head;
        kernels->attend[type](attention->out + token * config->n_heads * d_head + head_at, d_head,
                              qkv_row(attention, token) + head_at, d_head, n_group, d_head, keys, values,
                              KV_BLOCK_TOKENS, first, n_positions, run->scale,
                              attention->scores + thread * attention->n_scores);
    }
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
