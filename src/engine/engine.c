/*
 * engine.c - the thread's turn: take what came in, end what was cancelled or is late, plan, run the step, hand out the results.
 *
 * Waiting and running sequences are the thread's own; nothing but the inbox, the streams and the statistics is shared, and
 * no lock is held while a step runs. A step's arrays lie in an arena that is as large as the largest step from the start.
 */
#include "engine/engine.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "engine/inbox.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"

/* Logits of one step: prompt log-probabilities would otherwise ask for (max_batch_tokens, n_vocab) floats. */
static const size_t LOGITS_BYTES = (size_t)64 << 20;

struct engine {
    struct engine_options options;
    struct scheduler_limits limits; /* n_free_blocks changes */
    struct request_limits request_limits;
    struct inbox *inbox;
    struct forward *forward;
    struct sequence_tools tools;
    struct stats stats;
    pthread_t thread;
    bool has_thread;

    atomic_bool is_draining;
    _Atomic size_t n_live;   /* from engine_submit to END */
    _Atomic size_t n_queued; /* of those: not begun */

    /* The thread's. */
    struct list waiting, running;
    size_t n_waiting, n_running;
    struct arena arena; /* of a step */
};

/* One step's arrays. */
struct step {
    struct sequence **sequences; /* by entry */
    struct scheduler_entry *entries;
    size_t n_entries;
    struct scheduler_plan plan;
    struct batch batch;
};

static struct sequence *sequence_at(struct list *link)
{
    return LIST_ENTRY(link, struct sequence, link);
}

/* ---- sequences come and go ---- */

static void append_waiting(struct engine *engine, struct list *message)
{
    list_append(&engine->waiting, message);
    engine->n_waiting++;
}

static void receive(struct engine *engine)
{
    struct list *message;
    while ((message = mailbox_take(&engine->inbox->mailbox)))
        append_waiting(engine, message);
}

static void leave_queue(struct engine *engine)
{
    engine->n_waiting--;
    atomic_fetch_sub(&engine->n_queued, 1);
}

static void end_sequence(struct engine *engine, struct sequence *sequence, enum lorad_finish finish, const char *message)
{
    list_remove(&sequence->link);
    if (sequence->has_begun) {
        engine->n_running--;
        stats_subtract(&engine->stats.requests_running, 1);
    } else {
        leave_queue(engine);
    }
    sequence_end(sequence, &engine->tools, finish, message, clock_now_us());
    atomic_fetch_sub(&engine->n_live, 1);
}

static void end_all(struct engine *engine, struct list *sequences)
{
    while (!list_is_empty(sequences))
        end_sequence(engine, sequence_at(sequences->next), LORAD_FINISH_CANCELLED, NULL);
}

static void end_unwanted(struct engine *engine, struct list *sequences, uint64_t now_us)
{
    for (struct list *link = sequences->next, *next; link != sequences; link = next) {
        struct sequence *sequence = sequence_at(link);
        next = link->next;
        if (stream_is_cancelled(sequence->stream))
            end_sequence(engine, sequence, LORAD_FINISH_CANCELLED, NULL);
        else if (sequence->request->deadline_us && now_us >= sequence->request->deadline_us)
            end_sequence(engine, sequence, LORAD_FINISH_TIMEOUT, NULL);
    }
}

static bool begin_sequence(struct engine *engine, struct sequence *sequence, uint64_t now_us)
{
    struct error err;
    leave_queue(engine);
    list_remove(&sequence->link);
    list_append(&engine->running, &sequence->link);
    engine->n_running++;
    stats_add(&engine->stats.requests_running, 1);
    histogram_add(&engine->stats.queue_time, now_us - sequence->request->submitted_us);
    if (sequence_begin(sequence, &engine->tools, now_us, &err))
        return true;
    end_sequence(engine, sequence, LORAD_FINISH_ERROR, err.message);
    return false;
}

/* ---- a step ---- */

static void add_entry(struct step *step, struct sequence *sequence, enum scheduler_stage stage)
{
    step->entries[step->n_entries] = (struct scheduler_entry){
        .stage = stage,
        .n_pending = sequence_n_pending(sequence),
        .n_blocks = sequence->n_blocks,
        .wants_every_output = sequence_wants_prompt_logprobs(sequence),
        .weight_group = sequence->request->view->weight_group,
        .view = sequence->request->view,
    };
    step->sequences[step->n_entries++] = sequence;
}

/* The running ones, and as many waiting ones as there are places. */
static bool plan_step(struct engine *engine, struct step *step)
{
    size_t n_places = engine->limits.max_sequences - engine->n_running;
    size_t n_most = engine->n_running + size_min(n_places, engine->n_waiting);
    struct scheduler_part *parts = arena_allocate_array(&engine->arena, 2 * n_most, sizeof *parts);
    step->entries = arena_allocate_array(&engine->arena, n_most, sizeof *step->entries);
    step->sequences = arena_allocate_array(&engine->arena, n_most, sizeof *step->sequences);
    if (!parts || !step->entries || !step->sequences)
        return false;
    LIST_FOR_EACH(link, &engine->running)
        add_entry(step, sequence_at(link), sequence_is_decoding(sequence_at(link)) ? STAGE_DECODE : STAGE_PREFILL);
    LIST_FOR_EACH(link, &engine->waiting) {
        if (step->n_entries == n_most)
            break;
        add_entry(step, sequence_at(link), STAGE_WAITING);
    }
    engine->limits.n_free_blocks = kv_n_free(engine->tools.kv);
    step->plan = scheduler_plan(step->entries, step->n_entries, &engine->limits, parts);
    return true;
}

