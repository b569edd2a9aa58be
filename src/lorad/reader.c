/*
 * reader.c - a few sequences, whose blocks are all there from the beginning; reading takes the first.
 */
#include "lorad/reader.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "engine/random.h"
#include "model/forward.h"

struct reader {
    const struct model *model;
    struct kv *kv;
    struct forward *forward;
    uint32_t *blocks; /* n_blocks of each sequence */
    size_t *outputs;  /* 0, 1, ... */
    size_t context, n_blocks;
};

static bool take_blocks(struct reader *reader, struct error *err)
{
    size_t n_outputs = size_max(reader->context, READER_TEXTS);
    reader->blocks = calloc(READER_TEXTS * reader->n_blocks, sizeof *reader->blocks);
    reader->outputs = calloc(n_outputs, sizeof *reader->outputs);
    if (!reader->blocks || !reader->outputs)
        return error_no_memory(err);
    for (size_t i = 0; i < READER_TEXTS * reader->n_blocks; i++)
        reader->blocks[i] = kv_acquire(reader->kv);
    for (size_t i = 0; i < n_outputs; i++)
        reader->outputs[i] = i;
    return true;
}

struct reader *reader_create(const struct model *model, struct pool *pool, enum weight_type kv_type, size_t context, struct error *err)
{
    struct reader *reader = calloc(1, sizeof *reader);
    if (!reader) {
        error_no_memory(err);
        return NULL;
    }
    reader->model = model;
    reader->context = context;
    reader->n_blocks = ceil_divide(context, KV_BLOCK_TOKENS);
    reader->kv = kv_create(model, kv_type, READER_TEXTS * reader->n_blocks * kv_block_bytes(model, kv_type), context, err);
    reader->forward = reader->kv ? forward_create(model, pool, reader->kv, context, err) : NULL;
    if (reader->forward && take_blocks(reader, err))
        return reader;
    reader_destroy(reader);
    return NULL;
}

void reader_destroy(struct reader *reader)
{
    if (!reader)
        return;
    forward_destroy(reader->forward);
    kv_destroy(reader->kv);
    free(reader->blocks);
    free(reader->outputs);
    free(reader);
}

const float *reader_read(struct reader *reader, const struct view *view, const int32_t *tokens, size_t first, size_t n, struct error *err)
{
    const struct batch_sequence sequence = {.view = view, .blocks = reader->blocks, .first_position = first, .n_tokens = n};
    const struct batch batch = {.tokens = tokens + first, .n_tokens = n, .sequences = &sequence, .n_sequences = 1,
                                .outputs = reader->outputs, .n_outputs = n};
    const float *logits;
    assert(first + n <= reader->context);
    return forward_run(reader->forward, &batch, &logits, err) ? logits : NULL;
}

/* The first token at which the sum of the probabilities exceeds a share `u` of all. */
static int32_t draw(const float *logits, size_t n_vocab, double u)
{
    double most = -INFINITY, total = 0, passed = 0;
    for (size_t i = 0; i < n_vocab; i++)
        most = fmax(most, (double)logits[i]);
    for (size_t i = 0; i < n_vocab; i++)
        total += exp((double)logits[i] - most);
    for (size_t i = 0; i < n_vocab; i++) {
        passed += exp((double)logits[i] - most);
        if (passed > u * total)
            return (int32_t)i;
    }
    return (int32_t)n_vocab - 1;
}

static bool ends_text(const struct reader *reader, int32_t beginning, int32_t token)
{
    const struct generation_config *generation = &reader->model->generation;
    for (size_t i = 0; i < generation->n_eos_ids; i++)
        if (generation->eos_ids[i] == token)
            return true;
    return token == beginning; /* the next text's */
}

/* Texts that are written in step. */
struct writing {
    struct text *texts; /* n, of which those in `open` go on */
    size_t open[READER_TEXTS], n_open;
    uint64_t first_seed;
};

static const float *step(struct reader *reader, const struct view *view, const struct writing *writing, size_t at, struct error *err)
{
    struct batch_sequence sequences[READER_TEXTS];
    int32_t tokens[READER_TEXTS];
    const float *logits;
    for (size_t i = 0; i < writing->n_open; i++) {
        const uint32_t *blocks = reader->blocks + writing->open[i] * reader->n_blocks;
        sequences[i] = (struct batch_sequence){.view = view, .blocks = blocks, .first_position = at - 1, .first_token = i, .n_tokens = 1};
        tokens[i] = writing->texts[writing->open[i]].tokens[at - 1];
    }
    const struct batch batch = {.tokens = tokens, .n_tokens = writing->n_open, .sequences = sequences, .n_sequences = writing->n_open,
                                .outputs = reader->outputs, .n_outputs = writing->n_open};
    return forward_run(reader->forward, &batch, &logits, err) ? logits : NULL;
}

static void add_tokens(const struct reader *reader, struct writing *writing, size_t at, const float *logits)
{
    size_t n_vocab = reader->model->config.n_vocab, n_open = 0;
    for (size_t i = 0; i < writing->n_open; i++) {
        size_t number = writing->open[i];
        struct text *text = &writing->texts[number];
        text->tokens[at] = draw(logits + i * n_vocab, n_vocab, random_uniform(writing->first_seed + number, at));
        if (ends_text(reader, text->tokens[0], text->tokens[at]))
            text->n_tokens = at + 1;
        if (at + 1 < text->n_tokens)
            writing->open[n_open++] = number;
    }
    writing->n_open = n_open;
}

bool reader_write(struct reader *reader, const struct view *view, struct texts *texts, struct error *err)
{
    for (size_t first = 0; first < texts->n_texts; first += READER_TEXTS) {
        struct writing writing = {.texts = texts->texts + first, .n_open = size_min(READER_TEXTS, texts->n_texts - first), .first_seed = first};
        for (size_t i = 0; i < writing.n_open; i++)
            writing.open[i] = i;
        for (size_t at = 1; writing.n_open > 0; at++) {
            const float *logits = step(reader, view, &writing, at, err);
            if (!logits)
                return false;
            add_tokens(reader, &writing, at, logits);
        }
    }
    return true;
}
