/*
 * adapter_load.c - a PEFT directory -> an adapter.
 *
 * Two passes over the matched modules. The first checks everything (config, shapes, values, equality of
 * copies) and counts the bytes; the second allocates one block and copies, and computes what DoRA needs. A
 * and B are kept in the type they came in: A as it is (of embeddings: transposed), B transposed. The file's
 * bytes are gone when this returns.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "lora/adapter.h"
#include "lora/adapter_match.h"
#include "lora/dora.h"
#include "lora/report.h"

/* What will be done to one site: filled by the checks, read by the packing. */
struct plan {
    const struct tensor *a, *b, *b_bias, *magnitude; /* a pair when `a` is there */
    bool is_mirrored; /* the pair is the tied embedding's, seen from the head: A and B change places */
    size_t rank;
    double alpha, scale;
    enum weight_type type;
    const struct tensor *weight, *bias, *tokens;
    const struct peft_token_indices *indices;
    size_t shares_weight_of; /* another site that has the same replaced matrix (tied head); SIZE_MAX: none */
};

struct load {
    const struct model *model;
    const struct peft_config *config;
    struct matched matched;
    struct plan *plans;                                /* model->n_sites */
    const struct tensor **norm_weights, **norm_biases; /* model->n_norms; NULL: the base's */
    struct lorad_load_report *report;
    struct arena scratch;
    uint64_t n_block_bytes, n_matrix_bytes;
    size_t n_sites, n_norms, n_bias_tensors;
    struct adapter *adapter;
};

static bool is_table(const struct site *site)
{
    return site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION;
}

static bool is_tied(const struct model *model)
{
    return model->config.tied_head;
}

static bool refuse(struct error *err, const struct tensor *tensor, const char *format, ...) PRINTF_LIKE(3, 4);
static bool refuse(struct error *err, const struct tensor *tensor, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_set(err, ERROR_MISMATCH, tensor->name, "tensor '%s' %s", tensor->name, text);
}

static bool check_shape(const struct tensor *tensor, size_t n_dims, size_t n_first, size_t n_second,
                        struct error *err)
{
    char shape[128], expected[64];
    bool fits = tensor->n_dims == n_dims && tensor->shape[0] == n_first &&
                (n_dims < 2 || tensor->shape[1] == n_second);
    if (fits)
        return true;
    if (n_dims < 2)
        snprintf(expected, sizeof expected, "[%zu]", n_first);
    else
        snprintf(expected, sizeof expected, "[%zu, %zu]", n_first, n_second);
    return refuse(err, tensor, "has the shape %s, but the base needs %s",
                  tensor_shape_text(tensor, shape, sizeof shape), expected);
}

static bool check_finite(const struct tensor *tensor, struct error *err)
{
    size_t at = dtype_find_not_finite(tensor->data, tensor->dtype, tensor->n_elements);
    if (at == tensor->n_elements)
        return true;
    return error_set(err, ERROR_BAD_INPUT, tensor->name,
                     "tensor '%s' has a value that is not finite (NaN or infinity) at element %zu",
                     tensor->name, at);
}

static void count_block(struct load *load, size_t n_elements, size_t element_size)
{
    load->n_block_bytes += align_up(n_elements * element_size, 64);
}

static void count_matrix(struct load *load, const struct matrix *base, enum weight_type type)
{
    load->n_matrix_bytes += (uint64_t)base->n_out * base->n_in * weight_type_size(type);
}

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

