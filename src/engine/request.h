/*
 * request.h - what was asked, checked; never changes after submission. Lives in an arena of its own, freed with the stream.
 */
#ifndef ENGINE_REQUEST_H
#define ENGINE_REQUEST_H

#include <lorad/types.h>

#include "base/arena.h"
#include "model/view.h"

struct engine_request {
    struct arena arena;         /* everything below, and the request itself is not in it */
    const int32_t *prompt;      /* n_prompt >= 1, each in [0, n_vocab) */
    size_t n_prompt;
    bool prompt_was_text;       /* the first new token continues a text */
    struct view *view;          /* borrowed: whoever submits keeps it alive until `release` */
    struct view *merged_view;   /* the same weights merged, if the engine may choose between the two; else NULL. Borrowed likewise */
    bool may_switch;            /* between the two while it runs; else what it begins with stays */
    uint64_t share;             /* requests with the same one are one party in the fair queue */
    int priority;               /* within the share: higher ones first */
    /* What the step would have gained with the adapter merged, or has; NULL: not of interest. Engine thread, once a step and adapter; quick. */
    void (*gain)(const struct engine_request *request, double gain_us);
    /* Whether its weights are to be given back at once: then it ends as if cancelled. NULL: never. Engine thread, before each step; quick. */
    bool (*is_revoked)(const struct engine_request *request);
    struct lorad_sampling sampling; /* arrays in the arena; has_seed set */
    size_t max_tokens, min_tokens;  /* max_tokens 0 is allowed: only the prompt is computed; SIZE_MAX: as many as fit */
    bool ignore_eos, include_stop, keep_special;
    const char *const *stops;
    size_t n_stops;
    const int32_t *stop_ids;
    size_t n_stop_ids;
    int logprobs, prompt_logprobs; /* -1: none */
    uint64_t deadline_us;       /* clock_now_us; 0: none */
    uint64_t submitted_us;
    /* When both sides let go: frees all; any thread. `is_merged`: through `merged_view`. */
    void (*release)(struct engine_request *request, const struct lorad_usage *usage, bool is_merged);
    void *owner;
};

struct request_limits {
    size_t n_vocab, context;
    bool has_text; /* there is a tokenizer */
};

/* Whether the engine can take it. *max_tokens_out: SIZE_MAX became what fits the context. */
bool engine_request_check(const struct engine_request *request, const struct request_limits *limits,
                          size_t *max_tokens_out, struct error *err) MUST_USE;

#endif
