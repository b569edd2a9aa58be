#include "support/engine_kit.h"

#include <math.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpu.h"
#include "support/check.h"
#include "support/tiny_model.h"
#include "support/tiny_view.h"

struct engine_kit kit;

static struct view *create_broken_view(void)
{
    struct norm_view *norms;
    float *values;
    size_t n = kit.model->config.d_model;
    struct view *view = view_create_copy_of_base(kit.model, n * sizeof(float), NULL, &norms, (void **)&values, NULL);
    for (size_t i = 0; i < n; i++)
        values[i] = NAN;
    norms[kit.model->final_norm].weight = values;
    return view;
}

int engine_kit_load(void **state)
{
    struct error err;
    const struct kernels *kernels = kernels_select(cpu_detect_features(), getenv("LORAD_CPU"), &err);
    char *directory = tiny_model_write((struct tiny_model){.has_tokenizer = true, .max_positions = CONTEXT, .seed = 3});
    (void)state;
    for (size_t i = 0; i < sizeof kit.letters / sizeof *kit.letters; i++)
        kit.letters[i] = (int32_t)('a' + i * i % 26);
    for (int i = 0; i < 26; i++)
        kit.letters_only[i] = (struct lorad_logit_bias){'a' + i, 100};
    kit.model = model_load(directory, MODEL_WEIGHTS_NATIVE, kernels, NULL, NULL, &err);
    kit.tokenizer = tokenizer_load(directory, &err);
    tiny_remove(directory);
    if (!kit.model || !kit.tokenizer)
        return -1;
    kit.views[0] = view_create_base(kit.model, &err);
    kit.views[1] = tiny_view_create(kit.model, (struct tiny_view){.seed = 1, .n_deltas = 1});
    kit.views[2] = tiny_view_create(kit.model, (struct tiny_view){.seed = 2, .n_deltas = 2, .rank = 7});
    kit.views[3] = tiny_view_create(kit.model, (struct tiny_view){.seed = 3, .n_deltas = 1, .has_row_gain = true,
                                                                  .has_bias = true, .has_norms = true});
    kit.views[4] = tiny_view_create(kit.model, (struct tiny_view){.seed = 4, .has_weights = true});
    kit.views[5] = tiny_view_create(kit.model, (struct tiny_view){.seed = 5, .has_weights = true, .n_deltas = 1});
    kit.views[BROKEN_VIEW] = create_broken_view();
    return 0;
}

int engine_kit_unload(void **state)
{
    (void)state;
    for (size_t i = 0; i <= N_VIEWS; i++)
        view_unref(kit.views[i]);
    tokenizer_destroy(kit.tokenizer);
    model_destroy(kit.model);
    return 0;
}

void start(struct shape shape)
{
    struct error err;
    size_t n_sequences = shape.max_sequences ? shape.max_sequences : 8;
    size_t n_blocks = shape.n_blocks ? shape.n_blocks : n_sequences * (CONTEXT / KV_BLOCK_TOKENS + 1);
    kit.pool = pool_create(shape.n_threads ? shape.n_threads : 1, &err);
    struct engine_options options = {
        .model = kit.model,
        .tokenizer = kit.tokenizer,
        .pool = kit.pool,
        .kv_type = WEIGHT_BF16,
        .kv_memory = n_blocks * kv_block_bytes(kit.model, WEIGHT_BF16),
        .context = CONTEXT,
        .max_sequences = n_sequences,
        .max_batch_tokens = shape.max_batch_tokens ? shape.max_batch_tokens : 64,
        .max_queue = shape.max_queue ? shape.max_queue : 1000,
    };
    assert_ok(kit.engine = engine_create(&options, &err), &err);
}

void stop(void)
{
    engine_destroy(kit.engine);
    pool_destroy(kit.pool);
    kit.engine = NULL;
    kit.pool = NULL;
}

struct lorad_stats stats(void)
{
    struct lorad_stats out = {0};
    engine_stats_read(kit.engine, &out);
    return out;
}

/* ---- requests and answers ---- */

atomic_size_t n_released, n_released_tokens;

static void release(struct engine_request *request, const struct lorad_usage *usage, bool is_merged)
{
    (void)is_merged;
    n_released++;
    n_released_tokens += usage->completion_tokens;
    arena_finish(&request->arena);
    free(request);
}

/* What is asked in tests: a greedy request for the base with a prompt of a few letters; the caller changes what it wants. */
struct engine_request ask(size_t n_prompt, size_t max_tokens)
{
    return (struct engine_request){
        .prompt = kit.letters, .n_prompt = n_prompt, .view = kit.views[0], .max_tokens = max_tokens, .ignore_eos = true,
        .logprobs = -1, .prompt_logprobs = -1,
        .sampling = {.repetition_penalty = 1, .top_p = 1, .has_seed = true},
    };
}

/* Makes nothing but lower-case letters likely, drawn at random: text that one can read. */
void ask_for_letters(struct engine_request *request, uint64_t seed)
{
    request->sampling.logit_bias = kit.letters_only;
    request->sampling.n_logit_bias = 26;
    request->sampling.temperature = 3;
    request->sampling.seed = seed;
}

struct stream *try_submit(struct engine_request from, struct error *err)
{
    struct engine_request *request = malloc(sizeof *request);
    *request = from;
    arena_init(&request->arena, 4096);
    request->release = release;
    request->submitted_us = clock_now_us();
    struct stream *stream = engine_submit(kit.engine, request, err);
    if (!stream)
        free(request);
    return stream;
}

