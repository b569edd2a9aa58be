/*
 * model.c - finding things in a loaded model, and its end.
 */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/huge.h"
#include "model/family.h"

/* Own paths carry the family's prefix, but for the head's; a given one may lack it. */
static bool same_path(const char *prefix, const char *own, const char *given)
{
    size_t n_prefix = strlen(prefix);
    if (strcmp(own, given) == 0)
        return true;
    return strncmp(own, prefix, n_prefix) == 0 && strcmp(own + n_prefix, given) == 0;
}

const struct site *model_find_site(const struct model *model, const char *path)
{
    for (size_t i = 0; i < model->n_sites; i++)
        if (same_path(model->config.family->prefix, model->sites[i].path, path))
            return &model->sites[i];
    return NULL;
}

const struct norm *model_find_norm(const struct model *model, const char *path)
{
    for (size_t i = 0; i < model->n_norms; i++)
        if (same_path(model->config.family->prefix, model->norms[i].path, path))
            return &model->norms[i];
    return NULL;
}

void model_destroy(struct model *model)
{
    if (!model)
        return;
    for (size_t i = 0; i < model->n_sites; i++)
        matrix_unref(model->sites[i].weight);
    huge_free(model->weights_memory, model->weights_memory_bytes);
    weight_cache_close(&model->cache);
    tensor_file_close(&model->files);
    arena_finish(&model->arena);
    free(model);
}
