/*
 * api_health.c - /health, /ready, /version, /v1/models.
 */
#include <string.h>

#include "http/reply.h"
#include "http/router.h"

enum MHD_Result handle_health(struct http_request *request)
{
    return reply_json(request, MHD_HTTP_OK, json_pack("{s:s}", "status", "ok"));
}

enum MHD_Result handle_ready(struct http_request *request)
{
    const char *status = "ready";
    if (!request->lorad)
        status = "loading";
    else if (lorad_is_draining(request->lorad))
        status = "draining";
    unsigned code = strcmp(status, "ready") == 0 ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
    return reply_json(request, code, json_pack("{s:s}", "status", status));
}

enum MHD_Result handle_version(struct http_request *request)
{
    return reply_json(request, MHD_HTTP_OK, json_pack("{s:s}", "version", lorad_version()));
}

/* -- Models ---------------------------------------------------------------------------------- */

static json_t *base_json(const struct lorad_model_info *info)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:n, s:I}", "id", info->name, "object", "model", "created",
                     (json_int_t)info->loaded_unix, "owned_by", "lorad", "root", info->path, "parent",
                     "max_model_len", (json_int_t)info->context);
}

static json_t *adapter_model_json(const struct lorad_model_info *base, const struct lorad_adapter_info *adapter)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:I}", "id", adapter->id, "object", "model", "created",
                     (json_int_t)adapter->loaded_unix, "owned_by", "lorad", "root", adapter->path ? adapter->path : "",
                     "parent", base->name, "max_model_len", (json_int_t)base->context);
}

enum MHD_Result handle_models(struct http_request *request)
{
    struct error err = {0};
    struct lorad_adapter_list list = {0};
    const struct lorad_model_info *base = lorad_model(request->lorad);
    if (!lorad_adapter_list_all(request->lorad, &list, &err))
        return reply_error(request, &err);
    json_t *data = json_array();
    json_array_append_new(data, base_json(base));
    for (size_t i = 0; i < list.n_adapters; i++)
        if (list.adapters[i].state == LORAD_ADAPTER_READY || list.adapters[i].state == LORAD_ADAPTER_AVAILABLE)
            json_array_append_new(data, adapter_model_json(base, &list.adapters[i]));
    lorad_adapter_list_finish(&list);
    return reply_json(request, MHD_HTTP_OK, json_pack("{s:s, s:o}", "object", "list", "data", data));
}

enum MHD_Result handle_model(struct http_request *request)
{
    struct error err = {0};
    struct lorad_adapter_list list = {0};
    const struct lorad_model_info *base = lorad_model(request->lorad);
    if (strcmp(request->id, base->name) == 0)
        return reply_json(request, MHD_HTTP_OK, base_json(base));
    if (!lorad_adapter_get(request->lorad, request->id, &list, &err))
        return reply_error(request, &err);
    json_t *out = adapter_model_json(base, &list.adapters[0]);
    lorad_adapter_list_finish(&list);
    return reply_json(request, MHD_HTTP_OK, out);
}
