/*
 * engine.c - the thread's turn: take what came in, end what was cancelled, lost its weights or is late, run a step (step.c, seats.c).
 *
 * Sequences are the thread's own; nothing but the inbox, the streams and the statistics is shared, and no lock is held while a
 * step runs.
 */
#include <signal.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "engine/engine_internal.h"

/* Logits of one step: prompt log-probabilities would otherwise ask for (max_batch_tokens, n_vocab) floats. */
static const size_t LOGITS_BYTES = (size_t)64 << 20;

/* A machine that was disturbed while it was measured must not be left with one place. */
enum { LEAST_SEQUENCES = 16 };

/* ---- sequences come and go ---- */

static void count_running(struct engine *engine)
{
    size_t n_running = engine->n_in_state[SEQUENCE_RUNNING];
    stats_set(&engine->stats.requests_running, n_running);
    if (engine->options.n_running)
        atomic_store_explicit(engine->options.n_running, n_running, memory_order_relaxed);
}

void engine_set_state(struct engine *engine, struct sequence *sequence, enum sequence_state state)
{
    if (sequence->state == SEQUENCE_WAITING)
        atomic_fetch_sub(&engine->n_queued, 1);
    engine->n_in_state[sequence->state]--;
    engine->n_in_state[state]++;
    sequence->state = state;
    sequence->item.has_place = state == SEQUENCE_RUNNING;
    engine->places_changed = true;
    count_running(engine);
}

static void end_unqueued(struct engine *engine, struct sequence *sequence, enum lorad_finish finish, const char *message)
{
    if (sequence->state == SEQUENCE_WAITING)
        atomic_fetch_sub(&engine->n_queued, 1);
    sequence_end(sequence, &engine->tools, finish, message, clock_now_us());
    atomic_fetch_sub(&engine->n_live, 1);
}

void engine_end_sequence(struct engine *engine, struct sequence *sequence, enum lorad_finish finish, const char *message)
{
    list_remove(&sequence->link);
    queue_remove(&engine->queue, &sequence->item);
    engine->n_in_state[sequence->state]--;
    engine->places_changed = true;
    count_running(engine);
    end_unqueued(engine, sequence, finish, message);
}

static void enqueue(struct engine *engine, struct list *message)
{
    struct sequence *sequence = sequence_at(message);
    const struct engine_request *request = sequence->request;
    if (!queue_add(&engine->queue, &sequence->item, request->share, request->priority)) {
        end_unqueued(engine, sequence, LORAD_FINISH_ERROR, "no memory");
        return;
    }
    list_append(&engine->live, &sequence->link);
    engine->n_in_state[SEQUENCE_WAITING]++;
    engine->places_changed = true;
}

static void receive(struct engine *engine)
{
    struct list *message;
    while ((message = mailbox_take(&engine->inbox->mailbox)))
        enqueue(engine, message);
}

static void end_all(struct engine *engine)
{
    while (!list_is_empty(&engine->live))
        engine_end_sequence(engine, sequence_at(engine->live.next), LORAD_FINISH_CANCELLED, NULL);
}

static bool is_revoked(const struct engine_request *request)
{
    return request->is_revoked && request->is_revoked(request);
}

static void end_unwanted(struct engine *engine, uint64_t now_us)
{
    for (struct list *link = engine->live.next, *next; link != &engine->live; link = next) {
        struct sequence *sequence = sequence_at(link);
        next = link->next;
        if (stream_is_cancelled(sequence->stream) || is_revoked(sequence->request))
            engine_end_sequence(engine, sequence, LORAD_FINISH_CANCELLED, NULL);
        else if (sequence->request->deadline_us && now_us >= sequence->request->deadline_us)
            engine_end_sequence(engine, sequence, LORAD_FINISH_TIMEOUT, NULL);
    }
}

