/*
 * peft_regex.h - Python regular expressions from adapter_config.json, with a bound on their cost.
 *
 * They come from strangers, and one that backtracks for ever must not hold up the thread that loads.
 * So steps are counted over everything that one matcher does, and the count does not depend on the
 * machine. One thread at a time.
 */
#ifndef FORMATS_PEFT_REGEX_H
#define FORMATS_PEFT_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct peft_matcher;
struct peft_regex;

struct peft_matcher *peft_matcher_create(struct error *err);
void peft_matcher_destroy(struct peft_matcher *matcher); /* with its expressions; NULL is fine */

enum peft_regex_form {
    PEFT_REGEX_WHOLE,  /* re.fullmatch(text, path) */
    PEFT_REGEX_SUFFIX, /* re.match("(.*\\.)?(text)$", path) */
    PEFT_REGEX_LAYER   /* re.match("(?:^|.*?\\.)text\\.(\\d+)\\.", path), which finds a layer's number */
};

/* Compiles, or NULL: ERROR_BAD_INPUT with `param`, a constant. Lives as long as the matcher. */
struct peft_regex *peft_regex_compile(struct peft_matcher *matcher, const char *text,
                                      enum peft_regex_form form, const char *param, struct error *err);

bool peft_regex_match(const struct peft_regex *regex, const char *path, bool *out,
                      struct error *err) MUST_USE;

/* For PEFT_REGEX_LAYER. *found_out false: no number, or one beyond 64 bits. */
bool peft_regex_find_layer(const struct peft_regex *regex, const char *path, bool *found_out,
                           int64_t *layer_out, struct error *err) MUST_USE;

#endif
