/*
 * pretokenize.c - stages; each cuts a piece into segments (matches and what lies between), joins them as
 * its behaviour says, and hands every piece down to the next stage before it looks for another one.
 */
#include "text/pretokenize.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "text/byte_level.h"
#include "text/character.h"
#include "text/pattern.h"

#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

enum stage_kind {
    STAGE_SPLIT,      /* by pattern or predicate */
    STAGE_WHITESPACE, /* runs of \w and runs of what is neither \w nor space */
    STAGE_METASPACE,
    STAGE_BYTE_LEVEL
};

enum behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };

enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct pretokenizer_stage {
    enum stage_kind kind;
    bool (*is_match)(uint32_t code_point); /* a predicate in place of the pattern */
    struct pattern pattern;
    enum behavior behavior;
    bool invert;
    bool splits; /* METASPACE, BYTE_LEVEL */
    char replacement[5];
    size_t n_replacement;
    enum prepend_scheme prepend_scheme;
    bool add_prefix_space;
};

/* ---- loading ---- */

static bool parse_behavior(enum behavior *out, const json_t *json, struct error *err)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const char *name = NULL;

    if (!json_get_string(json, "behavior", &name, err))
        return false;
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum behavior)i;
            return true;
        }
    return !name || error_set(err, ERROR_BAD_INPUT, "pre_tokenizer.behavior", "'%s' is unknown", name);
}

static bool parse_split(struct pretokenizer_stage *stage, const json_t *json, struct error *err)
{
    if (json_is_absent(json, "behavior"))
        return error_set(err, ERROR_BAD_INPUT, "pre_tokenizer.behavior", "is missing");
    return pattern_parse(&stage->pattern, json_object_get(json, "pattern"), "pre_tokenizer.pattern", err) &&
           parse_behavior(&stage->behavior, json, err) && json_get_bool(json, "invert", &stage->invert, err);
}

static bool parse_digits(struct pretokenizer_stage *stage, const json_t *json, struct error *err)
{
    bool individual = false;

    if (!json_get_bool(json, "individual_digits", &individual, err))
        return false;
    stage->is_match = character_is_numeric;
    stage->behavior = individual ? ISOLATED : CONTIGUOUS;
    return true;
}

static bool parse_punctuation(struct pretokenizer_stage *stage, const json_t *json, struct error *err)
{
    stage->is_match = character_is_punctuation;
    stage->behavior = ISOLATED;
    return parse_behavior(&stage->behavior, json, err);
}

static bool parse_whitespace(struct pretokenizer_stage *stage, const json_t *json, struct error *err)
{
    (void)json;
    (void)err;
    stage->kind = STAGE_WHITESPACE;
    stage->behavior = REMOVED;
    stage->invert = true;
    return true;
}

static bool parse_whitespace_split(struct pretokenizer_stage *stage, const json_t *json, struct error *err)
{
    (void)json;
    (void)err;
    stage->is_match = character_is_space;
    stage->behavior = REMOVED;
    return true;
}

static bool parse_scheme(enum prepend_scheme *out, const json_t *json, struct error *err)
{
    const char *name = "always";
    bool add_prefix_space = true;

    if (!json_get_string(json, "prepend_scheme", &name, err) ||
        !json_get_bool(json, "add_prefix_space", &add_prefix_space, err))
        return false;
    if (strcmp(name, "always") == 0)
        *out = PREPEND_ALWAYS;
    else if (strcmp(name, "first") == 0)
        *out = PREPEND_FIRST;
    else if (strcmp(name, "never") == 0)
        *out = PREPEND_NEVER;
    else
        return error_set(err, ERROR_BAD_INPUT, "pre_tokenizer.prepend_scheme", "'%s' is unknown", name);
    if (!add_prefix_space && *out != PREPEND_NEVER)
        return error_set(err, ERROR_BAD_INPUT, "pre_tokenizer.prepend_scheme",
                         "'%s' contradicts add_prefix_space", name);
    return true;
}

static bool parse_metaspace(struct pretokenizer_stage *stage, const json_t *json, struct error *err)
{
    const char *replacement = "\xE2\x96\x81";
    uint32_t unused;

    stage->kind = STAGE_METASPACE;
    stage->splits = true;
    if (!json_get_string(json, "replacement", &replacement, err) ||
        !parse_scheme(&stage->prepend_scheme, json, err) ||
        !json_get_bool(json, "split", &stage->splits, err))
        return false;
    stage->n_replacement = strlen(replacement);
    if (!*replacement || utf8_decode(replacement, stage->n_replacement, &unused) != stage->n_replacement)
        return error_set(err, ERROR_BAD_INPUT, "pre_tokenizer.replacement", "'%s' is not one character",
                         replacement);
    memcpy(stage->replacement, replacement, stage->n_replacement);
    stage->behavior = MERGED_WITH_NEXT;
    stage->pattern.literal = strdup(replacement);
    stage->pattern.n_literal = stage->n_replacement;
    return stage->pattern.literal ? true : error_no_memory(err);
}

