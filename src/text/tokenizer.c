/*
 * tokenizer.c - loads the parts of tokenizer.json and runs a text through them.
 *
 * What a token stands for is worked out once, at load, so that decoding is copying.
 */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalize.h"
#include "text/postprocess.h"
#include "text/pretokenize.h"
#include "text/tokenizer_internal.h"

/* ---- loading ---- */

static bool check_version(const json_t *json, struct error *err)
{
    static const char *const known[] = {
        "version",       "truncation",     "padding", "added_tokens", "normalizer",
        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    const char *version = "1.0";

    if (!json_check_known(json, known, err) || !json_get_string(json, "version", &version, err))
        return false;
    if (strcmp(version, "1.0") != 0)
        return error_set(err, ERROR_MISMATCH, "version", "version '%s' is not supported; 1.0 is", version);
    return true;
}

static bool load_parts(struct tokenizer *tokenizer, const json_t *json, struct error *err)
{
    const json_t *model = NULL, *added = NULL;

    if (!check_version(json, err) || !json_get_object(json, "model", &model, err) ||
        !json_get_array(json, "added_tokens", &added, err))
        return false;
    if (!model)
        return error_set(err, ERROR_BAD_INPUT, "model", "is missing");
    return bpe_parse(&tokenizer->bpe, &tokenizer->vocabulary, model, err) &&
           normalizer_parse(&tokenizer->normalizer, json_object_get(json, "normalizer"), err) &&
           added_tokens_parse(&tokenizer->added, added, &tokenizer->normalizer, &tokenizer->vocabulary,
                              err) &&
           pretokenizer_parse(&tokenizer->pretokenizer, json_object_get(json, "pre_tokenizer"), err) &&
           postprocessor_parse(&tokenizer->postprocessor, json_object_get(json, "post_processor"),
                               &tokenizer->vocabulary, err) &&
           decoder_parse(&tokenizer->decoder, json_object_get(json, "decoder"), err);
}

/* How the token is written when decoding. */
static void written_form(const struct tokenizer *tokenizer, int32_t id, const char **token_out,
                         size_t *n_bytes_out)
{
    const struct added_token *added = tokenizer->texts[id].added;

    if (added) {
        *token_out = added->written;
        *n_bytes_out = added->n_written;
    } else {
        vocabulary_get(&tokenizer->vocabulary, id, token_out, n_bytes_out);
    }
}

static bool write_texts(struct tokenizer *tokenizer, struct error *err)
{
    size_t n = tokenizer->vocabulary.n_tokens;

    tokenizer->texts = calloc(n + 1, sizeof *tokenizer->texts);
    if (!tokenizer->texts)
        return error_no_memory(err);
    for (size_t i = 0; i < tokenizer->added.n_tokens; i++)
        tokenizer->texts[tokenizer->added.tokens[i].id].added = &tokenizer->added.tokens[i];
    for (size_t id = 0; id < n; id++) {
        struct token_text *text = &tokenizer->texts[id];
        const char *token;
        size_t n_bytes;
        if (!tokenizer_has_id(tokenizer, (int32_t)id))
            continue;
        written_form(tokenizer, (int32_t)id, &token, &n_bytes);
        text->offset = tokenizer->text_bytes.n_bytes;
        if (!decoder_write_token(&tokenizer->decoder, token, n_bytes, false, &tokenizer->text_bytes,
                                 &text->is_byte, err))
            return false;
        text->n_bytes = (uint32_t)(tokenizer->text_bytes.n_bytes - text->offset);
    }
    return true;
}

/* A token in tokenizer_config.json is text or an object with `content`. */
static const char *config_token(const json_t *config, const char *key)
{
    const json_t *token = json_object_get(config, key);
    return json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
}

/* `flag` in the config, if it is there, decides whether the ids on this side of a text are `key`'s or none.
 */
static bool surround(struct tokenizer *tokenizer, const json_t *config, const char *flag, const char *key,
                     struct token_ids *ids, struct error *err)
{
    const char *token = config_token(config, key);
    bool is_set = false;

    if (json_is_absent(config, flag))
        return true;
    if (!json_get_bool(config, flag, &is_set, err))
        return false;
    token_ids_finish(ids);
    if (!is_set)
        return true;
    int32_t id = token ? tokenizer_find(tokenizer, token) : -1;
    if (id < 0)
        return error_set(err, ERROR_BAD_INPUT, key, "%s is set, but there is no such token", flag);
    return token_ids_append(ids, id, err);
}

static bool begins_with_one_of(const char *text, const char *const *prefixes)
{
    for (; *prefixes; prefixes++)
        if (strncmp(text, *prefixes, strlen(*prefixes)) == 0)
            return true;
    return false;
}

/* With some tokenizer classes of `transformers` the config has the last word on parts of tokenizer.json. */
static bool apply_config(struct tokenizer *tokenizer, const json_t *config, struct error *err)
{
    static const char *const surrounding[] = {"Llama", "CodeLlama", "Gemma", NULL}, *const spacing[] = {
                                                                                        "GPT2", "Qwen2",
                                                                                        NULL};
    const char *class = "";
    bool add_prefix_space = false;

    if (!json_get_string(config, "tokenizer_class", &class, err))
        return false;
    if (begins_with_one_of(class, surrounding))
        return surround(tokenizer, config, "add_bos_token", "bos_token", &tokenizer->postprocessor.before,
                        err) &&
               surround(tokenizer, config, "add_eos_token", "eos_token", &tokenizer->postprocessor.after,
                        err);
    if (begins_with_one_of(class, spacing) && !json_is_absent(config, "add_prefix_space")) {
        if (!json_get_bool(config, "add_prefix_space", &add_prefix_space, err))
            return false;
        pretokenizer_set_prefix_space(&tokenizer->pretokenizer, add_prefix_space);
    }
    return true;
}

static bool load(struct tokenizer *tokenizer, const char *json, size_t n_json, const char *config,
                 size_t n_config, struct error *err)
{
    json_t *root = json_parse_object(json, n_json, JSON_NUL_ALLOWED, "tokenizer.json", err);
    bool ok = root && load_parts(tokenizer, root, err) && write_texts(tokenizer, err);

    if (root && !ok)
        error_prefix(err, "tokenizer.json");
    json_decref(root);
    if (!ok || !config)
        return ok;
    root = json_parse_object(config, n_config, JSON_PLAIN, "tokenizer_config.json", err);
    ok = root && apply_config(tokenizer, root, err);
    if (root && !ok)
        error_prefix(err, "tokenizer_config.json");
    json_decref(root);
    return ok;
}

struct tokenizer *tokenizer_parse(const char *json, size_t n_json, const char *config, size_t n_config,
                                  struct error *err)
{
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);

    if (!tokenizer) {
        error_no_memory(err);
        return NULL;
    }
    if (load(tokenizer, json, n_json, config, n_config, err))
        return tokenizer;
    tokenizer_destroy(tokenizer);
    return NULL;
}

