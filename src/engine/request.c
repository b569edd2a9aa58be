#include "engine/request.h"

static bool check_ids(const char *param, const int32_t *ids, size_t n_ids, size_t n_vocab, struct error *err)
{
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= n_vocab)
            return error_set(err, ERROR_BAD_INPUT, param, "token %d at index %zu is not in the vocabulary of %zu",
                             (int)ids[i], i, n_vocab);
    return true;
}

static bool check_length(size_t n_prompt, size_t asked, size_t context, size_t *max_tokens_out, struct error *err)
{
    if (n_prompt > context)
        return error_set(err, ERROR_BAD_INPUT, "prompt", "has %zu tokens, more than the context of %zu", n_prompt, context);
    size_t n_room = context - n_prompt;
    if (asked == SIZE_MAX && n_room == 0)
        return error_set(err, ERROR_BAD_INPUT, "prompt", "has %zu tokens, which leaves no room in the context of %zu",
                         n_prompt, context);
    if (asked != SIZE_MAX && asked > n_room)
        return error_set(err, ERROR_BAD_INPUT, "max_tokens",
                         "is %zu, but after a prompt of %zu tokens the context of %zu has room for %zu", asked, n_prompt,
                         context, n_room);
    *max_tokens_out = asked == SIZE_MAX ? n_room : asked;
    return true;
}

bool engine_request_check(const struct engine_request *request, const struct request_limits *limits,
                          size_t *max_tokens_out, struct error *err)
{
    if (request->n_prompt == 0)
        return error_set(err, ERROR_BAD_INPUT, "prompt", "has no tokens");
    if (request->n_stops > 0 && !limits->has_text)
        return error_set(err, ERROR_BAD_INPUT, "stop", "strings need a tokenizer, and there is none");
    if (request->logprobs > LORAD_TOP_LOGPROBS)
        return error_set(err, ERROR_BAD_INPUT, "logprobs", "is %d, but at most %d are served", request->logprobs,
                         LORAD_TOP_LOGPROBS);
    if (request->prompt_logprobs > LORAD_TOP_LOGPROBS)
        return error_set(err, ERROR_BAD_INPUT, "prompt_logprobs", "is %d, but at most %d are served",
                         request->prompt_logprobs, LORAD_TOP_LOGPROBS);
    return check_ids("prompt", request->prompt, request->n_prompt, limits->n_vocab, err) &&
           check_ids("stop_token_ids", request->stop_ids, request->n_stop_ids, limits->n_vocab, err) &&
           check_length(request->n_prompt, request->max_tokens, limits->context, max_tokens_out, err);
}
