/*
 * api_completions.c - POST /v1/completions, as OpenAI's, with vLLM's sampling fields and the native ones.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/limits.h"
#include "http/fields.h"
#include "http/generation.h"
#include "http/reply.h"
#include "http/router.h"

struct completion {
    char id[64], model[256];
    json_int_t created;
    bool stream, echo, include_usage, return_token_ids;
    int logprobs;
    size_t n; /* choices per prompt */
};

/* One prompt of the call: text or ids. */
struct prompt {
    const char *text;
    size_t n_bytes;
    const int32_t *ids;
    size_t n_ids;
};

static bool read_text_prompt(const json_t *value, struct prompt *out)
{
    *out = (struct prompt){.text = json_string_value(value), .n_bytes = json_string_length(value)};
    return out->text != NULL;
}

static bool read_prompt_array(struct http_request *request, const json_t *array, struct prompt *prompts, size_t *n_out,
                              struct error *err)
{
    size_t n = json_array_size(array);
    const json_t *first = json_array_get(array, 0);
    if (json_is_integer(first)) {
        *n_out = 1;
        return fields_read_ids(request, array, "prompt", &prompts[0].ids, &prompts[0].n_ids, err);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, i);
        if (json_is_array(item) && json_is_array(first)) {
            if (!fields_read_ids(request, item, "prompt", &prompts[i].ids, &prompts[i].n_ids, err))
                return false;
        } else if (!json_is_string(first) || !read_text_prompt(item, &prompts[i])) {
            return error_set(err, ERROR_BAD_INPUT, "prompt", "mixes kinds: expected strings only, or arrays of token ids");
        }
    }
    *n_out = n;
    return true;
}

/* A string, strings, token ids, or arrays of token ids. */
static bool read_prompts(struct http_request *request, const json_t *body, struct prompt **out, size_t *n_out,
                         struct error *err)
{
    char found[64];
    const json_t *value = json_object_get(body, "prompt");
    bool is_ids = json_is_integer(json_array_get(value, 0));
    size_t n = json_is_array(value) && !is_ids ? json_array_size(value) : 1;
    if (!value || json_is_null(value))
        return error_set(err, ERROR_BAD_INPUT, "prompt", "is missing");
    if (n == 0)
        return error_set(err, ERROR_BAD_INPUT, "prompt", "is empty");
    if (n > LIMIT_PROMPTS)
        return error_set(err, ERROR_BAD_INPUT, "prompt", "holds %zu prompts, at most %d are served", n, LIMIT_PROMPTS);
    *out = arena_allocate_array(&request->arena, n, sizeof **out);
    if (!*out)
        return error_no_memory(err);
    *n_out = 1;
    if (json_is_array(value))
        return read_prompt_array(request, value, *out, n_out, err);
    if (read_text_prompt(value, *out))
        return true;
    return error_set(err, ERROR_BAD_INPUT, "prompt", "is %s, expected a string, strings, or token ids",
                     json_describe(value, found, sizeof found));
}

/* `model` is the base's name or an adapter's id. */
static bool read_model(struct http_request *request, const json_t *body, struct lorad_request *fields,
                       struct completion *completion, struct error *err)
{
    const char *base = lorad_model(request->lorad)->name;
    const char *model = NULL;
    if (!json_get_string(body, "model", &model, err))
        return false;
    snprintf(completion->model, sizeof completion->model, "%s", model ? model : base);
    if (!model || strcmp(model, base) == 0)
        return true;
    if (fields->n_adapters > 0)
        return error_set(err, ERROR_BAD_INPUT, "model", "is '%.128s', not the base '%.128s', and adapters are named too",
                         model, base);
    struct lorad_adapter_choice *choice = arena_allocate_array(&request->arena, 1, sizeof *choice);
    if (!choice)
        return error_no_memory(err);
    *choice = (struct lorad_adapter_choice){.id = model, .weight = 1};
    fields->adapters = choice;
    fields->n_adapters = 1;
    return true;
}

static bool read_stream_options(const json_t *body, struct completion *completion, struct error *err)
{
    static const char *const known[] = {"include_usage", "include_obfuscation", NULL};
    const json_t *options = NULL;
    if (!json_get_object(body, "stream_options", &options, err))
        return false;
    if (!options)
        return true;
    if (!completion->stream)
        return error_set(err, ERROR_BAD_INPUT, "stream_options", "is only for stream: true");
    return json_check_known(options, known, err) &&
           json_get_bool(options, "include_usage", &completion->include_usage, err);
}