static bool parse_byte_level(struct pretokenizer_stage *stage, const json_t *json, struct error *err)
{
    stage->kind = STAGE_BYTE_LEVEL;
    stage->splits = stage->add_prefix_space = true;
    if (!json_get_bool(json, "use_regex", &stage->splits, err) ||
        !json_get_bool(json, "add_prefix_space", &stage->add_prefix_space, err))
        return false;
    stage->behavior = ISOLATED;
    return !stage->splits || pattern_init_regex(&stage->pattern, GPT2_PATTERN, err);
}

typedef bool (*stage_parser)(struct pretokenizer_stage *stage, const json_t *json, struct error *err);

static bool add_stage(struct pretokenizer *pretokenizer, stage_parser parse, const json_t *json,
                      struct error *err)
{
    struct pretokenizer_stage *stages = NULL;

    if (pretokenizer->n_stages == PRETOKENIZER_STAGES_MOST)
        return error_set(err, ERROR_TOO_LARGE, "pre_tokenizer", "has more than %d stages",
                         PRETOKENIZER_STAGES_MOST);
    stages = realloc(pretokenizer->stages, (pretokenizer->n_stages + 1) * sizeof *stages);
    if (!stages)
        return error_no_memory(err);
    pretokenizer->stages = stages;
    stages[pretokenizer->n_stages] = (struct pretokenizer_stage){.kind = STAGE_SPLIT};
    return parse(&stages[pretokenizer->n_stages++], json, err);
}

/* JSON nesting is limited, so the recursion is. */
static bool add_stages(struct pretokenizer *pretokenizer, const json_t *json, struct error *err)
{
    static const struct {
        const char *name;
        stage_parser parse;
    } kinds[] = {{"Split", parse_split},
                 {"Digits", parse_digits},
                 {"Punctuation", parse_punctuation},
                 {"Whitespace", parse_whitespace},
                 {"WhitespaceSplit", parse_whitespace_split},
                 {"Metaspace", parse_metaspace},
                 {"ByteLevel", parse_byte_level}};
    const char *type = NULL;
    const json_t *list = NULL;

    if (!json_is_object(json))
        return error_set(err, ERROR_BAD_INPUT, "pre_tokenizer", "is not an object");
    if (!json_require_string(json, "type", &type, err))
        return false;
    if (strcmp(type, "Sequence") == 0) {
        if (!json_get_array(json, "pretokenizers", &list, err))
            return false;
        for (size_t i = 0; i < json_array_size(list); i++)
            if (!add_stages(pretokenizer, json_array_get(list, i), err))
                return false;
        return true;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(type, kinds[i].name) == 0)
            return add_stage(pretokenizer, kinds[i].parse, json, err);
    return error_set(err, ERROR_MISMATCH, "pre_tokenizer.type", "pre-tokenizer '%s' is not supported", type);
}

bool pretokenizer_parse(struct pretokenizer *pretokenizer, const json_t *json, struct error *err)
{
    *pretokenizer = (struct pretokenizer){0};
    if (json && !json_is_null(json) && !add_stages(pretokenizer, json, err))
        return false;
    pretokenizer->ends_in_bytes = pretokenizer->n_stages > 0 &&
                                  pretokenizer->stages[pretokenizer->n_stages - 1].kind == STAGE_BYTE_LEVEL;
    return true;
}

void pretokenizer_finish(struct pretokenizer *pretokenizer)
{
    for (size_t i = 0; i < pretokenizer->n_stages; i++)
        pattern_finish(&pretokenizer->stages[i].pattern);
    free(pretokenizer->stages);
    *pretokenizer = (struct pretokenizer){0};
}

void pretokenizer_scratch_finish(struct pretokenizer_scratch *scratch)
{
    for (size_t i = 0; i < PRETOKENIZER_STAGES_MOST; i++) {
        buffer_finish(&scratch->rewritten[i]);
        buffer_finish(&scratch->mapped[i]);
    }
    regex_scratch_finish(&scratch->regex);
    *scratch = (struct pretokenizer_scratch){0};
}

void pretokenizer_set_prefix_space(struct pretokenizer *pretokenizer, bool add_prefix_space)
{
    for (size_t i = 0; i < pretokenizer->n_stages; i++)
        if (pretokenizer->stages[i].kind == STAGE_BYTE_LEVEL)
            pretokenizer->stages[i].add_prefix_space = add_prefix_space;
}

