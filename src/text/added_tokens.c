/*
 * added_tokens.c - flags, numbering, and the walk over a text.
 */
#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/character.h"

/* ---- loading ---- */

static bool read_flags(struct added_token *token, const json_t *object, struct error *err)
{
    static const char *const known[] = {"id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL};

    token->normalized = true;
    return json_check_known(object, known, err) &&
           json_get_bool(object, "single_word", &token->single_word, err) &&
           json_get_bool(object, "lstrip", &token->lstrip, err) &&
           json_get_bool(object, "rstrip", &token->rstrip, err) &&
           json_get_bool(object, "normalized", &token->normalized, err) &&
           json_get_bool(object, "special", &token->special, err);
}

/* `next_id`: what a token gets that the model does not have. */
static bool number(struct added_token *token, const char *content, size_t n_content, size_t written_id,
                   size_t *next_id, struct vocabulary *vocabulary, struct error *err)
{
    token->id = vocabulary_find(vocabulary, content, n_content);
    if (token->id < 0) {
        if (written_id != *next_id)
            return error_set(err, ERROR_BAD_INPUT, "added_tokens",
                             "'%s' has id %zu, but the next free id is %zu", content, written_id, *next_id);
        if (!vocabulary_add(vocabulary, content, n_content, *next_id, err))
            return false;
        token->id = (int32_t)(*next_id)++;
    }
    if ((size_t)token->id != written_id)
        return error_set(err, ERROR_BAD_INPUT, "added_tokens",
                         "'%s' has id %zu, but the model's vocabulary says %d", content, written_id,
                         token->id);
    return true;
}

static bool write_normalized(struct added_token *token, const char *content, size_t n_content,
                             const struct normalizer *normalizer, struct error *err)
{
    struct normalizer_scratch scratch = {0};
    const char *text = content;
    size_t n = n_content;
    bool ok = true, starts_at_origin;

    if (token->normalized)
        ok = normalizer_apply(normalizer, content, n_content, &scratch, &text, &n, &starts_at_origin, err);
    if (ok) {
        token->written = malloc(n + 1);
        if (token->written) {
            memcpy(token->written, text, n);
            token->written[n] = '\0';
            token->n_written = n;
        } else {
            ok = error_no_memory(err);
        }
    }
    normalizer_scratch_finish(&scratch);
    return ok;
}

static bool add_token(struct added_tokens *added, const json_t *object, size_t *next_id,
                      const struct normalizer *normalizer, struct vocabulary *vocabulary, struct error *err)
{
    struct added_token *token = &added->tokens[added->n_tokens];
    const json_t *content = json_object_get(object, "content");
    size_t id = 0;
    bool is_duplicate = false;

    if (!json_is_object(object) || !json_is_string(content))
        return error_set(err, ERROR_BAD_INPUT, "added_tokens", "entry %zu has no content", added->n_tokens);
    if (json_string_length(content) == 0)
        return error_set(err, ERROR_BAD_INPUT, "added_tokens", "entry %zu is empty", added->n_tokens);
    added->n_tokens++;
    if (!read_flags(token, object, err) || !json_require_size(object, "id", 0, INT32_MAX, &id, err) ||
        !number(token, json_string_value(content), json_string_length(content), id, next_id, vocabulary,
                err) ||
        !write_normalized(token, json_string_value(content), json_string_length(content), normalizer, err))
        return false;
    if (token->n_written == 0)
        return error_set(err, ERROR_BAD_INPUT, "added_tokens", "'%s' is empty when normalised",
                         json_string_value(content));
    if (!matcher_add(token->normalized ? &added->normalized : &added->raw, token->written, token->n_written,
                     (int32_t)(added->n_tokens - 1), &is_duplicate, err))
        return false;
    if (is_duplicate)
        return error_set(err, ERROR_BAD_INPUT, "added_tokens", "'%s' is there twice", token->written);
    return true;
}

bool added_tokens_parse(struct added_tokens *added, const json_t *list, const struct normalizer *normalizer,
                        struct vocabulary *vocabulary, struct error *err)
{
    size_t n = json_array_size(list), next_id = vocabulary->n_entries;

    *added = (struct added_tokens){0};
    matcher_init(&added->raw, MATCHER_LEFTMOST_LONGEST);
    matcher_init(&added->normalized, MATCHER_LEFTMOST_LONGEST);
    added->tokens = calloc(n + 1, sizeof *added->tokens);
    if (!added->tokens)
        return error_no_memory(err);
    for (size_t i = 0; i < n; i++)
        if (!add_token(added, json_array_get(list, i), &next_id, normalizer, vocabulary, err))
            return false;
    return matcher_build(&added->raw, err) && matcher_build(&added->normalized, err);
}

void added_tokens_finish(struct added_tokens *added)
{
    for (size_t i = 0; i < added->n_tokens; i++)
        free(added->tokens[i].written);
    free(added->tokens);
    matcher_finish(&added->raw);
    matcher_finish(&added->normalized);
    *added = (struct added_tokens){0};
}

/* ---- the walk ---- */

void added_cursor_init(struct added_cursor *cursor, const struct added_tokens *added, bool in_normalized,
                       bool special_as_text, const char *text, size_t n_bytes)
{
    *cursor = (struct added_cursor){.added = added,
                                    .matcher = in_normalized ? &added->normalized : &added->raw,
                                    .special_as_text = special_as_text,
                                    .text = text,
                                    .n_bytes = n_bytes};
}

/* The code point that ends before `position`. */
static uint32_t code_point_before(const char *text, size_t position, size_t *start_out)
{
    uint32_t code_point;
    size_t start = position - 1;

    while (start > 0 && ((unsigned char)text[start] & 0xC0) == 0x80)
        start--;
    utf8_decode(text + start, position - start, &code_point);
    *start_out = start;
    return code_point;
}

static bool is_single_word(const struct added_cursor *cursor, size_t start, size_t end)
{
    uint32_t code_point;
    size_t unused;

    if (start > 0 && character_is_word(code_point_before(cursor->text, start, &unused)))
        return false;
    if (end == cursor->n_bytes)
        return true;
    utf8_decode(cursor->text + end, cursor->n_bytes - end, &code_point);
    return !character_is_word(code_point);
}

static size_t skip_spaces_back(const struct added_cursor *cursor, size_t start)
{
    size_t before;

    while (start > cursor->covered && character_is_space(code_point_before(cursor->text, start, &before)))
        start = before;
    return size_max(start, cursor->covered);
}

static size_t skip_spaces(const struct added_cursor *cursor, size_t end)
{
    while (end < cursor->n_bytes) {
        uint32_t code_point;
        size_t n = utf8_decode(cursor->text + end, cursor->n_bytes - end, &code_point);
        if (!character_is_space(code_point))
            break;
        end += n;
    }
    return end;
}

/* The next match that counts. One that does not is passed over as a whole. */
static bool find_token(struct added_cursor *cursor, struct added_piece *out)
{
    size_t start, end;
    int32_t index;

    while (matcher_find(cursor->matcher, cursor->text, cursor->n_bytes, cursor->searched, &start, &end,
                        &index)) {
        const struct added_token *token = &cursor->added->tokens[index];
        cursor->searched = end;
        if ((cursor->special_as_text && token->special) ||
            (token->single_word && !is_single_word(cursor, start, end)))
            continue;
        if (token->lstrip)
            start = skip_spaces_back(cursor, start);
        if (token->rstrip)
            end = skip_spaces(cursor, end);
        *out = (struct added_piece){.start = start, .end = end, .token = token};
        return true;
    }
    return false;
}

bool added_cursor_next(struct added_cursor *cursor, struct added_piece *piece_out)
{
    struct added_piece token = cursor->waiting;

    cursor->waiting.token = NULL;
    if (!token.token && !find_token(cursor, &token)) {
        *piece_out = (struct added_piece){.start = cursor->covered, .end = cursor->n_bytes};
        cursor->searched = cursor->covered = cursor->n_bytes;
        return piece_out->start < piece_out->end;
    }
    if (cursor->covered < token.start) {
        *piece_out = (struct added_piece){.start = cursor->covered, .end = token.start};
        cursor->waiting = token;
        cursor->covered = token.start;
        return true;
    }
    *piece_out = token;
    cursor->covered = token.end;
    return true;
}
