/*
 * submit.c - one request on its way to the engine: checked, tokenised, given its view, queued.
 *
 * Everything here runs on the client's thread. A submission holds the engine's request and the registry's lease; both go
 * when the stream's second side lets go (release_submission).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "lorad/lorad_internal.h"

struct submission {
    struct engine_request request;
    struct lease lease;
};

void lorad_request_init(const struct lorad *lorad, struct lorad_request *request)
{
    const struct generation_config *recommended = &lorad->model->generation;
    *request = (struct lorad_request){
        .scale = 1.0,
        .max_tokens = 16,
        .logprobs = -1,
        .prompt_logprobs = -1,
        .sampling = {.repetition_penalty = 1.0, .temperature = 1.0, .top_p = 1.0},
    };
    if (!isnan(recommended->temperature))
        request->sampling.temperature = recommended->temperature;
    if (!isnan(recommended->top_p))
        request->sampling.top_p = recommended->top_p;
    if (!isnan(recommended->min_p))
        request->sampling.min_p = recommended->min_p;
    if (!isnan(recommended->repetition_penalty))
        request->sampling.repetition_penalty = recommended->repetition_penalty;
    if (recommended->top_k >= 0)
        request->sampling.top_k = (size_t)recommended->top_k;
}

static bool check_number(const char *field, double value, double minimum, double maximum, struct error *err)
{
    if (!(value >= minimum && value <= maximum))
        return error_set(err, ERROR_BAD_INPUT, field, "is %g, but must be in %g..%g", value, minimum, maximum);
    return true;
}

static bool check_sampling(const struct lorad_sampling *sampling, size_t n_vocab, struct error *err)
{
    if (!check_number("temperature", sampling->temperature, 0, 100, err) ||
        !check_number("top_p", sampling->top_p, 0, 1, err) || !check_number("min_p", sampling->min_p, 0, 1, err) ||
        !check_number("repetition_penalty", sampling->repetition_penalty, 0, 100, err) ||
        !check_number("presence_penalty", sampling->presence_penalty, -2, 2, err) ||
        !check_number("frequency_penalty", sampling->frequency_penalty, -2, 2, err))
        return false;
    if (sampling->top_p == 0)
        return error_set(err, ERROR_BAD_INPUT, "top_p", "is 0, but must be above 0");
    if (sampling->repetition_penalty == 0)
        return error_set(err, ERROR_BAD_INPUT, "repetition_penalty", "is 0, but must be above 0");
    if (sampling->n_logit_bias > LIMIT_LOGIT_BIAS)
        return error_set(err, ERROR_BAD_INPUT, "logit_bias", "has %zu entries, at most %d are served",
                         sampling->n_logit_bias, LIMIT_LOGIT_BIAS);
    for (size_t i = 0; i < sampling->n_logit_bias; i++) {
        const struct lorad_logit_bias *entry = &sampling->logit_bias[i];
        if (entry->id < 0 || (size_t)entry->id >= n_vocab)
            return error_set(err, ERROR_BAD_INPUT, "logit_bias", "names token %d, but ids are 0..%zu", entry->id,
                             n_vocab - 1);
        if (!check_number("logit_bias", (double)entry->bias, -100, 100, err))
            return false;
    }
    return true;
}

static bool check_ids(const char *field, const int32_t *ids, size_t n_ids, size_t n_vocab, struct error *err)
{
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= n_vocab)
            return error_set(err, ERROR_BAD_INPUT, field, "holds token %d at index %zu, but ids are 0..%zu", ids[i], i,
                             n_vocab - 1);
    return true;
}

static bool check_stops(const struct lorad_request *request, size_t n_vocab, struct error *err)
{
    if (request->n_stops > LIMIT_STOP_STRINGS)
        return error_set(err, ERROR_BAD_INPUT, "stop", "has %zu strings, at most %d are served", request->n_stops,
                         LIMIT_STOP_STRINGS);
    for (size_t i = 0; i < request->n_stops; i++) {
        size_t n = strlen(request->stops[i]);
        if (n == 0 || n > LIMIT_STOP_BYTES)
            return error_set(err, ERROR_BAD_INPUT, "stop", "string %zu has %zu bytes, but must have 1..%d", i, n,
                             LIMIT_STOP_BYTES);
        if (!utf8_is_valid(request->stops[i], n))
            return error_set(err, ERROR_BAD_INPUT, "stop", "string %zu is not valid UTF-8", i);
    }
    if (request->n_stop_ids > LIMIT_STOP_TOKENS)
        return error_set(err, ERROR_BAD_INPUT, "stop_token_ids", "has %zu ids, at most %d are served",
                         request->n_stop_ids, LIMIT_STOP_TOKENS);
    return check_ids("stop_token_ids", request->stop_ids, request->n_stop_ids, n_vocab, err);
}

static bool check_logprobs(const char *field, int value, struct error *err)
{
    if (value < -1 || value > LIMIT_TOP_LOGPROBS)
        return error_set(err, ERROR_BAD_INPUT, field, "is %d, but must be in 0..%d", value, LIMIT_TOP_LOGPROBS);
    return true;
}

static bool check_adapters(const struct lorad_request *request, struct error *err)
{
    if (request->n_adapters > LIMIT_REQUEST_ADAPTERS)
        return error_set(err, ERROR_BAD_INPUT, "adapters", "names %zu adapters, at most %d are served",
                         request->n_adapters, LIMIT_REQUEST_ADAPTERS);
    for (size_t i = 0; i < request->n_adapters; i++)
        if (!check_number("adapters", request->adapters[i].weight, -1000, 1000, err))
            return false;
    return check_number("scale", request->scale, -1000, 1000, err);
}

static bool check_request(const struct lorad *lorad, const struct lorad_request *request, struct error *err)
{
    size_t n_vocab = lorad->model->config.n_vocab;
    if (!request->prompt && !request->input_ids)
        return error_set(err, ERROR_BAD_INPUT, "prompt", "is missing: give prompt or input_ids");
    if (request->prompt && request->input_ids)
        return error_set(err, ERROR_BAD_INPUT, "input_ids", "and prompt are both there: give one of them");
    if (request->max_tokens != SIZE_MAX && request->min_tokens > request->max_tokens)
        return error_set(err, ERROR_BAD_INPUT, "min_tokens", "is %zu, more than max_tokens %zu", request->min_tokens,
                         request->max_tokens);
    return check_sampling(&request->sampling, n_vocab, err) && check_stops(request, n_vocab, err) &&
           check_logprobs("logprobs", request->logprobs, err) &&
           check_logprobs("prompt_logprobs", request->prompt_logprobs, err) && check_adapters(request, err) &&
           check_number("priority", request->priority, -100, 100, err);
}

/* Called by the stream's last side, on either thread. */
static void release_submission(struct engine_request *request, const struct lorad_usage *usage, bool is_merged)
{
    struct submission *submission = request->owner;
    lease_count(&submission->lease, usage, is_merged ? submission->lease.merged_mode : submission->lease.mode);
    lease_release(&submission->lease);
    arena_finish(&request->arena);
    free(submission);
}

