/*
 * matcher.c - a trie with failure links.
 *
 * For leftmost-longest search a node at which a string ends gets no failure link: whatever the link would
 * lead to begins after that string, so falling off there means that the best match is already known.
 * This passes down: the links of deeper nodes are found by way of their parents' links, and are
 * missing exactly when they would jump over the beginning of a match.
 */
#include "text/matcher.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define NONE (-1)

struct matcher_node {
    int32_t fail;  /* the longest proper suffix in the trie; NONE: see above */
    int32_t match; /* the node of the longest string that ends here, itself or by suffix; NONE */
    int32_t value; /* of the string that ends here; NONE */
    int32_t parent;
    uint32_t depth;
    unsigned char byte; /* on the edge from the parent */
};

struct matcher_edge {
    int32_t node; /* 0: free, because no edge leads to the root */
    int32_t parent;
    unsigned char byte;
};

void matcher_init(struct matcher *matcher, enum matcher_kind kind)
{
    *matcher = (struct matcher){.kind = kind};
}

void matcher_finish(struct matcher *matcher)
{
    free(matcher->nodes);
    free(matcher->edges);
    *matcher = (struct matcher){0};
}

static size_t edge_slot(const struct matcher *matcher, int32_t parent, unsigned char byte)
{
    uint64_t key = ((uint64_t)(uint32_t)parent << 8 | byte) * 0x9E3779B97F4A7C15u;
    size_t mask = matcher->n_edge_slots - 1;
    size_t slot = (size_t)(key >> 32) & mask;

    while (matcher->edges[slot].node != 0 &&
           (matcher->edges[slot].parent != parent || matcher->edges[slot].byte != byte))
        slot = (slot + 1) & mask;
    return slot;
}

static int32_t child(const struct matcher *matcher, int32_t parent, unsigned char byte)
{
    int32_t node = matcher->edges[edge_slot(matcher, parent, byte)].node;
    return node == 0 ? NONE : node;
}

static bool grow_nodes(struct matcher *matcher, struct error *err)
{
    size_t capacity = matcher->node_capacity ? matcher->node_capacity * 2 : 64;
    struct matcher_node *nodes = NULL;

    if (capacity > INT32_MAX / 4)
        return error_set(err, ERROR_TOO_LARGE, NULL, "the strings to match are too long in all");
    nodes = realloc(matcher->nodes, capacity * sizeof *nodes);
    if (!nodes)
        return error_no_memory(err);
    matcher->nodes = nodes;
    matcher->node_capacity = capacity;
    if (matcher->n_nodes == 0)
        nodes[matcher->n_nodes++] = (struct matcher_node){.match = NONE, .value = NONE, .parent = NONE};
    return true;
}

/* Keeps the edges at most half full: as many slots as twice the nodes that fit. */
static bool grow_edges(struct matcher *matcher, struct error *err)
{
    size_t n_slots = matcher->node_capacity * 2;
    struct matcher_edge *edges = calloc(n_slots, sizeof *edges);

    if (!edges)
        return error_no_memory(err);
    free(matcher->edges);
    matcher->edges = edges;
    matcher->n_edge_slots = n_slots;
    for (size_t i = 1; i < matcher->n_nodes; i++) {
        const struct matcher_node *node = &matcher->nodes[i];
        edges[edge_slot(matcher, node->parent, node->byte)] =
            (struct matcher_edge){.node = (int32_t)i, .parent = node->parent, .byte = node->byte};
    }
    return true;
}

static bool add_child(struct matcher *matcher, int32_t parent, unsigned char byte, int32_t *child_out,
                      struct error *err)
{
    if (matcher->n_nodes == matcher->node_capacity &&
        (!grow_nodes(matcher, err) || !grow_edges(matcher, err)))
        return false;
    int32_t node = (int32_t)matcher->n_nodes++;
    matcher->nodes[node] = (struct matcher_node){.match = NONE,
                                                 .value = NONE,
                                                 .parent = parent,
                                                 .depth = matcher->nodes[parent].depth + 1,
                                                 .byte = byte};
    matcher->edges[edge_slot(matcher, parent, byte)] =
        (struct matcher_edge){.node = node, .parent = parent, .byte = byte};
    *child_out = node;
    return true;
}

