/*
 * test_engine.c - the engine with a tiny random model, from submission to END: what is said alone is said in a crowd.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "support/check.h"
#include "support/engine_kit.h"

/* ---- malloc, watched on the engine's threads. The sanitizers bring their own. ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define WATCHES_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define WATCHES_MALLOC 0
#endif
#endif
#ifndef WATCHES_MALLOC
#define WATCHES_MALLOC 1
#endif

static __thread bool is_client;            /* this thread is a test's, not the engine's */
static atomic_size_t n_mallocs;            /* on other threads */
static atomic_size_t refused_above = SIZE_MAX; /* bytes: such allocations fail there */

#if WATCHES_MALLOC
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t n);
void *__libc_memalign(size_t alignment, size_t n);

static bool is_refused(size_t n_bytes)
{
    if (is_client)
        return false;
    n_mallocs++;
    return n_bytes > refused_above;
}

void *malloc(size_t n)
{
    return is_refused(n) ? NULL : __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    return is_refused(n * size) ? NULL : __libc_calloc(n, size);
}
void *realloc(void *memory, size_t n)
{
    return is_refused(n) ? NULL : __libc_realloc(memory, n);
}
void *aligned_alloc(size_t alignment, size_t n)
{
    return is_refused(n) ? NULL : __libc_memalign(alignment, n);
}
int posix_memalign(void **out, size_t alignment, size_t n)
{
    *out = aligned_alloc(alignment, n);
    return *out ? 0 : ENOMEM;
}
#endif

static int load_kit(void **state)
{
    is_client = true;
    return engine_kit_load(state);
}

/* ---- many at a time ---- */

enum { N_CROWD = 48, N_CLIENTS = 4 };

static struct engine_request ask_in_crowd(size_t i)
{
    static const char *const stops[] = {"qu", "x", "ab", "e"};
    static const int32_t stop_ids[] = {'z', 43};
    struct engine_request request = ask(1 + i * 13 % 70, i * 7 % 40);
    request.prompt += i % 11;
    request.view = kit.views[i % N_VIEWS];
    if (i % 3 == 0)
        ask_for_letters(&request, i);
    if (i % 3 == 1)
        request.sampling = (struct lorad_sampling){.repetition_penalty = 1.2, .presence_penalty = 0.4, .temperature = 1.5,
                                                   .top_p = 0.95, .top_k = 100, .min_p = 0.001, .has_seed = true, .seed = i};
    if (i % 2 == 0)
        request.logprobs = (int)(i % 6);
    if (i % 5 == 0)
        request.prompt_logprobs = (int)(i % 4);
    if (i % 3 == 0)
        request.stops = stops, request.n_stops = 4;
    if (i % 7 == 0)
        request.stop_ids = stop_ids, request.n_stop_ids = 2;
    request.ignore_eos = i % 2;
    request.min_tokens = i % 8 < request.max_tokens ? i % 8 : 0;
    return request;
}

static struct answer alone[N_CROWD];

static void *ask_a_share(void *context)
{
    size_t client = *(const size_t *)context;
    struct stream *streams[N_CROWD];
    is_client = true;
    for (size_t i = client; i < N_CROWD; i += N_CLIENTS)
        streams[i] = submit(ask_in_crowd(i));
    for (size_t i = client; i < N_CROWD; i += N_CLIENTS) {
        struct answer answer = collect(streams[i]);
        assert_same_answer(&alone[i], &answer);
        answer_finish(&answer);
    }
    return NULL;
}

