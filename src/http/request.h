/*
 * request.h - one HTTP request on its way through a handler. Lives on its connection's thread.
 */
#ifndef HTTP_REQUEST_H
#define HTTP_REQUEST_H

#include <microhttpd.h>

#include <lorad/lorad.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/json.h"
#include "base/limits.h"

struct server;
struct route;
struct upload;

struct http_request {
    struct server *server;
    struct lorad *lorad;        /* NULL: still loading; only routes that can do without are called then */
    struct MHD_Connection *connection;
    int socket;
    const char *method, *path;
    char id[LORAD_ID_SIZE];     /* the {id} of the route's pattern */
    const struct route *route;
    struct buffer body;         /* a JSON body, whole when the handler runs */
    struct upload *upload;      /* a multipart body; NULL otherwise */
    struct error refused;       /* found before the body was read: answered when it has been */
    unsigned refused_status;    /* 0: by the error's code */
    bool refused_at_once;       /* without reading the body */
    const char *allow;          /* the methods that the path knows, when the request's is another; in the arena */
    struct arena arena;         /* dies with the request */
    char request_id[40];
    char answered_by[LIMIT_REQUEST_ADAPTERS * LORAD_DIGEST_SIZE]; /* X-Adapter-Digest; "" on calls that do not generate */
};

/* A handler queues one reply and returns what the reply function returned. */
typedef enum MHD_Result handler(struct http_request *request);

/* The body as an object; NULL: err says what is wrong. An empty body is an empty object only when `may_be_empty`. */
json_t *request_body(struct http_request *request, bool may_be_empty, struct error *err);

/* A header's or query argument's value, NULL when absent. */
const char *request_header(const struct http_request *request, const char *name);
const char *request_query(const struct http_request *request, const char *name);

/* "true"/"1" or "false"/"0"; absent leaves *out. Anything else is ERROR_BAD_INPUT. */
bool request_query_bool(const struct http_request *request, const char *name, bool *out, struct error *err) MUST_USE;

/* The generation that If-Match names, without quotes, in the arena; NULL: no such header. */
bool request_if_match(struct http_request *request, const char **out, struct error *err) MUST_USE;

#endif
