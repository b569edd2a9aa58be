/*
 * engine_kit.h - a tiny random model, engines over it, requests and whole answers: for tests of the engine. What goes wrong fails the test.
 */
#ifndef TESTS_ENGINE_KIT_H
#define TESTS_ENGINE_KIT_H

#include <stdatomic.h>

#include "base/buffer.h"
#include "engine/engine.h"

enum { CONTEXT = 1500, END_OF_TEXT = 256, N_VIEWS = 6, BROKEN_VIEW = N_VIEWS };

struct engine_kit {
    struct model *model;
    struct tokenizer *tokenizer;
    struct view *views[N_VIEWS + 1]; /* base, pairs of several shapes, replaced weights; one whose logits are NaN */
    int32_t letters[CONTEXT + 1];
    struct lorad_logit_bias letters_only[26];
    struct pool *pool;
    struct engine *engine;
};
extern struct engine_kit kit;

/* Group fixtures. */
int engine_kit_load(void **state);
int engine_kit_unload(void **state);

struct shape {
    size_t n_threads, max_sequences, max_batch_tokens, max_queue, n_blocks; /* 0: 1, 8, 64, 1000, enough */
};
void start(struct shape shape);
void stop(void);
struct lorad_stats stats(void);

/* A greedy request for the base with a prompt of a few letters; the caller changes what it wants. */
struct engine_request ask(size_t n_prompt, size_t max_tokens);
/* Makes nothing but lower-case letters likely, drawn at random: text that one can read. */
void ask_for_letters(struct engine_request *request, uint64_t seed);
struct stream *try_submit(struct engine_request from, struct error *err);
struct stream *submit(struct engine_request from);
extern atomic_size_t n_released, n_released_tokens; /* requests whose both sides let go */

/*
 * Steps on demand, so that it doesn't matter when this thread gets to run: while a held request is there (one at a time), the engine waits before
 * each step until it is allowed, at most 200 ms, so that it can always be stopped.
 */
struct engine_request held(struct engine_request from);
void allow_steps(int n);
void allow_all_steps(void);
/* Counts the steps before which the request was there, waiting or running. */
struct engine_request counted(struct engine_request from);
extern atomic_size_t n_counted_steps;

struct answer {
    struct lorad_token *prompt, *tokens;
    size_t n_prompt, n_tokens;
    struct buffer text;
    enum lorad_finish finish;
    char stop_text[16], error[64];
    int32_t stop_id;
    struct lorad_usage usage;
    bool is_merged;
};
struct answer collect(struct stream *stream); /* reads to the end and closes */
struct answer get(struct engine_request request);
void answer_add(struct answer *answer, const struct lorad_event *event);
void answer_finish(struct answer *answer);
void assert_same_tokens(const struct lorad_token *a, const struct lorad_token *b, size_t n);
void assert_same_answer(const struct answer *a, const struct answer *b); /* to the bit */

void wait_for_event(struct stream *stream); /* which is a token */
void wait_until_idle(void);
void expect_end(struct stream *stream, enum lorad_finish finish); /* and closes */

#endif
