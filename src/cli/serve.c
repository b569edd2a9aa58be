/*
 * serve.c - lorad serve: the daemon's life.
 *
 * SIGTERM or SIGINT drains: no new requests, running ones end, exit 0. A second signal ends at once what still runs. The handler
 * only writes a byte to a pipe on which the main thread waits. (Blocking signals and sigwait() would not do: OpenBLAS starts threads
 * before main(), and a signal that one of those does not block ends the process.)
 */
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/cli.h"
#include "http/server.h"

struct serve {
    struct lorad_options open;
    struct server_options http;
    struct option_list adapters;
    size_t drain_seconds;
};

static const char DESCRIPTION[] =
    "Holds one frozen base model and serves any number of LoRA adapters over it; adapters are loaded, replaced and unloaded\n"
    "over HTTP while it serves. It prints one line when it is ready. SIGTERM drains: no new requests, running ones end, exit 0.\n"
    "Budgets that are not given follow the memory that the machine or the cgroup grants.";

static const char *const ON_OFF[] = {"on", "off", NULL};
static const char *const LOG_FORMATS[] = {"text", "json", NULL};

static int signal_pipe[2];
static volatile sig_atomic_t is_serving;

/* While the model is being loaded there is nothing to drain. */
static void on_signal(int number)
{
    unsigned char byte = (unsigned char)number;
    if (!is_serving)
        _exit(EXIT_DONE);
    if (write(signal_pipe[1], &byte, 1) != 1)
        return; /* the pipe is full of signals that say the same */
}

/* A daemon that loads and unloads for months must give memory back. glibc would raise the size from which a block is mapped on its own (and so
   returned when freed) each time such a block is freed, and keep heaps for up to eight threads a core. */
static void bound_malloc(void)
{
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    mallopt(M_TRIM_THRESHOLD, 256 * 1024);
    mallopt(M_ARENA_MAX, 2);
}

/* Every connection and every request in flight holds a descriptor. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        log_event(LOG_WARNING, "descriptor_limit", "soft=%llu", (unsigned long long)limit.rlim_cur);
}

/* SIGPIPE is ignored: a client that left is an error return. */
static bool catch_signals(struct error *err)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) != 0)
        return error_set(err, ERROR_IO, NULL, "no pipe for signals");
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    return true;
}

/* The next signal's number; 0: none came for timeout_ms (-1: wait for ever). */
static int wait_for_signal(int timeout_ms)
{
    struct pollfd fd = {.fd = signal_pipe[0], .events = POLLIN};
    unsigned char byte;
    while (poll(&fd, 1, timeout_ms) < 0)
        ; /* interrupted by the very signal */
    return read(signal_pipe[0], &byte, 1) == 1 ? byte : 0;
}

static bool load_adapter(struct lorad *lorad, const char *argument, bool is_pinned, struct error *err)
{
    struct lorad_load_report report = {0};
    struct lorad_load_options load = {.trusted_path = true, .has_pin = is_pinned, .pin = is_pinned};
    char *id, *path;
    if (!parse_adapter_argument(argument, &id, &path, NULL, err))
        return false;
    load.path = path;
    bool ok = lorad_adapter_load(lorad, id, &load, &report, err);
    if (!ok)
        error_prefix(err, "--adapter %s", argument);
    for (size_t i = 0; ok && i < report.n_warnings; i++) {
        char quoted[600];
        log_event(LOG_WARNING, "adapter_warning", "id=%s message=%s", id,
                  log_quote(report.warnings[i], quoted, sizeof quoted));
    }
    lorad_load_report_finish(&report);
    free(id);
    free(path);
    return ok;
}

static size_t count_adapters(struct lorad *lorad)
{
    struct lorad_adapter_list list = {0};
    size_t n_ready = 0;
    if (!lorad_adapter_list(lorad, &list, NULL))
        return 0;
    for (size_t i = 0; i < list.n_adapters; i++)
        n_ready += list.adapters[i].state == LORAD_ADAPTER_READY;
    lorad_adapter_list_finish(&list);
    return n_ready;
}

static void say_ready(struct lorad *lorad, const struct server *server)
{
    const struct lorad_model_info *info = lorad_model(lorad);
    printf("lorad %s ready on http://%s  model %s (%s, %s, %.1f M parameters)  adapters %zu  threads %zu (%s)\n",
           lorad_version(), server_address(server), info->name, info->family, info->weights,
           (double)info->n_parameters / 1e6, count_adapters(lorad), info->n_threads, info->kernels);
    fflush(stdout);
}

