/*
 * router.c - every route there is. What is not in this table is 404.
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "http/router.h"

static const struct route ROUTES[] = {
    {.method = "POST", .pattern = "/v1/generate", .handle = handle_generate},
    {.method = "POST", .pattern = "/v1/completions", .handle = handle_completions},
    {.method = "GET", .pattern = "/v1/models", .handle = handle_models},
    {.method = "GET", .pattern = "/v1/models/{id}", .handle = handle_model},
    {.method = "GET", .pattern = "/v1/adapters", .handle = handle_adapters_list},
    {.method = "GET", .pattern = "/v1/adapters/{id}", .handle = handle_adapter_get},
    {.method = "PUT", .pattern = "/v1/adapters/{id}", .handle = handle_adapter_put, .takes_upload = true},
    {.method = "DELETE", .pattern = "/v1/adapters/{id}", .handle = handle_adapter_delete},
    {.method = "PUT", .pattern = "/v1/adapters/{id}/merged", .handle = handle_merged_put},
    {.method = "DELETE", .pattern = "/v1/adapters/{id}/merged", .handle = handle_merged_delete},
    {.method = "POST", .pattern = "/v1/load_lora_adapter", .handle = handle_load_lora},
    {.method = "POST", .pattern = "/v1/unload_lora_adapter", .handle = handle_unload_lora},
    {.method = "POST", .pattern = "/tokenize", .handle = handle_tokenize},
    {.method = "POST", .pattern = "/detokenize", .handle = handle_detokenize},
    {.method = "GET", .pattern = "/health", .handle = handle_health, .serves_unloaded = true},
    {.method = "GET", .pattern = "/ready", .handle = handle_ready, .serves_unloaded = true},
    {.method = "GET", .pattern = "/version", .handle = handle_version, .serves_unloaded = true},
    {.method = "GET", .pattern = "/metrics", .handle = handle_metrics},
};
#define N_ROUTES (sizeof ROUTES / sizeof *ROUTES)

/* Matches `path` with `pattern`; the segment at {id} goes to `id`. */
static bool match(const char *pattern, const char *path, char id[LORAD_ID_SIZE])
{
    const char *braces = strchr(pattern, '{');
    if (!braces)
        return strcmp(pattern, path) == 0;
    size_t n_before = (size_t)(braces - pattern);
    const char *after = strchr(braces, '}') + 1;
    if (strncmp(pattern, path, n_before) != 0)
        return false;
    const char *segment = path + n_before;
    size_t n_segment = strcspn(segment, "/");
    if (n_segment == 0 || strcmp(segment + n_segment, after) != 0)
        return false;
    if (n_segment >= LORAD_ID_SIZE)
        n_segment = 0; /* too long to be any adapter's id, as the empty one */
    memcpy(id, segment, n_segment);
    id[n_segment] = '\0';
    return true;
}

bool router_find(struct http_request *request, struct error *err)
{
    const char *method = strcmp(request->method, "HEAD") == 0 ? "GET" : request->method;
    struct buffer allow;
    buffer_init(&allow, 256);
    for (size_t i = 0; i < N_ROUTES; i++) {
        if (!match(ROUTES[i].pattern, request->path, request->id))
            continue;
        if (strcmp(ROUTES[i].method, method) == 0) {
            request->route = &ROUTES[i];
            buffer_finish(&allow);
            return true;
        }
        buffer_printf(&allow, "%s%s", allow.n_bytes ? ", " : "", ROUTES[i].method);
    }
    request->allow = allow.n_bytes ? arena_copy_text(&request->arena, allow.data, allow.n_bytes) : NULL;
    buffer_finish(&allow);
    if (request->allow)
        return error_set(err, ERROR_BAD_INPUT, NULL, "%.16s is not served at this path, but %s", request->method,
                         request->allow);
    return error_set(err, ERROR_NOT_FOUND, NULL, "there is nothing at %.128s", request->path);
}
