/*
 * texts.c - from files of questions and answers, or room for a model's own.
 */
#include "lorad/texts.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum { MOST_BYTES = 64 << 20 };

static bool append_id(struct token_ids *ids, int32_t id, struct error *err)
{
    int32_t *more = realloc(ids->ids, (ids->n_ids + 1) * sizeof *more);
    if (!more)
        return error_no_memory(err);
    *ids = (struct token_ids){more, ids->n_ids + 1, ids->n_ids + 1};
    ids->ids[ids->n_ids - 1] = id;
    return true;
}

static bool encode(const struct tokenizer *tokenizer, const char *text, int flags, struct token_ids *out, struct error *err)
{
    return tokenizer_encode(tokenizer, text, strlen(text), flags, out, err);
}

/* Prompt and answer are encoded each for itself, as when the answer is generated. */
static bool make_text(struct text *out, const json_t *line, size_t context, const struct tokenizer *tokenizer, const struct model *model,
                      struct error *err)
{
    const char *prompt = NULL, *answer = NULL;
    struct token_ids ids = {0};
    if (!json_require_string(line, "prompt", &prompt, err) || !json_require_string(line, "answer", &answer, err))
        return false;
    bool ok = encode(tokenizer, prompt, TOKENIZER_ADD_SPECIAL, &ids, err);
    size_t n_prompt = ids.n_ids;
    ok = ok && encode(tokenizer, answer, TOKENIZER_PLAIN, &ids, err) &&
         (model->generation.n_eos_ids == 0 || append_id(&ids, model->generation.eos_ids[0], err));
    if (ok && (n_prompt == 0 || ids.n_ids == n_prompt))
        ok = error_set(err, ERROR_BAD_INPUT, "texts", "hold an empty prompt, or an empty answer that nothing ends");
    if (ok && ids.n_ids > context)
        ok = error_set(err, ERROR_TOO_LARGE, "texts", "hold a text of %zu tokens, but the context has %zu positions", ids.n_ids, context);
    *out = (struct text){ids.ids, ids.n_ids, n_prompt};
    return ok;
}

static bool read_line(struct texts *out, const char *line, size_t n_bytes, size_t context, const struct tokenizer *tokenizer,
                      const struct model *model, struct error *err)
{
    json_t *object = json_parse_object(line, n_bytes, JSON_PLAIN, "a line", err);
    bool ok = object && make_text(&out->texts[out->n_texts++], object, context, tokenizer, model, err);
    json_decref(object);
    return ok;
}

bool texts_read(struct texts *out, const char *path, size_t n_texts, size_t context, const struct tokenizer *tokenizer,
                const struct model *model, struct error *err)
{
    struct buffer file;
    struct texts texts = {.texts = calloc(n_texts, sizeof *texts.texts), .are_answers = true};
    buffer_init(&file, MOST_BYTES);
    bool ok = texts.texts ? file_read_text(&file, path, MOST_BYTES, err) : error_no_memory(err);
    const char *at = buffer_text(&file), *end = at + file.n_bytes;
    for (size_t n; ok && at < end && texts.n_texts < n_texts; at += n + 1) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        n = (size_t)((newline ? newline : end) - at);
        if (n > 0)
            ok = read_line(&texts, at, n, context, tokenizer, model, err);
    }
    if (ok && texts.n_texts == 0)
        ok = error_set(err, ERROR_BAD_INPUT, "texts", "holds no text");
    buffer_finish(&file);
    if (!ok) {
        error_prefix(err, "'%s'", path);
        texts_finish(&texts);
        return false;
    }
    *out = texts;
    return true;
}

/* What the tokenizer begins a text with; else what ends one, as where texts were read end to end. */
static bool find_beginning(int32_t *out, const struct tokenizer *tokenizer, const struct model *model, struct error *err)
{
    struct token_ids ids = {0};
    bool ok = tokenizer_encode(tokenizer, "", 0, TOKENIZER_ADD_SPECIAL, &ids, err);
    if (ok && ids.n_ids > 0)
        *out = ids.ids[0];
    else if (ok && model->generation.n_eos_ids > 0)
        *out = model->generation.eos_ids[0];
    else if (ok)
        ok = error_set(err, ERROR_MISMATCH, NULL, "neither the tokenizer nor the model says with which token a text begins");
    token_ids_finish(&ids);
    return ok;
}

bool texts_begin(struct texts *out, size_t n_texts, size_t n_tokens, const struct tokenizer *tokenizer, const struct model *model,
                 struct error *err)
{
    int32_t beginning = 0;
    if (!find_beginning(&beginning, tokenizer, model, err))
        return false;
    struct texts texts = {.texts = calloc(n_texts, sizeof *texts.texts), .n_texts = n_texts};
    bool ok = texts.texts != NULL;
    for (size_t i = 0; ok && i < n_texts; i++) {
        texts.texts[i] = (struct text){calloc(n_tokens, sizeof(int32_t)), n_tokens, 1};
        ok = texts.texts[i].tokens != NULL;
        if (ok)
            texts.texts[i].tokens[0] = beginning;
    }
    if (!ok) {
        texts_finish(&texts);
        return error_no_memory(err);
    }
    *out = texts;
    return true;
}

void texts_finish(struct texts *texts)
{
    for (size_t i = 0; texts->texts && i < texts->n_texts; i++)
        free(texts->texts[i].tokens);
    free(texts->texts);
    *texts = (struct texts){0};
}
