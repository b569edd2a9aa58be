/*
 * generation.h - one or several choices being generated for one HTTP request, and waiting for them.
 */
#ifndef HTTP_GENERATION_H
#define HTTP_GENERATION_H

#include "http/request.h"

/* What a choice has said so far. */
struct choice {
    struct lorad_stream *stream;
    const char *prompt_text;       /* as the client gave it, in the generation's body; NULL: ids */
    size_t n_prompt_text;
    bool keeps_special;            /* special tokens are text too */
    struct buffer text;            /* generated */
    struct lorad_token *tokens;    /* generated, n_tokens */
    size_t *offsets;               /* code points before each token, by what the tokens stand for: text may be held back */
    size_t n_tokens, capacity;
    struct lorad_token *prompt_tokens; /* with log-probabilities; NULL when not asked for */
    size_t n_prompt_tokens;
    size_t n_characters;           /* code points of all tokens so far */
    bool ended;
    enum lorad_finish finish;
    char *stop_text;               /* or NULL */
    int32_t stop_id;               /* or -1 */
    struct lorad_usage usage;
    struct error error;            /* FINISH_ERROR */
};

struct generation {
    struct lorad *lorad;
    json_t *body;           /* a reference: prompts' texts lie in it */
    int socket;             /* the client's */
    struct choice *choices;
    size_t n_choices, n_added;
    size_t n_per_prompt;    /* neighbouring choices that share a prompt: it counts once in the usage; 1 unless set */
    size_t next;            /* whose turn it is, so that choices are served in rotation */
};

bool generation_init(struct generation *generation, const struct http_request *request, json_t *body, size_t n_choices,
                     struct error *err) MUST_USE;
void generation_finish(struct generation *generation); /* closes the streams: what runs is cancelled. Zeroed is fine */

/* Submits one more choice; its prompt's text lies in the body. All choices are answered by the weights of the first. */
bool generation_add(struct generation *generation, const struct lorad_request *request, struct error *err) MUST_USE;

enum generation_wait { GENERATION_EVENT, GENERATION_DONE, GENERATION_IDLE, GENERATION_CLIENT_LEFT };

/* The next event of any choice, already recorded in it. IDLE: nothing came for timeout_ms (-1: wait for ever). NO memory shows as
   the choice ending with an error. */
enum generation_wait generation_next(struct generation *generation, int timeout_ms, struct choice **choice_out,
                                     struct lorad_event *event_out);

/* Runs to the end; false: the client left. */
bool generation_collect(struct generation *generation);

/* The first choice that ended with an error or was cancelled (a shut-down, an adapter unloaded by force), as an error to answer with; NULL: none. */
const struct error *generation_error(const struct generation *generation);

/* -- Pieces of answers ------------------------------------------------------------------------ */

/* {id, generation, mode}, null for the base; several adapters: id and generation null, and "parts". */
json_t *adapter_json(const struct lorad_stream *stream);
/* Fills the header X-Adapter-Digest: the digest, several separated by commas, "none" for the base. */
void note_answered_by(struct http_request *request, const struct lorad_stream *stream);
const char *finish_name(enum lorad_finish finish); /* "stop", "length", "cancelled", "timeout", "error" */
json_t *stop_reason_json(const struct choice *choice); /* the stop string, the stop id, or null */
json_t *usage_json(const struct generation *generation); /* summed */
json_t *timings_json(const struct choice *choice);
json_t *ids_json(const int32_t *ids, size_t n_ids);
json_t *choice_ids_json(const struct choice *choice);        /* of the generated tokens */
json_t *choice_prompt_ids_json(const struct choice *choice);
/* The prompt's text: as it was given, or decoded. */
void append_prompt_text(struct buffer *out, const struct lorad *lorad, const struct choice *choice);
/* The token's bytes as text; bytes that are no UTF-8 by themselves become U+FFFD. */
json_t *token_text_json(const struct lorad *lorad, int32_t id);
double json_logprob(float logprob); /* -9999 for minus infinity: JSON has none */
size_t count_characters(const char *text, size_t n_bytes);

/* -- Answering --------------------------------------------------------------------------------- */

struct sse;
/* How a call says what was generated. */
struct answer_format {
    bool stream;
    /* Not streaming: all choices have ended well. */
    enum MHD_Result (*whole)(struct http_request *request, struct generation *generation, const void *context);
    /* Streaming, any event of `choice`: append what is to be said with sse_send. */
    void (*event)(struct sse *sse, struct choice *choice, const struct lorad_event *event, const void *context);
    /* Streaming, after the last choice ended; may be NULL. */
    void (*end)(struct sse *sse, const void *context);
    const void *context; /* copied for a stream, which outlives the handler */
    size_t n_context_bytes;
};

/* Answers; a stream takes over the generation. */
enum MHD_Result generation_answer(struct http_request *request, struct generation *generation,
                                  const struct answer_format *format);
/* The streaming half of it: text/event-stream. */
enum MHD_Result sse_reply(struct http_request *request, struct generation *generation, const struct answer_format *format);

/* One "data: ..." event; takes `value`. */
void sse_send(struct sse *sse, json_t *value);
struct generation *sse_generation(struct sse *sse);

#endif
