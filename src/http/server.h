/*
 * server.h - the HTTP server: JSON in, JSON out; a client of <lorad/lorad.h> that owns no model state.
 *
 * One thread per connection (libmicrohttpd): a handler that waits for tokens waits on the stream's descriptor and on its client's
 * socket together, so that a client who leaves is noticed at once, queued or running, streaming or not.
 */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lorad/lorad.h>

struct server;

struct server_options {
    const char *listen;        /* "HOST:PORT", "[::1]:8080", ":8080" (all addresses); port 0: any free one */
    size_t max_connections;    /* 0: 512 */
    size_t max_body_bytes;     /* JSON bodies; 0: LIMIT_BODY_BYTES */
    uint64_t max_upload_bytes; /* one adapter upload; 0: 2 GiB */
};

/* Listens at once. Until server_publish every route but /health and /version answers 503 ("loading"). NULL on failure. */
struct server *server_start(const struct server_options *options, struct error *err);

/* From now on requests are served by `lorad`. Called once. */
void server_publish(struct server *server, struct lorad *lorad);

/* "127.0.0.1:8080": where it really listens. */
const char *server_address(const struct server *server);

/* New connections are refused; requests that run go on. */
void server_quiesce(struct server *server);

/* How many requests are being answered now. */
size_t server_n_active(const struct server *server);

/* Ends what still runs, joins all threads, frees. Call before lorad_close. NULL is fine. */
void server_stop(struct server *server);

#endif
