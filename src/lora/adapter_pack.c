/*
 * adapter_pack.c - what was checked is copied into one block. A and B are kept in the type they came in: A as it is (of
 * embeddings: transposed), B transposed.
 */
#include "lora/adapter_load.h"

#include <stdlib.h>
#include <string.h>

#include "lora/dora.h"

/* `tensor`'s elements as `type`; transposed from (rows, columns) to (columns, rows) when asked. */
static void *pack(struct load *load, const struct tensor *tensor, enum weight_type type, bool transposed,
                  struct error *err)
{
    size_t size = weight_type_size(type), n_rows = tensor->shape[0],
           n_columns = tensor->n_dims > 1 ? tensor->shape[1] : 1;
    char *out = arena_allocate(&load->adapter->arena, tensor->n_elements * size);
    if (!out)
        return error_no_memory(err), NULL;
    const char *in = tensor->data;
    char *converted = NULL;
    if (weight_type_of(tensor->dtype) !=
        type) { /* only to f32: the pair's halves differ in type, or a vector */
        char *to = transposed ? converted = malloc(tensor->n_elements * size) : out;
        if (!to)
            return error_no_memory(err), NULL;
        dtype_to_f32((float *)(void *)to, in, tensor->dtype, tensor->n_elements);
        in = to;
    }
    if (transposed) {
        for (size_t i = 0; i < n_rows; i++)
            for (size_t j = 0; j < n_columns; j++)
                memcpy(out + (j * n_rows + i) * size, in + (i * n_columns + j) * size, size);
    } else if (in != out) {
        memcpy(out, in, tensor->n_elements * size);
    }
    free(converted);
    load->adapter->n_parameters += tensor->n_elements;
    return out;
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
        delta->a = pack(load, plan->b, plan->type, true, err);    /* (rank, d_model) */
        delta->b_t = pack(load, plan->a, plan->type, false, err); /* (rank, n_vocab) */
        load->adapter->n_parameters = n_parameters;               /* the same ones */
    } else {
        delta->a = pack(load, plan->a, plan->type, is_table(site), err);
        delta->b_t = pack(load, plan->b, plan->type, true, err);
    }
    if (!delta->a || !delta->b_t)
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

static bool pack_tokens(struct load *load, const struct plan *plan, const struct site *site,
                        struct adapter_site *out, struct error *err)
{
    const struct matrix *base = site->weight;
    const struct tensor *tokens = plan->tokens;
    size_t row_bytes = base->n_in * weight_type_size(base->type);
    float *wide = malloc(base->n_in * sizeof *wide);
    out->weight =
        wide ? matrix_create(base->type, base->n_out, base->n_in, err) : (error_no_memory(err), NULL);
    if (out->weight) {
        char *rows = out->weight->owned;
        memcpy(rows, base->data, base->n_out * row_bytes);
        for (size_t i = 0; i < plan->indices->n_indices; i++) {
            const char *row = (const char *)tokens->data + i * base->n_in * dtype_size(tokens->dtype);
            dtype_to_f32(wide, row, tokens->dtype, base->n_in);
            dtype_from_f32(rows + (size_t)plan->indices->indices[i] * row_bytes, dtype_of_weight(base->type),
                           wide, base->n_in);
        }
        load->adapter->n_parameters += tokens->n_elements;
    }
    free(wide);
    return out->weight != NULL;
}

static bool pack_weight(struct load *load, const struct plan *plan, const struct site *site,
                        struct adapter_site *out, struct error *err)
{
    out->weight =
        matrix_from_tensor(plan->weight, site->is_conv1d, weight_type_of(plan->weight->dtype), false, err);
    load->adapter->n_parameters += plan->weight->n_elements;
    return out->weight != NULL;
}

static bool pack_site(struct load *load, size_t index, struct adapter_site *out, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const struct plan *plan = &load->plans[index];
    bool is_shared = plan->shares_weight_of != SIZE_MAX;
    out->site = index;
    return (!plan->a || pack_pair(load, plan, site, out, err)) &&
           (!plan->magnitude || pack_gain(load, plan, site, out, err)) &&
           (!plan->weight || is_shared || pack_weight(load, plan, site, out, err)) &&
           (!plan->tokens || pack_tokens(load, plan, site, out, err)) &&
           (!plan->bias || (out->bias = pack(load, plan->bias, WEIGHT_F32, false, err)));
}

/* After all sites are packed: a tied head shows the embedding's new matrix, or the other way round. */
static void share_weights(struct load *load)
{
    struct adapter *adapter = load->adapter;
    for (size_t i = 0; i < adapter->n_sites; i++) {
        size_t other = load->plans[adapter->sites[i].site].shares_weight_of;
        const struct adapter_site *from = other == SIZE_MAX ? NULL : adapter_find_site(adapter, other);
        if (from)
            adapter->sites[i].weight = matrix_ref(from->weight);
    }
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
    share_weights(load);
    for (size_t i = 0; i < load->model->n_norms; i++)
        if ((load->norm_weights[i] || load->norm_biases[i]) &&
            !pack_norm(load, i, &adapter->norms[adapter->n_norms++], err))
            return false;
    return true;
}
