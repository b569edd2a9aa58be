/*
 * inspect.c - what a model or adapter directory is, as JSON; and whether an adapter fits a base.
 *
 * An adapter that does not fit is an answer, not a failure: {"fits": false, "problem": {...}}.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "formats/peft_config.h"
#include "lora/adapter.h"
#include "lorad/lorad_internal.h"

static json_t *json_size(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static bool has_file(const char *directory, const char *name)
{
    char *path = path_join(directory, name);
    bool found = path && file_exists(path);
    free(path);
    return found;
}

static json_t *describe_problem(const struct error *err)
{
    return json_pack("{s:s, s:s, s:s}", "code", error_code_name(err->code), "param", err->param, "message",
                     err->message);
}

static json_t *describe_texts(const char *const *texts, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_string(texts[i]));
    return array;
}

/* -- A model ----------------------------------------------------------------------------- */

static uint64_t linear_parameters(const struct model *model)
{
    uint64_t n = 0;
    for (size_t i = 0; i < model->n_sites; i++)
        if (model->sites[i].kind == SITE_LINEAR)
            n += (uint64_t)model->sites[i].n_in * model->sites[i].n_out;
    return n;
}

static json_t *describe_linear_sites(const struct model *model)
{
    json_t *sites = json_array();
    for (size_t i = 0; i < model->n_sites; i++) {
        const struct site *site = &model->sites[i];
        if (site->kind == SITE_LINEAR && site->layer > 0)
            continue; /* all layers have the same shapes */
        json_array_append_new(sites, json_pack("{s:s, s:o, s:o, s:b, s:b}", "site", site->path, "n_out",
                                               json_size(site->n_out), "n_in", json_size(site->n_in), "bias",
                                               site->bias != NULL, "conv1d", site->is_conv1d));
    }
    return sites;
}

static json_t *describe_model(const struct model *model)
{
    const struct model_config *config = &model->config;
    json_t *out = json_pack("{s:s, s:s, s:s, s:b}", "kind", "model", "family", family_name(config->family), "weights",
                            model->weights_name, "tied_head", config->tied_head);
    json_object_set_new(out, "n_parameters", json_size(model->n_parameters));
    json_object_set_new(out, "n_linear_parameters", json_size(linear_parameters(model)));
    json_object_set_new(out, "weight_bytes", json_size(model->weight_bytes));
    json_object_set_new(out, "n_layers", json_size(config->n_layers));
    json_object_set_new(out, "d_model", json_size(config->d_model));
    json_object_set_new(out, "d_ffn", json_size(config->d_ffn));
    json_object_set_new(out, "n_heads", json_size(config->n_heads));
    json_object_set_new(out, "n_kv_heads", json_size(config->n_kv_heads));
    json_object_set_new(out, "d_head", json_size(config->d_head));
    json_object_set_new(out, "n_vocab", json_size(config->n_vocab));
    json_object_set_new(out, "max_positions", json_size(config->max_positions));
    /* In 16 bits, as it is unless asked otherwise. */
    json_object_set_new(out, "kv_bytes_per_token", json_size(kv_block_bytes(model, WEIGHT_BF16) / KV_BLOCK_TOKENS));
    json_object_set_new(out, "sites", describe_linear_sites(model));
    json_object_set_new(out, "warnings", describe_texts(model->warnings, model->n_warnings));
    return out;
}

/* -- An adapter -------------------------------------------------------------------------- */

static json_t *describe_config(const struct peft_config *config)
{
    json_t *targets = NULL;
    if (config->target_modules.regex)
        targets = json_string(config->target_modules.regex);
    else
        targets = describe_texts(config->target_modules.names, config->target_modules.n_names);
    json_t *out = json_pack("{s:o, s:f, s:b, s:b, s:b}", "r", json_size(config->rank), "lora_alpha", config->alpha,
                            "use_rslora", config->use_rslora, "use_dora", config->use_dora, "lora_bias",
                            config->lora_bias);
    json_object_set_new(out, "target_modules", config->target_modules.is_all_linear ? json_string("all-linear") : targets);
    if (config->target_modules.is_all_linear)
        json_decref(targets);
    json_object_set_new(out, "modules_to_save", describe_texts(config->modules_to_save, config->n_modules_to_save));
    json_object_set_new(out, "base_model_name_or_path",
                        config->base_model_name ? json_string(config->base_model_name) : json_null());
    json_object_set_new(out, "peft_version", config->peft_version ? json_string(config->peft_version) : json_null());
    json_object_set_new(out, "warnings", describe_texts(config->warnings, config->n_warnings));
    return out;
}

static json_t *describe_tensors(const struct tensor_file *file)
{
    char shape[128];
    json_t *out = json_array();
    for (size_t i = 0; i < file->n_tensors; i++) {
        const struct tensor *tensor = &file->tensors[i];
        json_array_append_new(out, json_pack("{s:s, s:s, s:s}", "name", tensor->name, "dtype",
                                             dtype_name(tensor->dtype), "shape",
                                             tensor_shape_text(tensor, shape, sizeof shape)));
    }
    return out;
}

