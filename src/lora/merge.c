/*
 * merge.c - W' in chunks, where nothing was quantised panel by panel (kernels.h, `merge`). Else by rows: the base's rows in f32, from before they were quantised, s BA added by one product per part, DoRA's
 * gain, one rounding or quantising.
 *
 * A chunk's left factor is B's rows (of tables: A's rows, which are tokens), the right one all of A (of
 * tables: B transposed).
 */
#include "lora/merge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/limits.h"
#include "formats/dtype.h"
#include "kernels/blas.h"
#include "lora/compose.h"

static bool is_table(const struct site *site)
{
    return site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION;
}

/* -- One site ------------------------------------------------------------------------------ */

struct operand {
    const struct delta *delta;
    float scale;
    float *right; /* (rank, columns of the matrix) */
};

struct site_merge {
    const struct site *site;
    const struct matrix *base; /* the adapter's own when it replaces the base's */
    const float *row_gain;     /* per output; or NULL */
    struct operand operands[LIMIT_REQUEST_ADAPTERS];
    size_t n_operands, rank_max;
    struct matrix *out;
    const struct kernels *kernels;
    float *a_t, *b;     /* in panels: (n_in, rank), and B of a chunk */
    float *rows, *left; /* by rows: chunks */
    void *scratch;
    size_t n_chunk_rows, next_row;
    bool overflows; /* a sum of finite numbers may leave f16's range; such weights would make every answer NaN
                     */
};

static void site_merge_finish(struct site_merge *merge)
{
    for (size_t i = 0; i < merge->n_operands; i++)
        free(merge->operands[i].right);
    free(merge->a_t);
    free(merge->b);
    free(merge->rows);
    free(merge->left);
    free(merge->scratch);
    matrix_unref(merge->out);
    memset(merge, 0, sizeof *merge);
}

static bool add_operand(struct site_merge *merge, const struct delta *delta, double factor, struct error *err)
{
    size_t n = delta->rank * merge->base->n_in;
    float scale = (float)((double)delta->scale * factor);
    if (scale == 0)
        return true;
    float *right = malloc(n * sizeof *right);
    if (!right)
        return error_no_memory(err);
    if (is_table(merge->site))
        delta_read_b_t(delta, right);
    else
        dtype_to_f32(right, delta->a, dtype_of_weight(delta->type), n);
    merge->operands[merge->n_operands++] = (struct operand){.delta = delta, .scale = scale, .right = right};
    merge->rank_max = size_max(merge->rank_max, delta->rank);
    return true;
}

/* About 4 million multiplications a chunk, in whole panels: some milliseconds. */
static size_t chunk_rows(const struct site_merge *merge)
{
    size_t per_panel = PANEL_ROWS * merge->base->n_in * (merge->rank_max + 8);
    return PANEL_ROWS * size_max(1, ((size_t)4 << 20) / per_panel);
}

/* Where W is packed as exactly as it is known, and one adapter's pair or gain comes on top, W' is made in panels, without the way through rows. */
static bool is_in_panels(const struct site_merge *merge)
{
    return merge->out->layout == MATRIX_PACKED && merge->base->layout == MATRIX_PACKED && merge->out->type == merge->base->type &&
           weight_type_is_exact(merge->base->type) && !merge->base->origin && merge->n_operands <= 1;
}

static bool allocate_rows(struct site_merge *merge)
{
    merge->rows = malloc(merge->n_chunk_rows * merge->base->n_in * sizeof *merge->rows);
    merge->left = malloc(merge->n_chunk_rows * size_max(merge->rank_max, 1) * sizeof *merge->left);
    merge->scratch = malloc(matrix_scratch_bytes(merge->base));
    return merge->rows && merge->left && merge->scratch;
}

static bool allocate_panels(struct site_merge *merge)
{
    size_t n_in = merge->base->n_in, rank = merge->rank_max;
    merge->a_t = malloc(size_max(n_in * rank, 1) * sizeof *merge->a_t);
    merge->b = malloc(size_max(merge->n_chunk_rows * rank, 1) * sizeof *merge->b);
    if (!merge->a_t || !merge->b)
        return false;
    for (size_t j = 0; j < rank; j++)
        for (size_t k = 0; k < n_in; k++)
            merge->a_t[k * rank + j] = merge->operands[0].right[j * n_in + k];
    return true;
}

