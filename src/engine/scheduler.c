#include "engine/scheduler.h"

#include <stdint.h>
#include <string.h>

#include "base/bytes.h"

struct budget {
    size_t n_tokens, n_prompt, n_outputs;
};

static bool is_decoding(const struct scheduler_entry *entry)
{
    return entry->n_pending == 1;
}

static size_t take_tokens(struct budget *budget, const struct scheduler_entry *entry)
{
    size_t n_tokens = size_min(entry->n_pending, budget->n_tokens);
    if (!is_decoding(entry))
        n_tokens = size_min(n_tokens, budget->n_prompt);
    if (entry->wants_every_output)
        n_tokens = size_min(n_tokens, budget->n_outputs);
    if (budget->n_outputs == 0)
        return 0;
    budget->n_tokens -= n_tokens;
    budget->n_prompt -= is_decoding(entry) ? 0 : n_tokens;
    budget->n_outputs -= entry->wants_every_output ? n_tokens : size_min(n_tokens, 1);
    return n_tokens;
}

static void allot(struct scheduler_plan *plan, struct budget *budget, const struct scheduler_entry *entries, size_t index)
{
    size_t n_tokens = take_tokens(budget, &entries[index]);
    if (n_tokens == 0)
        return;
    plan->parts[plan->n_parts++] = (struct scheduler_part){index, n_tokens};
    plan->n_tokens += n_tokens;
}

static bool comes_before(const struct scheduler_entry *entries, struct scheduler_part a, struct scheduler_part b)
{
    const struct scheduler_entry *x = &entries[a.entry], *y = &entries[b.entry];
    if (x->weight_group != y->weight_group)
        return (uintptr_t)x->weight_group < (uintptr_t)y->weight_group;
    if (x->view != y->view)
        return (uintptr_t)x->view < (uintptr_t)y->view;
    return a.entry < b.entry;
}

/* Merges the sorted runs [0, middle) and [middle, n) of `from` into `to`. */
static void merge(const struct scheduler_entry *entries, const struct scheduler_part *from, size_t middle, size_t n,
                  struct scheduler_part *to)
{
    size_t left = 0, right = middle;
    for (size_t i = 0; i < n; i++) {
        bool is_right = left == middle || (right < n && comes_before(entries, from[right], from[left]));
        to[i] = is_right ? from[right++] : from[left++];
    }
}

/* A merge sort of our own: qsort may call malloc. */
static void sort(const struct scheduler_entry *entries, struct scheduler_part *parts, size_t n, struct scheduler_part *scratch)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t i = 0; i < n; i += 2 * width)
            merge(entries, parts + i, size_min(width, n - i), size_min(2 * width, n - i), scratch + i);
        memcpy(parts, scratch, n * sizeof *parts);
    }
}

struct scheduler_plan scheduler_plan(const struct scheduler_entry *entries, size_t n_entries,
                                     const struct scheduler_limits *limits, struct scheduler_part *parts)
{
    struct scheduler_plan plan = {.parts = parts};
    struct budget budget = {limits->max_tokens, limits->max_prompt, limits->max_outputs};
    for (size_t i = 0; i < n_entries; i++)
        if (is_decoding(&entries[i]))
            allot(&plan, &budget, entries, i);
    for (size_t i = 0; i < n_entries; i++)
        if (!is_decoding(&entries[i]))
            allot(&plan, &budget, entries, i);
    sort(entries, parts, plan.n_parts, parts + n_entries);
    return plan;
}
