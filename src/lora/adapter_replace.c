/*
 * adapter_replace.c - checking what replaces something of the base: whole weights, biases, rows, norms. Writers also leave
 * copies of the base in the file, which are compared with it and dropped.
 */
#include "lora/adapter_load.h"

#include <stdlib.h>
#include <string.h>

#include "lora/report.h"

/* -- Copies of the base ------------------------------------------------------------------- */

/* Equal in the type of either side: a copy may have been rounded by its writer, or the base by us. */
static bool equals_vector(const struct tensor *tensor, const float *base, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float value, rounded;
        char narrow[4];
        dtype_to_f32(&value, (const char *)tensor->data + i * dtype_size(tensor->dtype), tensor->dtype, 1);
        dtype_from_f32(narrow, tensor->dtype, &base[i], 1);
        dtype_to_f32(&rounded, narrow, tensor->dtype, 1);
        if (value != base[i] && value != rounded)
            return false;
    }
    return true;
}

/* What the base's weights are known as: before they were quantised, if they were. */
static enum dtype base_dtype(const struct matrix *base)
{
    return base->origin ? base->origin->dtype : dtype_of_weight(base->type);
}

/* `narrow`: scratch of n floats. */
static bool is_rounded(const float *x, const float *to, enum dtype dtype, size_t n, void *narrow, float *rounded)
{
    dtype_from_f32(narrow, dtype, x, n);
    dtype_to_f32(rounded, narrow, dtype, n);
    return memcmp(rounded, to, n * sizeof *to) == 0;
}

static bool equals_matrix(const struct tensor *tensor, const struct site *site, bool *out, struct error *err)
{
    const struct matrix *base = site->weight;
    size_t n = base->n_in;
    struct matrix *copy =
        matrix_from_tensor(tensor, site->is_conv1d, weight_type_of(tensor->dtype), MATRIX_ROWS, true, err);
    float *rows = copy ? malloc(4 * n * sizeof *rows) : NULL;
    bool same = rows != NULL;
    if (copy && !rows)
        error_no_memory(err);
    for (size_t i = 0; same && i < base->n_out; i++) {
        float *ours = rows, *theirs = rows + n, *narrow = rows + 2 * n, *rounded = rows + 3 * n;
        matrix_read_rows(base, i, 1, ours);
        matrix_read_rows(copy, i, 1, theirs);
        same = is_rounded(theirs, ours, base_dtype(base), n, narrow, rounded) ||
               is_rounded(ours, theirs, tensor->dtype, n, narrow, rounded);
    }
    if (rows)
        *out = same;
    bool ok = rows != NULL;
    free(rows);
    matrix_unref(copy);
    return ok;
}

static bool check_matrix_shape(const struct tensor *tensor, const struct site *site, struct error *err)
{
    const struct matrix *base = site->weight;
    size_t n_rows = site->is_conv1d ? base->n_in : base->n_out,
           n_columns = site->is_conv1d ? base->n_out : base->n_in;
    char shape[128];
    bool is_vocabulary = site->kind == SITE_EMBEDDING || site->kind == SITE_HEAD;
    if (is_vocabulary && tensor->n_dims == 2 && tensor->shape[1] == n_columns && tensor->shape[0] != n_rows)
        return load_refuse(err, tensor,
                      "has the shape %s, but the base's vocabulary is %zu: adapters with a resized "
                      "vocabulary are not served",
                      tensor_shape_text(tensor, shape, sizeof shape), n_rows);
    return load_check_shape(tensor, 2, n_rows, n_columns, err);
}

static bool drop_copy(struct load *load, const struct tensor *tensor, struct error *err)
{
    load->report->tensors_ignored++;
    return report_warn(load->report, err, "tensor '%s' is a copy of the base's and is not needed",
                       tensor->name);
}

bool load_check_base_weight(struct load *load, const struct tensor *tensor, const struct site *site,
                              struct error *err)
{
    bool same = false;
    if (!check_matrix_shape(tensor, site, err) || !equals_matrix(tensor, site, &same, err))
        return false;
    if (!same)
        return load_refuse(
            err, tensor,
            "is a copy of the weight that the adapter was trained on, and it differs from the base's: "
            "the adapter belongs to another base");
    return drop_copy(load, tensor, err);
}

/* -- Whole weights, biases, rows ---------------------------------------------------------- */

