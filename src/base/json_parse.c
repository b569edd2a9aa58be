/*
 * json_parse.c - from text to jansson's values, by recursive descent.
 *
 * jansson 2.14 has a parser, but one that we cannot show to strangers: it takes a NUL byte for the
 * end of the text, drops characters of a string when memory is out and aborts when it was a number
 * that lost one, refuses integers beyond 64 bits (which real files hold, a tokenizer's
 * "model_max_length" of 10^30), and goes 2048 calls deep. Its values, and its writer, we use.
 *
 * The text is known to be UTF-8 before the first character is looked at, so that all below it are
 * about ASCII. Errors are found once, at `at`, and then only passed up.
 */
#include "base/json.h"

#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/limits.h"
#include "base/utf8.h"

enum { MOST_NUMBER_BYTES = 1024 };

struct parser {
    const char *text, *end, *at;
    bool nul_allowed;
    size_t depth, n_containers, most_containers;
    struct buffer scratch; /* a string without its escapes, or a number with a NUL behind */
    const char *what;
    struct error *err;
};

/* A string of the text, or of `scratch` when it had escapes. */
struct span {
    const char *bytes;
    size_t n_bytes;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static locale_t c_locale;

static void prepare(void)
{
    json_object_seed(0); /* left to itself, jansson would do it in the first thread that comes */
    c_locale = newlocale(LC_ALL_MASK, "C", NULL);
}

static bool fail_at(struct parser *parser, const char *at, const char *reason)
{
    size_t line = 1;
    const char *line_start = parser->text;
    for (const char *c = parser->text; c < at; c++)
        if (*c == '\n') {
            line++;
            line_start = c + 1;
        }
    return error_set(parser->err, ERROR_BAD_INPUT, NULL, "%s is not valid JSON: line %zu, column %zu: %s",
                     parser->what, line, (size_t)(at - line_start) + 1, reason);
}

static bool fail(struct parser *parser, const char *reason)
{
    return fail_at(parser, parser->at, parser->at < parser->end ? reason : "the text ends too early");
}

static json_t *made(struct parser *parser, json_t *value)
{
    if (!value)
        error_no_memory(parser->err);
    return value;
}

static void skip_spaces(struct parser *parser)
{
    while (parser->at < parser->end &&
           (*parser->at == ' ' || *parser->at == '\n' || *parser->at == '\t' || *parser->at == '\r'))
        parser->at++;
}

/* Steps over `c` if it is there. */
static bool take(struct parser *parser, char c)
{
    if (parser->at == parser->end || *parser->at != c)
        return false;
    parser->at++;
    return true;
}

/* --- strings --- */

/* Four hexadecimal digits; behind them. */
static bool read_hex(struct parser *parser, uint32_t *out)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++, parser->at++) {
        char c = parser->at < parser->end ? *parser->at : '\0';
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
                                                : 16;
        if (digit == 16)
            return fail(parser, "four hexadecimal digits were expected");
        value = value << 4 | digit;
    }
    *out = value;
    return true;
}

/* Behind "\u". Two escapes make one character outside of the basic plane. */
static bool read_code_point(struct parser *parser, uint32_t *out)
{
    const char *escape = parser->at - 2;
    uint32_t first = 0, second = 0;
    if (!read_hex(parser, &first))
        return false;
    *out = first;
    if (first == 0 && !parser->nul_allowed)
        return fail_at(parser, escape, "\\u0000 is not allowed");
    if (first < 0xD800 || first > 0xDFFF)
        return true;
    if (first > 0xDBFF || !take(parser, '\\') || !take(parser, 'u'))
        return fail_at(parser, escape, "a surrogate stands alone");
    if (!read_hex(parser, &second))
        return false;
    if (second < 0xDC00 || second > 0xDFFF)
        return fail_at(parser, escape, "a surrogate stands alone");
    *out = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    return true;
}

/* Behind the backslash: appends what the escape means. */
static bool read_escape(struct parser *parser)
{
    static const char LETTERS[] = "\"\\/bfnrt", MEANINGS[] = "\"\\/\b\f\n\r\t";
    char c = parser->at < parser->end ? *parser->at : '\0', bytes[4];
    const char *letter = c ? strchr(LETTERS, c) : NULL;
    uint32_t code_point;
    if (!letter && c != 'u')
        return fail(parser, "the escape is unknown");
    parser->at++;
    if (letter) {
        buffer_append_byte(&parser->scratch, MEANINGS[letter - LETTERS]);
        return true;
    }
    if (!read_code_point(parser, &code_point))
        return false;
    buffer_append(&parser->scratch, bytes, utf8_encode(code_point, bytes));
    return true;
}

