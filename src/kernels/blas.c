/*
 * blas.c - one caller of OpenBLAS at a time.
 */
#include "kernels/blas.h"

#include <cblas.h>
#include <limits.h>
#include <pthread.h>

#include <assert.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int n_blas_threads = 1; /* under the lock */

/* The library counts in int; no dimension of a model comes near. */
static blasint dimension(size_t n)
{
    assert(n <= INT_MAX);
    return (blasint)n;
}

void blas_gemm(size_t m, size_t n, size_t k, float alpha, const float *a, size_t a_stride, const float *b,
               size_t b_stride, float beta, float *c, size_t c_stride)
{
    if (m == 0 || n == 0)
        return;
    pthread_mutex_lock(&lock);
    /* Here and not only once: the library's own start value is the number of cores. */
    openblas_set_num_threads(n_blas_threads);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, dimension(m), dimension(n), dimension(k), alpha, a,
                dimension(a_stride), b, dimension(b_stride), beta, c, dimension(c_stride));
    pthread_mutex_unlock(&lock);
}

void blas_set_threads(size_t n_threads)
{
    pthread_mutex_lock(&lock);
    n_blas_threads = n_threads < 1 ? 1 : n_threads > INT_MAX ? INT_MAX : (int)n_threads;
    pthread_mutex_unlock(&lock);
}