/* What the files say by themselves, without a base. */
static json_t *describe_adapter_files(const char *directory, struct error *err)
{
    struct buffer text;
    struct peft_config config = {0};
    struct tensor_file file = {0};
    json_t *out = NULL;
    char *config_path = path_join(directory, "adapter_config.json");
    char *weights_path = path_join(directory, "adapter_model.safetensors");
    buffer_init(&text, LIMIT_CONFIG_BYTES);
    if (!config_path || !weights_path) {
        error_no_memory(err);
        goto done;
    }
    if (!file_read_text(&text, config_path, LIMIT_CONFIG_BYTES, err) ||
        !peft_config_parse(&config, text.data, text.n_bytes, true, err))
        goto done;
    if (!safetensors_open(&file, weights_path, &TENSOR_FILE_ADAPTER, err))
        goto done;
    out = json_pack("{s:s}", "kind", "adapter");
    json_object_set_new(out, "config", describe_config(&config));
    json_object_set_new(out, "tensors", describe_tensors(&file));
done:
    tensor_file_close(&file);
    peft_config_finish(&config);
    buffer_finish(&text);
    free(config_path);
    free(weights_path);
    return out;
}

static json_t *describe_report(const struct lorad_load_report *report, const struct model *model)
{
    json_t *sites = json_array();
    json_t *out = json_object();
    for (size_t i = 0; i < report->n_sites; i++) {
        const struct lorad_site_report *site = &report->sites[i];
        uint64_t full = (uint64_t)site->n_in * site->n_out;
        uint64_t trained = (uint64_t)site->rank * (site->n_in + site->n_out);
        json_array_append_new(
            sites, json_pack("{s:s, s:o, s:f, s:f, s:o, s:o, s:b, s:b, s:b}", "site", site->site, "rank",
                             json_size(site->rank), "alpha", site->alpha, "scale", site->scale, "parameters",
                             json_size(trained), "base_parameters", json_size(full), "dora", site->dora, "replaced",
                             site->replaced, "bias", site->bias));
    }
    json_object_set_new(out, "sha256", json_string(report->digest));
    json_object_set_new(out, "tensors_present", json_size(report->tensors_present));
    json_object_set_new(out, "tensors_applied", json_size(report->tensors_applied));
    json_object_set_new(out, "tensors_ignored", json_size(report->tensors_ignored));
    json_object_set_new(out, "rank_min", json_size(report->rank_min));
    json_object_set_new(out, "rank_max", json_size(report->rank_max));
    json_object_set_new(out, "n_parameters", json_size(report->n_parameters));
    json_object_set_new(out, "base_n_parameters", json_size(model->n_parameters));
    json_object_set_new(out, "resident_bytes", json_size(report->resident_bytes));
    json_object_set_new(out, "sites", sites);
    json_object_set_new(out, "warnings", describe_texts((const char *const *)report->warnings, report->n_warnings));
    return out;
}

/* With a base: what loading would do. */
static bool describe_fit(json_t *out, const char *directory, const char *base_path, bool *fits_out, struct error *err)
{
    struct lorad_options options = {.model_path = base_path};
    struct error problem = {0};
    const struct kernels *kernels;
    struct model *model = open_model(&options, &kernels, err);
    if (!model)
        return false;
    struct adapter *adapter = adapter_load(directory, model, false, UINT64_MAX, &problem);
    *fits_out = adapter != NULL;
    json_object_set_new(out, "base", json_string(base_path));
    json_object_set_new(out, "fits", json_boolean(adapter != NULL));
    if (adapter)
        json_object_set_new(out, "report", describe_report(&adapter->report, model));
    else
        json_object_set_new(out, "problem", describe_problem(&problem));
    adapter_unref(adapter);
    model_destroy(model);
    return true;
}

static json_t *inspect_adapter(const char *path, const char *base_path, bool *fits_out, struct error *err)
{
    struct error problem = {0};
    json_t *out = describe_adapter_files(path, &problem);
    if (!out && !base_path) {
        if (err)
            *err = problem;
        return NULL;
    }
    if (!out) /* still tell why it does not fit */
        out = json_pack("{s:s}", "kind", "adapter");
    if (base_path && !describe_fit(out, path, base_path, fits_out, err)) {
        json_decref(out);
        return NULL;
    }
    return out;
}

static json_t *inspect_model(const char *path, struct error *err)
{
    struct lorad_options options = {.model_path = path};
    const struct kernels *kernels;
    struct model *model = open_model(&options, &kernels, err);
    if (!model)
        return NULL;
    json_t *out = describe_model(model);
    model_destroy(model);
    return out;
}

char *lorad_inspect(const char *path, const char *base_path, bool *fits_out, struct error *err)
{
    bool is_adapter = has_file(path, "adapter_config.json");
    json_t *out = NULL;
    *fits_out = true;
    if (is_adapter || base_path)
        out = inspect_adapter(path, base_path, fits_out, err);
    else if (has_file(path, "config.json"))
        out = inspect_model(path, err);
    else
        error_set(err, ERROR_NOT_FOUND, NULL, "'%s' holds neither adapter_config.json nor config.json", path);
    if (!out)
        return NULL;
    json_object_set_new(out, "path", json_string(path));
    char *text = json_dumps(out, JSON_INDENT(2));
    json_decref(out);
    if (!text)
        error_no_memory(err);
    return text;
}
