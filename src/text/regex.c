/*
 * regex.c - Oniguruma's dialect translated to PCRE2's, then PCRE2 with its JIT compiler.
 *
 * The translation walks over the pattern once. Differences that matter to tokenizers:
 *   \s      Unicode White_Space; PCRE2 adds U+180E
 *   \w      Alphabetic, M, Nd, Pc, and outside classes ²³¹¼½¾; PCRE2 10.42 has L, N and the underscore
 *   \p{L}   the letters of Unicode 16; PCRE2 10.42 has those of Unicode 14
 *   \h      a hex digit; horizontal space in PCRE2
 *   ^ $     at every line, hence PCRE2_MULTILINE
 *   && [[   set operations in classes; PCRE2 takes them literally: refused
 *   (?m)    dot matches newlines; lines in PCRE2: refused
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/utf8.h"
#include "text/character.h"

/* Steps of one search. A run of spaces as long as the largest request stays below, exponential ones not. */
#define MATCH_LIMIT 200000000u
#define HEAP_LIMIT_KIB (256u << 10)
#define PATTERN_BYTES ((size_t)64 << 10)

#define SPACES                                                                                               \
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}"   \
    "\\x{3000}"
#define NOT_SPACES                                                                                           \
    "\\x{00}-\\x{08}\\x{0E}-\\x{1F}\\x{21}-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-\\x{1FFF}"       \
    "\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}\\x{3001}-\\x{D7FF}"        \
    "\\x{E000}-\\x{10FFFF}"
/* What \w has beside letters, marks and so on; what it has in Oniguruma alone, there not in classes. */
#define WORDS "\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"
#define WORDS_OUTSIDE_CLASSES "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"
/* The script without what PCRE2 adds by script extensions, and with what came after its tables. */
#define HAN "\\p{sc:Han}\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"
#define HEX_DIGITS "0-9A-Fa-f"

struct regex {
    pcre2_code *code;
    pcre2_match_context *context;
    bool has_jit;
};

struct translation {
    const char *pattern;
    size_t n_bytes, position;
    bool in_class;
    struct buffer out;
};

static bool refuse(struct error *err, const char *what)
{
    return error_set(err, ERROR_MISMATCH, NULL, "the regular expression uses %s, which is not supported",
                     what);
}

static bool starts_with(const struct translation *t, size_t at, const char *text)
{
    size_t n = strlen(text);
    return t->n_bytes - at >= n && memcmp(t->pattern + at, text, n) == 0;
}

/* A set is a class of its own, or members of the class around it. */
static void begin_set(struct translation *t, bool is_negated)
{
    if (!t->in_class)
        buffer_append_text(&t->out, is_negated ? "[^" : "[");
}

static void end_set(struct translation *t)
{
    if (!t->in_class)
        buffer_append_text(&t->out, "]");
}

static void put_set(struct translation *t, const char *members, bool is_negated)
{
    begin_set(t, is_negated);
    buffer_append_text(&t->out, members);
    end_set(t);
}

/* A general category, with the characters that are newer than PCRE2's tables. */
static void put_category(struct translation *t, const char *name)
{
    size_t position = 0;
    uint32_t first, last;

    buffer_printf(&t->out, "\\p{%s}", name);
    while (character_next_late_range(name, &position, &first, &last))
        buffer_printf(&t->out, "\\x{%X}-\\x{%X}", first, last);
}

static void put_words(struct translation *t, bool is_negated)
{
    static const char *const categories[] = {"L", "M", "Nd", "Nl", "Pc"};

    begin_set(t, is_negated);
    for (size_t i = 0; i < sizeof categories / sizeof *categories; i++)
        put_category(t, categories[i]);
    buffer_append_text(&t->out, WORDS);
    if (!t->in_class)
        buffer_append_text(&t->out, WORDS_OUTSIDE_CLASSES);
    end_set(t);
}

