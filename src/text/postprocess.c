/*
 * postprocess.c - every processor puts its ids around what the ones before it made.
 */
#include "text/postprocess.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/limits.h"
#include "text/bpe.h"

#define IDS_MOST 1024

void postprocessor_finish(struct postprocessor *postprocessor)
{
    token_ids_finish(&postprocessor->before);
    token_ids_finish(&postprocessor->after);
}

static bool check_id(const json_t *value, const struct vocabulary *vocabulary, struct error *err)
{
    const char *token;
    size_t n_bytes;

    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > INT32_MAX ||
        !vocabulary_get(vocabulary, (int32_t)json_integer_value(value), &token, &n_bytes))
        return error_set(err, ERROR_BAD_INPUT, "post_processor", "adds an id that is not in the vocabulary");
    return true;
}

static bool append(struct token_ids *ids, const json_t *value, const struct vocabulary *vocabulary,
                   struct error *err)
{
    if (ids->n_ids == IDS_MOST)
        return error_set(err, ERROR_TOO_LARGE, "post_processor", "adds more than %d ids", IDS_MOST);
    return check_id(value, vocabulary, err) && token_ids_append(ids, (int32_t)json_integer_value(value), err);
}

static bool prepend(struct token_ids *ids, size_t position, const json_t *value,
                    const struct vocabulary *vocabulary, struct error *err)
{
    if (!append(ids, value, vocabulary, err))
        return false;
    int32_t id = ids->ids[ids->n_ids - 1];
    memmove(ids->ids + position + 1, ids->ids + position, (ids->n_ids - 1 - position) * sizeof *ids->ids);
    ids->ids[position] = id;
    return true;
}

/* {"SpecialToken": {"id": name}} stands for the ids of `name` in special_tokens. */
static bool add_special(struct postprocessor *out, const json_t *special_tokens, const char *name,
                        bool is_before, size_t *n_before, const struct vocabulary *vocabulary,
                        struct error *err)
{
    const json_t *ids = json_object_get(json_object_get(special_tokens, name), "ids");

    if (!json_is_array(ids))
        return error_set(err, ERROR_BAD_INPUT, "post_processor.special_tokens", "'%s' has no ids", name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!(is_before ? prepend(&out->before, (*n_before)++, id, vocabulary, err)
                        : append(&out->after, id, vocabulary, err)))
            return false;
    }
    return true;
}

static bool parse_template(struct postprocessor *out, const json_t *json, const struct vocabulary *vocabulary,
                           struct error *err)
{
    const json_t *single = NULL, *special_tokens = NULL;
    bool has_text = false;
    size_t n_before = 0;

    if (!json_get_array(json, "single", &single, err) ||
        !json_get_object(json, "special_tokens", &special_tokens, err))
        return false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *special = json_object_get(piece, "SpecialToken"),
                     *sequence = json_object_get(piece, "Sequence");
        const char *name = json_string_value(json_object_get(special ? special : sequence, "id"));
        if (!name)
            return error_set(err, ERROR_BAD_INPUT, "post_processor.single",
                             "piece %zu is no token and no sequence", i);
        if (special) {
            if (!add_special(out, special_tokens, name, !has_text, &n_before, vocabulary, err))
                return false;
        } else if (has_text || strcmp(name, "A") != 0) {
            return error_set(err, ERROR_MISMATCH, "post_processor.single",
                             "a template without exactly one A is not supported");
        } else {
            has_text = true;
        }
    }
    return has_text || error_set(err, ERROR_MISMATCH, "post_processor.single",
                                 "a template without exactly one A is not supported");
}

/* Bert and Roberta: cls, text, sep; each [token, id]. */
static bool parse_cls_sep(struct postprocessor *out, const json_t *json, const struct vocabulary *vocabulary,
                          struct error *err)
{
    return prepend(&out->before, 0, json_array_get(json_object_get(json, "cls"), 1), vocabulary, err) &&
           append(&out->after, json_array_get(json_object_get(json, "sep"), 1), vocabulary, err);
}

/* JSON nesting is limited, so the recursion is. */
static bool parse(struct postprocessor *out, const json_t *json, const struct vocabulary *vocabulary,
                  struct error *err)
{
    const char *type = NULL;
    const json_t *list = NULL;

    if (!json_is_object(json))
        return error_set(err, ERROR_BAD_INPUT, "post_processor", "is not an object");
    if (!json_require_string(json, "type", &type, err))
        return false;
    if (strcmp(type, "Sequence") == 0) {
        if (!json_get_array(json, "processors", &list, err))
            return false;
        for (size_t i = 0; i < json_array_size(list); i++)
            if (!parse(out, json_array_get(list, i), vocabulary, err))
                return false;
        return true;
    }
    if (strcmp(type, "TemplateProcessing") == 0)
        return parse_template(out, json, vocabulary, err);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        return parse_cls_sep(out, json, vocabulary, err);
    if (strcmp(type, "ByteLevel") == 0)
        return true; /* concerns offsets, which nobody asks for here */
    return error_set(err, ERROR_MISMATCH, "post_processor.type", "post-processor '%s' is not supported",
                     type);
}

bool postprocessor_parse(struct postprocessor *postprocessor, const json_t *json,
                         const struct vocabulary *vocabulary, struct error *err)
{
    *postprocessor = (struct postprocessor){0};
    return !json || json_is_null(json) || parse(postprocessor, json, vocabulary, err);
}