static bool equals_matrix(const struct tensor *tensor, const struct site *site, bool *out, struct error *err)
{
    const struct matrix *base = site->weight;
    enum dtype type = dtype_of_weight(base->type);
    struct matrix *copy =
        matrix_from_tensor(tensor, site->is_conv1d, weight_type_of(tensor->dtype), true, err);
    char *row = copy ? malloc(base->n_in * 4) : NULL;
    float *wide = copy ? malloc(2 * base->n_in * sizeof *wide) : NULL;
    bool ok = row && wide;
    if (copy && !ok)
        error_no_memory(err);
    bool same = ok;
    for (size_t i = 0; same && i < base->n_out; i++) {
        const void *ours = matrix_row(base, i), *theirs = matrix_row(copy, i);
        dtype_to_f32(wide, theirs, tensor->dtype, base->n_in);
        dtype_from_f32(row, type, wide, base->n_in);
        if (memcmp(row, ours, base->n_in * dtype_size(type)) == 0)
            continue;
        dtype_to_f32(wide, ours, type, base->n_in);
        dtype_from_f32(row, tensor->dtype, wide, base->n_in);
        same = memcmp(row, theirs, base->n_in * dtype_size(tensor->dtype)) == 0;
    }
    free(row);
    free(wide);
    matrix_unref(copy);
    if (ok)
        *out = same;
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
        return refuse(err, tensor,
                      "has the shape %s, but the base's vocabulary is %zu: adapters with a resized "
                      "vocabulary are not served",
                      tensor_shape_text(tensor, shape, sizeof shape), n_rows);
    return check_shape(tensor, 2, n_rows, n_columns, err);
}

static bool drop_copy(struct load *load, const struct tensor *tensor, struct error *err)
{
    load->report->tensors_ignored++;
    return report_warn(load->report, err, "tensor '%s' is a copy of the base's and is not needed",
                       tensor->name);
}

static bool check_base_weight(struct load *load, const struct tensor *tensor, const struct site *site,
                              struct error *err)
{
    bool same = false;
    if (!check_matrix_shape(tensor, site, err) || !equals_matrix(tensor, site, &same, err))
        return false;
    if (!same)
        return refuse(
            err, tensor,
            "is a copy of the weight that the adapter was trained on, and it differs from the base's: "
            "the adapter belongs to another base");
    return drop_copy(load, tensor, err);
}

/* -- Which modules the config speaks of --------------------------------------------------- */

/* PEFT: a module is saved whole when its path ends with an entry, dots or not; or lies below such a one. */
static bool is_saved_module(const struct peft_config *config, const char *path)
{
    size_t n_path = strlen(path);
    for (size_t i = 0; i < config->n_modules_to_save; i++) {
        const char *entry = config->modules_to_save[i];
        size_t n = strlen(entry);
        for (size_t end = n_path; n > 0 && end >= n; end--) {
            bool is_boundary = end == n_path || path[end] == '.';
            if (is_boundary && memcmp(path + end - n, entry, n) == 0)
                return true;
        }
    }
    return false;
}

/* Under ensure_weight_tying the config names the embedding and means the head too. */
static bool follows_embedding(const struct load *load, size_t site)
{
    return load->config->ensure_weight_tying && is_tied(load->model) && site == load->model->head_site;
}

static const char *path_of(const struct load *load, size_t site)
{
    const char *path = load->matched.sites[site].path;
    return path ? path : load->model->sites[site].path;
}

static bool declares_saved(const struct load *load, size_t site)
{
    return is_saved_module(load->config, path_of(load, site)) ||
           (follows_embedding(load, site) &&
            is_saved_module(load->config, path_of(load, load->model->embedding_site)));
}

static bool targets(const struct load *load, size_t index, bool *out, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const char *model_type = load->model->config.model_type;
    if (!peft_config_targets(load->config, path_of(load, index), site->kind == SITE_LINEAR, model_type, out,
                             err))
        return false;
    if (*out || !follows_embedding(load, index))
        return true;
    return peft_config_targets(load->config, path_of(load, load->model->embedding_site), false, model_type,
                               out, err);
}

/* -- A low-rank pair ---------------------------------------------------------------------- */

static bool check_half(const struct tensor *here, const struct tensor *other, const char *missing,
                       struct error *err)
{
    return !here || other || refuse(err, here, "is half a pair: its %s is missing", missing);
}

