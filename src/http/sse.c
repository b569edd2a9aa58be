/*
 * sse.c - events -> text/event-stream. The response's reader blocks on the connection's own thread until there is something to say; a
 * comment line goes out when nothing came for a while, so that proxies keep the connection.
 */
#include <stdlib.h>
#include <string.h>

#include "http/generation.h"
#include "http/reply.h"

#define KEEP_ALIVE_MS 10000

struct sse {
    struct generation generation;
    struct answer_format format; /* its context is the stream's own copy */
    void *context;
    struct buffer out;
    bool ended;
};

struct generation *sse_generation(struct sse *sse)
{
    return &sse->generation;
}

void sse_send(struct sse *sse, json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    if (!text) {
        sse->out.failed = true;
        return;
    }
    buffer_append_text(&sse->out, "data: ");
    buffer_append_text(&sse->out, text);
    buffer_append_text(&sse->out, "\n\n");
    free(text);
}

/* A choice that failed ends the stream: an error event, as OpenAI's clients expect it after the headers went out. */
static void send_failure(struct sse *sse, const struct error *err)
{
    sse_send(sse, error_json(err, status_of_error(err)));
    buffer_append_text(&sse->out, "data: [DONE]\n\n");
    sse->ended = true;
}

/* Appends something to `out`, or sets `ended`. False: the client left. */
static bool advance(struct sse *sse)
{
    struct choice *choice;
    struct lorad_event event;
    switch (generation_next(&sse->generation, KEEP_ALIVE_MS, &choice, &event)) {
    case GENERATION_CLIENT_LEFT:
        return false;
    case GENERATION_IDLE:
        buffer_append_text(&sse->out, ": waiting\n\n");
        return true;
    case GENERATION_DONE:
        if (sse->format.end)
            sse->format.end(sse, sse->context);
        buffer_append_text(&sse->out, "data: [DONE]\n\n");
        sse->ended = true;
        return true;
    case GENERATION_EVENT:
        break;
    }
    if (choice->ended && choice->error.code != ERROR_NONE)
        send_failure(sse, &choice->error);
    else
        sse->format.event(sse, choice, &event, sse->context);
    return true;
}

static ssize_t read_some(void *context, uint64_t position, char *out, size_t maximum)
{
    struct sse *sse = context;
    (void)position;
    while (sse->out.n_bytes == 0) {
        if (sse->ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (!advance(sse) || sse->out.failed)
            return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    size_t n = sse->out.n_bytes < maximum ? sse->out.n_bytes : maximum;
    memcpy(out, sse->out.data, n);
    buffer_drop_front(&sse->out, n);
    return (ssize_t)n;
}

static void release(void *context)
{
    struct sse *sse = context;
    generation_finish(&sse->generation);
    free(sse->context);
    buffer_finish(&sse->out);
    free(sse);
}

/* NULL: no memory, and the generation is still the caller's. */
static struct sse *take_over(struct generation *generation, const struct answer_format *format)
{
    struct sse *sse = calloc(1, sizeof *sse);
    void *context = malloc(format->n_context_bytes);
    if (!sse || !context) {
        free(sse);
        free(context);
        return NULL;
    }
    memcpy(context, format->context, format->n_context_bytes);
    *sse = (struct sse){.generation = *generation, .format = *format, .context = context};
    memset(generation, 0, sizeof *generation);
    buffer_init(&sse->out, 0);
    return sse;
}

enum MHD_Result sse_reply(struct http_request *request, struct generation *generation, const struct answer_format *format)
{
    struct error err = {0};
    struct sse *sse = take_over(generation, format);
    if (!sse) {
        error_no_memory(&err);
        return reply_error(request, &err);
    }
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_some, sse, release);
    if (!response) {
        release(sse);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    add_common_headers(request, response);
    enum MHD_Result result = MHD_queue_response(request->connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return result;
}
