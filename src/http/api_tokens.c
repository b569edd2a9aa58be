/*
 * api_tokens.c - POST /tokenize and /detokenize, as vLLM's.
 */
#include <stdlib.h>
#include <string.h>

#include "http/fields.h"
#include "http/generation.h"
#include "http/reply.h"
#include "http/router.h"

static json_t *strings_json(const struct lorad *lorad, const int32_t *ids, size_t n_ids)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n_ids; i++)
        json_array_append_new(array, token_text_json(lorad, ids[i]));
    return array;
}

enum MHD_Result handle_tokenize(struct http_request *request)
{
    static const char *const known[] = {"model", "prompt", "add_special_tokens", "return_token_strs", NULL};
    struct error err = {0};
    const char *prompt = NULL, *model = NULL;
    bool add_special = true, with_strings = false;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    json_t *body = request_body(request, false, &err);
    bool ok = body && json_check_known(body, known, &err) && json_require_string(body, "prompt", &prompt, &err) &&
              json_get_string(body, "model", &model, &err) &&
              json_get_bool(body, "add_special_tokens", &add_special, &err) &&
              json_get_bool(body, "return_token_strs", &with_strings, &err) &&
              lorad_tokenize(request->lorad, prompt, json_string_length(json_object_get(body, "prompt")), add_special,
                             &ids, &n_ids, &err);
    json_decref(body);
    if (!ok)
        return reply_error(request, &err);
    json_t *strings = with_strings ? strings_json(request->lorad, ids, n_ids) : json_null();
    json_t *out = json_pack("{s:I, s:I, s:o, s:o}", "count", (json_int_t)n_ids, "max_model_len",
                            (json_int_t)lorad_model(request->lorad)->context, "tokens", ids_json(ids, n_ids),
                            "token_strs", strings);
    free(ids);
    return reply_json(request, MHD_HTTP_OK, out);
}

enum MHD_Result handle_detokenize(struct http_request *request)
{
    static const char *const known[] = {"model", "tokens", "skip_special_tokens", NULL};
    struct error err = {0};
    const json_t *tokens = NULL;
    const int32_t *ids;
    const char *model = NULL;
    bool skip_special = false;
    char *text = NULL;
    size_t n_ids, n_bytes;
    json_t *body = request_body(request, false, &err);
    bool ok = body && json_check_known(body, known, &err) && json_get_array(body, "tokens", &tokens, &err) &&
              json_get_string(body, "model", &model, &err) &&
              json_get_bool(body, "skip_special_tokens", &skip_special, &err);
    if (ok && !tokens)
        ok = error_set(&err, ERROR_BAD_INPUT, "tokens", "is missing");
    ok = ok && fields_read_ids(request, tokens, "tokens", &ids, &n_ids, &err) &&
         lorad_detokenize(request->lorad, ids, n_ids, skip_special, &text, &n_bytes, &err);
    json_decref(body);
    if (!ok)
        return reply_error(request, &err);
    json_t *out = json_pack("{s:s%}", "prompt", text, n_bytes);
    free(text);
    return reply_json(request, MHD_HTTP_OK, out);
}
