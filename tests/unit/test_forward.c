#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>
#include <stdatomic.h>

#include "base/cpu.h"
#include "support/naive_forward.h"
#include "support/runner.h"
#include "support/tiny_model.h"
#include "support/tiny_view.h"

/* Calls of malloc and its like, by any thread. The sanitizers bring their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define COUNTS_MALLOC 0
#endif
#endif
#if !defined(COUNTS_MALLOC) && defined(__GLIBC__)
#define COUNTS_MALLOC 1
#endif

static atomic_size_t n_mallocs;

#if COUNTS_MALLOC
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t n);
void *__libc_memalign(size_t alignment, size_t n);

void *malloc(size_t n)
{
    n_mallocs++;
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    n_mallocs++;
    return __libc_calloc(n, size);
}
void *realloc(void *memory, size_t n)
{
    n_mallocs++;
    return __libc_realloc(memory, n);
}
void *aligned_alloc(size_t alignment, size_t n)
{
    n_mallocs++;
    return __libc_memalign(alignment, n);
}
int posix_memalign(void **out, size_t alignment, size_t n)
{
    *out = aligned_alloc(alignment, n);
    return *out ? 0 : ENOMEM;
}
#endif

enum { N_TOKENS = 80, N_VOCAB = 96, CONTEXT = 96 }; /* more tokens than a step of attention */

static void random_tokens(int32_t *tokens, size_t n, unsigned seed)
{
    uint64_t random = seed;
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)((tiny_random(&random) + 1) / 2 * N_VOCAB);
}

static const struct tiny_view VIEWS[] = {
    {.seed = 1, .n_deltas = 1},
    {.seed = 2, .n_deltas = 3, .rank = 5, .has_delta_bias = true},
    {.seed = 3, .n_deltas = 1, .rank = 17, .type = WEIGHT_BF16, .has_row_gain = true, .has_bias = true, .has_norms = true},
    {.seed = 4, .has_weights = true, .has_bias = true},
    {.seed = 5, .n_deltas = 2, .type = WEIGHT_F16, .has_weights = true, .has_row_gain = true, .body_only = true},
};
enum { N_VIEWS = sizeof VIEWS / sizeof *VIEWS };

static const struct tiny_model MODELS[] = {
    {.family = "gpt2"},
    {.family = "gpt2", .tied_head = -1, .n_heads = 1, .n_layers = 3, .dtype = DTYPE_F16,
     .more_config = "\"scale_attn_by_inverse_layer_idx\": true, \"activation_function\": \"gelu\""},
    {.family = "gpt2", .more_config = "\"scale_attn_weights\": false, \"activation_function\": \"relu\""},
    {.family = "llama"},
    {.family = "llama", .d_head = 10, .n_heads = 6, .n_kv_heads = 3, .d_ffn = 50, .attention_bias = true, .mlp_bias = true,
     .tied_head = 1},
    {.family = "llama", .dtype = DTYPE_BF16,
     .more_config = "\"rope_theta\": 100, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 3}"},
    {.family = "llama",
     .more_config = "\"rope_parameters\": {\"rope_theta\": 1000, \"rope_type\": \"llama3\", \"factor\": 8, "
                    "\"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 64}"},
    {.family = "mistral", .n_kv_heads = 1, .more_config = "\"sliding_window\": 7"},
    {.family = "qwen2", .n_layers = 3,
     .more_config = "\"sliding_window\": 5, \"use_sliding_window\": true, \"max_window_layers\": 1"},
    {.family = "qwen3", .d_head = 16, .attention_bias = true},
};

static double worst_difference(const float *logits, const double *reference, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(logits[i]))
            return INFINITY;
        worst = fmax(worst, fabs((double)logits[i] - reference[i]));
    }
    return worst;
}

static void every_family_and_view_is_what_plain_loops_say(void **state)
{
    double worst = 0;
    (void)state;
    for (size_t m = 0; m < sizeof MODELS / sizeof *MODELS; m++) {
        struct model *model = tiny_model_load(MODELS[m], MODEL_WEIGHTS_NATIVE, runner_kernels());
        struct runner runner;
        int32_t tokens[N_TOKENS];
        runner_init(&runner, model, 2, CONTEXT, 1);
        random_tokens(tokens, N_TOKENS, (unsigned)m);
        for (size_t v = 0; v <= N_VIEWS; v++) {
            struct view *view = v ? tiny_view_create(model, VIEWS[v - 1]) : view_create_base(model, NULL);
            float *logits = runner_logits(&runner, view, tokens, N_TOKENS);
            double *reference = naive_forward(view, tokens, N_TOKENS);
            double difference = worst_difference(logits, reference, N_TOKENS * N_VOCAB);
            if (!(difference < (MODELS[m].dtype == DTYPE_BF16 ? 5e-2 : 1e-4))) /* products with bf16 round activations */
                fail_msg("model %zu (%s), view %zu: %g off", m, MODELS[m].family, v, difference);
            worst = fmax(worst, difference);
            free(reference);
            free(logits);
            view_unref(view);
        }
        runner_finish(&runner);
        model_destroy(model);
    }
    print_message("worst difference %.2g\n", worst);
}