static bool read_file(const char *directory, const char *name, size_t maximum, bool is_required,
                      struct buffer *out, struct error *err)
{
    char *path = path_join(directory, name);
    bool ok;

    if (!path)
        return error_no_memory(err);
    ok = (!is_required && !file_exists(path)) || file_read_text(out, path, maximum, err);
    free(path);
    return ok;
}

struct tokenizer *tokenizer_load(const char *directory, struct error *err)
{
    struct buffer json, config;
    struct tokenizer *tokenizer = NULL;

    buffer_init(&json, 0);
    buffer_init(&config, 0);
    if (read_file(directory, "tokenizer.json", LIMIT_TOKENIZER_BYTES, true, &json, err) &&
        read_file(directory, "tokenizer_config.json", LIMIT_TOKENIZER_BYTES, false, &config, err))
        tokenizer = tokenizer_parse(buffer_text(&json), json.n_bytes, config.data, config.n_bytes, err);
    buffer_finish(&json);
    buffer_finish(&config);
    return tokenizer;
}

void tokenizer_destroy(struct tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    added_tokens_finish(&tokenizer->added);
    normalizer_finish(&tokenizer->normalizer);
    pretokenizer_finish(&tokenizer->pretokenizer);
    bpe_finish(&tokenizer->bpe);
    postprocessor_finish(&tokenizer->postprocessor);
    decoder_finish(&tokenizer->decoder);
    vocabulary_finish(&tokenizer->vocabulary);
    buffer_finish(&tokenizer->text_bytes);
    free(tokenizer->texts);
    free(tokenizer);
}

