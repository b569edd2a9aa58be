/*
 * linear.c - two phases. First, in units that are laid end to end and cut into shares of equal cost: some tokens' activations are prepared for
 * the weights' type, and while they are in L2, u = A x for each segment and delta; a unit is multiplied while the A of the next one is fetched.
 * Then the output rows: each part takes one contiguous span of the jobs' rows, laid end to end, so that a thread streams its weights, and after them
 * its stretch of each B, in one go; and finishes the outputs (deltas, gain, bias, what comes after) while they are in L2. What something comes
 * after waits there in memory of the thread's own: rows of outputs that are a power of two apart would drive each other out of the cache.
 */
#include "model/linear.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/huge.h"

enum {
    ROW_STEP = PANEL_ROWS,  /* spans begin at multiples of it */
    INPUT_STEP = PACK_GROUP, /* so do shares of the activations to prepare */
    OUT_BYTES = 256 << 10,  /* of outputs that wait in L2 to be finished */
    UNIT_RANK = 16,         /* rows of A of one unit of the first phase */
    UNIT_X_BYTES = 512 << 10, /* of the tokens that its units come to together: they stay in L2 */
    UNIT_LEAST_TOKENS = 16,
    UNIT_BYTES = 32 << 10,  /* of a unit's A while tokens are few: the next one is fetched meanwhile, and must stay in L2 */
    UNIT_LEAST_RANK = 4,    /* ... but so many rows: they are what is multiplied at a time */
    FEW_TOKENS = 16,
    FETCH_TOKENS = 4,       /* fetching a row of A takes as long as multiplying it with so many tokens */
    LEAST_WORK = 1 << 15,   /* multiplications that are worth another part */
    LEAST_PREPARED = 1 << 14, /* activations whose preparation is */
    PREPARE_COST = LEAST_WORK / LEAST_PREPARED, /* of an activation, in multiplications */
    FETCH_AHEAD = 4,        /* tokens, for whose outputs their place is fetched */
    FEW_THREADS = 8         /* with more of them, spans are halved, so that a late one costs less */
};

/* A x of one delta, for neighbouring segments that have it in common. */
struct linear_item {
    const struct delta *delta;
    size_t first_token, n_tokens;
    float *u; /* (n_tokens, rank) */
};

struct linear_unit {
    size_t item;        /* PREPARING: none */
    size_t first, end;  /* rows of its A; inputs to prepare */
    size_t first_token, n_tokens;
    size_t cost_before; /* of all units up to this one, in multiplications */
};

#define PREPARING SIZE_MAX

struct work {
    const struct linear_call *call;
    const struct model *model;
    const struct kernels *kernels;
    const struct linear_scratch *scratch;
    size_t first_items[LINEAR_MOST_JOBS + 1]; /* where the jobs' items begin */
    size_t n_units, cost, n_steps;
    size_t block;       /* output rows that are finished together */
    size_t unit_tokens; /* tokens that the first phase's units come to together */
    struct activations prepared[N_WEIGHT_TYPES]; /* data NULL: no weights are of the type */
};

static const struct site_view *view_of(const struct linear_call *call, size_t job, size_t segment)
{
    return &call->segments[segment].view->sites[call->jobs[job].site];
}

static size_t n_deltas_of(const struct linear_call *call, size_t job, size_t segment)
{
    return call->segments[segment].view->has_deltas ? view_of(call, job, segment)->n_deltas : 0;
}

static size_t n_in_of(const struct work *work)
{
    return work->model->sites[work->call->jobs[0].site].n_in;
}

/* ---- first phase: prepared activations, and u = A x ---- */

/* Memory for n_needed bytes in place of `memory`, whose contents are dropped. NULL: no memory, and none left. */
static void *grow(void *memory, size_t *n_bytes, size_t n_needed)
{
    if (n_needed <= *n_bytes)
        return memory;
    size_t n_new = align_up(size_max(size_max(n_needed, 2 * *n_bytes), 4096), 64);
    free(memory);
    memory = huge_malloc(n_new);
    *n_bytes = memory ? n_new : 0;
    return memory;
}

/* A step streams more than the caches hold, so every view it comes to is cold: to wait for many at a time is to wait once. */
static void fetch_views(const struct linear_call *call)
{
    for (size_t s = 0; s < call->n_segments; s++)
        for (size_t job = 0; job < call->n_jobs; job++)
            __builtin_prefetch(view_of(call, job, s));
    for (size_t s = 0; s < call->n_segments; s++)
        for (size_t job = 0; job < call->n_jobs && n_deltas_of(call, job, s) > 0; job++) {
            const char *delta = (const char *)view_of(call, job, s)->deltas;
            __builtin_prefetch(delta);
            __builtin_prefetch(delta + sizeof(struct delta) - 1);
        }
}

