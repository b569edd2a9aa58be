/*
 * adapter_pack.c - what was checked is copied into one block. A and B are kept in the type they came in: A as it is (of
 * embeddings: transposed), B in panels.
 */
#include "lora/adapter_load.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "lora/dora.h"

/* `tensor`'s elements as `type`, in the file's order: where they are, or in *converted, which the caller frees. */
static const char *read_elements(const struct tensor *tensor, enum weight_type type, char **converted,
                                 struct error *err)
{
    *converted = NULL;
    if (weight_type_of(tensor->dtype) == type)
        return tensor->data;
    /* Only to f32: the pair's halves differ in type, or a vector. */
    float *wide = malloc(size_max(tensor->n_elements, 1) * sizeof *wide);
    if (!wide)
        return error_no_memory(err), NULL;
    dtype_to_f32(wide, tensor->data, tensor->dtype, tensor->n_elements);
    *converted = (char *)wide;
    return *converted;
}

/* Where `tensor`'s elements lie in the adapter's block, and where they come from. */
struct packing {
    size_t size, n_rows, n_columns; /* of an element in bytes; of the tensor */
    const char *from;
    char *converted, *to;
};

static bool begin_packing(struct packing *packing, struct load *load, const struct tensor *tensor,
                          enum weight_type type, size_t n_elements, struct error *err)
{
    *packing = (struct packing){.size = weight_type_size(type),
                                .n_rows = tensor->shape[0],
                                .n_columns = tensor->n_dims > 1 ? tensor->shape[1] : 1};
    packing->to = arena_allocate(&load->adapter->arena, n_elements * packing->size);
    if (!packing->to)
        return error_no_memory(err);
    load->adapter->n_parameters += tensor->n_elements;
    packing->from = read_elements(tensor, type, &packing->converted, err);
    return packing->from != NULL;
}

/* The tensor as `type`; transposed from (rows, columns) to (columns, rows) when asked. */
static void *pack(struct load *load, const struct tensor *tensor, enum weight_type type, bool transposed,
                  struct error *err)
{
    struct packing p;
    if (!begin_packing(&p, load, tensor, type, tensor->n_elements, err))
        return NULL;
    if (!transposed)
        memcpy(p.to, p.from, tensor->n_elements * p.size);
    for (size_t i = 0; transposed && i < p.n_rows; i++)
        for (size_t j = 0; j < p.n_columns; j++)
            memcpy(p.to + (j * p.n_rows + i) * p.size, p.from + (i * p.n_columns + j) * p.size, p.size);
    free(p.converted);
    return p.to;
}

/* The B of a pair: (n_out, rank), or (rank, n_out) where it is a mirrored A. */
static void *pack_panels(struct load *load, const struct tensor *tensor, enum weight_type type, bool is_mirrored,
                         struct error *err)
{
    struct packing p;
    size_t rank = tensor->shape[is_mirrored ? 0 : 1], n_out = tensor->shape[is_mirrored ? 1 : 0];
    if (!begin_packing(&p, load, tensor, type, delta_b_size(rank, n_out), err))
        return NULL;
    memset(p.to, 0, delta_b_size(rank, n_out) * p.size);
    for (size_t i = 0; i < p.n_rows; i++)
        for (size_t j = 0; j < p.n_columns; j++) {
            size_t at = is_mirrored ? delta_b_at(rank, j, i) : delta_b_at(rank, i, j);
            memcpy(p.to + at * p.size, p.from + (i * p.n_columns + j) * p.size, p.size);
        }
    free(p.converted);
    return p.to;
}

static bool pack_pair(struct load *load, const struct plan *plan, const struct site *site,
                      struct adapter_site *out, struct error *err)
{
    struct delta *delta = &out->delta;
    *delta = (struct delta){.type = plan->type,
                            .rank = plan->rank,
                            .n_in = site->n_in,
                            .n_out = site->n_out,
                            .scale = (float)plan->scale};
    if (plan->is_mirrored) {
        uint64_t n_parameters = load->adapter->n_parameters;
        delta->a = pack(load, plan->b, plan->type, true, err); /* (rank, d_model) */
        delta->b = pack_panels(load, plan->a, plan->type, true, err);
        load->adapter->n_parameters = n_parameters; /* the same ones */
    } else {
        delta->a = pack(load, plan->a, plan->type, is_table(site), err);
        delta->b = pack_panels(load, plan->b, plan->type, false, err);
    }
    if (!delta->a || !delta->b)
        return false;
    out->has_delta = true;
    out->alpha = plan->alpha;
    return !plan->b_bias || (delta->bias = pack(load, plan->b_bias, WEIGHT_F32, false, err));
}

