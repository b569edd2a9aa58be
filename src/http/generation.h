/*
 * generation.h - one or several choices being generated for one HTTP request, and waiting for them.
 */
#ifndef HTTP_GENERATION_H
#define HTTP_GENERATION_H

#include "http/request.h"

/* What a choice has said so far. */
struct choice {
    struct lorad_stream *stream;
    const char *prompt_text;       /* as the client gave it; NULL: ids */
    size_t n_prompt_text;
    struct buffer text;            /* generated */
    struct lorad_token *tokens;    /* generated, n_tokens; only when `keeps_tokens` */
    size_t *offsets;               /* code points of text before each token's piece */
    size_t n_tokens, capacity;
    struct lorad_token *prompt_tokens; /* with log-probabilities; NULL when not asked for */
    size_t n_prompt_tokens;
    size_t n_characters;           /* code points of text said so far */
    bool ended;
    enum lorad_finish finish;
    char *stop_text;               /* or NULL */
    int32_t stop_id;               /* or -1 */
    struct lorad_usage usage;
    struct error error;            /* FINISH_ERROR */
};

struct generation {
    struct lorad *lorad;
    int socket;             /* the client's */
    struct choice *choices;
    size_t n_choices, n_added;
    size_t n_per_prompt;    /* neighbouring choices that share a prompt: it counts once in the usage; 1 unless set */
    size_t next;            /* whose turn it is, so that choices are served in rotation */
};

bool generation_init(struct generation *generation, const struct http_request *request, size_t n_choices,
                     struct error *err) MUST_USE;
void generation_finish(struct generation *generation); /* closes the streams: what runs is cancelled. Zeroed is fine */

/* Submits one more choice. The prompt's text must live as long as the generation does, or not be given. */
bool generation_add(struct generation *generation, const struct lorad_request *request, struct error *err) MUST_USE;

enum generation_wait { GENERATION_EVENT, GENERATION_DONE, GENERATION_IDLE, GENERATION_CLIENT_LEFT };

/* The next event of any choice, already recorded in it. IDLE: nothing came for timeout_ms (-1: wait for ever). NO memory shows as
   the choice ending with an error. */
enum generation_wait generation_next(struct generation *generation, int timeout_ms, struct choice **choice_out,
                                     struct lorad_event *event_out);

/* Runs to the end; false: the client left. */
bool generation_collect(struct generation *generation);

/* The first choice that ended with an error or was cancelled by a shut-down, as an error to answer with; NULL: none. */
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
/* The token's bytes as text; bytes that are no UTF-8 by themselves become U+FFFD. */
json_t *token_text_json(const struct lorad *lorad, int32_t id);
double json_logprob(float logprob); /* -9999 for minus infinity: JSON has none */
size_t count_characters(const char *text, size_t n_bytes);

/* -- Streaming -------------------------------------------------------------------------------- */

struct sse;
struct sse_format {
    /* Any event of `choice`: append what is to be said with sse_send. */
    void (*event)(struct sse *sse, struct choice *choice, const struct lorad_event *event, void *context);
    /* After the last choice ended. */
    void (*end)(struct sse *sse, void *context);
    void (*release)(void *context); /* frees the context */
    void *context;
};

/* Answers with text/event-stream. Takes over the generation and the format's context, also on failure. */
enum MHD_Result sse_reply(struct http_request *request, struct generation *generation, const struct sse_format *format);

/* One "data: ..." event; takes `value`. */
void sse_send(struct sse *sse, json_t *value);
struct generation *sse_generation(struct sse *sse);

#endif
