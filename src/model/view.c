/*
 * view.c - a view in one allocation: itself, the site views, the norm views, the maker's bytes.
 */
#include "model/view.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "formats/dtype.h"

enum { ALIGNMENT = 64 };

static bool lay_out(const struct model *model, size_t n_extra, size_t *sites_at, size_t *norms_at, size_t *extra_at,
                    size_t *n_total)
{
    size_t n_sites, n_norms, n_needed;
    if (!size_multiply(model->n_sites, sizeof(struct site_view), &n_sites) ||
        !size_multiply(model->n_norms, sizeof(struct norm_view), &n_norms))
        return false;
    *sites_at = align_up(sizeof(struct view), ALIGNMENT);
    *norms_at = *sites_at + align_up(n_sites, ALIGNMENT);
    *extra_at = *norms_at + align_up(n_norms, ALIGNMENT);
    if (!size_add(*extra_at, n_extra, &n_needed) || !size_add(n_needed, ALIGNMENT, n_total))
        return false;
    *n_total &= ~(size_t)(ALIGNMENT - 1);
    return true;
}

size_t view_bytes(const struct model *model, size_t n_extra)
{
    size_t sites_at, norms_at, extra_at, n_total;
    return lay_out(model, n_extra, &sites_at, &norms_at, &extra_at, &n_total) ? n_total : SIZE_MAX;
}

struct view *view_create_copy_of_base(const struct model *model, size_t n_extra, struct site_view **sites_out,
                                      struct norm_view **norms_out, void **extra_out, struct error *err)
{
    size_t sites_at, norms_at, extra_at, n_total;
    char *memory = NULL;
    if (lay_out(model, n_extra, &sites_at, &norms_at, &extra_at, &n_total))
        memory = aligned_alloc(ALIGNMENT, n_total);
    if (!memory) {
        error_no_memory(err);
        return NULL;
    }
    memset(memory, 0, extra_at);

    struct site_view *sites = (struct site_view *)(memory + sites_at);
    struct norm_view *norms = (struct norm_view *)(memory + norms_at);
    for (size_t i = 0; i < model->n_sites; i++)
        sites[i] = (struct site_view){.weight = model->sites[i].weight, .bias = model->sites[i].bias};
    for (size_t i = 0; i < model->n_norms; i++)
        norms[i] = (struct norm_view){.weight = model->norms[i].weight, .bias = model->norms[i].bias};

    struct view *view = (struct view *)memory;
    *view = (struct view){.model = model, .sites = sites, .norms = norms, .release = view_free};
    ref_init(&view->ref);
    if (sites_out)
        *sites_out = sites;
    if (norms_out)
        *norms_out = norms;
    if (extra_out)
        *extra_out = n_extra ? memory + extra_at : NULL;
    return view;
}

struct view *view_create_base(const struct model *model, struct error *err)
{
    struct view *view = view_create_copy_of_base(model, 0, NULL, NULL, NULL, err);
    if (view)
        memcpy(view->identity, VIEW_IDENTITY_BASE, sizeof VIEW_IDENTITY_BASE);
    return view;
}

void view_free(struct view *view)
{
    free(view);
}

void delta_read_b_t(const struct delta *delta, float *out)
{
    size_t size = weight_type_size(delta->type);
    for (size_t o = 0; o < delta->n_out; o += DELTA_PANEL)
        for (size_t j = 0; j < delta->rank; j++)
            dtype_to_f32(out + j * delta->n_out + o, (const char *)delta->b + delta_b_at(delta->rank, o, j) * size,
                         dtype_of_weight(delta->type), size_min(DELTA_PANEL, delta->n_out - o));
}