static bool collect_parts(struct site_merge *merge, size_t index, const struct compose_part *parts, size_t n_parts, struct error *err)
{
    for (size_t i = 0; i < n_parts; i++) {
        const struct adapter_site *site =
            parts[i].factor != 0 ? adapter_find_site(parts[i].adapter, index) : NULL;
        if (!site)
            continue;
        if (site->weight)
            merge->base = site->weight;
        if (site->row_gain)
            merge->row_gain = site->row_gain;
        if (site->has_delta && !add_operand(merge, &site->delta, parts[i].factor, err))
            return false;
    }
    return true;
}

/* The result as it serves the site, or in rows of `type`. */
static bool site_merge_begin(struct site_merge *merge, const struct model *model, size_t index, enum matrix_layout layout,
                             enum weight_type type, const struct compose_part *parts, size_t n_parts, struct error *err)
{
    *merge = (struct site_merge){.site = &model->sites[index], .base = model->sites[index].weight, .kernels = model->kernels};
    bool ok = collect_parts(merge, index, parts, n_parts, err);
    if (ok)
        merge->out = matrix_create(type, layout, merge->base->n_out, merge->base->n_in, err);
    if (merge->out) {
        merge->n_chunk_rows = chunk_rows(merge);
        if (is_in_panels(merge) ? allocate_panels(merge) : allocate_rows(merge))
            return true;
        error_no_memory(err);
    }
    site_merge_finish(merge);
    return false;
}

/* (n_rows, rank): rows of B, or of a table's A. */
static void read_left(struct site_merge *merge, const struct delta *delta, size_t n_rows)
{
    enum dtype dtype = dtype_of_weight(delta->type);
    size_t size = weight_type_size(delta->type);
    if (is_table(merge->site)) {
        dtype_to_f32(merge->left, (const char *)delta->a + merge->next_row * delta->rank * size, dtype,
                     n_rows * delta->rank);
        return;
    }
    for (size_t j = 0; j < delta->rank; j++)
        for (size_t i = 0; i < n_rows; i++)
            dtype_to_f32(&merge->left[i * delta->rank + j],
                         (const char *)delta->b + delta_b_at(delta->rank, merge->next_row + i, j) * size, dtype,
                         1);
}

static void apply_gain(struct site_merge *merge, size_t n_rows)
{
    size_t n_columns = merge->base->n_in;
    for (size_t i = 0; i < n_rows; i++)
        for (size_t k = 0; k < n_columns; k++)
            merge->rows[i * n_columns + k] *=
                merge->row_gain[is_table(merge->site) ? k : merge->next_row + i];
}

static void merge_panels(struct site_merge *merge, size_t n_rows)
{
    const struct delta *delta = merge->n_operands > 0 ? merge->operands[0].delta : NULL;
    size_t first = merge->next_row, n_in = merge->base->n_in, rank = delta ? delta->rank : 0, at;
    enum weight_type type = merge->out->type;
    if (delta)
        merge->kernels->widen[delta->type](merge->b, (const char *)delta->b + delta_b_at(rank, first, 0) * weight_type_size(delta->type),
                                           delta_b_size(rank, n_rows));
    at = packed_at(type, first, n_in);
    char *to = (char *)merge->out->owned + at;
    merge->kernels->merge[type](to, (const char *)merge->base->data + at, n_rows, n_in, merge->b, merge->a_t, rank,
                                delta ? merge->operands[0].scale : 0, merge->row_gain ? merge->row_gain + first : NULL);
    size_t n = packed_bytes(type, n_rows, n_in) / weight_type_size(type);
    merge->overflows |= dtype_find_not_finite(to, dtype_of_weight(type), n) != n;
}

