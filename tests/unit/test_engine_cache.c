/*
 * test_engine_cache.c - preemption, prefix reuse, pauses, and the choice between on the fly and merged: what is said stays the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/check.h"
#include "support/engine_kit.h"
#include "support/tiny_view.h"

/* Views that say who they are, as those of the registry do. */
static void identify_views(void)
{
    for (size_t i = 1; i < N_VIEWS; i++)
        snprintf(kit.views[i]->identity, sizeof kit.views[i]->identity, "view %zu", i);
}

static int load_kit(void **state)
{
    int result = engine_kit_load(state);
    if (result == 0)
        identify_views();
    return result;
}

static struct answer get_alone(struct engine_request request)
{
    start((struct shape){.max_sequences = 1, .max_batch_tokens = 512});
    struct answer answer = get(request);
    assert_int_equal(answer.usage.cached_tokens, 0);
    stop();
    return answer;
}

/* ---- preemption ---- */

static struct engine_request ask_long(size_t i)
{
    struct engine_request request = ask(20 + 30 * (i % 4), 200 + 10 * (i % 5));
    request.prompt += i;
    request.view = kit.views[i % N_VIEWS];
    request.logprobs = 2;
    request.share = i % 3;
    if (i % 2)
        ask_for_letters(&request, i);
    if (i % 4 == 3)
        request.prompt_logprobs = 1;
    return request;
}

static void after_preemption_the_answer_is_the_same(void **state)
{
    enum { N = 12 };
    struct answer expected[N];
    struct stream *streams[N];
    size_t n_preemptions = 0;
    (void)state;
    for (size_t i = 0; i < N; i++)
        expected[i] = get_alone(ask_long(i));
    for (size_t n_threads = 1; n_threads <= 2; n_threads++) {
        start((struct shape){.n_threads = n_threads, .max_sequences = 8, .max_batch_tokens = 50,
                             .n_blocks = CONTEXT / KV_BLOCK_TOKENS + 1});
        /* About 25 blocks each, of 94. */
        for (size_t i = 0; i < N; i++)
            streams[i] = submit(ask_long(i));
        for (size_t i = 0; i < N; i++) {
            struct answer answer = collect(streams[i]);
            assert_same_answer(&expected[i], &answer);
            n_preemptions += answer.usage.n_preemptions;
            answer_finish(&answer);
        }
        assert_int_equal(stats().kv_blocks_used, 0);
        assert_true(stats().preemptions_total > 0);
        stop();
    }
    assert_true(n_preemptions > 0);
    for (size_t i = 0; i < N; i++)
        answer_finish(&expected[i]);
}

static void the_oldest_is_never_preempted(void **state)
{
    struct stream *streams[6];
    (void)state;
    start((struct shape){.max_sequences = 6, .n_blocks = CONTEXT / KV_BLOCK_TOKENS + 1});
    for (size_t i = 0; i < 6; i++)
        streams[i] = submit(ask(10 + i, 400));
    for (size_t i = 0; i < 6; i++) {
        struct answer answer = collect(streams[i]);
        assert_int_equal(answer.finish, LORAD_FINISH_LENGTH);
        if (i == 0)
            assert_int_equal(answer.usage.n_preemptions, 0);
        answer_finish(&answer);
    }
    assert_true(stats().preemptions_total > 0);
    stop();
}

/* ---- prefix reuse ---- */

static void an_equal_prompt_is_not_computed_again_and_says_the_same(void **state)
{
    (void)state;
    for (size_t v = 0; v < N_VIEWS; v++) {
        struct engine_request request = ask(100, 40);
        request.view = kit.views[v];
        request.logprobs = 3;
        struct answer expected = get_alone(request);
        start((struct shape){0});
        for (size_t i = 0; i < 3; i++) {
            struct answer answer = get(request);
            assert_same_answer(&expected, &answer);
            assert_int_equal(answer.usage.prompt_tokens, 100);
            assert_int_equal(answer.usage.cached_tokens, i == 0 ? 0 : 96);
            answer_finish(&answer);
        }
        struct lorad_stats now = stats();
        assert_int_equal(now.prompt_tokens_total, 100 + 4 + 4);
        assert_int_equal(now.prefix_tokens_found_total, 2 * 96);
        assert_int_equal(now.prefix_tokens_sought_total, 300);
        assert_int_equal(now.kv_blocks_used, 0);
        assert_true(now.kv_blocks_cached >= 6);
        stop();
        answer_finish(&expected);
    }
}