static void *run(void *context)
{
    struct engine *engine = context;
    compute_thread_begin();
    while (!mailbox_is_closed(&engine->inbox->mailbox)) {
        receive(engine);
        end_unwanted(engine, clock_now_us());
        if (engine_step(engine))
            continue;
        /* Nothing runs or waits, so there is no deadline to wake up for. */
        struct list *message = mailbox_wait(&engine->inbox->mailbox, -1);
        if (message)
            enqueue(engine, message);
    }
    receive(engine);
    end_all(engine);
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

size_t engine_max_sequences(const struct engine *engine)
{
    return engine->max_sequences;
}

const struct cost_model *engine_cost(const struct engine *engine)
{
    return &engine->cost;
}

void engine_stats_read(struct engine *engine, struct lorad_stats *out)
{
    stats_read(&engine->stats, out);
    out->requests_waiting = atomic_load(&engine->n_queued);
    out->kv_blocks = kv_n_blocks(engine->kv);
    out->kv_blocks_used = out->kv_blocks - atomic_load_explicit(&engine->stats.kv_blocks_available, memory_order_relaxed);
    out->kv_block_tokens = KV_BLOCK_TOKENS;
    out->max_sequences = engine->max_sequences;
}

/* ---- life ---- */

static bool check_options(const struct engine_options *options, struct error *err)
{
    const struct { const char *name; size_t value; } sizes[] = {
        {"context", options->context},
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
    size_t n_sequences = options->max_sequences ? options->max_sequences : cost_busy_width(&engine->cost, LEAST_SEQUENCES, ENGINE_SEQUENCES);
    engine->max_sequences = size_min(n_sequences, options->max_batch_tokens);
    engine->max_outputs = size_max(engine->max_sequences, LOGITS_BYTES / (n_vocab * sizeof(float)));
    engine->request_limits = (struct request_limits){
        .n_vocab = n_vocab, .context = options->context, .has_text = options->tokenizer != NULL};
}

static bool create_scratches(struct engine *engine, struct error *err)
{
    size_t n_threads = pool_n_threads(engine->options.pool);
    engine->scratches = calloc(n_threads, sizeof(struct sampler_scratch *));
    if (!engine->scratches)
        return error_no_memory(err);
    for (size_t i = 0; i < n_threads; i++) {
        engine->scratches[i] = sampler_scratch_create(engine->options.model->config.n_vocab, err);
        if (!engine->scratches[i])
            return false;
    }
    return true;
}

static void destroy_scratches(struct engine *engine)
{
    for (size_t i = 0; engine->scratches && i < pool_n_threads(engine->options.pool); i++)
        sampler_scratch_destroy(engine->scratches[i]);
    free(engine->scratches);
}

static bool create_parts(struct engine *engine, struct error *err)
{
    const struct engine_options *options = &engine->options;
    engine->loads = calloc(engine->max_sequences + 1, sizeof *engine->loads);
    engine->load_views = calloc(engine->max_sequences + 1, sizeof *engine->load_views);
    if (!engine->loads || !engine->load_views)
        return error_no_memory(err);
    engine->inbox = inbox_create(err);
    engine->kv = engine->inbox ? kv_create(options->model, options->kv_type, options->kv_memory, options->context, err) : NULL;
    engine->tools.prefix = engine->kv ? prefix_create(engine->kv, err) : NULL;
    if (!engine->tools.prefix)
        return false;
    stats_set(&engine->stats.kv_blocks_available, prefix_n_available(engine->tools.prefix));
    engine->forward = forward_create(options->model, options->pool, engine->kv, options->context, err);
    return engine->forward && create_scratches(engine, err);
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
    engine->cost = COST_TYPICAL;
    stats_init(&engine->stats);
    list_init(&engine->live);
    queue_init(&engine->queue);
    buffer_init(&engine->tools.piece, 0);
    engine->tools.model = options->model;
    engine->tools.tokenizer = options->tokenizer;
    engine->tools.stats = &engine->stats;
    if (options->calibrate && !cost_calibrate(&engine->cost, options->model, options->pool, err))
        goto fail;
    set_limits(engine);
    arena_init(&engine->arena, engine_step_bytes(engine));
    if (create_parts(engine, err) && start_thread(engine, err))
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
    prefix_destroy(engine->tools.prefix);
    kv_destroy(engine->kv);
    queue_finish(&engine->queue);
    free(engine->loads);
    free(engine->load_views);
    inbox_unref(engine->inbox);
    destroy_scratches(engine);
    buffer_finish(&engine->tools.piece);
    arena_finish(&engine->arena);
    free(engine);
}
