#include "support/runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cpu.h"

enum { MOST_TOKENS = 4096, MOST_SEQUENCES = 64 };

static void *must(void *pointer, const struct error *err)
{
    if (!pointer) {
        fprintf(stderr, "%s\n", err ? err->message : "no memory");
        abort();
    }
    return pointer;
}

const struct kernels *runner_kernels(void)
{
    struct error err;
    const struct kernels *kernels = kernels_select(cpu_detect_features(), getenv("LORAD_CPU"), &err);
    if (!kernels) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    return kernels;
}

void runner_init(struct runner *runner, const struct model *model, size_t n_threads, size_t context, size_t n_sequences)
{
    runner_init_kv(runner, model, WEIGHT_F32, n_threads, context, n_sequences);
}

void runner_init_kv(struct runner *runner, const struct model *model, enum weight_type kv_type, size_t n_threads, size_t context,
                    size_t n_sequences)
{
    struct error err;
    uint64_t n_blocks = (uint64_t)ceil_divide(context, KV_BLOCK_TOKENS) * n_sequences;
    *runner = (struct runner){.model = model, .context = context};
    runner->pool = must(pool_create(n_threads, &err), &err);
    runner->kv = must(kv_create(model, kv_type, n_blocks * kv_block_bytes(model, kv_type), context, &err), &err);
    runner->forward = must(forward_create(model, runner->pool, runner->kv, context, &err), &err);
}

void runner_finish(struct runner *runner)
{
    forward_destroy(runner->forward);
    kv_destroy(runner->kv);
    pool_destroy(runner->pool);
}

void runner_begin(struct runner *runner, struct runner_sequence *sequence, const struct view *view, const int32_t *tokens,
                  size_t n_tokens)
{
    size_t n_blocks = ceil_divide(runner->context, KV_BLOCK_TOKENS);
    *sequence = (struct runner_sequence){.view = view, .tokens = tokens, .n_tokens = n_tokens};
    sequence->blocks = must(calloc(n_blocks, sizeof *sequence->blocks), NULL);
    for (size_t i = 0; i < n_blocks; i++) {
        sequence->blocks[i] = kv_acquire(runner->kv);
        if (sequence->blocks[i] == KV_NO_BLOCK)
            abort();
    }
}

void runner_end(struct runner *runner, struct runner_sequence *sequence)
{
    for (size_t i = 0; i < ceil_divide(runner->context, KV_BLOCK_TOKENS); i++)
        kv_release(runner->kv, sequence->blocks[i]);
    free(sequence->blocks);
}

const float *runner_step(struct runner *runner, struct runner_sequence *sequences, const size_t *counts, size_t n)
{
    static int32_t tokens[MOST_TOKENS];
    static size_t outputs[MOST_TOKENS];
    struct batch_sequence parts[MOST_SEQUENCES];
    struct batch batch = {.tokens = tokens, .sequences = parts, .outputs = outputs};
    struct error err;
    const float *logits = NULL;

    for (size_t i = 0; i < n; i++) {
        struct runner_sequence *sequence = &sequences[i];
        if (counts[i] == 0)
            continue;
        if (sequence->n_done + counts[i] > sequence->n_tokens || batch.n_tokens + counts[i] > MOST_TOKENS)
            abort();
        parts[batch.n_sequences++] = (struct batch_sequence){sequence->view, sequence->blocks, sequence->n_done,
                                                             batch.n_tokens, counts[i]};
        memcpy(tokens + batch.n_tokens, sequence->tokens + sequence->n_done, counts[i] * sizeof *tokens);
        sequence->n_done += counts[i];
        for (size_t t = 0; t < counts[i]; t++, batch.n_tokens++)
            outputs[batch.n_tokens] = batch.n_tokens;
    }
    batch.n_outputs = batch.n_tokens;
    if (!forward_run(runner->forward, &batch, &logits, &err)) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    return logits;
}

float *runner_logits(struct runner *runner, const struct view *view, const int32_t *tokens, size_t n_tokens)
{
    struct runner_sequence sequence;
    runner_begin(runner, &sequence, view, tokens, n_tokens);
    const float *logits = runner_step(runner, &sequence, &n_tokens, 1);
    size_t n_bytes = n_tokens * runner->model->config.n_vocab * sizeof *logits;
    float *copy = must(malloc(n_bytes), NULL);
    memcpy(copy, logits, n_bytes);
    runner_end(runner, &sequence);
    return copy;
}