/* Finds the two halves of site's pair among its parts: plan->a stays NULL when there is none. */
static bool find_pair(struct plan *plan, const struct matched_module *module, const struct site *site,
                      struct error *err)
{
    enum key_part a = is_table(site) ? KEY_EMBEDDING_A : KEY_A, b = is_table(site) ? KEY_EMBEDDING_B : KEY_B;
    const struct tensor *foreign = module->parts[is_table(site) ? KEY_A : KEY_EMBEDDING_A];
    if (!foreign)
        foreign = module->parts[is_table(site) ? KEY_B : KEY_EMBEDDING_B];
    if (foreign)
        return refuse(err, foreign,
                      is_table(site) ? "is for a linear map, but the base's module is an embedding"
                                     : "is for an embedding, but the base's module is a linear map");
    plan->a = module->parts[a];
    plan->b = module->parts[b];
    return check_half(plan->a, plan->b, is_table(site) ? "lora_embedding_B" : "lora_B", err) &&
           check_half(plan->b, plan->a, is_table(site) ? "lora_embedding_A" : "lora_A", err);
}

static bool check_pair_shapes(struct load *load, struct plan *plan, const struct site *site, size_t rank,
                              struct error *err)
{
    char shape[128];
    if (plan->a->n_dims != 2)
        return refuse(err, plan->a, "has the shape %s, but a matrix is needed",
                      tensor_shape_text(plan->a, shape, sizeof shape));
    if (plan->b->n_dims != 2)
        return refuse(err, plan->b, "has the shape %s, but a matrix is needed",
                      tensor_shape_text(plan->b, shape, sizeof shape));
    if (plan->a->shape[1] != site->n_in)
        return refuse(err, plan->a, "has the shape %s, but '%s' takes %zu inputs",
                      tensor_shape_text(plan->a, shape, sizeof shape), site->path, site->n_in);
    if (plan->b->shape[0] != site->n_out)
        return refuse(err, plan->b, "has the shape %s, but '%s' gives %zu outputs",
                      tensor_shape_text(plan->b, shape, sizeof shape), site->path, site->n_out);
    if (plan->a->shape[0] != plan->b->shape[1])
        return refuse(err, plan->a, "has the rank %zu, but its lora_B the rank %zu", plan->a->shape[0],
                      plan->b->shape[1]);
    if (plan->a->shape[0] != rank)
        return refuse(err, plan->a,
                      "has the rank %zu, but adapter_config.json says %zu: the scale would be unknown",
                      plan->a->shape[0], rank);
    if (rank > LIMIT_RANK)
        return error_set(err, ERROR_TOO_LARGE, plan->a->name,
                         "tensor '%s' has the rank %zu; at most %d is served", plan->a->name, rank,
                         LIMIT_RANK);
    (void)load;
    return true;
}

static bool check_scale(struct load *load, struct plan *plan, const struct site *site, struct error *err)
{
    plan->scale = peft_config_scale(load->config, plan->rank, plan->alpha);
    if (!isfinite((float)plan->scale))
        return error_set(err, ERROR_BAD_INPUT, "lora_alpha",
                         "%g at rank %zu gives a scale that is not finite (%s)", plan->alpha, plan->rank,
                         site->path);
    if ((float)plan->scale == 0)
        return report_warn(load->report, err, "%s: lora_alpha %g gives the scale 0: the pair has no effect",
                           site->path, plan->alpha);
    return true;
}