/* Waits until nothing runs, for at most `seconds`, or until another signal comes. */
static void drain(struct lorad *lorad, struct server *server, size_t seconds)
{
    uint64_t end_us = clock_now_us() + (uint64_t)seconds * 1000000;
    log_event(LOG_INFO, "draining", "requests=%zu seconds=%zu", server_n_active(server), seconds);
    server_quiesce(server);
    lorad_drain(lorad);
    while (clock_now_us() < end_us && !(lorad_is_idle(lorad) && server_n_active(server) == 0))
        if (wait_for_signal(20) != 0)
            return;
}

/* Its threads inherit that signals are for the main thread. */
static struct server *start_server(const struct server_options *options, struct error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    struct server *server = server_start(options, err);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return server;
}

static bool run(const struct serve *serve, struct error *err)
{
    struct lorad *lorad = NULL;
    struct server *server = start_server(&serve->http, err);
    if (!server)
        return false;
    lorad = lorad_open(&serve->open, err);
    if (!lorad)
        goto fail;
    for (size_t i = 0; i < serve->adapters.n_items; i++)
        if (!load_adapter(lorad, serve->adapters.items[i], serve->open.lazy, err))
            goto fail;
    server_publish(server, lorad);
    is_serving = 1;
    say_ready(lorad, server);
    int signal_number = wait_for_signal(-1);
    drain(lorad, server, serve->drain_seconds);
    server_stop(server);
    lorad_close(lorad);
    log_event(LOG_INFO, "stopped", "signal=%s", signal_number == SIGTERM ? "TERM" : "INT");
    return true;

fail:
    server_stop(server);
    lorad_close(lorad);
    return false;
}

