#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/matrix.h"

static struct tensor tensor_of(enum dtype dtype, size_t n_rows, size_t n_columns, const void *data)
{
    size_t n = n_rows * n_columns;
    return (struct tensor){.name = "w", .dtype = dtype, .n_dims = 2, .shape = {n_rows, n_columns}, .n_elements = n,
                           .n_bytes = n * dtype_size(dtype), .data = data};
}

static void unchanged_tensors_are_wrapped_not_copied(void **state)
{
    float data[6] = {1, 2, 3, 4, 5, 6};
    struct tensor tensor = tensor_of(DTYPE_F32, 2, 3, data);
    (void)state;
    struct matrix *matrix = matrix_from_tensor(&tensor, false, WEIGHT_F32, MATRIX_ROWS, true, NULL);
    assert_ptr_equal(matrix->data, data);
    assert_int_equal(matrix->owned_bytes, 0);
    assert_int_equal(matrix->n_out, 2);
    assert_int_equal(matrix->n_in, 3);
    assert_ptr_equal(matrix_row(matrix, 1), data + 3);
    matrix_unref(matrix);
    matrix = matrix_from_tensor(&tensor, false, WEIGHT_F32, MATRIX_ROWS, false, NULL);
    assert_ptr_not_equal(matrix->data, data);
    assert_memory_equal(matrix->data, data, sizeof data);
    matrix_unref(matrix);
}

static void unaligned_tensors_are_copied(void **state)
{
    _Alignas(8) char bytes[6 * 4 + 1];
    float data[6] = {1, 2, 3, 4, 5, 6};
    (void)state;
    memcpy(bytes + 1, data, sizeof data);
    struct tensor tensor = tensor_of(DTYPE_F32, 2, 3, bytes + 1);
    struct matrix *matrix = matrix_from_tensor(&tensor, false, WEIGHT_F32, MATRIX_ROWS, true, NULL);
    assert_non_null(matrix->owned);
    assert_int_equal((uintptr_t)matrix->data % 64, 0);
    assert_memory_equal(matrix->data, data, sizeof data);
    matrix_unref(matrix);
}

