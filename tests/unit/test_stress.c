/*
 * test_stress.c - thousands of requests over dozens of adapters, in a cache far too small, while adapters are replaced, unloaded and
 * merged: every answer has the bits that the same request gets alone.
 *
 * All that is asked is drawn from one seed, which is printed (LORAD_TEST_SEED sets it); only who meets whom in a step is left to
 * the threads. An answer names the digests of the adapters that gave it, so it can be asked again, in a fresh instance with one
 * thread, room for all and nobody else. Answers that were cut short must be the beginning of that one.
 *
 * Threads record, the main thread asserts.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <lorad/lorad.h>

#include "base/buffer.h"
#include "base/log.h"
#include "support/check.h"
#include "support/runner.h"
#include "support/tiny_model.h"

enum {
    N_ADAPTERS = 64,
    N_GENERATIONS = 3,
    N_POPULAR = 3, /* adapters that get half of the requests, so that beginnings meet their equals */
    N_BEGINNINGS = 2,
    N_CLIENTS = 32,
    CONTEXT = 128,
    MAX_PROMPT = 72, /* a byte of text is a token */
    MAX_NEW = 55,
    MAX_STOPS = 2
};

static const struct tiny_model MODEL = {.has_tokenizer = true, .max_positions = CONTEXT, .seed = 5};

/* ---- random numbers ---- */