/* Two views may hold copies of the same delta: of one adapter, asked for in two ways. */
static bool is_same_delta(const struct delta *a, const struct delta *b)
{
    return a == b || (a->a == b->a && a->b == b->b && a->bias == b->bias && a->rank == b->rank && a->type == b->type &&
                      a->scale == b->scale);
}

static bool has_same_deltas(const struct linear_call *call, size_t job, size_t segment, size_t other)
{
    size_t n = n_deltas_of(call, job, segment);
    if (n_deltas_of(call, job, other) != n)
        return false;
    for (size_t d = 0; d < n; d++)
        if (!is_same_delta(&view_of(call, job, segment)->deltas[d], &view_of(call, job, other)->deltas[d]))
            return false;
    return true;
}

/* The segments from `first` on that have their deltas at this site in common are [first, end). */
static size_t find_end(const struct linear_call *call, size_t job, size_t first, size_t *n_tokens)
{
    size_t end = first;
    for (*n_tokens = 0; end < call->n_segments && has_same_deltas(call, job, first, end); end++)
        *n_tokens += call->segments[end].n_tokens;
    return end;
}

static size_t unit_rank(const struct delta *delta, size_t n_tokens)
{
    if (n_tokens > FEW_TOKENS)
        return UNIT_RANK;
    size_t n_rows = UNIT_BYTES / (delta->n_in * weight_type_size(delta->type));
    return size_max(UNIT_LEAST_RANK, size_min(n_rows / UNIT_LEAST_RANK * UNIT_LEAST_RANK, UNIT_RANK));
}

struct amount {
    size_t n_items, n_units, n_floats; /* n_units: at most */
};

/* Pieces of the inputs that are prepared each on its own: whole rows, unless there are fewer blocks of tokens than threads. */
static size_t choose_pieces(const struct work *work, const struct pool *pool)
{
    size_t n_blocks = ceil_divide(work->call->n_tokens, work->unit_tokens), n_each = size_min(work->call->n_tokens, work->unit_tokens);
    size_t n_wanted = ceil_divide(pool_n_threads(pool), n_blocks);
    return size_min(n_wanted, ceil_divide(n_each * n_in_of(work), LEAST_PREPARED));
}

static struct amount measure(const struct work *work, size_t n_pieces)
{
    const struct linear_call *call = work->call;
    struct amount amount = {.n_units = n_pieces * ceil_divide(call->n_tokens, work->unit_tokens)};
    for (size_t job = 0; job < call->n_jobs; job++)
        for (size_t s = 0, end, n_tokens; s < call->n_segments; s = end) {
            end = find_end(call, job, s, &n_tokens);
            for (size_t d = 0; d < n_deltas_of(call, job, s); d++) {
                size_t rank = view_of(call, job, s)->deltas[d].rank;
                amount.n_items++;
                amount.n_units += ceil_divide(rank, UNIT_LEAST_RANK) * (n_tokens / work->unit_tokens + 2);
                amount.n_floats += align_up(rank * n_tokens, 16);
            }
        }
    return amount;
}

static bool reserve(struct linear_scratch *scratch, struct amount amount, struct error *err)
{
    scratch->items = grow(scratch->items, &scratch->items_bytes, amount.n_items * sizeof *scratch->items);
    scratch->units = grow(scratch->units, &scratch->units_bytes, amount.n_units * sizeof *scratch->units);
    scratch->low_rank = grow(scratch->low_rank, &scratch->low_rank_bytes, amount.n_floats * sizeof *scratch->low_rank);
    return ((scratch->items && scratch->low_rank) || amount.n_items == 0) && scratch->units ? true : error_no_memory(err);
}

static void add_unit(struct work *work, struct linear_unit unit, size_t cost)
{
    unit.cost_before = work->cost;
    work->scratch->units[work->n_units++] = unit;
    work->cost += cost;
}