bool matcher_add(struct matcher *matcher, const char *text, size_t n_bytes, int32_t value,
                 bool *duplicate_out, struct error *err)
{
    int32_t node = 0;

    if (matcher->n_nodes == 0 && (!grow_nodes(matcher, err) || !grow_edges(matcher, err)))
        return false;
    for (size_t i = 0; i < n_bytes; i++) {
        unsigned char byte = (unsigned char)text[i];
        int32_t next = child(matcher, node, byte);
        if (next == NONE && !add_child(matcher, node, byte, &next, err))
            return false;
        node = next;
    }
    bool is_duplicate = matcher->nodes[node].value != NONE;
    if (!is_duplicate)
        matcher->nodes[node].value = value;
    if (duplicate_out)
        *duplicate_out = is_duplicate;
    matcher->starts[(unsigned char)text[0]] = true;
    return true;
}

static void link_node(struct matcher *matcher, int32_t index)
{
    struct matcher_node *node = &matcher->nodes[index];
    int32_t fail = 0;

    if (node->parent != 0) {
        fail = matcher->nodes[node->parent].fail;
        while (fail > 0 && child(matcher, fail, node->byte) == NONE)
            fail = matcher->nodes[fail].fail;
        if (fail != NONE) {
            int32_t next = child(matcher, fail, node->byte);
            fail = next == NONE ? 0 : next;
        }
    }
    node->match = fail == NONE ? NONE : matcher->nodes[fail].match;
    node->fail = fail;
    if (node->value != NONE) {
        node->match = index;
        if (matcher->kind == MATCHER_LEFTMOST_LONGEST)
            node->fail = NONE;
    }
}

/* Links go to shallower nodes, so the nodes are linked in order of depth. */
bool matcher_build(struct matcher *matcher, struct error *err)
{
    size_t deepest = 0, n = matcher->n_nodes;
    size_t *first = NULL;
    int32_t *order = NULL;

    for (size_t i = 0; i < n; i++)
        deepest = size_max(deepest, matcher->nodes[i].depth);
    first = calloc(deepest + 2, sizeof *first);
    order = calloc(n + 1, sizeof *order);
    if (!first || !order) {
        free(first);
        free(order);
        return error_no_memory(err);
    }
    for (size_t i = 0; i < n; i++)
        first[matcher->nodes[i].depth + 1]++;
    for (size_t depth = 1; depth <= deepest; depth++)
        first[depth] += first[depth - 1];
    for (size_t i = 0; i < n; i++)
        order[first[matcher->nodes[i].depth]++] = (int32_t)i;
    for (size_t i = 1; i < n; i++)
        link_node(matcher, order[i]);
    free(first);
    free(order);
    matcher->is_built = true;
    return true;
}

bool matcher_find(const struct matcher *matcher, const char *text, size_t n_bytes, size_t from,
                  size_t *start_out, size_t *end_out, int32_t *value_out)
{
    int32_t state = 0, best = NONE;
    size_t best_end = 0;

    if (matcher->n_nodes == 0)
        return false;
    for (size_t i = from; i < n_bytes && state != NONE; i++) {
        while (state == 0 && i < n_bytes && !matcher->starts[(unsigned char)text[i]])
            i++;
        if (i == n_bytes)
            break;
        int32_t next;
        while ((next = child(matcher, state, (unsigned char)text[i])) == NONE && state > 0)
            state = matcher->nodes[state].fail;
        if (state == NONE)
            break;
        state = next == NONE ? 0 : next;
        if (matcher->nodes[state].match != NONE) {
            best = matcher->nodes[state].match;
            best_end = i + 1;
        }
    }
    if (best == NONE)
        return false;
    *start_out = best_end - matcher->nodes[best].depth;
    *end_out = best_end;
    *value_out = matcher->nodes[best].value;
    return true;
}

bool matcher_step(const struct matcher *matcher, size_t *state, unsigned char byte, int32_t *value_out,
                  size_t *n_bytes_out)
{
    int32_t node = (int32_t)*state, next;

    if (matcher->n_nodes == 0)
        return false;
    while ((next = child(matcher, node, byte)) == NONE && node > 0)
        node = matcher->nodes[node].fail;
    node = next == NONE ? 0 : next;
    *state = (size_t)node;
    int32_t match = matcher->nodes[node].match;
    if (match == NONE)
        return false;
    *value_out = matcher->nodes[match].value;
    *n_bytes_out = matcher->nodes[match].depth;
    return true;
}

size_t matcher_depth(const struct matcher *matcher, size_t state)
{
    return matcher->n_nodes ? matcher->nodes[state].depth : 0;
}
