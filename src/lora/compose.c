/*
 * compose.c - a view is a copy of the base's with some sites changed. What it points to (deltas, the parts'
 * references) lies behind it in the same allocation.
 */
#include "lora/compose.h"

#include <math.h>
#include <string.h>

#include "base/bytes.h"

/* In front of the view's own bytes. */
struct holding {
    struct merged *merged;
    size_t n_adapters;
    struct adapter *adapters[]; /* n_adapters, then the deltas */
};

static void release(struct view *view)
{
    struct holding *holding = view->owner;
    struct merged *merged = holding->merged;
    /* The last reference to an adapter may free it, and with it what the view points to: so the view's memory
     * goes last. */
    for (size_t i = 0; i < holding->n_adapters; i++)
        adapter_unref(holding->adapters[i]);
    merged_unref(merged);
    view_free(view);
}

struct making {
    struct view *view;
    struct site_view *sites;
    struct norm_view *norms;
    struct holding *holding;
    struct delta *deltas; /* room for all of all parts */
};

static size_t deltas_offset(size_t n_adapters)
{
    return align_up(sizeof(struct holding) + n_adapters * sizeof(struct adapter *), 64);
}

static bool begin(struct making *making, const struct model *model, size_t n_adapters, size_t n_deltas,
                  struct error *err)
{
    size_t deltas_at = deltas_offset(n_adapters);
    size_t n_extra = deltas_at + n_deltas * sizeof(struct delta);
    void *extra;
    making->view = view_create_copy_of_base(model, n_extra, &making->sites, &making->norms, &extra, err);
    if (!making->view)
        return false;
    making->holding = extra;
    *making->holding = (struct holding){0};
    making->deltas = (struct delta *)(void *)((char *)extra + deltas_at);
    making->view->owner = extra;
    making->view->release = release;
    return true;
}

static void hold(struct making *making, struct adapter *adapter)
{
    making->holding->adapters[making->holding->n_adapters++] = adapter_ref(adapter);
}

/* What an adapter replaces: weights, biases, norms, DoRA's gain. */
static void replace(struct making *making, const struct adapter *adapter)
{
    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct adapter_site *from = &adapter->sites[i];
        struct site_view *to = &making->sites[from->site];
        if (from->weight) {
            to->weight = from->weight;
            making->view->weight_group = adapter;
        }
        if (from->bias)
            to->bias = from->bias;
        to->row_gain = from->row_gain;
    }
    for (size_t i = 0; i < adapter->n_norms; i++)
        making->norms[adapter->norms[i].norm] =
            (struct norm_view){.weight = adapter->norms[i].weight, .bias = adapter->norms[i].bias};
}

static bool is_active(const struct compose_part *part)
{
    return part->factor != 0;
}

static float scale_of(const struct compose_part *part, const struct adapter_site *site)
{
    return (float)((double)site->delta.scale * part->factor);
}

/* Deltas of one site, those of all parts, side by side in `making->deltas`. */
static size_t add_deltas(struct making *making, size_t site, const struct compose_part *parts, size_t n_parts,
                         size_t n_used)
{
    size_t n = 0;
    for (size_t i = 0; i < n_parts; i++) {
        const struct adapter_site *from =
            is_active(&parts[i]) ? adapter_find_site(parts[i].adapter, site) : NULL;
        if (!from || !from->has_delta || scale_of(&parts[i], from) == 0)
            continue;
        making->deltas[n_used + n] = from->delta;
        making->deltas[n_used + n].scale = scale_of(&parts[i], from);
        n++;
    }
    if (n > 0) {
        making->sites[site].deltas = making->deltas + n_used;
        making->sites[site].n_deltas = n;
        making->view->has_deltas = true;
    }
    return n_used + n;
}

static bool check_part(const struct compose_part *part, struct error *err)
{
    if (!isfinite(part->factor))
        return error_set(err, ERROR_BAD_INPUT, "scale", "weight times scale must be a finite number");
    for (size_t i = 0; i < part->adapter->n_sites; i++)
        if (!isfinite(scale_of(part, &part->adapter->sites[i])))
            return error_set(err, ERROR_BAD_INPUT, "scale",
                             "weight times scale %g is too large for the adapter's own scale", part->factor);
    return true;
}