/* ---- segments ---- */

struct segment {
    size_t start, end;
    bool is_match;
};

struct segments {
    const struct pretokenizer_stage *stage;
    struct pattern_cursor cursor;
    const char *text;
    size_t n_bytes;
    size_t covered;         /* the segments handed out end here */
    struct segment waiting; /* a match behind a gap */
    bool has_waiting, is_done;
};

static void segments_init(struct segments *segments, const struct pretokenizer_stage *stage,
                          struct regex_scratch *scratch, const char *text, size_t n_bytes)
{
    segments->stage = stage;
    segments->text = text;
    segments->n_bytes = n_bytes;
    segments->covered = 0;
    segments->has_waiting = segments->is_done = false;
    if (!stage->is_match && stage->kind != STAGE_WHITESPACE)
        pattern_cursor_init(&segments->cursor, &stage->pattern, scratch, text, n_bytes);
}

enum word_class { CLASS_SPACE, CLASS_WORD, CLASS_OTHER };

static enum word_class word_class(uint32_t code_point)
{
    return character_is_word(code_point)    ? CLASS_WORD
           : character_is_space(code_point) ? CLASS_SPACE
                                            : CLASS_OTHER;
}

/* From `covered` on: the first run of one class that is not space. */
static bool find_run(const struct segments *segments, size_t *start_out, size_t *end_out)
{
    enum word_class class = CLASS_SPACE;

    for (size_t i = segments->covered, n; i < segments->n_bytes; i += n) {
        uint32_t code_point;
        n = utf8_decode(segments->text + i, segments->n_bytes - i, &code_point);
        enum word_class this = word_class(code_point);
        if (class == CLASS_SPACE && this != CLASS_SPACE) {
            class = this;
            *start_out = i;
        } else if (this != class) {
            *end_out = i;
            return true;
        }
    }
    *end_out = segments->n_bytes;
    return class != CLASS_SPACE;
}

static bool find_character(const struct segments *segments, size_t *start_out, size_t *end_out)
{
    for (size_t i = segments->covered, n; i < segments->n_bytes; i += n) {
        uint32_t code_point;
        n = utf8_decode(segments->text + i, segments->n_bytes - i, &code_point);
        if (segments->stage->is_match(code_point)) {
            *start_out = i;
            *end_out = i + n;
            return true;
        }
    }
    return false;
}

static bool find_match(struct segments *segments, bool *found, size_t *start, size_t *end, struct error *err)
{
    if (segments->stage->kind == STAGE_WHITESPACE)
        *found = find_run(segments, start, end);
    else if (segments->stage->is_match)
        *found = find_character(segments, start, end);
    else
        return pattern_cursor_next(&segments->cursor, found, start, end, err);
    return true;
}

/* *more_out false: the end. Matches may be empty, gaps are not. */
static bool segments_next(struct segments *segments, struct segment *out, bool *more_out, struct error *err)
{
    size_t start = 0, end = 0;
    bool found = false, invert = segments->stage->invert;

    *more_out = true;
    if (segments->has_waiting) {
        *out = segments->waiting;
        segments->has_waiting = false;
        return true;
    }
    if (!segments->is_done && !find_match(segments, &found, &start, &end, err))
        return false;
    if (!found) {
        *out = (struct segment){.start = segments->covered, .end = segments->n_bytes, .is_match = invert};
        *more_out = !segments->is_done && segments->covered < segments->n_bytes;
        segments->is_done = true;
        return true;
    }
    *out = (struct segment){.start = start, .end = end, .is_match = !invert};
    if (segments->covered < start) {
        segments->waiting = *out;
        segments->has_waiting = true;
        *out = (struct segment){.start = segments->covered, .end = start, .is_match = invert};
    }
    segments->covered = end;
    return true;
}

/* ---- pieces ---- */

struct run {
    const struct pretokenizer *pretokenizer;
    struct pretokenizer_scratch *scratch;
    pretokenizer_sink sink;
    void *context;
};

static bool run_stage(const struct run *run, size_t stage, const char *text, size_t n_bytes, bool is_first,
                      struct error *err);

/* A finished piece of stage `stage`. ByteLevel's bytes become characters, except for the last stage, whose
   words are encoded as bytes. */
static bool hand_down(const struct run *run, size_t stage, const char *text, size_t n_bytes, bool is_first,
                      struct error *err)
{
    if (n_bytes == 0)
        return true;
    if (stage + 1 == run->pretokenizer->n_stages)
        return run->sink(run->context, text, n_bytes, err);
    if (run->pretokenizer->stages[stage].kind == STAGE_BYTE_LEVEL) {
        struct buffer *mapped = &run->scratch->mapped[stage];
        buffer_clear(mapped);
        byte_level_encode(text, n_bytes, mapped);
        if (mapped->failed)
            return error_no_memory(err);
        text = mapped->data;
        n_bytes = mapped->n_bytes;
    }
    return run_stage(run, stage + 1, text, n_bytes, is_first, err);
}