static void answers_in_a_crowd_are_those_given_alone(void **state)
{
    static const struct shape shapes[] = {
        {.n_threads = 2, .max_sequences = 40, .max_batch_tokens = 256},
        {.n_threads = 1, .max_sequences = 5, .max_batch_tokens = 7},
        {.n_threads = 2, .max_sequences = 16, .max_batch_tokens = 33, .n_blocks = CONTEXT / KV_BLOCK_TOKENS + 1},
    };
    size_t n_generated = 0, n_stopped = 0;
    (void)state;
    start((struct shape){.max_sequences = 1, .max_batch_tokens = 512});
    for (size_t i = 0; i < N_CROWD; i++) {
        alone[i] = get(ask_in_crowd(i));
        assert_true(alone[i].finish == LORAD_FINISH_STOP || alone[i].finish == LORAD_FINISH_LENGTH);
        n_generated += alone[i].n_tokens;
        n_stopped += alone[i].finish == LORAD_FINISH_STOP;
    }
    stop();
    assert_true(n_generated > 200 && n_stopped > 3);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        pthread_t threads[N_CLIENTS];
        size_t clients[N_CLIENTS];
        start(shapes[s]);
        for (size_t c = 0; c < N_CLIENTS; c++) {
            clients[c] = c;
            assert_int_equal(pthread_create(&threads[c], NULL, ask_a_share, &clients[c]), 0);
        }
        for (size_t c = 0; c < N_CLIENTS; c++)
            pthread_join(threads[c], NULL);
        struct lorad_stats now = stats();
        assert_int_equal(now.kv_blocks_used, 0);
        assert_int_equal(now.requests_total, N_CROWD);
        assert_int_equal(now.requests_running + now.requests_waiting, 0);
        assert_int_equal(now.completion_tokens_total, n_generated);
        stop();
    }
    for (size_t i = 0; i < N_CROWD; i++)
        answer_finish(&alone[i]);
}

/* ---- ends ---- */

static void a_request_ends_at_max_tokens(void **state)
{
    (void)state;
    start((struct shape){0});
    struct answer answer = get(ask(5, 12));
    assert_int_equal(answer.n_tokens, 12);
    assert_int_equal(answer.finish, LORAD_FINISH_LENGTH);
    assert_int_equal(answer.usage.prompt_tokens, 5);
    assert_true(isnan(answer.tokens[0].logprob));
    answer_finish(&answer);
    stop();
}

static void a_request_without_a_limit_ends_where_the_context_does(void **state)
{
    (void)state;
    start((struct shape){0});
    struct answer answer = get(ask(CONTEXT - 20, SIZE_MAX));
    assert_int_equal(answer.n_tokens, 20);
    assert_int_equal(answer.finish, LORAD_FINISH_LENGTH);
    answer_finish(&answer);
    stop();
}

static struct engine_request ask_for_the_end(size_t min_tokens)
{
    static const struct lorad_logit_bias bias = {END_OF_TEXT, 1000};
    struct engine_request request = ask(5, 12);
    request.ignore_eos = false;
    request.min_tokens = min_tokens;
    request.sampling.logit_bias = &bias;
    request.sampling.n_logit_bias = 1;
    return request;
}

static void the_end_token_ends_counts_and_gives_no_text(void **state)
{
    (void)state;
    start((struct shape){0});
    struct answer answer = get(ask_for_the_end(0));
    assert_int_equal(answer.n_tokens, 1);
    assert_int_equal(answer.tokens[0].id, END_OF_TEXT);
    assert_int_equal(answer.finish, LORAD_FINISH_STOP);
    assert_int_equal(answer.stop_id, -1);
    assert_string_equal(buffer_text(&answer.text), "");
    answer_finish(&answer);
    struct engine_request request = ask_for_the_end(0);
    request.keep_special = true;
    answer = get(request);
    assert_string_equal(buffer_text(&answer.text), "<|end|>");
    answer_finish(&answer);
    request.ignore_eos = true;
    request.keep_special = false;
    answer = get(request);
    assert_int_equal(answer.n_tokens, 12);
    assert_int_equal(answer.finish, LORAD_FINISH_LENGTH);
    assert_string_equal(buffer_text(&answer.text), "");
    answer_finish(&answer);
    stop();
}

static void the_end_token_does_not_come_before_min_tokens(void **state)
{
    (void)state;
    start((struct shape){0});
    struct answer answer = get(ask_for_the_end(7));
    assert_int_equal(answer.n_tokens, 8);
    assert_int_equal(answer.tokens[7].id, END_OF_TEXT);
    assert_int_equal(answer.finish, LORAD_FINISH_STOP);
    answer_finish(&answer);
    stop();
}

