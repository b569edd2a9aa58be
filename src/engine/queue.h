/*
 * queue.h - the fair queue: which of the live sequences run.
 *
 * Sequences belong to shares (one for each adapter). Places are dealt to the shares that have sequences one at a time,
 * so that each gets an equal part of them or what it can use; what an equal part leaves over goes to who has it already, then to the share
 * that was served least. Service is counted in tokens, prompt and output, as they are computed: the virtual token counter of Sheng et al.,
 * "Fairness in Serving Large Language Models" (OSDI 2024). A share that comes back is lifted to the least of the present ones,
 * so that nobody saves up. Within a share the higher priority goes first, then the earlier arrival. Not thread-safe.
 */
#ifndef ENGINE_QUEUE_H
#define ENGINE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

struct queue_share;

/* In each sequence. */
struct queue_item {
    struct list link; /* in its share's list, in the order in which they are to run */
    struct queue_share *share;
    int priority;
    uint64_t arrival; /* counts up; the engine's order of age */
    bool has_place;   /* it runs; kept by whoever uses the queue */
    bool is_chosen;   /* by the last queue_choose: it should */
};

struct queue {
    struct list active;  /* shares that have sequences */
    struct list resting; /* those that have none, and were served more than the least of the active ones */
    uint64_t n_arrivals;
};

void queue_init(struct queue *queue);
void queue_finish(struct queue *queue); /* it is empty */

/* False: no memory. */
bool queue_add(struct queue *queue, struct queue_item *item, uint64_t share, int priority);
void queue_remove(struct queue *queue, struct queue_item *item);
void queue_charge(struct queue_item *item, uint64_t n_tokens);

/* Marks at most n_places items as chosen, all others as not; returns how many. Calls no malloc. */
size_t queue_choose(struct queue *queue, size_t n_places);

/* Which of two is served first when both could be: the one whose share was served less, then the older one. */
bool queue_comes_before(const struct queue_item *a, const struct queue_item *b);

#endif
