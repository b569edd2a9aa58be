/*
 * test_queue.c - who runs: equal parts among shares, least served first, priority and age within a share.
 */
#include "engine/queue.h"

#include <stdlib.h>

#include "support/check.h"

enum { MOST = 64 };

struct kit {
    struct queue queue;
    struct queue_item items[MOST];
    size_t n_items;
};

static int set_up(void **state)
{
    struct kit *kit = calloc(1, sizeof *kit);
    queue_init(&kit->queue);
    *state = kit;
    return 0;
}

static int tear_down(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < kit->n_items; i++)
        if (kit->items[i].share)
            queue_remove(&kit->queue, &kit->items[i]);
    queue_finish(&kit->queue);
    free(kit);
    return 0;
}

static struct queue_item *add(struct kit *kit, uint64_t share, int priority)
{
    struct queue_item *item = &kit->items[kit->n_items++];
    assert_true(queue_add(&kit->queue, item, share, priority));
    return item;
}

static void remove_item(struct kit *kit, struct queue_item *item)
{
    queue_remove(&kit->queue, item);
    item->share = NULL;
}

/* Those that are chosen run, the others do not. */
static size_t choose(struct kit *kit, size_t n_places)
{
    size_t n = queue_choose(&kit->queue, n_places);
    for (size_t i = 0; i < kit->n_items; i++)
        kit->items[i].has_place = kit->items[i].share && kit->items[i].is_chosen;
    return n;
}

static size_t count_chosen(const struct kit *kit, size_t first, size_t n)
{
    size_t n_chosen = 0;
    for (size_t i = first; i < first + n; i++)
        n_chosen += kit->items[i].is_chosen;
    return n_chosen;
}

static void all_run_while_there_are_places(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < 5; i++)
        add(kit, i % 2, 0);
    assert_int_equal(choose(kit, 8), 5);
    assert_int_equal(count_chosen(kit, 0, 5), 5);
}

static void an_empty_queue_chooses_nobody(void **state)
{
    assert_int_equal(choose(*state, 8), 0);
}

static void the_older_goes_first_within_a_share(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < 5; i++)
        add(kit, 1, 0);
    assert_int_equal(choose(kit, 2), 2);
    assert_int_equal(count_chosen(kit, 0, 2), 2);
}

static void a_higher_priority_goes_before_older_ones_of_its_share_only(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < 3; i++)
        add(kit, 1, 0);
    struct queue_item *urgent = add(kit, 1, 5), *other = add(kit, 2, 0);
    assert_int_equal(choose(kit, 2), 2);
    assert_true(urgent->is_chosen);
    assert_true(other->is_chosen); /* the other share's part is its own */
    assert_int_equal(count_chosen(kit, 0, 3), 0);
}

static void a_flooding_share_leaves_the_others_their_equal_part(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < 20; i++)
        add(kit, 1, 0);
    assert_int_equal(choose(kit, 8), 8);
    struct queue_item *late = add(kit, 2, 0);
    assert_int_equal(choose(kit, 8), 8);
    assert_true(late->is_chosen);
    assert_int_equal(count_chosen(kit, 0, 20), 7); /* the youngest gave way */
    assert_int_equal(count_chosen(kit, 0, 7), 7);
    for (size_t i = 0; i < 10; i++)
        add(kit, 2, 0);
    choose(kit, 8);
    assert_int_equal(count_chosen(kit, 0, 20), 4);
    assert_int_equal(count_chosen(kit, 20, 11), 4);
}

static void what_is_left_over_stays_with_who_has_it(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < 6; i++)
        add(kit, 1, 0);
    assert_int_equal(choose(kit, 3), 3);
    for (size_t i = 0; i < 6; i++)
        add(kit, 2, 0);
    queue_charge(&kit->items[0], 1000);
    choose(kit, 3);
    assert_int_equal(count_chosen(kit, 0, 6), 2);
    assert_int_equal(count_chosen(kit, 6, 6), 1);
}

static void a_free_place_goes_to_the_share_that_was_served_least(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < 4; i++)
        add(kit, i, 0);
    for (size_t i = 0; i < 4; i++)
        queue_charge(&kit->items[i], 100 - 10 * i);
    assert_int_equal(choose(kit, 2), 2);
    assert_true(kit->items[3].is_chosen && kit->items[2].is_chosen);
    /* More shares than places: nobody who runs gives way, but the next free place follows the count. */
    queue_charge(&kit->items[3], 1000);
    choose(kit, 2);
    assert_true(kit->items[3].is_chosen && kit->items[2].is_chosen);
    remove_item(kit, &kit->items[2]);
    choose(kit, 2);
    assert_true(kit->items[3].is_chosen && kit->items[1].is_chosen);
}

static void nobody_saves_up_by_staying_away(void **state)
{
    struct kit *kit = *state;
    struct queue_item *busy = add(kit, 1, 0);
    queue_charge(busy, 500);
    struct queue_item *comes = add(kit, 2, 0); /* lifted to 500 */
    queue_charge(comes, 1);
    assert_true(queue_comes_before(busy, comes));
}

static void who_was_served_more_is_remembered_while_others_wait(void **state)
{
    struct kit *kit = *state;
    struct queue_item *greedy = add(kit, 1, 0), *modest = add(kit, 2, 0);
    queue_charge(greedy, 1000);
    queue_charge(modest, 10);
    remove_item(kit, greedy);
    struct queue_item *again = add(kit, 1, 0);
    assert_true(queue_comes_before(modest, again));
    queue_charge(modest, 989);
    assert_true(queue_comes_before(modest, again));
    queue_charge(modest, 2);
    assert_true(queue_comes_before(again, modest));
}

static void many_shares_are_dealt_out_evenly(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < MOST; i++)
        add(kit, i % 7, 0);
    for (size_t n_places = 0; n_places <= MOST; n_places++) {
        size_t n_of_share[7] = {0}, n_total = 0;
        assert_int_equal(choose(kit, n_places), n_places);
        for (size_t i = 0; i < MOST; i++)
            n_of_share[i % 7] += kit->items[i].is_chosen;
        for (size_t s = 0; s < 7; s++) {
            assert_in_range(n_of_share[s], n_places / 7, n_places / 7 + 1);
            n_total += n_of_share[s];
        }
        assert_int_equal(n_total, n_places);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(all_run_while_there_are_places),
        TEST(an_empty_queue_chooses_nobody),
        TEST(the_older_goes_first_within_a_share),
        TEST(a_higher_priority_goes_before_older_ones_of_its_share_only),
        TEST(a_flooding_share_leaves_the_others_their_equal_part),
        TEST(what_is_left_over_stays_with_who_has_it),
        TEST(a_free_place_goes_to_the_share_that_was_served_least),
        TEST(nobody_saves_up_by_staying_away),
        TEST(who_was_served_more_is_remembered_while_others_wait),
        TEST(many_shares_are_dealt_out_evenly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
