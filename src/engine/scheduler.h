/*
 * scheduler.h - who computes how many tokens in the next step. A pure function of what is given: no clock, no I/O, no memory.
 *
 * Sequences that decode come first, one token each; what is left of the step goes to prompts, in order of arrival, a
 * long one in chunks. A waiting sequence begins when all blocks that it can ever need are free and a token of the step
 * is left for it; none overtakes another, so none starves. What runs therefore always ends: nothing is preempted.
 */
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>

enum scheduler_stage { STAGE_DECODE, STAGE_PREFILL, STAGE_WAITING };

struct scheduler_entry {
    enum scheduler_stage stage;
    size_t n_pending;         /* tokens that are known but not computed: the prompt's rest; decoding: 1 */
    size_t n_blocks;          /* what it needs in all; waiting ones only */
    bool wants_every_output;  /* logits of each token, not only of the last: counts against max_outputs */
    const void *weight_group; /* NULL: the base's weights */
    const void *view;
};

struct scheduler_limits {
    size_t max_sequences; /* at most max_tokens and max_outputs, so that all that decode fit into a step */
    size_t max_tokens;
    size_t max_outputs;
    size_t n_free_blocks;
};

struct scheduler_part {
    size_t entry;
    size_t n_tokens; /* >= 1 */
};

struct scheduler_plan {
    struct scheduler_part *parts; /* ordered by (weight_group, view), the base first; else as the entries are */
    size_t n_parts;
    size_t n_tokens;
    size_t n_admitted;            /* so many of the waiting entries, the first ones, begin now */
};

/* `entries`: running ones, then waiting ones, both in order of arrival. `parts` has room for 2 * n_entries, half of it scratch. */
struct scheduler_plan scheduler_plan(const struct scheduler_entry *entries, size_t n_entries,
                                     const struct scheduler_limits *limits, struct scheduler_part *parts);

#endif
