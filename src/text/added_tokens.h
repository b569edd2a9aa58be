/*
 * added_tokens.h - the tokens that are cut out of a text before anything else looks at it.
 *
 * Two sets: those with `normalized` false are looked for in the raw text, the others, in their
 * normalised form, in the normalised pieces between. Immutable after loading.
 */
#ifndef TEXT_ADDED_TOKENS_H
#define TEXT_ADDED_TOKENS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "text/matcher.h"
#include "text/normalize.h"
#include "text/vocabulary.h"

struct added_token {
    int32_t id;
    bool single_word;    /* only between characters that are not \w */
    bool lstrip, rstrip; /* takes the white space beside it along */
    bool normalized;
    bool special;
    char *written; /* as decoding writes it: the normalised form if `normalized`; owned */
    size_t n_written;
};

struct added_tokens {
    struct added_token *tokens;
    size_t n_tokens;
    struct matcher raw, normalized; /* values are indices into tokens */
};

/* From the "added_tokens" of tokenizer.json (may be NULL). Tokens that the model does not have are added to
   `vocabulary` with the next ids, as the format's reference implementation numbers them; a file that says
   otherwise is refused. */
bool added_tokens_parse(struct added_tokens *added, const json_t *list, const struct normalizer *normalizer,
                        struct vocabulary *vocabulary, struct error *err) MUST_USE;
void added_tokens_finish(struct added_tokens *added); /* zeroed is fine */

struct added_piece {
    size_t start, end;               /* in the text; never empty */
    const struct added_token *token; /* NULL: text between tokens */
};

/* Walks over a text, piece by piece. */
struct added_cursor {
    const struct added_tokens *added;
    const struct matcher *matcher;
    bool special_as_text;
    const char *text;
    size_t n_bytes;
    size_t searched;            /* the search goes on here */
    size_t covered;             /* the pieces handed out end here */
    struct added_piece waiting; /* a token behind a piece of text; token NULL: none */
};

void added_cursor_init(struct added_cursor *cursor, const struct added_tokens *added, bool in_normalized,
                       bool special_as_text, const char *text, size_t n_bytes);
bool added_cursor_next(struct added_cursor *cursor, struct added_piece *piece_out); /* false: the end */

#endif
