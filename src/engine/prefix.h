/*
 * prefix.h - blocks of the key/value cache, of which equal beginnings are computed once.
 *
 * A block that is full can be published: under the tokens it holds, the block before it, and the identity of the view that computed it.
 * Whoever begins with the same tokens through a view of the same identity gets it instead of computing it. Nothing is found by a hash
 * alone: tokens, predecessor and identity are compared. A published block that no sequence holds stays until its
 * memory is wanted; the one whose last use is longest ago goes first, the end of a chain before its beginning. Engine thread only.
 */
#ifndef ENGINE_PREFIX_H
#define ENGINE_PREFIX_H

#include "model/kv.h"

struct prefix;

/* `kv` must outlive it, and nobody else takes or returns its blocks. */
struct prefix *prefix_create(struct kv *kv, struct error *err);
void prefix_destroy(struct prefix *prefix); /* all blocks are released; NULL is fine */

size_t prefix_n_available(const struct prefix *prefix); /* free ones, and published ones that nobody holds */
size_t prefix_n_cached(const struct prefix *prefix);    /* published ones that nobody holds */
uint64_t prefix_n_evicted(const struct prefix *prefix); /* ever */

/* A block of one's own, or KV_NO_BLOCK. */
uint32_t prefix_acquire(struct prefix *prefix);
/* Gives back all n_blocks of a sequence, in the order in which it holds them. */
void prefix_release(struct prefix *prefix, const uint32_t *blocks, size_t n_blocks);

/* How far along a chain of published blocks a sequence is. */
struct prefix_cursor {
    const char *identity; /* of its view; "" or NULL: it neither finds nor publishes anything */
    uint64_t last;        /* the last published block on its way; 0: none yet */
};

/* Takes the published blocks that hold the beginning of tokens[0 .. n_tokens), whole blocks only, into blocks_out; returns how many, and
   moves the cursor from the beginning to behind them. */
size_t prefix_find(struct prefix *prefix, struct prefix_cursor *cursor, const int32_t *tokens, size_t n_tokens,
                   uint32_t *blocks_out);

/* `block` is full: it holds the KV_BLOCK_TOKENS tokens that follow the cursor. If an equal one has been published meanwhile, the block is
   given back and the other one taken in its place: its contents are the same. Returns the block to hold. */
uint32_t prefix_publish(struct prefix *prefix, struct prefix_cursor *cursor, const int32_t *tokens, uint32_t block);

#endif