static bool check_pair_extras(struct load *load, struct plan *plan, const struct matched_module *module,
                              const struct site *site, struct error *err)
{
    const struct tensor *bias = module->parts[KEY_B_BIAS], *magnitude = module->parts[KEY_MAGNITUDE];
    if (!!bias != load->config->lora_bias)
        return bias ? refuse(err, bias, "is a bias of B, but lora_bias is not set")
                    : refuse(err, plan->b, "has no lora_B.bias beside it, but lora_bias is set");
    if (!!magnitude != load->config->use_dora)
        return magnitude
                   ? refuse(err, magnitude, "is DoRA's, but use_dora is not set")
                   : refuse(err, plan->a, "has no lora_magnitude_vector beside it, but use_dora is set");
    if (bias && load->config->use_dora)
        return refuse(err, bias, "and use_dora exclude each other");
    plan->b_bias = bias;
    plan->magnitude = magnitude;
    return (!bias || (check_shape(bias, 1, site->n_out, 0, err) && check_finite(bias, err))) &&
           (!magnitude || (check_shape(magnitude, 1, site->n_out, 0, err) && check_finite(magnitude, err)));
}

static void count_pair(struct load *load, const struct plan *plan, const struct site *site)
{
    size_t size = weight_type_size(plan->type);
    count_block(load, plan->rank * site->n_in, size);
    count_block(load, plan->rank * site->n_out, size);
    if (plan->b_bias)
        count_block(load, site->n_out, sizeof(float));
    if (plan->magnitude)
        count_block(load, site->n_out, sizeof(float));
}

static bool check_pair(struct load *load, size_t index, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const struct matched_module *module = &load->matched.sites[index];
    struct plan *plan = &load->plans[index];
    bool is_targeted;
    size_t rank;
    if (!find_pair(plan, module, site, err))
        return false;
    if (!plan->a) {
        const struct tensor *alone =
            module->parts[KEY_MAGNITUDE] ? module->parts[KEY_MAGNITUDE] : module->parts[KEY_B_BIAS];
        return !alone || refuse(err, alone, "stands alone, without a pair lora_A and lora_B");
    }
    if (!targets(load, index, &is_targeted, err))
        return false;
    if (!is_targeted)
        return refuse(
            err, plan->a,
            "is for a module that target_modules, exclude_modules and layers_to_transform leave out: "
            "it would change what the adapter was trained to be");
    if (!peft_config_rank_alpha(load->config, module->path, &rank, &plan->alpha, err) ||
        !check_pair_shapes(load, plan, site, rank, err))
        return false;
    plan->rank = rank;
    plan->type = plan->a->dtype == plan->b->dtype ? weight_type_of(plan->a->dtype) : WEIGHT_F32;
    if (!check_finite(plan->a, err) || !check_finite(plan->b, err) || !check_scale(load, plan, site, err) ||
        !check_pair_extras(load, plan, module, site, err))
        return false;
    count_pair(load, plan, site);
    return true;
}

/* ensure_weight_tying without the head's own tensors: the head is the embedding's transpose, so is its delta.
 */
static bool mirror_embedding(struct load *load, struct error *err)
{
    const struct model *model = load->model;
    const struct plan *embedding = &load->plans[model->embedding_site];
    struct plan *head = &load->plans[model->head_site];
    if (!load->config->ensure_weight_tying || !is_tied(model) || head->a || head->weight)
        return true;
    if (embedding->weight) {
        head->weight = embedding->weight;
        head->shares_weight_of = model->embedding_site;
    }
    if (!embedding->a)
        return true;
    if (embedding->magnitude)
        return refuse(err, embedding->magnitude,
                      "would need one for the tied head too (ensure_weight_tying with use_dora)");
    *head = *embedding;
    head->is_mirrored = true;
    count_pair(load, head, &model->sites[model->head_site]);
    return true;
}

/* -- Whole weights, biases, rows ---------------------------------------------------------- */

static bool check_weight(struct load *load, size_t index, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const struct tensor *weight = load->matched.sites[index].parts[KEY_WEIGHT];
    bool same = false;
    if (!weight)
        return true;
    if (!check_matrix_shape(weight, site, err))
        return false;
    if (!declares_saved(load, index)) {
        if (!equals_matrix(weight, site, &same, err))
            return false;
        return same ? drop_copy(load, weight, err)
                    : refuse(err, weight, "replaces a whole module that modules_to_save does not name");
    }
    if (load->plans[index].a)
        return refuse(err, weight, "replaces a module that has a low-rank pair too");
    if (!check_finite(weight, err))
        return false;
    load->plans[index].weight = weight;
    count_matrix(load, site->weight, weight_type_of(weight->dtype));
    return true;
}

