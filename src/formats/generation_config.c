#include "formats/generation_config.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"

#define FILE_NAME "generation_config.json"

static bool add_id(struct generation_config *config, const json_t *value, size_t n_vocab, struct error *err)
{
    int64_t id;
    char found[96];
    if (!json_to_int(value, &id) || id < 0 || (uint64_t)id >= n_vocab)
        return error_set(err, ERROR_BAD_INPUT, "eos_token_id",
                         "eos_token_id must be an id below %zu or a list of them, but is %s", n_vocab,
                         json_describe(value, found, sizeof found));
    for (size_t i = 0; i < config->n_eos_ids; i++)
        if (config->eos_ids[i] == (int32_t)id)
            return true;
    if (config->n_eos_ids == GENERATION_MAX_EOS)
        return error_set(err, ERROR_TOO_LARGE, "eos_token_id", "eos_token_id has more than %d ids",
                         GENERATION_MAX_EOS);
    config->eos_ids[config->n_eos_ids++] = (int32_t)id;
    return true;
}

static bool read_eos(struct generation_config *config, const json_t *object, size_t n_vocab,
                     struct error *err)
{
    const json_t *value = json_object_get(object, "eos_token_id");
    if (!json_is_array(value))
        return json_is_absent(object, "eos_token_id") || add_id(config, value, n_vocab, err);
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!add_id(config, json_array_get(value, i), n_vocab, err))
            return false;
    return true;
}

static bool read_sampling(struct generation_config *config, const json_t *object, struct error *err)
{
    bool samples = true;
    struct generation_config found = *config;
    if (!json_get_bool(object, "do_sample", &samples, err) ||
        !json_get_number(object, "temperature", 0, 100, &found.temperature, err) ||
        !json_get_number(object, "top_p", 0, 1, &found.top_p, err) ||
        !json_get_number(object, "min_p", 0, 1, &found.min_p, err) ||
        !json_get_int(object, "top_k", -1, INT32_MAX, &found.top_k, err) ||
        !json_get_number(object, "repetition_penalty", 0.01, 100, &found.repetition_penalty, err))
        return false;
    config->repetition_penalty = found.repetition_penalty;
    if (samples) {
        config->temperature = found.temperature;
        config->top_p = found.top_p;
        config->min_p = found.min_p;
        config->top_k = found.top_k;
    }
    return true;
}

/* The file's object, or an empty one when there is no file. */
static json_t *read_file(const char *directory, struct error *err)
{
    json_t *object = NULL;
    char *path = path_join(directory, FILE_NAME);
    if (!path)
        error_no_memory(err);
    else if (file_exists(path))
        object = json_read_file(path, LIMIT_CONFIG_BYTES, JSON_PLAIN, FILE_NAME, err);
    else if (!(object = json_object()))
        error_no_memory(err);
    free(path);
    return object;
}

bool generation_config_read(struct generation_config *out, const char *directory, const json_t *model_config,
                            size_t n_vocab, struct error *err)
{
    struct generation_config config = {
        .temperature = NAN, .top_p = NAN, .min_p = NAN, .repetition_penalty = NAN, .top_k = -1};
    json_t *object = read_file(directory, err);
    if (!object)
        return false;
    bool read = read_eos(&config, object, n_vocab, err) && read_sampling(&config, object, err);
    if (!read)
        error_prefix(err, FILE_NAME);
    else if (config.n_eos_ids == 0 && !(read = read_eos(&config, model_config, n_vocab, err)))
        error_prefix(err, "config.json");
    json_decref(object);
    if (read)
        *out = config;
    return read;
}
