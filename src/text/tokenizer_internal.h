/*
 * tokenizer_internal.h - what tokenizer.c and detokenizer.c share.
 */
#ifndef TEXT_TOKENIZER_INTERNAL_H
#define TEXT_TOKENIZER_INTERNAL_H

#include "base/buffer.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalize.h"
#include "text/postprocess.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

struct token_text {
    size_t offset; /* in text_bytes */
    uint32_t n_bytes;
    const struct added_token *added; /* NULL: it is the model's only */
    bool is_byte;                    /* a fallback byte */
};

struct tokenizer {
    struct vocabulary vocabulary;
    struct bpe bpe;
    struct normalizer normalizer;
    struct added_tokens added;
    struct pretokenizer pretokenizer;
    struct postprocessor postprocessor;
    struct decoder decoder;
    struct token_text *texts; /* by id: what each stands for inside a text */
    struct buffer text_bytes;
};

/* One token into a stream of tokenizer->decoder; skips nothing. */
bool tokenizer_push_text(const struct tokenizer *tokenizer, int32_t id, struct decoder_stream *stream,
                         struct buffer *out, struct error *err) MUST_USE;

#endif
