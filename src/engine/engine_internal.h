/*
 * engine_internal.h - what engine.c, seats.c and step.c share: the engine's own thread and its sequences.
 */
#ifndef ENGINE_ENGINE_INTERNAL_H
#define ENGINE_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "engine/engine.h"
#include "engine/inbox.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"

struct engine {
    struct engine_options options;
    size_t max_sequences; /* at most max_batch_tokens, so that all that decode fit into a step */
    size_t max_outputs;   /* rows of logits in a step */
    struct request_limits request_limits;
    struct cost_model cost;
    struct inbox *inbox;
    struct kv *kv;
    struct forward *forward;
    struct sequence_tools tools;
    struct sampler_scratch **scratches; /* one for each thread of the pool */
    struct stats stats;
    pthread_t thread;
    bool has_thread;

    atomic_bool is_draining;
    _Atomic size_t n_live;   /* from engine_submit to END */
    _Atomic size_t n_queued; /* of those: not begun */

    /* The thread's. */
    struct list live; /* sequences, the oldest first */
    size_t n_in_state[N_SEQUENCE_STATES];
    struct queue queue;
    bool places_changed; /* since the queue was last asked who should run */
    uint64_t n_steps;
    struct cost_load *loads;         /* max_sequences + 1: room to think about a step */
    const struct view **load_views;  /* likewise */
    struct arena arena; /* of a step */
};

static inline struct sequence *sequence_at(struct list *link)
{
    return LIST_ENTRY(link, struct sequence, link);
}

/* engine.c */
void engine_end_sequence(struct engine *engine, struct sequence *sequence, enum lorad_finish finish, const char *message);
void engine_set_state(struct engine *engine, struct sequence *sequence, enum sequence_state state);

/* seats.c: who takes part in the next step. Pauses, preempts, begins; `out` (room for max_sequences) gets those that do, in the order in
   which their prompts are to be served; *max_prompt_out: how many tokens of prompts the step should have. */
size_t engine_seat(struct engine *engine, struct sequence **out, size_t *max_prompt_out, uint64_t now_us);

/* Tokens of one view more among engine->loads, of which there are *n. */
void engine_add_load(struct engine *engine, size_t *n, const struct view *view, const struct cost_view *cost, size_t n_tokens);

/* step.c: one step. False: there is nothing to do. */
bool engine_step(struct engine *engine);
size_t engine_step_bytes(const struct engine *engine); /* of the arena */

#endif
