/*
 * step.c - one step: who takes part and how many tokens, the batch, the forward pass, what comes of it.
 *
 * A step's arrays lie in an arena that is as large as the largest step from the start.
 */
#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "engine/engine_internal.h"

enum { GAIN_EVERY = 4 /* steps: a sample will do */ };

struct step {
    struct sequence **sequences; /* by entry */
    struct scheduler_entry *entries;
    size_t n_entries;
    struct scheduler_plan plan;
    struct batch batch;
};

static struct sequence *sequence_of(const struct step *step, size_t part)
{
    return step->sequences[step->plan.parts[part].entry];
}

static bool allocate(struct engine *engine, struct step *step, struct scheduler_part **parts_out)
{
    size_t n_most = engine->max_sequences;
    *parts_out = arena_allocate_array(&engine->arena, 2 * n_most, sizeof **parts_out);
    step->entries = arena_allocate_array(&engine->arena, n_most, sizeof *step->entries);
    step->sequences = arena_allocate_array(&engine->arena, n_most, sizeof *step->sequences);
    return *parts_out && step->entries && step->sequences;
}

static bool plan_step(struct engine *engine, struct step *step, uint64_t now_us)
{
    struct scheduler_limits limits = {.max_tokens = engine->options.max_batch_tokens, .max_outputs = engine->max_outputs};
    struct scheduler_part *parts;
    if (!allocate(engine, step, &parts))
        return false;
    step->n_entries = engine_seat(engine, step->sequences, &limits.max_prompt, now_us);
    for (size_t i = 0; i < step->n_entries; i++) {
        const struct sequence *sequence = step->sequences[i];
        step->entries[i] = (struct scheduler_entry){.n_pending = sequence_n_pending(sequence),
                                                    .wants_every_output = sequence_wants_prompt_logprobs(sequence),
                                                    .weight_group = sequence->view->weight_group,
                                                    .view = sequence->view};
    }
    step->plan = scheduler_plan(step->entries, step->n_entries, &limits, parts);
    return true;
}

static bool build_batch(struct engine *engine, struct step *step)
{
    const struct scheduler_plan *plan = &step->plan;
    int32_t *tokens = arena_allocate_array(&engine->arena, plan->n_tokens, sizeof *tokens);
    size_t *outputs = arena_allocate_array(&engine->arena, plan->n_tokens, sizeof *outputs);
    struct batch_sequence *parts = arena_allocate_array(&engine->arena, plan->n_parts, sizeof *parts);
    if (!tokens || !outputs || !parts)
        return false;
    struct batch batch = {.tokens = tokens, .sequences = parts, .outputs = outputs, .n_sequences = plan->n_parts};
    for (size_t i = 0; i < plan->n_parts; i++) {
        const struct sequence *sequence = sequence_of(step, i);
        size_t n_tokens = plan->parts[i].n_tokens, n_outputs = sequence_n_outputs(sequence, n_tokens);
        bool is_last_only = !sequence_wants_prompt_logprobs(sequence);
        parts[i] = (struct batch_sequence){.view = sequence->view, .blocks = sequence->blocks,
                                           .first_position = sequence->n_done, .first_token = batch.n_tokens,
                                           .n_tokens = n_tokens};
        memcpy(tokens + batch.n_tokens, sequence_next_tokens(sequence), n_tokens * sizeof *tokens);
        size_t first_output = batch.n_tokens + (is_last_only ? n_tokens - n_outputs : 0);
        for (size_t j = 0; j < n_outputs; j++)
            outputs[batch.n_outputs++] = first_output + j;
        batch.n_tokens += n_tokens;
    }
    step->batch = batch;
    return true;
}

static void fail_parts(struct engine *engine, const struct step *step, const char *message)
{
    for (size_t i = 0; i < step->plan.n_parts; i++)
        engine_end_sequence(engine, sequence_of(step, i), LORAD_FINISH_ERROR, message);
}

/* ---- what merging would gain ---- */

/* The step's loads but for those of the adapter behind `request`, on the fly as far as they may; its tokens. */
static size_t collect_others(struct engine *engine, const struct step *step, const struct engine_request *request,
                             size_t *n_tokens_out)
{
    size_t n = 0;
    *n_tokens_out = 0;
    for (size_t i = 0; i < step->plan.n_parts; i++) {
        const struct sequence *sequence = sequence_of(step, i);
        size_t n_tokens = step->plan.parts[i].n_tokens;
        if (sequence->request->view == request->view)
            *n_tokens_out += n_tokens;
        else
            engine_add_load(engine, &n, sequence->request->view, &sequence->cost_on_the_fly, n_tokens);
    }
    return n;
}