static void report_gain(const struct engine_request *request, double gain_us)
{
    struct submission *submission = request->owner;
    lease_gain(&submission->lease, gain_us);
}

static bool is_revoked(const struct engine_request *request)
{
    const struct submission *submission = request->owner;
    return lease_is_revoked(&submission->lease);
}

static void *copy_array(struct arena *arena, const void *from, size_t n, size_t size)
{
    void *copy = arena_allocate_array(arena, n, size);
    if (copy && n > 0)
        memcpy(copy, from, n * size);
    return copy;
}

static bool copy_prompt(const struct lorad *lorad, const struct lorad_request *from, struct engine_request *to,
                        struct error *err)
{
    if (from->input_ids) {
        if (from->n_input_ids == 0)
            return error_set(err, ERROR_BAD_INPUT, "input_ids", "is empty");
        if (!check_ids("input_ids", from->input_ids, from->n_input_ids, lorad->model->config.n_vocab, err))
            return false;
        to->prompt = copy_array(&to->arena, from->input_ids, from->n_input_ids, sizeof *to->prompt);
        to->n_prompt = from->n_input_ids;
        return to->prompt || error_no_memory(err);
    }
    struct token_ids ids = {0};
    int flags = from->no_special_tokens ? TOKENIZER_PLAIN : TOKENIZER_ADD_SPECIAL;
    bool ok = tokenizer_encode(lorad->tokenizer, from->prompt, from->n_prompt_bytes, flags, &ids, err);
    if (!ok && err && !err->param[0])
        memcpy(err->param, "prompt", sizeof "prompt");
    if (ok && ids.n_ids == 0)
        ok = error_set(err, ERROR_BAD_INPUT, "prompt", "is empty, and this model begins a text with no token of its own");
    if (ok) {
        to->prompt = copy_array(&to->arena, ids.ids, ids.n_ids, sizeof *to->prompt);
        to->n_prompt = ids.n_ids;
        to->prompt_was_text = true;
        ok = to->prompt || error_no_memory(err);
    }
    token_ids_finish(&ids);
    return ok;
}

static bool copy_stops(const struct lorad_request *from, struct engine_request *to, struct error *err)
{
    const char **stops = arena_allocate_array(&to->arena, from->n_stops, sizeof *stops);
    to->stop_ids = copy_array(&to->arena, from->stop_ids, from->n_stop_ids, sizeof *to->stop_ids);
    if (!stops || !to->stop_ids)
        return error_no_memory(err);
    for (size_t i = 0; i < from->n_stops; i++) {
        stops[i] = arena_copy_text(&to->arena, from->stops[i], strlen(from->stops[i]));
        if (!stops[i])
            return error_no_memory(err);
    }
    to->stops = stops;
    to->n_stops = from->n_stops;
    to->n_stop_ids = from->n_stop_ids;
    return true;
}

