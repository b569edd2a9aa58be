/*
 * decoder.c - the three groups of decoder.h, and the stream that runs them.
 */
#include "text/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/byte_level.h"
#include "text/pattern.h"

#define REPLACEMENT "\xEF\xBF\xBD"
#define TOKEN_BYTES_MOST ((size_t)1 << 20) /* what Replace may make of one token */

enum step_kind { STEP_REPLACE, STEP_STRIP, STEP_METASPACE };

struct decoder_step {
    enum step_kind kind;
    struct pattern pattern; /* of REPLACE */
    char *content;          /* of REPLACE; owned */
    size_t n_content;
    char character[5]; /* of STRIP, METASPACE */
    size_t n_character;
    size_t start, stop; /* of STRIP, in characters */
    bool drops_first;   /* of METASPACE: in the first token the mark is nothing, not a space */
};

/* ---- loading ---- */

/* Where in the list we are: tokens, then bytes that became text piece by piece, then one text. */
enum phase { PHASE_TOKENS, PHASE_PIECES, PHASE_TEXT };

static void step_finish(struct decoder_step *step)
{
    pattern_finish(&step->pattern);
    free(step->content);
}

static bool parse_character(struct decoder_step *step, const json_t *json, const char *key, struct error *err)
{
    const json_t *value = json_object_get(json, key);
    const char *text = json_string_value(value);
    size_t n = json_string_length(value);
    uint32_t unused;

    if (!text || n == 0 || utf8_decode(text, n, &unused) != n)
        return error_set(err, ERROR_BAD_INPUT, "decoder", "'%s' is not one character", key);
    memcpy(step->character, text, n);
    step->n_character = n;
    return true;
}

static bool parse_replace(struct decoder_step *step, const json_t *json, struct error *err)
{
    const json_t *content = json_object_get(json, "content");

    step->kind = STEP_REPLACE;
    if (!json_is_string(content))
        return error_set(err, ERROR_BAD_INPUT, "decoder.content", "is not text");
    step->n_content = json_string_length(content);
    step->content = malloc(step->n_content + 1);
    if (!step->content)
        return error_no_memory(err);
    memcpy(step->content, json_string_value(content), step->n_content + 1);
    return pattern_parse(&step->pattern, json_object_get(json, "pattern"), "decoder.pattern", err);
}

static bool parse_strip(struct decoder_step *step, const json_t *json, struct error *err)
{
    step->kind = STEP_STRIP;
    return parse_character(step, json, "content", err) &&
           json_get_size(json, "start", 0, 4096, &step->start, err) &&
           json_get_size(json, "stop", 0, 4096, &step->stop, err);
}

static bool parse_metaspace(struct decoder_step *step, const json_t *json, struct error *err)
{
    const char *scheme = "always";
    bool add_prefix_space = true;

    step->kind = STEP_METASPACE;
    if (!parse_character(step, json, "replacement", err) ||
        !json_get_string(json, "prepend_scheme", &scheme, err) ||
        !json_get_bool(json, "add_prefix_space", &add_prefix_space, err))
        return false;
    step->drops_first = strcmp(scheme, "never") != 0;
    if (step->drops_first && strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0)
        return error_set(err, ERROR_BAD_INPUT, "decoder.prepend_scheme", "'%s' is unknown", scheme);
    if (!add_prefix_space && step->drops_first)
        return error_set(err, ERROR_BAD_INPUT, "decoder.prepend_scheme", "'%s' contradicts add_prefix_space",
                         scheme);
    return true;
}

static bool refuse_order(const char *type, struct error *err)
{
    return error_set(err, ERROR_MISMATCH, "decoder", "'%s' at this place of the sequence is not supported",
                     type);
}

/* One character for another text: this can be done while the text flows by, wherever pieces end. */
static bool replaces_one_character(const struct decoder_step *step)
{
    uint32_t unused;
    return step->kind == STEP_REPLACE && step->pattern.literal &&
           utf8_decode(step->pattern.literal, step->pattern.n_literal, &unused) == step->pattern.n_literal;
}

static bool place_step(struct decoder *decoder, const struct decoder_step *step, const char *type,
                       enum phase phase, struct error *err)
{
    bool is_token = phase == PHASE_TOKENS;
    struct decoder_step **steps = is_token ? &decoder->token_steps : &decoder->text_steps, *grown = NULL;
    size_t *n_steps = is_token ? &decoder->n_token_steps : &decoder->n_text_steps;