/* False when one could not: then the plan no longer holds. */
static bool admit(struct engine *engine, struct step *step, uint64_t now_us)
{
    size_t first = engine->n_running;
    for (size_t i = 0; i < step->plan.n_admitted; i++)
        if (!begin_sequence(engine, step->sequences[first + i], now_us))
            return false;
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
        const struct sequence *sequence = step->sequences[plan->parts[i].entry];
        size_t n_tokens = plan->parts[i].n_tokens, n_outputs = sequence_n_outputs(sequence, n_tokens);
        bool is_last_only = !sequence_wants_prompt_logprobs(sequence);
        parts[i] = (struct batch_sequence){.view = sequence->request->view, .blocks = sequence->blocks,
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
        end_sequence(engine, step->sequences[step->plan.parts[i].entry], LORAD_FINISH_ERROR, message);
}

static void hand_out(struct engine *engine, const struct step *step, const float *logits, uint64_t now_us)
{
    size_t n_vocab = engine->options.model->config.n_vocab;
    for (size_t i = 0; i < step->plan.n_parts; i++) {
        struct sequence *sequence = step->sequences[step->plan.parts[i].entry];
        size_t n_tokens = step->plan.parts[i].n_tokens, n_outputs = sequence_n_outputs(sequence, n_tokens);
        struct error err;
        if (!sequence_take_logits(sequence, &engine->tools, n_tokens, logits, now_us, &err))
            end_sequence(engine, sequence, LORAD_FINISH_ERROR, err.message);
        else if (sequence->has_ended)
            end_sequence(engine, sequence, sequence->finish, NULL);
        logits += n_outputs * n_vocab;
    }
}

static void count_step(struct stats *stats, const struct batch *batch, uint64_t us)
{
    stats_add(&stats->steps, 1);
    stats_add(&stats->step_tokens, batch->n_tokens);
    stats_add(&stats->step_sequences, batch->n_sequences);
    histogram_add(&stats->step_time, us);
}

/* False: there is nothing to do. */
static bool run_step(struct engine *engine)
{
    struct step step = {0};
    struct error err;
    const float *logits = NULL;
    if (engine->n_running + engine->n_waiting == 0)
        return false;
    arena_reset(&engine->arena);
    uint64_t began_us = clock_now_us();
    if (!plan_step(engine, &step)) {
        end_sequence(engine, sequence_at(engine->n_running ? engine->running.next : engine->waiting.next),
                     LORAD_FINISH_ERROR, "no memory");
        return true;
    }
    assert(step.plan.n_parts > 0); /* kv_create made sure that the blocks suffice for any one sequence */
    if (!admit(engine, &step, began_us))
        return true;
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
    hand_out(engine, &step, logits, now_us);
    return true;
}

static void *run(void *context)
{
    struct engine *engine = context;
    compute_thread_begin();
    while (!mailbox_is_closed(&engine->inbox->mailbox)) {
        receive(engine);
        uint64_t now_us = clock_now_us();
        end_unwanted(engine, &engine->running, now_us);
        end_unwanted(engine, &engine->waiting, now_us);
        if (run_step(engine))
            continue;
        /* Nothing runs or waits, so there is no deadline to wake up for. */
        struct list *message = mailbox_wait(&engine->inbox->mailbox, -1);
        if (message)
            append_waiting(engine, message);
    }
    receive(engine);
    end_all(engine, &engine->running);
    end_all(engine, &engine->waiting);
    return NULL;
}

/* ---- other threads ---- */

/* Counts the request in, unless the engine is draining or full. */
static bool enter(struct engine *engine, struct error *err)
{
    /* Counted before the flag is looked at: who has set the flag and then sees nobody alive knows that nobody comes. */
    atomic_fetch_add(&engine->n_live, 1);
    if (atomic_load(&engine->is_draining)) {
        atomic_fetch_sub(&engine->n_live, 1);
        return error_set(err, ERROR_UNAVAILABLE, NULL, "no new requests are taken: shutting down");
    }
    if (atomic_fetch_add(&engine->n_queued, 1) >= engine->options.max_queue) {
        atomic_fetch_sub(&engine->n_queued, 1);
        atomic_fetch_sub(&engine->n_live, 1);
        return error_set(err, ERROR_BUSY, NULL, "the queue is full: %zu requests wait", engine->options.max_queue);
    }
    return true;
}

struct stream *engine_submit(struct engine *engine, struct engine_request *request, struct error *err)
{
    size_t max_tokens;
    struct stream *stream = NULL;
    struct sequence *sequence = NULL;
    if (!engine_request_check(request, &engine->request_limits, &max_tokens, err))
        return NULL;
    if (!enter(engine, err)) {
        stats_add(&engine->stats.requests_rejected, 1);
        return NULL;
    }
    stream = stream_create(request, engine->inbox, err);
    sequence = stream ? sequence_create(stream, max_tokens, err) : NULL;
    if (sequence && mailbox_post(&engine->inbox->mailbox, &sequence->link, 0)) {
        stats_add(&engine->stats.requests_total, 1);
        return stream;
    }
    if (sequence)
        error_set(err, ERROR_UNAVAILABLE, NULL, "no new requests are taken: shutting down");
    sequence_discard(sequence);
    stream_discard(stream);
    atomic_fetch_sub(&engine->n_queued, 1);
    atomic_fetch_sub(&engine->n_live, 1);
    return NULL;
}

void engine_drain(struct engine *engine)
{
    atomic_store(&engine->is_draining, true);
}

bool engine_is_idle(struct engine *engine)
{
    return atomic_load(&engine->n_live) == 0;
}

void engine_stats_read(struct engine *engine, struct lorad_stats *out)
{
    stats_read(&engine->stats, out);
    out->requests_waiting = atomic_load(&engine->n_queued);
    out->kv_blocks = kv_n_blocks(engine->tools.kv);
    out->kv_block_tokens = KV_BLOCK_TOKENS;
}

/* ---- life ---- */

static bool check_options(const struct engine_options *options, struct error *err)
{
    const struct { const char *name; size_t value; } sizes[] = {
        {"context", options->context},
        {"max_sequences", options->max_sequences},
        {"max_batch_tokens", options->max_batch_tokens},
        {"max_queue", options->max_queue},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value == 0)
            return error_set(err, ERROR_BAD_INPUT, sizes[i].name, "is 0, but must be at least 1");
    return true;
}

static void set_limits(struct engine *engine)
{
    const struct engine_options *options = &engine->options;
    size_t n_vocab = options->model->config.n_vocab;
    size_t n_sequences = size_min(options->max_sequences, options->max_batch_tokens);
    engine->limits = (struct scheduler_limits){
        .max_sequences = n_sequences,
        .max_tokens = options->max_batch_tokens,
        .max_outputs = size_max(n_sequences, LOGITS_BYTES / (n_vocab * sizeof(float))),
    };
    engine->request_limits = (struct request_limits){
        .n_vocab = n_vocab, .context = options->context, .has_text = options->tokenizer != NULL};
}

/* The largest step: its arrays with the arena's rounding. */
static size_t step_bytes(const struct scheduler_limits *limits)
{
    size_t per_sequence = sizeof(struct scheduler_entry) + sizeof(struct sequence *) + 2 * sizeof(struct scheduler_part) +
                          sizeof(struct batch_sequence);
    return limits->max_sequences * per_sequence + limits->max_tokens * (sizeof(int32_t) + sizeof(size_t)) + 4096;
}

static bool start_thread(struct engine *engine, struct error *err)
{
    /* Signals are for the main thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    engine->has_thread = pthread_create(&engine->thread, NULL, run, engine) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!engine->has_thread)
        return error_set(err, ERROR_NO_MEMORY, NULL, "the engine's thread cannot be started");
    pthread_setname_np(engine->thread, "engine");
    return true;
}

struct engine *engine_create(const struct engine_options *options, struct error *err)
{
    if (!check_options(options, err))
        return NULL;
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) {
        error_no_memory(err);
        return NULL;
    }
    engine->options = *options;
    set_limits(engine);
    stats_init(&engine->stats);
    list_init(&engine->waiting);
    list_init(&engine->running);
    arena_init(&engine->arena, step_bytes(&engine->limits));
    buffer_init(&engine->tools.piece, 0);
    engine->tools.model = options->model;
    engine->tools.tokenizer = options->tokenizer;
    engine->tools.stats = &engine->stats;
    engine->tools.scratch = sampler_scratch_create(options->model->config.n_vocab, err);
    engine->inbox = engine->tools.scratch ? inbox_create(err) : NULL;
    if (!engine->inbox)
        goto fail;
    engine->tools.kv = kv_create(options->model, options->kv_memory, options->context, err);
    if (!engine->tools.kv)
        goto fail;
    engine->forward = forward_create(options->model, options->pool, engine->tools.kv, options->context, err);
    if (!engine->forward || !start_thread(engine, err))
        goto fail;
    return engine;

fail:
    engine_destroy(engine);
    return NULL;
}

void engine_destroy(struct engine *engine)
{
    if (!engine)
        return;
    if (engine->has_thread) {
        mailbox_close(&engine->inbox->mailbox);
        pthread_join(engine->thread, NULL);
    }
    forward_destroy(engine->forward);
    kv_destroy(engine->tools.kv);
    inbox_unref(engine->inbox);
    sampler_scratch_destroy(engine->tools.scratch);
    buffer_finish(&engine->tools.piece);
    arena_finish(&engine->arena);
    free(engine);
}