static bool read_refused(const json_t *body, size_t n, struct error *err)
{
    size_t best_of = n;
    const char *suffix = NULL;
    if (!json_get_size(body, "best_of", 0, LIMIT_CHOICES, &best_of, err) ||
        !json_get_string(body, "suffix", &suffix, err))
        return false;
    if (best_of > 1 && best_of != n)
        return error_set(err, ERROR_BAD_INPUT, "best_of", "is %zu, but only n choices are made", best_of);
    if (suffix && *suffix)
        return error_set(err, ERROR_BAD_INPUT, "suffix", "is not served: this model continues text, it does not fill in");
    return true;
}

static bool read_body(struct http_request *request, const json_t *body, struct lorad_request *fields,
                      struct completion *completion, struct error *err)
{
    /* The last five say who asks and for what; nothing here depends on them. */
    static const char *const own[] = {"model", "prompt", "n", "best_of", "stream", "stream_options", "logprobs", "echo",
                                      "suffix", "return_token_ids", "user", "metadata", "store", "service_tier",
                                      "safety_identifier", NULL};
    int64_t logprobs = -1;
    if (!fields_read(request, body, own, fields, err) || !read_model(request, body, fields, completion, err) ||
        !json_get_bool(body, "stream", &completion->stream, err) ||
        !json_get_bool(body, "echo", &completion->echo, err) ||
        !json_get_bool(body, "return_token_ids", &completion->return_token_ids, err) ||
        !json_get_size(body, "n", 1, LIMIT_CHOICES, &completion->n, err) ||
        !json_get_int(body, "logprobs", 0, LORAD_TOP_LOGPROBS, &logprobs, err) ||
        !read_stream_options(body, completion, err) || !read_refused(body, completion->n, err))
        return false;
    completion->logprobs = (int)logprobs;
    fields->logprobs = completion->logprobs;
    fields->prompt_logprobs = completion->echo ? completion->logprobs : -1;
    if (fields->max_tokens == 0 && !completion->echo)
        return error_set(err, ERROR_BAD_INPUT, "max_tokens", "is 0, which needs echo");
    return true;
}

/* Every choice of every prompt; with a seed each choice draws differently, and reproducibly. */
static bool add_choices(struct generation *generation, const struct completion *completion,
                        const struct lorad_request *fields, const struct prompt *prompts, size_t n_prompts,
                        struct error *err)
{
    generation->n_per_prompt = completion->n;
    for (size_t i = 0; i < n_prompts; i++)
        for (size_t k = 0; k < completion->n; k++) {
            struct lorad_request one = *fields;
            one.prompt = prompts[i].text;
            one.n_prompt_bytes = prompts[i].n_bytes;
            one.input_ids = prompts[i].ids;
            one.n_input_ids = prompts[i].n_ids;
            one.sampling.seed += k;
            if (!generation_add(generation, &one, err))
                return false;
        }
    return true;
}

/* -- Log-probabilities: four parallel arrays ------------------------------------------------------ */

struct logprobs {
    json_t *tokens, *values, *tops, *offsets;
};

static struct logprobs logprobs_begin(void)
{
    return (struct logprobs){json_array(), json_array(), json_array(), json_array()};
}

static json_t *logprobs_end(struct logprobs *l)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", l->tokens, "token_logprobs", l->values, "top_logprobs", l->tops,
                     "text_offset", l->offsets);
}

/* Keyed by text, so that two tokens may collide: the later one goes by its id. */
static void add_top(json_t *map, const struct lorad *lorad, int32_t id, float logprob)
{
    char by_id[32];
    json_t *text = token_text_json(lorad, id);
    const char *key = text ? json_string_value(text) : "";
    if (json_object_get(map, key)) {
        snprintf(by_id, sizeof by_id, "token_id:%d", id);
        key = by_id;
    }
    json_object_set_new(map, key, json_real(json_logprob(logprob)));
    json_decref(text);
}

static void logprobs_add(struct logprobs *l, const struct lorad *lorad, const struct lorad_token *token, int n_top,
                         size_t offset)
{
    bool known = !isnan(token->logprob);
    json_t *top = known && n_top > 0 ? json_object() : json_null();
    json_array_append_new(l->tokens, token_text_json(lorad, token->id));
    json_array_append_new(l->values, known ? json_real(json_logprob(token->logprob)) : json_null());
    if (known && n_top > 0) {
        bool has_chosen = false;
        for (size_t i = 0; i < token->n_top && i < (size_t)n_top; i++) {
            has_chosen |= token->top[i].id == token->id;
            add_top(top, lorad, token->top[i].id, token->top[i].logprob);
        }
        if (!has_chosen)
            add_top(top, lorad, token->id, token->logprob);
    }
    json_array_append_new(l->tops, top);
    json_array_append_new(l->offsets, json_integer((json_int_t)offset));
}