static struct engine_request ask_for_text(void)
{
    struct engine_request request = ask(5, 60);
    ask_for_letters(&request, 11);
    return request;
}

static void a_stop_string_cuts_the_text_where_it_begins(void **state)
{
    (void)state;
    start((struct shape){0});
    struct answer all = get(ask_for_text());
    const char *text = buffer_text(&all.text);
    assert_int_equal(strlen(text), 60);
    char stop_string[5] = {0};
    memcpy(stop_string, text + 20, 4); /* four tokens */
    size_t at = (size_t)(strstr(text, stop_string) - text);
    const char *const stops[] = {"NEVER", stop_string};
    for (int include = 0; include < 2; include++) {
        struct engine_request request = ask_for_text();
        request.stops = stops;
        request.n_stops = 2;
        request.include_stop = include;
        struct answer answer = get(request);
        assert_int_equal(answer.finish, LORAD_FINISH_STOP);
        assert_string_equal(answer.stop_text, stop_string);
        assert_int_equal(answer.stop_id, -1);
        assert_int_equal(answer.n_tokens, at + 4);
        assert_int_equal(answer.text.n_bytes, include ? at + 4 : at);
        assert_memory_equal(buffer_text(&answer.text), text, answer.text.n_bytes);
        answer_finish(&answer);
    }
    answer_finish(&all);
    stop();
}

static void text_that_only_began_like_a_stop_string_comes_at_the_end(void **state)
{
    (void)state;
    start((struct shape){0});
    struct answer all = get(ask_for_text());
    char stop_string[8] = {0};
    memcpy(stop_string, buffer_text(&all.text) + 57, 3); /* the last three, and something that does not come */
    strcat(stop_string, "ZZZ");
    const char *const stops[] = {stop_string};
    struct engine_request request = ask_for_text();
    request.stops = stops;
    request.n_stops = 1;
    struct answer answer = get(request);
    assert_int_equal(answer.finish, LORAD_FINISH_LENGTH);
    assert_string_equal(buffer_text(&answer.text), buffer_text(&all.text));
    answer_finish(&answer);
    answer_finish(&all);
    stop();
}

static void a_stop_id_ends_and_its_text_is_left_out_unless_wanted(void **state)
{
    (void)state;
    start((struct shape){0});
    struct answer all = get(ask_for_text());
    const char *text = buffer_text(&all.text);
    const int32_t stop_ids[] = {'!', all.tokens[9].id};
    size_t at = (size_t)(strchr(text, (char)stop_ids[1]) - text);
    for (int include = 0; include < 2; include++) {
        struct engine_request request = ask_for_text();
        request.stop_ids = stop_ids;
        request.n_stop_ids = 2;
        request.include_stop = include;
        struct answer answer = get(request);
        assert_int_equal(answer.finish, LORAD_FINISH_STOP);
        assert_int_equal(answer.stop_id, stop_ids[1]);
        assert_int_equal(answer.n_tokens, at + 1);
        assert_int_equal(answer.text.n_bytes, include ? at + 1 : at);
        answer_finish(&answer);
    }
    struct engine_request request = ask_for_text();
    request.stop_ids = stop_ids;
    request.n_stop_ids = 2;
    request.min_tokens = 30;
    struct answer answer = get(request);
    assert_true(answer.n_tokens > 30);
    for (size_t i = 0; i < 30; i++)
        assert_true(answer.tokens[i].id != stop_ids[1]);
    answer_finish(&answer);
    answer_finish(&all);
    stop();
}

/* ---- log-probabilities ---- */