static void merge_rows(struct site_merge *merge, size_t n_rows)
{
    size_t n_columns = merge->base->n_in;
    matrix_read_rows(merge->base, merge->next_row, n_rows, merge->rows);
    for (size_t i = 0; i < merge->n_operands; i++) {
        const struct operand *operand = &merge->operands[i];
        size_t rank = operand->delta->rank;
        read_left(merge, operand->delta, n_rows);
        blas_gemm(n_rows, n_columns, rank, operand->scale, merge->left, rank, operand->right, n_columns, 1,
                  merge->rows, n_columns);
    }
    if (merge->row_gain)
        apply_gain(merge, n_rows);
    merge->overflows |= !matrix_write_rows(merge->out, merge->next_row, n_rows, merge->rows, merge->scratch);
}

/* One chunk; true when it was the last. */
static bool site_merge_step(struct site_merge *merge)
{
    size_t n_rows = size_min(merge->n_chunk_rows, merge->base->n_out - merge->next_row);
    if (is_in_panels(merge))
        merge_panels(merge, n_rows);
    else
        merge_rows(merge, n_rows);
    merge->next_row += n_rows;
    return merge->next_row == merge->base->n_out;
}

static struct matrix *site_merge_take(struct site_merge *merge, struct error *err)
{
    if (merge->overflows) {
        error_set(err, ERROR_MISMATCH, merge->site->path,
                  "W + s BA does not fit into %s: the adapter can only be served on the fly",
                  weight_type_name(merge->out->type));
        site_merge_finish(merge);
        return NULL;
    }
    struct matrix *taken = merge->out;
    merge->out = NULL;
    site_merge_finish(merge);
    return taken;
}

struct matrix *merge_site(const struct model *model, size_t site, const struct compose_part *parts,
                          size_t n_parts, struct error *err)
{
    struct site_merge merge;
    if (n_parts > LIMIT_REQUEST_ADAPTERS) {
        error_set(err, ERROR_BAD_INPUT, "adapter", "at most %d adapters can be merged",
                  LIMIT_REQUEST_ADAPTERS);
        return NULL;
    }
    const struct matrix *base = model->sites[site].weight;
    enum weight_type type = base->origin ? weight_type_of(base->origin->dtype) : base->type;
    if (!site_merge_begin(&merge, model, site, MATRIX_ROWS, type, parts, n_parts, err))
        return NULL;
    while (!site_merge_step(&merge))
        ;
    return site_merge_take(&merge, err);
}

/* -- All sites of one adapter -------------------------------------------------------------- */

static bool needs_merge(const struct adapter_site *site)
{
    return site->has_delta || site->row_gain;
}

uint64_t merge_site_bytes(const struct adapter *adapter, size_t index)
{
    const struct adapter_site *site = &adapter->sites[index];
    const struct matrix *base = adapter->model->sites[site->site].weight;
    if (!needs_merge(site))
        return 0;
    uint64_t n_bytes = matrix_bytes(base);
    return n_bytes + (site->delta.bias ? site->delta.n_out * sizeof(float) : 0);
}

uint64_t merge_bytes(const struct adapter *adapter, const bool *sites)
{
    uint64_t n_bytes =
        sizeof(struct merged) + adapter->model->n_sites * (sizeof(struct matrix *) + sizeof(float *));
    for (size_t i = 0; i < adapter->n_sites; i++)
        if (!sites || sites[i])
            n_bytes += merge_site_bytes(adapter, i);
    return n_bytes;
}

struct merge_job {
    struct adapter *adapter;
    struct merged *merged;
    bool *is_left_out; /* adapter->n_sites */
    size_t next_site;  /* into adapter->sites */
    bool is_in_site;
    struct site_merge site;
};

static struct merged *create_merged(const struct adapter *adapter, const bool *sites)
{
    struct merged *merged = calloc(1, sizeof *merged);
    if (!merged)
        return NULL;
    ref_init(&merged->ref);
    merged->dispose = merged_destroy;
    merged->n_sites = adapter->model->n_sites;
    merged->bytes = merge_bytes(adapter, sites);
    merged->weights = calloc(merged->n_sites, sizeof *merged->weights);
    merged->biases = calloc(merged->n_sites, sizeof *merged->biases);
    if (merged->weights && merged->biases)
        return merged;
    merged_destroy(merged);
    return NULL;
}