bool load_check_weight(struct load *load, size_t index, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const struct tensor *weight = load->matched.sites[index].parts[KEY_WEIGHT];
    bool same = false;
    if (!weight)
        return true;
    if (!check_matrix_shape(weight, site, err))
        return false;
    if (!load_declares_saved(load, index)) {
        if (!equals_matrix(weight, site, &same, err))
            return false;
        return same ? drop_copy(load, weight, err)
                    : load_refuse(err, weight, "replaces a whole module that modules_to_save does not name");
    }
    if (load->plans[index].a)
        return load_refuse(err, weight, "replaces a module that has a low-rank pair too");
    if (!load_check_finite(weight, err))
        return false;
    load->plans[index].weight = weight;
    load_count_matrix(load, site, weight_type_of(weight->dtype));
    return true;
}

static bool is_bias_declared(const struct load *load, const char *path, bool is_norm, bool is_targeted)
{
    if (load_saves_module(load->config, path) || load->config->bias == PEFT_BIAS_ALL)
        return true;
    return load->config->bias == PEFT_BIAS_LORA_ONLY && !is_norm && is_targeted;
}

/* *used_out false: a copy of the base's that is not needed. */
static bool check_bias(struct load *load, const struct tensor *bias, const char *path, const float *base,
                       size_t n, bool is_declared, bool *used_out, struct error *err)
{
    *used_out = false;
    if (!base)
        return load_refuse(err, bias, "is a bias, but the base's '%s' has none", path);
    if (!load_check_shape(bias, 1, n, 0, err))
        return false;
    if (!is_declared)
        return equals_vector(bias, base, n)
                   ? drop_copy(load, bias, err)
                   : load_refuse(err, bias,
                            "replaces a bias, but the config's \"bias\" and modules_to_save do not say so");
    load->n_bias_tensors++;
    *used_out = true;
    return load_check_finite(bias, err);
}

bool load_check_bias(struct load *load, size_t index, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const struct tensor *bias = load->matched.sites[index].parts[KEY_BIAS];
    bool is_declared, is_used;
    if (!bias)
        return true;
    is_declared = is_bias_declared(load, load_path_of(load, index), false, load->plans[index].a != NULL);
    if (!check_bias(load, bias, site->path, site->bias, site->n_out, is_declared, &is_used, err))
        return false;
    if (is_used) {
        load->plans[index].bias = bias;
        load_count_block(load, site->n_out, sizeof(float));
    }
    return true;
}

static bool names_module(const char *name, const char *path)
{
    size_t n = strlen(name), n_path = strlen(path);
    return n <= n_path && strcmp(path + n_path - n, name) == 0 &&
           (n == n_path || path[n_path - n - 1] == '.');
}

static const struct peft_token_indices *find_indices(const struct load *load, size_t site)
{
    for (size_t i = 0; i < load->config->n_token_indices; i++) {
        const struct peft_token_indices *indices = &load->config->token_indices[i];
        if (indices->module ? names_module(indices->module, load_path_of(load, site))
                            : site == load->model->embedding_site)
            return indices;
    }
    return NULL;
}

static bool check_indices(const struct load *load, const struct peft_token_indices *indices,
                          struct error *err)
{
    size_t n_vocab = load->model->config.n_vocab;
    for (size_t i = 0; i < indices->n_indices; i++)
        if (indices->indices[i] < 0 || (uint64_t)indices->indices[i] >= n_vocab)
            return error_set(err, ERROR_MISMATCH, "trainable_token_indices",
                             "trainable_token_indices holds %lld, but the base's vocabulary is %zu",
                             (long long)indices->indices[i], n_vocab);
    return true;
}