static void prompt_logprobs_are_those_of_generating_the_same_tokens(void **state)
{
    (void)state;
    for (size_t max_batch_tokens = 3; max_batch_tokens < 500; max_batch_tokens *= 5) {
        start((struct shape){.max_batch_tokens = max_batch_tokens});
        struct engine_request request = ask(6, 30);
        request.logprobs = 3;
        struct answer generated = get(request);

        int32_t both[36];
        memcpy(both, request.prompt, 6 * sizeof *both);
        for (size_t i = 0; i < 30; i++)
            both[6 + i] = generated.tokens[i].id;
        request.prompt = both;
        request.n_prompt = 36;
        request.max_tokens = 0;
        request.prompt_logprobs = 3;
        struct answer echoed = get(request);
        assert_int_equal(echoed.finish, LORAD_FINISH_LENGTH);
        assert_int_equal(echoed.n_tokens, 0);
        assert_int_equal(echoed.n_prompt, 36);
        assert_true(isnan(echoed.prompt[0].logprob));
        assert_int_equal(echoed.prompt[0].id, both[0]);
        assert_same_tokens(echoed.prompt + 6, generated.tokens, 30);
        /* Greedy: the chosen one is the best one. */
        assert_int_equal(generated.tokens[0].id, generated.tokens[0].top[0].id);
        assert_true(generated.tokens[0].logprob == generated.tokens[0].top[0].logprob);
        answer_finish(&generated);
        answer_finish(&echoed);
        stop();
    }
}

static void a_prompt_of_one_token_has_prompt_logprobs_too(void **state)
{
    (void)state;
    start((struct shape){0});
    struct engine_request request = ask(1, 0);
    request.prompt_logprobs = 0;
    struct answer answer = get(request);
    assert_int_equal(answer.n_prompt, 1);
    assert_true(isnan(answer.prompt[0].logprob));
    answer_finish(&answer);
    request.max_tokens = 2;
    answer = get(request);
    assert_int_equal(answer.n_prompt, 1);
    assert_int_equal(answer.n_tokens, 2);
    answer_finish(&answer);
    stop();
}

static void a_prompt_can_be_computed_for_nothing(void **state)
{
    (void)state;
    start((struct shape){0});
    struct answer answer = get(ask(100, 0));
    assert_int_equal(answer.finish, LORAD_FINISH_LENGTH);
    assert_int_equal(stats().prompt_tokens_total, 100);
    answer_finish(&answer);
    stop();
}

/* ---- cancelling, deadlines ---- */

/* A request that has begun and is held. */
static struct stream *start_held(struct engine_request request)
{
    struct stream *stream = submit(held(request));
    allow_steps(1);
    wait_for_event(stream);
    return stream;
}

static void a_running_request_can_be_cancelled(void **state)
{
    (void)state;
    start((struct shape){0});
    struct stream *stream = start_held(ask(5, CONTEXT - 5));
    assert_true(stats().kv_blocks_used > 0);
    stream_cancel(stream);
    allow_all_steps();
    expect_end(stream, LORAD_FINISH_CANCELLED);
    struct lorad_stats now = stats();
    assert_int_equal(now.kv_blocks_used, 0);
    assert_int_equal(now.requests_finished[LORAD_FINISH_CANCELLED], 1);
    assert_true(now.completion_tokens_total < CONTEXT - 5);
    stop();
}

static void a_queued_request_is_cancelled_without_being_run(void **state)
{
    (void)state;
    start((struct shape){.max_sequences = 1});
    struct stream *first = start_held(ask(5, CONTEXT - 5)), *second = submit(ask(700, 5));
    stream_cancel(second);
    allow_steps(2);
    struct answer answer = collect(second);
    assert_int_equal(answer.finish, LORAD_FINISH_CANCELLED);
    assert_int_equal(answer.n_tokens, 0);
    assert_int_equal(stats().requests_running, 1);
    assert_int_equal(stats().prompt_tokens_total, 5);
    answer_finish(&answer);
    stream_cancel(first);
    allow_all_steps();
    expect_end(first, LORAD_FINISH_CANCELLED);
    stop();
}

