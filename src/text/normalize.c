/*
 * normalize.c - a list of steps, each from one buffer to the other.
 *
 * Unicode forms: utf8proc decomposes each character and composes the result, but the ordering of
 * combining marks in between is ours, because utf8proc's takes time quadratic in their number.
 */
#include "text/normalize.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/byte_level.h"
#include "text/character.h"
#include "text/pattern.h"

#define STEPS_MOST 64
/* What Replace and Prepend may make of a text; NFKD's longest decomposition is 18 code points for 3 bytes. */
#define GROWTH_MOST 64
#define GROWTH_FREE ((size_t)64 << 10)

enum step_kind {
    STEP_NFC,
    STEP_NFD,
    STEP_NFKC,
    STEP_NFKD,
    STEP_LOWERCASE,
    STEP_STRIP,
    STEP_STRIP_ACCENTS,
    STEP_PREPEND,
    STEP_REPLACE,
    STEP_BYTE_LEVEL
};

struct normalizer_step {
    enum step_kind kind;
    bool strip_left, strip_right;
    struct pattern pattern;
    char *content; /* of Prepend and Replace; owned */
    size_t n_content;
};

/* ---- loading ---- */

static bool copy_content(struct normalizer_step *step, const json_t *json, const char *key, const char *param,
                         struct error *err)
{
    const json_t *value = json_object_get(json, key);

    if (!json_is_string(value))
        return error_set(err, ERROR_BAD_INPUT, param, "has no text");
    step->n_content = json_string_length(value);
    step->content = malloc(step->n_content + 1);
    if (!step->content)
        return error_no_memory(err);
    memcpy(step->content, json_string_value(value), step->n_content + 1);
    return true;
}

static bool parse_options(struct normalizer_step *step, const json_t *json, struct error *err)
{
    switch (step->kind) {
    case STEP_STRIP:
        return json_get_bool(json, "strip_left", &step->strip_left, err) &&
               json_get_bool(json, "strip_right", &step->strip_right, err);
    case STEP_PREPEND:
        return copy_content(step, json, "prepend", "normalizer.prepend", err);
    case STEP_REPLACE:
        return pattern_parse(&step->pattern, json_object_get(json, "pattern"), "normalizer.pattern", err) &&
               copy_content(step, json, "content", "normalizer.content", err);
    default:
        return true;
    }
}

static bool add_step(struct normalizer *normalizer, enum step_kind kind, const json_t *json,
                     struct error *err)
{
    struct normalizer_step *steps = NULL;

    if (normalizer->n_steps == STEPS_MOST)
        return error_set(err, ERROR_TOO_LARGE, "normalizer", "has more than %d steps", STEPS_MOST);
    steps = realloc(normalizer->steps, (normalizer->n_steps + 1) * sizeof *steps);
    if (!steps)
        return error_no_memory(err);
    normalizer->steps = steps;
    steps[normalizer->n_steps] = (struct normalizer_step){.kind = kind};
    return parse_options(&steps[normalizer->n_steps++], json, err);
}

/* JSON nesting is limited, so the recursion is. */
static bool add_steps(struct normalizer *normalizer, const json_t *json, struct error *err)
{
    static const struct {
        const char *name;
        enum step_kind kind;
    } kinds[] = {{"NFC", STEP_NFC},
                 {"NFD", STEP_NFD},
                 {"NFKC", STEP_NFKC},
                 {"NFKD", STEP_NFKD},
                 {"Lowercase", STEP_LOWERCASE},
                 {"Strip", STEP_STRIP},
                 {"StripAccents", STEP_STRIP_ACCENTS},
                 {"Prepend", STEP_PREPEND},
                 {"Replace", STEP_REPLACE},
                 {"ByteLevel", STEP_BYTE_LEVEL}};
    const char *type = NULL;
    const json_t *list = NULL;

    if (!json_is_object(json))
        return error_set(err, ERROR_BAD_INPUT, "normalizer", "is not an object");
    if (!json_require_string(json, "type", &type, err))
        return false;
    if (strcmp(type, "Sequence") == 0) {
        if (!json_get_array(json, "normalizers", &list, err))
            return false;
        for (size_t i = 0; i < json_array_size(list); i++)
            if (!add_steps(normalizer, json_array_get(list, i), err))
                return false;
        return true;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(type, kinds[i].name) == 0)
            return add_step(normalizer, kinds[i].kind, json, err);
    return error_set(err, ERROR_MISMATCH, "normalizer.type", "normalizer '%s' is not supported", type);
}

bool normalizer_parse(struct normalizer *normalizer, const json_t *json, struct error *err)
{
    *normalizer = (struct normalizer){0};
    return !json || json_is_null(json) || add_steps(normalizer, json, err);
}

void normalizer_finish(struct normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->n_steps; i++) {
        pattern_finish(&normalizer->steps[i].pattern);
        free(normalizer->steps[i].content);
    }
    free(normalizer->steps);
    *normalizer = (struct normalizer){0};
}