/* ---- batch invariance ---- */

struct invariance {
    struct model *model;
    enum weight_type kv_type;
    struct view *views[6];
    int32_t tokens[6][N_TOKENS];
    float *alone[6];
};

static struct invariance *prepare(struct tiny_model spec, enum model_weights weights, enum weight_type kv_type, const struct kernels *kernels)
{
    struct invariance *all = calloc(1, sizeof *all);
    struct runner runner;
    all->model = tiny_model_load(spec, weights, kernels);
    all->kv_type = kv_type;
    runner_init_kv(&runner, all->model, kv_type, 1, CONTEXT, 1);
    for (size_t i = 0; i < 6; i++) {
        all->views[i] = i == 0 || i == 5 ? view_create_base(all->model, NULL) : tiny_view_create(all->model, VIEWS[i - 1]);
        random_tokens(all->tokens[i], N_TOKENS, 100 + (unsigned)i);
        all->alone[i] = runner_logits(&runner, all->views[i], all->tokens[i], N_TOKENS);
    }
    runner_finish(&runner);
    return all;
}

static void release(struct invariance *all)
{
    for (size_t i = 0; i < 6; i++) {
        view_unref(all->views[i]);
        free(all->alone[i]);
    }
    model_destroy(all->model);
    free(all);
}

/* All six together, in steps of random sizes, until all are through. */
static void check_mixed(struct invariance *all, size_t n_threads, unsigned seed, size_t most_tokens)
{
    struct runner runner;
    struct runner_sequence sequences[6];
    uint64_t random = seed;
    runner_init_kv(&runner, all->model, all->kv_type, n_threads, CONTEXT, 6);
    for (size_t i = 0; i < 6; i++)
        runner_begin(&runner, &sequences[i], all->views[i], all->tokens[i], N_TOKENS);
    for (size_t n_left = 6 * N_TOKENS; n_left;) {
        size_t counts[6], n_step = 0, from[6];
        for (size_t i = 0; i < 6; i++) {
            size_t n = (size_t)((tiny_random(&random) + 1) / 2 * (float)(most_tokens + 1));
            from[i] = sequences[i].n_done;
            counts[i] = n < N_TOKENS - from[i] ? n : N_TOKENS - from[i];
            n_step += counts[i];
        }
        if (n_step == 0)
            continue;
        const float *logits = runner_step(&runner, sequences, counts, 6);
        for (size_t i = 0; i < 6; logits += counts[i++] * N_VOCAB)
            if (memcmp(logits, all->alone[i] + from[i] * N_VOCAB, counts[i] * N_VOCAB * sizeof *logits) != 0)
                fail_msg("sequence %zu from %zu on, %zu tokens, %zu threads", i, from[i], counts[i], n_threads);
        n_left -= n_step;
    }
    for (size_t i = 0; i < 6; i++)
        runner_end(&runner, &sequences[i]);
    runner_finish(&runner);
}

static void check_invariance(struct tiny_model spec, enum model_weights weights, enum weight_type kv_type, const struct kernels *kernels)
{
    struct invariance *all = prepare(spec, weights, kv_type, kernels);
    for (size_t n_threads = 1; n_threads <= 3; n_threads++) {
        check_mixed(all, n_threads, 1, 1);
        check_mixed(all, n_threads, 2, 4);
        check_mixed(all, n_threads, 3, 25);
    }
    release(all);
}

static void neighbours_chunks_and_threads_change_no_bit(void **state)
{
    static const struct tiny_model SPECS[] = {
        {.family = "llama", .d_model = 64, .n_heads = 4, .d_ffn = 200, .dtype = DTYPE_BF16},
        {.family = "gpt2", .d_model = 48},
        {.family = "qwen2", .more_config = "\"sliding_window\": 5, \"use_sliding_window\": true, \"max_window_layers\": 1"},
    };
    (void)state;
    static const enum model_weights WEIGHTS[] = {MODEL_WEIGHTS_NATIVE, MODEL_WEIGHTS_Q8, MODEL_WEIGHTS_Q4};
    for (size_t s = 0; s < 3 * N_ELEMENT_TYPES; s++)
        check_invariance(SPECS[s % 3], WEIGHTS[(s + s / 3) % 3], (enum weight_type)(s / 3), runner_kernels());
}

/* Their bits are their own, but no less steady. */
static void sets_that_sum_pairs_apart_are_as_steady(void **state)
{
    const struct kernels *sets[KERNELS_MOST_SETS];
    size_t n_sets = kernels_all(cpu_detect_features(), sets), n_checked = 0;
    (void)state;
    for (size_t i = 0; i < n_sets; i++)
        if (sets[i]->sums_pairs_apart) {
            const struct tiny_model spec = {.family = "llama", .d_model = 64, .n_heads = 4, .d_ffn = 200, .dtype = DTYPE_BF16};
            check_invariance(spec, MODEL_WEIGHTS_NATIVE, WEIGHT_F16, sets[i]);
            n_checked++;
        }
    if (n_checked == 0)
        skip();
}

