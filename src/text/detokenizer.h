/*
 * detokenizer.h - token by token -> complete UTF-8 pieces, and stop strings.
 *
 * The pieces joined together are what tokenizer_decode gives for all ids (where the bytes are valid
 * UTF-8; an invalid run becomes U+FFFD). A piece never ends inside a character. Text that may be
 * the beginning of a stop string is held back until that is decided. One thread.
 */
#ifndef TEXT_DETOKENIZER_H
#define TEXT_DETOKENIZER_H

#include "base/buffer.h"
#include "text/tokenizer.h"

struct detokenizer;

struct detokenizer_options {
    bool skip_special;          /* special tokens give no text */
    bool continues_text;        /* what comes follows a prompt: the first token keeps its leading space */
    bool include_stop;          /* the stop string stays in the text */
    const char *const *stops;   /* valid UTF-8, not empty; copied */
    size_t n_stops;
};

/* `tokenizer` must outlive it. NULL: no memory. */
struct detokenizer *detokenizer_create(const struct tokenizer *tokenizer, const struct detokenizer_options *options,
                                       struct error *err);
void detokenizer_destroy(struct detokenizer *detokenizer);

/* Adds one token; appends to `piece` what is certain now (may be nothing). *stopped_out: a stop string is
   complete; then the piece ends before it (or with it: include_stop), *stop_index_out says which, and no more may be pushed. */
bool detokenizer_push(struct detokenizer *detokenizer, int32_t id, struct buffer *piece, bool *stopped_out,
                      size_t *stop_index_out, struct error *err) MUST_USE;

/* The end: appends what was held back; an unfinished character becomes U+FFFD. */
bool detokenizer_flush(struct detokenizer *detokenizer, struct buffer *piece, struct error *err) MUST_USE;

#endif
