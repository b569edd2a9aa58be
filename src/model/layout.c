/*
 * layout.c - sites come in the order of the forward pass: embeddings, the layers, the head.
 */
#include "model/layout.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "model/family.h"

/* The parts may be "". */
static const char *join_path(struct model *model, const char *prefix, const char *middle, const char *name)
{
    char path[LIMIT_NAME_BYTES];
    int n = snprintf(path, sizeof path, "%s%s%s", prefix, middle, name);
    assert(n > 0 && (size_t)n < sizeof path);
    return arena_copy_text(&model->arena, path, (size_t)n);
}

static const char *layer_path(struct model *model, size_t layer, const char *name)
{
    const struct family *family = model->config.family;
    char middle[64];
    snprintf(middle, sizeof middle, "%s.%zu.", family->layers, layer);
    return join_path(model, family->prefix, middle, name);
}

static void projection_shape(const struct model_config *config, enum projection projection, size_t *n_in,
                             size_t *n_out)
{
    size_t n_q = config->n_heads * config->d_head, n_kv = config->n_kv_heads * config->d_head;
    *n_in = config->d_model;
    *n_out = config->d_model;
    switch (projection) {
    case PROJECTION_QKV: *n_out = n_q + 2 * n_kv; break;
    case PROJECTION_Q: *n_out = n_q; break;
    case PROJECTION_K:
    case PROJECTION_V: *n_out = n_kv; break;
    case PROJECTION_ATTENTION_OUT: *n_in = n_q; break;
    case PROJECTION_GATE:
    case PROJECTION_UP: *n_out = config->d_ffn; break;
    case PROJECTION_DOWN: *n_in = config->d_ffn; break;
    case PROJECTION_NONE:
    case N_PROJECTIONS: assert(!"a projection");
    }
}

static size_t add_site(struct model *model, struct site site)
{
    model->sites[model->n_sites] = site;
    return model->n_sites++;
}

static size_t add_norm(struct model *model, struct norm norm)
{
    model->norms[model->n_norms] = norm;
    return model->n_norms++;
}

static bool add_layer(struct model *model, size_t layer)
{
    const struct family *family = model->config.family;
    for (size_t p = 0; p < N_PROJECTIONS; p++) {
        model->layer_sites[layer][p] = SIZE_MAX;
        if (!family->projections[p])
            continue;
        struct site site = {.path = layer_path(model, layer, family->projections[p]), .kind = SITE_LINEAR,
                            .projection = (enum projection)p, .layer = layer, .is_conv1d = family->is_conv1d};
        if (!site.path)
            return false;
        projection_shape(&model->config, site.projection, &site.n_in, &site.n_out);
        model->layer_sites[layer][p] = add_site(model, site);
    }
    for (size_t role = 0; role < 4; role++) {
        model->layer_norms[layer][role] = SIZE_MAX;
        if (!family->norms[role])
            continue;
        bool is_per_head = role == NORM_ROLE_Q || role == NORM_ROLE_K;
        struct norm norm = {.path = layer_path(model, layer, family->norms[role]), .role = (enum norm_role)role,
                            .layer = layer, .n = is_per_head ? model->config.d_head : model->config.d_model};
        if (!norm.path)
            return false;
        model->layer_norms[layer][role] = add_norm(model, norm);
    }
    return true;
}

static bool add_ends(struct model *model)
{
    const struct family *family = model->config.family;
    const struct model_config *config = &model->config;
    struct site head = {.path = join_path(model, "", "", family->head), .kind = SITE_HEAD, .n_in = config->d_model,
                        .n_out = config->n_vocab};
    struct norm final = {.path = join_path(model, family->prefix, "", family->final_norm), .role = NORM_ROLE_FINAL,
                         .n = config->d_model};
    if (!head.path || !final.path)
        return false;
    model->head_site = add_site(model, head);
    model->final_norm = add_norm(model, final);
    return true;
}

static bool add_embeddings(struct model *model)
{
    const struct family *family = model->config.family;
    const struct model_config *config = &model->config;
    struct site embedding = {.path = join_path(model, family->prefix, "", family->embedding), .kind = SITE_EMBEDDING,
                             .n_in = config->n_vocab, .n_out = config->d_model};
    if (!embedding.path)
        return false;
    model->embedding_site = add_site(model, embedding);
    model->position_site = SIZE_MAX;
    if (config->family->position != POSITION_LEARNED)
        return true;
    struct site positions = {.path = join_path(model, family->prefix, "", family->positions), .kind = SITE_POSITION,
                             .n_in = config->max_positions, .n_out = config->d_model};
    if (!positions.path)
        return false;
    model->position_site = add_site(model, positions);
    return true;
}

bool layout_build(struct model *model, struct error *err)
{
    size_t n_layers = model->config.n_layers;
    model->sites = arena_allocate_array(&model->arena, n_layers * N_PROJECTIONS + 3, sizeof *model->sites);
    model->norms = arena_allocate_array(&model->arena, n_layers * 4 + 1, sizeof *model->norms);
    model->layer_sites = arena_allocate_array(&model->arena, n_layers, sizeof *model->layer_sites);
    model->layer_norms = arena_allocate_array(&model->arena, n_layers, sizeof *model->layer_norms);
    if (!model->sites || !model->norms || !model->layer_sites || !model->layer_norms || !add_embeddings(model))
        return error_no_memory(err);
    for (size_t layer = 0; layer < n_layers; layer++)
        if (!add_layer(model, layer))
            return error_no_memory(err);
    return add_ends(model) || error_no_memory(err);
}

bool layout_site_has_bias(const struct model *model, const struct site *site)
{
    const struct model_config *config = &model->config;
    switch (site->projection) {
    case PROJECTION_QKV:
    case PROJECTION_Q:
    case PROJECTION_K:
    case PROJECTION_V: return config->attention_bias;
    case PROJECTION_ATTENTION_OUT: return config->attention_out_bias;
    case PROJECTION_GATE:
    case PROJECTION_UP:
    case PROJECTION_DOWN: return config->mlp_bias;
    case PROJECTION_NONE:
    case N_PROJECTIONS: break;
    }
    return false;
}
