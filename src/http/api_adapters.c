/*
 * api_adapters.c - /v1/adapters: list, load, replace, unload, merge.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/reply.h"
#include "http/router.h"
#include "http/upload.h"

static const char *mode_name(enum lorad_mode mode)
{
    static const char *const names[] = {"auto", "on_the_fly", "merged"};
    return names[mode];
}

static bool mode_from_name(const char *name, enum lorad_mode *out)
{
    for (int i = LORAD_MODE_AUTO; i <= LORAD_MODE_MERGED; i++)
        if (strcmp(name, mode_name((enum lorad_mode)i)) == 0) {
            *out = (enum lorad_mode)i;
            return true;
        }
    return false;
}

static json_t *size_json(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static const char *merged_name(enum lorad_merged_state state)
{
    static const char *const names[] = {"no", "queued", "building", "yes", "refused", "partly"};
    return names[state];
}

static json_t *merge_json(const struct lorad_adapter_info *info)
{
    return json_pack("{s:s, s:o, s:o, s:o, s:f, s:f, s:s}", "state", merged_name(info->merged), "sites_merged",
                     size_json(info->merged_sites), "sites", size_json(info->n_sites), "bytes",
                     size_json(info->merged_bytes), "value_us_per_s", info->merge_value_us_per_s, "price_us",
                     info->merge_price_us, "reason", info->merge_reason);
}

static json_t *counters_json(const struct lorad_adapter_counters *counters)
{
    json_t *modes = json_pack("{s:o, s:o, s:o}", "on_the_fly", size_json(counters->requests[LORAD_MODE_ON_THE_FLY]), "merged",
                              size_json(counters->requests[LORAD_MODE_MERGED]), "partly_merged",
                              size_json(counters->requests[LORAD_MODE_PARTLY_MERGED]));
    json_t *first = json_pack("{s:o, s:f}", "requests", size_json(counters->first_tokens), "seconds",
                              counters->first_token_seconds);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "requests", modes, "prompt_tokens",
                     size_json(counters->prompt_tokens), "cached_tokens", size_json(counters->cached_tokens),
                     "completion_tokens", size_json(counters->completion_tokens), "time_to_first_token", first,
                     "preemptions", size_json(counters->preemptions));
}

static const char *const STATES[] = {"loading", "ready", "draining", "failed", "available"};

static const char *state_name(enum lorad_adapter_state state)
{
    return STATES[state];
}

static json_t *info_json(const struct lorad_adapter_info *info)
{
    json_t *out = json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", info->id, "state", state_name(info->state), "mode",
                            mode_name(info->default_mode), "merged", merged_name(info->merged), "path",
                            info->path ? info->path : "");
    json_object_set_new(out, "generation", info->digest[0] ? json_string(info->digest) : json_null());
    json_object_set_new(out, "sha256", info->digest[0] ? json_string(info->digest) : json_null());
    json_object_set_new(out, "error", info->error ? json_string(info->error) : json_null());
    json_object_set_new(out, "rank", size_json(info->rank_max));
    json_object_set_new(out, "rank_min", size_json(info->rank_min));
    json_object_set_new(out, "alpha", json_real(info->alpha));
    json_object_set_new(out, "use_dora", json_boolean(info->dora));
    json_object_set_new(out, "use_rslora", json_boolean(info->rslora));
    json_object_set_new(out, "sites", size_json(info->n_sites));
    json_object_set_new(out, "bytes", size_json(info->resident_bytes));
    json_object_set_new(out, "merged_bytes", size_json(info->merged_bytes));
    json_object_set_new(out, "merge", merge_json(info));
    json_object_set_new(out, "requests_in_flight", size_json(info->requests_in_flight));
    json_object_set_new(out, "requests_total", size_json(info->requests_total));
    json_object_set_new(out, "counters", counters_json(&info->counters));
    json_object_set_new(out, "loads_total", size_json(info->n_loads));
    json_object_set_new(out, "pinned", json_boolean(info->pinned));
    json_object_set_new(out, "loaded", json_integer(info->loaded_unix));
    return out;
}

/* ?state=...; absent: all. */
static bool check_state(const char *state, struct error *err)
{
    for (size_t i = 0; state && i < sizeof STATES / sizeof *STATES; i++)
        if (strcmp(state, STATES[i]) == 0)
            return true;
    return !state || error_set(err, ERROR_BAD_INPUT, "state",
                               "is '%.32s', expected loading, ready, draining, failed or available", state);
}

