/*
 * bench_figures.c - lists of measured values: all are kept, so percentiles are exact.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lorad/bench.h"

bool series_add(struct series *series, double value, struct error *err)
{
    if (series->n == series->n_room) {
        size_t n_room = series->n_room ? 2 * series->n_room : 64;
        double *values = realloc(series->values, n_room * sizeof *values);
        if (!values)
            return error_no_memory(err);
        series->values = values;
        series->n_room = n_room;
    }
    series->values[series->n++] = value;
    return true;
}

bool series_append(struct series *series, const struct series *more, struct error *err)
{
    bool ok = true;
    for (size_t i = 0; ok && i < more->n; i++)
        ok = series_add(series, more->values[i], err);
    return ok;
}

void series_finish(struct series *series)
{
    free(series->values);
    *series = (struct series){0};
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* NULL without memory for it. The caller frees. */
static double *sort_copy(const double *values, size_t n)
{
    double *sorted = malloc(n * sizeof *sorted);
    if (!sorted)
        return NULL;
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_doubles);
    return sorted;
}

static size_t nearest_rank(double p, size_t n)
{
    size_t rank = (size_t)ceil(p * (double)n);
    return rank > 0 ? rank - 1 : 0;
}

/* The mean of the values of rank i and j of n, from 0; NAN without memory for sorting. */
static double mean_of_ranks(const double *values, size_t n, size_t i, size_t j)
{
    double *sorted = sort_copy(values, n);
    if (!sorted)
        return NAN;
    double mean = (sorted[i] + sorted[j]) / 2;
    free(sorted);
    return mean;
}

double series_percentile(const struct series *series, double p)
{
    if (series->n == 0)
        return NAN;
    size_t i = nearest_rank(p, series->n);
    return mean_of_ranks(series->values, series->n, i, i);
}

double series_median(const struct series *series)
{
    return series->n ? mean_of_ranks(series->values, series->n, (series->n - 1) / 2, series->n / 2) : NAN;
}

double series_median_ratio(const struct series *a, const struct series *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    double *ratios = n ? malloc(n * sizeof *ratios) : NULL;
    if (!ratios)
        return NAN;
    for (size_t i = 0; i < n; i++)
        ratios[i] = a->values[i] / b->values[i];
    double median = mean_of_ranks(ratios, n, (n - 1) / 2, n / 2);
    free(ratios);
    return median;
}

json_t *json_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *series_json(const struct series *series)
{
    if (series->n == 0)
        return json_null();
    json_t *out = json_object(), *values = json_array();
    for (size_t i = 0; i < series->n; i++)
        json_array_append_new(values, json_number(series->values[i]));
    json_object_set_new(out, "median", json_number(series_median(series)));
    json_object_set_new(out, "minimum", json_number(series_percentile(series, 0)));
    json_object_set_new(out, "maximum", json_number(series_percentile(series, 1)));
    json_object_set_new(out, "values", values);
    return out;
}

json_t *series_latency_json(const struct series *series)
{
    if (series->n == 0)
        return json_null();
    json_t *out = json_object();
    json_object_set_new(out, "p50", json_number(series_percentile(series, 0.50)));
    json_object_set_new(out, "p95", json_number(series_percentile(series, 0.95)));
    json_object_set_new(out, "p99", json_number(series_percentile(series, 0.99)));
    json_object_set_new(out, "maximum", json_number(series_percentile(series, 1)));
    json_object_set_new(out, "n", json_integer((json_int_t)series->n));
    return out;
}

json_t *series_quantiles_json(const struct series *series, size_t n)
{
    double *sorted = series->n ? sort_copy(series->values, series->n) : NULL;
    json_t *out = json_array();
    if (n > series->n)
        n = series->n;
    for (size_t i = 0; sorted && i < n; i++)
        json_array_append_new(out, json_number(sorted[nearest_rank((double)(i + 1) / (double)n, series->n)]));
    free(sorted);
    return out;
}

char *report_text(const json_t *report, struct error *err)
{
    char *text = json_dumps(report, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    if (!text)
        error_no_memory(err);
    return text;
}
