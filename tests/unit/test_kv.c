#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/kv.h"

static const struct model MODEL = {.config = {.n_layers = 3, .n_kv_heads = 2, .d_head = 4}};

static void a_budget_is_as_many_blocks_as_fit(void **state)
{
    uint64_t block = kv_block_bytes(&MODEL, WEIGHT_F32);
    struct error err;
    (void)state;
    assert_int_equal(block, 3 * 2 * 4 * 2 * 16 * sizeof(float));
    assert_int_equal(kv_block_bytes(&MODEL, WEIGHT_BF16), block / 2);
    assert_int_equal(kv_block_bytes(&MODEL, WEIGHT_F16), block / 2);
    struct kv *kv = kv_create(&MODEL, WEIGHT_F32, 5 * block + block - 1, 80, &err);
    assert_non_null(kv);
    assert_int_equal(kv_n_blocks(kv), 5);
    assert_int_equal(kv_n_free(kv), 5);
    kv_destroy(kv);
    kv_destroy(NULL);
}

static void a_budget_too_small_for_one_sequence_is_refused(void **state)
{
    struct error err;
    char needed[32];
    (void)state;
    assert_null(kv_create(&MODEL, WEIGHT_F32, 5 * kv_block_bytes(&MODEL, WEIGHT_F32), 81, &err));
    assert_int_equal(err.code, ERROR_TOO_LARGE);
    snprintf(needed, sizeof needed, "%d", (int)(6 * kv_block_bytes(&MODEL, WEIGHT_F32)));
    assert_non_null(strstr(err.message, needed));
}

static void blocks_go_round(void **state)
{
    struct kv *kv = kv_create(&MODEL, WEIGHT_F32, 3 * kv_block_bytes(&MODEL, WEIGHT_F32), 16, NULL);
    (void)state;
    uint32_t a = kv_acquire(kv), b = kv_acquire(kv), c = kv_acquire(kv);
    assert_true(a != b && b != c && a != c);
    assert_int_equal(kv_acquire(kv), KV_NO_BLOCK);
    kv_retain(kv, b);
    kv_release(kv, b);
    assert_int_equal(kv_n_free(kv), 0);
    kv_release(kv, b);
    assert_int_equal(kv_n_free(kv), 1);
    assert_int_equal(kv_acquire(kv), b);
    kv_destroy(kv);
}

static void check_rooms(enum weight_type type)
{
    struct kv *kv = kv_create(&MODEL, type, 2 * kv_block_bytes(&MODEL, type), 16, NULL);
    size_t n_bytes = 16 * 4 * weight_type_size(type);
    unsigned char tag = 0;
    assert_int_equal(kv_type(kv), type);
    for (int pass = 0; pass < 2; pass++, tag = 0)
        for (uint32_t block = 0; block < 2; block++)
            for (size_t layer = 0; layer < 3; layer++)
                for (size_t head = 0; head < 2; head++)
                    for (int part = 0; part < 2; part++, tag++) {
                        unsigned char *rows = part ? kv_values(kv, block, layer, head) : kv_keys(kv, block, layer, head);
                        for (size_t i = 0; i < n_bytes; i++)
                            if (pass == 0)
                                rows[i] = tag;
                            else
                                assert_int_equal(rows[i], tag);
                    }
    kv_destroy(kv);
}

static void every_head_of_every_layer_has_its_own_room(void **state)
{
    (void)state;
    for (int type = 0; type < N_ELEMENT_TYPES; type++)
        check_rooms((enum weight_type)type);
}

/* Of the second of two heads, so that a wrong place shows. */
static void check_written(enum weight_type type)
{
    const struct model model = {.config = MODEL.config, .kernels = kernels_select(0, "c", NULL)};
    const float key[] = {1, 2, 3, 4}, value[] = {-5, -6, -7, -8};
    struct kv *kv = kv_create(&model, type, 2 * kv_block_bytes(&model, type), 16, NULL);
    size_t size = weight_type_size(type);
    unsigned char elements[2][4 * sizeof(float)], *keys = kv_keys(kv, 1, 2, 1), *values = kv_values(kv, 1, 2, 1);
    assert_ptr_equal(keys, (unsigned char *)kv_keys(kv, 0, 2, 1) + kv_stride(kv));
    model.kernels->narrow[type](elements[0], key, 4);
    model.kernels->narrow[type](elements[1], value, 4);
    kv_write(kv, 1, 2, 1, 5, key, value);
    for (size_t row = 0; row < KV_BLOCK_TOKENS; row++)
        for (size_t i = 0; i < 4; i++) {
            static const unsigned char nothing[sizeof(float)];
            const unsigned char *wanted_key = row == 5 ? elements[0] + i * size : nothing;
            const unsigned char *wanted_value = row == 5 ? elements[1] + i * size : nothing;
            assert_memory_equal(keys + (i * KV_BLOCK_TOKENS + row) * size, wanted_key, size);
            assert_memory_equal(values + (row * 4 + i) * size, wanted_value, size);
        }
    kv_destroy(kv);
}

static void keys_are_written_as_columns_and_values_as_rows(void **state)
{
    (void)state;
    for (int type = 0; type < N_ELEMENT_TYPES; type++)
        check_written((enum weight_type)type);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_budget_is_as_many_blocks_as_fit),
        cmocka_unit_test(a_budget_too_small_for_one_sequence_is_refused),
        cmocka_unit_test(blocks_go_round),
        cmocka_unit_test(every_head_of_every_layer_has_its_own_room),
        cmocka_unit_test(keys_are_written_as_columns_and_values_as_rows),
    };
    return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
