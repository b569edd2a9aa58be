/*
 * sequence.h - a request being worked on: its blocks, sampler, detokenizer, and how far it is. Engine thread only, but for
 * its creation.
 */
#ifndef ENGINE_SEQUENCE_H
#define ENGINE_SEQUENCE_H

#include "base/buffer.h"
#include "base/list.h"
#include "engine/cost.h"
#include "engine/prefix.h"
#include "engine/queue.h"
#include "engine/sampler.h"
#include "engine/stats.h"
#include "engine/stream.h"
#include "text/detokenizer.h"

/* What the sequences of an engine share. */
struct sequence_tools {
    const struct model *model;
    const struct tokenizer *tokenizer; /* NULL: no text */
    struct prefix *prefix;
    struct buffer piece; /* a token's text on its way to the stream */
    struct stats *stats;
};

enum sequence_state {
    SEQUENCE_WAITING,   /* has not begun */
    SEQUENCE_RUNNING,   /* takes part in the steps */
    SEQUENCE_PAUSED,    /* has blocks, but its place is another's meanwhile */
    SEQUENCE_PREEMPTED, /* had blocks; they will be computed again */
    N_SEQUENCE_STATES
};

struct sequence {
    struct list link;        /* in the inbox, later among the live ones */
    struct queue_item item;  /* in the fair queue */
    enum sequence_state state;
    struct stream *stream;
    const struct engine_request *request;
    size_t max_tokens;
    struct cost_view cost_on_the_fly, cost_merged; /* of the request's views; when there is no merged one, of what it would be */

    /* From sequence_begin on. */
    struct view *view;       /* the request's, or its merged one */
    int32_t *tokens;         /* n_known: the prompt and what was generated; room for max_tokens */
    size_t n_known;
    size_t n_done;           /* positions in the cache */
    size_t n_most;           /* ever: what lies below is computed again */
    uint32_t *blocks;        /* n_blocks; room for all that it can ever need */
    size_t n_blocks;
    struct prefix_cursor cursor;
    size_t n_published;      /* of its blocks */
    bool is_mixed;           /* computed through more than one view: its blocks are of no use to others */
    struct sampler *sampler;
    struct detokenizer *detokenizer;
    struct lorad_token *prompt_tokens; /* n_prompt, when their log-probabilities are wanted, until they are published */
    int32_t *banned;         /* before min_tokens: end tokens and stop ids */
    size_t n_banned;
    size_t n_cached, n_preemptions;    /* as in lorad_usage */
    uint64_t began_us, first_us, last_us; /* first computation, first and last token; 0: not yet */

    /* From sequence_read_row to sequence_take_logits: the next token, with its log-probabilities when they are wanted; -1: there is none. */
    struct lorad_token drawn;

    /* Set by sequence_take_logits when there is nothing more to compute. */
    bool has_ended;
    enum lorad_finish finish;
    const char *stop_text;
    int32_t stop_id;
};

/* Takes the stream's engine side, on success only. Any thread. */
struct sequence *sequence_create(struct stream *stream, size_t max_tokens, struct error *err);
void sequence_discard(struct sequence *sequence); /* one that never reached the engine; the stream stays */

/* What it needs besides blocks. */
bool sequence_begin(struct sequence *sequence, const struct sequence_tools *tools, struct error *err) MUST_USE;

/* Blocks for all tokens that are known, computed ones where there are any; `n_spare` more must be available. False: there are not enough,
   and nothing has changed. */
bool sequence_take_blocks(struct sequence *sequence, struct sequence_tools *tools, size_t n_spare);
/* One more block if the next token needs one. False: none is available. */
bool sequence_extend(struct sequence *sequence, struct sequence_tools *tools);
/* Gives all blocks back; all that is known is to be computed again. */
void sequence_drop_blocks(struct sequence *sequence, struct sequence_tools *tools);

/* From now on through this view, one of the request's two. */
void sequence_use_view(struct sequence *sequence, struct view *view);
const struct cost_view *sequence_cost_through(const struct sequence *sequence, const struct view *view); /* likewise */

size_t sequence_n_pending(const struct sequence *sequence); /* tokens known but not computed; at least 1 until it ends */
bool sequence_wants_prompt_logprobs(const struct sequence *sequence); /* and does not have them yet */

/* Of the next `n_tokens` tokens, how many give logits that it wants: none, the last, or all. */
size_t sequence_n_outputs(const struct sequence *sequence, size_t n_tokens);
/* The sequence_n_pending next ones. */
const int32_t *sequence_next_tokens(const struct sequence *sequence);

/* The next `n_tokens` were computed, which gives sequence_n_outputs rows of logits. Each of them is read, by any thread with a scratch of its
   own, several at a time if you like: log-probabilities, or the next token. */
void sequence_read_row(struct sequence *sequence, const struct model *model, size_t n_tokens, size_t row, const float *logits,
                       struct sampler_scratch *scratch);

/* When all of them were read: publishes what follows; *n_served_out: tokens of the prompt and
   generated ones, weighed as the fair queue counts them. False: the sequence has failed. */
bool sequence_take_logits(struct sequence *sequence, struct sequence_tools *tools, size_t n_tokens, uint64_t now_us,
                          uint64_t *n_served_out, struct error *err) MUST_USE;

/* Gives back its blocks, publishes END, frees. `error_message`: of FINISH_ERROR; else NULL. */
void sequence_end(struct sequence *sequence, struct sequence_tools *tools, enum lorad_finish finish,
                  const char *error_message, uint64_t now_us);

#endif