static void add_preparing(struct work *work, size_t first_token, size_t n_tokens, size_t n_pieces)
{
    size_t n_in = n_in_of(work), n_steps = ceil_divide(n_in, INPUT_STEP);
    for (size_t i = 0; i < n_pieces; i++) {
        size_t first = i * n_steps / n_pieces * INPUT_STEP, end = size_min((i + 1) * n_steps / n_pieces * INPUT_STEP, n_in);
        if (first < end)
            add_unit(work, (struct linear_unit){PREPARING, first, end, first_token, n_tokens, 0}, (end - first) * n_tokens * PREPARE_COST);
    }
}

/* Those of an item's tokens that are among tokens [first, end). */
static void add_shrinking(struct work *work, size_t i, size_t first, size_t end)
{
    const struct linear_item *item = &work->scratch->items[i];
    const struct delta *delta = item->delta;
    first = size_max(first, item->first_token);
    end = size_min(end, item->first_token + item->n_tokens);
    if (first >= end)
        return;
    size_t n = end - first, step = unit_rank(delta, n);
    for (size_t row = 0; row < delta->rank; row += step) {
        size_t end_row = size_min(row + step, delta->rank);
        add_unit(work, (struct linear_unit){i, row, end_row, first, n, 0}, (end_row - row) * (n + FETCH_TOKENS) * delta->n_in);
    }
}

static void plan_items(struct work *work)
{
    const struct linear_call *call = work->call;
    size_t n_items = 0;
    float *u = work->scratch->low_rank;
    for (size_t job = 0; job < call->n_jobs; job++) {
        work->first_items[job] = n_items;
        for (size_t s = 0, end, n_tokens; s < call->n_segments; s = end) {
            end = find_end(call, job, s, &n_tokens);
            for (size_t d = 0; d < n_deltas_of(call, job, s); d++) {
                const struct delta *delta = &view_of(call, job, s)->deltas[d];
                work->scratch->items[n_items++] = (struct linear_item){delta, call->segments[s].first, n_tokens, u};
                u += align_up(delta->rank * n_tokens, 16);
            }
        }
    }
    work->first_items[call->n_jobs] = n_items;
}

static void plan_units(struct work *work, size_t n_pieces)
{
    const size_t n_items = work->first_items[work->call->n_jobs];
    for (size_t first = 0, end; first < work->call->n_tokens; first = end) {
        end = size_min(first + work->unit_tokens, work->call->n_tokens);
        add_preparing(work, first, end - first, n_pieces);
        for (size_t i = 0; i < n_items; i++)
            add_shrinking(work, i, first, end);
    }
}

