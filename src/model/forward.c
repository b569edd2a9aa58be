/*
 * forward.c - the decoder as the papers draw it, for all families: what differs is in the layout and the views.
 *
 * Buffers are sized by the batch rounded up to a power of two, so that steps of about the same size find the
 * arena's chunks fitting and call no malloc.
 */
#include "model/forward.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/limits.h"
#include "model/attention.h"
#include "model/family.h"
#include "model/linear.h"
#include "model/rope.h"

enum { ARENA_CHUNK_BYTES = 4 << 20, LEAST_WORK = 1 << 14 /* elements that are worth another part */ };

struct forward {
    const struct model *model;
    struct pool *pool;
    struct kv *kv;
    size_t max_context;
    struct arena arena;
    struct linear_scratch scratch;
};

struct segments {
    struct linear_segment *items;
    size_t n;
};

struct step {
    struct forward *forward;
    const struct model *model;
    const struct batch *batch;
    const struct view **views;  /* per token */
    size_t *positions;          /* per token */
    struct segments segments;   /* neighbouring tokens of one view */
    struct segments outputs;    /* the same of the wanted rows */
    float *x;                   /* (n_tokens, d_model): the residual stream */
    float *h;                   /* (n_tokens, d_model): a norm's output */
    float *qkv, *attended;
    float *hidden;              /* (n_tokens, d_ffn): the MLP's, activated and gated */
    float *cosine, *sine;       /* (n_tokens, d_head / 2) */
    float *logits;              /* (n_outputs, n_vocab) */
    struct attention attention;
};

static size_t round_up_to_power(size_t n)
{
    size_t power = 1;
    while (power < n)
        power *= 2;
    return power;
}

/* (n, width) elements, room for n rounded up. */
static void *rows(struct arena *arena, size_t n, size_t width, size_t size)
{
    size_t n_elements, n_bytes;
    if (!size_multiply(round_up_to_power(n), width, &n_elements) || !size_multiply(n_elements, size, &n_bytes))
        return NULL;
    return arena_allocate(arena, n_bytes);
}

static float *float_rows(struct arena *arena, size_t n, size_t width)
{
    return rows(arena, n, width, sizeof(float));
}

static size_t choose_parts(const struct step *step, size_t n_rows, size_t width)
{
    size_t n_parts = size_min(n_rows * width / LEAST_WORK + 1, 4 * pool_n_threads(step->forward->pool));
    return size_min(n_parts, n_rows);
}

/* ---- preparing ---- */

static void append(struct segments *segments, const struct view *view, size_t first, size_t n_tokens)
{
    struct linear_segment *last = segments->n ? &segments->items[segments->n - 1] : NULL;
    if (last && last->view == view)
        last->n_tokens += n_tokens;
    else
        segments->items[segments->n++] = (struct linear_segment){view, first, n_tokens};
}

static void check_batch(const struct step *step)
{
    const struct batch *batch = step->batch;
    size_t n_tokens = 0;
    for (size_t s = 0; s < batch->n_sequences; s++) {
        const struct batch_sequence *sequence = &batch->sequences[s];
        assert(sequence->first_token == n_tokens && sequence->n_tokens > 0);
        assert(sequence->first_position + sequence->n_tokens <= step->forward->max_context);
        n_tokens += sequence->n_tokens;
    }
    assert(n_tokens == batch->n_tokens && n_tokens > 0);
    for (size_t t = 0; t < n_tokens; t++)
        assert(batch->tokens[t] >= 0 && (size_t)batch->tokens[t] < step->model->config.n_vocab);
    for (size_t i = 0; i < batch->n_outputs; i++)
        assert(batch->outputs[i] < n_tokens && (i == 0 || batch->outputs[i] > batch->outputs[i - 1]));
}

static void describe_tokens(struct step *step)
{
    const struct batch *batch = step->batch;
    for (size_t s = 0; s < batch->n_sequences; s++) {
        const struct batch_sequence *sequence = &batch->sequences[s];
        append(&step->segments, sequence->view, sequence->first_token, sequence->n_tokens);
        for (size_t i = 0; i < sequence->n_tokens; i++) {
            step->views[sequence->first_token + i] = sequence->view;
            step->positions[sequence->first_token + i] = sequence->first_position + i;
        }
    }
    for (size_t i = 0; i < batch->n_outputs; i++)
        append(&step->outputs, step->views[batch->outputs[i]], i, 1);
}

