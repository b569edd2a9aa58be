/*
 * fields.h - the fields of a generating call's JSON body -> struct lorad_request.
 */
#ifndef HTTP_FIELDS_H
#define HTTP_FIELDS_H

#include "http/request.h"

/* Sampling, stopping and adapter fields that every generating call understands, native ones included. Texts point into `body`, arrays
   lie in the request's arena. Fields named in `also_known` (ends with NULL) belong to the caller; any other is ERROR_BAD_INPUT. */
bool fields_read(struct http_request *request, const json_t *body, const char *const *also_known,
                 struct lorad_request *out, struct error *err) MUST_USE;

/* An array of token ids. */
bool fields_read_ids(struct http_request *request, const json_t *array, const char *name, const int32_t **ids_out,
                     size_t *n_out, struct error *err) MUST_USE;

#endif
