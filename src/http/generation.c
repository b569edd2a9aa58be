/*
 * generation.c - see generation.h. The connection's thread sleeps in one poll() on the client's socket and the streams' descriptors.
 */
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/utf8.h"
#include "http/generation.h"
#include "http/reply.h"

bool generation_init(struct generation *generation, const struct http_request *request, json_t *body, size_t n_choices,
                     struct error *err)
{
    *generation = (struct generation){.lorad = request->lorad,
                                      .body = json_incref(body),
                                      .socket = request->socket,
                                      .n_choices = n_choices,
                                      .n_per_prompt = 1};
    generation->choices = calloc(n_choices, sizeof *generation->choices);
    return generation->choices || error_no_memory(err);
}

void generation_finish(struct generation *generation)
{
    for (size_t i = 0; i < generation->n_added; i++) {
        struct choice *choice = &generation->choices[i];
        lorad_stream_close(choice->stream);
        buffer_finish(&choice->text);
        free(choice->tokens);
        free(choice->offsets);
        free(choice->prompt_tokens);
        free(choice->stop_text);
    }
    free(generation->choices);
    json_decref(generation->body);
    memset(generation, 0, sizeof *generation);
}

bool generation_add(struct generation *generation, const struct lorad_request *request, struct error *err)
{
    struct choice *choice = &generation->choices[generation->n_added];
    struct lorad_request one = *request;
    one.same_as = generation->n_added > 0 ? generation->choices[0].stream : NULL;
    struct lorad_stream *stream = lorad_submit(generation->lorad, &one, err);
    if (!stream)
        return false;
    *choice = (struct choice){.stream = stream,
                              .prompt_text = request->prompt,
                              .n_prompt_text = request->n_prompt_bytes,
                              .keeps_special = request->keep_special,
                              .stop_id = -1};
    buffer_init(&choice->text, 0);
    generation->n_added++;
    return true;
}

size_t count_characters(const char *text, size_t n_bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++)
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

static bool keep_token(const struct lorad *lorad, struct choice *choice, const struct lorad_token *token)
{
    const char *bytes;
    size_t n_bytes;
    if (choice->n_tokens == choice->capacity) {
        size_t capacity = choice->capacity ? 2 * choice->capacity : 64;
        struct lorad_token *tokens = realloc(choice->tokens, capacity * sizeof *tokens);
        if (tokens)
            choice->tokens = tokens;
        size_t *offsets = realloc(choice->offsets, capacity * sizeof *offsets);
        if (offsets)
            choice->offsets = offsets;
        if (!tokens || !offsets)
            return false;
        choice->capacity = capacity;
    }
    choice->tokens[choice->n_tokens] = *token;
    choice->offsets[choice->n_tokens++] = choice->n_characters;
    if ((choice->keeps_special || !lorad_token_is_special(lorad, token->id)) &&
        lorad_token_bytes(lorad, token->id, &bytes, &n_bytes))
        choice->n_characters += count_characters(bytes, n_bytes);
    return true;
}

static bool keep_prompt(struct choice *choice, const struct lorad_event *event)
{
    choice->prompt_tokens = malloc(event->n_prompt_tokens * sizeof *choice->prompt_tokens);
    if (!choice->prompt_tokens)
        return false;
    memcpy(choice->prompt_tokens, event->prompt_tokens, event->n_prompt_tokens * sizeof *choice->prompt_tokens);
    choice->n_prompt_tokens = event->n_prompt_tokens;
    return true;
}

static void keep_end(struct lorad *lorad, struct choice *choice, const struct lorad_event *event)
{
    choice->ended = true;
    choice->finish = event->finish;
    choice->stop_text = event->stop_text ? strdup(event->stop_text) : NULL;
    choice->stop_id = event->stop_id;
    choice->usage = event->usage;
    if (event->finish == LORAD_FINISH_ERROR)
        error_set(&choice->error, ERROR_INTERNAL, NULL, "%s", event->error_message ? event->error_message : "");
    else if (event->finish == LORAD_FINISH_CANCELLED)
        error_set(&choice->error, ERROR_UNAVAILABLE, NULL, "%s",
                  lorad_is_draining(lorad) ? "the daemon is shutting down"
                                           : "the adapter was unloaded by force while this ran");
}