static void a_client_that_leaves_cancels_its_request(void **state)
{
    (void)state;
    n_released = 0;
    start((struct shape){.max_sequences = 1});
    struct stream *first = start_held(ask(5, CONTEXT - 5)), *second = submit(ask(5, CONTEXT - 5));
    stream_close(second);
    stream_close(first);
    allow_all_steps();
    wait_until_idle();
    assert_int_equal(n_released, 2);
    assert_int_equal(stats().requests_finished[LORAD_FINISH_CANCELLED], 2);
    assert_int_equal(stats().kv_blocks_used, 0);
    stop();
}

static void a_deadline_ends_running_and_queued_requests(void **state)
{
    uint64_t now_us = clock_now_us();
    struct engine_request request = ask(5, CONTEXT - 5);
    (void)state;
    clock_set_us(now_us);
    start((struct shape){.max_sequences = 1});
    request.deadline_us = now_us + 10000000;
    struct stream *first = start_held(request);
    request.deadline_us = now_us + 5000000;
    struct stream *second = submit(request);
    clock_set_us(now_us + 6000000);
    allow_steps(2);
    expect_end(second, LORAD_FINISH_TIMEOUT);
    assert_int_equal(stats().requests_running, 1);
    clock_set_us(now_us + 10000000);
    allow_all_steps();
    expect_end(first, LORAD_FINISH_TIMEOUT);
    assert_int_equal(stats().requests_finished[LORAD_FINISH_TIMEOUT], 2);
    stop();
    clock_set_us(UINT64_MAX);
}

static void usage_says_how_long_it_took(void **state)
{
    uint64_t now_us = clock_now_us();
    struct answer answer = {0};
    struct lorad_event event;
    (void)state;
    clock_set_us(now_us);
    start((struct shape){.max_sequences = 1});
    struct stream *first = start_held(ask(5, 1000)), *second = submit(ask(5, 1));
    clock_set_us(now_us + 3000);
    stream_cancel(first);
    allow_all_steps();
    expect_end(first, LORAD_FINISH_CANCELLED);
    while (!stream_next(second, &event) || event.kind != LORAD_EVENT_END)
        stream_wait(second, 1000);
    answer_add(&answer, &event);
    assert_float_equal(answer.usage.queue_ms, 3.0, 1e-9);
    assert_float_equal(answer.usage.prefill_ms, 0.0, 1e-9);
    assert_float_equal(answer.usage.decode_ms, 0.0, 1e-9);
    answer_finish(&answer);
    stream_close(second);
    stop();
    clock_set_us(UINT64_MAX);
}

/* ---- limits ---- */

static void a_full_queue_refuses(void **state)
{
    struct error err;
    (void)state;
    start((struct shape){.max_sequences = 1, .max_queue = 2});
    struct stream *first = start_held(ask(5, CONTEXT - 5)), *second = submit(ask(5, 1)), *third = submit(ask(5, 1));
    assert_int_equal(stats().requests_waiting, 2);
    assert_null(try_submit(ask(5, 1), &err));
    assert_error(&err, ERROR_BUSY, "", "2 requests wait");
    assert_int_equal(stats().requests_rejected, 1);
    stream_cancel(first);
    allow_all_steps();
    expect_end(first, LORAD_FINISH_CANCELLED);
    expect_end(second, LORAD_FINISH_LENGTH);
    expect_end(third, LORAD_FINISH_LENGTH);
    stop();
}

static void a_draining_engine_refuses_but_finishes(void **state)
{
    struct error err;
    (void)state;
    start((struct shape){.max_sequences = 1});
    struct stream *first = submit(held(ask(5, 300))), *second = submit(ask(5, 3));
    assert_false(engine_is_idle(kit.engine));
    engine_drain(kit.engine);
    allow_all_steps();
    assert_null(try_submit(ask(5, 1), &err));
    assert_error(&err, ERROR_UNAVAILABLE, "", "shutting down");
    expect_end(first, LORAD_FINISH_LENGTH);
    expect_end(second, LORAD_FINISH_LENGTH);
    wait_until_idle();
    stop();
}