static bool pack_gain(struct load *load, const struct plan *plan, const struct site *site,
                      struct adapter_site *out, struct error *err)
{
    float *gain = pack(load, plan->magnitude, WEIGHT_F32, false, err);
    float *magnitude = gain ? malloc(site->n_out * sizeof *magnitude) : NULL;
    if (gain && !magnitude)
        error_no_memory(err);
    if (!magnitude)
        return false;
    memcpy(magnitude, gain, site->n_out * sizeof *magnitude);
    bool ok = dora_compute_gain(gain, site, site->weight, &out->delta, magnitude, err);
    free(magnitude);
    out->row_gain = gain;
    return ok;
}

/* Rows [first, first + n_rows) of the base's, some of them replaced, into `out`. */
static void replace_rows(const struct plan *plan, const struct matrix *base, struct matrix *out, size_t first, size_t n_rows, float *rows,
                         void *scratch)
{
    const struct tensor *tokens = plan->tokens;
    bool is_changed = false;
    for (size_t i = 0; i < plan->indices->n_indices; i++) {
        size_t row = (size_t)plan->indices->indices[i];
        if (row < first || row - first >= n_rows)
            continue;
        if (!is_changed)
            matrix_read_rows(base, first, n_rows, rows);
        is_changed = true;
        dtype_to_f32(rows + (row - first) * base->n_in,
                     (const char *)tokens->data + i * base->n_in * dtype_size(tokens->dtype), tokens->dtype, base->n_in);
    }
    if (is_changed)
        (void)matrix_write_rows(out, first, n_rows, rows, scratch); /* f16 has no room for some: infinity, as it always was */
}

static bool pack_tokens(struct load *load, const struct plan *plan, const struct site *site,
                        struct adapter_site *out, struct error *err)
{
    const struct matrix *base = site->weight;
    float *rows = malloc(PANEL_ROWS * base->n_in * sizeof *rows);
    void *scratch = malloc(matrix_scratch_bytes(base));
    bool ok = rows && scratch;
    if (!ok)
        error_no_memory(err);
    else if ((out->weight = matrix_create(base->type, base->layout, base->n_out, base->n_in, err))) {
        memcpy(out->weight->owned, base->data, matrix_bytes(base));
        for (size_t row = 0; row < base->n_out; row += PANEL_ROWS)
            replace_rows(plan, base, out->weight, row, size_min(PANEL_ROWS, base->n_out - row), rows, scratch);
        load->adapter->n_parameters += plan->is_shared ? 0 : plan->tokens->n_elements;
    }
    free(rows);
    free(scratch);
    return out->weight != NULL;
}

static bool pack_weight(struct load *load, const struct plan *plan, const struct site *site,
                        struct adapter_site *out, struct error *err)
{
    out->weight = matrix_from_tensor(plan->weight, site->is_conv1d, weight_type_of(plan->weight->dtype), site_layout(site), false, err);
    load->adapter->n_parameters += plan->is_shared ? 0 : plan->weight->n_elements;
    return out->weight != NULL;
}

static bool pack_site(struct load *load, size_t index, struct adapter_site *out, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const struct plan *plan = &load->plans[index];
    out->site = index;
    return (!plan->a || pack_pair(load, plan, site, out, err)) &&
           (!plan->magnitude || pack_gain(load, plan, site, out, err)) &&
           (!plan->weight || pack_weight(load, plan, site, out, err)) &&
           (!plan->tokens || pack_tokens(load, plan, site, out, err)) &&
           (!plan->bias || (out->bias = pack(load, plan->bias, WEIGHT_F32, false, err)));
}

static bool pack_norm(struct load *load, size_t index, struct adapter_norm *out, struct error *err)
{
    const struct tensor *weight = load->norm_weights[index], *bias = load->norm_biases[index];
    *out = (struct adapter_norm){
        .norm = index, .weight = load->model->norms[index].weight, .bias = load->model->norms[index].bias};
    return (!weight || (out->weight = pack(load, weight, WEIGHT_F32, false, err))) &&
           (!bias || (out->bias = pack(load, bias, WEIGHT_F32, false, err)));
}

bool load_pack_all(struct load *load, struct error *err)
{
    struct adapter *adapter = load->adapter;
    arena_init(&adapter->arena, load->n_block_bytes);
    adapter->sites = arena_allocate_array(&adapter->arena, load->n_sites, sizeof *adapter->sites);
    adapter->norms = arena_allocate_array(&adapter->arena, load->n_norms, sizeof *adapter->norms);
    if (!adapter->sites || !adapter->norms)
        return error_no_memory(err);
    for (size_t i = 0; i < load->model->n_sites; i++)
        if (plan_changes(&load->plans[i]) && !pack_site(load, i, &adapter->sites[adapter->n_sites++], err))
            return false;
    for (size_t i = 0; i < load->model->n_norms; i++)
        if ((load->norm_weights[i] || load->norm_biases[i]) &&
            !pack_norm(load, i, &adapter->norms[adapter->n_norms++], err))
            return false;
    return true;
}