/* Whether `next` continues the piece that ends in a segment of kind `last_is_match`. */
static bool joins(enum behavior behavior, bool last_is_match, const struct segment *next)
{
    switch (behavior) {
    case MERGED_WITH_PREVIOUS:
        return next->is_match && !last_is_match;
    case MERGED_WITH_NEXT:
        return last_is_match && !next->is_match;
    case CONTIGUOUS:
        return next->is_match == last_is_match;
    case REMOVED:
    case ISOLATED:
        break;
    }
    return false;
}

static bool split_piece(const struct run *run, size_t stage, const char *text, size_t n_bytes, bool is_first,
                        struct error *err)
{
    const struct pretokenizer_stage *this = &run->pretokenizer->stages[stage];
    struct segments segments;
    struct segment piece = {0}, next;
    bool has_piece = false, more = true;

    segments_init(&segments, this, &run->scratch->regex, text, n_bytes);
    for (;;) {
        if (!segments_next(&segments, &next, &more, err))
            return false;
        if (!more)
            break;
        if (this->behavior == REMOVED && next.is_match)
            continue;
        if (has_piece && joins(this->behavior, piece.is_match, &next)) {
            piece.end = next.end;
            piece.is_match = next.is_match;
            continue;
        }
        if (has_piece && !hand_down(run, stage, text + piece.start, piece.end - piece.start,
                                    is_first && piece.start == 0, err))
            return false;
        piece = next;
        has_piece = true;
    }
    return !has_piece || hand_down(run, stage, text + piece.start, piece.end - piece.start,
                                   is_first && piece.start == 0, err);
}

static void write_metaspaces(const struct pretokenizer_stage *stage, const char *text, size_t n_bytes,
                             bool is_first, struct buffer *out)
{
    const char *first = n_bytes > 0 && text[0] == ' ' ? stage->replacement : text;
    size_t n_first = first == text ? n_bytes : stage->n_replacement;
    bool is_marked =
        n_first >= stage->n_replacement && memcmp(first, stage->replacement, stage->n_replacement) == 0;

    if (!is_marked &&
        (stage->prepend_scheme == PREPEND_ALWAYS || (stage->prepend_scheme == PREPEND_FIRST && is_first)))
        buffer_append(out, stage->replacement, stage->n_replacement);
    for (size_t i = 0; i < n_bytes;) {
        const char *space = memchr(text + i, ' ', n_bytes - i);
        size_t n = space ? (size_t)(space - (text + i)) : n_bytes - i;
        buffer_append(out, text + i, n);
        if (space)
            buffer_append(out, stage->replacement, stage->n_replacement);
        i += n + (space != NULL);
    }
}

static bool run_stage(const struct run *run, size_t stage, const char *text, size_t n_bytes, bool is_first,
                      struct error *err)
{
    const struct pretokenizer_stage *this = &run->pretokenizer->stages[stage];
    struct buffer *rewritten = &run->scratch->rewritten[stage];
    bool adds_space = this->kind == STAGE_BYTE_LEVEL && this->add_prefix_space && text[0] != ' ';

    if (this->kind == STAGE_METASPACE || adds_space) {
        buffer_clear(rewritten);
        if (this->kind == STAGE_METASPACE) {
            write_metaspaces(this, text, n_bytes, is_first, rewritten);
        } else {
            buffer_append_byte(rewritten, ' ');
            buffer_append(rewritten, text, n_bytes);
        }
        if (rewritten->failed)
            return error_no_memory(err);
        text = rewritten->data;
        n_bytes = rewritten->n_bytes;
    }
    if ((this->kind == STAGE_METASPACE || this->kind == STAGE_BYTE_LEVEL) && !this->splits)
        return hand_down(run, stage, text, n_bytes, is_first, err);
    return split_piece(run, stage, text, n_bytes, is_first, err);
}

bool pretokenizer_run(const struct pretokenizer *pretokenizer, const char *text, size_t n_bytes,
                      bool is_first, struct pretokenizer_scratch *scratch, pretokenizer_sink sink,
                      void *context, struct error *err)
{
    struct run run = {.pretokenizer = pretokenizer, .scratch = scratch, .sink = sink, .context = context};

    if (n_bytes == 0)
        return true;
    if (pretokenizer->n_stages == 0)
        return sink(context, text, n_bytes, err);
    return run_stage(&run, 0, text, n_bytes, is_first, err);
}
