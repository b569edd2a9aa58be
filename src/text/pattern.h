/*
 * pattern.h - {"String": s} or {"Regex": r}: what Replace and Split look for. Immutable after loading.
 */
#ifndef TEXT_PATTERN_H
#define TEXT_PATTERN_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"
#include "text/regex.h"

struct pattern {
    char *literal; /* NULL: it is a regular expression; owned */
    size_t n_literal;
    struct regex *regex;
};

bool pattern_parse(struct pattern *pattern, const json_t *json, const char *param,
                   struct error *err) MUST_USE;
/* A regular expression of our own. */
bool pattern_init_regex(struct pattern *pattern, const char *regex, struct error *err) MUST_USE;
void pattern_finish(struct pattern *pattern); /* zeroed is fine */

/* Walks over the matches; see regex_cursor. */
struct pattern_cursor {
    const struct pattern *pattern;
    struct regex_cursor regex;
};
void pattern_cursor_init(struct pattern_cursor *cursor, const struct pattern *pattern,
                         struct regex_scratch *scratch, const char *text, size_t n_bytes);
bool pattern_cursor_next(struct pattern_cursor *cursor, bool *found_out, size_t *start_out, size_t *end_out,
                         struct error *err) MUST_USE;

#endif
