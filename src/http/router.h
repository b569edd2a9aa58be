/*
 * router.h - the route table: method, path, handler.
 */
#ifndef HTTP_ROUTER_H
#define HTTP_ROUTER_H

#include "http/request.h"

struct route {
    const char *method;
    const char *pattern;     /* "{id}" stands for one segment */
    handler *handle;
    bool serves_unloaded;    /* answers before the model is loaded */
    bool takes_upload;       /* a multipart body goes to staging files */
};

/* Finds the route and fills request->route and ->id. False: err is NOT_FOUND; or, when the path is known under other methods,
   request->allow names them ("GET, PUT"). */
bool router_find(struct http_request *request, struct error *err);

handler handle_generate, handle_completions, handle_models, handle_model, handle_adapters_list, handle_adapter_get,
    handle_adapter_put, handle_adapter_delete, handle_merged_put, handle_merged_delete, handle_load_lora,
    handle_unload_lora, handle_tokenize, handle_detokenize, handle_health, handle_ready, handle_version,
    handle_metrics;

#endif
