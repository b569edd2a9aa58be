/*
 * sequence.h - a request being worked on: its blocks, sampler, detokenizer, and how far it is. Engine thread only, but for
 * its creation.
 */
#ifndef ENGINE_SEQUENCE_H
#define ENGINE_SEQUENCE_H

#include "base/buffer.h"
#include "base/list.h"
#include "engine/sampler.h"
#include "engine/stats.h"
#include "engine/stream.h"
#include "model/kv.h"
#include "text/detokenizer.h"

/* What the sequences of an engine share. */
struct sequence_tools {
    const struct model *model;
    const struct tokenizer *tokenizer; /* NULL: no text */
    struct kv *kv;
    struct sampler_scratch *scratch;
    struct buffer piece; /* a token's text on its way to the stream */
    struct stats *stats;
};

struct sequence {
    struct list link; /* in the inbox, among the waiting, or among the running */
    struct stream *stream;
    const struct engine_request *request;
    size_t max_tokens;
    size_t n_blocks;     /* for the prompt and max_tokens */

    /* From sequence_begin on. */
    uint32_t *blocks;    /* n_blocks; NULL before */
    struct sampler *sampler;
    struct detokenizer *detokenizer;
    struct lorad_token *prompt_tokens; /* n_prompt, when their log-probabilities are wanted, until they are published */
    int32_t *banned;     /* before min_tokens: end tokens and stop ids */
    size_t n_banned;
    size_t n_done;       /* positions in the cache */
    size_t n_generated;
    int32_t last_token;  /* generated, not yet in the cache */
    bool has_begun;
    uint64_t began_us, first_us, last_us; /* first computation, first and last token; 0: not yet */

    /* Set by sequence_take_logits when there is nothing more to compute. */
    bool has_ended;
    enum lorad_finish finish;
    const char *stop_text;
    int32_t stop_id;
};

/* Takes the stream's engine side, on success only. Any thread. */
struct sequence *sequence_create(struct stream *stream, size_t max_tokens, struct error *err);
void sequence_discard(struct sequence *sequence); /* one that never reached the engine; the stream stays */

/* Reserves all blocks (that they are free has been checked) and what else it needs. */
bool sequence_begin(struct sequence *sequence, struct sequence_tools *tools, uint64_t now_us, struct error *err) MUST_USE;

bool sequence_is_decoding(const struct sequence *sequence);
size_t sequence_n_pending(const struct sequence *sequence); /* tokens known but not computed */
bool sequence_wants_prompt_logprobs(const struct sequence *sequence); /* and does not have them yet */

/* Of the next `n_tokens` tokens, how many give logits that it wants: none, the last, or all. */
size_t sequence_n_outputs(const struct sequence *sequence, size_t n_tokens);
/* The `n_tokens` (<= sequence_n_pending) next ones. */
const int32_t *sequence_next_tokens(const struct sequence *sequence);

/* They were computed: `logits` has sequence_n_outputs rows. Publishes what follows. False: the sequence has failed. */
bool sequence_take_logits(struct sequence *sequence, struct sequence_tools *tools, size_t n_tokens, const float *logits,
                          uint64_t now_us, struct error *err) MUST_USE;

/* Gives back its blocks, publishes END, frees. `error_message`: of FINISH_ERROR; else NULL. */
void sequence_end(struct sequence *sequence, struct sequence_tools *tools, enum lorad_finish finish,
                  const char *error_message, uint64_t now_us);

#endif