bool load_check_tokens(struct load *load, size_t index, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const struct tensor *tokens = load->matched.sites[index].parts[KEY_TOKENS];
    const struct peft_token_indices *indices = find_indices(load, index);
    struct plan *plan = &load->plans[index];
    char shape[128];
    if (!tokens)
        return true;
    if (index != load->model->embedding_site && index != load->model->head_site)
        return load_refuse(err, tokens, "replaces rows of '%s', which is neither the embedding nor the head",
                      site->path);
    if (!indices)
        return load_refuse(err, tokens, "replaces rows, but trainable_token_indices does not say which");
    if (!check_indices(load, indices, err))
        return false;
    if (tokens->n_dims != 2 || tokens->shape[0] != indices->n_indices)
        return load_refuse(err, tokens, "has the shape %s, but trainable_token_indices has %zu entries",
                      tensor_shape_text(tokens, shape, sizeof shape), indices->n_indices);
    if (!load_check_shape(tokens, 2, indices->n_indices, site->weight->n_in, err) || !load_check_finite(tokens, err))
        return false;
    if (plan->a || plan->weight)
        return load_refuse(err, tokens,
                      "replaces rows of a module that has a low-rank pair or is replaced whole too");
    plan->tokens = tokens;
    plan->indices = indices;
    load_count_matrix(load, site, site->weight->type);
    return true;
}

/* Rows that were trained in a tied embedding are the head's too, unless it has its own. */
bool load_share_tokens(struct load *load, struct error *err)
{
    const struct model *model = load->model;
    struct plan *embedding = &load->plans[model->embedding_site], *head = &load->plans[model->head_site];
    struct plan *from = embedding->tokens ? embedding : head, *to = embedding->tokens ? head : embedding;
    if (!is_tied(model) || !from->tokens || to->tokens)
        return true;
    if (to->weight)
        return load_refuse(err, to->weight,
                      "and trainable_token_indices both replace the tied embedding and head");
    if (to->magnitude)
        return load_refuse(err, to->magnitude,
                      "would need the norms of a tied matrix whose rows trainable_token_indices replaces");
    to->tokens = from->tokens;
    to->indices = from->indices;
    to->is_shared = true;
    const struct site *site = &model->sites[from == embedding ? model->head_site : model->embedding_site];
    load_count_matrix(load, site, site->weight->type);
    return true;
}

/* Each entry of trainable_token_indices must have had its tensor; a tied head's may be the embedding's. */
bool load_check_indices_used(struct load *load, struct error *err)
{
    const struct model *model = load->model;
    for (size_t i = 0; i < load->config->n_token_indices; i++) {
        const struct peft_token_indices *indices = &load->config->token_indices[i];
        bool is_used = load->plans[model->embedding_site].indices == indices ||
                       load->plans[model->head_site].indices == indices;
        bool is_head = indices->module && names_module(indices->module, load_path_of(load, model->head_site));
        const struct peft_token_indices *shared = load->plans[model->embedding_site].indices;
        bool is_same =
            is_head && is_tied(model) && shared && shared->n_indices == indices->n_indices &&
            memcmp(shared->indices, indices->indices, indices->n_indices * sizeof indices->indices[0]) == 0;
        if (!is_used && !is_same)
            return error_set(err, ERROR_MISMATCH, "trainable_token_indices",
                             "trainable_token_indices names rows of '%s', but the file has no "
                             "trainable_tokens_delta for it",
                             indices->module ? indices->module : model->sites[model->embedding_site].path);
    }
    return true;
}

bool load_check_norm(struct load *load, size_t index, struct error *err)
{
    const struct norm *norm = &load->model->norms[index];
    const struct matched_module *module = &load->matched.norms[index];
    const struct tensor *weight = module->parts[KEY_WEIGHT], *bias = module->parts[KEY_BIAS];
    bool is_used;
    for (size_t part = 0; part < N_KEY_PARTS; part++)
        if (module->parts[part] && part != KEY_WEIGHT && part != KEY_BIAS)
            return load_refuse(err, module->parts[part], "is for a norm, which has no such part");
    if (weight) {
        if (!load_check_shape(weight, 1, norm->n, 0, err))
            return false;
        if (load_saves_module(load->config, module->path)) {
            if (!load_check_finite(weight, err))
                return false;
            load->norm_weights[index] = weight;
            load_count_block(load, norm->n, sizeof(float));
        } else if (!equals_vector(weight, norm->weight, norm->n)) {
            return load_refuse(err, weight, "replaces a whole module that modules_to_save does not name");
        } else if (!drop_copy(load, weight, err)) {
            return false;
        }
    }
    if (!bias)
        return true;
    if (!check_bias(load, bias, norm->path, norm->bias, norm->n,
                    is_bias_declared(load, module->path, true, false), &is_used, err))
        return false;
    if (is_used) {
        load->norm_biases[index] = bias;
        load_count_block(load, norm->n, sizeof(float));
    }
    return true;
}
