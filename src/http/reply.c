/*
 * reply.c - see reply.h. One table turns an error's code into a status.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "http/reply.h"

static const struct {
    unsigned status;
    const char *type;
} ANSWERS[] = {
    [ERROR_NONE] = {500, "server_error"},
    [ERROR_BAD_INPUT] = {400, "invalid_request_error"},
    [ERROR_NOT_FOUND] = {404, "not_found_error"},
    [ERROR_CONFLICT] = {409, "conflict_error"},
    [ERROR_TOO_LARGE] = {413, "invalid_request_error"},
    [ERROR_MISMATCH] = {422, "invalid_request_error"},
    [ERROR_BUSY] = {429, "rate_limit_error"},
    [ERROR_UNAVAILABLE] = {503, "unavailable_error"},
    [ERROR_NO_MEMORY] = {500, "server_error"},
    [ERROR_IO] = {500, "server_error"},
    [ERROR_INTERNAL] = {500, "server_error"},
    [ERROR_CANCELLED] = {499, "cancelled"},
};

unsigned status_of_error(const struct error *err)
{
    if (err->code == ERROR_CONFLICT && strcmp(err->param, "if_match") == 0)
        return 412; /* RFC 9110, 13.1.1 */
    return ANSWERS[err->code].status;
}

json_t *error_json(const struct error *err, unsigned status)
{
    char message[700];
    if (status >= 500 && err->code != ERROR_UNAVAILABLE)
        snprintf(message, sizeof message, "internal error: %s", error_code_name(err->code));
    else if (err->param[0] && !strstr(err->message, err->param)) /* some messages name the field themselves */
        snprintf(message, sizeof message, "%s: %s", err->param, err->message);
    else
        snprintf(message, sizeof message, "%s", err->message);
    json_t *param = err->param[0] ? json_string(err->param) : json_null();
    return json_pack("{s:{s:s, s:s, s:o, s:s}}", "error", "message", message, "type", ANSWERS[err->code].type, "param",
                     param ? param : json_null(), "code", error_code_name(err->code));
}

void add_common_headers(const struct http_request *request, struct MHD_Response *response)
{
    MHD_add_response_header(response, "X-Request-Id", request->request_id);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Cache-Control", "no-store");
    if (request->answered_by[0])
        MHD_add_response_header(response, "X-Adapter-Digest", request->answered_by);
    if (request->allow)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, request->allow);
    if (request->lorad && lorad_is_draining(request->lorad))
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
}

static enum MHD_Result queue(struct http_request *request, unsigned status, struct MHD_Response *response,
                             const char *content_type, const char *header, const char *header_value)
{
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    if (header)
        MHD_add_response_header(response, header, header_value);
    if (status == 429 || status == 503)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    add_common_headers(request, response);
    enum MHD_Result result = MHD_queue_response(request->connection, status, response);
    MHD_destroy_response(response);
    return result;
}

enum MHD_Result reply_text(struct http_request *request, unsigned status, const char *content_type, const char *text,
                           size_t n_bytes)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(n_bytes, (void *)text, MHD_RESPMEM_MUST_COPY);
    return queue(request, status, response, content_type, NULL, NULL);
}

enum MHD_Result reply_json_with(struct http_request *request, unsigned status, json_t *value, const char *header,
                                const char *header_value)
{
    static const char fallback[] = "{\"error\": {\"message\": \"internal error: no_memory\", \"type\": \"server_error\", "
                                   "\"param\": null, \"code\": \"no_memory\"}}";
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    if (!text)
        return reply_text(request, 500, "application/json", fallback, sizeof fallback - 1);
    struct MHD_Response *response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!response)
        free(text);
    return queue(request, status, response, "application/json", header, header_value);
}

enum MHD_Result reply_json(struct http_request *request, unsigned status, json_t *value)
{
    return reply_json_with(request, status, value, NULL, NULL);
}

enum MHD_Result reply_error_as(struct http_request *request, unsigned status, const struct error *err)
{
    if (status >= 500 && status != 503) {
        char quoted[600];
        log_event(LOG_ERROR, "request_failed", "request=%s path=%s code=%s message=%s", request->request_id,
                  request->route ? "known" : "unknown", error_code_name(err->code),
                  log_quote(err->message, quoted, sizeof quoted));
    }
    return reply_json(request, status, error_json(err, status));
}

enum MHD_Result reply_error(struct http_request *request, const struct error *err)
{
    return reply_error_as(request, status_of_error(err), err);
}