struct stream *submit(struct engine_request from)
{
    struct error err;
    struct stream *stream = try_submit(from, &err);
    if (!stream)
        fail_msg("submit: %s", err.message);
    return stream;
}

/* ---- steps on demand ---- */

static sem_t allowed_steps;
static atomic_bool are_all_allowed;
atomic_size_t n_counted_steps;

/* The engine asks this of every request before each step. */
static bool wait_to_be_allowed(const struct engine_request *request)
{
    struct timespec until;
    (void)request;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 200000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (!are_all_allowed)
        sem_timedwait(&allowed_steps, &until);
    return false;
}

struct engine_request held(struct engine_request from)
{
    sem_init(&allowed_steps, 0, 0);
    are_all_allowed = false;
    from.is_revoked = wait_to_be_allowed;
    return from;
}

void allow_steps(int n)
{
    for (int i = 0; i < n; i++)
        sem_post(&allowed_steps);
}

void allow_all_steps(void)
{
    are_all_allowed = true;
    sem_post(&allowed_steps); /* it may wait */
}

static bool count_step(const struct engine_request *request)
{
    (void)request;
    n_counted_steps++;
    return false;
}

struct engine_request counted(struct engine_request from)
{
    n_counted_steps = 0;
    from.is_revoked = count_step;
    return from;
}

void answer_finish(struct answer *answer)
{
    free(answer->prompt);
    free(answer->tokens);
    buffer_finish(&answer->text);
}

void answer_add(struct answer *answer, const struct lorad_event *event)
{
    if (event->kind == LORAD_EVENT_PROMPT) {
        assert_int_equal(answer->n_tokens, 0);
        answer->n_prompt = event->n_prompt_tokens;
        answer->prompt = malloc(answer->n_prompt * sizeof *answer->prompt);
        memcpy(answer->prompt, event->prompt_tokens, answer->n_prompt * sizeof *answer->prompt);
        return;
    }
    assert_true(event->text && event->text[event->n_text_bytes] == '\0');
    buffer_append(&answer->text, event->text, event->n_text_bytes);
    if (event->kind == LORAD_EVENT_TOKEN) {
        answer->tokens = realloc(answer->tokens, (answer->n_tokens + 1) * sizeof *answer->tokens);
        answer->tokens[answer->n_tokens++] = event->token;
        return;
    }
    answer->finish = event->finish;
    answer->stop_id = event->stop_id;
    answer->usage = event->usage;
    snprintf(answer->stop_text, sizeof answer->stop_text, "%s", event->stop_text ? event->stop_text : "");
    snprintf(answer->error, sizeof answer->error, "%s", event->error_message ? event->error_message : "");
}

/* Reads to the end and closes. */
struct answer collect(struct stream *stream)
{
    struct answer answer = {0};
    struct lorad_event event = {.kind = LORAD_EVENT_TOKEN};
    while (event.kind != LORAD_EVENT_END) {
        if (!stream_wait(stream, 60000))
            fail_msg("no event in a minute");
        while (event.kind != LORAD_EVENT_END && stream_next(stream, &event))
            answer_add(&answer, &event);
    }
    assert_in_range(answer.usage.completion_tokens, answer.n_tokens, answer.n_tokens + 1); /* wait_for_event took one */
    answer.is_merged = stream_is_merged(stream);
    stream_close(stream);
    return answer;
}

struct answer get(struct engine_request request)
{
    return collect(submit(request));
}

void wait_for_event(struct stream *stream)
{
    struct lorad_event event;
    assert_true(stream_wait(stream, 60000));
    assert_true(stream_next(stream, &event));
    assert_int_equal(event.kind, LORAD_EVENT_TOKEN);
}

void wait_until_idle(void)
{
    while (!engine_is_idle(kit.engine))
        usleep(1000);
}

void expect_end(struct stream *stream, enum lorad_finish finish)
{
    struct answer answer = {0};
    struct lorad_event event = {.kind = LORAD_EVENT_TOKEN};
    while (event.kind != LORAD_EVENT_END) {
        assert_true(stream_wait(stream, 60000));
        assert_true(stream_next(stream, &event));
    }
    answer_add(&answer, &event);
    assert_int_equal(answer.finish, finish);
    answer_finish(&answer);
    stream_close(stream);
}

void assert_same_tokens(const struct lorad_token *a, const struct lorad_token *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(a[i].id, b[i].id);
        assert_memory_equal(&a[i].logprob, &b[i].logprob, sizeof a[i].logprob);
        assert_int_equal(a[i].n_top, b[i].n_top);
        assert_memory_equal(a[i].top, b[i].top, a[i].n_top * sizeof *a[i].top);
    }
}

void assert_same_answer(const struct answer *a, const struct answer *b)
{
    assert_int_equal(a->n_prompt, b->n_prompt);
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_same_tokens(a->prompt, b->prompt, a->n_prompt);
    assert_same_tokens(a->tokens, b->tokens, a->n_tokens);
    assert_string_equal(buffer_text(&a->text), buffer_text(&b->text));
    assert_int_equal(a->finish, b->finish);
    assert_int_equal(a->stop_id, b->stop_id);
    assert_string_equal(a->stop_text, b->stop_text);
}

