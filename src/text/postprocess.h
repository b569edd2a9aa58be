/*
 * postprocess.h - the "post_processor" of tokenizer.json: the ids around a text. Immutable after loading.
 */
#ifndef TEXT_POSTPROCESS_H
#define TEXT_POSTPROCESS_H

#include <jansson.h>

#include "base/error.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

struct postprocessor {
    struct token_ids before, after;
};

/* Null does nothing. All ids are in `vocabulary`. */
bool postprocessor_parse(struct postprocessor *postprocessor, const json_t *json,
                         const struct vocabulary *vocabulary, struct error *err) MUST_USE;
void postprocessor_finish(struct postprocessor *postprocessor); /* zeroed is fine */

#endif