/* ---- encoding ---- */

struct encoding {
    const struct tokenizer *tokenizer;
    bool special_as_text;
    struct normalizer_scratch normalizer;
    struct pretokenizer_scratch pretokenizer;
    struct bpe_scratch bpe;
    struct token_ids *out;
};

static bool encode_word(void *context, const char *word, size_t n_bytes, struct error *err)
{
    struct encoding *encoding = context;
    const struct tokenizer *tokenizer = encoding->tokenizer;

    return bpe_encode(&tokenizer->bpe, word, n_bytes, tokenizer->pretokenizer.ends_in_bytes, &encoding->bpe,
                      encoding->out, err);
}

/* Text between added tokens; `is_first`: nothing came before it. */
static bool encode_piece(struct encoding *encoding, const char *text, size_t n_bytes, bool is_first,
                         struct error *err)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    struct added_cursor cursor;
    struct added_piece piece;
    bool starts_at_origin;

    if (!normalizer_apply(&tokenizer->normalizer, text, n_bytes, &encoding->normalizer, &text, &n_bytes,
                          &starts_at_origin, err))
        return false;
    added_cursor_init(&cursor, &tokenizer->added, true, encoding->special_as_text, text, n_bytes);
    while (added_cursor_next(&cursor, &piece))
        if (piece.token
                ? !token_ids_append(encoding->out, piece.token->id, err)
                : !pretokenizer_run(&tokenizer->pretokenizer, text + piece.start, piece.end - piece.start,
                                    is_first && starts_at_origin && piece.start == 0, &encoding->pretokenizer,
                                    encode_word, encoding, err))
            return false;
    return true;
}

static bool encode_text(struct encoding *encoding, const char *text, size_t n_bytes, struct error *err)
{
    struct added_cursor cursor;
    struct added_piece piece;

    added_cursor_init(&cursor, &encoding->tokenizer->added, false, encoding->special_as_text, text, n_bytes);
    while (added_cursor_next(&cursor, &piece))
        if (piece.token
                ? !token_ids_append(encoding->out, piece.token->id, err)
                : !encode_piece(encoding, text + piece.start, piece.end - piece.start, piece.start == 0, err))
            return false;
    return true;
}

static bool append_all(struct token_ids *out, const struct token_ids *ids, struct error *err)
{
    for (size_t i = 0; i < ids->n_ids; i++)
        if (!token_ids_append(out, ids->ids[i], err))
            return false;
    return true;
}

bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t n_bytes, int flags,
                      struct token_ids *out, struct error *err)
{
    struct encoding encoding = {
        .tokenizer = tokenizer, .special_as_text = (flags & TOKENIZER_SPECIAL_AS_TEXT) != 0, .out = out};
    bool adds_special = (flags & TOKENIZER_ADD_SPECIAL) != 0;
    size_t n_valid = utf8_valid_prefix(text, n_bytes), n_before = out->n_ids;