static void report_gain(struct engine *engine, const struct step *step, const struct sequence *sequence)
{
    size_t n_tokens, n = collect_others(engine, step, sequence->request, &n_tokens);
    engine->loads[n] = (struct cost_load){sequence->cost_on_the_fly, n_tokens};
    double gain_us = cost_step_us(&engine->cost, engine->loads, n + 1);
    engine->loads[n] = (struct cost_load){sequence->cost_merged, n_tokens};
    gain_us -= cost_step_us(&engine->cost, engine->loads, n + 1);
    if (gain_us > 0)
        sequence->request->gain(stream_request(sequence->stream), gain_us * GAIN_EVERY);
}

static bool is_first_of_adapter(const struct step *step, size_t part)
{
    for (size_t i = 0; i < part; i++)
        if (sequence_of(step, i)->request->view == sequence_of(step, part)->request->view)
            return false;
    return true;
}

static void report_gains(struct engine *engine, const struct step *step)
{
    if (engine->n_steps++ % GAIN_EVERY != 0)
        return;
    for (size_t i = 0; i < step->plan.n_parts; i++)
        if (sequence_of(step, i)->request->gain && is_first_of_adapter(step, i))
            report_gain(engine, step, sequence_of(step, i));
}

/* ---- what came out ---- */

/* Rows of logits on their way to what they say: each is read alone, so it does not matter by which thread. */
struct row {
    struct sequence *sequence;
    size_t n_tokens, index;
};
struct reading {
    const struct engine *engine;
    const struct row *rows;
    const float *logits;
};

static void read_row(void *context, size_t part, size_t n_parts, size_t thread)
{
    const struct reading *reading = context;
    const struct model *model = reading->engine->options.model;
    const struct row *row = &reading->rows[part];
    (void)n_parts;
    sequence_read_row(row->sequence, model, row->n_tokens, row->index, reading->logits + part * model->config.n_vocab,
                      reading->engine->scratches[thread]);
}

static bool read_logits(struct engine *engine, const struct step *step, const float *logits)
{
    struct row *rows = arena_allocate_array(&engine->arena, step->batch.n_outputs, sizeof *rows);
    struct reading reading = {engine, rows, logits};
    size_t n = 0;
    if (!rows)
        return false;
    for (size_t i = 0; i < step->plan.n_parts; i++) {
        struct sequence *sequence = sequence_of(step, i);
        size_t n_tokens = step->plan.parts[i].n_tokens, n_outputs = sequence_n_outputs(sequence, n_tokens);
        for (size_t j = 0; j < n_outputs; j++)
            rows[n++] = (struct row){sequence, n_tokens, j};
    }
    pool_run(engine->options.pool, read_row, &reading, n);
    return true;
}

static void hand_out(struct engine *engine, const struct step *step, uint64_t now_us)
{
    for (size_t i = 0; i < step->plan.n_parts; i++) {
        struct sequence *sequence = sequence_of(step, i);
        uint64_t n_served;
        struct error err;
        if (!sequence_take_logits(sequence, &engine->tools, step->plan.parts[i].n_tokens, now_us, &n_served, &err)) {
            engine_end_sequence(engine, sequence, LORAD_FINISH_ERROR, err.message);
        } else {
            queue_charge(&sequence->item, n_served);
            if (sequence->has_ended)
                engine_end_sequence(engine, sequence, sequence->finish, NULL);
        }
    }
}

static void count_step(struct stats *stats, const struct batch *batch, uint64_t us)
{
    stats_add(&stats->steps, 1);
    stats_add(&stats->step_tokens, batch->n_tokens);
    stats_add(&stats->step_sequences, batch->n_sequences);
    histogram_add(&stats->step_time, us);
}

bool engine_step(struct engine *engine)
{
    struct step step = {0};
    struct error err;
    const float *logits = NULL;
    if (list_is_empty(&engine->live))
        return false;
    arena_reset(&engine->arena);
    uint64_t began_us = clock_now_us();
    if (!plan_step(engine, &step, began_us)) {
        engine_end_sequence(engine, sequence_at(engine->live.next), LORAD_FINISH_ERROR, "no memory");
        return true;
    }
    if (step.n_entries == 0)
        return true; /* all that would have begun have failed */
    assert(step.plan.n_parts > 0);
    if (!build_batch(engine, &step)) {
        fail_parts(engine, &step, "no memory");
        return true;
    }
    if (!forward_run(engine->forward, &step.batch, &logits, &err)) {
        fail_parts(engine, &step, err.message);
        return true;
    }
    uint64_t now_us = clock_now_us();
    count_step(&engine->stats, &step.batch, now_us - began_us);
    report_gains(engine, &step);
    if (read_logits(engine, &step, logits))
        hand_out(engine, &step, now_us);
    else
        fail_parts(engine, &step, "no memory");
    return true;
}

/* With the arena's rounding. */
size_t engine_step_bytes(const struct engine *engine)
{
    size_t per_sequence = sizeof(struct scheduler_entry) + sizeof(struct sequence *) + 2 * sizeof(struct scheduler_part) +
                          sizeof(struct batch_sequence);
    return engine->max_sequences * per_sequence + engine->options.max_batch_tokens * (sizeof(int32_t) + sizeof(size_t) + sizeof(struct row)) + 4096;
}
