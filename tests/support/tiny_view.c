#include "support/tiny_view.h"

#include <stdlib.h>

#include "formats/dtype.h"
#include "support/tiny_model.h"

struct owned {
    struct arena arena;
    struct matrix **weights; /* n_sites, NULL where the base's */
};

static void *must(void *pointer)
{
    if (!pointer)
        abort();
    return pointer;
}

static float *random_floats(struct owned *owned, size_t n, float mean, float size, uint64_t *random)
{
    float *values = must(arena_allocate(&owned->arena, n * sizeof *values));
    for (size_t i = 0; i < n; i++)
        values[i] = mean + size * tiny_random(random);
    return values;
}

static void *random_weights(struct owned *owned, enum weight_type type, size_t n, float size, uint64_t *random)
{
    float *values = random_floats(owned, n, 0, size, random);
    void *weights = must(arena_allocate(&owned->arena, n * weight_type_size(type)));
    dtype_from_f32(weights, dtype_of_weight(type), values, n);
    return weights;
}

static const struct delta *random_deltas(struct owned *owned, const struct tiny_view *spec, const struct site *site,
                                         uint64_t *random)
{
    struct delta *deltas = must(arena_allocate_array(&owned->arena, spec->n_deltas, sizeof *deltas));
    for (size_t d = 0; d < spec->n_deltas; d++) {
        size_t rank = (spec->rank ? spec->rank : 4) + d;
        deltas[d] = (struct delta){.type = spec->type, .rank = rank, .n_in = site->n_in, .n_out = site->n_out,
                                   .scale = (spec->scale != 0 ? spec->scale : 1) * (d % 2 ? -0.5f : 1)};
        deltas[d].a = random_weights(owned, spec->type, rank * site->n_in, 0.15f, random);
        deltas[d].b = random_weights(owned, spec->type, delta_b_size(rank, site->n_out), 0.15f, random);
        if (spec->has_delta_bias)
            deltas[d].bias = random_floats(owned, site->n_out, 0, 0.3f, random);
    }
    return deltas;
}

static struct matrix *noisy_copy(const struct matrix *base, uint64_t *random)
{
    struct matrix *copy = must(matrix_create(WEIGHT_F32, base->layout, base->n_out, base->n_in, NULL));
    float *values = must(malloc(base->n_out * base->n_in * sizeof *values));
    void *scratch = must(malloc(matrix_scratch_bytes(copy)));
    matrix_read_rows(base, 0, base->n_out, values);
    for (size_t i = 0; i < base->n_out * base->n_in; i++)
        values[i] += 0.05f * tiny_random(random);
    if (!matrix_write_rows(copy, 0, base->n_out, values, scratch))
        abort();
    free(values);
    free(scratch);
    return copy;
}

static void release(struct view *view)
{
    struct owned *owned = view->owner;
    for (size_t i = 0; i < view->model->n_sites; i++)
        matrix_unref(owned->weights[i]);
    arena_finish(&owned->arena);
    free(owned);
    view_free(view);
}

struct view *tiny_view_create(const struct model *model, struct tiny_view spec)
{
    struct owned *owned = must(calloc(1, sizeof *owned));
    struct site_view *sites;
    struct norm_view *norms;
    uint64_t random = spec.seed + 1;
    struct view *view = must(view_create_copy_of_base(model, 0, &sites, &norms, NULL, NULL));
    arena_init(&owned->arena, 1 << 16);
    owned->weights = must(arena_allocate_array(&owned->arena, model->n_sites, sizeof *owned->weights));
    view->owner = owned;
    view->release = release;
    view->has_deltas = spec.n_deltas > 0;
    view->weight_group = spec.has_weights ? owned : NULL;

    for (size_t i = 0; i < model->n_sites; i++) {
        const struct site *site = &model->sites[i];
        if (spec.body_only && site->kind != SITE_LINEAR)
            continue;
        if (spec.n_deltas) {
            sites[i].n_deltas = spec.n_deltas;
            sites[i].deltas = random_deltas(owned, &spec, site, &random);
        }
        if (spec.has_row_gain)
            sites[i].row_gain = random_floats(owned, site->n_out, 1, 0.3f, &random);
        if (spec.has_bias)
            sites[i].bias = random_floats(owned, site->n_out, 0, 0.3f, &random);
        if (spec.has_weights)
            sites[i].weight = owned->weights[i] = noisy_copy(site->weight, &random);
    }
    for (size_t i = 0; spec.has_norms && i < model->n_norms; i++) {
        norms[i].weight = random_floats(owned, model->norms[i].n, 1, 0.3f, &random);
        if (norms[i].bias)
            norms[i].bias = random_floats(owned, model->norms[i].n, 0, 0.3f, &random);
    }
    return view;
}
