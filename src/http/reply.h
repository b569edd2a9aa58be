/*
 * reply.h - status, JSON, and errors in OpenAI's shape.
 */
#ifndef HTTP_REPLY_H
#define HTTP_REPLY_H

#include "http/request.h"

unsigned status_of_error(const struct error *err);

/* Takes `value` (NULL: out of memory, answered as such). */
enum MHD_Result reply_json(struct http_request *request, unsigned status, json_t *value);
enum MHD_Result reply_json_with(struct http_request *request, unsigned status, json_t *value, const char *header,
                                const char *header_value);
enum MHD_Result reply_text(struct http_request *request, unsigned status, const char *content_type, const char *text,
                           size_t n_bytes);
enum MHD_Result reply_error(struct http_request *request, const struct error *err);
enum MHD_Result reply_error_as(struct http_request *request, unsigned status, const struct error *err);

/* {"error": {message, type, param, code}}: also what a stream sends after its headers went out. */
json_t *error_json(const struct error *err, unsigned status);

/* Adds the headers that every answer has. */
void add_common_headers(const struct http_request *request, struct MHD_Response *response);

#endif
