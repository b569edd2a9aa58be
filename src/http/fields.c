/*
 * fields.c - see fields.h. Ranges are checked by lorad_submit; here only what JSON can get wrong.
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "http/fields.h"

static const char *const COMMON[] = {
    "adapter", "adapters", "scale", "mode", "allow_mode_switch", "merge_wait_ms", "priority", "timeout_ms", "temperature", "top_k", "top_p",
    "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop",
    "stop_token_ids", "max_tokens", "min_tokens", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
    "add_special_tokens", NULL};

static bool is_in(const char *name, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(name, *list) == 0)
            return true;
    return false;
}

static bool check_known(const json_t *body, const char *const *also_known, struct error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)body, key, value)
        if (!is_in(key, COMMON) && !is_in(key, also_known))
            return error_set(err, ERROR_BAD_INPUT, key, "unknown field");
    return true;
}

bool fields_read_ids(struct http_request *request, const json_t *array, const char *name, const int32_t **ids_out,
                     size_t *n_out, struct error *err)
{
    char found[64];
    size_t n = json_array_size(array);
    int32_t *ids = arena_allocate_array(&request->arena, n, sizeof *ids);
    if (!ids)
        return error_no_memory(err);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, i);
        json_int_t value = json_integer_value(item);
        if (!json_is_integer(item) || value < 0 || value > INT32_MAX)
            return error_set(err, ERROR_BAD_INPUT, name, "holds %s at index %zu, expected token ids",
                             json_describe(item, found, sizeof found), i);
        ids[i] = (int32_t)value;
    }
    *ids_out = ids;
    *n_out = n;
    return true;
}

static bool read_stop(struct http_request *request, const json_t *body, struct lorad_request *out, struct error *err)
{
    char found[64];
    const json_t *stop = json_object_get(body, "stop");
    if (!stop || json_is_null(stop))
        return true;
    size_t n = json_is_string(stop) ? 1 : json_array_size(stop);
    if (!json_is_string(stop) && !json_is_array(stop))
        return error_set(err, ERROR_BAD_INPUT, "stop", "is %s, expected a string or an array of strings",
                         json_describe(stop, found, sizeof found));
    if (n > LIMIT_STOP_STRINGS)
        return error_set(err, ERROR_BAD_INPUT, "stop", "has %zu strings, at most %d are served", n, LIMIT_STOP_STRINGS);
    const char **stops = arena_allocate_array(&request->arena, n, sizeof *stops);
    if (!stops)
        return error_no_memory(err);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_string(stop) ? stop : json_array_get(stop, i);
        stops[i] = json_string_value(item);
        if (!stops[i])
            return error_set(err, ERROR_BAD_INPUT, "stop", "holds %s at index %zu, expected strings",
                             json_describe(item, found, sizeof found), i);
    }
    out->stops = stops;
    out->n_stops = n;
    return true;
}

static bool read_logit_bias(struct http_request *request, const json_t *body, struct lorad_request *out,
                            struct error *err)
{
    const json_t *bias = NULL;
    const char *key;
    json_t *value;
    size_t n = 0;
    if (!json_get_object(body, "logit_bias", &bias, err))
        return false;
    if (!bias)
        return true;
    struct lorad_logit_bias *entries = arena_allocate_array(&request->arena, json_object_size(bias), sizeof *entries);
    if (!entries)
        return error_no_memory(err);
    json_object_foreach((json_t *)bias, key, value) {
        char *end;
        errno = 0;
        long id = strtol(key, &end, 10);
        if (!isdigit((unsigned char)*key) || *end || errno || id > INT32_MAX)
            return error_set(err, ERROR_BAD_INPUT, "logit_bias", "'%.32s' is not a token id", key);
        if (!json_is_number(value))
            return error_set(err, ERROR_BAD_INPUT, "logit_bias", "the value of %ld is not a number", id);
        entries[n++] = (struct lorad_logit_bias){(int32_t)id, (float)json_number_value(value)};
    }
    out->sampling.logit_bias = entries;
    out->sampling.n_logit_bias = n;
    return true;
}

static bool read_adapter_list(struct http_request *request, const json_t *list, struct lorad_request *out,
                              struct error *err)
{
    static const char *const known[] = {"id", "weight", NULL};
    size_t n = json_array_size(list);
    struct lorad_adapter_choice *choices = arena_allocate_array(&request->arena, n, sizeof *choices);
    if (!choices)
        return error_no_memory(err);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        choices[i].weight = 1;
        if (!json_is_object(item))
            return error_set(err, ERROR_BAD_INPUT, "adapters", "entry %zu is not an object with id and weight", i);
        if (!json_check_known(item, known, err) || !json_require_string(item, "id", &choices[i].id, err) ||
            !json_get_number(item, "weight", -1000, 1000, &choices[i].weight, err)) {
            error_prefix(err, "adapters[%zu]", i);
            return false;
        }
    }
    out->adapters = choices;
    out->n_adapters = n;
    return true;
}

static bool read_adapters(struct http_request *request, const json_t *body, struct lorad_request *out,
                          struct error *err)
{
    const char *id = NULL;
    const json_t *list = NULL;
    if (!json_get_string(body, "adapter", &id, err) || !json_get_array(body, "adapters", &list, err))
        return false;
    if (id && list)
        return error_set(err, ERROR_BAD_INPUT, "adapters", "and adapter are both there: give one of them");
    if (list)
        return read_adapter_list(request, list, out, err);
    if (id) {
        struct lorad_adapter_choice *choice = arena_allocate_array(&request->arena, 1, sizeof *choice);
        if (!choice)
            return error_no_memory(err);
        *choice = (struct lorad_adapter_choice){.id = id, .weight = 1};
        out->adapters = choice;
        out->n_adapters = 1;
    }
    return true;
}

static bool read_mode(const json_t *body, struct lorad_request *out, struct error *err)
{
    static const char *const names[] = {"auto", "on_the_fly", "merged"};
    const char *mode = NULL;
    if (!json_get_string(body, "mode", &mode, err))
        return false;
    for (int i = 0; mode && i < 3; i++)
        if (strcmp(mode, names[i]) == 0) {
            out->has_mode = true;
            out->mode = (enum lorad_mode)i;
            return true;
        }
    if (mode)
        return error_set(err, ERROR_BAD_INPUT, "mode", "is '%.32s', expected auto, on_the_fly or merged", mode);
    return true;
}

static bool read_scheduling(const json_t *body, struct lorad_request *out, struct error *err)
{
    int64_t priority = out->priority;
    if (!json_get_bool(body, "allow_mode_switch", &out->may_switch, err) ||
        !json_get_int(body, "priority", -100, 100, &priority, err))
        return false;
    out->priority = (int)priority;
    return true;
}

static bool read_milliseconds(const json_t *body, const char *name, unsigned *out, struct error *err)
{
    int64_t value = *out;
    if (!json_get_int(body, name, 0, 86400000, &value, err))
        return false;
    *out = (unsigned)value;
    return true;
}

/* top_k: 0 and -1 mean off, as everywhere. */
static bool read_top_k(const json_t *body, struct lorad_sampling *sampling, struct error *err)
{
    int64_t top_k = (int64_t)sampling->top_k;
    if (!json_get_int(body, "top_k", -1, INT32_MAX, &top_k, err))
        return false;
    sampling->top_k = top_k < 0 ? 0 : (size_t)top_k;
    return true;
}

