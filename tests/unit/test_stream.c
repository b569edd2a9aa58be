#include "engine/stream.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/inbox.h"
#include "support/check.h"

struct kit {
    struct inbox *inbox;
    struct engine_request request;
    struct stream *stream;
    atomic_size_t n_released, n_tokens;
};

static void count_release(struct engine_request *request, const struct lorad_usage *usage, bool is_merged)
{
    struct kit *kit = request->owner;
    (void)is_merged;
    kit->n_tokens = usage->completion_tokens;
    kit->n_released++;
}

static int set_up(void **state)
{
    struct kit *kit = calloc(1, sizeof *kit);
    kit->inbox = inbox_create(NULL);
    kit->request = (struct engine_request){.max_tokens = 4, .logprobs = 2, .release = count_release, .owner = kit};
    kit->stream = stream_create(&kit->request, kit->inbox, NULL);
    *state = kit;
    return kit->stream ? 0 : -1;
}

static int tear_down(void **state)
{
    struct kit *kit = *state;
    inbox_unref(kit->inbox);
    free(kit);
    return 0;
}

static bool is_readable(struct stream *stream)
{
    struct pollfd fd = {.fd = stream_fd(stream), .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

static void push(struct stream *stream, int32_t id, const char *text)
{
    struct lorad_token token = {.id = id, .logprob = -0.5f * (float)id, .n_top = 2, .top = {{id, -1}, {id + 1, -2}}};
    assert_true(stream_push_token(stream, &token, text, strlen(text)));
}

static void end(struct stream *stream, enum lorad_finish finish, const char *text)
{
    stream_end(stream, &(struct stream_end){.finish = finish, .stop_id = 7, .text = text, .n_text_bytes = strlen(text),
                                            .usage = {.completion_tokens = 3}});
}

static void events_come_as_they_were_pushed(void **state)
{
    struct kit *kit = *state;
    struct lorad_event event;
    assert_false(stream_next(kit->stream, &event));
    push(kit->stream, 1, "one");
    push(kit->stream, 2, "");
    assert_true(stream_next(kit->stream, &event));
    assert_int_equal(event.kind, LORAD_EVENT_TOKEN);
    assert_int_equal(event.token.id, 1);
    assert_true(event.token.logprob == -0.5f);
    assert_int_equal(event.token.n_top, 2);
    assert_int_equal(event.token.top[1].id, 2);
    assert_true(event.token.top[1].logprob == -2);
    assert_string_equal(event.text, "one");
    assert_int_equal(event.n_text_bytes, 3);
    push(kit->stream, 3, "three, which is longer than what was there before it, and what one thinks");
    assert_string_equal(event.text, "one"); /* still borrowed */
    assert_true(stream_next(kit->stream, &event));
    assert_int_equal(event.token.id, 2);
    assert_string_equal(event.text, "");
    assert_true(stream_next(kit->stream, &event));
    assert_int_equal(event.token.id, 3);
    end(kit->stream, LORAD_FINISH_STOP, "rest");
    assert_true(stream_next(kit->stream, &event));
    assert_int_equal(event.kind, LORAD_EVENT_END);
    assert_int_equal(event.finish, LORAD_FINISH_STOP);
    assert_int_equal(event.stop_id, 7);
    assert_string_equal(event.text, "rest");
    assert_null(event.error_message);
    assert_false(stream_next(kit->stream, &event));
    assert_false(stream_wait(kit->stream, -1)); /* nothing will ever come: no waiting */
    stream_close(kit->stream);
    assert_int_equal(kit->n_released, 1);
    assert_int_equal(kit->n_tokens, 3);
}

static void the_descriptor_is_readable_exactly_while_events_wait(void **state)
{
    struct kit *kit = *state;
    struct lorad_event event;
    assert_false(is_readable(kit->stream));
    push(kit->stream, 1, "a");
    push(kit->stream, 2, "b");
    assert_true(is_readable(kit->stream));
    assert_true(stream_next(kit->stream, &event));
    assert_true(is_readable(kit->stream));
    push(kit->stream, 3, "c");
    assert_true(stream_next(kit->stream, &event));
    assert_true(is_readable(kit->stream));
    assert_true(stream_next(kit->stream, &event));
    assert_false(is_readable(kit->stream));
    assert_false(stream_wait(kit->stream, 1));
    end(kit->stream, LORAD_FINISH_LENGTH, "");
    assert_true(is_readable(kit->stream));
    assert_true(stream_wait(kit->stream, -1));
    assert_true(stream_next(kit->stream, &event));
    assert_false(is_readable(kit->stream));
    stream_close(kit->stream);
}

static void prompt_tokens_come_first_and_stay(void **state)
{
    struct kit *kit = *state;
    struct lorad_event event;
    struct lorad_token *tokens = calloc(2, sizeof *tokens);
    tokens[0] = (struct lorad_token){.id = 5, .logprob = NAN};
    tokens[1] = (struct lorad_token){.id = 6, .logprob = -3};
    assert_true(stream_push_prompt(kit->stream, tokens, 2));
    push(kit->stream, 1, "a");
    assert_true(stream_next(kit->stream, &event));
    assert_int_equal(event.kind, LORAD_EVENT_PROMPT);
    assert_int_equal(event.n_prompt_tokens, 2);
    assert_true(isnan(event.prompt_tokens[0].logprob));
    assert_int_equal(event.prompt_tokens[1].id, 6);
    assert_true(stream_next(kit->stream, &event));
    assert_int_equal(event.kind, LORAD_EVENT_TOKEN);
    end(kit->stream, LORAD_FINISH_LENGTH, "");
    stream_close(kit->stream);
    assert_int_equal(kit->n_released, 1);
}

static void text_may_hold_a_nul(void **state)
{
    struct kit *kit = *state;
    struct lorad_event event;
    struct lorad_token token = {.id = 1};
    assert_true(stream_push_token(kit->stream, &token, "a\0b", 3));
    assert_true(stream_next(kit->stream, &event));
    assert_int_equal(event.n_text_bytes, 3);
    assert_memory_equal(event.text, "a\0b", 4);
    end(kit->stream, LORAD_FINISH_LENGTH, "");
    stream_close(kit->stream);
}

static void the_message_of_an_error_is_kept(void **state)
{
    struct kit *kit = *state;
    struct lorad_event event;
    char message[] = "out of luck";
    stream_end(kit->stream, &(struct stream_end){.finish = LORAD_FINISH_ERROR, .error_message = message, .stop_id = -1});
    message[0] = 'X';
    assert_true(stream_next(kit->stream, &event));
    assert_int_equal(event.finish, LORAD_FINISH_ERROR);
    assert_string_equal(event.error_message, "out of luck");
    assert_string_equal(event.text, "");
    stream_close(kit->stream);
}

static void closing_early_cancels_and_the_request_lives_until_the_engine_lets_go(void **state)
{
    struct kit *kit = *state;
    struct stream *stream = kit->stream;
    assert_false(stream_is_cancelled(stream));
    stream_close(stream);
    assert_true(stream_is_cancelled(stream));
    assert_int_equal(kit->n_released, 0);
    assert_null(mailbox_wait(&kit->inbox->mailbox, 10000)); /* was woken */
    end(stream, LORAD_FINISH_CANCELLED, "");
    assert_int_equal(kit->n_released, 1);
}

static void a_stream_may_be_cancelled_after_the_engine_has_gone(void **state)
{
    struct kit *kit = *state;
    end(kit->stream, LORAD_FINISH_CANCELLED, "");
    inbox_unref(kit->inbox);
    kit->inbox = NULL;
    stream_cancel(kit->stream);
    stream_close(kit->stream);
    assert_int_equal(kit->n_released, 1);
}

static void a_discarded_stream_releases_nothing(void **state)
{
    struct kit *kit = *state;
    stream_discard(kit->stream);
    assert_int_equal(kit->n_released, 0);
}

enum { N_PUSHED = 20000 };

static void *push_many(void *context)
{
    struct stream *stream = context;
    char text[32];
    for (int32_t i = 0; i < N_PUSHED; i++) {
        snprintf(text, sizeof text, "%*d", (int)(i % 20), (int)i);
        push(stream, i, text);
    }
    end(stream, LORAD_FINISH_LENGTH, "end");
    return NULL;
}

static void no_event_is_lost_between_two_threads(void **state)
{
    struct kit *kit = *state;
    struct lorad_event event = {.kind = LORAD_EVENT_TOKEN};
    pthread_t thread;
    char text[32];
    int32_t n_seen = 0;
    assert_int_equal(pthread_create(&thread, NULL, push_many, kit->stream), 0);
    while (event.kind != LORAD_EVENT_END) {
        assert_true(stream_wait(kit->stream, 10000));
        while (stream_next(kit->stream, &event) && event.kind == LORAD_EVENT_TOKEN) {
            snprintf(text, sizeof text, "%*d", (int)(n_seen % 20), (int)n_seen);
            assert_int_equal(event.token.id, n_seen++);
            assert_string_equal(event.text, text);
        }
    }
    assert_int_equal(n_seen, N_PUSHED);
    stream_close(kit->stream);
    pthread_join(thread, NULL);
    assert_int_equal(kit->n_released, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(events_come_as_they_were_pushed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_descriptor_is_readable_exactly_while_events_wait, set_up, tear_down),
        cmocka_unit_test_setup_teardown(prompt_tokens_come_first_and_stay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(text_may_hold_a_nul, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_message_of_an_error_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(closing_early_cancels_and_the_request_lives_until_the_engine_lets_go, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_may_be_cancelled_after_the_engine_has_gone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_discarded_stream_releases_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_event_is_lost_between_two_threads, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