static void a_prompt_that_goes_on_where_an_answer_ended_finds_the_answer_too(void **state)
{
    int32_t tokens[160];
    (void)state;
    start((struct shape){0});
    struct engine_request request = ask(64, 64);
    struct answer first = get(request);
    memcpy(tokens, request.prompt, 64 * sizeof *tokens);
    for (size_t i = 0; i < 64; i++)
        tokens[64 + i] = first.tokens[i].id;
    memcpy(tokens + 128, kit.letters, 32 * sizeof *tokens);
    request.prompt = tokens;
    request.n_prompt = 160;
    struct answer second = get(request);
    assert_int_equal(second.usage.cached_tokens, 112); /* the last token generated was never computed */
    stop();
    struct answer expected = get_alone(request);
    assert_same_answer(&expected, &second);
    answer_finish(&first);
    answer_finish(&second);
    answer_finish(&expected);
}

static void whole_blocks_of_a_prompt_still_leave_a_token_to_compute(void **state)
{
    struct engine_request request = ask(4 * KV_BLOCK_TOKENS, 5);
    (void)state;
    start((struct shape){0});
    struct answer first = get(request), second = get(request);
    assert_same_answer(&first, &second);
    assert_int_equal(second.usage.cached_tokens, 3 * KV_BLOCK_TOKENS);
    stop();
    answer_finish(&first);
    answer_finish(&second);
}

static void views_never_share(void **state)
{
    (void)state;
    start((struct shape){0});
    for (size_t v = 0; v < N_VIEWS; v++) {
        struct engine_request request = ask(100, 4);
        request.view = kit.views[v];
        struct answer answer = get(request);
        assert_int_equal(answer.usage.cached_tokens, 0);
        answer_finish(&answer);
    }
    stop();
}

static void another_view_of_the_same_identity_does_share(void **state)
{
    struct view *twin = tiny_view_create(kit.model, (struct tiny_view){.seed = 1, .n_deltas = 1});
    struct engine_request request = ask(100, 20);
    (void)state;
    memcpy(twin->identity, kit.views[1]->identity, sizeof twin->identity);
    start((struct shape){0});
    request.view = kit.views[1];
    struct answer first = get(request);
    request.view = twin;
    struct answer second = get(request);
    assert_same_answer(&first, &second);
    assert_int_equal(second.usage.cached_tokens, 96);
    stop();
    view_unref(twin);
    answer_finish(&first);
    answer_finish(&second);
}

static void prompt_logprobs_are_computed_whatever_is_cached(void **state)
{
    struct engine_request request = ask(100, 4);
    (void)state;
    start((struct shape){0});
    struct answer plain = get(request);
    request.prompt_logprobs = 2;
    struct answer first = get(request), second = get(request);
    assert_int_equal(second.usage.cached_tokens, 0);
    assert_int_equal(second.n_prompt, 100);
    assert_same_answer(&first, &second);
    assert_same_tokens(plain.tokens, second.tokens, 4);
    stop();
    answer_finish(&plain);
    answer_finish(&first);
    answer_finish(&second);
}

static void cached_blocks_give_way_to_new_ones(void **state)
{
    (void)state;
    start((struct shape){.n_blocks = CONTEXT / KV_BLOCK_TOKENS + 1});
    for (size_t i = 0; i < 30; i++) {
        struct engine_request request = ask(150, 10);
        request.prompt += i;
        struct answer answer = get(request);
        assert_int_equal(answer.n_tokens, 10);
        assert_int_equal(answer.usage.n_preemptions, 0);
        answer_finish(&answer);
    }
    assert_true(stats().prefix_evictions_total > 0);
    assert_int_equal(stats().kv_blocks_used, 0);
    stop();
}

/* ---- fairness ---- */

/* The flood is n_flood <= 40 requests of one share; then one of another. Returns how many steps the second took to its first token. */
static size_t steps_to_first_token(size_t n_flood)
{
    struct stream *flood[40];
    start((struct shape){.max_sequences = 8, .max_batch_tokens = 64});
    for (size_t i = 0; i < n_flood; i++) {
        struct engine_request request = ask(30, 300);
        request.prompt += i;
        request.share = 1;
        flood[i] = submit(i == 0 ? held(request) : request);
    }
    if (n_flood > 0) {
        allow_steps(10);
        wait_for_event(flood[0]);
    }
    struct engine_request request = ask(40, 1);
    request.prompt += 50;
    request.share = 2;
    struct stream *stream = submit(counted(request));
    allow_all_steps();
    struct answer answer = collect(stream);
    assert_int_equal(answer.n_tokens, 1);
    answer_finish(&answer);
    for (size_t i = 0; i < n_flood; i++)
        stream_close(flood[i]);
    wait_until_idle();
    assert_int_equal(stats().kv_blocks_used, 0);
    stop();
    return n_counted_steps;
}

