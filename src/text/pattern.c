/*
 * pattern.c - literals by memmem, expressions by PCRE2.
 */
#include "text/pattern.h"

#include <stdlib.h>
#include <string.h>

bool pattern_init_regex(struct pattern *pattern, const char *regex, struct error *err)
{
    *pattern = (struct pattern){.regex = regex_compile(regex, strlen(regex), err)};
    return pattern->regex != NULL;
}

static bool set_literal(struct pattern *pattern, const json_t *string, const char *param, struct error *err)
{
    size_t n = json_string_length(string);

    if (n == 0)
        return error_set(err, ERROR_MISMATCH, param, "an empty pattern is not supported");
    pattern->literal = malloc(n + 1);
    if (!pattern->literal)
        return error_no_memory(err);
    memcpy(pattern->literal, json_string_value(string), n + 1);
    pattern->n_literal = n;
    return true;
}

bool pattern_parse(struct pattern *pattern, const json_t *json, const char *param, struct error *err)
{
    const json_t *literal = json_object_get(json, "String"), *regex = json_object_get(json, "Regex");

    *pattern = (struct pattern){0};
    if (json_object_size(json) != 1 || (!json_is_string(literal) && !json_is_string(regex)))
        return error_set(err, ERROR_BAD_INPUT, param, "is neither {\"String\": text} nor {\"Regex\": text}");
    if (literal)
        return set_literal(pattern, literal, param, err);
    pattern->regex = regex_compile(json_string_value(regex), json_string_length(regex), err);
    if (!pattern->regex)
        error_prefix(err, "%s", param);
    return pattern->regex != NULL;
}

void pattern_finish(struct pattern *pattern)
{
    free(pattern->literal);
    regex_destroy(pattern->regex);
    *pattern = (struct pattern){0};
}

void pattern_cursor_init(struct pattern_cursor *cursor, const struct pattern *pattern,
                         struct regex_scratch *scratch, const char *text, size_t n_bytes)
{
    cursor->pattern = pattern;
    regex_cursor_init(&cursor->regex, pattern->regex, scratch, text, n_bytes);
}

bool pattern_cursor_next(struct pattern_cursor *cursor, bool *found_out, size_t *start_out, size_t *end_out,
                         struct error *err)
{
    const struct pattern *pattern = cursor->pattern;
    struct regex_cursor *at = &cursor->regex;

    if (!pattern->literal)
        return regex_cursor_next(at, found_out, start_out, end_out, err);
    const char *match =
        memmem(at->text + at->position, at->n_bytes - at->position, pattern->literal, pattern->n_literal);
    *found_out = match != NULL;
    if (match) {
        *start_out = (size_t)(match - at->text);
        *end_out = at->position = *start_out + pattern->n_literal;
    }
    return true;
}
