/*
 * server.c - libmicrohttpd's life cycle, limits, and what every request goes through before its handler.
 *
 * Entry points: server_start makes the daemon; access_request collects a request's body and calls its handler; the reaper closes connections
 * that take too long to say what they want. What libmicrohttpd 0.9.75 leaves to its user is done here: an absolute deadline for
 * a request's head and body (its own timeout is only about inactivity, and would also close a connection whose handler waits for
 * tokens, so it is switched off while one does), and the refusal of ambiguous framing (check_framing). A client that takes none of
 * its answer for IDLE_SECONDS is that timeout's: a stream says something more often than that.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/list.h"
#include "base/log.h"
#include "http/reply.h"
#include "http/request.h"
#include "http/router.h"
#include "http/server.h"
#include "http/upload.h"

#define IDLE_SECONDS 30          /* between requests, and without any byte */
#define HEAD_SECONDS 30          /* for a whole head and JSON body, from the first byte or the end of the last request */
#define UPLOAD_SECONDS 1800
#define CONNECTION_MEMORY 32768  /* head and buffers of one connection */
#define STACK_BYTES (512 * 1024)
#define DEFAULT_CONNECTIONS 512
#define DEFAULT_UPLOAD ((uint64_t)2 << 30)

/* One connection. Guarded by the server's lock. */
struct connection {
    struct list link;
    int socket;
    uint64_t deadline_us; /* the reaper shuts the socket down then; UINT64_MAX: never */
};

struct server {
    struct MHD_Daemon *daemon;
    struct lorad *_Atomic lorad;
    size_t max_body_bytes;
    uint64_t max_upload_bytes;
    char address[128];
    bool is_loopback;
    atomic_size_t n_active;
    atomic_uint_fast64_t n_requests;
    uint64_t id_seed;
    pthread_mutex_t lock;      /* guards connections */
    struct list connections;
    pthread_t reaper;
    bool reaper_runs;
    int reaper_wake[2];        /* a pipe: a byte ends the reaper */
    bool quiesced;
    MHD_socket listen_socket;  /* after quiescing; ours to close */
};

/* -- Connections and their deadlines ------------------------------------------------------------- */

static void set_deadline(struct server *server, struct connection *connection, uint64_t seconds)
{
    pthread_mutex_lock(&server->lock);
    connection->deadline_us = seconds ? clock_now_us() + seconds * 1000000 : UINT64_MAX;
    pthread_mutex_unlock(&server->lock);
}

static struct connection *connection_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static int socket_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? info->connect_fd : -1;
}

static void notify_connection(void *context, struct MHD_Connection *mhd, void **socket_context,
                              enum MHD_ConnectionNotificationCode what)
{
    struct server *server = context;
    struct connection *connection = *socket_context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        int yes = 1;
        connection = calloc(1, sizeof *connection);
        if (!connection)
            return;
        connection->socket = socket_of(mhd);
        setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        connection->deadline_us = clock_now_us() + (uint64_t)HEAD_SECONDS * 1000000;
        pthread_mutex_lock(&server->lock);
        list_append(&server->connections, &connection->link);
        pthread_mutex_unlock(&server->lock);
        *socket_context = connection;
    } else if (connection) {
        pthread_mutex_lock(&server->lock);
        list_remove(&connection->link);
        pthread_mutex_unlock(&server->lock);
        free(connection);
        *socket_context = NULL;
    }
}

/* Its thread closes the socket; shutting it down makes that thread notice. */
static void reap(struct server *server)
{
    uint64_t now = clock_now_us();
    pthread_mutex_lock(&server->lock);
    LIST_FOR_EACH(link, &server->connections) {
        struct connection *connection = LIST_ENTRY(link, struct connection, link);
        if (connection->deadline_us <= now) {
            shutdown(connection->socket, SHUT_RDWR);
            connection->deadline_us = UINT64_MAX;
        }
    }
    pthread_mutex_unlock(&server->lock);
}

static void *reaper_main(void *context)
{
    struct server *server = context;
    struct pollfd wake = {.fd = server->reaper_wake[0], .events = POLLIN};
    while (poll(&wake, 1, 1000) <= 0)
        reap(server);
    return NULL;
}

