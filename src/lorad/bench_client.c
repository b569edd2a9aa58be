/*
 * bench_client.c - clients of the public API in one thread: it polls the descriptors of all open streams and stamps each token
 * when it takes it, as a client on the other side of a socket would see it.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "lorad/bench.h"

/* A request that asks for W' gets it. What was merged beforehand needs no wait. */
static const unsigned MERGE_WAIT_MS = 600000;

bool crowd_init(struct crowd *crowd, size_t n_room, struct error *err)
{
    *crowd = (struct crowd){.n_room = n_room};
    crowd->clients = calloc(n_room, sizeof *crowd->clients);
    crowd->polls = calloc(n_room, sizeof *crowd->polls);
    crowd->polled = calloc(n_room, sizeof *crowd->polled);
    if (crowd->clients && crowd->polls && crowd->polled)
        return true;
    crowd_finish(crowd);
    return error_no_memory(err);
}

void crowd_finish(struct crowd *crowd)
{
    for (size_t i = 0; i < crowd->n_clients; i++) {
        lorad_stream_close(crowd->clients[i].stream);
        free(crowd->clients[i].stamps_us);
    }
    free(crowd->clients);
    free(crowd->polls);
    free(crowd->polled);
    *crowd = (struct crowd){0};
}

/* Any token will do: only their number and whether prompts begin alike matter. */
static void fill_prompt(struct bench *bench, const struct bench_ask *ask, int32_t *ids)
{
    uint64_t own = ++bench->n_prompts;
    size_t n_vocab = lorad_model(bench->lorad)->n_vocab;
    for (size_t i = 0; i < ask->n_prompt; i++) {
        uint64_t seed = i < ask->n_common ? ask->beginning * 104729 + 7 : own * 15485863;
        ids[i] = (int32_t)((i * 7919 + seed + 13) % n_vocab);
    }
}

static struct lorad_stream *submit(struct bench *bench, const struct bench_ask *ask, struct error *err)
{
    struct lorad_request request;
    struct lorad_stream *stream = NULL;
    char id[32];
    struct lorad_adapter_choice choice = {.id = id, .weight = 1};
    int32_t *ids = malloc(ask->n_prompt * sizeof *ids);
    if (!ids) {
        error_no_memory(err);
        return NULL;
    }
    fill_prompt(bench, ask, ids);
    lorad_request_init(bench->lorad, &request);
    request.input_ids = ids;
    request.n_input_ids = ask->n_prompt;
    request.max_tokens = ask->n_new;
    request.ignore_eos = true;
    request.sampling.temperature = 0;
    request.has_mode = true;
    request.mode = ask->mode;
    request.merge_wait_ms = MERGE_WAIT_MS;
    if (ask->adapter != BENCH_BASE) {
        snprintf(id, sizeof id, "bench-%zu", ask->adapter);
        request.adapters = &choice;
        request.n_adapters = 1;
    }
    stream = lorad_submit(bench->lorad, &request, err);
    free(ids);
    return stream;
}

struct bench_client *crowd_ask(struct crowd *crowd, struct bench *bench, const struct bench_ask *ask, struct error *err)
{
    if (crowd->n_clients == crowd->n_room) {
        error_set(err, ERROR_INTERNAL, NULL, "more clients than the %zu there is room for", crowd->n_room);
        return NULL;
    }
    struct bench_client *client = &crowd->clients[crowd->n_clients];
    *client = (struct bench_client){.submitted_us = clock_now_us()};
    client->stream = submit(bench, ask, err);
    if (!client->stream)
        return NULL;
    crowd->n_clients++;
    crowd->n_open++;
    return client;
}

static bool add_stamp(struct bench_client *client, uint64_t now_us, struct error *err)
{
    if (client->n_tokens == client->n_room) {
        size_t n_room = client->n_room ? 2 * client->n_room : 64;
        uint64_t *stamps = realloc(client->stamps_us, n_room * sizeof *stamps);
        if (!stamps)
            return error_no_memory(err);
        client->stamps_us = stamps;
        client->n_room = n_room;
    }
    client->stamps_us[client->n_tokens++] = now_us;
    return true;
}

static bool end_client(struct crowd *crowd, struct bench_client *client, const struct lorad_event *event, struct error *err)
{
    bool ok = event->finish == LORAD_FINISH_LENGTH || (event->finish == LORAD_FINISH_CANCELLED && client->is_cancelled);
    if (!ok)
        error_set(err, ERROR_INTERNAL, NULL, "a request ended early: %s",
                  event->error_message ? event->error_message : "no reason was given");
    client->usage = event->usage;
    client->mode = lorad_stream_mode(client->stream);
    lorad_stream_close(client->stream);
    client->stream = NULL;
    crowd->n_open--;
    return ok;
}

static bool take_events(struct crowd *crowd, struct bench_client *client, struct error *err)
{
    struct lorad_event event;
    while (client->stream && lorad_stream_next(client->stream, &event)) {
        if (event.kind == LORAD_EVENT_TOKEN && !add_stamp(client, clock_now_us(), err))
            return false;
        if (event.kind == LORAD_EVENT_END && !end_client(crowd, client, &event, err))
            return false;
    }
    return true;
}

/* Rounded up, so that a wait is over when it returns. */
static int timeout_until(uint64_t until_us)
{
    uint64_t now_us = clock_now_us();
    if (until_us == UINT64_MAX)
        return -1;
    if (until_us <= now_us)
        return 0;
    uint64_t ms = (until_us - now_us + 999) / 1000;
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

bool crowd_wait(struct crowd *crowd, uint64_t until_us, struct error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < crowd->n_clients; i++)
        if (crowd->clients[i].stream) {
            crowd->polls[n] = (struct pollfd){.fd = lorad_stream_fd(crowd->clients[i].stream), .events = POLLIN};
            crowd->polled[n++] = &crowd->clients[i];
        }
    poll(crowd->polls, n, timeout_until(until_us)); /* interrupted: nothing is readable, and the caller asks again */
    for (size_t i = 0; i < n; i++)
        if (crowd->polls[i].revents && !take_events(crowd, crowd->polled[i], err))
            return false;
    return true;
}

bool crowd_wait_for_all(struct crowd *crowd, struct error *err)
{
    while (crowd->n_open > 0)
        if (!crowd_wait(crowd, UINT64_MAX, err))
            return false;
    return true;
}

void client_cancel(struct bench_client *client)
{
    if (!client->stream)
        return;
    client->is_cancelled = true;
    lorad_stream_cancel(client->stream);
}

bool bench_ask_one(struct bench *bench, const struct bench_ask *ask, double *first_token_ms, struct lorad_usage *usage,
                   struct error *err)
{
    struct crowd crowd;
    if (!crowd_init(&crowd, 1, err))
        return false;
    struct bench_client *client = crowd_ask(&crowd, bench, ask, err);
    bool ok = client && crowd_wait_for_all(&crowd, err);
    if (ok) {
        *first_token_ms = (double)(client->stamps_us[0] - client->submitted_us) / 1e3;
        if (usage)
            *usage = client->usage;
    }
    crowd_finish(&crowd);
    return ok;
}