static void destroying_ends_what_runs_and_what_waits(void **state)
{
    (void)state;
    n_released = 0;
    start((struct shape){.max_sequences = 2});
    struct stream *streams[5];
    streams[0] = start_held(ask(5, CONTEXT - 5));
    for (size_t i = 1; i < 5; i++)
        streams[i] = submit(ask(5, CONTEXT - 5));
    stop();
    assert_int_equal(n_released, 0);
    stream_cancel(streams[1]);
    for (size_t i = 0; i < 5; i++)
        expect_end(streams[i], LORAD_FINISH_CANCELLED);
    assert_int_equal(n_released, 5);
    engine_destroy(NULL);
}

static void scarce_blocks_only_make_requests_wait(void **state)
{
    struct stream *streams[12];
    (void)state;
    n_released = n_released_tokens = 0;
    start((struct shape){.max_sequences = 12, .n_blocks = CONTEXT / KV_BLOCK_TOKENS + 1});
    for (size_t i = 0; i < 12; i++)
        streams[i] = submit(ask(100 * (i % 3) + 1, i % 4 == 0 ? CONTEXT - 400 : 20));
    for (size_t i = 0; i < 12; i++)
        expect_end(streams[i], LORAD_FINISH_LENGTH);
    wait_until_idle();
    assert_int_equal(stats().kv_blocks_used, 0);
    assert_int_equal(stats().kv_blocks, CONTEXT / KV_BLOCK_TOKENS + 1);
    assert_int_equal(n_released, 12);
    assert_int_equal(n_released_tokens, 3 * (CONTEXT - 400) + 9 * 20);
    stop();
}

static void what_does_not_fit_is_refused_with_the_numbers(void **state)
{
    static const int32_t outside[] = {1, 260}, negative[] = {-1};
    static const char *const stops[] = {"x"};
    struct engine_request bad[8];
    struct error err;
    (void)state;
    for (size_t i = 0; i < 8; i++)
        bad[i] = ask(5, 5);
    bad[0].n_prompt = 0;
    bad[1].prompt = outside, bad[1].n_prompt = 2;
    bad[2].prompt = negative, bad[2].n_prompt = 1;
    bad[3].max_tokens = CONTEXT - 4;
    bad[4].n_prompt = CONTEXT, bad[4].max_tokens = SIZE_MAX;
    bad[5].n_prompt = CONTEXT + 1, bad[5].max_tokens = 0;
    bad[6].stop_ids = outside, bad[6].n_stop_ids = 2;
    bad[7].logprobs = LORAD_TOP_LOGPROBS + 1;
    static const struct { const char *param, *part; } expected[] = {
        {"prompt", "no tokens"}, {"prompt", "token 260 at index 1"}, {"prompt", "token -1"},
        {"max_tokens", "is 1496, but after a prompt of 5 tokens the context of 1500 has room for 1495"},
        {"prompt", "leaves no room"}, {"prompt", "has 1501 tokens"}, {"stop_token_ids", "token 260"}, {"logprobs", "21"},
    };
    start((struct shape){0});
    for (size_t i = 0; i < 8; i++) {
        assert_null(try_submit(bad[i], &err));
        assert_error(&err, ERROR_BAD_INPUT, expected[i].param, expected[i].part);
    }
    assert_true(engine_is_idle(kit.engine));
    struct stream *stream = submit(ask(CONTEXT, 0)); /* just fits */
    expect_end(stream, LORAD_FINISH_LENGTH);
    stop();

    struct tokenizer *tokenizer = kit.tokenizer;
    kit.tokenizer = NULL;
    start((struct shape){0});
    struct engine_request request = ask(5, 5);
    request.stops = stops, request.n_stops = 1;
    assert_null(try_submit(request, &err));
    assert_error(&err, ERROR_BAD_INPUT, "stop", "tokenizer");
    struct answer answer = get(ask(5, 5)); /* without text, ids alone */
    assert_int_equal(answer.n_tokens, 5);
    assert_string_equal(buffer_text(&answer.text), "");
    answer_finish(&answer);
    stop();
    kit.tokenizer = tokenizer;
}

