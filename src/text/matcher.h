/*
 * matcher.h - finding any of many strings (Aho-Corasick), in time linear in the text.
 *
 * Add strings, build once, then search from any thread. Two ways: the leftmost and there longest string
 * in a text at hand (added tokens), or byte by byte as the text comes (stop strings).
 */
#ifndef TEXT_MATCHER_H
#define TEXT_MATCHER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum matcher_kind {
    MATCHER_LEFTMOST_LONGEST, /* for matcher_find */
    MATCHER_STREAM            /* for matcher_step */
};

struct matcher_node;
struct matcher_edge;

struct matcher {
    enum matcher_kind kind;
    struct matcher_node *nodes; /* [0] is the root */
    size_t n_nodes, node_capacity;
    struct matcher_edge *edges; /* open addressing on (node, byte) */
    size_t n_edge_slots;
    bool starts[256]; /* the first bytes of all strings */
    bool is_built;
};

void matcher_init(struct matcher *matcher, enum matcher_kind kind);
void matcher_finish(struct matcher *matcher); /* zeroed is fine */

/* `value` >= 0 comes back from the searches; `n_bytes` >= 1. *duplicate_out (may be NULL): the string is
   there already, and keeps its first value. */
bool matcher_add(struct matcher *matcher, const char *text, size_t n_bytes, int32_t value,
                 bool *duplicate_out, struct error *err) MUST_USE;
bool matcher_build(struct matcher *matcher, struct error *err) MUST_USE;

/* The first match in text[from..n_bytes). False: there is none. */
bool matcher_find(const struct matcher *matcher, const char *text, size_t n_bytes, size_t from,
                  size_t *start_out, size_t *end_out, int32_t *value_out);

/* Feeds one byte; *state starts at 0. True: a string ends at this byte; the longest one if there are several.
 */
bool matcher_step(const struct matcher *matcher, size_t *state, unsigned char byte, int32_t *value_out,
                  size_t *n_bytes_out);

/* How many of the last bytes fed are the beginning of a string. */
size_t matcher_depth(const struct matcher *matcher, size_t state);

#endif