static bool read_seed(const json_t *body, struct lorad_sampling *sampling, struct error *err)
{
    int64_t seed = 0;
    if (json_is_absent(body, "seed"))
        return true;
    if (!json_get_int(body, "seed", INT64_MIN, INT64_MAX, &seed, err))
        return false;
    sampling->has_seed = true;
    sampling->seed = (uint64_t)seed;
    return true;
}

static bool read_sampling(struct http_request *request, const json_t *body, struct lorad_request *out,
                          struct error *err)
{
    struct lorad_sampling *sampling = &out->sampling;
    return json_get_number(body, "temperature", 0, 100, &sampling->temperature, err) &&
           json_get_number(body, "top_p", 0, 1, &sampling->top_p, err) &&
           json_get_number(body, "min_p", 0, 1, &sampling->min_p, err) &&
           json_get_number(body, "repetition_penalty", 0, 100, &sampling->repetition_penalty, err) &&
           json_get_number(body, "presence_penalty", -2, 2, &sampling->presence_penalty, err) &&
           json_get_number(body, "frequency_penalty", -2, 2, &sampling->frequency_penalty, err) &&
           read_top_k(body, sampling, err) && read_seed(body, sampling, err) &&
           read_logit_bias(request, body, out, err);
}

static bool read_stopping(struct http_request *request, const json_t *body, struct lorad_request *out,
                          struct error *err)
{
    const json_t *stop_ids = NULL;
    bool skip_special = !out->keep_special, add_special = !out->no_special_tokens;
    if (!json_get_size(body, "max_tokens", 0, LIMIT_CONTEXT, &out->max_tokens, err) ||
        !json_get_size(body, "min_tokens", 0, LIMIT_CONTEXT, &out->min_tokens, err) ||
        !json_get_bool(body, "ignore_eos", &out->ignore_eos, err) ||
        !json_get_bool(body, "include_stop_str_in_output", &out->include_stop, err) ||
        !json_get_bool(body, "skip_special_tokens", &skip_special, err) ||
        !json_get_bool(body, "add_special_tokens", &add_special, err) ||
        !json_get_array(body, "stop_token_ids", &stop_ids, err) || !read_stop(request, body, out, err))
        return false;
    out->keep_special = !skip_special;
    out->no_special_tokens = !add_special;
    return !stop_ids ||
           fields_read_ids(request, stop_ids, "stop_token_ids", &out->stop_ids, &out->n_stop_ids, err);
}

bool fields_read(struct http_request *request, const json_t *body, const char *const *also_known,
                 struct lorad_request *out, struct error *err)
{
    lorad_request_init(request->lorad, out);
    return check_known(body, also_known, err) && read_adapters(request, body, out, err) &&
           read_mode(body, out, err) && json_get_number(body, "scale", -1000, 1000, &out->scale, err) &&
           read_scheduling(body, out, err) &&
           read_milliseconds(body, "merge_wait_ms", &out->merge_wait_ms, err) &&
           read_milliseconds(body, "timeout_ms", &out->timeout_ms, err) &&
           read_sampling(request, body, out, err) && read_stopping(request, body, out, err);
}
