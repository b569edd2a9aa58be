/*
 * fuzz_http.c - any bytes as the body of any call of the real server, over loopback, with a tiny model behind it.
 *
 * The first byte chooses the call; the rest is its body. Whatever it is, the answer must be whole HTTP with a status that the API
 * has, an error must have OpenAI's shape, and nothing may stay behind: no request runs on, no adapter appears by itself.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/json.h"
#include "http/server.h"
#include "support/tiny_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data);

static const struct {
    const char *head;
} CALLS[] = {
    {"POST /v1/generate HTTP/1.1\r\n"},
    {"POST /v1/completions HTTP/1.1\r\n"},
    {"POST /tokenize HTTP/1.1\r\n"},
    {"POST /detokenize HTTP/1.1\r\n"},
    {"PUT /v1/adapters/a HTTP/1.1\r\n"},
    {"PUT /v1/adapters/a/merged HTTP/1.1\r\n"},
    {"POST /v1/load_lora_adapter HTTP/1.1\r\n"},
    {"POST /v1/unload_lora_adapter HTTP/1.1\r\n"},
    {"PUT /v1/adapters/up?dry_run=true HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"},
};
#define N_CALLS (sizeof CALLS / sizeof *CALLS)

static struct lorad *lorad;
static struct server *server;
static struct sockaddr_in address;
static char state_directory[] = "/tmp/lorad-fuzz-XXXXXX";

static void start(void)
{
    struct error err = {0};
    struct tiny_model spec = {.family = "llama", .has_tokenizer = true, .max_positions = 64};
    char *model = tiny_model_write(spec);
    struct lorad_options options = {.model_path = model, .n_threads = 1, .adapters_dir = "/nonexistent",
                                    .state_dir = mkdtemp(state_directory), .max_sequences = 4};
    struct server_options http = {.listen = "127.0.0.1:0"};
    lorad = lorad_open(&options, &err);
    tiny_remove(model); /* the mapped weights live on */
    server = lorad ? server_start(&http, &err) : NULL;
    if (!server) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    server_publish(server, lorad);
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)atoi(strrchr(server_address(server), ':') + 1));
}

static void send_all(int fd, const void *bytes, size_t n_bytes)
{
    const char *at = bytes;
    while (n_bytes > 0) {
        ssize_t n = send(fd, at, n_bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) /* libFuzzer's clock */
            continue;
        if (n <= 0)
            return; /* it may refuse a body before all of it was sent */
        at += n;
        n_bytes -= (size_t)n;
    }
}

static void ask(struct buffer *answer, size_t call, const void *body, size_t n_body)
{
    char head[512], chunk[16384];
    ssize_t n;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        abort();
    int n_head = snprintf(head, sizeof head, "%sHost: localhost\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
                          CALLS[call].head, n_body);
    send_all(fd, head, (size_t)n_head);
    send_all(fd, body, n_body);
    while ((n = recv(fd, chunk, sizeof chunk, 0)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0)
            buffer_append(answer, chunk, (size_t)n);
    close(fd);
}

static void check_error(const char *body, size_t n_body)
{
    struct error err;
    json_t *value = json_parse_object(body, n_body, JSON_PLAIN, "answer", &err);
    const json_t *error = json_object_get(value, "error");
    assert(json_is_string(json_object_get(error, "message")));
    assert(json_is_string(json_object_get(error, "type")));
    assert(json_object_get(error, "param"));
    assert(json_object_get(error, "code"));
    json_decref(value);
}

static void check_answer(const struct buffer *answer)
{
    static const int known[] = {200, 201, 202, 400, 404, 409, 412, 413, 415, 422, 429};
    int status = 0;
    bool is_known = false;
    const char *end = answer->n_bytes ? memmem(answer->data, answer->n_bytes, "\r\n\r\n", 4) : NULL;
    assert(end && sscanf(answer->data, "HTTP/1.1 %d", &status) == 1);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        is_known |= known[i] == status;
    assert(is_known);
    if (status >= 400)
        check_error(end + 4, answer->n_bytes - (size_t)(end + 4 - answer->data));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data)
{
    struct lorad_adapter_list list = {0};
    struct buffer answer;
    if (n_data == 0)
        return 0;
    if (!lorad)
        start();
    buffer_init(&answer, 0);
    ask(&answer, data[0] % N_CALLS, data + 1, n_data - 1);
    check_answer(&answer);
    buffer_finish(&answer);
    assert(lorad_adapter_list(lorad, &list, NULL) && list.n_adapters == 0);
    lorad_adapter_list_finish(&list);
    return 0;
}
