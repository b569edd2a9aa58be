/*
 * detokenizer.c - the decoder's stream, then stop strings by an automaton.
 *
 * The automaton's depth is the length of the longest end of the text that begins a stop string: just that
 * is held back. Of several stop strings the one that is complete first counts, of those that are complete
 * at the same byte the longest; so the result does not depend on where tokens end.
 */
#include "text/detokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "text/matcher.h"
#include "text/tokenizer_internal.h"

struct detokenizer {
    const struct tokenizer *tokenizer;
    bool skip_special, include_stop, is_stopped;
    struct decoder_stream stream;
    struct matcher stops;
    size_t state;       /* of the automaton, after `text` */
    struct buffer text; /* not yet handed out */
    size_t n_searched;  /* of its bytes the automaton has seen */
};

static bool add_stops(struct detokenizer *detokenizer, const struct detokenizer_options *options,
                      struct error *err)
{
    matcher_init(&detokenizer->stops, MATCHER_STREAM);
    for (size_t i = 0; i < options->n_stops; i++) {
        const char *stop = options->stops[i];
        if (!*stop)
            return error_set(err, ERROR_BAD_INPUT, "stop", "a stop string is empty");
        if (!matcher_add(&detokenizer->stops, stop, strlen(stop), (int32_t)i, NULL, err))
            return false;
    }
    return matcher_build(&detokenizer->stops, err);
}

struct detokenizer *detokenizer_create(const struct tokenizer *tokenizer,
                                       const struct detokenizer_options *options, struct error *err)
{
    struct detokenizer *detokenizer = calloc(1, sizeof *detokenizer);

    if (!detokenizer) {
        error_no_memory(err);
        return NULL;
    }
    detokenizer->tokenizer = tokenizer;
    detokenizer->skip_special = options->skip_special;
    detokenizer->include_stop = options->include_stop;
    buffer_init(&detokenizer->text, 0);
    decoder_stream_init(&detokenizer->stream, &tokenizer->decoder, false, options->continues_text);
    if (add_stops(detokenizer, options, err))
        return detokenizer;
    detokenizer_destroy(detokenizer);
    return NULL;
}

void detokenizer_destroy(struct detokenizer *detokenizer)
{
    if (!detokenizer)
        return;
    decoder_stream_finish(&detokenizer->stream);
    matcher_finish(&detokenizer->stops);
    buffer_finish(&detokenizer->text);
    free(detokenizer);
}

/* Moves the first bytes of `text` to the piece. */
static bool hand_out(struct detokenizer *detokenizer, size_t n_bytes, struct buffer *piece, struct error *err)
{
    if (!buffer_append(piece, buffer_text(&detokenizer->text), n_bytes))
        return error_no_memory(err);
    buffer_drop_front(&detokenizer->text, n_bytes);
    detokenizer->n_searched -= n_bytes;
    return true;
}

static bool stop_at(struct detokenizer *detokenizer, size_t end, size_t n_stop, struct buffer *piece,
                    struct error *err)
{
    detokenizer->is_stopped = true;
    if (!hand_out(detokenizer, detokenizer->include_stop ? end : end - n_stop, piece, err))
        return false;
    buffer_clear(&detokenizer->text);
    detokenizer->n_searched = 0;
    return true;
}

bool detokenizer_push(struct detokenizer *detokenizer, int32_t id, struct buffer *piece, bool *stopped_out,
                      size_t *stop_index_out, struct error *err)
{
    struct buffer *text = &detokenizer->text;
    int32_t value;
    size_t n_stop;

    assert(!detokenizer->is_stopped);
    *stopped_out = false;
    if (detokenizer->skip_special && tokenizer_is_special(detokenizer->tokenizer, id))
        return true;
    if (!tokenizer_push_text(detokenizer->tokenizer, id, &detokenizer->stream, text, err))
        return false;
    while (detokenizer->n_searched < text->n_bytes) {
        unsigned char byte = (unsigned char)text->data[detokenizer->n_searched++];
        if (!matcher_step(&detokenizer->stops, &detokenizer->state, byte, &value, &n_stop))
            continue;
        *stopped_out = true;
        *stop_index_out = (size_t)value;
        return stop_at(detokenizer, detokenizer->n_searched, n_stop, piece, err);
    }
    return hand_out(detokenizer, text->n_bytes - matcher_depth(&detokenizer->stops, detokenizer->state),
                    piece, err);
}

bool detokenizer_flush(struct detokenizer *detokenizer, struct buffer *piece, struct error *err)
{
    if (detokenizer->is_stopped)
        return true;
    decoder_stream_flush(&detokenizer->stream, &detokenizer->text);
    if (detokenizer->text.failed)
        return error_no_memory(err);
    detokenizer->n_searched = detokenizer->text.n_bytes;
    return hand_out(detokenizer, detokenizer->text.n_bytes, piece, err);
}