    if (!is_token && !replaces_one_character(step) && !(phase == PHASE_TEXT && step->kind == STEP_STRIP))
        return refuse_order(type, err);
    if (*n_steps == DECODER_STEPS_MOST)
        return error_set(err, ERROR_TOO_LARGE, "decoder", "has more than %d steps", DECODER_STEPS_MOST);
    grown = realloc(*steps, (*n_steps + 1) * sizeof *grown);
    if (!grown)
        return error_no_memory(err);
    *steps = grown;
    grown[(*n_steps)++] = *step;
    if (is_token && step->kind == STEP_METASPACE && step->drops_first)
        decoder->first_differs = true;
    return true;
}

static bool add_step(struct decoder *decoder, const json_t *json, const char *type, enum phase phase,
                     struct error *err)
{
    struct decoder_step step = {0};
    bool ok;

    if (strcmp(type, "Replace") == 0)
        ok = parse_replace(&step, json, err);
    else if (strcmp(type, "Strip") == 0)
        ok = parse_strip(&step, json, err);
    else if (strcmp(type, "Metaspace") == 0)
        ok = parse_metaspace(&step, json, err);
    else
        ok = error_set(err, ERROR_MISMATCH, "decoder.type", "decoder '%s' is not supported", type);
    ok = ok && place_step(decoder, &step, type, phase, err);
    if (!ok)
        step_finish(&step);
    return ok;
}

/* JSON nesting is limited, so the recursion is. */
static bool add_steps(struct decoder *decoder, const json_t *json, enum phase *phase, struct error *err)
{
    const char *type = NULL;
    const json_t *list = NULL;

    if (!json_is_object(json))
        return error_set(err, ERROR_BAD_INPUT, "decoder", "is not an object");
    if (!json_require_string(json, "type", &type, err))
        return false;
    if (strcmp(type, "Sequence") == 0) {
        if (!json_get_array(json, "decoders", &list, err))
            return false;
        for (size_t i = 0; i < json_array_size(list); i++)
            if (!add_steps(decoder, json_array_get(list, i), phase, err))
                return false;
        return true;
    }
    if (strcmp(type, "ByteLevel") == 0 || strcmp(type, "ByteFallback") == 0) {
        bool is_level = strcmp(type, "ByteLevel") == 0;
        if (*phase != PHASE_TOKENS)
            return refuse_order(type, err);
        decoder->join = is_level ? JOIN_BYTE_LEVEL : JOIN_BYTE_FALLBACK;
        *phase = is_level ? PHASE_TEXT : PHASE_PIECES;
        return true;
    }
    if (strcmp(type, "Fuse") == 0) {
        *phase = PHASE_TEXT;
        return true;
    }
    return add_step(decoder, json, type, *phase, err);
}

bool decoder_parse(struct decoder *decoder, const json_t *json, struct error *err)
{
    enum phase phase = PHASE_TOKENS;

    *decoder = (struct decoder){.join = JOIN_SPACES};
    if (!json || json_is_null(json))
        return true;
    decoder->join = JOIN_TEXT;
    return add_steps(decoder, json, &phase, err);
}

void decoder_finish(struct decoder *decoder)
{
    for (size_t i = 0; i < decoder->n_token_steps; i++)
        step_finish(&decoder->token_steps[i]);
    for (size_t i = 0; i < decoder->n_text_steps; i++)
        step_finish(&decoder->text_steps[i]);
    free(decoder->token_steps);
    free(decoder->text_steps);
    *decoder = (struct decoder){0};
}

/* ---- one token ---- */

static bool write_replaced(const struct decoder_step *step, const char *text, size_t n_bytes,
                           struct buffer *out, struct error *err)
{
    struct regex_scratch scratch = {0};
    struct pattern_cursor cursor;
    size_t start = 0, end = 0, copied = 0;
    bool found = false, ok = true;

    pattern_cursor_init(&cursor, &step->pattern, &scratch, text, n_bytes);
    while ((ok = pattern_cursor_next(&cursor, &found, &start, &end, err)) && found) {
        buffer_append(out, text + copied, start - copied);
        buffer_append(out, step->content, step->n_content);
        copied = end;
    }
    buffer_append(out, text + copied, n_bytes - copied);
    regex_scratch_finish(&scratch);
    return ok;
}

static bool begins_with(const struct decoder_step *step, const char *text, size_t n_bytes)
{
    return n_bytes >= step->n_character && memcmp(text, step->character, step->n_character) == 0;
}

