#include "base/mailbox.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "support/check.h"

struct letter {
    struct list link;
    int sender, number;
};

static struct letter *open_letter(struct list *link)
{
    return link ? LIST_ENTRY(link, struct letter, link) : NULL;
}

static void messages_come_in_the_order_of_posting(void **state)
{
    struct mailbox mailbox;
    struct letter letters[3] = {{.number = 1}, {.number = 2}, {.number = 3}};
    struct error err;
    (void)state;
    assert_ok(mailbox_init(&mailbox, &err), &err);
    for (int i = 0; i < 3; i++)
        assert_true(mailbox_post(&mailbox, &letters[i].link, 0));
    for (int i = 0; i < 3; i++)
        assert_int_equal(open_letter(mailbox_take(&mailbox))->number, i + 1);
    assert_null(mailbox_take(&mailbox));
    mailbox_finish(&mailbox);
}

static void a_full_mailbox_refuses(void **state)
{
    struct mailbox mailbox;
    struct letter letters[3] = {0};
    struct error err;
    (void)state;
    assert_ok(mailbox_init(&mailbox, &err), &err);
    assert_true(mailbox_post(&mailbox, &letters[0].link, 2));
    assert_true(mailbox_post(&mailbox, &letters[1].link, 2));
    assert_false(mailbox_post(&mailbox, &letters[2].link, 2));
    mailbox_take(&mailbox);
    assert_true(mailbox_post(&mailbox, &letters[2].link, 2));
    mailbox_take(&mailbox);
    mailbox_take(&mailbox);
    mailbox_finish(&mailbox);
}

static void a_closed_mailbox_takes_nothing_more_but_gives_what_it_has(void **state)
{
    struct mailbox mailbox;
    struct letter letters[2] = {0};
    struct error err;
    (void)state;
    assert_ok(mailbox_init(&mailbox, &err), &err);
    assert_true(mailbox_post(&mailbox, &letters[0].link, 0));
    assert_false(mailbox_is_closed(&mailbox));
    mailbox_close(&mailbox);
    assert_true(mailbox_is_closed(&mailbox));
    assert_false(mailbox_post(&mailbox, &letters[1].link, 0));
    assert_ptr_equal(mailbox_wait(&mailbox, -1), &letters[0].link);
    assert_null(mailbox_wait(&mailbox, -1));
    mailbox_finish(&mailbox);
}

static void waiting_ends_after_its_time(void **state)
{
    struct mailbox mailbox;
    struct error err;
    (void)state;
    assert_ok(mailbox_init(&mailbox, &err), &err);
    uint64_t before = clock_now_us();
    assert_null(mailbox_wait(&mailbox, 30));
    uint64_t waited = clock_now_us() - before;
    assert_in_range(waited, 29000, 5000000);
    assert_null(mailbox_wait(&mailbox, 0));
    mailbox_finish(&mailbox);
}

static void a_wake_before_the_wait_is_not_lost_and_counts_once(void **state)
{
    struct mailbox mailbox;
    struct error err;
    (void)state;
    assert_ok(mailbox_init(&mailbox, &err), &err);
    mailbox_wake(&mailbox);
    mailbox_wake(&mailbox);
    assert_null(mailbox_wait(&mailbox, -1));
    uint64_t before = clock_now_us();
    assert_null(mailbox_wait(&mailbox, 20));
    assert_true(clock_now_us() - before >= 19000);
    mailbox_finish(&mailbox);
}

enum { N_SENDERS = 4, N_LETTERS = 5000 };
static struct letter crowd[N_SENDERS][N_LETTERS];

struct sender {
    struct mailbox *mailbox;
    int number;
};

static void *send_all(void *argument)
{
    struct sender *sender = argument;
    for (int i = 0; i < N_LETTERS; i++) {
        struct letter *letter = &crowd[sender->number][i];
        letter->sender = sender->number;
        letter->number = i;
        if (!mailbox_post(sender->mailbox, &letter->link, 0))
            abort();
        if (i % 100 == 0)
            mailbox_wake(sender->mailbox);
    }
    return NULL;
}

static void many_senders_lose_nothing_and_keep_their_order(void **state)
{
    struct mailbox mailbox;
    struct sender senders[N_SENDERS];
    pthread_t threads[N_SENDERS];
    int next[N_SENDERS] = {0};
    struct error err;
    (void)state;
    assert_ok(mailbox_init(&mailbox, &err), &err);
    for (int i = 0; i < N_SENDERS; i++) {
        senders[i] = (struct sender){&mailbox, i};
        assert_int_equal(pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
    }
    for (int n = 0; n < N_SENDERS * N_LETTERS;) {
        struct letter *letter = open_letter(mailbox_wait(&mailbox, -1));
        if (!letter)
            continue;
        assert_int_equal(letter->number, next[letter->sender]);
        next[letter->sender]++;
        n++;
    }
    for (int i = 0; i < N_SENDERS; i++)
        pthread_join(threads[i], NULL);
    assert_null(mailbox_take(&mailbox));
    mailbox_finish(&mailbox);
}

static void *close_soon(void *argument)
{
    usleep(20000);
    mailbox_close(argument);
    return NULL;
}

static void closing_wakes_the_receiver(void **state)
{
    struct mailbox mailbox;
    pthread_t thread;
    struct error err;
    (void)state;
    assert_ok(mailbox_init(&mailbox, &err), &err);
    pthread_create(&thread, NULL, close_soon, &mailbox);
    assert_null(mailbox_wait(&mailbox, -1));
    assert_true(mailbox_is_closed(&mailbox));
    pthread_join(thread, NULL);
    mailbox_finish(&mailbox);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_come_in_the_order_of_posting),
        cmocka_unit_test(a_full_mailbox_refuses),
        cmocka_unit_test(a_closed_mailbox_takes_nothing_more_but_gives_what_it_has),
        cmocka_unit_test(waiting_ends_after_its_time),
        cmocka_unit_test(a_wake_before_the_wait_is_not_lost_and_counts_once),
        cmocka_unit_test(many_senders_lose_nothing_and_keep_their_order),
        cmocka_unit_test(closing_wakes_the_receiver),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