static size_t token_characters(const struct lorad *lorad, int32_t id)
{
    const char *bytes;
    size_t n;
    return !lorad_token_is_special(lorad, id) && lorad_token_bytes(lorad, id, &bytes, &n) ? count_characters(bytes, n) : 0;
}

/* The prompt's tokens, whose text has n_characters. Tokens may stand for more than the text holds: some tokenizers put a space
   before it. */
static void logprobs_add_prompt(struct logprobs *l, const struct lorad *lorad, const struct choice *choice, int n_top,
                                size_t n_characters)
{
    size_t n_all = 0, offset = 0;
    for (size_t i = 0; i < choice->n_prompt_tokens; i++)
        n_all += token_characters(lorad, choice->prompt_tokens[i].id);
    size_t n_excess = n_all > n_characters ? n_all - n_characters : 0;
    for (size_t i = 0; i < choice->n_prompt_tokens; i++) {
        const struct lorad_token *token = &choice->prompt_tokens[i];
        logprobs_add(l, lorad, token, n_top, offset > n_excess ? offset - n_excess : 0);
        offset += token_characters(lorad, token->id);
    }
}

/* -- Answers ------------------------------------------------------------------------------------- */

static json_t *choice_logprobs(const struct lorad *lorad, const struct choice *choice,
                               const struct completion *completion, size_t n_echoed)
{
    if (completion->logprobs < 0)
        return json_null();
    struct logprobs l = logprobs_begin();
    if (completion->echo)
        logprobs_add_prompt(&l, lorad, choice, completion->logprobs, n_echoed);
    for (size_t i = 0; i < choice->n_tokens; i++)
        logprobs_add(&l, lorad, &choice->tokens[i], completion->logprobs, n_echoed + choice->offsets[i]);
    return logprobs_end(&l);
}

static json_t *choice_json(const struct lorad *lorad, const struct choice *choice, size_t index,
                           const struct completion *completion)
{
    struct buffer text;
    buffer_init(&text, 0);
    if (completion->echo)
        append_prompt_text(&text, lorad, choice);
    size_t n_echoed = count_characters(buffer_text(&text), text.n_bytes);
    buffer_append(&text, buffer_text(&choice->text), choice->text.n_bytes);
    json_t *out = json_pack("{s:I, s:s%, s:o, s:s, s:o}", "index", (json_int_t)index, "text", buffer_text(&text),
                            text.n_bytes, "logprobs", choice_logprobs(lorad, choice, completion, n_echoed), "finish_reason",
                            finish_name(choice->finish), "stop_reason", stop_reason_json(choice));
    if (completion->return_token_ids) {
        json_object_set_new(out, "token_ids", choice_ids_json(choice));
        json_object_set_new(out, "prompt_token_ids", choice_prompt_ids_json(choice));
    }
    buffer_finish(&text);
    return out;
}

static json_t *envelope(const struct completion *completion, json_t *choices, const struct lorad_stream *stream)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:o}", "id", completion->id, "object", "text_completion", "created",
                     completion->created, "model", completion->model, "choices", choices, "adapter",
                     adapter_json(stream));
}

static enum MHD_Result reply_whole(struct http_request *request, struct generation *generation, const void *context)
{
    const struct completion *completion = context;
    json_t *choices = json_array();
    for (size_t i = 0; i < generation->n_added; i++)
        json_array_append_new(choices, choice_json(request->lorad, &generation->choices[i], i, completion));
    json_t *out = envelope(completion, choices, generation->choices[0].stream);
    json_object_set_new(out, "usage", usage_json(generation));
    return reply_json(request, MHD_HTTP_OK, out);
}

/* -- Streaming ----------------------------------------------------------------------------------- */

/* A chunk has its own tokens' ids; the first one that belongs to an event, the prompt's too. */
static void add_chunk_ids(json_t *out, const struct choice *choice, const struct lorad_event *event)
{
    bool has_token = event->kind == LORAD_EVENT_TOKEN;
    json_object_set_new(out, "token_ids", ids_json(&event->token.id, has_token));
    if (choice->n_tokens == has_token)
        json_object_set_new(out, "prompt_token_ids", choice_prompt_ids_json(choice));
}

