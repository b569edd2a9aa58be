/*
 * dora.c - ||w + s b A||^2 = ||w||^2 + 2 s b.(A w) + s^2 b (A A^T) b^T, with w a row of W and b its row of B:
 * one product with A for the whole matrix instead of BA. Where the terms cancel, the row is summed up
 * directly.
 */
#include "lora/dora.h"

#include <math.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "formats/dtype.h"
#include "kernels/blas.h"

struct dora {
    const struct matrix *base;
    const struct delta *delta;
    bool is_table;
    size_t rank, n_in, n_out;
    float *a;       /* (rank, n_in) */
    float *a_t;     /* (n_in, rank) */
    float *b_t;     /* (rank, n_out) */
    double *gram;   /* (rank, rank): A A^T */
    double *cross;  /* (n_out, rank): W A^T */
    double *square; /* (n_out): ||w||^2 */
    float *rows;    /* (chunk, row length of the matrix) */
    float *product; /* (chunk, rank) or (rank, n_out) */
    size_t chunk;
};

static void free_all(struct dora *d)
{
    free(d->a);
    free(d->a_t);
    free(d->b_t);
    free(d->gram);
    free(d->cross);
    free(d->square);
    free(d->rows);
    free(d->product);
}

static void transpose(float *out, const float *in, size_t n_rows, size_t n_columns)
{
    for (size_t i = 0; i < n_rows; i++)
        for (size_t j = 0; j < n_columns; j++)
            out[j * n_rows + i] = in[i * n_columns + j];
}

static bool allocate(struct dora *d, struct error *err)
{
    size_t n_columns = d->base->n_in;
    d->chunk = size_max(1, size_min(d->base->n_out, ((size_t)1 << 18) / size_max(n_columns, 1)));
    size_t n_product = d->is_table ? d->rank * d->n_out : d->chunk * d->rank;
    d->a = calloc(d->rank * d->n_in, sizeof(float));
    d->a_t = calloc(d->rank * d->n_in, sizeof(float));
    d->b_t = calloc(d->rank * d->n_out, sizeof(float));
    d->gram = calloc(d->rank * d->rank, sizeof(double));
    d->cross = calloc(d->rank * d->n_out, sizeof(double));
    d->square = calloc(d->n_out, sizeof(double));
    d->rows = calloc(d->chunk * n_columns, sizeof(float));
    d->product = calloc(n_product, sizeof(float));
    if (!d->a || !d->a_t || !d->b_t || !d->gram || !d->cross || !d->square || !d->rows || !d->product)
        return error_no_memory(err);
    return true;
}

static void read_delta(struct dora *d)
{
    enum dtype dtype = dtype_of_weight(d->delta->type);
    float *stored = d->is_table ? d->a_t : d->a;
    dtype_to_f32(stored, d->delta->a, dtype, d->rank * d->n_in);
    if (d->is_table)
        transpose(d->a, d->a_t, d->n_in, d->rank);
    else
        transpose(d->a_t, d->a, d->rank, d->n_in);
    delta_read_b_t(d->delta, d->b_t);
    for (size_t i = 0; i < d->rank; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t k = 0; k < d->n_in; k++)
                sum += (double)d->a[i * d->n_in + k] * (double)d->a[j * d->n_in + k];
            d->gram[i * d->rank + j] = d->gram[j * d->rank + i] = sum;
        }
}

static void sum_linear_rows(struct dora *d, size_t first, size_t n_rows)
{
    blas_gemm(n_rows, d->rank, d->n_in, 1, d->rows, d->n_in, d->a_t, d->rank, 0, d->product, d->rank);
    for (size_t i = 0; i < n_rows; i++) {
        double sum = 0;
        for (size_t k = 0; k < d->n_in; k++)
            sum += (double)d->rows[i * d->n_in + k] * (double)d->rows[i * d->n_in + k];
        d->square[first + i] = sum;
        for (size_t j = 0; j < d->rank; j++)
            d->cross[(first + i) * d->rank + j] = (double)d->product[i * d->rank + j];
    }
}

static void sum_table_rows(struct dora *d, size_t first, size_t n_rows)
{
    blas_gemm(d->rank, d->n_out, n_rows, 1, d->a + first, d->n_in, d->rows, d->n_out, 0, d->product,
              d->n_out);
    for (size_t i = 0; i < n_rows; i++)
        for (size_t o = 0; o < d->n_out; o++)
            d->square[o] += (double)d->rows[i * d->n_out + o] * (double)d->rows[i * d->n_out + o];
    for (size_t o = 0; o < d->n_out; o++)
        for (size_t j = 0; j < d->rank; j++)
            d->cross[o * d->rank + j] += (double)d->product[j * d->n_out + o];
}

static void sum_base(struct dora *d)
{
    const struct matrix *base = d->base;
    for (size_t first = 0; first < base->n_out; first += d->chunk) {
        size_t n_rows = size_min(d->chunk, base->n_out - first);
        matrix_read_rows(base, first, n_rows, d->rows);
        if (d->is_table)
            sum_table_rows(d, first, n_rows);
        else
            sum_linear_rows(d, first, n_rows);
    }
}

static double base_element(const struct dora *d, size_t o, size_t k)
{
    return (double)matrix_read_element(d->base, d->is_table ? k : o, d->is_table ? o : k);
}

static double direct_square(const struct dora *d, size_t o)
{
    double sum = 0;
    for (size_t k = 0; k < d->n_in; k++) {
        double low_rank = 0;
        for (size_t j = 0; j < d->rank; j++)
            low_rank += (double)d->b_t[j * d->n_out + o] * (double)d->a_t[k * d->rank + j];
        double v = base_element(d, o, k) + (double)d->delta->scale * low_rank;
        sum += v * v;
    }
    return sum;
}

static double norm_square(const struct dora *d, size_t o)
{
    double s = (double)d->delta->scale, cross = 0, quadratic = 0;
    for (size_t i = 0; i < d->rank; i++) {
        double b = (double)d->b_t[i * d->n_out + o], row = 0;
        for (size_t j = 0; j < d->rank; j++)
            row += d->gram[i * d->rank + j] * (double)d->b_t[j * d->n_out + o];
        cross += b * d->cross[o * d->rank + i];
        quadratic += b * row;
    }
    double positive = d->square[o] + s * s * quadratic, sum = positive + 2 * s * cross;
    return sum > 1e-2 * positive ? sum : direct_square(d, o);
}

static bool divide(const struct dora *d, float *gain, const float *magnitude, const char *path,
                   struct error *err)
{
    for (size_t o = 0; o < d->n_out; o++) {
        double norm = sqrt(norm_square(d, o));
        if (!(norm > 0) || !isfinite(norm))
            return error_set(err, ERROR_MISMATCH, path,
                             "row %zu of W + s BA has the norm %g, which DoRA divides by", o, norm);
        gain[o] = (float)((double)magnitude[o] / norm);
        if (!isfinite(gain[o]))
            return error_set(err, ERROR_MISMATCH, path, "DoRA's gain of output %zu is not finite", o);
    }
    return true;
}

bool dora_compute_gain(float *gain, const struct site *site, const struct matrix *base,
                       const struct delta *delta, const float *magnitude, struct error *err)
{
    struct dora d = {
        .base = base,
        .delta = delta,
        .is_table = site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION,
        .rank = delta->rank,
        .n_in = delta->n_in,
        .n_out = delta->n_out,
    };
    bool ok = allocate(&d, err);
    if (ok) {
        read_delta(&d);
        sum_base(&d);
        ok = divide(&d, gain, magnitude, site->path, err);
    }
    free_all(&d);
    return ok;
}
