#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "model/linear.h"
#include "support/naive_forward.h"
#include "support/runner.h"
#include "support/tiny_model.h"
#include "support/tiny_view.h"

enum { N_TOKENS = 150, WIDTH = 256, N_MANY = 1300 };

struct fixture {
    struct model *model;
    struct view *views[4];
    struct linear_segment segments[5];
    float *x;
    float *out[3];
};

/* Wide enough that the work is worth several parts; some sites are no multiple of any block. */
static struct fixture *set_up(enum dtype dtype)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->model = tiny_model_load((struct tiny_model){.family = "qwen2", .n_layers = 1, .d_model = WIDTH, .n_heads = 8, .d_ffn = 300,
                                                   .dtype = dtype}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    f->views[0] = view_create_base(f->model, NULL);
    f->views[1] = tiny_view_create(f->model, (struct tiny_view){.seed = 1, .n_deltas = 2, .rank = 20, .has_delta_bias = true,
                                                                .has_bias = true, .has_row_gain = true});
    f->views[2] = tiny_view_create(f->model, (struct tiny_view){.seed = 2, .has_weights = true, .has_row_gain = true});
    f->views[3] = tiny_view_create(f->model, (struct tiny_view){.seed = 3, .n_deltas = 1, .rank = 3, .scale = 2, .type = WEIGHT_BF16});
    static const size_t LENGTHS[] = {1, 100, 30, 18, 1};
    static const size_t VIEWS[] = {0, 1, 2, 3, 1};
    for (size_t i = 0, at = 0; i < 5; at += LENGTHS[i++])
        f->segments[i] = (struct linear_segment){f->views[VIEWS[i]], at, LENGTHS[i]};
    uint64_t random = 7;
    f->x = malloc(N_TOKENS * 300 * sizeof *f->x);
    for (size_t i = 0; i < N_TOKENS * 300; i++)
        f->x[i] = tiny_random(&random);
    for (size_t i = 0; i < 3; i++)
        f->out[i] = calloc(N_TOKENS * 400, sizeof(float));
    return f;
}

static void tear_down(struct fixture *f)
{
    for (size_t i = 0; i < 4; i++)
        view_unref(f->views[i]);
    for (size_t i = 0; i < 3; i++)
        free(f->out[i]);
    free(f->x);
    model_destroy(f->model);
    free(f);
}

static size_t site_of(const struct fixture *f, enum projection projection)
{
    return f->model->layer_sites[0][projection];
}

static struct linear_call call_of(const struct fixture *f)
{
    return (struct linear_call){.segments = f->segments, .n_segments = 5, .n_tokens = N_TOKENS, .x = f->x};
}

static void run(const struct linear_call *call, const struct model *model, size_t n_threads)
{
    struct pool *pool = pool_create(n_threads, NULL);
    struct linear_scratch scratch = {0};
    assert_true(linear_run(call, model, pool, &scratch, NULL));
    linear_scratch_finish(&scratch);
    pool_destroy(pool);
}

static double weight_at(const void *data, enum weight_type type, size_t i)
{
    float value;
    dtype_to_f32(&value, (const char *)data + i * weight_type_size(type), dtype_of_weight(type), 1);
    return (double)value;
}

enum { MOST_DELTAS = 2, MOST_RANK = 32 };

/* out[d][j]: A x of each delta. */
static void shrink(double out[MOST_DELTAS][MOST_RANK], const struct site_view *view, size_t n_in, const float *x)
{
    for (size_t d = 0; d < view->n_deltas; d++)
        for (size_t j = 0; j < view->deltas[d].rank; j++) {
            out[d][j] = 0;
            for (size_t k = 0; k < n_in; k++)
                out[d][j] += weight_at(view->deltas[d].a, view->deltas[d].type, j * n_in + k) * (double)x[k];
        }
}

/* The contract, word for word: W x, then each scale * (B(Ax) + bias), times gain, plus bias. `low_rank`: see shrink. */
static double expected(const struct site_view *view, double low_rank[MOST_DELTAS][MOST_RANK], size_t n_in, const float *x, size_t o)
{
    double sum = 0;
    for (size_t k = 0; k < n_in; k++)
        sum += naive_weight(view->weight, o, k) *
               (double)(view->weight->type == WEIGHT_BF16 ? bf16_to_f32(f32_to_bf16(x[k])) : x[k]);
    for (size_t d = 0; d < view->n_deltas; d++) {
        const struct delta *delta = &view->deltas[d];
        double low = delta->bias ? (double)delta->bias[o] : 0;
        for (size_t j = 0; j < delta->rank; j++)
            low += weight_at(delta->b, delta->type, delta_b_at(delta->rank, o, j)) * low_rank[d][j];
        sum += (double)delta->scale * low;
    }
    return sum * (view->row_gain ? (double)view->row_gain[o] : 1) + (view->bias ? (double)view->bias[o] : 0);
}