static void record(struct lorad *lorad, struct choice *choice, const struct lorad_event *event)
{
    bool ok = true;
    if (event->kind == LORAD_EVENT_PROMPT)
        ok = keep_prompt(choice, event);
    if (event->kind == LORAD_EVENT_TOKEN)
        ok = keep_token(lorad, choice, &event->token);
    if (event->kind != LORAD_EVENT_PROMPT)
        ok = buffer_append(&choice->text, event->text, event->n_text_bytes) && ok;
    if (event->kind == LORAD_EVENT_END) {
        keep_end(lorad, choice, event);
    } else if (!ok) {
        lorad_stream_cancel(choice->stream);
        choice->ended = true;
        choice->finish = LORAD_FINISH_ERROR;
        error_no_memory(&choice->error);
    }
}

static bool take_event(struct generation *generation, struct choice **choice_out, struct lorad_event *event_out)
{
    for (size_t i = 0; i < generation->n_added; i++) {
        size_t index = (generation->next + i) % generation->n_added;
        struct choice *choice = &generation->choices[index];
        if (choice->ended || !lorad_stream_next(choice->stream, event_out))
            continue;
        generation->next = index + 1;
        record(generation->lorad, choice, event_out);
        *choice_out = choice;
        return true;
    }
    return false;
}

static bool all_ended(const struct generation *generation)
{
    for (size_t i = 0; i < generation->n_added; i++)
        if (!generation->choices[i].ended)
            return false;
    return true;
}

enum generation_wait generation_next(struct generation *generation, int timeout_ms, struct choice **choice_out,
                                     struct lorad_event *event_out)
{
    struct pollfd on_stack[65], *fds = on_stack;
    if (take_event(generation, choice_out, event_out))
        return GENERATION_EVENT;
    if (all_ended(generation))
        return GENERATION_DONE;
    if (generation->n_added + 1 > sizeof on_stack / sizeof *on_stack) {
        fds = malloc((generation->n_added + 1) * sizeof *fds);
        if (!fds)
            return GENERATION_CLIENT_LEFT; /* cannot even wait: give up on this client */
    }
    fds[0] = (struct pollfd){.fd = generation->socket, .events = POLLRDHUP};
    size_t n = 1;
    for (size_t i = 0; i < generation->n_added; i++)
        if (!generation->choices[i].ended)
            fds[n++] = (struct pollfd){.fd = lorad_stream_fd(generation->choices[i].stream), .events = POLLIN};
    int ready = poll(fds, n, timeout_ms);
    bool left = ready > 0 && (fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
    if (fds != on_stack)
        free(fds);
    if (left)
        return GENERATION_CLIENT_LEFT;
    if (take_event(generation, choice_out, event_out))
        return GENERATION_EVENT;
    return GENERATION_IDLE;
}

bool generation_collect(struct generation *generation)
{
    struct choice *choice;
    struct lorad_event event;
    for (;;) {
        switch (generation_next(generation, -1, &choice, &event)) {
        case GENERATION_DONE:
            return true;
        case GENERATION_CLIENT_LEFT:
            return false;
        case GENERATION_EVENT:
        case GENERATION_IDLE:
            break;
        }
    }
}

const struct error *generation_error(const struct generation *generation)
{
    for (size_t i = 0; i < generation->n_added; i++)
        if (generation->choices[i].error.code != ERROR_NONE)
            return &generation->choices[i].error;
    return NULL;
}

enum MHD_Result generation_answer(struct http_request *request, struct generation *generation,
                                  const struct answer_format *format)
{
    note_answered_by(request, generation->choices[0].stream);
    if (format->stream)
        return sse_reply(request, generation, format);
    if (!generation_collect(generation))
        return MHD_NO;
    const struct error *failure = generation_error(generation);
    return failure ? reply_error(request, failure) : format->whole(request, generation, format->context);
}

/* -- Pieces of answers ------------------------------------------------------------------------ */

const char *finish_name(enum lorad_finish finish)
{
    static const char *const names[] = {
        [LORAD_FINISH_STOP] = "stop",           [LORAD_FINISH_LENGTH] = "length", [LORAD_FINISH_CANCELLED] = "cancelled",
        [LORAD_FINISH_TIMEOUT] = "timeout", [LORAD_FINISH_ERROR] = "error",
    };
    return names[finish];
}

static const char *used_mode_name(enum lorad_mode mode)
{
    return mode == LORAD_MODE_MERGED ? "merged" : mode == LORAD_MODE_PARTLY_MERGED ? "partly_merged" : "on_the_fly";
}

json_t *adapter_json(const struct lorad_stream *stream)
{
    size_t n;
    const struct lorad_answered_by *parts = lorad_stream_adapters(stream, &n);
    const char *mode = used_mode_name(lorad_stream_mode(stream));
    if (n == 0)
        return json_null();
    if (n == 1)
        return json_pack("{s:s, s:s, s:s}", "id", parts[0].id, "generation", parts[0].digest, "mode", mode);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:f}", "id", parts[i].id, "generation", parts[i].digest,
                                              "weight", parts[i].weight));
    return json_pack("{s:n, s:n, s:s, s:o}", "id", "generation", "mode", mode, "parts", list);
}

