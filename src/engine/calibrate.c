/*
 * calibrate.c - T(n) by running some of the base's own weights, more than the caches hold, and scaling up; a barrier by running nothing.
 */
#include "engine/cost.h"

#include <stdlib.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "model/linear.h"

static const double ENOUGH_BYTES = 96e6; /* beyond the largest last-level cache share of such machines */
enum {
    N_PASSES = 3,          /* the best one counts: the first reads pages in */
    N_BARRIERS = 200,
    BARRIERS_PER_LAYER = 4 /* between A and B: at q/k/v, the attention's output, gate/up, down */
};

struct bench {
    const struct model *model;
    struct pool *pool;
    struct view *base;
    float *x, *out;
    size_t n_in, n_out; /* the widest of the sites that are run */
    size_t n_sites;     /* the first ones of the model, up to here */
    double share;       /* of all weights' bytes */
    struct linear_scratch scratch;
};

static bool is_run(const struct model *model, size_t site)
{
    return model->sites[site].kind == SITE_LINEAR || model->sites[site].kind == SITE_HEAD;
}

static double bytes_of(const struct site *site)
{
    return (double)matrix_bytes(site->weight);
}

static void choose_sites(struct bench *bench)
{
    const struct model *model = bench->model;
    double all = 0, chosen = 0;
    for (size_t i = 0; i < model->n_sites; i++) {
        const struct site *site = &model->sites[i];
        if (!is_run(model, i))
            continue;
        all += bytes_of(site);
        if (chosen >= ENOUGH_BYTES)
            continue;
        chosen += bytes_of(site);
        bench->n_sites = i + 1;
        bench->n_in = size_max(bench->n_in, site->n_in);
        bench->n_out = size_max(bench->n_out, site->n_out);
    }
    bench->share = chosen / all;
}

static bool run_sites(struct bench *bench, size_t n_tokens, double *us_out, struct error *err)
{
    struct linear_segment segment = {.view = bench->base, .n_tokens = n_tokens};
    uint64_t began_us = clock_now_us();
    for (size_t i = 0; i < bench->n_sites; i++) {
        if (!is_run(bench->model, i))
            continue;
        struct linear_call call = {.segments = &segment, .n_segments = 1, .n_tokens = n_tokens, .x = bench->x,
                                   .x_stride = bench->n_in, .n_jobs = 1};
        call.jobs[0] = (struct linear_job){i, bench->out, bench->n_out};
        if (!linear_run(&call, bench->model, bench->pool, &bench->scratch, err))
            return false;
    }
    *us_out = (double)(clock_now_us() - began_us);
    return true;
}

static bool measure_weights(struct bench *bench, struct cost_model *out, struct error *err)
{
    for (size_t i = 0; i < COST_POINTS; i++) {
        double best = 0, us;
        for (size_t pass = 0; pass < N_PASSES; pass++) {
            if (!run_sites(bench, COST_TOKENS[i], &us, err))
                return false;
            best = pass == 0 || us < best ? us : best;
        }
        out->weights_us[i] = best / bench->share;
        if (i > 0 && out->weights_us[i] < out->weights_us[i - 1])
            out->weights_us[i] = out->weights_us[i - 1]; /* more tokens never take less: that was noise */
    }
    return true;
}

static void do_nothing(void *context, size_t part, size_t n_parts, size_t thread)
{
    (void)context;
    (void)part;
    (void)n_parts;
    (void)thread;
}

static double measure_barriers(const struct bench *bench)
{
    uint64_t began_us = clock_now_us();
    for (size_t i = 0; i < N_BARRIERS; i++)
        pool_run(bench->pool, do_nothing, NULL, pool_n_threads(bench->pool));
    double one_us = (double)(clock_now_us() - began_us) / N_BARRIERS;
    return one_us * BARRIERS_PER_LAYER * (double)bench->model->config.n_layers;
}

bool cost_calibrate(struct cost_model *out, const struct model *model, struct pool *pool, struct error *err)
{
    struct bench bench = {.model = model, .pool = pool};
    struct cost_model cost;
    size_t n_most = COST_TOKENS[COST_POINTS - 1];
    choose_sites(&bench);
    bench.base = view_create_base(model, err);
    if (!bench.base)
        return false;
    bench.x = calloc(n_most * bench.n_in, sizeof *bench.x);
    bench.out = calloc(n_most * bench.n_out, sizeof *bench.out);
    bool ok = (bench.x && bench.out) || error_no_memory(err);
    ok = ok && measure_weights(&bench, &cost, err);
    if (ok) {
        cost.barriers_us = measure_barriers(&bench);
        *out = cost;
    }
    linear_scratch_finish(&bench.scratch);
    view_unref(bench.base);
    free(bench.x);
    free(bench.out);
    return ok;
}
