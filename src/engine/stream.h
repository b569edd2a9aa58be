/*
 * stream.h - events from the engine to one client, and the cancel flag back.
 *
 * Exactly two sides hold it: the client and the engine; the second to let go frees it and calls the request's release. Events wait
 * in a queue (guarded by the stream's lock); an eventfd is readable while any do.
 */
#ifndef ENGINE_STREAM_H
#define ENGINE_STREAM_H

#include <lorad/types.h>

#include "base/error.h"
#include "engine/request.h"

struct stream;

/* Client side: one thread at a time, but stream_cancel, which any may call while the stream is open. */
bool stream_next(struct stream *stream, struct lorad_event *out);
bool stream_wait(struct stream *stream, int timeout_ms);
int stream_fd(struct stream *stream);
void stream_cancel(struct stream *stream); /* sets the flag and wakes the engine */
void stream_close(struct stream *stream);  /* the client lets go; cancels when not ended. NULL is fine */
/* Whether the request's merged_view answers: settled when the first event comes. Either side. */
bool stream_is_merged(const struct stream *stream);
void stream_set_merged(struct stream *stream, bool is_merged);
const struct engine_request *stream_request(const struct stream *stream);

/* Engine side. `inbox` is woken by a cancellation. As long as the client lags by fewer than STREAM_ROOM_TOKENS events,
   publishing calls no malloc. */
#define STREAM_ROOM_TOKENS 64
struct inbox;
struct stream *stream_create(struct engine_request *request, struct inbox *inbox, struct error *err);
void stream_discard(struct stream *stream); /* never shown to a client: frees it, and the request stays the caller's */

/* False: no memory, nothing was published. The prompt's tokens (malloc'ed) become the stream's in any case. */
bool stream_push_prompt(struct stream *stream, struct lorad_token *tokens, size_t n_tokens) MUST_USE;
bool stream_push_token(struct stream *stream, const struct lorad_token *token, const char *text, size_t n_text_bytes) MUST_USE;
bool stream_is_cancelled(const struct stream *stream);

struct stream_end {
    enum lorad_finish finish;
    const char *stop_text;     /* lives as long as the request */
    int32_t stop_id;
    const char *error_message; /* copied; NULL: none */
    struct lorad_usage usage;
    const char *text;          /* copied */
    size_t n_text_bytes;
};

/* Publishes the END event and lets go of the engine's side. Cannot fail: without memory it is an END with FINISH_ERROR. */
void stream_end(struct stream *stream, const struct stream_end *end);

#endif
