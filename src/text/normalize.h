/*
 * normalize.h - the "normalizer" of tokenizer.json: text -> text. Immutable after loading.
 */
#ifndef TEXT_NORMALIZE_H
#define TEXT_NORMALIZE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "text/regex.h"

struct normalizer_step;

struct normalizer {
    struct normalizer_step *steps; /* sequences are flattened */
    size_t n_steps;
};

/* Zeroed before the first use, kept from piece to piece. */
struct normalizer_scratch {
    struct buffer texts[2];
    int32_t *code_points;
    size_t code_point_capacity;
    struct regex_scratch regex;
};
void normalizer_scratch_finish(struct normalizer_scratch *scratch);

bool normalizer_parse(struct normalizer *normalizer, const json_t *json,
                      struct error *err) MUST_USE;     /* null: does nothing */
void normalizer_finish(struct normalizer *normalizer); /* zeroed is fine */

/* `text` is valid UTF-8; so is the result, which lies in `text` itself or in the scratch until the next
   call. *starts_at_origin_out: its first character comes from the first of `text`. */
bool normalizer_apply(const struct normalizer *normalizer, const char *text, size_t n_bytes,
                      struct normalizer_scratch *scratch, const char **text_out, size_t *n_bytes_out,
                      bool *starts_at_origin_out, struct error *err) MUST_USE;

#endif