static void check(const struct fixture *f, size_t site, const float *x, size_t x_stride, const float *out, size_t stride)
{
    size_t n_in = f->model->sites[site].n_in, n_out = f->model->sites[site].n_out;
    double low_rank[MOST_DELTAS][MOST_RANK];
    for (size_t s = 0; s < 5; s++) {
        const struct site_view *view = &f->segments[s].view->sites[site];
        for (size_t t = f->segments[s].first; t < f->segments[s].first + f->segments[s].n_tokens; t++) {
            shrink(low_rank, view, n_in, x + t * x_stride);
            for (size_t o = 0; o < n_out; o++)
                assert_float_equal(out[t * stride + o], expected(view, low_rank, n_in, x + t * x_stride, o), 2e-5);
        }
    }
}

static void three_sites_of_five_segments_are_what_the_contract_says(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        struct fixture *f = set_up(dtype);
        struct linear_call call = call_of(f);
        static const enum projection PARTS[] = {PROJECTION_Q, PROJECTION_K, PROJECTION_V};
        call.x_stride = WIDTH;
        call.n_jobs = 3;
        size_t width = WIDTH + 2 * 64;
        for (size_t i = 0, at = 0; i < 3; at += f->model->sites[call.jobs[i++].site].n_out)
            call.jobs[i] = (struct linear_job){site_of(f, PARTS[i]), f->out[0] + at, width};
        run(&call, f->model, 3);
        for (size_t i = 0; i < 3; i++)
            check(f, call.jobs[i].site, f->x, WIDTH, call.jobs[i].out, width);
        tear_down(f);
    }
}

static void threads_do_not_change_a_bit(void **state)
{
    struct fixture *f = set_up(DTYPE_BF16);
    struct linear_call call = call_of(f);
    (void)state;
    call.x_stride = WIDTH;
    call.n_jobs = 1;
    for (size_t i = 0; i < 3; i++) {
        call.jobs[0] = (struct linear_job){site_of(f, PROJECTION_UP), f->out[i], 300};
        run(&call, f->model, i == 2 ? 9 : i + 1);
        assert_memory_equal(f->out[i], f->out[0], N_TOKENS * 300 * sizeof(float));
    }
    tear_down(f);
}

static void what_comes_after_is_done_once_per_element(void **state)
{
    struct fixture *f = set_up(DTYPE_F32);
    struct linear_call call = call_of(f);
    const struct kernels *kernels = f->model->kernels;
    float *gate = calloc(N_TOKENS * 300, sizeof *gate), *up = calloc(N_TOKENS * 300, sizeof *up);
    (void)state;
    call.x_stride = WIDTH;
    call.n_jobs = 2;
    call.jobs[0] = (struct linear_job){site_of(f, PROJECTION_GATE), gate, 300};
    call.jobs[1] = (struct linear_job){site_of(f, PROJECTION_UP), up, 300};
    run(&call, f->model, 2);
    memcpy(f->out[0], gate, N_TOKENS * 300 * sizeof *gate);
    kernels->activate[ACTIVATION_SILU](f->out[0], N_TOKENS * 300);
    memcpy(f->out[1], f->out[0], N_TOKENS * 300 * sizeof *gate);
    kernels->multiply(f->out[0], up, N_TOKENS * 300);

    call.after = LINEAR_GATE;
    call.jobs[1].out = NULL;
    call.activation = ACTIVATION_SILU;
    run(&call, f->model, 2);
    assert_memory_equal(gate, f->out[0], N_TOKENS * 300 * sizeof *gate);
    call.after = LINEAR_ACTIVATE;
    call.n_jobs = 1;
    run(&call, f->model, 2);
    assert_memory_equal(gate, f->out[1], N_TOKENS * 300 * sizeof *gate);

    /* residual + down(x) */
    memset(f->out[0], 0, N_TOKENS * WIDTH * sizeof(float));
    for (size_t i = 0; i < N_TOKENS * WIDTH; i++)
        f->out[1][i] = f->out[2][i] = (float)(i % 7);
    call.x_stride = 300;
    call.jobs[0] = (struct linear_job){site_of(f, PROJECTION_DOWN), f->out[0], WIDTH};
    call.after = LINEAR_PLAIN;
    run(&call, f->model, 2);
    check(f, call.jobs[0].site, f->x, 300, f->out[0], WIDTH);
    call.jobs[0].out = NULL;
    call.after = LINEAR_ADD;
    call.residual = f->out[1];
    call.residual_stride = WIDTH;
    run(&call, f->model, 2);
    kernels->add(f->out[2], f->out[0], N_TOKENS * WIDTH);
    assert_memory_equal(f->out[1], f->out[2], N_TOKENS * WIDTH * sizeof(float));
    free(gate);
    free(up);
    tear_down(f);
}