static void a_flood_of_one_adapter_does_not_keep_another_waiting(void **state)
{
    (void)state;
    size_t alone = steps_to_first_token(0), flooded = steps_to_first_token(40);
    assert_int_equal(alone, 1);
    /* Its prompt comes in smaller chunks, and after those that are under way. */
    if (flooded > 6)
        fail_msg("%zu steps instead of %zu", flooded, alone);
}

static void who_pauses_goes_on_and_says_the_same(void **state)
{
    enum { N = 6 };
    struct answer expected[N];
    struct stream *streams[N];
    (void)state;
    for (size_t i = 0; i < N; i++)
        expected[i] = get_alone(ask_long(i));
    start((struct shape){.max_sequences = 3});
    for (size_t i = 0; i < N; i++) {
        struct engine_request request = ask_long(i);
        request.share = 1;
        streams[i] = submit(i == 0 ? held(request) : request);
    }
    allow_steps(10);
    wait_for_event(streams[2]);
    for (size_t i = 0; i < 5; i++) {
        struct engine_request request = ask(10, 10);
        request.share = 2 + i % 2;
        struct stream *stream = submit(request);
        allow_all_steps();
        struct answer answer = collect(stream);
        assert_int_equal(answer.n_tokens, 10);
        answer_finish(&answer);
    }
    assert_true(stats().pauses_total > 0);
    for (size_t i = 0; i < N; i++) {
        struct answer answer = collect(streams[i]);
        size_t n_read = i == 2; /* above */
        assert_int_equal(answer.n_tokens + n_read, expected[i].n_tokens);
        assert_same_tokens(answer.tokens, expected[i].tokens + n_read, answer.n_tokens);
        answer_finish(&answer);
        answer_finish(&expected[i]);
    }
    stop();
}

static void the_higher_priority_of_a_share_goes_first(void **state)
{
    struct stream *streams[10];
    (void)state;
    start((struct shape){.max_sequences = 1});
    for (size_t i = 0; i < 10; i++)
        streams[i] = submit(i == 0 ? held(ask(20, 200)) : ask(20 + i, 200));
    allow_steps(1);
    wait_for_event(streams[0]);
    struct engine_request request = ask(10, 5);
    request.priority = 10;
    struct stream *stream = submit(counted(request));
    allow_all_steps();
    struct answer urgent = collect(stream);
    assert_in_range(n_counted_steps, 5, 200 + 5); /* after the one under way */
    answer_finish(&urgent);
    for (size_t i = 0; i < 10; i++)
        stream_close(streams[i]);
    stop();
}

/* ---- on the fly or merged ---- */

static double last_gain;
static atomic_size_t n_gains;

static void note_gain(const struct engine_request *request, double gain_us)
{
    (void)request;
    last_gain = gain_us;
    n_gains++;
}

/* View 1 has pairs at all sites, view 4 replaces all weights: as if one were the other merged. */
static struct engine_request ask_either(size_t n_prompt, size_t max_tokens)
{
    struct engine_request request = ask(n_prompt, max_tokens);
    request.view = kit.views[1];
    request.merged_view = kit.views[4];
    request.gain = note_gain;
    return request;
}

static void alone_it_is_answered_merged(void **state)
{
    (void)state;
    struct engine_request merged = ask(50, 20);
    merged.view = kit.views[4];
    struct answer expected = get_alone(merged);
    start((struct shape){0});
    struct answer answer = get(ask_either(50, 20));
    assert_true(answer.is_merged);
    assert_same_answer(&expected, &answer);
    assert_int_equal(stats().mode_merged_cheaper_total, 1);
    stop();
    answer_finish(&answer);
    answer_finish(&expected);
}

/* Requests for the base that run from here on, the first one held. */
static void start_others(struct stream **others, size_t n)
{
    for (size_t i = 0; i < n; i++)
        others[i] = submit(i == 0 ? held(ask(10, 300)) : ask(10, 300));
    allow_steps(10);
    for (size_t i = 0; i < n; i++)
        wait_for_event(others[i]);
}

static void in_a_mixed_batch_it_is_answered_on_the_fly_and_stays_so(void **state)
{
    struct stream *others[6];
    struct engine_request on_the_fly = ask(50, 150);
    (void)state;
    on_the_fly.view = kit.views[1];
    struct answer expected = get_alone(on_the_fly);
    start((struct shape){0});
    start_others(others, 6);
    struct stream *stream = submit(ask_either(50, 150));
    allow_steps(10);
    wait_for_event(stream);
    allow_all_steps();
    for (size_t i = 0; i < 6; i++)
        stream_close(others[i]); /* alone from here on: still it keeps its mode */
    struct answer answer = collect(stream);
    assert_false(answer.is_merged);
    assert_int_equal(answer.n_tokens + 1, expected.n_tokens);
    assert_same_tokens(answer.tokens, expected.tokens + 1, answer.n_tokens);
    assert_int_equal(stats().mode_on_the_fly_cheaper_total, 1);
    stop();
    answer_finish(&answer);
    answer_finish(&expected);
}