static void choose_sites(struct merge_job *job, const bool *sites)
{
    const struct adapter *adapter = job->adapter;
    for (size_t i = 0; i < adapter->n_sites; i++) {
        bool is_needed = needs_merge(&adapter->sites[i]), is_chosen = is_needed && (!sites || sites[i]);
        job->is_left_out[i] = !is_chosen;
        job->merged->n_merged += is_chosen;
        job->merged->is_partial |= is_needed && !is_chosen;
    }
}

struct merge_job *merge_begin(struct adapter *adapter, const bool *sites, struct error *err)
{
    struct merge_job *job = calloc(1, sizeof *job);
    struct merged *merged = job ? create_merged(adapter, sites) : NULL;
    bool *is_left_out = merged ? calloc(adapter->n_sites + 1, sizeof *is_left_out) : NULL;
    if (!is_left_out) {
        merged_unref(merged);
        free(job);
        error_no_memory(err);
        return NULL;
    }
    *job = (struct merge_job){.adapter = adapter_ref(adapter), .merged = merged, .is_left_out = is_left_out};
    choose_sites(job, sites);
    return job;
}

static bool merge_bias(struct merge_job *job, const struct adapter_site *site, struct error *err)
{
    const struct delta *delta = &site->delta;
    const float *base = site->bias ? site->bias : job->adapter->model->sites[site->site].bias;
    if (!site->has_delta || !delta->bias)
        return true;
    float *bias = malloc(delta->n_out * sizeof *bias);
    if (!bias)
        return error_no_memory(err);
    for (size_t o = 0; o < delta->n_out; o++)
        bias[o] = (base ? base[o] : 0) + delta->scale * delta->bias[o];
    job->merged->biases[site->site] = bias;
    return true;
}

static bool begin_site(struct merge_job *job, const struct adapter_site *site, struct error *err)
{
    const struct compose_part part = {.adapter = job->adapter, .factor = 1};
    const struct matrix *base = job->adapter->model->sites[site->site].weight;
    job->is_in_site = merge_bias(job, site, err) &&
                      site_merge_begin(&job->site, job->adapter->model, site->site, base->layout, base->type, &part, 1, err);
    return job->is_in_site;
}

bool merge_step(struct merge_job *job, bool *done_out, struct error *err)
{
    const struct adapter *adapter = job->adapter;
    while (!job->is_in_site && job->next_site < adapter->n_sites && job->is_left_out[job->next_site])
        job->next_site++;
    if (job->next_site < adapter->n_sites) {
        const struct adapter_site *site = &adapter->sites[job->next_site];
        if (!job->is_in_site && !begin_site(job, site, err))
            return false;
        if (site_merge_step(&job->site)) {
            job->is_in_site = false;
            job->next_site++;
            job->merged->weights[site->site] = site_merge_take(&job->site, err);
            if (!job->merged->weights[site->site])
                return false;
        }
    }
    *done_out = job->next_site == adapter->n_sites;
    return true;
}

double merge_fraction(const struct merge_job *job)
{
    double n = (double)job->adapter->n_sites, within = 0;
    if (job->is_in_site)
        within = (double)job->site.next_row / (double)job->site.base->n_out;
    return n > 0 ? ((double)job->next_site + within) / n : 1;
}

struct merged *merge_take(struct merge_job *job)
{
    struct merged *merged = job->merged;
    job->merged = NULL;
    return merged;
}

void merge_end(struct merge_job *job)
{
    if (!job)
        return;
    if (job->is_in_site)
        site_merge_finish(&job->site);
    merged_unref(job->merged);
    adapter_unref(job->adapter);
    free(job->is_left_out);
    free(job);
}

struct merged *merged_ref(struct merged *merged)
{
    ref_take(&merged->ref);
    return merged;
}

void merged_unref(struct merged *merged)
{
    if (merged && ref_drop(&merged->ref))
        merged->dispose(merged);
}

void merged_destroy(struct merged *merged)
{
    if (!merged)
        return;
    for (size_t i = 0; i < merged->n_sites; i++) {
        if (merged->weights)
            matrix_unref(merged->weights[i]);
        if (merged->biases)
            free((void *)(uintptr_t)merged->biases[i]);
    }
    free(merged->weights);
    free((void *)merged->biases);
    free(merged);
}