static void options_that_make_no_engine_are_refused(void **state)
{
    struct error err;
    struct engine_options options = {.model = kit.model, .kv_memory = 1, .context = 100, .max_sequences = 1,
                                     .max_batch_tokens = 1, .max_queue = 1};
    (void)state;
    assert_null(engine_create(&options, &err));
    assert_error(&err, ERROR_TOO_LARGE, "kv_memory", "100 tokens");
    options.max_queue = 0;
    assert_null(engine_create(&options, &err));
    assert_error(&err, ERROR_BAD_INPUT, "max_queue", "0");
}

/* ---- failures ---- */

static void a_view_that_gives_nan_fails_alone(void **state)
{
    struct engine_request broken = ask(20, 30);
    (void)state;
    start((struct shape){0});
    struct answer before = get(ask(9, 30));
    broken.view = kit.views[BROKEN_VIEW];
    for (int prompt_logprobs = -1; prompt_logprobs < 1; prompt_logprobs++) {
        broken.prompt_logprobs = prompt_logprobs;
        struct stream *good = submit(ask(9, 30)), *bad = submit(broken);
        struct answer answer = collect(bad);
        assert_int_equal(answer.finish, LORAD_FINISH_ERROR);
        assert_true(strstr(answer.error, "not finite"));
        answer_finish(&answer);
        answer = collect(good);
        assert_same_answer(&before, &answer);
        answer_finish(&answer);
    }
    assert_int_equal(stats().kv_blocks_used, 0);
    answer_finish(&before);
    stop();
}

static void without_memory_requests_fail_and_the_engine_goes_on(void **state)
{
    struct answer answer;
    (void)state;
    if (!WATCHES_MALLOC)
        skip();
    /* First the forward pass has none, then even a sequence has not. */
    static const size_t limits[] = {100000, 0};
    for (size_t i = 0; i < 2; i++) {
        start((struct shape){0});
        refused_above = limits[i];
        answer = get(ask(40, 5));
        refused_above = SIZE_MAX;
        assert_int_equal(answer.finish, LORAD_FINISH_ERROR);
        assert_true(answer.error[0] != '\0');
        assert_int_equal(stats().kv_blocks_used, 0);
        answer_finish(&answer);
        answer = get(ask(40, 5));
        assert_int_equal(answer.finish, LORAD_FINISH_LENGTH);
        answer_finish(&answer);
        stop();
    }
}

/* Calls of malloc on the engine's threads while the streams' tokens 200 to 1220 are read. */
static size_t count_mallocs_of_a_thousand_steps(void)
{
    struct stream *streams[4];
    size_t n_before = 0, n_after = 0;
    struct lorad_event event;
    start((struct shape){.n_threads = 2});
    for (size_t i = 0; i < 4; i++) {
        struct engine_request request = ask(10 + i, 1300);
        request.view = kit.views[i];
        request.logprobs = 2;
        request.sampling.temperature = i % 2 ? 1 : 0;
        request.sampling.top_p = 0.9;
        request.sampling.repetition_penalty = i == 3 ? 1.1 : 1;
        request.sampling.seed = i;
        streams[i] = submit(i == 0 ? held(request) : request);
    }
    /* Step by step: who lags by more events than a stream has room for makes it grow. */
    allow_steps(4);
    for (size_t n_seen = 0; n_seen < 1220; n_seen++) {
        allow_steps(1);
        if (n_seen == 200)
            n_before = n_mallocs;
        for (size_t i = 0; i < 4; i++) {
            assert_true(stream_wait(streams[i], 60000));
            assert_true(stream_next(streams[i], &event));
        }
    }
    n_after = n_mallocs;
    allow_all_steps();
    for (size_t i = 0; i < 4; i++)
        expect_end(streams[i], LORAD_FINISH_LENGTH);
    stop();
    assert_true(n_before > 0);
    return n_after - n_before;
}

static void a_thousand_steps_call_no_malloc(void **state)
{
    (void)state;
    if (!WATCHES_MALLOC)
        skip();
    assert_int_equal(count_mallocs_of_a_thousand_steps(), 0);
}