static bool allocate(struct step *step, struct error *err)
{
    const struct model_config *config = &step->model->config;
    struct arena *arena = &step->forward->arena;
    size_t n = step->batch->n_tokens, n_q = config->n_heads * config->d_head, n_kv = config->n_kv_heads * config->d_head;
    bool has_rope = config->family->position == POSITION_ROPE;

    arena_reset(arena);
    step->views = rows(arena, n, 1, sizeof *step->views);
    step->positions = rows(arena, n, 1, sizeof *step->positions);
    step->segments.items = rows(arena, step->batch->n_sequences, 1, sizeof *step->segments.items);
    step->outputs.items = rows(arena, step->batch->n_outputs, 1, sizeof *step->outputs.items);
    step->x = float_rows(arena, n, config->d_model);
    step->h = float_rows(arena, n, config->d_model);
    step->qkv = float_rows(arena, n, n_q + 2 * n_kv);
    step->attended = float_rows(arena, n, n_q);
    step->hidden = float_rows(arena, n, config->d_ffn);
    step->cosine = has_rope ? float_rows(arena, n, config->d_head / 2) : NULL;
    step->sine = has_rope ? float_rows(arena, n, config->d_head / 2) : NULL;
    step->logits = float_rows(arena, step->batch->n_outputs, config->n_vocab);
    if (!step->views || !step->positions || !step->segments.items || !step->outputs.items || !step->x || !step->h ||
        !step->qkv || !step->attended || !step->hidden || (has_rope && (!step->cosine || !step->sine)) || !step->logits)
        return error_no_memory(err);
    return true;
}

/* ---- the parts of the decoder ---- */

/* out = row t of a table, with the view's deltas, gain and bias. */
static void look_up(const struct step *step, const struct view *view, size_t site, size_t row, float *out)
{
    static const float ONE = 1;
    const struct kernels *kernels = step->model->kernels;
    const struct site_view *table = &view->sites[site];
    size_t width = step->model->sites[site].n_out;
    float u[LIMIT_RANK];

    kernels->widen[table->weight->type](out, matrix_row(table->weight, row), width);
    for (size_t d = 0; d < table->n_deltas; d++) {
        const struct delta *delta = &table->deltas[d];
        assert(delta->rank <= LIMIT_RANK);
        kernels->widen[delta->type](u, (const char *)delta->a + row * delta->rank * weight_type_size(delta->type),
                                    delta->rank);
        kernels->expand[delta->type](out, width, delta->b, delta->rank, u, delta->rank, delta->scale, width, 1);
        if (delta->bias)
            kernels->expand[WEIGHT_F32](out, width, delta->bias, 1, &ONE, 0, delta->scale, width, 1);
    }
    if (table->row_gain)
        kernels->multiply(out, table->row_gain, width);
    if (table->bias)
        kernels->add(out, table->bias, width);
}

static void embed_tokens(void *context, size_t part, size_t n_parts, size_t thread)
{
    struct step *step = context;
    const struct model *model = step->model;
    size_t d_model = model->config.d_model, n_angles = model->config.d_head / 2, n = step->batch->n_tokens;
    (void)thread;
    for (size_t t = part * n / n_parts; t < (part + 1) * n / n_parts; t++) {
        look_up(step, step->views[t], model->embedding_site, (size_t)step->batch->tokens[t], step->x + t * d_model);
        if (model->position_site != SIZE_MAX) {
            float *position = step->h + t * d_model;
            look_up(step, step->views[t], model->position_site, step->positions[t], position);
            model->kernels->add(step->x + t * d_model, position, d_model);
        }
        if (step->cosine)
            rope_angles(step->cosine + t * n_angles, step->sine + t * n_angles, model->rope_inverse_frequency, n_angles,
                        step->positions[t]);
    }
}

static void embed(struct step *step)
{
    /* An angle costs as much as some dozen elements. */
    size_t width = step->model->config.d_model + 32 * step->model->config.d_head;
    pool_run(step->forward->pool, embed_tokens, step, choose_parts(step, step->batch->n_tokens, width));
}

struct norm_work {
    const struct step *step;
    size_t norm;
    const size_t *rows; /* which rows of x; NULL: all */
    size_t n_rows;
};

static void normalize_rows(void *context, size_t part, size_t n_parts, size_t thread)
{
    const struct norm_work *work = context;
    const struct model *model = work->step->model;
    size_t d_model = model->config.d_model;
    (void)thread;
    for (size_t i = part * work->n_rows / n_parts; i < (part + 1) * work->n_rows / n_parts; i++) {
        size_t token = work->rows ? work->rows[i] : i;
        const struct norm_view *norm = &work->step->views[token]->norms[work->norm];
        const float *x = work->step->x + token * d_model;
        float *out = work->step->h + i * d_model;
        if (model->config.family->norm == NORM_RMS)
            model->kernels->rms_norm(out, x, norm->weight, d_model, model->config.norm_eps);
        else
            model->kernels->layer_norm(out, x, norm->weight, norm->bias, d_model, model->config.norm_eps);
    }
}

/* h = norm of x, or of its rows `rows` packed together. */
static void normalize(struct step *step, size_t norm, const size_t *which, size_t n_rows)
{
    struct norm_work work = {.step = step, .norm = norm, .rows = which, .n_rows = n_rows};
    pool_run(step->forward->pool, normalize_rows, &work, choose_parts(step, n_rows, step->model->config.d_model));
}

static bool run(struct step *step, const struct linear_call *call, struct error *err)
{
    return linear_run(call, step->model, step->forward->pool, &step->forward->scratch, err);
}

static struct linear_call call_on(const struct step *step, const float *x, size_t width)
{
    return (struct linear_call){.segments = step->segments.items, .n_segments = step->segments.n,
                                .n_tokens = step->batch->n_tokens, .x = x, .x_stride = width};
}

