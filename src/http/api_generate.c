/*
 * api_generate.c - POST /v1/generate: the native call.
 */
#include <math.h>
#include <stdlib.h>

#include "http/fields.h"
#include "http/generation.h"
#include "http/reply.h"
#include "http/router.h"

struct native {
    bool stream, echo;
    int logprobs, prompt_logprobs;
};

static bool read_logprobs(const json_t *body, const char *name, int *out, struct error *err)
{
    int64_t value = -1;
    if (!json_get_int(body, name, 0, LORAD_TOP_LOGPROBS, &value, err))
        return false;
    *out = (int)value;
    return true;
}

static bool read_prompt(struct http_request *request, const json_t *body, struct lorad_request *out, struct error *err)
{
    const char *prompt = NULL;
    const json_t *ids = NULL;
    if (!json_get_string(body, "prompt", &prompt, err) || !json_get_array(body, "input_ids", &ids, err))
        return false;
    if (prompt) {
        out->prompt = prompt;
        out->n_prompt_bytes = json_string_length(json_object_get(body, "prompt"));
    }
    return !ids || fields_read_ids(request, ids, "input_ids", &out->input_ids, &out->n_input_ids, err);
}

static bool read_body(struct http_request *request, const json_t *body, struct lorad_request *out, struct native *native,
                      struct error *err)
{
    static const char *const own[] = {"prompt", "input_ids", "stream", "logprobs", "prompt_logprobs", "echo", NULL};
    if (!fields_read(request, body, own, out, err) || !read_prompt(request, body, out, err) ||
        !json_get_bool(body, "stream", &native->stream, err) || !json_get_bool(body, "echo", &native->echo, err) ||
        !read_logprobs(body, "logprobs", &native->logprobs, err) ||
        !read_logprobs(body, "prompt_logprobs", &native->prompt_logprobs, err))
        return false;
    out->logprobs = native->logprobs;
    out->prompt_logprobs = native->prompt_logprobs;
    return true;
}

static json_t *token_json(const struct lorad *lorad, const struct lorad_token *token, int n_top)
{
    if (isnan(token->logprob)) /* the first of a prompt */
        return json_pack("{s:i, s:o, s:n}", "id", token->id, "token", token_text_json(lorad, token->id), "logprob");
    json_t *top = json_array();
    for (size_t i = 0; i < token->n_top && i < (size_t)n_top; i++)
        json_array_append_new(top, json_pack("{s:i, s:o, s:f}", "id", token->top[i].id, "token",
                                             token_text_json(lorad, token->top[i].id), "logprob",
                                             json_logprob(token->top[i].logprob)));
    return json_pack("{s:i, s:o, s:f, s:o}", "id", token->id, "token", token_text_json(lorad, token->id), "logprob",
                     json_logprob(token->logprob), "top", top);
}

static json_t *tokens_json(const struct lorad *lorad, const struct lorad_token *tokens, size_t n_tokens, int n_top)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n_tokens; i++)
        json_array_append_new(array, token_json(lorad, &tokens[i], n_top));
    return array;
}

/* What the last event of a stream and the one answer have in common. */
static void add_outcome(json_t *out, const struct generation *generation)
{
    const struct choice *choice = &generation->choices[0];
    json_object_set_new(out, "finish_reason", json_string(finish_name(choice->finish)));
    json_object_set_new(out, "stop_reason", stop_reason_json(choice));
    json_object_set_new(out, "adapter", adapter_json(choice->stream));
    json_object_set_new(out, "usage", usage_json(generation));
    json_object_set_new(out, "timings", timings_json(choice));
}

static void add_echo(json_t *out, const struct lorad *lorad, const struct choice *choice)
{
    struct buffer text;
    buffer_init(&text, 0);
    append_prompt_text(&text, lorad, choice);
    json_object_set_new(out, "prompt", json_stringn(buffer_text(&text), text.n_bytes));
    json_object_set_new(out, "prompt_token_ids", choice_prompt_ids_json(choice));
    buffer_finish(&text);
}

static enum MHD_Result reply_whole(struct http_request *request, struct generation *generation, const void *context)
{
    const struct native *native = context;
    struct choice *choice = &generation->choices[0];
    json_t *out = json_pack("{s:s, s:s, s:s%, s:o}", "id", request->request_id, "model",
                            lorad_model(request->lorad)->name, "text", buffer_text(&choice->text),
                            choice->text.n_bytes, "token_ids", choice_ids_json(choice));
    if (native->echo)
        add_echo(out, request->lorad, choice);
    if (native->logprobs >= 0)
        json_object_set_new(out, "logprobs",
                            tokens_json(request->lorad, choice->tokens, choice->n_tokens, native->logprobs));
    if (native->prompt_logprobs >= 0)
        json_object_set_new(out, "prompt_logprobs",
                            tokens_json(request->lorad, choice->prompt_tokens, choice->n_prompt_tokens,
                                        native->prompt_logprobs));
    add_outcome(out, generation);
    return reply_json(request, MHD_HTTP_OK, out);
}

/* -- Streaming ---------------------------------------------------------------------------------- */

static void stream_event(struct sse *sse, struct choice *choice, const struct lorad_event *event, const void *context)
{
    const struct native *native = context;
    struct generation *generation = sse_generation(sse);
    json_t *out;
    if (event->kind == LORAD_EVENT_PROMPT) {
        out = json_pack("{s:o}", "prompt_logprobs",
                        tokens_json(generation->lorad, choice->prompt_tokens, choice->n_prompt_tokens,
                                    native->prompt_logprobs));
    } else if (event->kind == LORAD_EVENT_TOKEN) {
        out = json_pack("{s:s%, s:[i]}", "text", event->text, event->n_text_bytes, "token_ids", event->token.id);
        if (native->logprobs >= 0)
            json_object_set_new(out, "logprobs", tokens_json(generation->lorad, &event->token, 1, native->logprobs));
    } else {
        out = json_pack("{s:s%, s:[]}", "text", event->text, event->n_text_bytes, "token_ids");
        if (native->echo)
            add_echo(out, generation->lorad, choice);
        add_outcome(out, generation);
    }
    sse_send(sse, out);
}

enum MHD_Result handle_generate(struct http_request *request)
{
    struct error err = {0};
    struct lorad_request fields;
    struct native native = {.logprobs = -1, .prompt_logprobs = -1};
    struct generation generation = {0};
    enum MHD_Result result;
    json_t *body = request_body(request, false, &err);
    if (body && read_body(request, body, &fields, &native, &err) && generation_init(&generation, request, body, 1, &err) &&
        generation_add(&generation, &fields, &err))
        result = generation_answer(request, &generation,
                                   &(struct answer_format){.stream = native.stream,
                                                           .whole = reply_whole,
                                                           .event = stream_event,
                                                           .context = &native,
                                                           .n_context_bytes = sizeof native});
    else
        result = reply_error(request, &err);
    generation_finish(&generation);
    json_decref(body);
    return result;
}