static bool check_parts(const struct compose_part *parts, size_t n_parts, struct error *err)
{
    size_t n_active = 0;
    for (size_t i = 0; i < n_parts; i++) {
        if (!check_part(&parts[i], err))
            return false;
        n_active += is_active(&parts[i]);
    }
    for (size_t i = 0; i < n_parts; i++) {
        const struct adapter *adapter = parts[i].adapter;
        if (!is_active(&parts[i]) || adapter->is_plain)
            continue;
        if (n_active > 1)
            return error_set(err, ERROR_BAD_INPUT, "adapters",
                             "an adapter that %s cannot be mixed with others", adapter->not_plain_because);
        if (parts[i].factor != 1)
            return error_set(err, ERROR_BAD_INPUT, "scale",
                             "an adapter that %s cannot be scaled: weight times scale must be 0 or 1",
                             adapter->not_plain_because);
    }
    return true;
}

/* On the fly: the parts' contents and factors, in order. None active: the base, bit for bit. */
static bool identify_parts(struct view *view, const struct compose_part *parts, size_t n_parts, struct error *err)
{
    size_t n_active = 0;
    struct digest *digest = digest_create();
    if (!digest)
        return error_no_memory(err);
    for (size_t i = 0; i < n_parts; i++)
        if (is_active(&parts[i])) {
            digest_update(digest, parts[i].adapter->digest, sizeof parts[i].adapter->digest);
            digest_update(digest, &parts[i].factor, sizeof parts[i].factor);
            n_active++;
        }
    digest_finish_hex(digest, view->identity);
    if (n_active == 0)
        memcpy(view->identity, VIEW_IDENTITY_BASE, sizeof VIEW_IDENTITY_BASE);
    return true;
}

/* Merged: the adapter's content, and at which sites. */
static bool identify_merged(struct view *view, const struct adapter *adapter, const struct merged *merged,
                            struct error *err)
{
    struct digest *digest = digest_create();
    if (!digest)
        return error_no_memory(err);
    digest_update(digest, "merged", sizeof "merged");
    digest_update(digest, adapter->digest, sizeof adapter->digest);
    for (size_t i = 0; i < merged->n_sites; i++)
        digest_update(digest, merged->weights[i] ? "W" : "-", 1);
    digest_finish_hex(digest, view->identity);
    return true;
}

size_t compose_bytes(const struct model *model, size_t n_sites)
{
    return view_bytes(model, deltas_offset(1) + n_sites * sizeof(struct delta));
}

struct view *compose_on_the_fly(const struct model *model, const struct compose_part *parts, size_t n_parts,
                                struct error *err)
{
    struct making making;
    size_t n_deltas = 0, n_used = 0;
    if (!check_parts(parts, n_parts, err))
        return NULL;
    for (size_t i = 0; i < n_parts; i++)
        n_deltas += parts[i].adapter->n_sites;
    if (!begin(&making, model, n_parts, n_deltas, err))
        return NULL;
    for (size_t i = 0; i < n_parts; i++)
        if (is_active(&parts[i])) {
            hold(&making, parts[i].adapter);
            replace(&making, parts[i].adapter);
        }
    for (size_t site = 0; site < model->n_sites; site++)
        n_used = add_deltas(&making, site, parts, n_parts, n_used);
    if (identify_parts(making.view, parts, n_parts, err))
        return making.view;
    view_unref(making.view);
    return NULL;
}

struct view *compose_merged(const struct model *model, struct adapter *adapter, struct merged *merged,
                            struct error *err)
{
    struct making making;
    const struct compose_part part = {.adapter = adapter, .factor = 1};
    size_t n_used = 0;
    if (!begin(&making, model, 1, adapter->n_sites, err))
        return NULL;
    hold(&making, adapter);
    making.holding->merged = merged_ref(merged);
    replace(&making, adapter);
    for (size_t i = 0; i < model->n_sites; i++) {
        if (!merged->weights[i]) {
            n_used = add_deltas(&making, i, &part, 1, n_used);
            continue;
        }
        making.sites[i].weight = merged->weights[i];
        making.sites[i].row_gain = NULL;
        making.view->weight_group = merged;
        if (merged->biases[i])
            making.sites[i].bias = merged->biases[i];
    }
    if (identify_merged(making.view, adapter, merged, err))
        return making.view;
    view_unref(making.view);
    return NULL;
}
