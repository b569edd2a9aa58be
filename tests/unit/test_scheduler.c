#include "engine/scheduler.h"

#include <stdlib.h>

#include "support/check.h"

enum { MOST = 8 };

#define ROOMY {.max_tokens = 32, .max_prompt = 32, .max_outputs = 32}
#define DECODE {.n_pending = 1}
#define PREFILL(n) {.n_pending = (n)}
#define SCORED(n) {.n_pending = (n), .wants_every_output = true}

struct row {
    const char *fact;
    struct scheduler_limits limits;
    struct scheduler_entry entries[MOST]; /* ends at n_pending 0 */
    size_t n_tokens[MOST];                /* expected, by entry */
};

static const struct row rows[] = {
    {"nothing gives nothing", ROOMY, {{0}}, {0}},
    {"all that decode take one token each", ROOMY, {DECODE, DECODE, DECODE}, {1, 1, 1}},
    {"a prompt takes all it needs", ROOMY, {PREFILL(20)}, {20}},
    {"a long prompt is cut to the step", ROOMY, {PREFILL(50)}, {32}},
    {"decoding comes before prompts, also of older ones", ROOMY, {PREFILL(50), DECODE, DECODE}, {30, 1, 1}},
    {"prompts go in the order given", ROOMY, {PREFILL(20), PREFILL(20)}, {20, 12}},
    {"a prompt may leave nothing", ROOMY, {PREFILL(40), PREFILL(20)}, {32, 0}},
    {"prompts together have a limit of their own", {.max_tokens = 32, .max_prompt = 10, .max_outputs = 32},
     {DECODE, PREFILL(8), PREFILL(8)}, {1, 8, 2}},
    {"which does not count what decodes", {.max_tokens = 32, .max_prompt = 2, .max_outputs = 32}, {DECODE, DECODE, DECODE}, {1, 1, 1}},
    {"logits of every token are limited", {.max_tokens = 32, .max_prompt = 32, .max_outputs = 8}, {SCORED(20)}, {8}},
    {"logits for decoding come out of the same limit", {.max_tokens = 32, .max_prompt = 32, .max_outputs = 8},
     {SCORED(20), DECODE, DECODE}, {6, 1, 1}},
    {"a prompt without log-probabilities needs one row only", {.max_tokens = 32, .max_prompt = 32, .max_outputs = 2},
     {PREFILL(20), PREFILL(5)}, {20, 5}},
    {"no logits left, no tokens", {.max_tokens = 32, .max_prompt = 32, .max_outputs = 4}, {SCORED(20), PREFILL(5)}, {4, 0}},
};

static void the_plan_is_what_the_table_says(void **state)
{
    (void)state;
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        const struct row *row = &rows[r];
        struct scheduler_part parts[2 * MOST];
        size_t n_entries = 0, n_tokens[MOST] = {0}, n_total = 0;
        while (row->entries[n_entries].n_pending)
            n_entries++;
        struct scheduler_plan plan = scheduler_plan(row->entries, n_entries, &row->limits, parts);
        for (size_t i = 0; i < plan.n_parts; i++) {
            assert_true(plan.parts[i].n_tokens > 0);
            n_tokens[plan.parts[i].entry] += plan.parts[i].n_tokens;
            n_total += plan.parts[i].n_tokens;
        }
        for (size_t i = 0; i < n_entries; i++)
            if (n_tokens[i] != row->n_tokens[i])
                fail_msg("%s: entry %zu gets %zu tokens, not %zu", row->fact, i, n_tokens[i], row->n_tokens[i]);
        assert_int_equal(plan.n_tokens, n_total);
    }
}

static void views_with_the_same_weights_are_neighbours_and_the_base_comes_first(void **state)
{
    static const char groups[2], views[4];
    const struct { const void *group, *view; } made[] = {
        {&groups[1], &views[3]}, {NULL, &views[1]}, {&groups[0], &views[2]}, {NULL, &views[0]},
        {&groups[1], &views[3]}, {NULL, &views[1]}, {&groups[0], &views[2]},
    };
    enum { N = sizeof made / sizeof *made };
    static const size_t expected[N] = {3, 1, 5, 2, 6, 0, 4};
    const struct scheduler_limits limits = ROOMY;
    struct scheduler_entry entries[N];
    struct scheduler_part parts[2 * N];
    (void)state;
    for (size_t i = 0; i < N; i++)
        entries[i] = (struct scheduler_entry){.n_pending = 1, .weight_group = made[i].group,
                                              .view = made[i].view};
    struct scheduler_plan plan = scheduler_plan(entries, N, &limits, parts);
    assert_int_equal(plan.n_parts, N);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(plan.parts[i].entry, expected[i]);
}

static void any_number_of_parts_is_ordered(void **state)
{
    enum { N = 100 };
    static const char places[7];
    struct scheduler_entry entries[N];
    struct scheduler_part parts[2 * N];
    struct scheduler_limits limits = {.max_tokens = N, .max_prompt = N, .max_outputs = N};
    (void)state;
    for (size_t n = 1; n <= N; n++) {
        for (size_t i = 0; i < n; i++)
            entries[i] = (struct scheduler_entry){.n_pending = 1, .weight_group = &places[i * 5 % 7],
                                                  .view = &places[i * 3 % 7]};
        struct scheduler_plan plan = scheduler_plan(entries, n, &limits, parts);
        assert_int_equal(plan.n_parts, n);
        for (size_t i = 1; i < n; i++) {
            const struct scheduler_entry *a = &entries[plan.parts[i - 1].entry], *b = &entries[plan.parts[i].entry];
            assert_true((uintptr_t)a->weight_group <= (uintptr_t)b->weight_group);
            if (a->weight_group == b->weight_group) {
                assert_true((uintptr_t)a->view <= (uintptr_t)b->view);
                if (a->view == b->view)
                    assert_true(plan.parts[i - 1].entry < plan.parts[i].entry);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_is_what_the_table_says),
        cmocka_unit_test(views_with_the_same_weights_are_neighbours_and_the_base_comes_first),
        cmocka_unit_test(any_number_of_parts_is_ordered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