enum MHD_Result handle_adapters_list(struct http_request *request)
{
    struct error err = {0};
    struct lorad_adapter_list list = {0};
    const char *state = request_query(request, "state");
    if (!check_state(state, &err) || !lorad_adapter_list_all(request->lorad, &list, &err))
        return reply_error(request, &err);
    json_t *array = json_array();
    for (size_t i = 0; i < list.n_adapters; i++)
        if (!state || strcmp(state, state_name(list.adapters[i].state)) == 0)
            json_array_append_new(array, info_json(&list.adapters[i]));
    lorad_adapter_list_finish(&list);
    return reply_json(request, MHD_HTTP_OK, json_pack("{s:o}", "adapters", array));
}

enum MHD_Result handle_adapter_get(struct http_request *request)
{
    struct error err = {0};
    struct lorad_adapter_list list = {0};
    char etag[LORAD_DIGEST_SIZE + 2];
    if (!lorad_adapter_get(request->lorad, request->id, &list, &err))
        return reply_error(request, &err);
    json_t *out = info_json(&list.adapters[0]);
    snprintf(etag, sizeof etag, "\"%s\"", list.adapters[0].digest);
    lorad_adapter_list_finish(&list);
    return reply_json_with(request, MHD_HTTP_OK, out, MHD_HTTP_HEADER_ETAG, etag);
}

/* -- Load and replace ----------------------------------------------------------------------------- */

static json_t *site_json(const struct lorad_site_report *site)
{
    json_t *out = json_pack("{s:s, s:o, s:f, s:f, s:o, s:o}", "site", site->site, "rank", size_json(site->rank), "alpha",
                            site->alpha, "scale", site->scale, "n_out", size_json(site->n_out), "n_in",
                            size_json(site->n_in));
    if (site->dora)
        json_object_set_new(out, "dora", json_true());
    if (site->replaced)
        json_object_set_new(out, "replaced", json_true());
    if (site->bias)
        json_object_set_new(out, "bias", json_true());
    return out;
}

static json_t *report_json(const struct lorad_load_report *report, bool dry_run)
{
    json_t *sites = json_array(), *warnings = json_array();
    for (size_t i = 0; i < report->n_sites; i++)
        json_array_append_new(sites, site_json(&report->sites[i]));
    for (size_t i = 0; i < report->n_warnings; i++)
        json_array_append_new(warnings, json_string(report->warnings[i]));
    json_t *out = json_pack("{s:s, s:s, s:s, s:b, s:b, s:b}", "id", report->id, "generation", report->digest, "sha256",
                            report->digest, "replaced", report->replaced, "unchanged", report->unchanged, "dry_run",
                            dry_run);
    json_object_set_new(out, "tensors_present", size_json(report->tensors_present));
    json_object_set_new(out, "tensors_applied", size_json(report->tensors_applied));
    json_object_set_new(out, "tensors_ignored", size_json(report->tensors_ignored));
    json_object_set_new(out, "rank", size_json(report->rank_max));
    json_object_set_new(out, "rank_min", size_json(report->rank_min));
    json_object_set_new(out, "n_parameters", size_json(report->n_parameters));
    json_object_set_new(out, "bytes", size_json(report->resident_bytes));
    json_object_set_new(out, "load_ms", json_real(report->load_ms));
    json_object_set_new(out, "norms", size_json(report->n_norms));
    json_object_set_new(out, "sites", sites);
    json_object_set_new(out, "warnings", warnings);
    return out;
}

static bool read_mode_name(const char *mode, struct lorad_load_options *load, struct error *err)
{
    if (!mode)
        return true;
    load->has_default_mode = true;
    return mode_from_name(mode, &load->default_mode) ||
           error_set(err, ERROR_BAD_INPUT, "mode", "is '%.32s', expected auto, on_the_fly or merged", mode);
}

static bool read_load_body(const json_t *body, struct lorad_load_options *load, struct error *err)
{
    static const char *const known[] = {"path", "mode", "allow_other_heads", "pin", NULL};
    const char *mode = NULL;
    load->has_pin |= !json_is_absent(body, "pin");
    return json_check_known(body, known, err) && json_require_string(body, "path", &load->path, err) &&
           json_get_string(body, "mode", &mode, err) && read_mode_name(mode, load, err) &&
           json_get_bool(body, "pin", &load->pin, err) &&
           json_get_bool(body, "allow_other_heads", &load->allow_other_heads, err);
}