/* -- Request helpers ------------------------------------------------------------------------------ */

const char *request_header(const struct http_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

const char *request_query(const struct http_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
}

bool request_query_bool(const struct http_request *request, const char *name, bool *out, struct error *err)
{
    const char *text = request_query(request, name);
    if (!text)
        return true;
    bool yes = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    if (!yes && strcmp(text, "false") != 0 && strcmp(text, "0") != 0)
        return error_set(err, ERROR_BAD_INPUT, name, "is '%.32s', expected true or false", text);
    *out = yes;
    return true;
}

bool request_if_match(struct http_request *request, const char **out, struct error *err)
{
    const char *text = request_header(request, MHD_HTTP_HEADER_IF_MATCH);
    if (!text)
        return true;
    size_t n = strlen(text);
    bool quoted = n >= 2 && text[0] == '"' && text[n - 1] == '"';
    char *copy = arena_copy_text(&request->arena, text + quoted, n - 2 * (size_t)quoted);
    if (!copy)
        return error_no_memory(err);
    if (strcmp(copy, "*") != 0 && (strlen(copy) != 64 || strspn(copy, "0123456789abcdef") != 64))
        return error_set(err, ERROR_BAD_INPUT, "If-Match", "is '%.80s', expected a generation: 64 hex digits", copy);
    *out = copy;
    return true;
}

json_t *request_body(struct http_request *request, bool may_be_empty, struct error *err)
{
    if (request->body.n_bytes == 0 && may_be_empty)
        return json_object();
    if (request->body.n_bytes == 0) {
        error_set(err, ERROR_BAD_INPUT, NULL, "the body is empty, expected a JSON object");
        return NULL;
    }
    return json_parse_object(request->body.data, request->body.n_bytes, JSON_PLAIN, "body", err);
}

/* -- What every request must pass ------------------------------------------------------------------ */

struct framing {
    unsigned n_length, n_coding, n_host, n_origin;
    const char *coding, *host, *origin;
};

static enum MHD_Result count_header(void *context, enum MHD_ValueKind kind, const char *key, const char *value)
{
    struct framing *framing = context;
    (void)kind;
    if (strcasecmp(key, "Content-Length") == 0)
        framing->n_length++;
    if (strcasecmp(key, "Transfer-Encoding") == 0) {
        framing->n_coding++;
        framing->coding = value;
    }
    if (strcasecmp(key, "Host") == 0) {
        framing->n_host++;
        framing->host = value;
    }
    if (strcasecmp(key, "Origin") == 0) {
        framing->n_origin++;
        framing->origin = value;
    }
    return MHD_YES;
}

/* Two readers of one connection must not see two different requests in it. */
static bool check_framing(const struct framing *framing, struct error *err)
{
    if (framing->n_length > 1 || framing->n_coding > 1 || framing->n_host > 1)
        return error_set(err, ERROR_BAD_INPUT, NULL, "Content-Length, Transfer-Encoding and Host may each come once");
    if (framing->n_length && framing->n_coding)
        return error_set(err, ERROR_BAD_INPUT, NULL, "Content-Length and Transfer-Encoding are both there");
    if (framing->coding && strcasecmp(framing->coding, "chunked") != 0)
        return error_set(err, ERROR_BAD_INPUT, "Transfer-Encoding", "is not 'chunked'");
    return true;
}

static bool is_loopback_name(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i]);
        if (host && strncasecmp(host, names[i], n) == 0 && (host[n] == '\0' || host[n] == ':'))
            return true;
    }
    return false;
}

/* A web page that a user of this machine looks at must not drive the daemon: a browser says by Origin where a request comes
   from. It must be this very host; and on loopback, a name of loopback (a foreign name may have been pointed here). */
static bool check_origin(const struct server *server, const struct framing *framing, struct error *err)
{
    if (!framing->origin)
        return true;
    const char *slashes = strstr(framing->origin, "://");
    bool same = slashes && framing->host && strcasecmp(slashes + 3, framing->host) == 0;
    if (framing->n_origin > 1 || !same || (server->is_loopback && !is_loopback_name(framing->host)))
        return error_set(err, ERROR_BAD_INPUT, "Origin", "requests of other sites' pages are not served");
    return true;
}