static uint64_t draw(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    uint64_t x = *state;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static size_t draw_below(uint64_t *state, size_t n)
{
    return (size_t)(draw(state) % n);
}

static bool draw_percent(uint64_t *state, unsigned percent)
{
    return draw(state) % 100 < percent;
}

static double draw_between(uint64_t *state, double low, double high)
{
    return low + (high - low) * (double)(draw(state) >> 11) * 0x1p-53;
}

/* ---- adapters on disk: all generations of all ---- */

struct generation {
    char *directory;
    char digest[LORAD_DIGEST_SIZE];
};

struct world {
    uint64_t seed;
    bool is_short; /* the build is slow, and luck may be missing */
    size_t n_requests;
    char *model;
    struct generation generations[N_ADAPTERS][N_GENERATIONS];
    struct lorad *lorad;
};

static void name_adapter(char out[16], size_t adapter)
{
    snprintf(out, 16, "a%zu", adapter);
}

/* All generations of some are; these can be neither scaled nor weighted. */
static bool is_dora(size_t adapter)
{
    return adapter % 8 == 7;
}

static void write_adapters(struct world *world)
{
    static const char *const FEW[] = {"model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj", NULL};
    uint64_t state = world->seed ^ 0xada;
    struct model *model = tiny_model_load(MODEL, MODEL_WEIGHTS_NATIVE, runner_kernels());
    for (size_t i = 0; i < N_ADAPTERS; i++)
        for (size_t j = 0; j < N_GENERATIONS; j++)
            world->generations[i][j].directory = tiny_adapter_write(model, (struct tiny_adapter){
                .rank = 1 + draw_below(&state, 12),
                .seed = (unsigned)(i * N_GENERATIONS + j + 1),
                .size = (float)draw_between(&state, 0.05, 0.3),
                .dtype = draw_percent(&state, 30) ? DTYPE_BF16 : DTYPE_F32,
                .use_rslora = draw_percent(&state, 20),
                .use_dora = is_dora(i),
                .sites = draw_percent(&state, 20) ? FEW : NULL,
            });
    model_destroy(model);
}

static bool load(struct lorad *lorad, const char *id, const char *directory, char *digest, struct error *err)
{
    struct lorad_load_options options = {.path = directory, .trusted_path = true};
    struct lorad_load_report report = {0};
    if (!lorad_adapter_load(lorad, id, &options, &report, err))
        return false;
    if (digest)
        memcpy(digest, report.digest, LORAD_DIGEST_SIZE);
    lorad_load_report_finish(&report);
    return true;
}

/* Every generation once, to learn its digest; the first stays. */
static void load_adapters(struct world *world)
{
    struct error err;
    char id[16];
    for (size_t i = 0; i < N_ADAPTERS; i++) {
        name_adapter(id, i);
        for (size_t j = N_GENERATIONS; j-- > 0;) {
            struct generation *generation = &world->generations[i][j];
            assert_ok(load(world->lorad, id, generation->directory, generation->digest, &err), &err);
        }
    }
}

static const char *find_directory(const struct world *world, const char *digest)
{
    for (size_t i = 0; i < N_ADAPTERS; i++)
        for (size_t j = 0; j < N_GENERATIONS; j++)
            if (strcmp(world->generations[i][j].digest, digest) == 0)
                return world->generations[i][j].directory;
    return NULL;
}

/* ---- requests ---- */

enum fate { RUNS_TO_ITS_END, IS_CANCELLED, IS_ABANDONED, HAS_NO_TIME };

struct ask {
    struct lorad_request request; /* its pointers lead into this */
    int32_t ids[MAX_PROMPT];
    char text[MAX_PROMPT];
    struct lorad_adapter_choice choices[2];
    char names[2][16];
    const char *stops[MAX_STOPS];
    struct lorad_logit_bias bias;
    enum fate fate;
    size_t n_tokens_read; /* then it is cancelled or abandoned */
};

/* Ids as they are, or letters for the tokenizer. */
static void draw_prompt(struct ask *ask, const struct world *world, uint64_t *state)
{
    size_t n = 1 + draw_below(state, MAX_PROMPT), n_common = 0;
    if (draw_percent(state, 50)) {
        uint64_t beginning = world->seed + draw_below(state, N_BEGINNINGS);
        n_common = n - draw_below(state, n < 20 ? n : 20);
        for (size_t i = 0; i < n_common; i++)
            ask->ids[i] = (int32_t)draw_below(&beginning, 256);
    }
    for (size_t i = n_common; i < n; i++)
        ask->ids[i] = (int32_t)draw_below(state, 256);
    if (draw_percent(state, 25)) {
        for (size_t i = 0; i < n; i++)
            ask->text[i] = (char)(' ' + ask->ids[i] % ('~' - ' '));
        ask->request.prompt = ask->text;
        ask->request.n_prompt_bytes = n;
    } else {
        ask->request.input_ids = ask->ids;
        ask->request.n_input_ids = n;
    }
}

static void draw_adapters(struct ask *ask, uint64_t *state)
{
    size_t first = draw_below(state, draw_percent(state, 50) ? N_POPULAR : N_ADAPTERS);
    size_t second = (first + 1 + draw_below(state, N_ADAPTERS - 1)) % N_ADAPTERS;
    bool can_weigh = !is_dora(first) && !is_dora(second);
    size_t n = draw_percent(state, 6) ? 0 : can_weigh && draw_percent(state, 8) ? 2 : 1;
    struct lorad_request *request = &ask->request;
    name_adapter(ask->names[0], first);
    name_adapter(ask->names[1], second);
    ask->choices[0] = (struct lorad_adapter_choice){.id = ask->names[0], .weight = 1};
    ask->choices[1] = (struct lorad_adapter_choice){.id = ask->names[1], .weight = 0.5};
    request->adapters = ask->choices;
    request->n_adapters = n;
    request->has_mode = true;
    request->mode = n == 1 && draw_percent(state, 40) ? LORAD_MODE_MERGED : LORAD_MODE_ON_THE_FLY;
    request->merge_wait_ms = draw_percent(state, 50) ? 60000 : 0;
    if (request->mode == LORAD_MODE_ON_THE_FLY && n > 0 && can_weigh && draw_percent(state, 20))
        request->scale = draw_between(state, 0.25, 2);
}

static void draw_sampling(struct ask *ask, uint64_t *state)
{
    struct lorad_sampling *sampling = &ask->request.sampling;
    sampling->has_seed = true;
    sampling->seed = draw(state);
    sampling->temperature = draw_percent(state, 30) ? 0 : draw_between(state, 0.2, 1.5);
    sampling->top_k = draw_percent(state, 40) ? 1 + draw_below(state, 60) : 0;
    sampling->top_p = draw_percent(state, 40) ? draw_between(state, 0.3, 1) : 1;
    sampling->min_p = draw_percent(state, 20) ? draw_between(state, 0, 0.2) : 0;
    sampling->repetition_penalty = draw_percent(state, 20) ? draw_between(state, 1, 1.5) : 1;
    sampling->presence_penalty = draw_percent(state, 20) ? draw_between(state, -1, 1) : 0;
    sampling->frequency_penalty = draw_percent(state, 20) ? draw_between(state, -1, 1) : 0;
    if (draw_percent(state, 10)) {
        ask->bias = (struct lorad_logit_bias){.id = (int32_t)draw_below(state, 256), .bias = 3};
        sampling->logit_bias = &ask->bias;
        sampling->n_logit_bias = 1;
    }
}

static void draw_output(struct ask *ask, uint64_t *state)
{
    static const char *const STOPS[] = {"e", "a", "0", "Z", "  ", "th"};
    struct lorad_request *request = &ask->request;
    request->max_tokens = 1 + draw_below(state, MAX_NEW);
    request->ignore_eos = draw_percent(state, 50);
    request->logprobs = draw_percent(state, 80) ? (int)draw_below(state, 6) : -1;
    request->prompt_logprobs = draw_percent(state, 20) ? (int)draw_below(state, 3) : -1;
    request->priority = (int)draw_below(state, 21) - 10;
    request->include_stop = draw_percent(state, 50);
    if (draw_percent(state, 25))
        for (; request->n_stops < MAX_STOPS; request->n_stops++)
            ask->stops[request->n_stops] = STOPS[draw_below(state, sizeof STOPS / sizeof *STOPS)];
    request->stops = ask->stops;
}

static void draw_fate(struct ask *ask, uint64_t *state)
{
    unsigned percent = (unsigned)draw_below(state, 100);
    ask->fate = percent < 8 ? IS_CANCELLED : percent < 12 ? IS_ABANDONED : percent < 17 ? HAS_NO_TIME : RUNS_TO_ITS_END;
    ask->n_tokens_read = draw_below(state, 12);
    if (ask->fate == HAS_NO_TIME)
        ask->request.timeout_ms = 1 + (unsigned)draw_below(state, 8);
}

static void draw_ask(struct ask *ask, const struct world *world, size_t index)
{
    uint64_t state = world->seed * 1000003 + index;
    memset(ask, 0, sizeof *ask);
    lorad_request_init(world->lorad, &ask->request);
    draw_prompt(ask, world, &state);
    draw_adapters(ask, &state);
    draw_sampling(ask, &state);
    draw_output(ask, &state);
    draw_fate(ask, &state);
}

/* ---- answers ---- */

/* All that a client gets to see, as bytes: numbers in the order in which they came, and the text. */
struct answer {
    bool is_there; /* it was accepted: its adapters were there */
    bool has_ended;
    enum lorad_finish finish;
    enum lorad_mode mode;
    struct lorad_answered_by by[2];
    size_t n_by, n_preemptions, n_cached;
    struct buffer numbers, text;
    char problem[700]; /* that is one in any case; "": none */
};

static void answer_finish(struct answer *answer)
{
    buffer_finish(&answer->numbers);
    buffer_finish(&answer->text);
}

static void append_logprob(struct buffer *numbers, int32_t id, float logprob)
{
    uint32_t bits;
    memcpy(&bits, &logprob, sizeof bits);
    buffer_append(numbers, &id, sizeof id);
    buffer_append(numbers, &bits, sizeof bits);
}

static void append_token(struct buffer *numbers, const struct lorad_token *token)
{
    append_logprob(numbers, token->id, token->logprob);
    for (size_t i = 0; i < token->n_top; i++)
        append_logprob(numbers, token->top[i].id, token->top[i].logprob);
}

static void take_event(struct answer *answer, const struct lorad_event *event, size_t *n_tokens)
{
    if (event->kind == LORAD_EVENT_PROMPT)
        for (size_t i = 0; i < event->n_prompt_tokens; i++)
            append_token(&answer->numbers, &event->prompt_tokens[i]);
    if (event->kind == LORAD_EVENT_TOKEN) {
        append_token(&answer->numbers, &event->token);
        ++*n_tokens;
    }
    if (event->kind != LORAD_EVENT_PROMPT)
        buffer_append(&answer->text, event->text, event->n_text_bytes);
    if (event->kind == LORAD_EVENT_END) {
        answer->has_ended = true;
        answer->finish = event->finish;
        answer->n_preemptions = event->usage.n_preemptions;
        answer->n_cached = event->usage.cached_tokens;
        if (event->finish == LORAD_FINISH_ERROR)
            snprintf(answer->problem, sizeof answer->problem, "it failed: %s", event->error_message);
    }
}

static void read_stream(struct lorad_stream *stream, const struct ask *ask, struct answer *answer)
{
    struct lorad_event event;
    size_t n_tokens = 0;
    while (!answer->has_ended) {
        bool is_enough = n_tokens >= ask->n_tokens_read;
        if (is_enough && ask->fate == IS_ABANDONED)
            return;
        if (is_enough && ask->fate == IS_CANCELLED)
            lorad_stream_cancel(stream);
        if (!lorad_stream_wait(stream, 60000)) {
            snprintf(answer->problem, sizeof answer->problem, "nothing came for a minute after %zu tokens", n_tokens);
            return;
        }
        if (lorad_stream_next(stream, &event))
            take_event(answer, &event, &n_tokens);
    }
}

static void get_answer(struct lorad *lorad, const struct ask *ask, struct answer *answer)
{
    struct error err = {0};
    struct lorad_stream *stream = lorad_submit(lorad, &ask->request, &err);
    buffer_init(&answer->numbers, 0);
    buffer_init(&answer->text, 0);
    answer->is_there = stream != NULL;
    if (!stream) {
        if (err.code != ERROR_NOT_FOUND && err.code != ERROR_UNAVAILABLE) /* gone, or on its way back */
            snprintf(answer->problem, sizeof answer->problem, "it was refused: %s: %s", err.param, err.message);
        return;
    }
    const struct lorad_answered_by *by = lorad_stream_adapters(stream, &answer->n_by);
    for (size_t i = 0; i < answer->n_by; i++)
        answer->by[i] = by[i];
    read_stream(stream, ask, answer);
    answer->mode = lorad_stream_mode(stream);
    lorad_stream_close(stream);
    if (answer->numbers.failed || answer->text.failed)
        abort();
}

/* ---- the crowd, and the one who swaps ---- */

struct crowd {
    struct world *world;
    struct answer *answers; /* n_requests */
    _Atomic size_t next;
    atomic_bool is_over;
    size_t n_swaps; /* the swapper's */
    char problem[700];
};

static void *ask_on_and_on(void *context)
{
    struct crowd *crowd = context;
    for (;;) {
        size_t i = atomic_fetch_add(&crowd->next, 1);
        struct ask ask;
        if (i >= crowd->world->n_requests)
            return NULL;
        draw_ask(&ask, crowd->world, i);
        get_answer(crowd->world->lorad, &ask, &crowd->answers[i]);
    }
}

/* Replaced; gone for a moment; merged or not. */
static bool swap_one(struct crowd *crowd, uint64_t *state, struct error *err)
{
    struct lorad *lorad = crowd->world->lorad;
    size_t adapter = draw_below(state, N_ADAPTERS);
    const char *directory = crowd->world->generations[adapter][draw_below(state, N_GENERATIONS)].directory;
    char id[16];
    name_adapter(id, adapter);
    switch (draw_below(state, 4)) {
    case 0:
        return lorad_adapter_unload(lorad, id, NULL, false, err) && load(lorad, id, directory, NULL, err);
    case 1:
        return lorad_adapter_merge(lorad, id, 0, err);
    case 2:
        return lorad_adapter_unmerge(lorad, id, err);
    default:
        return load(lorad, id, directory, NULL, err);
    }
}

static void *swap_on_and_on(void *context)
{
    struct crowd *crowd = context;
    uint64_t state = crowd->world->seed ^ 0x5a5a;
    struct error err;
    for (; !atomic_load(&crowd->is_over); crowd->n_swaps++) {
        if (!swap_one(crowd, &state, &err)) {
            snprintf(crowd->problem, sizeof crowd->problem, "swap %zu failed: %s", crowd->n_swaps, err.message);
            return NULL;
        }
        usleep((useconds_t)draw_below(&state, 2000));
    }
    return NULL;
}

static void run_crowd(struct crowd *crowd)
{
    pthread_t clients[N_CLIENTS], swapper;
    assert_int_equal(pthread_create(&swapper, NULL, swap_on_and_on, crowd), 0);
    for (size_t i = 0; i < N_CLIENTS; i++)
        assert_int_equal(pthread_create(&clients[i], NULL, ask_on_and_on, crowd), 0);
    for (size_t i = 0; i < N_CLIENTS; i++)
        pthread_join(clients[i], NULL);
    atomic_store(&crowd->is_over, true);
    pthread_join(swapper, NULL);
    if (crowd->problem[0])
        fail_msg("%s", crowd->problem);
}

/* ---- the same alone ---- */

static struct lorad *open_lorad(const struct world *world, size_t n_threads, uint64_t kv_memory)
{
    struct error err;
    struct lorad_options options = {.model_path = world->model, .n_threads = n_threads, .context = CONTEXT, .kv_memory = kv_memory,
                                    .max_sequences = 16, .max_batch_tokens = n_threads > 1 ? 24 : 0};
    struct lorad *lorad = lorad_open(&options, &err);
    if (!lorad)
        fail_msg("lorad_open failed: %s", err.message);
    return lorad;
}

/* The request of `seen` through the generations that answered then, in the mode that answered. */
static void answer_alone(const struct world *world, struct ask *ask, const struct answer *seen, struct answer *out)
{
    struct error err;
    struct lorad *lorad = open_lorad(world, 1, 0);
    for (size_t i = 0; i < seen->n_by; i++) {
        const char *directory = find_directory(world, seen->by[i].digest);
        if (!directory)
            fail_msg("an answer names a digest that is no adapter's: %s", seen->by[i].digest);
        assert_ok(load(lorad, seen->by[i].id, directory, NULL, &err), &err);
    }
    ask->request.mode = seen->mode;
    ask->request.merge_wait_ms = 60000;
    ask->request.timeout_ms = 0;
    ask->fate = RUNS_TO_ITS_END;
    get_answer(lorad, ask, out);
    lorad_close(lorad);
}

static bool is_beginning(const struct buffer *part, const struct buffer *whole)
{
    return part->n_bytes <= whole->n_bytes && (part->n_bytes == 0 || memcmp(part->data, whole->data, part->n_bytes) == 0);
}

static bool is_complete(const struct answer *answer)
{
    return answer->has_ended && (answer->finish == LORAD_FINISH_STOP || answer->finish == LORAD_FINISH_LENGTH);
}

static size_t first_difference(const struct buffer *a, const struct buffer *b)
{
    size_t i = 0;
    while (i < a->n_bytes && i < b->n_bytes && a->data[i] == b->data[i])
        i++;
    return i;
}

static void compare(const struct world *world, size_t index, const struct answer *seen)
{
    struct ask ask;
    struct answer alone = {0};
    draw_ask(&ask, world, index);
    answer_alone(world, &ask, seen, &alone);
    const char *problem = NULL;
    if (alone.problem[0] || !is_complete(&alone))
        problem = alone.problem[0] ? alone.problem : "alone it did not come to its end";
    else if (alone.mode != seen->mode)
        problem = "alone it has another mode";
    else if (!is_beginning(&seen->numbers, &alone.numbers))
        problem = "tokens or log-probabilities differ from those it gets alone";
    else if (is_complete(seen) && (seen->numbers.n_bytes != alone.numbers.n_bytes || seen->finish != alone.finish))
        problem = "it ends otherwise than alone";
    else if (is_complete(seen) && (seen->text.n_bytes != alone.text.n_bytes || !is_beginning(&seen->text, &alone.text)))
        problem = "its text differs from the one it gets alone";
    if (problem)
        fail_msg("seed %" PRIu64 ", request %zu (mode %d, %zu adapters): %s (from byte %zu of %zu and %zu)", world->seed, index,
                 seen->mode, seen->n_by, problem, first_difference(&seen->numbers, &alone.numbers), seen->numbers.n_bytes,
                 alone.numbers.n_bytes);
    answer_finish(&alone);
}

/* ---- nothing is left ---- */

static bool is_at_rest(struct lorad *lorad, struct lorad_stats *stats)
{
    lorad_stats_read(lorad, stats);
    return lorad_is_idle(lorad) && stats->requests_running == 0 && stats->requests_waiting == 0 && stats->kv_blocks_used == 0 &&
           stats->adapters_loaded == 0 && stats->adapter_bytes == 0 && stats->merged_bytes == 0 && stats->merged_count == 0;
}

/* Memory goes back behind the scenes: soon, not at once. */
static void check_that_nothing_is_left(struct world *world)
{
    struct error err;
    struct lorad_stats stats;
    struct lorad_adapter_list list;
    char id[16];
    for (size_t i = 0; i < N_ADAPTERS; i++) {
        name_adapter(id, i);
        assert_ok(lorad_adapter_unload(world->lorad, id, NULL, false, &err), &err);
    }
    for (int i = 0; i < 3000 && !is_at_rest(world->lorad, &stats); i++)
        usleep(10000);
    assert_true(lorad_is_idle(world->lorad));
    assert_int_equal(stats.requests_running, 0);
    assert_int_equal(stats.requests_waiting, 0);
    assert_int_equal(stats.kv_blocks_used, 0);
    assert_int_equal(stats.adapters_loaded, 0);
    assert_int_equal(stats.adapter_bytes, 0);
    assert_int_equal(stats.merged_bytes, 0);
    assert_int_equal(stats.merged_count, 0);
    assert_ok(lorad_adapter_list(world->lorad, &list, &err), &err);
    assert_int_equal(list.n_adapters, 0);
    lorad_adapter_list_finish(&list);
}

/* ---- the test ---- */

/* Bytes in which three sequences of full length have room, and not one block more. */
static uint64_t memory_of_three_sequences(const struct world *world)
{
    struct lorad_stats stats;
    struct lorad *lorad = open_lorad(world, 1, 0);
    lorad_stats_read(lorad, &stats);
    uint64_t bytes = lorad_model(lorad)->kv_bytes / stats.kv_blocks * (3 * CONTEXT / stats.kv_block_tokens);
    lorad_close(lorad);
    return bytes;
}

/* What the crowd's answers went through; returned by summarise. */
struct events {
    size_t n_preemptions, n_cached;
};

static struct events summarise(const struct crowd *crowd)
{
    size_t n_complete = 0, n_cut = 0, n_refused = 0, n_merged = 0, n_preemptions = 0, n_cached = 0;
    for (size_t i = 0; i < crowd->world->n_requests; i++) {
        const struct answer *answer = &crowd->answers[i];
        n_complete += is_complete(answer);
        n_cut += answer->is_there && !is_complete(answer);
        n_refused += !answer->is_there;
        n_merged += answer->is_there && answer->mode == LORAD_MODE_MERGED;
        n_preemptions += answer->n_preemptions;
        n_cached += answer->n_cached;
    }
    print_message("seed %" PRIu64 ": %zu complete, %zu cut short, %zu refused, %zu merged; %zu swaps; %zu preemptions, %zu prompt tokens "
                  "cached\n", crowd->world->seed, n_complete, n_cut, n_refused, n_merged, crowd->n_swaps, n_preemptions, n_cached);
    assert_true(n_complete >= crowd->world->n_requests / 2); /* else the test would say little */
    assert_true(n_cut > 0 && n_merged > 0 && crowd->n_swaps > 0);
    return (struct events){.n_preemptions = n_preemptions, .n_cached = n_cached};
}

static struct events run(struct world *world, size_t n_requests, uint64_t kv_memory)
{
    world->n_requests = n_requests;
    struct crowd crowd = {.world = world, .answers = calloc(world->n_requests, sizeof *crowd.answers)};
    assert_non_null(crowd.answers);
    world->lorad = open_lorad(world, 2, kv_memory);
    load_adapters(world);
    run_crowd(&crowd);
    struct events events = summarise(&crowd);
    for (size_t i = 0; i < world->n_requests; i++) {
        if (crowd.answers[i].problem[0])
            fail_msg("seed %" PRIu64 ", request %zu: %s", world->seed, i, crowd.answers[i].problem);
        if (crowd.answers[i].is_there)
            compare(world, i, &crowd.answers[i]);
        answer_finish(&crowd.answers[i]);
    }
    free(crowd.answers);
    check_that_nothing_is_left(world);
    lorad_close(world->lorad);
    world->lorad = NULL;
    return events;
}

static void a_cache_far_too_small_changes_no_bit(void **state)
{
    struct world *world = *state;
    struct events events = run(world, world->is_short ? 200 : 2000, memory_of_three_sequences(world));
    assert_true(events.n_preemptions > 0 || world->is_short);
}

static void what_another_request_computed_changes_no_bit(void **state)
{
    struct world *world = *state;
    struct events events = run(world, world->is_short ? 80 : 500, 0);
    assert_true(events.n_cached > 0 || world->is_short);
}

static int set_up(void **state)
{
    static struct world world;
    const char *seed = getenv("LORAD_TEST_SEED");
    world.seed = seed && *seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
    world.is_short = getenv("LORAD_TEST_SANITIZED") != NULL;
    log_configure(LOG_ERROR, LOG_TEXT);
    print_message("LORAD_TEST_SEED=%" PRIu64 "\n", world.seed);
    world.model = tiny_model_write(MODEL);
    write_adapters(&world);
    *state = &world;
    return 0;
}

static int tear_down(void **state)
{
    struct world *world = *state;
    lorad_close(world->lorad);
    for (size_t i = 0; i < N_ADAPTERS; i++)
        for (size_t j = 0; j < N_GENERATIONS; j++)
            tiny_remove(world->generations[i][j].directory);
    tiny_remove(world->model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cache_far_too_small_changes_no_bit),
        cmocka_unit_test(what_another_request_computed_changes_no_bit),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
