/*
 * api_vllm.c - vLLM's calls for loading and unloading adapters, so that tools made for it work. They answer success as plain text.
 */
#include <stdio.h>
#include <string.h>

#include "http/reply.h"
#include "http/router.h"

static enum MHD_Result reply_success(struct http_request *request, const char *name, const char *verb)
{
    char text[256];
    int n = snprintf(text, sizeof text, "Success: LoRA adapter '%s' %s successfully.", name, verb);
    return reply_text(request, MHD_HTTP_OK, "text/plain; charset=utf-8", text, (size_t)n);
}

static bool require_text(const json_t *body, const char *key, const char **out, struct error *err)
{
    if (!json_require_string(body, key, out, err))
        return false;
    return **out || error_set(err, ERROR_BAD_INPUT, key, "is empty");
}

/* vLLM says 400 where the native calls say 409, 413 or 422. */
static enum MHD_Result reply_as_vllm(struct http_request *request, const struct error *err)
{
    unsigned status = status_of_error(err);
    return reply_error_as(request, status == 404 || status >= 500 ? status : 400, err);
}

enum MHD_Result handle_load_lora(struct http_request *request)
{
    struct error err = {0};
    struct lorad_load_options load = {0};
    const char *name = NULL;
    bool in_place = false;
    enum MHD_Result result;
    json_t *body = request_body(request, false, &err);
    bool ok = body && require_text(body, "lora_name", &name, &err) && require_text(body, "lora_path", &load.path, &err) &&
              json_get_bool(body, "load_inplace", &in_place, &err);
    load.only_new = !in_place;
    if (ok && lorad_adapter_load(request->lorad, name, &load, NULL, &err))
        result = reply_success(request, name, "added");
    else
        result = reply_as_vllm(request, &err);
    json_decref(body);
    return result;
}

enum MHD_Result handle_unload_lora(struct http_request *request)
{
    struct error err = {0};
    const char *name = NULL;
    enum MHD_Result result;
    json_t *body = request_body(request, false, &err);
    if (body && require_text(body, "lora_name", &name, &err) && lorad_adapter_unload(request->lorad, name, NULL, false, &err))
        result = reply_success(request, name, "removed");
    else
        result = reply_as_vllm(request, &err);
    json_decref(body);
    return result;
}