static bool copy_sampling(const struct lorad_request *from, struct engine_request *to, struct error *err)
{
    to->sampling = from->sampling;
    to->sampling.logit_bias = copy_array(&to->arena, from->sampling.logit_bias, from->sampling.n_logit_bias,
                                         sizeof *from->sampling.logit_bias);
    if (!to->sampling.logit_bias)
        return error_no_memory(err);
    if (!to->sampling.has_seed) {
        if (getrandom(&to->sampling.seed, sizeof to->sampling.seed, 0) != (ssize_t)sizeof to->sampling.seed)
            to->sampling.seed = clock_now_us();
        to->sampling.has_seed = true;
    }
    return true;
}

static const struct submission *submission_of(const struct lorad_stream *stream)
{
    return stream_request((const struct stream *)stream)->owner;
}

static void copy_fields(const struct lorad_request *from, struct engine_request *to)
{
    to->max_tokens = from->max_tokens;
    to->min_tokens = from->min_tokens;
    to->ignore_eos = from->ignore_eos;
    to->include_stop = from->include_stop;
    to->keep_special = from->keep_special;
    to->logprobs = from->logprobs;
    to->prompt_logprobs = from->prompt_logprobs;
    to->submitted_us = clock_now_us();
    if (from->timeout_ms > 0)
        to->deadline_us = to->submitted_us + (uint64_t)from->timeout_ms * 1000;
}

/* One share of the engine for each adapter; for each mix; for the base. FNV-1a: who collides shares, and no more. */
static uint64_t share_of(const struct lease *lease)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < lease->n_parts; i++)
        for (const char *c = lease->parts[i].id; ; c++) {
            hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
            if (!*c)
                break;
        }
    return hash;
}

static bool acquire_weights(struct lorad *lorad, const struct lorad_request *request, struct lease *out, struct error *err)
{
    if (request->same_as)
        return registry_share(&submission_of(request->same_as)->lease, out, err);
    return registry_acquire(lorad->registry, request->adapters, request->n_adapters, request->scale, request->has_mode,
                            request->mode, request->merge_wait_ms, out, err);
}

struct lorad_stream *lorad_submit(struct lorad *lorad, const struct lorad_request *request, struct error *err)
{
    if (lorad_is_draining(lorad)) {
        error_set(err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
        return NULL;
    }
    struct submission *submission = calloc(1, sizeof *submission);
    if (!submission) {
        error_no_memory(err);
        return NULL;
    }
    struct engine_request *to = &submission->request;
    struct stream *stream = NULL;
    arena_init(&to->arena, 4096);
    copy_fields(request, to);
    if (!check_request(lorad, request, err) || !copy_prompt(lorad, request, to, err) ||
        !copy_stops(request, to, err) || !copy_sampling(request, to, err) ||
        !acquire_weights(lorad, request, &submission->lease, err))
        goto fail;
    to->view = submission->lease.view;
    to->merged_view = submission->lease.merged_view;
    to->may_switch = request->may_switch;
    to->priority = request->priority;
    to->share = share_of(&submission->lease);
    to->gain = submission->lease.is_metered ? report_gain : NULL;
    to->is_revoked = submission->lease.n_parts > 0 ? is_revoked : NULL;
    to->release = release_submission;
    to->owner = submission;
    stream = engine_submit(lorad->engine, to, err);
    if (!stream)
        goto fail;
    return (struct lorad_stream *)stream;

fail:
    if (submission->lease.view)
        lease_release(&submission->lease);
    arena_finish(&to->arena);
    free(submission);
    return NULL;
}

/* The public stream is the engine's. */
static struct stream *engine_stream(struct lorad_stream *stream)
{
    return (struct stream *)stream;
}

bool lorad_stream_next(struct lorad_stream *stream, struct lorad_event *out)
{
    return stream_next(engine_stream(stream), out);
}

bool lorad_stream_wait(struct lorad_stream *stream, int timeout_ms)
{
    return stream_wait(engine_stream(stream), timeout_ms);
}

int lorad_stream_fd(struct lorad_stream *stream)
{
    return stream_fd(engine_stream(stream));
}

void lorad_stream_cancel(struct lorad_stream *stream)
{
    stream_cancel(engine_stream(stream));
}

void lorad_stream_close(struct lorad_stream *stream)
{
    stream_close(engine_stream(stream));
}

const int32_t *lorad_stream_prompt_ids(const struct lorad_stream *stream, size_t *n_out)
{
    const struct engine_request *request = &submission_of(stream)->request;
    *n_out = request->n_prompt;
    return request->prompt;
}

const struct lorad_answered_by *lorad_stream_adapters(const struct lorad_stream *stream, size_t *n_out)
{
    const struct lease *lease = &submission_of(stream)->lease;
    *n_out = lease->n_parts;
    return lease->parts;
}

enum lorad_mode lorad_stream_mode(const struct lorad_stream *stream)
{
    const struct lease *lease = &submission_of(stream)->lease;
    return stream_is_merged((const struct stream *)stream) ? lease->merged_mode : lease->mode;
}