int serve_main(int argc, char **argv)
{
    struct serve serve = {.http = {.listen = "127.0.0.1:8080"}, .drain_seconds = 30};
    int kv_type = LORAD_KV_F16, weights = LORAD_WEIGHTS_NATIVE, log_format = LOG_TEXT, auto_merge = 0;
    struct option options[] = {
        {.name = "model", .argument = "PATH", .kind = OPTION_TEXT, .out = &serve.open.model_path,
         .help = "the base: a Hugging Face directory"},
        {.name = "adapter", .argument = "ID=PATH", .kind = OPTION_LIST, .out = &serve.adapters,
         .help = "a PEFT directory to load at start; may be given several times"},
        {.name = "adapters-dir", .argument = "DIR", .kind = OPTION_TEXT, .out = &serve.open.adapters_dir,
         .help = "paths in requests are confined to it; without it they are refused"},
        {.name = "lazy", .kind = OPTION_FLAG, .out = &serve.open.lazy,
         .help = "every adapter in --adapters-dir is loaded on first use and makes room for others (--adapter-memory)"},
        {.name = "state-dir", .argument = "DIR", .kind = OPTION_TEXT, .out = &serve.open.state_dir,
         .help = "keeps the registry and uploads over a restart; without it uploads are refused"},
        {.name = "listen", .argument = "HOST:PORT", .kind = OPTION_TEXT, .out = &serve.http.listen,
         .help = "where to listen (127.0.0.1:8080); port 0: any free one"},
        {.name = "served-name", .argument = "NAME", .kind = OPTION_TEXT, .out = &serve.open.served_name,
         .help = "the base's name in the API (its directory's name)"},
        {.name = "weights", .argument = "TYPE", .kind = OPTION_CHOICE, .out = &weights, .choices = CLI_WEIGHTS,
         .help = "what products multiply with (native: what the files hold)"},
        {.name = "weights-cache", .argument = "DIR", .kind = OPTION_TEXT, .out = &serve.open.weights_cache,
         .help = "keeps packed weights there: the next start takes a moment, processes share them"},
        {.name = "kv-type", .argument = "TYPE", .kind = OPTION_CHOICE, .out = &kv_type, .choices = CLI_KV_TYPES,
         .help = "what keys and values are held as: f16, bf16, f32 (f16)"},
        {.name = "threads", .argument = "N", .kind = OPTION_COUNT, .out = &serve.open.n_threads, .minimum = 1, .maximum = 1024,
         .help = "compute threads (the cores that are granted)"},
        {.name = "context", .argument = "N", .kind = OPTION_COUNT, .out = &serve.open.context, .minimum = 1, .maximum = 4194304,
         .help = "positions per sequence (the model's, at most 8192)"},
        {.name = "max-sequences", .argument = "N", .kind = OPTION_COUNT, .out = &serve.open.max_sequences, .minimum = 1,
         .maximum = 4096, .help = "requests that run at a time (as many as keep the machine busy, 16 to 64)"},
        {.name = "max-batch-tokens", .argument = "N", .kind = OPTION_COUNT, .out = &serve.open.max_batch_tokens, .minimum = 1,
         .maximum = 65536, .help = "tokens per step (256)"},
        {.name = "max-queue", .argument = "N", .kind = OPTION_COUNT, .out = &serve.open.max_queue, .minimum = 1,
         .maximum = 1000000, .help = "requests that may wait; beyond them 429 (1024)"},
        {.name = "kv-memory", .argument = "SIZE", .kind = OPTION_BYTES, .out = &serve.open.kv_memory,
         .help = "key/value cache (at most a quarter of the memory)"},
        {.name = "adapter-memory", .argument = "SIZE", .kind = OPTION_BYTES, .out = &serve.open.adapter_memory,
         .help = "loaded adapters (an eighth)"},
        {.name = "merged-memory", .argument = "SIZE", .kind = OPTION_BYTES, .out = &serve.open.merged_memory,
         .help = "cached merged weights (an eighth)"},
        {.name = "auto-merge", .argument = "WHEN", .kind = OPTION_CHOICE, .out = &auto_merge, .choices = ON_OFF,
         .help = "on: merges by itself what gains by it (on); off: only what is asked for"},
        {.name = "max-connections", .argument = "N", .kind = OPTION_COUNT, .out = &serve.http.max_connections, .minimum = 1,
         .maximum = 10000, .help = "HTTP connections at a time (512)"},
        {.name = "max-upload", .argument = "SIZE", .kind = OPTION_BYTES, .out = &serve.http.max_upload_bytes,
         .help = "one uploaded adapter (2G)"},
        {.name = "drain-seconds", .argument = "N", .kind = OPTION_COUNT, .out = &serve.drain_seconds, .minimum = 0, .maximum = 86400,
         .help = "how long running requests may take to end after SIGTERM (30)"},
        {.name = "cpu", .argument = "SET", .kind = OPTION_TEXT, .out = &serve.open.cpu,
         .help = "forces an instruction set: c, avx2, avxvnni, avx512, avx512vnni, avx512amx, avx512amxbf16 "
                 "(other last bits with bf16 weights), avx512bf16, neon, neondot"},
        {.name = "log-format", .argument = "FORMAT", .kind = OPTION_CHOICE, .out = &log_format, .choices = LOG_FORMATS,
         .help = "of the log on stderr (text)"},
        {0}};
    struct command command = {.name = "serve",
                              .synopsis = "--model PATH [--adapter ID=PATH]... [flags]",
                              .summary = "Serves a base model and its adapters over HTTP.",
                              .description = DESCRIPTION,
                              .options = options,
                              .has_environment = true};
    struct error err = {0};
    const char **operands = calloc((size_t)argc + 1, sizeof *operands);
    size_t n_operands;
    int code = EXIT_FAILED;
    if (!operands || !cli_begin(&command, argc, argv, operands, &n_operands, &code))
        goto done;
    if (!serve.open.model_path) {
        fprintf(stderr, "lorad: serve needs --model (or LORAD_MODEL); 'lorad serve --help' tells more\n");
        code = EXIT_USAGE;
        goto done;
    }
    serve.open.weights = (enum lorad_weights)weights;
    serve.open.kv_type = (enum lorad_kv_type)kv_type;
    serve.open.no_auto_merge = auto_merge != 0;
    serve.open.progress = cli_progress;
    log_configure(LOG_INFO, (enum log_format)log_format);
    bound_malloc();
    raise_descriptor_limit();
    code = catch_signals(&err) && run(&serve, &err) ? EXIT_DONE : cli_fail(&err, false);
done:
    command_finish(&command);
    free(operands);
    return code;
}
