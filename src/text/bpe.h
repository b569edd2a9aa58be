/*
 * bpe.h - byte pair encoding of one word: symbols, then merges by rank. Immutable after loading.
 */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

/* From 64-bit keys to two numbers; open addressing, at most half full. */
struct pair_table {
    struct pair_entry *entries;
    size_t n_slots, n_entries;
};

struct bpe {
    const struct vocabulary *vocabulary;
    struct pair_table merges;      /* (left id, right id) -> rank, merged id */
    struct pair_table code_points; /* code point -> id, for tokens of one character */
    int32_t byte_ids[256];         /* of the byte-level characters; -1: not in the vocabulary */
    int32_t fallback_ids[256];     /* of "<0x00>" ...; -1: not in the vocabulary */
    int32_t unk_id;                /* -1: none */
    bool has_unk;                  /* unk_token is named */
    bool fuse_unk, byte_fallback, ignore_merges;
};

/* What encoding needs beside; zeroed before the first use, kept from word to word. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    size_t n_symbols, symbol_capacity;
    uint64_t *pairs, *sorted; /* entries; `sorted` is the rest of them, inside `pairs` */
    size_t pair_capacity, n_sorted;
    uint64_t *heap;
    size_t n_heap, heap_capacity;
    struct buffer characters; /* a word as the vocabulary writes it */
};
void bpe_scratch_finish(struct bpe_scratch *scratch);

/* From the "model" of tokenizer.json. Fills `vocabulary`, which must be empty and outlive `bpe`. */
bool bpe_parse(struct bpe *bpe, struct vocabulary *vocabulary, const json_t *model,
               struct error *err) MUST_USE;
void bpe_finish(struct bpe *bpe); /* zeroed is fine */

/* Appends the ids of `word`, at least one byte of valid UTF-8. `is_byte_level`: its bytes are raw and stand
   for the characters of byte_level.h. O(n log n). */
bool bpe_encode(const struct bpe *bpe, const char *word, size_t n_bytes, bool is_byte_level,
                struct bpe_scratch *scratch, struct token_ids *out, struct error *err) MUST_USE;

/* Appends one id. */
bool token_ids_append(struct token_ids *ids, int32_t id, struct error *err) MUST_USE;

#endif