void note_answered_by(struct http_request *request, const struct lorad_stream *stream)
{
    size_t n, length = 0;
    const struct lorad_answered_by *parts = lorad_stream_adapters(stream, &n);
    char *out = request->answered_by;
    snprintf(out, sizeof request->answered_by, "none");
    for (size_t i = 0; i < n && length + LORAD_DIGEST_SIZE < sizeof request->answered_by; i++)
        length += (size_t)snprintf(out + length, sizeof request->answered_by - length, "%s%s", i ? "," : "",
                                   parts[i].digest);
}

json_t *stop_reason_json(const struct choice *choice)
{
    if (choice->stop_text)
        return json_string(choice->stop_text);
    return choice->stop_id >= 0 ? json_integer(choice->stop_id) : json_null();
}

json_t *usage_json(const struct generation *generation)
{
    json_int_t prompt = 0, cached = 0, completion = 0;
    for (size_t i = 0; i < generation->n_added; i++) {
        if (i % generation->n_per_prompt == 0) {
            prompt += (json_int_t)generation->choices[i].usage.prompt_tokens;
            cached += (json_int_t)generation->choices[i].usage.cached_tokens;
        }
        completion += (json_int_t)generation->choices[i].usage.completion_tokens;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", prompt, "completion_tokens", completion, "total_tokens",
                     prompt + completion, "prompt_tokens_details", "cached_tokens", cached);
}

json_t *timings_json(const struct choice *choice)
{
    const struct lorad_usage *usage = &choice->usage;
    return json_pack("{s:f, s:f, s:f, s:I}", "queue_ms", usage->queue_ms, "prefill_ms", usage->prefill_ms, "decode_ms",
                     usage->decode_ms, "preemptions", (json_int_t)usage->n_preemptions);
}

json_t *ids_json(const int32_t *ids, size_t n_ids)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n_ids; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return array;
}

json_t *choice_ids_json(const struct choice *choice)
{
    json_t *array = json_array();
    for (size_t i = 0; i < choice->n_tokens; i++)
        json_array_append_new(array, json_integer(choice->tokens[i].id));
    return array;
}

json_t *choice_prompt_ids_json(const struct choice *choice)
{
    size_t n_ids;
    const int32_t *ids = lorad_stream_prompt_ids(choice->stream, &n_ids);
    return ids_json(ids, n_ids);
}

void append_prompt_text(struct buffer *out, const struct lorad *lorad, const struct choice *choice)
{
    size_t n_ids, n_bytes;
    char *decoded;
    if (choice->prompt_text) {
        buffer_append(out, choice->prompt_text, choice->n_prompt_text);
        return;
    }
    const int32_t *ids = lorad_stream_prompt_ids(choice->stream, &n_ids);
    if (lorad_detokenize(lorad, ids, n_ids, true, &decoded, &n_bytes, NULL)) {
        buffer_append(out, decoded, n_bytes);
        free(decoded);
    }
}

json_t *token_text_json(const struct lorad *lorad, int32_t id)
{
    const char *bytes;
    size_t n, n_next;
    struct buffer text;
    if (!lorad_token_bytes(lorad, id, &bytes, &n))
        return json_string("");
    if (utf8_is_valid(bytes, n))
        return json_stringn(bytes, n);
    buffer_init(&text, 0);
    for (size_t i = 0; i < n; i += n_next) {
        enum utf8_state state = utf8_next(bytes + i, n - i, &n_next);
        if (state == UTF8_INCOMPLETE)
            n_next = n - i;
        if (state == UTF8_COMPLETE)
            buffer_append(&text, bytes + i, n_next);
        else
            buffer_append_text(&text, "\xEF\xBF\xBD");
    }
    json_t *value = json_stringn(buffer_text(&text), text.n_bytes);
    buffer_finish(&text);
    return value;
}

double json_logprob(float logprob)
{
    return isfinite(logprob) ? (double)logprob : -9999.0;
}
