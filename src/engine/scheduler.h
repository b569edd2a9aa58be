/*
 * scheduler.h - how many tokens each running sequence computes in the next step. A pure function of what is given: no clock, no I/O, no
 * memory.
 *
 * Sequences that decode come first, one token each; what is left of the step goes to prompts, in the order in which they are given, a
 * long one in chunks. Who runs is the fair queue's business (queue.h), and who has blocks the engine's.
 */
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>

struct scheduler_entry {
    size_t n_pending;         /* tokens that are known but not computed; 1: it decodes */
    bool wants_every_output;  /* logits of each token, not only of the last: counts against max_outputs */
    const void *weight_group; /* NULL: the base's weights */
    const void *view;
};

struct scheduler_limits {
    size_t max_tokens;  /* of a step */
    size_t max_prompt;  /* of them, of sequences that do not decode */
    size_t max_outputs; /* rows of logits; at least as many as entries that decode */
};

struct scheduler_part {
    size_t entry;
    size_t n_tokens; /* >= 1 */
};

struct scheduler_plan {
    struct scheduler_part *parts; /* ordered by (weight_group, view), the base first; else as the entries are */
    size_t n_parts;
    size_t n_tokens;
};

/* `parts` has room for 2 * n_entries, half of it scratch. */
struct scheduler_plan scheduler_plan(const struct scheduler_entry *entries, size_t n_entries,
                                     const struct scheduler_limits *limits, struct scheduler_part *parts);

#endif