/* If-None-Match: * means "only if there is none yet" (RFC 9110, 13.1.2). */
static bool read_conditions(struct http_request *request, struct lorad_load_options *load, struct error *err)
{
    const char *none = request_header(request, "If-None-Match");
    if (none && strcmp(none, "*") != 0)
        return error_set(err, ERROR_BAD_INPUT, "If-None-Match", "only * is served");
    load->only_new = none != NULL;
    load->has_pin = request_query(request, "pin") != NULL;
    return request_if_match(request, &load->if_match, err) &&
           request_query_bool(request, "dry_run", &load->dry_run, err) &&
           request_query_bool(request, "allow_other_heads", &load->allow_other_heads, err) &&
           request_query_bool(request, "pin", &load->pin, err) &&
           read_mode_name(request_query(request, "mode"), load, err);
}

static enum MHD_Result load_and_reply(struct http_request *request, const struct lorad_load_options *load)
{
    struct error err = {0};
    struct lorad_load_report report = {0};
    if (!lorad_adapter_load(request->lorad, request->id, load, &report, &err))
        return reply_error(request, &err);
    if (request->upload && !load->dry_run)
        upload_hand_over(request->upload);
    unsigned status = load->dry_run || report.replaced || report.unchanged ? MHD_HTTP_OK : MHD_HTTP_CREATED;
    char etag[LORAD_DIGEST_SIZE + 2];
    snprintf(etag, sizeof etag, "\"%s\"", report.digest);
    json_t *out = report_json(&report, load->dry_run);
    lorad_load_report_finish(&report);
    return reply_json_with(request, status, out, MHD_HTTP_HEADER_ETAG, etag);
}

enum MHD_Result handle_adapter_put(struct http_request *request)
{
    struct error err = {0};
    struct lorad_load_options load = {0};
    enum MHD_Result result;
    json_t *body = NULL;
    bool ok = read_conditions(request, &load, &err);
    if (ok && request->upload) {
        load.path = upload_directory(request->upload);
        load.staged = true;
        ok = upload_end(request->upload, &err);
    } else if (ok) {
        body = request_body(request, false, &err);
        ok = body && read_load_body(body, &load, &err);
    }
    result = ok ? load_and_reply(request, &load) : reply_error(request, &err);
    json_decref(body);
    return result;
}

enum MHD_Result handle_adapter_delete(struct http_request *request)
{
    struct error err = {0};
    const char *if_match = NULL;
    bool force = false;
    if (!request_if_match(request, &if_match, &err) || !request_query_bool(request, "force", &force, &err) ||
        !lorad_adapter_unload(request->lorad, request->id, if_match, force, &err))
        return reply_error(request, &err);
    return reply_json(request, MHD_HTTP_OK, json_pack("{s:s, s:b}", "id", request->id, "unloaded", true));
}

/* -- W' ------------------------------------------------------------------------------------------- */

static enum MHD_Result reply_info(struct http_request *request, unsigned status)
{
    struct error err = {0};
    struct lorad_adapter_list list = {0};
    if (!lorad_adapter_get(request->lorad, request->id, &list, &err))
        return reply_error(request, &err);
    json_t *out = info_json(&list.adapters[0]);
    lorad_adapter_list_finish(&list);
    return reply_json(request, status, out);
}

enum MHD_Result handle_merged_put(struct http_request *request)
{
    static const char *const known[] = {"wait_ms", NULL};
    struct error err = {0};
    int64_t wait_ms = 0;
    json_t *body = request_body(request, true, &err);
    bool ok = body && json_check_known(body, known, &err) && json_get_int(body, "wait_ms", 0, 3600000, &wait_ms, &err) &&
              lorad_adapter_merge(request->lorad, request->id, (unsigned)wait_ms, &err);
    json_decref(body);
    return ok ? reply_info(request, MHD_HTTP_ACCEPTED) : reply_error(request, &err);
}

enum MHD_Result handle_merged_delete(struct http_request *request)
{
    struct error err = {0};
    if (!lorad_adapter_unmerge(request->lorad, request->id, &err))
        return reply_error(request, &err);
    return reply_info(request, MHD_HTTP_OK);
}