/* `event` is NULL for the echo, which is none. */
static json_t *chunk_json(struct sse *sse, const struct completion *completion, const struct choice *choice,
                          const char *text, size_t n_bytes, json_t *logprobs, const struct lorad_event *event)
{
    struct generation *generation = sse_generation(sse);
    size_t index = (size_t)(choice - generation->choices);
    bool is_last = event && event->kind == LORAD_EVENT_END;
    json_t *one = json_pack("{s:I, s:s%, s:o, s:o, s:o}", "index", (json_int_t)index, "text", text, n_bytes, "logprobs",
                            logprobs, "finish_reason", is_last ? json_string(finish_name(choice->finish)) : json_null(),
                            "stop_reason", is_last ? stop_reason_json(choice) : json_null());
    if (event && completion->return_token_ids)
        add_chunk_ids(one, choice, event);
    json_t *out = envelope(completion, json_pack("[o]", one), choice->stream);
    if (completion->include_usage)
        json_object_set_new(out, "usage", json_null());
    return out;
}

static json_t *token_logprobs(const struct lorad *lorad, const struct completion *completion,
                              const struct choice *choice, const struct lorad_event *event)
{
    if (completion->logprobs < 0 || event->kind != LORAD_EVENT_TOKEN)
        return json_null();
    struct logprobs l = logprobs_begin();
    logprobs_add(&l, lorad, &event->token, completion->logprobs, choice->offsets[choice->n_tokens - 1]);
    return logprobs_end(&l);
}

/* With echo the prompt's text is the first chunk of a choice. Its log-probabilities, when asked for, are there before any token. */
static void send_echo(struct sse *sse, struct choice *choice, const struct completion *completion)
{
    struct generation *generation = sse_generation(sse);
    struct buffer text;
    json_t *logprobs = json_null();
    buffer_init(&text, 0);
    append_prompt_text(&text, generation->lorad, choice);
    size_t n_echoed = count_characters(buffer_text(&text), text.n_bytes);
    if (completion->logprobs >= 0) {
        struct logprobs l = logprobs_begin();
        logprobs_add_prompt(&l, generation->lorad, choice, completion->logprobs, n_echoed);
        logprobs = logprobs_end(&l);
    }
    sse_send(sse, chunk_json(sse, completion, choice, buffer_text(&text), text.n_bytes, logprobs, NULL));
    for (size_t i = 0; i < choice->n_tokens; i++)
        choice->offsets[i] += n_echoed;
    choice->n_characters += n_echoed;
    buffer_finish(&text);
}

static void stream_event(struct sse *sse, struct choice *choice, const struct lorad_event *event, const void *context)
{
    const struct completion *completion = context;
    struct generation *generation = sse_generation(sse);
    /* Without log-probabilities there is no PROMPT event: the echo goes out before the first token, or at the end. */
    bool is_first = event->kind == LORAD_EVENT_PROMPT ||
                    (completion->logprobs < 0 && ((event->kind == LORAD_EVENT_TOKEN && choice->n_tokens == 1) ||
                                                  (event->kind == LORAD_EVENT_END && choice->n_tokens == 0)));
    if (completion->echo && is_first)
        send_echo(sse, choice, completion);
    if (event->kind != LORAD_EVENT_PROMPT)
        sse_send(sse, chunk_json(sse, completion, choice, event->text, event->n_text_bytes,
                                 token_logprobs(generation->lorad, completion, choice, event), event));
}

static void stream_end(struct sse *sse, const void *context)
{
    const struct completion *completion = context;
    struct generation *generation = sse_generation(sse);
    if (!completion->include_usage)
        return;
    json_t *out = envelope(completion, json_array(), generation->choices[0].stream);
    json_object_set_new(out, "usage", usage_json(generation));
    sse_send(sse, out);
}

enum MHD_Result handle_completions(struct http_request *request)
{
    struct error err = {0};
    struct lorad_request fields;
    struct completion completion = {.n = 1, .logprobs = -1, .created = (json_int_t)time(NULL)};
    struct generation generation = {0};
    struct prompt *prompts = NULL;
    size_t n_prompts = 0;
    enum MHD_Result result;
    snprintf(completion.id, sizeof completion.id, "cmpl-%s", request->request_id);
    json_t *body = request_body(request, false, &err);
    if (body && read_body(request, body, &fields, &completion, &err) &&
        read_prompts(request, body, &prompts, &n_prompts, &err) &&
        generation_init(&generation, request, body, n_prompts * completion.n, &err) &&
        add_choices(&generation, &completion, &fields, prompts, n_prompts, &err))
        result = generation_answer(request, &generation,
                                   &(struct answer_format){.stream = completion.stream,
                                                           .whole = reply_whole,
                                                           .event = stream_event,
                                                           .end = stream_end,
                                                           .context = &completion,
                                                           .n_context_bytes = sizeof completion});
    else
        result = reply_error(request, &err);
    generation_finish(&generation);
    json_decref(body);
    return result;
}