static void compare_sets(struct tiny_model spec, enum model_weights weights, enum weight_type kv_type, const struct kernels *reference,
                         const struct kernels *set)
{
    struct invariance *first = prepare(spec, weights, kv_type, reference), *other = prepare(spec, weights, kv_type, set);
    for (size_t s = 0; s < 6; s++)
        if (memcmp(first->alone[s], other->alone[s], N_TOKENS * N_VOCAB * sizeof(float)) != 0)
            fail_msg("%s and %s differ in sequence %zu, %s weights, %s keys and values", reference->name, set->name, s, first->model->weights_name,
                     weight_type_name(kv_type));
    release(other);
    release(first);
}

static void instruction_sets_change_no_bit(void **state)
{
    const struct kernels *sets[KERNELS_MOST_SETS];
    size_t n_sets = kernels_all(cpu_detect_features(), sets);
    struct tiny_model spec = {.family = "qwen3", .d_model = 64, .n_heads = 4, .d_ffn = 100, .dtype = DTYPE_BF16};
    (void)state;
    static const enum model_weights WEIGHTS[] = {MODEL_WEIGHTS_NATIVE, MODEL_WEIGHTS_F32, MODEL_WEIGHTS_F16, MODEL_WEIGHTS_Q8, MODEL_WEIGHTS_Q4};
    for (size_t w = 0; w < 5; w++)
        for (size_t i = 1; i < n_sets; i++)
            compare_sets(spec, WEIGHTS[w], (enum weight_type)(w % N_ELEMENT_TYPES), kernels_reference_of(sets[i]), sets[i]);
}

static void only_wanted_logits_are_made(void **state)
{
    struct model *model = tiny_model_load((struct tiny_model){0}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    struct view *view = view_create_base(model, NULL);
    struct runner runner;
    struct runner_sequence sequence;
    int32_t tokens[N_TOKENS];
    static const size_t WANTED[] = {3, 17, N_TOKENS - 1};
    const float *logits;
    (void)state;
    random_tokens(tokens, N_TOKENS, 1);
    runner_init(&runner, model, 2, CONTEXT, 2);
    float *all = runner_logits(&runner, view, tokens, N_TOKENS);
    runner_begin(&runner, &sequence, view, tokens, N_TOKENS);
    struct batch_sequence part = {view, sequence.blocks, 0, 0, N_TOKENS};
    struct batch batch = {tokens, N_TOKENS, &part, 1, WANTED, 3};
    assert_true(forward_run(runner.forward, &batch, &logits, NULL));
    for (size_t i = 0; i < 3; i++)
        assert_memory_equal(logits + i * N_VOCAB, all + WANTED[i] * N_VOCAB, N_VOCAB * sizeof *logits);
    batch.n_outputs = 0;
    assert_true(forward_run(runner.forward, &batch, &logits, NULL));
    runner_end(&runner, &sequence);
    free(all);
    runner_finish(&runner);
    view_unref(view);
    model_destroy(model);
}

static void a_step_of_usual_size_calls_no_malloc(void **state)
{
    (void)state;
#if !COUNTS_MALLOC
    skip();
#endif
    struct model *model = tiny_model_load((struct tiny_model){.max_positions = 256}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    struct view *views[4];
    struct runner runner;
    struct runner_sequence sequences[4];
    static const size_t ONE_EACH[] = {1, 1, 1, 1}, PROMPTS[] = {16, 16, 16, 16}, MIXED[] = {1, 7, 1, 0};
    int32_t tokens[220];
    random_tokens(tokens, 220, 1);
    runner_init(&runner, model, 2, 256, 4);
    for (size_t i = 0; i < 4; i++) {
        views[i] = i ? tiny_view_create(model, VIEWS[i]) : view_create_base(model, NULL);
        runner_begin(&runner, &sequences[i], views[i], tokens, 220);
    }
    runner_step(&runner, sequences, PROMPTS, 4);
    size_t before = n_mallocs;
    assert_true(before > 0);
    for (size_t i = 0; i < 100; i++)
        runner_step(&runner, sequences, i % 10 == 9 ? MIXED : ONE_EACH, 4);
    assert_int_equal(n_mallocs - before, 0);
    for (size_t i = 0; i < 4; i++) {
        runner_end(&runner, &sequences[i]);
        view_unref(views[i]);
    }
    runner_finish(&runner);
    model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_and_view_is_what_plain_loops_say),
        cmocka_unit_test(neighbours_chunks_and_threads_change_no_bit),
        cmocka_unit_test(sets_that_sum_pairs_apart_are_as_steady),
        cmocka_unit_test(instruction_sets_change_no_bit),
        cmocka_unit_test(only_wanted_logits_are_made),
        cmocka_unit_test(a_step_of_usual_size_calls_no_malloc),
    };
    return cmocka_run_group_tests_name("forward", tests, NULL, NULL);
}
