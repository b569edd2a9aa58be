/*
 * engine.h - continuous batching: one thread that drains the inbox, seats sequences, runs a step, samples and publishes.
 *
 * Other threads submit and cancel; nothing else of the engine is theirs. The engine knows views, not adapters.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdatomic.h>

#include <lorad/lorad.h>

#include "engine/cost.h"
#include "engine/stream.h"
#include "model/forward.h"
#include "text/tokenizer.h"

struct engine;

#define ENGINE_SEQUENCES 64

struct engine_options {
    const struct model *model;
    const struct tokenizer *tokenizer; /* NULL: no text (events have ids only); tests and benchmarks */
    struct pool *pool;
    uint64_t kv_memory;       /* bytes */
    enum weight_type kv_type; /* of keys and values in the cache */
    size_t context;           /* positions per sequence at most */
    size_t max_sequences;     /* running at a time; 0: as many as keep the machine busy, 16 to ENGINE_SEQUENCES */
    size_t max_batch_tokens;  /* per step */
    size_t max_queue;         /* waiting */
    _Atomic size_t *n_running; /* where to keep how many run now, for others to read; NULL: nowhere */
    bool calibrate;           /* measure how long steps take; else typical proportions are assumed */
};

struct engine *engine_create(const struct engine_options *options, struct error *err);

/* Queues a request; the engine owns it on success (its release is called when the stream is done with). ERROR_BUSY: the queue is full;
   ERROR_UNAVAILABLE: draining; ERROR_BAD_INPUT: prompt and max_tokens do not fit the context or the cache. */
struct stream *engine_submit(struct engine *engine, struct engine_request *request, struct error *err);

void engine_drain(struct engine *engine);   /* refuses new requests from now on */
bool engine_is_idle(struct engine *engine); /* nothing waits or runs */
void engine_destroy(struct engine *engine); /* cancels what runs, joins; NULL is fine */

size_t engine_max_sequences(const struct engine *engine);
const struct cost_model *engine_cost(const struct engine *engine);

/* Fills the fields of lorad_stats that are the engine's (requests, tokens, steps, kv, histograms). */
void engine_stats_read(struct engine *engine, struct lorad_stats *out);

#endif