static bool is_bias_declared(const struct load *load, const char *path, bool is_norm, bool is_targeted)
{
    if (is_saved_module(load->config, path) || load->config->bias == PEFT_BIAS_ALL)
        return true;
    return load->config->bias == PEFT_BIAS_LORA_ONLY && !is_norm && is_targeted;
}

/* *used_out false: a copy of the base's that is not needed. */
static bool check_bias(struct load *load, const struct tensor *bias, const char *path, const float *base,
                       size_t n, bool is_declared, bool *used_out, struct error *err)
{
    *used_out = false;
    if (!base)
        return refuse(err, bias, "is a bias, but the base's '%s' has none", path);
    if (!check_shape(bias, 1, n, 0, err))
        return false;
    if (!is_declared)
        return equals_vector(bias, base, n)
                   ? drop_copy(load, bias, err)
                   : refuse(err, bias,
                            "replaces a bias, but the config's \"bias\" and modules_to_save do not say so");
    load->n_bias_tensors++;
    *used_out = true;
    return check_finite(bias, err);
}

static bool check_site_bias(struct load *load, size_t index, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const struct tensor *bias = load->matched.sites[index].parts[KEY_BIAS];
    bool is_declared, is_used;
    if (!bias)
        return true;
    is_declared = is_bias_declared(load, path_of(load, index), false, load->plans[index].a != NULL);
    if (!check_bias(load, bias, site->path, site->bias, site->n_out, is_declared, &is_used, err))
        return false;
    if (is_used) {
        load->plans[index].bias = bias;
        count_block(load, site->n_out, sizeof(float));
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
        if (indices->module ? names_module(indices->module, path_of(load, site))
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

static bool check_tokens(struct load *load, size_t index, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const struct tensor *tokens = load->matched.sites[index].parts[KEY_TOKENS];
    const struct peft_token_indices *indices = find_indices(load, index);
    struct plan *plan = &load->plans[index];
    char shape[128];
    if (!tokens)
        return true;
    if (index != load->model->embedding_site && index != load->model->head_site)
        return refuse(err, tokens, "replaces rows of '%s', which is neither the embedding nor the head",
                      site->path);
    if (!indices)
        return refuse(err, tokens, "replaces rows, but trainable_token_indices does not say which");
    if (!check_indices(load, indices, err))
        return false;
    if (tokens->n_dims != 2 || tokens->shape[0] != indices->n_indices)
        return refuse(err, tokens, "has the shape %s, but trainable_token_indices has %zu entries",
                      tensor_shape_text(tokens, shape, sizeof shape), indices->n_indices);
    if (!check_shape(tokens, 2, indices->n_indices, site->weight->n_in, err) || !check_finite(tokens, err))
        return false;
    if (plan->a || plan->weight)
        return refuse(err, tokens,
                      "replaces rows of a module that has a low-rank pair or is replaced whole too");
    plan->tokens = tokens;
    plan->indices = indices;
    count_matrix(load, site->weight, site->weight->type);
    return true;
}

/* Rows that were trained in a tied embedding are the head's too, unless it has its own. */
static bool share_tokens(struct load *load, struct error *err)
{
    const struct model *model = load->model;
    struct plan *embedding = &load->plans[model->embedding_site], *head = &load->plans[model->head_site];
    struct plan *from = embedding->tokens ? embedding : head, *to = embedding->tokens ? head : embedding;
    if (!is_tied(model) || !from->tokens || to->tokens)
        return true;
    if (to->weight)
        return refuse(err, to->weight,
                      "and trainable_token_indices both replace the tied embedding and head");
    to->indices = from->indices;
    to->shares_weight_of = from == embedding ? model->embedding_site : model->head_site;
    return true;
}

/* Each entry of trainable_token_indices must have had its tensor; a tied head's may be the embedding's. */
static bool check_indices_used(struct load *load, struct error *err)
{
    const struct model *model = load->model;
    for (size_t i = 0; i < load->config->n_token_indices; i++) {
        const struct peft_token_indices *indices = &load->config->token_indices[i];
        bool is_used = load->plans[model->embedding_site].indices == indices ||
                       load->plans[model->head_site].indices == indices;
        bool is_head = indices->module && names_module(indices->module, path_of(load, model->head_site));
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

static bool check_norm(struct load *load, size_t index, struct error *err)
{
    const struct norm *norm = &load->model->norms[index];
    const struct matched_module *module = &load->matched.norms[index];
    const struct tensor *weight = module->parts[KEY_WEIGHT], *bias = module->parts[KEY_BIAS];
    bool is_used;
    for (size_t part = 0; part < N_KEY_PARTS; part++)
        if (module->parts[part] && part != KEY_WEIGHT && part != KEY_BIAS)
            return refuse(err, module->parts[part], "is for a norm, which has no such part");
    if (weight) {
        if (!check_shape(weight, 1, norm->n, 0, err))
            return false;
        if (is_saved_module(load->config, module->path)) {
            if (!check_finite(weight, err))
                return false;
            load->norm_weights[index] = weight;
            count_block(load, norm->n, sizeof(float));
        } else if (!equals_vector(weight, norm->weight, norm->n)) {
            return refuse(err, weight, "replaces a whole module that modules_to_save does not name");
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
        count_block(load, norm->n, sizeof(float));
    }
    return true;
}

/* -- All of it ----------------------------------------------------------------------------- */

static bool plan_changes(const struct plan *plan)
{
    return plan->a || plan->weight || plan->bias || plan->tokens || plan->shares_weight_of != SIZE_MAX;
}

static bool check_site(struct load *load, size_t index, struct error *err)
{
    const struct tensor *base = load->matched.sites[index].parts[KEY_BASE_WEIGHT];
    return check_pair(load, index, err) &&
           (!base || check_base_weight(load, base, &load->model->sites[index], err)) &&
           check_weight(load, index, err) && check_site_bias(load, index, err) &&
           check_tokens(load, index, err);
}

static bool warn_untouched_targets(struct load *load, struct error *err)
{
    char names[400] = "";
    size_t n_missing = 0;
    for (size_t i = 0; i < load->model->n_sites; i++) {
        const struct plan *plan = &load->plans[i];
        bool is_targeted;
        if (plan->a || plan->weight || is_saved_module(load->config, load->model->sites[i].path))
            continue;
        if (!targets(load, i, &is_targeted, err))
            return false;
        if (!is_targeted)
            continue;
        size_t n = strlen(names);
        if (n_missing++ < 3)
            snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", load->model->sites[i].path);
    }
    return n_missing == 0 || report_warn(load->report, err,
                                         "the config targets %zu modules that the file has nothing for: %s%s",
                                         n_missing, names, n_missing > 3 ? ", ..." : "");
}

static bool warn_lost_biases(struct load *load, struct error *err)
{
    bool has_bias = false;
    if (load->config->bias == PEFT_BIAS_NONE || load->n_bias_tensors > 0)
        return true;
    for (size_t i = 0; i < load->model->n_sites; i++)
        has_bias |= load->model->sites[i].bias && (load->plans[i].a || load->config->bias == PEFT_BIAS_ALL);
    return !has_bias ||
           report_warn(load->report, err,
                       "the config says that biases were trained, but the file has none (some PEFT releases "
                       "did not save them): the base's serve, so answers differ from training");
}

static bool check_all(struct load *load, struct error *err)
{
    const struct model *model = load->model;
    for (size_t i = 0; i < model->n_sites; i++)
        if (!check_site(load, i, err))
            return false;
    for (size_t i = 0; i < model->n_norms; i++)
        if (!check_norm(load, i, err))
            return false;
    if (!mirror_embedding(load, err) || !share_tokens(load, err) || !check_indices_used(load, err))
        return false;
    for (size_t i = 0; i < model->n_sites; i++)
        load->n_sites += plan_changes(&load->plans[i]);
    for (size_t i = 0; i < model->n_norms; i++)
        load->n_norms += load->norm_weights[i] || load->norm_biases[i];
    if (load->n_sites + load->n_norms == 0)
        return error_set(err, ERROR_MISMATCH, "adapter_model.safetensors",
                         "the file has no tensor that changes the base");
    return warn_untouched_targets(load, err) && warn_lost_biases(load, err);
}

static bool check_memory(struct load *load, uint64_t memory_limit, struct error *err)
{
    load->n_block_bytes += align_up(load->n_sites * sizeof(struct adapter_site), 64) +
                           align_up(load->n_norms * sizeof(struct adapter_norm), 64);
    uint64_t n_bytes = sizeof(struct adapter) + load->n_block_bytes + load->n_matrix_bytes +
                       load->n_sites * sizeof(struct lorad_site_report);
    if (n_bytes > memory_limit)
        return error_set(err, ERROR_TOO_LARGE, "adapter_memory",
                         "the adapter needs %llu bytes of memory, and %llu are free",
                         (unsigned long long)n_bytes, (unsigned long long)memory_limit);
    load->adapter->resident_bytes = n_bytes;
    return true;
}

/* -- Packing ------------------------------------------------------------------------------- */

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

static bool pack_all(struct load *load, struct error *err)
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

/* -- What it is ---------------------------------------------------------------------------- */

static const char *find_obstacle(const struct load *load)
{
    const struct adapter *adapter = load->adapter;
    const char *obstacle = NULL;
    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct plan *plan = &load->plans[adapter->sites[i].site];
        if (plan->magnitude)
            return "uses DoRA (use_dora)";
        if (plan->weight)
            obstacle = "replaces whole modules (modules_to_save)";
        else if (adapter->sites[i].weight && !obstacle)
            obstacle = "replaces rows of the embedding (trainable_token_indices)";
        else if (plan->bias && !obstacle)
            obstacle = "replaces biases (bias)";
    }
    for (size_t i = 0; i < load->model->n_norms && !obstacle; i++)
        if (load->norm_weights[i])
            obstacle = "replaces whole modules (modules_to_save)";
        else if (load->norm_biases[i])
            obstacle = "replaces biases (bias)";
    return obstacle;
}

static bool report_sites(struct load *load, struct error *err)
{
    struct adapter *adapter = load->adapter;
    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct adapter_site *site = &adapter->sites[i];
        const struct plan *plan = &load->plans[site->site];
        const struct site *base = &load->model->sites[site->site];
        struct lorad_site_report *out = report_add_site(load->report, adapter->n_sites, err);
        if (!out)
            return false;
        *out = (struct lorad_site_report){.rank = plan->rank,
                                          .alpha = plan->alpha,
                                          .scale = plan->scale,
                                          .n_out = base->n_out,
                                          .n_in = base->n_in,
                                          .dora = plan->magnitude,
                                          .replaced = site->weight,
                                          .bias = plan->bias || plan->b_bias};
        snprintf(out->site, sizeof out->site, "%s", base->path);
        if (plan->rank > 0) {
            adapter->rank_min = adapter->rank_min ? size_min(adapter->rank_min, plan->rank) : plan->rank;
            adapter->rank_max = size_max(adapter->rank_max, plan->rank);
        }
    }
    return true;
}

static bool describe(struct load *load, const char *digest, uint64_t began_us, struct error *err)
{
    struct adapter *adapter = load->adapter;
    struct lorad_load_report *report = load->report;
    if (!report_sites(load, err))
        return false;
    adapter->not_plain_because = find_obstacle(load);
    adapter->is_plain = adapter->not_plain_because == NULL;
    adapter->alpha = load->config->alpha;
    adapter->use_dora = load->config->use_dora;
    adapter->use_rslora = load->config->use_rslora;
    memcpy(adapter->digest, digest, sizeof adapter->digest);
    memcpy(report->digest, digest, sizeof report->digest);
    report->n_norms = adapter->n_norms;
    report->rank_min = adapter->rank_min;
    report->rank_max = adapter->rank_max;
    report->n_parameters = adapter->n_parameters;
    report->resident_bytes = adapter->resident_bytes;
    report->tensors_applied = report->tensors_present - report->tensors_ignored;
    report->load_ms = (double)(clock_now_us() - began_us) / 1000;
    return true;
}

static bool allocate_plans(struct load *load, struct error *err)
{
    const struct model *model = load->model;
    load->plans = arena_allocate_array(&load->scratch, model->n_sites, sizeof *load->plans);
    load->norm_weights = arena_allocate_array(&load->scratch, model->n_norms, sizeof *load->norm_weights);
    load->norm_biases = arena_allocate_array(&load->scratch, model->n_norms, sizeof *load->norm_biases);
    if (!load->plans || !load->norm_weights || !load->norm_biases)
        return error_no_memory(err);
    for (size_t i = 0; i < model->n_sites; i++)
        load->plans[i].shares_weight_of = SIZE_MAX;
    return true;
}

static bool copy_config_warnings(struct load *load, struct error *err)
{
    for (size_t i = 0; i < load->config->n_warnings; i++)
        if (!report_warn(load->report, err, "%s", load->config->warnings[i]))
            return false;
    return true;
}

static bool load_opened(struct load *load, const struct peft_directory *files, bool allow_other_heads,
                        uint64_t memory_limit, uint64_t began_us, struct error *err)
{
    if (files->tensors.n_tensors == 0)
        return error_set(err, ERROR_MISMATCH, "adapter_model.safetensors", "the file has no tensor at all");
    return copy_config_warnings(load, err) && allocate_plans(load, err) &&
           adapter_match(&load->matched, load->model, &files->tensors, allow_other_heads, load->report,
                         &load->scratch, err) &&
           check_all(load, err) && check_memory(load, memory_limit, err) && pack_all(load, err) &&
           describe(load, files->digest, began_us, err);
}

/* The weights file may hold copies of the embedding and head beside what stays resident. */
static size_t file_limit(const struct model *model, uint64_t memory_limit)
{
    uint64_t table = (uint64_t)model->config.n_vocab * model->config.d_model * sizeof(float);
    uint64_t slack = 4 * table + LIMIT_ADAPTER_HEADER_BYTES;
    return memory_limit > SIZE_MAX - slack ? 0 : (size_t)(memory_limit + slack);
}

struct adapter *adapter_load(const char *directory, const struct model *model, bool allow_other_heads,
                             uint64_t memory_limit, struct error *err)
{
    struct peft_directory files = {0};
    struct load load = {.model = model, .config = &files.config};
    uint64_t began_us = clock_now_us();
    if (!peft_directory_open(&files, directory, allow_other_heads, file_limit(model, memory_limit), err))
        return NULL;
    arena_init(&load.scratch, 1 << 16);
    struct adapter *adapter = calloc(1, sizeof *adapter);
    bool ok = adapter || error_no_memory(err);
    if (adapter) {
        ref_init(&adapter->ref);
        adapter->model = model;
        adapter->dispose = adapter_destroy;
        load.adapter = adapter;
        load.report = &adapter->report;
        ok = load_opened(&load, &files, allow_other_heads, memory_limit, began_us, err);
    }
    arena_finish(&load.scratch);
    peft_directory_close(&files);
    if (ok)
        return adapter;
    adapter_destroy(adapter);
    return NULL;
}
