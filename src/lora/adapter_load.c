/*
 * adapter_load.c - a PEFT directory -> an adapter.
 *
 * Two passes over the matched modules. The first checks everything (config, shapes, values, equality of
 * copies) and counts the bytes; the second allocates one block and copies, and computes what DoRA needs. The file's
 * bytes are gone when this returns.
 */
#include "lora/adapter_load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "lora/compose.h"
#include "lora/peft_directory.h"
#include "lora/report.h"

static bool make_room(struct load *load, struct error *err)
{
    load_count_block(load, load->n_sites, sizeof(struct adapter_site));
    load_count_block(load, load->n_norms, sizeof(struct adapter_norm));
    uint64_t n_bytes = sizeof(struct adapter) + load->n_block_bytes + load->n_matrix_bytes +
                       load->n_sites * sizeof(struct lorad_site_report) +
                       compose_bytes(load->model, load->n_sites); /* requests use it through a view of its own */
    load->adapter->resident_bytes = n_bytes;
    return load->room->make(load->room->context, n_bytes, err);
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
                        uint64_t began_us, struct error *err)
{
    if (files->tensors.n_tensors == 0)
        return error_set(err, ERROR_MISMATCH, "adapter_model.safetensors", "the file has no tensor at all");
    return copy_config_warnings(load, err) && allocate_plans(load, err) &&
           adapter_match(&load->matched, load->model, &files->tensors, allow_other_heads, load->report,
                         &load->scratch, err) &&
           load_check_all(load, err) && make_room(load, err) && load_pack_all(load, err) &&
           describe(load, files->digest, began_us, err);
}

/* The weights file may hold copies of the embedding and head beside what stays resident. */
size_t adapter_file_limit(const struct model *model, uint64_t memory_limit)
{
    uint64_t table = (uint64_t)model->config.n_vocab * model->config.d_model * sizeof(float);
    uint64_t slack = 4 * table + LIMIT_ADAPTER_HEADER_BYTES;
    return memory_limit > SIZE_MAX - slack ? 0 : (size_t)(memory_limit + slack);
}

struct adapter *adapter_load_into(const char *directory, const struct model *model, bool allow_other_heads, size_t file_limit,
                                  const struct adapter_room *room, struct error *err)
{
    struct peft_directory files = {0};
    struct load load = {.model = model, .config = &files.config, .room = room};
    uint64_t began_us = clock_now_us();
    if (!peft_directory_open(&files, directory, allow_other_heads, file_limit, err))
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
        ok = load_opened(&load, &files, allow_other_heads, began_us, err);
    }
    arena_finish(&load.scratch);
    peft_directory_close(&files);
    if (ok)
        return adapter;
    adapter_destroy(adapter);
    return NULL;
}

static bool check_limit(void *context, uint64_t n_bytes, struct error *err)
{
    const uint64_t *memory_limit = context;
    if (n_bytes <= *memory_limit)
        return true;
    return error_set(err, ERROR_TOO_LARGE, "adapter_memory", "the adapter needs %llu bytes of memory, and %llu are free",
                     (unsigned long long)n_bytes, (unsigned long long)*memory_limit);
}

struct adapter *adapter_load(const char *directory, const struct model *model, bool allow_other_heads,
                             uint64_t memory_limit, struct error *err)
{
    const struct adapter_room room = {.make = check_limit, .context = &memory_limit};
    return adapter_load_into(directory, model, allow_other_heads, adapter_file_limit(model, memory_limit), &room, err);
}
