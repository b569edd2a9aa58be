/*
 * decoder.h - the "decoder" of tokenizer.json: tokens -> text, all at once or one by one.
 *
 * A list of decoders is understood as three groups: what happens to each token, how bytes become
 * text, and what happens to the text as it flows. A list that does not fit this is refused.
 */
#ifndef TEXT_DECODER_H
#define TEXT_DECODER_H

#include <jansson.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

#define DECODER_STEPS_MOST 16

enum decoder_join {
    JOIN_SPACES,       /* no decoder: tokens with spaces between */
    JOIN_TEXT,         /* tokens are text */
    JOIN_BYTE_LEVEL,   /* tokens are bytes; invalid ones become U+FFFD, one per maximal prefix */
    JOIN_BYTE_FALLBACK /* "<0x0A>" are bytes; an invalid run becomes one U+FFFD per byte */
};

struct decoder_step;

struct decoder {
    struct decoder_step *token_steps, *text_steps;
    size_t n_token_steps, n_text_steps;
    enum decoder_join join;
    bool first_differs; /* the first token is written in another way than later ones */
};

bool decoder_parse(struct decoder *decoder, const json_t *json,
                   struct error *err) MUST_USE; /* null: JOIN_SPACES */
void decoder_finish(struct decoder *decoder);   /* zeroed is fine */

/* Appends what `token` stands for, which may be a part of a character; *is_byte_out: it is a fallback byte.
 */
bool decoder_write_token(const struct decoder *decoder, const char *token, size_t n_bytes, bool is_first,
                         struct buffer *out, bool *is_byte_out, struct error *err) MUST_USE;

/* Tokens one after the other, used by one thread. */
struct decoder_stream {
    const struct decoder *decoder;
    bool is_whole;         /* all at once: a run of fallback bytes is judged when it is complete */
    bool is_first;         /* no token yet, and nothing before */
    bool continues;        /* what comes follows other text: nothing is stripped from its beginning */
    struct buffer pending; /* bytes that are not yet text */
    size_t n_stripped[DECODER_STEPS_MOST], n_held[DECODER_STEPS_MOST]; /* by text step */
    bool is_past_start[DECODER_STEPS_MOST];
};

void decoder_stream_init(struct decoder_stream *stream, const struct decoder *decoder, bool is_whole,
                         bool continues);
void decoder_stream_finish(struct decoder_stream *stream); /* zeroed is fine */

/* `bytes` is what decoder_write_token wrote. Appends complete characters. A failure sticks in `out`. */
void decoder_stream_push(struct decoder_stream *stream, const char *bytes, size_t n_bytes, bool is_byte,
                         struct buffer *out);
void decoder_stream_flush(struct decoder_stream *stream, struct buffer *out);

#endif