/* The first unit that begins at or behind the part's share of the cost. */
static size_t first_unit_of(const struct work *work, size_t part, size_t n_parts)
{
    size_t target = part * work->cost / n_parts, low = 0, high = work->n_units;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (work->scratch->units[middle].cost_before < target)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* NULL: it has none. */
static const void *unit_rows(const struct work *work, const struct linear_unit *unit)
{
    if (unit->item == PREPARING)
        return NULL;
    const struct delta *delta = work->scratch->items[unit->item].delta;
    return (const char *)delta->a + unit->first * delta->n_in * weight_type_size(delta->type);
}

static void shrink(const struct work *work, const struct linear_unit *unit, const struct linear_unit *next)
{
    const struct linear_call *call = work->call;
    const struct linear_item *item = &work->scratch->items[unit->item];
    const struct delta *delta = item->delta;
    float *u = item->u + (unit->first_token - item->first_token) * delta->rank + unit->first;
    work->kernels->shrink[delta->type](u, delta->rank, unit_rows(work, unit), unit->end - unit->first, delta->n_in,
                                       call->x + unit->first_token * call->x_stride, call->x_stride, unit->n_tokens,
                                       next ? unit_rows(work, next) : NULL);
}

/* Room for the activations as each type of weights that the call has wants them. */
static bool reserve_prepared(struct work *work, struct linear_scratch *scratch, struct error *err)
{
    const struct linear_call *call = work->call;
    size_t at[N_WEIGHT_TYPES], n_bytes = 0;
    bool is_wanted[N_WEIGHT_TYPES] = {false};
    for (size_t s = 0; s < call->n_segments; s++)
        for (size_t job = 0; job < call->n_jobs; job++)
            is_wanted[view_of(call, job, s)->weight->type] = true;
    for (int i = 0; i < N_WEIGHT_TYPES; i++) {
        enum weight_type type = (enum weight_type)i;
        work->prepared[i] = (struct activations){.type = type, .n_in = n_in_of(work), .n_tokens = call->n_tokens,
                                                 .width = activations_width(work->kernels, type, call->n_tokens)};
        at[i] = n_bytes;
        n_bytes += is_wanted[i] ? activations_bytes(&work->prepared[i]) : 0;
    }
    scratch->prepared = grow(scratch->prepared, &scratch->prepared_bytes, n_bytes);
    if (!scratch->prepared)
        return error_no_memory(err);
    for (int i = 0; i < N_WEIGHT_TYPES; i++)
        work->prepared[i].data = is_wanted[i] ? (char *)scratch->prepared + at[i] : NULL;
    return true;
}

static void prepare(const struct work *work, const struct linear_unit *unit)
{
    const struct activations_part part = {unit->first_token, unit->first_token + unit->n_tokens, unit->first, unit->end};
    for (size_t type = 0; type < N_WEIGHT_TYPES; type++)
        if (work->prepared[type].data)
            work->kernels->prepare[type](&work->prepared[type], &part, work->call->x, work->call->x_stride);
}

static void begin(void *context, size_t part, size_t n_parts, size_t thread)
{
    const struct work *work = context;
    const struct linear_unit *units = work->scratch->units;
    size_t end = first_unit_of(work, part + 1, n_parts);
    (void)thread;
    for (size_t i = first_unit_of(work, part, n_parts); i < end; i++)
        if (units[i].item == PREPARING)
            prepare(work, &units[i]);
        else
            shrink(work, &units[i], i + 1 < end ? &units[i + 1] : NULL);
}

/* ---- second phase: by rows ---- */

/* Where outputs go: from the first token's first one on. */
struct outputs {
    float *at;
    size_t stride;
};

static void multiply(const struct work *work, float *out, size_t out_stride, const struct matrix *weight, size_t row, size_t n_rows,
                     size_t first, size_t n_tokens)
{
    const char *panels = (const char *)weight->data + packed_at(weight->type, row, weight->n_in);
    work->kernels->multiply_packed[weight->type](out, out_stride, panels, n_rows, &work->prepared[weight->type], first, n_tokens);
}

static void multiply_weights(const struct work *work, struct outputs to, size_t job, size_t row, size_t n_rows)
{
    const struct linear_call *call = work->call;
    for (size_t s = 0, end; s < call->n_segments; s = end) {
        const struct matrix *weight = view_of(call, job, s)->weight;
        for (end = s + 1; end < call->n_segments && view_of(call, job, end)->weight == weight; end++)
            continue;
        size_t first = call->segments[s].first;
        size_t last = call->segments[end - 1].first + call->segments[end - 1].n_tokens;
        multiply(work, to.at + first * to.stride, to.stride, weight, row, n_rows, first, last - first);
    }
}

/* B from output `row` on. */
static const char *panels_from(const struct delta *delta, size_t row)
{
    assert(row % DELTA_PANEL == 0);
    return (const char *)delta->b + delta_b_at(delta->rank, row, 0) * weight_type_size(delta->type);
}

/* The first bytes of B from `row` on, or all there are; expand fetches what follows itself. */
static void fetch_panels(const struct delta *delta, size_t row, size_t n_rows)
{
    size_t n_bytes = delta_b_size(delta->rank, n_rows) * weight_type_size(delta->type);
    const char *b = panels_from(delta, row);
    for (size_t at = 0; at < size_min(n_bytes, KERNELS_EXPAND_AHEAD); at += 64)
        __builtin_prefetch(b + at, 0, 2);
}

static void add_deltas(const struct work *work, struct outputs to, size_t job, size_t row, size_t n_rows)
{
    static const float ONE = 1;
    for (size_t i = work->first_items[job]; i < work->first_items[job + 1]; i++) {
        const struct linear_item *item = &work->scratch->items[i];
        const struct delta *delta = item->delta;
        float *out = to.at + item->first_token * to.stride;
        if (i + 1 < work->first_items[job + 1])
            fetch_panels(item[1].delta, row, n_rows);
        work->kernels->expand[delta->type](out, to.stride, panels_from(delta, row), delta->rank, item->u, delta->rank,
                                           delta->scale, n_rows, item->n_tokens);
        /* scale * bias is a pair of rank one whose u is 1. */
        if (delta->bias)
            work->kernels->expand[WEIGHT_F32](out, to.stride, delta->bias + row, 1, &ONE, 0, delta->scale, n_rows,
                                              item->n_tokens);
    }
}

static void finish_segment(const struct work *work, struct outputs to, size_t job, size_t segment, size_t row, size_t n_rows)
{
    const struct linear_call *call = work->call;
    const struct site_view *view = view_of(call, job, segment);
    float *out = to.at + call->segments[segment].first * to.stride;

    if (!view->row_gain && !view->bias)
        return;
    for (size_t t = 0; t < call->segments[segment].n_tokens; t++, out += to.stride) {
        if (view->row_gain)
            work->kernels->multiply(out, view->row_gain + row, n_rows);
        if (view->bias)
            work->kernels->add(out, view->bias + row, n_rows);
    }
}

static void compute_rows(const struct work *work, struct outputs to, size_t job, size_t row, size_t n_rows)
{
    multiply_weights(work, to, job, row, n_rows);
    add_deltas(work, to, job, row, n_rows);
    for (size_t s = 0; s < work->call->n_segments; s++)
        finish_segment(work, to, job, s, row, n_rows);
}

/* Where a token's finished outputs go. */
static float *target(const struct linear_call *call, size_t t, size_t row)
{
    if (call->after == LINEAR_ADD)
        return call->residual + t * call->residual_stride + row;
    return call->jobs[0].out + t * call->jobs[0].out_stride + row;
}

/* These are far apart, and the processor does not see them coming. */
static void fetch_target(const struct linear_call *call, size_t t, size_t row, size_t n_rows)
{
    for (size_t i = 0; i < n_rows; i += 16)
        __builtin_prefetch(target(call, t, row) + i, 1);
}

/* What comes after, with outputs of the first job and, where they are gated, of the second. */
static void finish_rows(const struct work *work, struct outputs first, struct outputs second, size_t row, size_t n_rows)
{
    const struct linear_call *call = work->call;
    for (size_t t = 0; t < call->n_tokens; t++) {
        float *to = target(call, t, row), *out = first.at + t * first.stride;
        if (t + FETCH_AHEAD < call->n_tokens)
            fetch_target(call, t + FETCH_AHEAD, row, n_rows);
        if (call->after == LINEAR_ADD) {
            work->kernels->add(to, out, n_rows);
            continue;
        }
        work->kernels->activate[call->activation](out, n_rows);
        if (call->after == LINEAR_GATE)
            work->kernels->multiply(out, second.at + t * second.stride, n_rows);
        memcpy(to, out, n_rows * sizeof *to);
    }
}

static size_t n_out_of(const struct work *work, size_t job)
{
    return work->model->sites[work->call->jobs[job].site].n_out;
}

static size_t n_steps_of(const struct work *work, size_t job)
{
    return ceil_divide(n_out_of(work, job), ROW_STEP);
}

/* Rows to finish together: as many as possible, for long streams of weights; but what is computed of them stays in L2. */
static size_t choose_block(size_t n_tokens)
{
    size_t n_rows = OUT_BYTES / (n_tokens * sizeof(float)) / ROW_STEP * ROW_STEP;
    return size_max(n_rows, ROW_STEP);
}

/* Some output rows, of all tokens. */
static void compute_block(const struct work *work, size_t job, size_t row, size_t n_rows, float *waiting)
{
    const struct linear_job *to = &work->call->jobs[job];
    if (work->call->after == LINEAR_PLAIN) {
        compute_rows(work, (struct outputs){to->out + row, to->out_stride}, job, row, n_rows);
        return;
    }
    struct outputs first = {waiting, n_rows}, second = {waiting + n_rows * work->call->n_tokens, n_rows};
    compute_rows(work, first, 0, row, n_rows);
    if (work->call->after == LINEAR_GATE)
        compute_rows(work, second, 1, row, n_rows);
    finish_rows(work, first, second, row, n_rows);
}

/* Floats that wait for what comes after, of one thread. */
static size_t n_waiting(const struct work *work)
{
    const struct linear_call *call = work->call;
    size_t n_jobs = call->after == LINEAR_PLAIN ? 0 : call->after == LINEAR_GATE ? 2 : 1;
    return align_up(n_jobs * call->n_tokens * size_min(work->block, n_out_of(work, 0)), 16);
}

static bool reserve_waiting(const struct work *work, const struct pool *pool, struct linear_scratch *scratch, struct error *err)
{
    size_t n_bytes = pool_n_threads(pool) * n_waiting(work) * sizeof *scratch->waiting;
    if (n_bytes > 0)
        scratch->waiting = grow(scratch->waiting, &scratch->waiting_bytes, n_bytes);
    return n_bytes == 0 || scratch->waiting || error_no_memory(err);
}

/* Rows [first, end) of the jobs' rows laid end to end, each job's from a multiple of ROW_STEP. Two gated jobs lie beside each
   other instead. */
static void compute_span(const struct work *work, size_t first, size_t end, float *waiting)
{
    const struct linear_call *call = work->call;
    size_t n_stacked = call->after == LINEAR_GATE ? 1 : call->n_jobs;
    for (size_t job = 0, start = 0; job < n_stacked; start += n_steps_of(work, job) * ROW_STEP, job++) {
        size_t from = size_max(first, start), to = size_min(end, start + n_out_of(work, job));
        for (size_t row = from, n_rows; row < to; row += n_rows) {
            n_rows = size_min(work->block, to - row);
            compute_block(work, job, row - start, n_rows, waiting);
        }
    }
}

static void compute(void *context, size_t part, size_t n_parts, size_t thread)
{
    const struct work *work = context;
    size_t n = n_waiting(work);
    compute_span(work, part * work->n_steps / n_parts * ROW_STEP, (part + 1) * work->n_steps / n_parts * ROW_STEP,
                 n > 0 ? work->scratch->waiting + thread * n : NULL);
}

static size_t choose_parts(const struct pool *pool, size_t most, size_t n_multiplications)
{
    size_t n_threads = pool_n_threads(pool);
    size_t n_parts = n_threads < FEW_THREADS ? n_threads : 2 * n_threads;
    n_parts = size_min(n_parts, n_multiplications / LEAST_WORK + 1);
    return size_max(1, size_min(n_parts, most));
}

/* Tokens whose activations stay in L2 while everything of the first phase comes to them; of blocks that may be smaller each thread has as many. */
static size_t choose_unit_tokens(const struct work *work, const struct pool *pool)
{
    size_t most = size_max(UNIT_X_BYTES / (n_in_of(work) * sizeof(float)), UNIT_LEAST_TOKENS), n_tokens = work->call->n_tokens;
    if (n_tokens <= most)
        return most;
    size_t n_each = ceil_divide(ceil_divide(n_tokens, most), pool_n_threads(pool));
    return size_max(ceil_divide(n_tokens, n_each * pool_n_threads(pool)), UNIT_LEAST_TOKENS);
}

static bool plan(struct work *work, const struct pool *pool, struct linear_scratch *scratch, struct error *err)
{
    work->unit_tokens = choose_unit_tokens(work, pool);
    size_t n_pieces = choose_pieces(work, pool);
    struct amount amount = measure(work, n_pieces);
    if (!reserve(scratch, amount, err))
        return false;
    plan_items(work);
    plan_units(work, n_pieces);
    return true;
}

/* One part, without the pool, where there is little to do. */
static bool run_first_phase(struct work *work, struct pool *pool, struct linear_scratch *scratch, struct error *err)
{
    fetch_views(work->call);
    if (!reserve_prepared(work, scratch, err) || !plan(work, pool, scratch, err))
        return false;
    pool_run(pool, begin, work, choose_parts(pool, work->n_units, work->cost));
    return true;
}

bool linear_run(const struct linear_call *call, const struct model *model, struct pool *pool,
                struct linear_scratch *scratch, struct error *err)
{
    struct work work = {.call = call, .model = model, .kernels = model->kernels, .scratch = scratch};
    assert(call->n_jobs >= 1 && call->n_jobs <= LINEAR_MOST_JOBS && call->n_tokens > 0);
    assert(call->after == LINEAR_PLAIN || call->n_jobs == (call->after == LINEAR_GATE ? 2u : 1u));

    work.block = choose_block(call->n_tokens);
    if (!reserve_waiting(&work, pool, scratch, err) || !run_first_phase(&work, pool, scratch, err))
        return false;
    size_t n_rows = 0;
    for (size_t job = 0; job < call->n_jobs; job++) {
        n_rows += n_out_of(&work, job);
        work.n_steps += call->after == LINEAR_GATE && job > 0 ? 0 : n_steps_of(&work, job);
    }
    pool_run(pool, compute, &work, choose_parts(pool, work.n_steps, n_rows * n_in_of(&work) * call->n_tokens));
    return true;
}

void linear_scratch_finish(struct linear_scratch *scratch)
{
    free(scratch->items);
    free(scratch->units);
    free(scratch->low_rank);
    free(scratch->prepared);
    free(scratch->waiting);
    *scratch = (struct linear_scratch){0};
}