static bool is_category(const char *name)
{
    static const char *const names[] = {
        "L",  "M",  "N",  "P",  "S",  "Z",  "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No",
        "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* At "\p" or "\P". Other properties have no corrected tables here. */
static bool translate_property(struct translation *t, struct error *err)
{
    bool is_negated = t->pattern[t->position + 1] == 'P';
    const char *start = t->pattern + t->position + 3;
    const char *end =
        starts_with(t, t->position + 2, "{") ? memchr(start, '}', t->n_bytes - t->position - 3) : NULL;
    char name[16] = "";

    if (end && (size_t)(end - start) < sizeof name)
        memcpy(name, start, (size_t)(end - start));
    if (is_negated && t->in_class)
        return refuse(err, "\\P in a class");
    if (strcmp(name, "Han") == 0) {
        put_set(t, HAN, is_negated);
    } else if (is_category(name)) {
        begin_set(t, is_negated);
        put_category(t, name);
        end_set(t);
    } else {
        return refuse(err, "a property that is neither a general category nor Han");
    }
    t->position = (size_t)(end - t->pattern) + 1;
    return true;
}

/* "\x{...}" as a whole; any other escape is two bytes. */
static bool copy_escape(struct translation *t, struct error *err)
{
    size_t n = 2;

    if (starts_with(t, t->position, "\\x{")) {
        const char *end = memchr(t->pattern + t->position, '}', t->n_bytes - t->position);
        if (!end)
            return error_set(err, ERROR_BAD_INPUT, NULL, "the regular expression has '{' without '}'");
        n = (size_t)(end - (t->pattern + t->position)) + 1;
    }
    buffer_append(&t->out, t->pattern + t->position, n);
    t->position += n;
    return true;
}

/* Letters that mean something else in PCRE2, or nothing in one of the two. */
#define REFUSED_ESCAPES "bBXRKGZyYONMCcEQgkolLuUvV"

static bool translate_escape(struct translation *t, struct error *err)
{
    if (t->position + 1 >= t->n_bytes)
        return error_set(err, ERROR_BAD_INPUT, NULL, "the regular expression ends in a backslash");
    char kind = t->pattern[t->position + 1];
    char name[] = {'\\', kind, '\0'};

    switch (kind) {
    case 'p':
    case 'P':
        return translate_property(t, err);
    case 's':
        put_set(t, SPACES, false);
        break;
    case 'S':
        put_set(t, t->in_class ? NOT_SPACES : SPACES, !t->in_class);
        break;
    case 'h':
        put_set(t, HEX_DIGITS, false);
        break;
    case 'w':
        put_words(t, false);
        break;
    case 'd':
        begin_set(t, false);
        put_category(t, "Nd");
        end_set(t);
        break;
    case 'W':
    case 'H':
    case 'D':
        if (t->in_class)
            return refuse(err, "a negated set in a class");
        if (kind == 'W')
            put_words(t, true);
        else if (kind == 'H')
            put_set(t, HEX_DIGITS, true);
        else {
            begin_set(t, true);
            put_category(t, "Nd");
            end_set(t);
        }
        break;
    default:
        return strchr(REFUSED_ESCAPES, kind) ? refuse(err, name) : copy_escape(t, err);
    }
    t->position += 2;
    return true;
}

/* After "(?": only groups that mean the same in both dialects. */
static bool check_group(const struct translation *t, struct error *err)
{
    static const char *const same[] = {
        "(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i)", "(?i:", "(?-i)", "(?-i:"};

    if (!starts_with(t, t->position, "(?") && !starts_with(t, t->position, "(*"))
        return true;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (starts_with(t, t->position, same[i]))
            return true;
    return refuse(err, "an option, name or verb in a group");
}

static bool translate_class_byte(struct translation *t, struct error *err)
{
    if (t->pattern[t->position] == '[')
        return refuse(err, "'[' inside a class");
    if (starts_with(t, t->position, "&&"))
        return refuse(err, "'&&' inside a class");
    if (t->pattern[t->position] == ']')
        t->in_class = false;
    buffer_append_byte(&t->out, t->pattern[t->position++]);
    return true;
}

static bool translate_byte(struct translation *t, struct error *err)
{
    char byte = t->pattern[t->position];

    if (byte == '[') {
        t->in_class = true;
        buffer_append_byte(&t->out, byte);
        t->position++;
        if (starts_with(t, t->position, "^")) {
            buffer_append_byte(&t->out, '^');
            t->position++;
        }
        return starts_with(t, t->position, "]") ? refuse(err, "']' as the first of a class") : true;
    }
    if (byte == '(' && !check_group(t, err))
        return false;
    if (starts_with(t, t->position, "}+"))
        return refuse(err, "'}+'"); /* possessive in PCRE2, a repeated repeat in Oniguruma */
    buffer_append_byte(&t->out, byte);
    t->position++;
    return true;
}

static bool translate(struct translation *t, struct error *err)
{
    while (t->position < t->n_bytes) {
        bool ok = t->pattern[t->position] == '\\' ? translate_escape(t, err)
                  : t->in_class                   ? translate_class_byte(t, err)
                                                  : translate_byte(t, err);
        if (!ok)
            return false;
    }
    return t->out.failed ? error_no_memory(err) : true;
}

static pcre2_code *compile(const struct buffer *pattern, struct error *err)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    PCRE2_UCHAR message[128] = "";
    PCRE2_SIZE offset = 0;
    int code = 0;
    pcre2_code *compiled = NULL;

    if (!context) {
        error_no_memory(err);
        return NULL;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 100);
    compiled = pcre2_compile((PCRE2_SPTR)buffer_text(pattern), pattern->n_bytes,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code,
                             &offset, context);
    pcre2_compile_context_free(context);
    if (!compiled) {
        pcre2_get_error_message(code, message, sizeof message);
        error_set(err, ERROR_BAD_INPUT, NULL, "the regular expression does not compile: %s",
                  (const char *)message);
    }
    return compiled;
}

static struct regex *create(const struct buffer *pattern, struct error *err)
{
    struct regex *regex = calloc(1, sizeof *regex);

    if (!regex) {
        error_no_memory(err);
        return NULL;
    }
    regex->code = compile(pattern, err);
    if (!regex->code)
        goto fail;
    regex->context = pcre2_match_context_create(NULL);
    if (!regex->context) {
        error_no_memory(err);
        goto fail;
    }
    pcre2_set_match_limit(regex->context, MATCH_LIMIT);
    pcre2_set_heap_limit(regex->context, HEAP_LIMIT_KIB);
    regex->has_jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    return regex;

fail:
    regex_destroy(regex);
    return NULL;
}

struct regex *regex_compile(const char *pattern, size_t n_bytes, struct error *err)
{
    struct translation t = {.pattern = pattern, .n_bytes = n_bytes};
    struct regex *regex = NULL;

    if (n_bytes > PATTERN_BYTES) {
        error_set(err, ERROR_TOO_LARGE, NULL, "the regular expression has %zu bytes", n_bytes);
        return NULL;
    }
    buffer_init(&t.out, 0);
    if (translate(&t, err))
        regex = create(&t.out, err);
    buffer_finish(&t.out);
    return regex;
}

void regex_destroy(struct regex *regex)
{
    if (!regex)
        return;
    pcre2_match_context_free(regex->context);
    pcre2_code_free(regex->code);
    free(regex);
}

void regex_scratch_finish(struct regex_scratch *scratch)
{
    pcre2_match_data_free(scratch->match_data);
    scratch->match_data = NULL;
}

void regex_cursor_init(struct regex_cursor *cursor, const struct regex *regex, struct regex_scratch *scratch,
                       const char *text, size_t n_bytes)
{
    *cursor = (struct regex_cursor){
        .regex = regex, .scratch = scratch, .text = text, .n_bytes = n_bytes, .last_end = SIZE_MAX};
}

/* The JIT code has 32 KiB of stack; the rare search that needs more goes to the interpreter, which uses the
 * heap. */
static int search(const struct regex_cursor *cursor)
{
    const struct regex *regex = cursor->regex;
    pcre2_match_data *data = cursor->scratch->match_data;
    PCRE2_SPTR text = (PCRE2_SPTR)cursor->text;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;

    if (regex->has_jit)
        rc = pcre2_jit_match(regex->code, text, cursor->n_bytes, cursor->position, PCRE2_NO_UTF_CHECK, data,
                             regex->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(regex->code, text, cursor->n_bytes, cursor->position,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, regex->context);
    return rc;
}

bool regex_cursor_next(struct regex_cursor *cursor, bool *found_out, size_t *start_out, size_t *end_out,
                       struct error *err)
{
    if (!cursor->scratch->match_data)
        cursor->scratch->match_data = pcre2_match_data_create(1, NULL);
    if (!cursor->scratch->match_data)
        return error_no_memory(err);

    *found_out = false;
    while (cursor->position <= cursor->n_bytes) {
        int rc = search(cursor);
        if (rc == PCRE2_ERROR_NOMATCH)
            return true;
        if (rc < 0)
            return error_set(err, ERROR_BAD_INPUT, NULL,
                             "splitting the text failed: the regular expression gave up (%d)", rc);
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(cursor->scratch->match_data);
        if (ends[0] < ends[1] || ends[1] != cursor->last_end) {
            *found_out = true;
            *start_out = ends[0];
            *end_out = cursor->position = cursor->last_end = ends[1];
            return true;
        }
        uint32_t skipped;
        cursor->position +=
            cursor->position < cursor->n_bytes
                ? utf8_decode(cursor->text + cursor->position, cursor->n_bytes - cursor->position, &skipped)
                : 1;
    }
    return true;
}
