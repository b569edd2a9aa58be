/*
 * reader.h - a model that reads whole texts without an engine: the logits of every position, and texts of its own. For figures.
 *
 * One thread. Readers may share a pool, whose runs are theirs one after the other.
 */
#ifndef LORAD_READER_H
#define LORAD_READER_H

#include "base/pool.h"
#include "lorad/texts.h"
#include "model/view.h"

#define READER_TEXTS 16 /* that are written at a time */

struct reader;

/* Room for READER_TEXTS texts of `context` tokens. The model and the pool must outlive it. */
struct reader *reader_create(const struct model *model, struct pool *pool, enum weight_type kv_type, size_t context, struct error *err);
void reader_destroy(struct reader *reader);

/* Logits (n, n_vocab) of tokens [first, first + n) of a text, which live until the next call. What comes before `first` was read by the calls
   before, through the same view. NULL on failure. */
const float *reader_read(struct reader *reader, const struct view *view, const int32_t *tokens, size_t first, size_t n, struct error *err);

/* Writes the texts on from their first tokens: each next token is drawn as the model has it, at temperature 1, with random numbers that the
   number of the text and the position decide. A text goes on to the length it has, or to the first token that ends one (inclusive). */
bool reader_write(struct reader *reader, const struct view *view, struct texts *texts, struct error *err) MUST_USE;

#endif