static void write_stripped(const struct decoder_step *step, const char *text, size_t n_bytes,
                           struct buffer *out)
{
    size_t start = 0, end = n_bytes;

    for (size_t i = 0; i < step->start && begins_with(step, text + start, n_bytes - start); i++)
        start += step->n_character;
    for (size_t i = 0; i < step->stop && end >= start + step->n_character &&
                       memcmp(text + end - step->n_character, step->character, step->n_character) == 0;
         i++)
        end -= step->n_character;
    buffer_append(out, text + start, end - start);
}

static void write_spaces(const struct decoder_step *step, const char *text, size_t n_bytes, bool is_first,
                         struct buffer *out)
{
    for (size_t i = 0; i < n_bytes;) {
        if (!begins_with(step, text + i, n_bytes - i)) {
            buffer_append_byte(out, text[i++]);
            continue;
        }
        if (!is_first || !step->drops_first)
            buffer_append_byte(out, ' ');
        i += step->n_character;
    }
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* "<0x0A>"; the reference also reads a plus sign in place of the first digit. */
static int fallback_byte(const char *token, size_t n_bytes)
{
    if (n_bytes != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>')
        return -1;
    int high = token[3] == '+' ? 0 : hex_digit(token[3]), low = hex_digit(token[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static void write_joinable(const struct decoder *decoder, const char *token, size_t n_bytes,
                           struct buffer *out, bool *is_byte_out)
{
    int byte = decoder->join == JOIN_BYTE_FALLBACK ? fallback_byte(token, n_bytes) : -1;

    *is_byte_out = byte >= 0;
    if (byte >= 0)
        buffer_append_byte(out, (char)byte);
    else if (decoder->join != JOIN_BYTE_LEVEL || !byte_level_decode(token, n_bytes, out))
        buffer_append(out, token, n_bytes);
}

bool decoder_write_token(const struct decoder *decoder, const char *token, size_t n_bytes, bool is_first,
                         struct buffer *out, bool *is_byte_out, struct error *err)
{
    struct buffer texts[2];
    bool ok = true;

    buffer_init(&texts[0], TOKEN_BYTES_MOST);
    buffer_init(&texts[1], TOKEN_BYTES_MOST);
    for (size_t i = 0; ok && i < decoder->n_token_steps; i++) {
        const struct decoder_step *step = &decoder->token_steps[i];
        struct buffer *to = &texts[i % 2];
        buffer_clear(to);
        if (step->kind == STEP_REPLACE)
            ok = write_replaced(step, token, n_bytes, to, err);
        else if (step->kind == STEP_STRIP)
            write_stripped(step, token, n_bytes, to);
        else
            write_spaces(step, token, n_bytes, is_first, to);
        if (ok && to->failed)
            ok = error_set(err, ERROR_TOO_LARGE, "decoder", "makes a token too long, or memory is out");
        token = buffer_text(to);
        n_bytes = to->n_bytes;
    }
    if (ok) {
        write_joinable(decoder, token, n_bytes, out, is_byte_out);
        ok = !out->failed || error_no_memory(err);
    }
    buffer_finish(&texts[0]);
    buffer_finish(&texts[1]);
    return ok;
}

/* ---- the stream ---- */

void decoder_stream_init(struct decoder_stream *stream, const struct decoder *decoder, bool is_whole,
                         bool continues)
{
    *stream = (struct decoder_stream){
        .decoder = decoder, .is_whole = is_whole, .is_first = !continues, .continues = continues};
    buffer_init(&stream->pending, 0);
    for (size_t i = 0; i < decoder->n_text_steps; i++)
        stream->is_past_start[i] = continues;
}

void decoder_stream_finish(struct decoder_stream *stream)
{
    buffer_finish(&stream->pending);
}

/* Valid UTF-8 from step `at` of the text steps on. */
static void emit(struct decoder_stream *stream, size_t at, const char *text, size_t n_bytes,
                 struct buffer *out);

static void emit_held(struct decoder_stream *stream, size_t at, struct buffer *out)
{
    const struct decoder_step *step = &stream->decoder->text_steps[at];

    for (; stream->n_held[at] > 0; stream->n_held[at]--)
        emit(stream, at + 1, step->character, step->n_character, out);
}

/* The beginning is dropped as it comes; what might be the end waits. */
static void emit_stripped(struct decoder_stream *stream, size_t at, const char *character, size_t n_bytes,
                          struct buffer *out)
{
    const struct decoder_step *step = &stream->decoder->text_steps[at];
    bool is_match = n_bytes == step->n_character && memcmp(character, step->character, n_bytes) == 0;

    if (!stream->is_past_start[at] && is_match && stream->n_stripped[at] < step->start) {
        stream->n_stripped[at]++;
        return;
    }
    stream->is_past_start[at] = true;
    if (is_match && stream->n_held[at] < step->stop) {
        stream->n_held[at]++;
        return;
    }
    if (!is_match)
        emit_held(stream, at, out);
    emit(stream, at + 1, character, n_bytes, out);
}

/* A step with nothing left to do lets the text through as a whole. */
static bool is_idle(const struct decoder_stream *stream, size_t at)
{
    const struct decoder_step *step = &stream->decoder->text_steps[at];
    return step->kind == STEP_STRIP && stream->is_past_start[at] && step->stop == 0;
}

static void emit(struct decoder_stream *stream, size_t at, const char *text, size_t n_bytes,
                 struct buffer *out)
{
    while (at < stream->decoder->n_text_steps && is_idle(stream, at))
        at++;
    if (at == stream->decoder->n_text_steps) {
        buffer_append(out, text, n_bytes);
        return;
    }
    const struct decoder_step *step = &stream->decoder->text_steps[at];
    for (size_t i = 0, n; i < n_bytes; i += n) {
        uint32_t unused;
        n = utf8_decode(text + i, n_bytes - i, &unused);
        if (step->kind == STEP_STRIP)
            emit_stripped(stream, at, text + i, n, out);
        else if (n == step->pattern.n_literal && memcmp(text + i, step->pattern.literal, n) == 0)
            emit(stream, at + 1, step->content, step->n_content, out);
        else
            emit(stream, at + 1, text + i, n, out);
    }
}

static void emit_replacements(struct decoder_stream *stream, size_t n, struct buffer *out)
{
    for (size_t i = 0; i < n; i++)
        emit(stream, 0, REPLACEMENT, 3, out);
}

/* Writes what of the pending bytes is decided. An unfinished character stays, unless it is the end. */
static void drain(struct decoder_stream *stream, bool is_end, struct buffer *out)
{
    bool per_byte = stream->decoder->join == JOIN_BYTE_FALLBACK;
    const char *bytes = buffer_text(&stream->pending);
    size_t n_bytes = stream->pending.n_bytes, at = 0;

    while (at < n_bytes) {
        size_t n_valid = utf8_valid_prefix(bytes + at, n_bytes - at), n_bad = 0;
        emit(stream, 0, bytes + at, n_valid, out);
        at += n_valid;
        if (at == n_bytes)
            break;
        if (utf8_next(bytes + at, n_bytes - at, &n_bad) == UTF8_INCOMPLETE) {
            if (!is_end)
                break;
            n_bad = n_bytes - at;
        }
        emit_replacements(stream, per_byte ? n_bad : 1, out);
        at += n_bad;
    }
    if (stream->pending.failed)
        out->failed = true;
    buffer_drop_front(&stream->pending, at);
}

/* A run of fallback bytes is over. Judged as a whole, it is valid or it is not. */
static void end_run(struct decoder_stream *stream, struct buffer *out)
{
    size_t n_bytes = stream->pending.n_bytes;

    if (!stream->is_whole || utf8_is_valid(buffer_text(&stream->pending), n_bytes)) {
        drain(stream, true, out);
        return;
    }
    emit_replacements(stream, n_bytes, out);
    buffer_clear(&stream->pending);
}

void decoder_stream_push(struct decoder_stream *stream, const char *bytes, size_t n_bytes, bool is_byte,
                         struct buffer *out)
{
    enum decoder_join join = stream->decoder->join;
    bool is_first = stream->is_first;

    stream->is_first = false;
    if (join == JOIN_BYTE_LEVEL || is_byte) {
        buffer_append(&stream->pending, bytes, n_bytes);
        if (join == JOIN_BYTE_LEVEL || !stream->is_whole)
            drain(stream, false, out);
        return;
    }
    if (stream->pending.n_bytes > 0)
        end_run(stream, out);
    if (join == JOIN_SPACES && !is_first)
        emit(stream, 0, " ", 1, out);
    emit(stream, 0, bytes, n_bytes, out);
}

void decoder_stream_flush(struct decoder_stream *stream, struct buffer *out)
{
    if (stream->decoder->join == JOIN_BYTE_LEVEL)
        drain(stream, true, out);
    else if (stream->pending.n_bytes > 0)
        end_run(stream, out);
}
