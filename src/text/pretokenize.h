/*
 * pretokenize.h - the "pre_tokenizer" of tokenizer.json: a text -> words. Immutable after loading.
 */
#ifndef TEXT_PRETOKENIZE_H
#define TEXT_PRETOKENIZE_H

#include <jansson.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/error.h"
#include "text/regex.h"

#define PRETOKENIZER_STAGES_MOST 32

struct pretokenizer_stage;

struct pretokenizer {
    struct pretokenizer_stage *stages; /* sequences are flattened */
    size_t n_stages;
    bool ends_in_bytes; /* words are raw bytes that stand for the characters of byte_level.h */
};

/* Zeroed before the first use. */
struct pretokenizer_scratch {
    struct buffer rewritten[PRETOKENIZER_STAGES_MOST], mapped[PRETOKENIZER_STAGES_MOST];
    struct regex_scratch regex;
};
void pretokenizer_scratch_finish(struct pretokenizer_scratch *scratch);

bool pretokenizer_parse(struct pretokenizer *pretokenizer, const json_t *json,
                        struct error *err) MUST_USE;         /* null: one word */
void pretokenizer_finish(struct pretokenizer *pretokenizer); /* zeroed is fine */

/* Some tokenizer classes let tokenizer_config.json decide on ByteLevel's space. */
void pretokenizer_set_prefix_space(struct pretokenizer *pretokenizer, bool add_prefix_space);

/* Gets each word, at least one byte. False, with err: stop. */
typedef bool (*pretokenizer_sink)(void *context, const char *word, size_t n_bytes, struct error *err);

/* `is_first`: the text's beginning is the prompt's. */
bool pretokenizer_run(const struct pretokenizer *pretokenizer, const char *text, size_t n_bytes,
                      bool is_first, struct pretokenizer_scratch *scratch, pretokenizer_sink sink,
                      void *context, struct error *err) MUST_USE;

#endif