/* The same adapter through two views, each with its own copy of the deltas, is one segment of two tokens: the bits say nothing
   of that, so the copies differ from the original where only a second segment would look. */
static void copies_of_a_delta_are_read_once(void **state)
{
    struct fixture *f = set_up(DTYPE_BF16);
    (void)state;
    size_t site = site_of(f, PROJECTION_UP);
    struct site_view *sites;
    struct view *copy = view_create_copy_of_base(f->model, 0, &sites, NULL, NULL, NULL);
    struct delta delta = f->views[3]->sites[site].deltas[0];
    sites[site] = f->views[3]->sites[site];
    sites[site].deltas = &delta;
    copy->has_deltas = true;
    delta.n_in = SIZE_MAX; /* nobody may compute with it */
    f->segments[0] = (struct linear_segment){f->views[3], 0, 1};
    f->segments[1] = (struct linear_segment){copy, 1, 1};
    memcpy(f->x + WIDTH, f->x, WIDTH * sizeof *f->x);
    struct linear_call call = call_of(f);
    call.n_segments = call.n_tokens = 2;
    call.x_stride = WIDTH;
    call.n_jobs = 1;
    call.jobs[0] = (struct linear_job){site, f->out[0], 300};
    run(&call, f->model, 2);
    assert_memory_equal(f->out[0], f->out[0] + 300, 300 * sizeof(float));
    view_unref(copy);
    tear_down(f);
}

/* gate, 300 wide, and up behind it: the second begins in the middle of a cache line of the first. */
static void sites_of_odd_widths_lie_side_by_side(void **state)
{
    struct fixture *f = set_up(DTYPE_F32);
    struct linear_call call = call_of(f);
    (void)state;
    call.x_stride = WIDTH;
    call.n_jobs = 2;
    call.jobs[0] = (struct linear_job){site_of(f, PROJECTION_GATE), f->out[0], 300};
    call.jobs[1] = (struct linear_job){site_of(f, PROJECTION_UP), f->out[1], 300};
    for (size_t n_threads = 1; n_threads < 6; n_threads += 2) {
        run(&call, f->model, n_threads);
        check(f, call.jobs[0].site, f->x, WIDTH, f->out[0], 300);
        check(f, call.jobs[1].site, f->x, WIDTH, f->out[1], 300);
    }
    tear_down(f);
}

/* More tokens than the first phase comes to at once: the same rows again and again, so that each block has to say the same as the first. */
static void check_many(struct fixture *f, const float *x, float *out, size_t n_threads)
{
    enum { CUT = 700, N_OUT = 300 };
    const struct linear_segment segments[] = {{f->views[1], 0, CUT}, {f->views[3], CUT, N_MANY - CUT}};
    struct linear_call call = {.segments = segments, .n_segments = 2, .n_tokens = N_MANY, .x = x, .x_stride = WIDTH, .n_jobs = 1};
    call.jobs[0] = (struct linear_job){site_of(f, PROJECTION_UP), out, N_OUT};
    run(&call, f->model, n_threads);
    for (size_t s = 0; s < 2; s++) {
        struct linear_segment few = {segments[s].view, 0, N_TOKENS};
        call.segments = &few;
        call.n_segments = 1;
        call.n_tokens = N_TOKENS;
        call.jobs[0].out = f->out[0];
        run(&call, f->model, 1);
        for (size_t t = segments[s].first; t < segments[s].first + segments[s].n_tokens; t++)
            assert_memory_equal(out + t * N_OUT, f->out[0] + (t % N_TOKENS) * N_OUT, N_OUT * sizeof *out);
    }
}

static void many_tokens_are_what_few_are(void **state)
{
    enum { N_OUT = 300 };
    struct fixture *f = set_up(DTYPE_BF16);
    float *x = malloc(N_MANY * WIDTH * sizeof *x), *out = calloc(N_MANY * N_OUT, sizeof *out);
    (void)state;
    for (size_t t = 0; t < N_MANY; t++)
        memcpy(x + t * WIDTH, f->x + (t % N_TOKENS) * WIDTH, WIDTH * sizeof *x);
    for (size_t n_threads = 1; n_threads < 40; n_threads = 3 * n_threads + 1)
        check_many(f, x, out, n_threads);
    free(x);
    free(out);
    tear_down(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_sites_of_five_segments_are_what_the_contract_says),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(what_comes_after_is_done_once_per_element),
        cmocka_unit_test(copies_of_a_delta_are_read_once),
        cmocka_unit_test(sites_of_odd_widths_lie_side_by_side),
        cmocka_unit_test(many_tokens_are_what_few_are),
    };
    return cmocka_run_group_tests_name("linear", tests, NULL, NULL);
}
