/*
 * blas.h - the OpenBLAS calls that merging needs, and nothing else of it.
 *
 * OpenBLAS ends the process when too many threads call it at once, and its results may depend on shape and
 * threads: so one caller at a time (a lock inside sees to that), and never in the forward pass.
 */
#ifndef KERNELS_BLAS_H
#define KERNELS_BLAS_H

#include <stddef.h>

/* c (m x n) = beta * c + alpha * a (m x k) * b (k x n), all row-major f32 with the given row strides. */
void blas_gemm(size_t m, size_t n, size_t k, float alpha, const float *a, size_t a_stride, const float *b,
               size_t b_stride, float beta, float *c, size_t c_stride);

/* How many threads one call may use; 1 by default. */
void blas_set_threads(size_t n_threads);

#endif
