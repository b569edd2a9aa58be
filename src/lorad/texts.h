/*
 * texts.h - texts, as tokens, on which models are compared.
 */
#ifndef LORAD_TEXTS_H
#define LORAD_TEXTS_H

#include "model/model.h"
#include "text/tokenizer.h"

struct text {
    int32_t *tokens;
    size_t n_tokens;     /* at least 2 */
    size_t first_scored; /* tokens from here on are what the text is about; before are what was asked. At least 1 */
};

struct texts {
    struct text *texts;
    size_t n_texts;
    bool are_answers; /* right ones, to prompts */
};

/* At most n_texts of a file with a JSON object {"prompt", "answer"} in each line: an answer ends with the model's end token. ERROR_TOO_LARGE:
   one is longer than `context`. */
bool texts_read(struct texts *out, const char *path, size_t n_texts, size_t context, const struct tokenizer *tokenizer,
                const struct model *model, struct error *err) MUST_USE;

/* Room for n_texts of n_tokens each, that are to be written on from the model's first token. */
bool texts_begin(struct texts *out, size_t n_texts, size_t n_tokens, const struct tokenizer *tokenizer, const struct model *model,
                 struct error *err) MUST_USE;

void texts_finish(struct texts *texts); /* zeroed is fine */

#endif
