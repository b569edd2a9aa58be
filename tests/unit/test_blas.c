#include "kernels/blas.h"

#include "support/check.h"

static void a_product_is_added_to_what_is_there_and_strides_are_kept(void **state)
{
    const float a[2 * 4] = {1, 2, 3, -1, 4, 5, 6, -1}, b[3 * 2] = {1, 2, 3, 4, 5, 6};
    float c[2 * 3] = {1, 1, -1, 1, 1, -1};
    const float wanted[2 * 3] = {45, 57, -1, 99, 129, -1}; /* the third column is stride */

    (void)state;
    blas_set_threads(2);
    blas_gemm(2, 2, 3, 2.0f, a, 4, b, 2, 1.0f, c, 3);
    assert_memory_equal(c, wanted, sizeof c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_product_is_added_to_what_is_there_and_strides_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