static void long_prompts_do_not_stop_others(void **state)
{
    (void)state;
    start((struct shape){.max_batch_tokens = 16, .max_sequences = 4});
    struct stream *talker = start_held(ask(3, 1000)), *reader = submit(ask(1200, 1)); /* 80 steps of 15 tokens */
    allow_all_steps();
    expect_end(reader, LORAD_FINISH_LENGTH);
    struct lorad_event event;
    size_t n_meanwhile = 0;
    while (stream_next(talker, &event))
        n_meanwhile += event.kind == LORAD_EVENT_TOKEN;
    assert_true(n_meanwhile >= 80);
    stream_close(talker);
    stop();
}

static void statistics_add_up(void **state)
{
    (void)state;
    start((struct shape){.max_sequences = 4});
    for (size_t i = 0; i < 6; i++) {
        struct answer answer = get(ask(10, 5));
        answer_finish(&answer);
    }
    struct lorad_stats now = stats();
    assert_int_equal(now.requests_total, 6);
    assert_int_equal(now.requests_finished[LORAD_FINISH_LENGTH], 6);
    assert_int_equal(now.prompt_tokens_total, 60);
    assert_int_equal(now.completion_tokens_total, 30);
    assert_int_equal(now.steps_total, 30);
    assert_int_equal(now.step_tokens_total, 6 * (10 + 4));
    assert_int_equal(now.step_sequences_total, 30);
    assert_int_equal(now.time_to_first_token.n, 6);
    assert_int_equal(now.inter_token.n, 24);
    assert_int_equal(now.step_time.n, 30);
    assert_int_equal(now.queue_time.n, 6);
    assert_int_equal(now.kv_block_tokens, KV_BLOCK_TOKENS);
    assert_true(now.step_time.sum > 0);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_in_a_crowd_are_those_given_alone),
        cmocka_unit_test(a_request_ends_at_max_tokens),
        cmocka_unit_test(a_request_without_a_limit_ends_where_the_context_does),
        cmocka_unit_test(the_end_token_ends_counts_and_gives_no_text),
        cmocka_unit_test(the_end_token_does_not_come_before_min_tokens),
        cmocka_unit_test(a_stop_string_cuts_the_text_where_it_begins),
        cmocka_unit_test(text_that_only_began_like_a_stop_string_comes_at_the_end),
        cmocka_unit_test(a_stop_id_ends_and_its_text_is_left_out_unless_wanted),
        cmocka_unit_test(prompt_logprobs_are_those_of_generating_the_same_tokens),
        cmocka_unit_test(a_prompt_of_one_token_has_prompt_logprobs_too),
        cmocka_unit_test(a_prompt_can_be_computed_for_nothing),
        cmocka_unit_test(a_running_request_can_be_cancelled),
        cmocka_unit_test(a_queued_request_is_cancelled_without_being_run),
        cmocka_unit_test(a_client_that_leaves_cancels_its_request),
        cmocka_unit_test(a_deadline_ends_running_and_queued_requests),
        cmocka_unit_test(usage_says_how_long_it_took),
        cmocka_unit_test(a_full_queue_refuses),
        cmocka_unit_test(a_draining_engine_refuses_but_finishes),
        cmocka_unit_test(destroying_ends_what_runs_and_what_waits),
        cmocka_unit_test(scarce_blocks_only_make_requests_wait),
        cmocka_unit_test(what_does_not_fit_is_refused_with_the_numbers),
        cmocka_unit_test(options_that_make_no_engine_are_refused),
        cmocka_unit_test(a_view_that_gives_nan_fails_alone),
        cmocka_unit_test(without_memory_requests_fail_and_the_engine_goes_on),
        cmocka_unit_test(a_thousand_steps_call_no_malloc),
        cmocka_unit_test(long_prompts_do_not_stop_others),
        cmocka_unit_test(statistics_add_up),
    };
    return cmocka_run_group_tests(tests, load_kit, engine_kit_unload);
}
