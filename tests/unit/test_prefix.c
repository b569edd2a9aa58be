/*
 * test_prefix.c - blocks with equal contents are shared, and nothing else ever is.
 */
#include "engine/prefix.h"

#include <stdlib.h>

#include "support/check.h"
#include "support/runner.h"
#include "support/tiny_model.h"

enum { N_BLOCKS = 8, B = KV_BLOCK_TOKENS };

struct kit {
    struct model *model;
    struct kv *kv;
    struct prefix *prefix;
    int32_t tokens[16 * B];
};

static int set_up(void **state)
{
    struct kit *kit = calloc(1, sizeof *kit);
    struct error err;
    kit->model = tiny_model_load((struct tiny_model){.seed = 1}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    kit->kv = kv_create(kit->model, WEIGHT_BF16, N_BLOCKS * kv_block_bytes(kit->model, WEIGHT_BF16), B, &err);
    kit->prefix = prefix_create(kit->kv, &err);
    for (size_t i = 0; i < sizeof kit->tokens / sizeof *kit->tokens; i++)
        kit->tokens[i] = (int32_t)(i * 7 % 90);
    *state = kit;
    return 0;
}

static int tear_down(void **state)
{
    struct kit *kit = *state;
    prefix_destroy(kit->prefix);
    kv_destroy(kit->kv);
    model_destroy(kit->model);
    free(kit);
    return 0;
}

/* Computes n_blocks whole blocks of the tokens, as far as they are not there, and lets go of them. Returns how many were there. */
static size_t use(struct kit *kit, const char *identity, const int32_t *tokens, size_t n_blocks)
{
    uint32_t blocks[N_BLOCKS];
    struct prefix_cursor cursor = {.identity = identity};
    size_t n_found = prefix_find(kit->prefix, &cursor, tokens, n_blocks * B, blocks);
    for (size_t i = n_found; i < n_blocks; i++) {
        blocks[i] = prefix_acquire(kit->prefix);
        assert_true(blocks[i] != KV_NO_BLOCK);
        blocks[i] = prefix_publish(kit->prefix, &cursor, tokens + i * B, blocks[i]);
    }
    prefix_release(kit->prefix, blocks, n_blocks);
    return n_found;
}

static size_t find(struct kit *kit, const char *identity, const int32_t *tokens, size_t n_tokens)
{
    uint32_t blocks[N_BLOCKS];
    struct prefix_cursor cursor = {.identity = identity};
    size_t n = prefix_find(kit->prefix, &cursor, tokens, n_tokens, blocks);
    prefix_release(kit->prefix, blocks, n);
    return n;
}

static void an_equal_beginning_is_found_again(void **state)
{
    struct kit *kit = *state;
    assert_int_equal(use(kit, "a", kit->tokens, 3), 0);
    assert_int_equal(use(kit, "a", kit->tokens, 3), 3);
    assert_int_equal(find(kit, "a", kit->tokens, 3 * B - 1), 2); /* whole blocks only */
    assert_int_equal(find(kit, "a", kit->tokens, B - 1), 0);
    assert_int_equal(prefix_n_cached(kit->prefix), 3);
    assert_int_equal(prefix_n_available(kit->prefix), N_BLOCKS);
}

static void one_other_token_ends_it(void **state)
{
    struct kit *kit = *state;
    use(kit, "a", kit->tokens, 3);
    for (size_t i = 0; i < 3 * B; i++) {
        int32_t kept = kit->tokens[i];
        kit->tokens[i] = 91;
        assert_int_equal(find(kit, "a", kit->tokens, 3 * B), i / B);
        kit->tokens[i] = kept;
    }
}

static void another_identity_shares_nothing(void **state)
{
    struct kit *kit = *state;
    use(kit, "a", kit->tokens, 3);
    assert_int_equal(find(kit, "b", kit->tokens, 3 * B), 0);
    assert_int_equal(use(kit, "b", kit->tokens, 3), 0);
    assert_int_equal(find(kit, "a", kit->tokens, 3 * B), 3);
}

static void without_an_identity_nothing_is_kept_or_found(void **state)
{
    struct kit *kit = *state;
    use(kit, "", kit->tokens, 3);
    assert_int_equal(prefix_n_cached(kit->prefix), 0);
    assert_int_equal(find(kit, "", kit->tokens, 3 * B), 0);
}

/* The same block of tokens behind another beginning has other keys and values. */
static void what_comes_before_counts(void **state)
{
    struct kit *kit = *state;
    use(kit, "a", kit->tokens, 2);
    assert_int_equal(find(kit, "a", kit->tokens + B, B), 0);
}

static void who_computes_the_same_at_the_same_time_ends_up_with_one_block(void **state)
{
    struct kit *kit = *state;
    struct prefix_cursor one = {.identity = "a"}, two = {.identity = "a"};
    uint32_t first = prefix_acquire(kit->prefix), second = prefix_acquire(kit->prefix);
    assert_int_not_equal(first, second);
    first = prefix_publish(kit->prefix, &one, kit->tokens, first);
    second = prefix_publish(kit->prefix, &two, kit->tokens, second);
    assert_int_equal(first, second);
    assert_int_equal(one.last, two.last);
    assert_int_equal(prefix_n_available(kit->prefix), N_BLOCKS - 1);
    prefix_release(kit->prefix, &first, 1);
    assert_int_equal(prefix_n_available(kit->prefix), N_BLOCKS - 1); /* the other still holds it */
    prefix_release(kit->prefix, &second, 1);
    assert_int_equal(prefix_n_available(kit->prefix), N_BLOCKS);
    assert_int_equal(prefix_n_cached(kit->prefix), 1);
}

static void the_end_of_the_longest_unused_chain_goes_first(void **state)
{
    struct kit *kit = *state;
    use(kit, "a", kit->tokens, 4);
    use(kit, "b", kit->tokens, 4);
    assert_int_equal(kv_n_free(kit->kv), 0);
    assert_int_equal(find(kit, "a", kit->tokens, 2 * B), 2); /* its beginning was used again */
    use(kit, "c", kit->tokens, 2);
    assert_int_equal(find(kit, "a", kit->tokens, 4 * B), 2);
    assert_int_equal(find(kit, "b", kit->tokens, 4 * B), 4);
    assert_int_equal(prefix_n_evicted(kit->prefix), 2);
}

static void a_successor_of_an_evicted_block_is_never_found(void **state)
{
    struct kit *kit = *state;
    uint32_t blocks[N_BLOCKS];
    use(kit, "a", kit->tokens, 3);
    for (size_t i = 0; i < N_BLOCKS; i++)
        blocks[i] = prefix_acquire(kit->prefix);
    assert_int_equal(prefix_acquire(kit->prefix), KV_NO_BLOCK);
    assert_int_equal(prefix_n_evicted(kit->prefix), 3);
    prefix_release(kit->prefix, blocks, N_BLOCKS);
    assert_int_equal(find(kit, "a", kit->tokens, 3 * B), 0);
    use(kit, "a", kit->tokens, 1);
    assert_int_equal(find(kit, "a", kit->tokens, 3 * B), 1);
}

static void a_block_that_is_held_stays(void **state)
{
    struct kit *kit = *state;
    uint32_t held[2];
    struct prefix_cursor cursor = {.identity = "a"};
    use(kit, "a", kit->tokens, 2);
    assert_int_equal(prefix_find(kit->prefix, &cursor, kit->tokens, 2 * B, held), 2);
    assert_int_equal(prefix_n_available(kit->prefix), N_BLOCKS - 2);
    for (size_t i = 0; i < 3; i++)
        use(kit, i % 2 ? "b" : "c", kit->tokens, 6);
    prefix_release(kit->prefix, held, 2);
    assert_int_equal(find(kit, "a", kit->tokens, 2 * B), 2);
}

/* Against a plain model of it: what is found was published, and all blocks are there at the end. */
static void at_random_nothing_is_lost_and_nothing_false_is_found(void **state)
{
    struct kit *kit = *state;
    static const char *const identities[] = {"a", "b", "c"};
    uint64_t seed = 7;
    for (size_t round = 0; round < 20000; round++) {
        int32_t tokens[4 * B];
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t n = 1 + (seed >> 33) % 4, pattern = (seed >> 40) % 6;
        for (size_t i = 0; i < 4 * B; i++)
            tokens[i] = (int32_t)(pattern >> i / B & 1);
        size_t n_found = use(kit, identities[(seed >> 50) % 3], tokens, n);
        assert_true(n_found <= n);
        assert_int_equal(prefix_n_available(kit->prefix), N_BLOCKS);
    }
    assert_true(prefix_n_evicted(kit->prefix) > 100);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(an_equal_beginning_is_found_again),
        TEST(one_other_token_ends_it),
        TEST(another_identity_shares_nothing),
        TEST(without_an_identity_nothing_is_kept_or_found),
        TEST(what_comes_before_counts),
        TEST(who_computes_the_same_at_the_same_time_ends_up_with_one_block),
        TEST(the_end_of_the_longest_unused_chain_goes_first),
        TEST(a_successor_of_an_evicted_block_is_never_found),
        TEST(a_block_that_is_held_stays),
        TEST(at_random_nothing_is_lost_and_nothing_false_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
