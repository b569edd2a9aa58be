/*
 * adapter_check.c - does the adapter fit the base? What all checks share, which modules the config speaks of, and the
 * order in which everything is looked at.
 */
#include "lora/adapter_load.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "lora/report.h"

bool load_refuse(struct error *err, const struct tensor *tensor, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_set(err, ERROR_MISMATCH, tensor->name, "tensor '%s' %s", tensor->name, text);
}

bool load_check_shape(const struct tensor *tensor, size_t n_dims, size_t n_first, size_t n_second,
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
    return load_refuse(err, tensor, "has the shape %s, but the base needs %s",
                  tensor_shape_text(tensor, shape, sizeof shape), expected);
}

bool load_check_finite(const struct tensor *tensor, struct error *err)
{
    size_t at = dtype_find_not_finite(tensor->data, tensor->dtype, tensor->n_elements);
    if (at == tensor->n_elements)
        return true;
    return error_set(err, ERROR_BAD_INPUT, tensor->name,
                     "tensor '%s' has a value that is not finite (NaN or infinity) at element %zu",
                     tensor->name, at);
}

/* As the arena does: also nothing takes a line. */
void load_count_block(struct load *load, size_t n_elements, size_t element_size)
{
    load->n_block_bytes += align_up(size_max(n_elements * element_size, 1), 64);
}

void load_count_matrix(struct load *load, const struct site *site, enum weight_type type)
{
    load->n_matrix_bytes += matrix_layout_bytes(type, site_layout(site), site->weight->n_out, site->weight->n_in);
}

/* -- Which modules the config speaks of --------------------------------------------------- */

/* PEFT: a module is saved whole when its path ends with an entry, dots or not; or lies below such a one. */
bool load_saves_module(const struct peft_config *config, const char *path)
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

const char *load_path_of(const struct load *load, size_t site)
{
    const char *path = load->matched.sites[site].path;
    return path ? path : load->model->sites[site].path;
}

bool load_declares_saved(const struct load *load, size_t site)
{
    return load_saves_module(load->config, load_path_of(load, site)) ||
           (follows_embedding(load, site) &&
            load_saves_module(load->config, load_path_of(load, load->model->embedding_site)));
}

bool load_targets(const struct load *load, size_t index, bool *out, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const char *model_type = load->model->config.model_type;
    if (!peft_config_targets(load->config, load_path_of(load, index), site->kind == SITE_LINEAR, model_type, out,
                             err))
        return false;
    if (*out || !follows_embedding(load, index))
        return true;
    return peft_config_targets(load->config, load_path_of(load, load->model->embedding_site), false, model_type,
                               out, err);
}

/* -- All of it ----------------------------------------------------------------------------- */

static bool check_site(struct load *load, size_t index, struct error *err)
{
    const struct tensor *base = load->matched.sites[index].parts[KEY_BASE_WEIGHT];
    return load_check_pair(load, index, err) &&
           (!base || load_check_base_weight(load, base, &load->model->sites[index], err)) &&
           load_check_weight(load, index, err) && load_check_bias(load, index, err) &&
           load_check_tokens(load, index, err);
}

static bool warn_untouched_targets(struct load *load, struct error *err)
{
    char names[400] = "";
    size_t n_missing = 0;
    for (size_t i = 0; i < load->model->n_sites; i++) {
        const struct plan *plan = &load->plans[i];
        bool is_targeted;
        if (plan->a || plan->weight || load_saves_module(load->config, load->model->sites[i].path))
            continue;
        if (!load_targets(load, i, &is_targeted, err))
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

bool load_check_all(struct load *load, struct error *err)
{
    const struct model *model = load->model;
    for (size_t i = 0; i < model->n_sites; i++)
        if (!check_site(load, i, err))
            return false;
    for (size_t i = 0; i < model->n_norms; i++)
        if (!load_check_norm(load, i, err))
            return false;
    if (!load_mirror_embedding(load, err) || !load_share_tokens(load, err) || !load_check_indices_used(load, err))
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