    if (n_valid < n_bytes)
        return error_set(err, ERROR_BAD_INPUT, NULL, "the text is not valid UTF-8 at byte %zu", n_valid);
    bool ok = (!adds_special || append_all(out, &tokenizer->postprocessor.before, err)) &&
              encode_text(&encoding, text, n_bytes, err) &&
              (!adds_special || append_all(out, &tokenizer->postprocessor.after, err));
    if (!ok)
        out->n_ids = n_before;
    normalizer_scratch_finish(&encoding.normalizer);
    pretokenizer_scratch_finish(&encoding.pretokenizer);
    bpe_scratch_finish(&encoding.bpe);
    return ok;
}

void token_ids_finish(struct token_ids *ids)
{
    free(ids->ids);
    *ids = (struct token_ids){0};
}

/* ---- decoding ---- */

bool tokenizer_push_text(const struct tokenizer *tokenizer, int32_t id, struct decoder_stream *stream,
                         struct buffer *out, struct error *err)
{
    struct buffer first;
    const char *token;
    size_t n_bytes;
    bool is_byte, ok;

    if (!tokenizer_has_id(tokenizer, id))
        return error_set(err, ERROR_BAD_INPUT, NULL, "the vocabulary has no token %d", id);
    if (!tokenizer->decoder.first_differs || !stream->is_first) {
        const struct token_text *text = &tokenizer->texts[id];
        decoder_stream_push(stream, buffer_text(&tokenizer->text_bytes) + text->offset, text->n_bytes,
                            text->is_byte, out);
        return !out->failed || error_no_memory(err);
    }
    buffer_init(&first, 0);
    written_form(tokenizer, id, &token, &n_bytes);
    ok = decoder_write_token(&tokenizer->decoder, token, n_bytes, true, &first, &is_byte, err);
    if (ok) {
        decoder_stream_push(stream, buffer_text(&first), first.n_bytes, is_byte, out);
        ok = !out->failed || error_no_memory(err);
    }
    buffer_finish(&first);
    return ok;
}

bool tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t n_ids, bool skip_special,
                      char **text_out, size_t *n_bytes_out, struct error *err)
{
    struct decoder_stream stream;
    struct buffer out;
    bool ok = true;

    buffer_init(&out, 0);
    decoder_stream_init(&stream, &tokenizer->decoder, true, false);
    for (size_t i = 0; ok && i < n_ids; i++)
        if (!skip_special || !tokenizer_is_special(tokenizer, ids[i]))
            ok = tokenizer_push_text(tokenizer, ids[i], &stream, &out, err);
    if (ok) {
        decoder_stream_flush(&stream, &out);
        size_t n_bytes = out.n_bytes;
        char *text = buffer_take(&out);
        ok = text ? true : error_no_memory(err);
        if (ok) {
            *text_out = text;
            *n_bytes_out = n_bytes;
        }
    }
    decoder_stream_finish(&stream);
    buffer_finish(&out);
    return ok;
}

/* ---- looking things up ---- */

size_t tokenizer_n_vocab(const struct tokenizer *tokenizer)
{
    return tokenizer->vocabulary.n_tokens;
}

bool tokenizer_has_id(const struct tokenizer *tokenizer, int32_t id)
{
    return tokenizer_token(tokenizer, id) != NULL;
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id)
{
    if (!tokenizer_has_id(tokenizer, id))
        return false;
    const struct added_token *added = tokenizer->texts[id].added;
    return added && added->special;
}

const char *tokenizer_token(const struct tokenizer *tokenizer, int32_t id)
{
    const char *token;
    size_t n_bytes;
    return vocabulary_get(&tokenizer->vocabulary, id, &token, &n_bytes) ? token : NULL;
}

bool tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t id, const char **bytes_out,
                           size_t *n_bytes_out)
{
    if (!tokenizer_has_id(tokenizer, id))
        return false;
    *bytes_out = buffer_text(&tokenizer->text_bytes) + tokenizer->texts[id].offset;
    *n_bytes_out = tokenizer->texts[id].n_bytes;
    return true;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *token)
{
    return vocabulary_find(&tokenizer->vocabulary, token, strlen(token));
}