/* Each would be cheaper merged if it were alone, but together they share the base's weights. */
static void several_adapters_with_merged_weights_run_on_the_fly_together(void **state)
{
    enum { N = 6 };
    struct view *pairs[N], *merged[N];
    struct stream *streams[N];
    size_t n_merged = 0;
    (void)state;
    for (unsigned i = 0; i < N; i++) {
        pairs[i] = tiny_view_create(kit.model, (struct tiny_view){.seed = 10 + i, .n_deltas = 1, .rank = 1, .body_only = true});
        merged[i] = tiny_view_create(kit.model, (struct tiny_view){.seed = 20 + i, .has_weights = true});
    }
    start((struct shape){0});
    for (size_t i = 0; i < N; i++) {
        struct engine_request request = ask(10, 300);
        request.view = pairs[i];
        request.merged_view = merged[i];
        request.share = i;
        streams[i] = submit(i == 0 ? held(request) : request);
        if (i == 0) {
            allow_steps(5);
            wait_for_event(streams[0]);
        }
    }
    allow_all_steps();
    for (size_t i = 0; i < N; i++) {
        struct answer answer = collect(streams[i]);
        n_merged += answer.is_merged;
        if (i == 0)
            assert_true(answer.is_merged); /* it began alone */
        answer_finish(&answer);
    }
    assert_int_equal(n_merged, 1);
    stop();
    for (size_t i = 0; i < N; i++) {
        view_unref(pairs[i]);
        view_unref(merged[i]);
    }
}

static void who_may_switch_follows_the_batch(void **state)
{
    struct stream *others[6];
    struct engine_request request = ask_either(50, 400);
    (void)state;
    request.may_switch = true;
    start((struct shape){0});
    start_others(others, 6);
    struct stream *stream = submit(request);
    allow_steps(10);
    wait_for_event(stream);
    assert_false(stream_is_merged(stream));
    allow_all_steps();
    for (size_t i = 0; i < 6; i++)
        stream_close(others[i]);
    struct answer answer = collect(stream);
    assert_true(answer.is_merged);
    answer_finish(&answer);
    /* What it computed through two views serves nobody. */
    answer = get(request);
    assert_int_equal(answer.usage.cached_tokens, 0);
    answer_finish(&answer);
    stop();
}

static void what_merging_gains_is_reported_where_it_gains(void **state)
{
    struct engine_request request = ask_either(20, 100);
    struct stream *others[7];
    (void)state;
    request.merged_view = NULL;
    n_gains = 0;
    start((struct shape){0});
    struct answer answer = get(request);
    assert_false(answer.is_merged);
    assert_true(n_gains > 10);
    assert_true(last_gain > 0);
    assert_int_equal(stats().mode_only_on_the_fly_total, 1);
    answer_finish(&answer);
    start_others(others, 7);
    n_gains = 0;
    struct stream *stream = submit(request);
    allow_all_steps();
    answer = collect(stream);
    assert_int_equal(n_gains, 0); /* among others that use the base's weights it would cost */
    answer_finish(&answer);
    for (size_t i = 0; i < 7; i++)
        stream_close(others[i]);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(after_preemption_the_answer_is_the_same),
        cmocka_unit_test(the_oldest_is_never_preempted),
        cmocka_unit_test(an_equal_prompt_is_not_computed_again_and_says_the_same),
        cmocka_unit_test(a_prompt_that_goes_on_where_an_answer_ended_finds_the_answer_too),
        cmocka_unit_test(whole_blocks_of_a_prompt_still_leave_a_token_to_compute),
        cmocka_unit_test(views_never_share),
        cmocka_unit_test(another_view_of_the_same_identity_does_share),
        cmocka_unit_test(prompt_logprobs_are_computed_whatever_is_cached),
        cmocka_unit_test(cached_blocks_give_way_to_new_ones),
        cmocka_unit_test(a_flood_of_one_adapter_does_not_keep_another_waiting),
        cmocka_unit_test(who_pauses_goes_on_and_says_the_same),
        cmocka_unit_test(the_higher_priority_of_a_share_goes_first),
        cmocka_unit_test(alone_it_is_answered_merged),
        cmocka_unit_test(in_a_mixed_batch_it_is_answered_on_the_fly_and_stays_so),
        cmocka_unit_test(several_adapters_with_merged_weights_run_on_the_fly_together),
        cmocka_unit_test(who_may_switch_follows_the_batch),
        cmocka_unit_test(what_merging_gains_is_reported_where_it_gains),
    };
    return cmocka_run_group_tests(tests, load_kit, engine_kit_unload);
}