void normalizer_scratch_finish(struct normalizer_scratch *scratch)
{
    buffer_finish(&scratch->texts[0]);
    buffer_finish(&scratch->texts[1]);
    free(scratch->code_points);
    regex_scratch_finish(&scratch->regex);
    *scratch = (struct normalizer_scratch){0};
}

/* ---- Unicode forms ---- */

static bool is_ascii(const char *text, size_t n_bytes)
{
    unsigned char all = 0;

    for (size_t i = 0; i < n_bytes; i++)
        all |= (unsigned char)text[i];
    return all < 0x80;
}

static bool reserve_code_points(struct normalizer_scratch *scratch, size_t n, struct error *err)
{
    size_t capacity = size_max(n, scratch->code_point_capacity * 2), n_bytes;
    int32_t *grown = NULL;

    if (n <= scratch->code_point_capacity)
        return true;
    if (!size_multiply(capacity, sizeof *grown, &n_bytes) ||
        !(grown = realloc(scratch->code_points, n_bytes)))
        return error_no_memory(err);
    scratch->code_points = grown;
    scratch->code_point_capacity = capacity;
    return true;
}

static bool decompose(const char *text, size_t n_bytes, utf8proc_option_t options,
                      struct normalizer_scratch *scratch, size_t *n_out, struct error *err)
{
    size_t n = 0;

    for (size_t i = 0; i < n_bytes;) {
        uint32_t code_point;
        int boundary = 0;
        i += utf8_decode(text + i, n_bytes - i, &code_point);
        if (!reserve_code_points(scratch, n + 32, err))
            return false;
        if (code_point < 0x80 || !character_decomposes(code_point)) {
            scratch->code_points[n++] = (int32_t)code_point;
            continue;
        }
        utf8proc_ssize_t n_made = utf8proc_decompose_char((utf8proc_int32_t)code_point,
                                                          scratch->code_points + n, 32, options, &boundary);
        if (n_made < 0 || n_made > 32)
            return error_set(err, ERROR_INTERNAL, NULL, "decomposing U+%04X failed", code_point);
        n += (size_t)n_made;
    }
    *n_out = n;
    return true;
}

static int combining_class(int32_t code_point)
{
    return character_combining_class((uint32_t)code_point);
}

/* Stable, by class: merges sorted halves, so that a text of nothing but marks does not take quadratic time.
 */
static void sort_marks(int32_t *marks, size_t n, int32_t *spare)
{
    if (n < 2)
        return;
    size_t half = n / 2, left = 0, right = half;
    sort_marks(marks, half, spare);
    sort_marks(marks + half, n - half, spare);
    if (combining_class(marks[half - 1]) <= combining_class(marks[half]))
        return;
    for (size_t i = 0; i < n; i++)
        spare[i] =
            right == n || (left < half && combining_class(marks[left]) <= combining_class(marks[right]))
                ? marks[left++]
                : marks[right++];
    memcpy(marks, spare, n * sizeof *marks);
}

static bool order_marks(struct normalizer_scratch *scratch, size_t n, struct error *err)
{
    for (size_t i = 0, end; i < n; i = end) {
        end = i + 1;
        if (combining_class(scratch->code_points[i]) == 0)
            continue;
        while (end < n && combining_class(scratch->code_points[end]) != 0)
            end++;
        if (end - i < 2)
            continue;
        if (!reserve_code_points(scratch, n + (end - i), err))
            return false;
        sort_marks(scratch->code_points + i, end - i, scratch->code_points + n);
    }
    return true;
}

static bool apply_form(enum step_kind kind, const char *text, size_t n_bytes,
                       struct normalizer_scratch *scratch, struct buffer *out, struct error *err)
{
    bool is_compatible = kind == STEP_NFKC || kind == STEP_NFKD;
    utf8proc_option_t options = is_compatible ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE;
    size_t n = 0;

    if (!decompose(text, n_bytes, options, scratch, &n, err) || !order_marks(scratch, n, err))
        return false;
    if (kind == STEP_NFC || kind == STEP_NFKC)
        n = (size_t)utf8proc_normalize_utf32(scratch->code_points, (utf8proc_ssize_t)n,
                                             UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (size_t i = 0; i < n; i++) {
        char encoded[4];
        size_t n_encoded = utf8_encode((uint32_t)scratch->code_points[i], encoded);
        buffer_append(out, encoded, n_encoded);
    }
    return true;
}

/* ---- the other steps ---- */

static void apply_lowercase(const char *text, size_t n_bytes, struct buffer *out)
{
    for (size_t i = 0, n; i < n_bytes; i += n) {
        uint32_t code_point;
        char encoded[4];
        n = utf8_decode(text + i, n_bytes - i, &code_point);
        if (code_point == 0x130) { /* the one letter whose lower case is two: i and a dot above */
            buffer_append_text(out, "i\xCC\x87");
            continue;
        }
        size_t n_encoded = utf8_encode(character_lower(code_point), encoded);
        buffer_append(out, encoded, n_encoded);
    }
}

static void apply_strip(const struct normalizer_step *step, const char *text, size_t n_bytes,
                        struct buffer *out, bool *starts_at_origin)
{
    size_t first = 0, last = 0; /* the text that stays */
    bool any = false;

