#include "base/map.h"

#include <stdio.h>
#include <string.h>

#include "support/check.h"

enum { N = 20000 };

static void what_was_set_is_found_and_nothing_else(void **state)
{
    struct map map = {0};
    static int values[N];
    char key[32];
    (void)state;
    assert_null(map_get(&map, "x"));
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "key %d", i);
        assert_true(map_set(&map, key, &values[i]));
    }
    assert_int_equal(map.n_entries, N);
    assert_true(map.n_used * 2 <= map.n_slots);
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "key %d", i);
        assert_ptr_equal(map_get(&map, key), &values[i]);
        snprintf(key, sizeof key, "key %d ", i);
        assert_null(map_get(&map, key));
    }
    map_finish(&map);
    assert_null(map_get(&map, "key 1"));
}

static void setting_again_replaces_the_value(void **state)
{
    struct map map = {0};
    int a, b;
    (void)state;
    map_set(&map, "k", &a);
    map_set(&map, "k", &b);
    assert_int_equal(map.n_entries, 1);
    assert_ptr_equal(map_get(&map, "k"), &b);
    map_finish(&map);
}

static void keys_are_bytes_and_may_hold_a_nul_or_nothing(void **state)
{
    struct map map = {0};
    int a, b, c;
    (void)state;
    map_set_bytes(&map, "x\0y", 3, &a);
    map_set_bytes(&map, "x\0z", 3, &b);
    map_set(&map, "", &c);
    assert_ptr_equal(map_get_bytes(&map, "x\0y", 3), &a);
    assert_ptr_equal(map_get_bytes(&map, "x\0zzz", 3), &b);
    assert_ptr_equal(map_get_bytes(&map, "anything", 0), &c);
    assert_null(map_get(&map, "x"));
    map_finish(&map);
}

static void keys_are_copied(void **state)
{
    struct map map = {0};
    int value;
    char key[] = "name";
    (void)state;
    map_set(&map, key, &value);
    key[0] = 'g';
    assert_ptr_equal(map_get(&map, "name"), &value);
    assert_null(map_get(&map, "game"));
    map_finish(&map);
}

static void removing_takes_out_one_entry_and_leaves_the_others_reachable(void **state)
{
    struct map map = {0};
    static int values[1000];
    char key[32];
    (void)state;
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof key, "%d", i);
        map_set(&map, key, &values[i]);
    }
    for (int i = 0; i < 1000; i += 2) {
        snprintf(key, sizeof key, "%d", i);
        assert_ptr_equal(map_remove(&map, key), &values[i]);
        assert_null(map_remove(&map, key));
    }
    assert_int_equal(map.n_entries, 500);
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof key, "%d", i);
        assert_ptr_equal(map_get(&map, key), i % 2 ? &values[i] : NULL);
    }
    map_finish(&map);
    assert_null(map_remove(&map, "1"));
}

/* Gravestones must neither fill the table nor make it grow for ever. */
static void coming_and_going_does_not_make_the_table_grow(void **state)
{
    struct map map = {0};
    int value;
    char key[32];
    (void)state;
    for (int i = 0; i < 100000; i++) {
        snprintf(key, sizeof key, "%d", i);
        assert_true(map_set(&map, key, &value));
        if (i >= 10) {
            snprintf(key, sizeof key, "%d", i - 10);
            assert_non_null(map_remove(&map, key));
        }
    }
    assert_int_equal(map.n_entries, 10);
    assert_in_range(map.n_slots, 16, 128);
    map_finish(&map);
}

static void a_walk_meets_every_entry_once(void **state)
{
    struct map map = {0};
    static int values[100];
    int n_seen = 0, sum = 0;
    char key[32];
    const char *found;
    void *value;
    (void)state;
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "%d", i);
        values[i] = i;
        map_set(&map, key, &values[i]);
    }
    for (int i = 50; i < 100; i++) {
        snprintf(key, sizeof key, "%d", i);
        map_remove(&map, key);
    }
    for (size_t position = 0; map_next(&map, &position, &found, &value); n_seen++) {
        snprintf(key, sizeof key, "%d", *(int *)value);
        assert_string_equal(found, key);
        sum += *(int *)value;
    }
    assert_int_equal(n_seen, 50);
    assert_int_equal(sum, 49 * 50 / 2);
    map_finish(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_set_is_found_and_nothing_else),
        cmocka_unit_test(setting_again_replaces_the_value),
        cmocka_unit_test(keys_are_bytes_and_may_hold_a_nul_or_nothing),
        cmocka_unit_test(keys_are_copied),
        cmocka_unit_test(removing_takes_out_one_entry_and_leaves_the_others_reachable),
        cmocka_unit_test(coming_and_going_does_not_make_the_table_grow),
        cmocka_unit_test(a_walk_meets_every_entry_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