/* All pairs of types, transposed and not, in both layouts, at sizes around a panel. */
static void every_conversion_keeps_every_element_in_its_place(void **state)
{
    static const enum dtype TYPES[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const size_t SIZES[][2] = {{1, 1}, {31, 5}, {32, 33}, {33, 64}, {70, 3}, {100, 100}};
    (void)state;
    for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
        for (size_t from = 0; from < 3; from++)
            for (size_t to = 0; to < 12; to++) {
                size_t n_rows = SIZES[s][0], n_columns = SIZES[s][1], n = n_rows * n_columns;
                enum dtype target = TYPES[to / 4];
                bool transposed = to % 2;
                enum matrix_layout layout = to / 2 % 2 ? MATRIX_PACKED : MATRIX_ROWS;
                float *values = malloc(n * sizeof *values);
                char *data = malloc(n * dtype_size(TYPES[from]));
                for (size_t i = 0; i < n; i++)
                    values[i] = (float)(i * 37 % 255) - 127; /* exact in all three */
                dtype_from_f32(data, TYPES[from], values, n);
                struct tensor tensor = tensor_of(TYPES[from], n_rows, n_columns, data);
                struct matrix *matrix = matrix_from_tensor(&tensor, transposed, weight_type_of(target), layout, true, NULL);
                assert_int_equal(matrix->n_out, transposed ? n_columns : n_rows);
                assert_int_equal(matrix->n_in, transposed ? n_rows : n_columns);
                for (size_t o = 0; o < matrix->n_out; o++)
                    for (size_t k = 0; k < matrix->n_in; k++) {
                        float expected = values[transposed ? k * n_columns + o : o * n_columns + k];
                        assert_float_equal(matrix_read_element(matrix, o, k), expected, 0);
                    }
                matrix_unref(matrix);
                free(values);
                free(data);
            }
}

/* What is read of a quantised matrix is what it was quantised from; what is in it, is near. */
static void a_quantised_matrix_remembers_its_origin(void **state)
{
    enum { ROWS = 130, COLUMNS = 70 };
    static const enum weight_type TYPES[] = {WEIGHT_Q8, WEIGHT_Q4};
    static const float NEAR[] = {0.01f, 0.15f};
    static float values[ROWS * COLUMNS], found[ROWS * COLUMNS];
    (void)state;
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        values[i] = (float)(i * 7919 % 2001) / 1000 - 1;
    struct tensor tensor = tensor_of(DTYPE_F32, ROWS, COLUMNS, values);
    for (size_t type = 0; type < 2; type++) {
        struct matrix *matrix = matrix_from_tensor(&tensor, false, TYPES[type], MATRIX_PACKED, true, NULL);
        for (size_t i = 0; i < ROWS * COLUMNS; i++)
            assert_float_equal(matrix_read_element(matrix, i / COLUMNS, i % COLUMNS), values[i], NEAR[type]);
        matrix->origin = &tensor;
        matrix_read_rows(matrix, 3, ROWS - 3, found);
        assert_memory_equal(found, values + 3 * COLUMNS, (ROWS - 3) * COLUMNS * sizeof *values);
        assert_float_equal(matrix_read_element(matrix, 129, 69), values[129 * COLUMNS + 69], 0);
        matrix_unref(matrix);
    }
}

static void rows_that_do_not_fit_are_told(void **state)
{
    static float rows[70 * 3];
    struct matrix *matrix = matrix_create(WEIGHT_F16, MATRIX_PACKED, 70, 3, NULL);
    void *scratch = malloc(matrix_scratch_bytes(matrix));
    (void)state;
    assert_true(matrix_write_rows(matrix, 0, 70, rows, scratch));
    rows[68 * 3] = 1e6f;
    assert_false(matrix_write_rows(matrix, 0, 70, rows, scratch));
    matrix_unref(matrix);
    matrix = matrix_create(WEIGHT_Q4, MATRIX_PACKED, 70, 3, NULL);
    assert_true(matrix_write_rows(matrix, 0, 70, rows, scratch));
    rows[0] = (float)NAN;
    assert_false(matrix_write_rows(matrix, 0, 70, rows, scratch));
    matrix_unref(matrix);
    free(scratch);
}

static void what_is_no_weight_matrix_is_refused(void **state)
{
    int64_t data[6] = {0};
    struct error err;
    (void)state;
    struct tensor tensor = tensor_of(DTYPE_I64, 2, 3, data);
    assert_null(matrix_from_tensor(&tensor, false, WEIGHT_F32, MATRIX_ROWS, true, &err));
    assert_int_equal(err.code, ERROR_MISMATCH);
    assert_non_null(strstr(err.message, "I64"));
    tensor = tensor_of(DTYPE_F32, 2, 3, data);
    tensor.n_dims = 1;
    assert_null(matrix_from_tensor(&tensor, false, WEIGHT_F32, MATRIX_ROWS, true, &err));
    assert_int_equal(err.code, ERROR_MISMATCH);
    tensor = tensor_of(DTYPE_F32, 0, 3, data);
    assert_null(matrix_from_tensor(&tensor, false, WEIGHT_F32, MATRIX_ROWS, true, &err));
    assert_null(matrix_create(WEIGHT_F32, MATRIX_ROWS, SIZE_MAX / 2, 3, &err));
    assert_int_equal(err.code, ERROR_NO_MEMORY);
}

static void a_matrix_lives_as_long_as_somebody_holds_it(void **state)
{
    (void)state;
    struct matrix *matrix = matrix_create(WEIGHT_BF16, MATRIX_ROWS, 3, 5, NULL);
    assert_int_equal(matrix->owned_bytes, 30);
    assert_ptr_equal(matrix_ref(matrix), matrix);
    matrix_unref(matrix);
    memset(matrix->owned, 0, matrix->owned_bytes);
    matrix_unref(matrix);
    matrix_unref(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unchanged_tensors_are_wrapped_not_copied),
        cmocka_unit_test(unaligned_tensors_are_copied),
        cmocka_unit_test(every_conversion_keeps_every_element_in_its_place),
        cmocka_unit_test(a_quantised_matrix_remembers_its_origin),
        cmocka_unit_test(rows_that_do_not_fit_are_told),
        cmocka_unit_test(what_is_no_weight_matrix_is_refused),
        cmocka_unit_test(a_matrix_lives_as_long_as_somebody_holds_it),
    };
    return cmocka_run_group_tests_name("matrix", tests, NULL, NULL);
}