static bool check_length(const struct http_request *request, uint64_t maximum, struct error *err)
{
    const char *text = request_header(request, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (text && strtoull(text, NULL, 10) > maximum)
        return error_set(err, ERROR_TOO_LARGE, NULL, "the body has %.20s bytes, at most %llu are taken", text,
                         (unsigned long long)maximum);
    return true;
}

static void refuse(struct http_request *request, unsigned status, const struct error *err)
{
    request->refused = *err;
    request->refused_status = status;
}

static bool is_multipart(const struct http_request *request)
{
    const char *type = request_header(request, MHD_HTTP_HEADER_CONTENT_TYPE);
    return type && strncasecmp(type, "multipart/form-data", 19) == 0;
}

/* A client that asks whether to send its body waits for the answer. */
static bool asks_first(const struct http_request *request)
{
    return request_header(request, MHD_HTTP_HEADER_EXPECT) != NULL;
}

/* Looks at the head. What is wrong is answered when the body has been read, so that the client gets to see it, but at once when
   nobody can say where that body ends, it is too long to be worth reading, or it is not yet on its way: libmicrohttpd closes the
   connection then. */
static void check_head(struct http_request *request)
{
    struct server *server = request->server;
    struct framing framing = {0};
    struct error err = {0};
    bool is_ambiguous = false;
    MHD_get_connection_values(request->connection, MHD_HEADER_KIND, count_header, &framing);
    if (!check_framing(&framing, &err)) {
        is_ambiguous = true;
        refuse(request, 0, &err);
    } else if (!check_origin(server, &framing, &err)) {
        refuse(request, MHD_HTTP_FORBIDDEN, &err);
    } else if (!router_find(request, &err)) {
        refuse(request, request->allow ? MHD_HTTP_METHOD_NOT_ALLOWED : MHD_HTTP_NOT_FOUND, &err);
    } else if (!request->lorad && !request->route->serves_unloaded) {
        error_set(&err, ERROR_UNAVAILABLE, NULL, "the model is being loaded");
        refuse(request, 0, &err);
    } else if (is_multipart(request) && !request->route->takes_upload) {
        error_set(&err, ERROR_BAD_INPUT, "Content-Type", "this call takes JSON");
        refuse(request, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE, &err);
    } else if (!check_length(request, is_multipart(request) ? server->max_upload_bytes : server->max_body_bytes, &err)) {
        refuse(request, 0, &err);
    } else if (is_multipart(request)) {
        set_deadline(server, connection_of(request->connection), UPLOAD_SECONDS);
        request->upload = upload_begin(request->lorad, request_header(request, MHD_HTTP_HEADER_CONTENT_TYPE),
                                       server->max_upload_bytes, &err);
        if (!request->upload)
            refuse(request, 0, &err);
    }
    bool is_refused = request->refused.code != ERROR_NONE;
    request->refused_at_once = is_ambiguous || request->refused.code == ERROR_TOO_LARGE || (is_refused && asks_first(request));
}

/* -- The life of a request --------------------------------------------------------------------------- */

static struct http_request *begin_request(struct server *server, struct MHD_Connection *connection, const char *path,
                                          const char *method)
{
    struct http_request *request = calloc(1, sizeof *request);
    if (!request)
        return NULL;
    request->server = server;
    request->lorad = atomic_load(&server->lorad);
    request->connection = connection;
    request->socket = socket_of(connection);
    request->method = method;
    request->path = path;
    arena_init(&request->arena, 4096);
    buffer_init(&request->body, server->max_body_bytes);
    uint64_t number = atomic_fetch_add(&server->n_requests, 1);
    snprintf(request->request_id, sizeof request->request_id, "%016llx%08llx", (unsigned long long)server->id_seed,
             (unsigned long long)number);
    atomic_fetch_add(&server->n_active, 1);
    return request;
}

static void take_body(struct http_request *request, const char *bytes, size_t n_bytes)
{
    struct error err = {0};
    if (request->refused.code != ERROR_NONE)
        return; /* read and dropped: the answer is known */
    if (request->upload) {
        if (!upload_feed(request->upload, bytes, n_bytes, &err))
            refuse(request, 0, &err);
    } else if (!buffer_append(&request->body, bytes, n_bytes)) {
        error_set(&err, ERROR_TOO_LARGE, NULL, "the body has more than %zu bytes", request->server->max_body_bytes);
        refuse(request, 0, &err);
    }
}

static enum MHD_Result answer_request(struct http_request *request)
{
    enum MHD_Result result;
    set_deadline(request->server, connection_of(request->connection), 0);
    if (request->refused.code == ERROR_NONE) {
        MHD_set_connection_option(request->connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
        result = request->route->handle(request);
        MHD_set_connection_option(request->connection, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)IDLE_SECONDS);
    } else if (request->refused_status) {
        result = reply_error_as(request, request->refused_status, &request->refused);
    } else {
        result = reply_error(request, &request->refused);
    }
    return result;
}

static enum MHD_Result access_request(void *context, struct MHD_Connection *connection, const char *path,
                                      const char *method, const char *version, const char *upload_data,
                                      size_t *upload_data_size, void **request_context)
{
    struct server *server = context;
    struct http_request *request = *request_context;
    (void)version;
    if (!request) {
        request = connection_of(connection) ? begin_request(server, connection, path, method) : NULL;
        if (!request)
            return MHD_NO;
        *request_context = request;
        check_head(request);
        return request->refused_at_once ? answer_request(request) : MHD_YES;
    }
    if (*upload_data_size > 0) {
        take_body(request, upload_data, *upload_data_size);
        *upload_data_size = 0;
        return MHD_YES;
    }
    return answer_request(request);
}

static void complete_request(void *context, struct MHD_Connection *connection, void **request_context,
                             enum MHD_RequestTerminationCode how)
{
    struct server *server = context;
    struct http_request *request = *request_context;
    (void)how;
    if (!request)
        return;
    struct connection *watched = connection_of(connection);
    if (watched)
        set_deadline(server, watched, HEAD_SECONDS);
    upload_destroy(request->upload);
    buffer_finish(&request->body);
    arena_finish(&request->arena);
    free(request);
    *request_context = NULL;
    atomic_fetch_sub(&server->n_active, 1);
}

PRINTF_LIKE(2, 0)
static void log_from_daemon(void *context, const char *format, va_list arguments)
{
    char text[512], quoted[600];
    (void)context;
    vsnprintf(text, sizeof text, format, arguments);
    text[strcspn(text, "\n")] = '\0';
    log_event(LOG_DEBUG, "http", "message=%s", log_quote(text, quoted, sizeof quoted));
}

/* -- Start and stop ------------------------------------------------------------------------------------ */

/* "HOST:PORT" -> an address; an empty host is all addresses. */
static bool resolve(const char *listen, struct addrinfo **out, struct error *err)
{
    char host[256];
    const char *colon = strrchr(listen, ':');
    if (!colon || !colon[1])
        return error_set(err, ERROR_BAD_INPUT, "listen", "'%s' is not HOST:PORT", listen);
    size_t n_host = (size_t)(colon - listen);
    bool bracketed = n_host >= 2 && listen[0] == '[' && listen[n_host - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(n_host - 2 * (size_t)bracketed), listen + bracketed);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    int code = getaddrinfo(host[0] ? host : NULL, colon + 1, &hints, out);
    if (code != 0)
        return error_set(err, ERROR_BAD_INPUT, "listen", "'%s': %s", listen, gai_strerror(code));
    return true;
}

/* A listening socket of our own, so that its failure has a reason and port 0 a number. */
static int open_socket(const struct addrinfo *address, const char *listen_text, struct error *err)
{
    int yes = 1;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        error_set(err, ERROR_IO, "listen", "%s: %s", listen_text, strerror(errno));
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, 511) != 0) {
        error_set(err, ERROR_IO, "listen", "%s: %s", listen_text, strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

static void describe_address(struct server *server, int fd)
{
    struct sockaddr_storage bound;
    socklen_t n = sizeof bound;
    char host[64] = "", port[16] = "";
    if (getsockname(fd, (struct sockaddr *)&bound, &n) != 0)
        return;
    getnameinfo((struct sockaddr *)&bound, n, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    bool is_v6 = bound.ss_family == AF_INET6;
    snprintf(server->address, sizeof server->address, is_v6 ? "[%s]:%s" : "%s:%s", host, port);
    server->is_loopback = strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

static bool start_daemon(struct server *server, const struct server_options *options, struct error *err)
{
    struct addrinfo *address;
    if (!resolve(options->listen, &address, err))
        return false;
    int fd = open_socket(address, options->listen, err);
    freeaddrinfo(address);
    if (fd < 0)
        return false;
    describe_address(server, fd);
    size_t n_connections = options->max_connections ? options->max_connections : DEFAULT_CONNECTIONS;
    server->daemon = MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ERROR_LOG | MHD_USE_ITC,
        0, NULL, NULL, access_request, server, MHD_OPTION_EXTERNAL_LOGGER, log_from_daemon, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)n_connections,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_NOTIFY_COMPLETED, complete_request, server, MHD_OPTION_NOTIFY_CONNECTION, notify_connection, server,
        MHD_OPTION_END);
    if (!server->daemon) {
        close(fd);
        return error_set(err, ERROR_INTERNAL, "listen", "the HTTP server does not start");
    }
    return true;
}

struct server *server_start(const struct server_options *options, struct error *err)
{
    struct server *server = calloc(1, sizeof *server);
    if (!server) {
        error_no_memory(err);
        return NULL;
    }
    server->max_body_bytes = options->max_body_bytes ? options->max_body_bytes : LIMIT_BODY_BYTES;
    server->max_upload_bytes = options->max_upload_bytes ? options->max_upload_bytes : DEFAULT_UPLOAD;
    server->listen_socket = MHD_INVALID_SOCKET;
    list_init(&server->connections);
    pthread_mutex_init(&server->lock, NULL);
    if (getrandom(&server->id_seed, sizeof server->id_seed, 0) != (ssize_t)sizeof server->id_seed)
        server->id_seed = clock_now_us();
    if (pipe(server->reaper_wake) != 0) {
        error_set(err, ERROR_IO, NULL, "pipe: %s", strerror(errno));
        pthread_mutex_destroy(&server->lock);
        free(server);
        return NULL;
    }
    server->reaper_runs = pthread_create(&server->reaper, NULL, reaper_main, server) == 0;
    if (server->reaper_runs && start_daemon(server, options, err))
        return server;
    if (!server->reaper_runs)
        error_set(err, ERROR_INTERNAL, NULL, "a thread does not start");
    server_stop(server);
    return NULL;
}

void server_publish(struct server *server, struct lorad *lorad)
{
    atomic_store(&server->lorad, lorad);
}

const char *server_address(const struct server *server)
{
    return server->address;
}

void server_quiesce(struct server *server)
{
    if (server->quiesced)
        return;
    server->quiesced = true;
    server->listen_socket = MHD_quiesce_daemon(server->daemon);
    /* Only stop may close it, but until then new clients should be refused, not left to wait in the backlog. */
    if (server->listen_socket != MHD_INVALID_SOCKET)
        shutdown(server->listen_socket, SHUT_RDWR);
}

size_t server_n_active(const struct server *server)
{
    return atomic_load(&((struct server *)server)->n_active);
}

/* Makes handlers that wait for tokens see that their client is gone. */
static void shut_connections(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    LIST_FOR_EACH(link, &server->connections)
        shutdown(LIST_ENTRY(link, struct connection, link)->socket, SHUT_RDWR);
    pthread_mutex_unlock(&server->lock);
}

void server_stop(struct server *server)
{
    if (!server)
        return;
    if (server->daemon) {
        server_quiesce(server);
        shut_connections(server);
        MHD_stop_daemon(server->daemon);
        if (server->listen_socket != MHD_INVALID_SOCKET)
            close(server->listen_socket);
    }
    if (server->reaper_runs) {
        if (write(server->reaper_wake[1], "x", 1) == 1)
            pthread_join(server->reaper, NULL);
    }
    close(server->reaper_wake[0]);
    close(server->reaper_wake[1]);
    pthread_mutex_destroy(&server->lock);
    free(server);
}
