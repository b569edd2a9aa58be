/*
 * regex.h - the regular expressions of tokenizer.json, run by PCRE2.
 *
 * They are written for Oniguruma. What both engines read alike passes; what they read differently is
 * rewritten (\s, \w, \h, newer letters) or refused by name. A compiled expression may be used by any thread.
 */
#ifndef TEXT_REGEX_H
#define TEXT_REGEX_H

#include <stddef.h>

#include "base/error.h"

struct regex;

/* `n_bytes` of valid UTF-8. */
struct regex *regex_compile(const char *pattern, size_t n_bytes, struct error *err);
void regex_destroy(struct regex *regex);

/* What a search needs and threads cannot share. Zeroed before the first use; finish frees. */
struct regex_scratch {
    void *match_data;
};
void regex_scratch_finish(struct regex_scratch *scratch);

/* Walks over the matches in valid UTF-8 `text`, left to right, not overlapping. */
struct regex_cursor {
    const struct regex *regex;
    struct regex_scratch *scratch;
    const char *text;
    size_t n_bytes;
    size_t position; /* where the next search begins */
    size_t last_end; /* of the last match; SIZE_MAX: none yet */
};
void regex_cursor_init(struct regex_cursor *cursor, const struct regex *regex, struct regex_scratch *scratch,
                       const char *text, size_t n_bytes);

/* *found_out false: no more. A match may be empty, but not right after another match. Fails when the
   expression needs more steps than are allowed, rather than to miss a match. */
bool regex_cursor_next(struct regex_cursor *cursor, bool *found_out, size_t *start_out, size_t *end_out,
                       struct error *err) MUST_USE;

#endif