/* Characters that mean themselves. */
static void skip_plain(struct parser *parser)
{
    while (parser->at < parser->end && *parser->at != '"' && *parser->at != '\\' &&
           (unsigned char)*parser->at >= 0x20)
        parser->at++;
}

static bool read_string(struct parser *parser, struct span *out)
{
    parser->at++; /* the quote */
    const char *start = parser->at;
    skip_plain(parser);
    if (take(parser, '"')) {
        *out = (struct span){start, (size_t)(parser->at - 1 - start)};
        return true;
    }
    buffer_clear(&parser->scratch);
    buffer_append(&parser->scratch, start, (size_t)(parser->at - start));
    while (take(parser, '\\')) {
        if (!read_escape(parser))
            return false;
        start = parser->at;
        skip_plain(parser);
        buffer_append(&parser->scratch, start, (size_t)(parser->at - start));
    }
    if (!take(parser, '"'))
        return fail(parser, "a string must not hold a control character");
    if (parser->scratch.failed)
        return error_no_memory(parser->err);
    *out = (struct span){buffer_text(&parser->scratch), parser->scratch.n_bytes};
    return true;
}

static json_t *parse_string(struct parser *parser)
{
    struct span span;
    if (!read_string(parser, &span))
        return NULL;
    return made(parser, json_stringn_nocheck(span.bytes, span.n_bytes));
}

/* --- numbers --- */

static size_t skip_digits(struct parser *parser)
{
    const char *start = parser->at;
    while (parser->at < parser->end && *parser->at >= '0' && *parser->at <= '9')
        parser->at++;
    return (size_t)(parser->at - start);
}

/* Steps over the number; tells whether it is written as an integer. */
static bool check_number(struct parser *parser, bool *is_integer)
{
    const char *start = parser->at;
    take(parser, '-');
    bool leading_zero = parser->at < parser->end && *parser->at == '0';
    size_t n_digits = skip_digits(parser);
    if (n_digits == 0)
        return fail(parser, "a digit was expected");
    if (leading_zero && n_digits > 1)
        return fail_at(parser, start, "a number must not begin with 0");
    *is_integer = true;
    if (take(parser, '.')) {
        *is_integer = false;
        if (skip_digits(parser) == 0)
            return fail(parser, "a digit was expected");
    }
    if (take(parser, 'e') || take(parser, 'E')) {
        *is_integer = false;
        if (!take(parser, '+'))
            take(parser, '-');
        if (skip_digits(parser) == 0)
            return fail(parser, "a digit was expected");
    }
    if (parser->at - start > MOST_NUMBER_BYTES)
        return fail_at(parser, start, "the number is too long");
    return true;
}

