/*
 * tokenizer.h - tokenizer.json: text -> token ids, as Hugging Face `tokenizers` does it.
 *
 * The pipeline: split at added tokens; normalise each piece; pre-tokenise (PCRE2 with UTF and UCP);
 * BPE per word; post-process (BOS and the like). A component or option that we do not implement is
 * refused at load, by name. Immutable after loading: any thread may encode.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct tokenizer;

struct token_ids {
    int32_t *ids;
    size_t n_ids, capacity;
};
void token_ids_finish(struct token_ids *ids); /* frees; zeroed is fine */

/* From <directory>/tokenizer.json and, when there, tokenizer_config.json. */
struct tokenizer *tokenizer_load(const char *directory, struct error *err);

/* From the bytes of tokenizer.json, and of tokenizer_config.json (NULL, 0: none). */
struct tokenizer *tokenizer_parse(const char *json, size_t n_json, const char *config, size_t n_config,
                                  struct error *err);
void tokenizer_destroy(struct tokenizer *tokenizer);

enum tokenizer_flags {
    TOKENIZER_PLAIN = 0,
    TOKENIZER_ADD_SPECIAL = 1,   /* run the post-processor: BOS and the like */
    TOKENIZER_SPECIAL_AS_TEXT = 2 /* special tokens in the text are plain text (prompt injection) */
};

/* Appends the ids of `text` to `out`. Text that is not valid UTF-8 is ERROR_BAD_INPUT and says at which
   byte. Time is O(n log n) in the text's length for any text. */
bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t n_bytes, int flags,
                      struct token_ids *out, struct error *err) MUST_USE;

/* All ids at once, as `tokenizers` decodes them: `text_out` is malloc'ed, NUL-terminated, valid UTF-8. Ids
   that the vocabulary lacks are ERROR_BAD_INPUT. */
bool tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t n_ids, bool skip_special,
                      char **text_out, size_t *n_bytes_out, struct error *err) MUST_USE;

size_t tokenizer_n_vocab(const struct tokenizer *tokenizer); /* largest id + 1, added tokens included */
bool tokenizer_has_id(const struct tokenizer *tokenizer, int32_t id);
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);

/* The token as the vocabulary writes it ("Ġthe", "▁the", "<0x0A>"); NULL for an unknown id. */
const char *tokenizer_token(const struct tokenizer *tokenizer, int32_t id);

/* The bytes that the token stands for inside a text (" the", "\n"), possibly a fragment of a character.
   Points into the tokenizer. False for an unknown id. */
bool tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t id, const char **bytes_out, size_t *n_bytes_out);

/* Exact vocabulary look-up ("<|endoftext|>"): the id, or -1. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *token);

#endif