    for (size_t i = 0, n; i < n_bytes; i += n) {
        uint32_t code_point;
        n = utf8_decode(text + i, n_bytes - i, &code_point);
        if (character_is_space(code_point))
            continue;
        if (!any)
            first = i;
        any = true;
        last = i + n;
    }
    if (!any)
        first = last = n_bytes;
    if (!step->strip_left)
        first = 0;
    if (!step->strip_right)
        last = n_bytes;
    if (!any && (step->strip_left || step->strip_right))
        first = last = 0;
    *starts_at_origin = *starts_at_origin && first == 0;
    buffer_append(out, text + first, last - first);
}

static void apply_strip_accents(const char *text, size_t n_bytes, struct buffer *out, bool *starts_at_origin)
{
    for (size_t i = 0, n; i < n_bytes; i += n) {
        uint32_t code_point;
        n = utf8_decode(text + i, n_bytes - i, &code_point);
        if (!character_is_accent(code_point))
            buffer_append(out, text + i, n);
        else if (i == 0)
            *starts_at_origin = false;
    }
}

static size_t first_character_bytes(const char *text, size_t n_bytes)
{
    uint32_t unused;
    return utf8_decode(text, n_bytes, &unused);
}

/* What replaces a match counts as coming from the match's last character. */
static bool apply_replace(const struct normalizer_step *step, const char *text, size_t n_bytes,
                          struct normalizer_scratch *scratch, struct buffer *out, bool *starts_at_origin,
                          struct error *err)
{
    struct pattern_cursor cursor;
    size_t start = 0, end = 0, copied = 0;
    bool found = false;

    pattern_cursor_init(&cursor, &step->pattern, &scratch->regex, text, n_bytes);
    for (;;) {
        if (!pattern_cursor_next(&cursor, &found, &start, &end, err))
            return false;
        if (!found)
            break;
        if (start == 0 && end > 0 && (step->n_content == 0 || end > first_character_bytes(text, n_bytes)))
            *starts_at_origin = false;
        buffer_append(out, text + copied, start - copied);
        buffer_append(out, step->content, step->n_content);
        copied = end;
        if (out->failed)
            break; /* over the limit; the caller says so */
    }
    buffer_append(out, text + copied, n_bytes - copied);
    return true;
}

static bool apply_step(const struct normalizer_step *step, const char *text, size_t n_bytes,
                       struct normalizer_scratch *scratch, struct buffer *out, bool *starts_at_origin,
                       struct error *err)
{
    switch (step->kind) {
    case STEP_NFC:
    case STEP_NFD:
    case STEP_NFKC:
    case STEP_NFKD:
        return apply_form(step->kind, text, n_bytes, scratch, out, err);
    case STEP_LOWERCASE:
        apply_lowercase(text, n_bytes, out);
        return true;
    case STEP_STRIP:
        apply_strip(step, text, n_bytes, out, starts_at_origin);
        return true;
    case STEP_STRIP_ACCENTS:
        apply_strip_accents(text, n_bytes, out, starts_at_origin);
        return true;
    case STEP_PREPEND:
        buffer_append(out, step->content, step->n_content);
        buffer_append(out, text, n_bytes);
        return true;
    case STEP_REPLACE:
        return apply_replace(step, text, n_bytes, scratch, out, starts_at_origin, err);
    case STEP_BYTE_LEVEL:
        byte_level_encode(text, n_bytes, out);
        return true;
    }
    return true;
}

static bool is_idle(const struct normalizer_step *step, const char *text, size_t n_bytes)
{
    return step->kind <= STEP_NFKD && is_ascii(text, n_bytes);
}

bool normalizer_apply(const struct normalizer *normalizer, const char *text, size_t n_bytes,
                      struct normalizer_scratch *scratch, const char **text_out, size_t *n_bytes_out,
                      bool *starts_at_origin_out, struct error *err)
{
    size_t most =
        n_bytes > (SIZE_MAX - GROWTH_FREE) / GROWTH_MOST ? SIZE_MAX : n_bytes * GROWTH_MOST + GROWTH_FREE;

    *starts_at_origin_out = true;
    for (size_t i = 0; i < normalizer->n_steps && n_bytes > 0; i++) {
        const struct normalizer_step *step = &normalizer->steps[i];
        struct buffer *out = &scratch->texts[text == scratch->texts[0].data];
        if (is_idle(step, text, n_bytes))
            continue;
        buffer_clear(out);
        out->maximum = most;
        if (!apply_step(step, text, n_bytes, scratch, out, starts_at_origin_out, err))
            return false;
        if (out->failed)
            return error_set(err, ERROR_TOO_LARGE, NULL, "the normalised text is too long, or memory is out");
        text = buffer_text(out);
        n_bytes = out->n_bytes;
    }
    *text_out = text;
    *n_bytes_out = n_bytes;
    return true;
}