/* False when it does not fit. */
static bool to_integer(const char *start, const char *end, json_int_t *out)
{
    json_int_t value = 0;
    bool is_negative = *start == '-';
    for (const char *c = start + is_negative; c < end; c++) {
        json_int_t digit = is_negative ? '0' - *c : *c - '0';
        if (__builtin_mul_overflow(value, (json_int_t)10, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return false;
    }
    *out = value;
    return true;
}

static json_t *parse_number(struct parser *parser)
{
    const char *start = parser->at;
    bool is_integer = false;
    json_int_t integer;
    if (!check_number(parser, &is_integer))
        return NULL;
    if (is_integer && to_integer(start, parser->at, &integer))
        return made(parser, json_integer(integer));

    buffer_clear(&parser->scratch);
    if (!c_locale || !buffer_append(&parser->scratch, start, (size_t)(parser->at - start)))
        return made(parser, NULL);
    double real = strtod_l(buffer_text(&parser->scratch), NULL, c_locale);
    if (isinf(real)) {
        fail_at(parser, start, "the number is too large");
        return NULL;
    }
    return made(parser, json_real(real));
}

/* --- the rest --- */

static json_t *parse_value(struct parser *parser);

static bool enter(struct parser *parser)
{
    if (++parser->depth > LIMIT_JSON_DEPTH)
        return fail(parser, "it is nested too deeply");
    if (++parser->n_containers > parser->most_containers)
        return fail(parser, "it has too many objects and arrays for its length");
    parser->at++;
    skip_spaces(parser);
    return true;
}

/* Behind an element: 1 for one more, 0 for the end, -1 for neither. */
static int next(struct parser *parser, char closing, const char *reason)
{
    skip_spaces(parser);
    if (take(parser, closing))
        return 0;
    if (take(parser, ',')) {
        skip_spaces(parser);
        return 1;
    }
    fail(parser, reason);
    return -1;
}

static bool append_element(struct parser *parser, json_t *array)
{
    json_t *element = parse_value(parser);
    if (!element)
        return false;
    return json_array_append_new(array, element) == 0 || error_no_memory(parser->err);
}

static json_t *parse_array(struct parser *parser)
{
    json_t *array = enter(parser) ? made(parser, json_array()) : NULL;
    if (!array)
        return NULL;
    int more = !take(parser, ']');
    while (more > 0)
        more = append_element(parser, array) ? next(parser, ']', "',' or ']' was expected") : -1;
    parser->depth--;
    if (more == 0)
        return array;
    json_decref(array);
    return NULL;
}

static bool add_member(struct parser *parser, json_t *object, struct span key)
{
    skip_spaces(parser);
    if (!take(parser, ':'))
        return fail(parser, "':' was expected");
    skip_spaces(parser);
    json_t *value = parse_value(parser);
    if (!value)
        return false;
    return json_object_setn_new_nocheck(object, key.bytes, key.n_bytes, value) == 0 ||
           error_no_memory(parser->err);
}

static bool parse_member(struct parser *parser, json_t *object)
{
    const char *start = parser->at;
    struct span key;
    if (parser->at == parser->end || *parser->at != '"')
        return fail(parser, "a name in quotes was expected");
    if (!read_string(parser, &key))
        return false;
    if (json_object_getn(object, key.bytes, key.n_bytes))
        return fail_at(parser, start, "duplicate object key");
    if (key.bytes != parser->scratch.data)
        return add_member(parser, object, key);

    /* The value may need the scratch. */
    char *copy = buffer_take(&parser->scratch);
    if (!copy)
        return error_no_memory(parser->err);
    bool added = add_member(parser, object, (struct span){copy, key.n_bytes});
    free(copy);
    return added;
}

static json_t *parse_object(struct parser *parser)
{
    json_t *object = enter(parser) ? made(parser, json_object()) : NULL;
    if (!object)
        return NULL;
    int more = !take(parser, '}');
    while (more > 0)
        more = parse_member(parser, object) ? next(parser, '}', "',' or '}' was expected") : -1;
    parser->depth--;
    if (more == 0)
        return object;
    json_decref(object);
    return NULL;
}

static bool take_word(struct parser *parser, const char *word)
{
    size_t n_word = strlen(word);
    if ((size_t)(parser->end - parser->at) < n_word || memcmp(parser->at, word, n_word) != 0)
        return false;
    parser->at += n_word;
    return true;
}

static json_t *parse_value(struct parser *parser)
{
    char c = parser->at < parser->end ? *parser->at : '\0';
    if (c == '{')
        return parse_object(parser);
    if (c == '[')
        return parse_array(parser);
    if (c == '"')
        return parse_string(parser);
    if (c == '-' || (c >= '0' && c <= '9'))
        return parse_number(parser);
    if (take_word(parser, "true"))
        return json_true();
    if (take_word(parser, "false"))
        return json_false();
    if (take_word(parser, "null"))
        return json_null();
    fail(parser, "a value was expected");
    return NULL;
}

json_t *json_parse(const char *text, size_t n_bytes, int flags, const char *what, struct error *err)
{
    pthread_once(&once, prepare);
    if (n_bytes == 0)
        text = ""; /* NULL will do for nothing */
    struct parser parser = {
        .text = text,
        .end = text + n_bytes,
        .at = text,
        .nul_allowed = flags & JSON_NUL_ALLOWED,
        .most_containers = LIMIT_JSON_CONTAINERS + n_bytes / LIMIT_JSON_BYTES_PER_CONTAINER,
        .what = what,
        .err = err,
    };
    size_t n_valid = utf8_valid_prefix(text, n_bytes);
    if (n_valid < n_bytes) {
        error_set(err, ERROR_BAD_INPUT, NULL, "%s is not valid UTF-8 (byte %zu)", what, n_valid);
        return NULL;
    }
    skip_spaces(&parser);
    json_t *value = parse_value(&parser);
    skip_spaces(&parser);
    if (value && parser.at < parser.end) {
        fail(&parser, "something follows the value");
        json_decref(value);
        value = NULL;
    }
    buffer_finish(&parser.scratch);
    return value;
}