/* Whether the family fuses q, k and v or not, they end up side by side in one row per token. */
static bool project_qkv(struct step *step, size_t layer, struct error *err)
{
    static const enum projection PARTS[] = {PROJECTION_QKV, PROJECTION_Q, PROJECTION_K, PROJECTION_V};
    const struct model_config *config = &step->model->config;
    size_t width = (config->n_heads + 2 * config->n_kv_heads) * config->d_head, at = 0;
    struct linear_call call = call_on(step, step->h, config->d_model);
    for (size_t i = 0; i < 4; i++) {
        size_t site = step->model->layer_sites[layer][PARTS[i]];
        if (site == SIZE_MAX)
            continue;
        call.jobs[call.n_jobs++] = (struct linear_job){site, step->qkv + at, width};
        at += step->model->sites[site].n_out;
    }
    return run(step, &call, err);
}

/* x += projection(input) */
static bool project_back(struct step *step, size_t layer, enum projection projection, const float *input, size_t width,
                         struct error *err)
{
    struct linear_call call = call_on(step, input, width);
    size_t d_model = step->model->config.d_model;
    call.jobs[call.n_jobs++].site = step->model->layer_sites[layer][projection];
    call.after = LINEAR_ADD;
    call.residual = step->x;
    call.residual_stride = d_model;
    return run(step, &call, err);
}

static bool run_attention(struct step *step, size_t layer, struct error *err)
{
    const struct model_config *config = &step->model->config;
    normalize(step, step->model->layer_norms[layer][NORM_ROLE_ATTENTION], NULL, step->batch->n_tokens);
    if (!project_qkv(step, layer, err))
        return false;
    attention_run(&step->attention, layer);
    return project_back(step, layer, PROJECTION_ATTENTION_OUT, step->attended, config->n_heads * config->d_head, err);
}

static bool run_mlp(struct step *step, size_t layer, struct error *err)
{
    const struct model_config *config = &step->model->config;
    const size_t *sites = step->model->layer_sites[layer];
    normalize(step, step->model->layer_norms[layer][NORM_ROLE_MLP], NULL, step->batch->n_tokens);

    struct linear_call call = call_on(step, step->h, config->d_model);
    call.activation = config->activation;
    call.after = config->family->is_gated ? LINEAR_GATE : LINEAR_ACTIVATE;
    if (config->family->is_gated)
        call.jobs[call.n_jobs++] = (struct linear_job){sites[PROJECTION_GATE], step->hidden, config->d_ffn};
    call.jobs[call.n_jobs++] = (struct linear_job){sites[PROJECTION_UP], step->hidden, config->d_ffn};
    return run(step, &call, err) && project_back(step, layer, PROJECTION_DOWN, step->hidden, config->d_ffn, err);
}

static bool run_head(struct step *step, struct error *err)
{
    const struct model *model = step->model;
    size_t n_outputs = step->batch->n_outputs;
    if (n_outputs == 0)
        return true;
    normalize(step, model->final_norm, step->batch->outputs, n_outputs);
    struct linear_call call = {.segments = step->outputs.items, .n_segments = step->outputs.n, .n_tokens = n_outputs,
                               .x = step->h, .x_stride = model->config.d_model, .n_jobs = 1};
    call.jobs[0] = (struct linear_job){model->head_site, step->logits, model->config.n_vocab};
    return run(step, &call, err);
}

bool forward_run(struct forward *forward, const struct batch *batch, const float **logits_out, struct error *err)
{
    struct step step = {.forward = forward, .model = forward->model, .batch = batch};
    if (!allocate(&step, err))
        return false;
    check_batch(&step);
    describe_tokens(&step);
    step.attention = (struct attention){.model = forward->model, .kv = forward->kv, .pool = forward->pool, .batch = batch,
                                        .views = step.views, .cosine = step.cosine, .sine = step.sine, .qkv = step.qkv,
                                        .out = step.attended};
    if (!attention_plan(&step.attention, &forward->arena, err))
        return false;

    embed(&step);
    for (size_t layer = 0; layer < forward->model->config.n_layers; layer++)
        if (!run_attention(&step, layer, err) || !run_mlp(&step, layer, err))
            return false;
    if (!run_head(&step, err))
        return false;
    *logits_out = step.logits;
    return true;
}

struct forward *forward_create(const struct model *model, struct pool *pool, struct kv *kv, size_t max_context,
                               struct error *err)
{
    assert(max_context <= LIMIT_CONTEXT);
    assert(model->position_site == SIZE_MAX || max_context <= model->config.max_positions);
    struct forward *forward = calloc(1, sizeof *forward);
    if (!forward) {
        error_no_memory(err);
        return NULL;
    }
    *forward = (struct forward){.model = model, .pool = pool, .kv = kv, .max_context = max_context};
    arena_init(&forward->arena, ARENA_CHUNK_BYTES);
    return forward;
}

void forward_destroy(struct forward *forward)
{
    if (!forward)
        return;
    linear_scratch_finish(&forward->scratch);
    arena_finish(&forward->arena);
    free(forward);
}
