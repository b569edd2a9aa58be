/*
 * view.h - the model as one request sees it: for each site, which matrix to multiply with and what to add.
 *
 * Immutable and reference counted. The forward pass knows views and nothing of registries, files or HTTP. A view comes
 * with a release callback from whoever makes it; it is called when the last reference goes, on the
 * thread that dropped it, and must be quick (it posts the memory to whoever frees it).
 */
#ifndef MODEL_VIEW_H
#define MODEL_VIEW_H

#include "base/digest.h"
#include "base/ref.h"
#include "model/model.h"

/* B lies in panels of so many outputs, each (rank, DELTA_PANEL), end to end: whoever computes some neighbouring outputs reads one
   run of memory, and finds them side by side in it. */
#define DELTA_PANEL KERNELS_PANEL

/* A low-rank pair: out += scale * (B (A x) + bias). LoRA, arXiv:2106.09685, eq. 3. */
struct delta {
    enum weight_type type; /* of a and b */
    size_t rank, n_in, n_out;
    const void *a;     /* linear and head: (rank, n_in), row-major. Embedding and position: (n_in, rank), so that a token's column is a row */
    const void *b;     /* (n_out, rank) in panels, see delta_b_at; rows missing in the last one are 0 */
    const float *bias; /* lora_bias: (n_out); or NULL. Scaled too */
    float scale;       /* alpha/r or alpha/sqrt(r), times the request's scale and weight; never 0 */
};

/* Where B's element of output o and rank row j is, in elements. */
static inline size_t delta_b_at(size_t rank, size_t o, size_t j)
{
    return (o / DELTA_PANEL * rank + j) * DELTA_PANEL + o % DELTA_PANEL;
}

/* Elements of B with the padding. */
static inline size_t delta_b_size(size_t rank, size_t n_out)
{
    return (n_out + DELTA_PANEL - 1) / DELTA_PANEL * DELTA_PANEL * rank;
}

/* B transposed: (rank, n_out), widened. */
void delta_read_b_t(const struct delta *delta, float *out);

struct site_view {
    const struct matrix *weight;  /* the base's W, a merged W', or one that replaces it (modules_to_save) */
    const struct delta *deltas;   /* n_deltas, applied in order; NULL when none */
    size_t n_deltas;              /* several adapters at once: one each */
    const float *bias;            /* the base's, or the adapter's; or NULL. Never scaled */
    const float *row_gain;        /* DoRA: m / ||W + sBA|| per output, applied before the bias; or NULL */
};

struct norm_view {
    const float *weight, *bias;
};

#define VIEW_IDENTITY_BASE "base"

struct view {
    struct ref ref;
    const struct model *model;
    const struct site_view *sites; /* model->n_sites */
    const struct norm_view *norms; /* model->n_norms */
    const void *weight_group;      /* views with the same value share all weights (NULL: the base's); the engine puts them side by side */
    bool has_deltas;
    /* What its answers depend on besides the prompt: equal for equal content, whoever made the view and when. "base" for the base; "":
       unknown, so that nothing computed through it serves another view. */
    char identity[DIGEST_HEX_SIZE];
    void (*release)(struct view *view); /* frees the view and drops what it holds */
    void *owner;                        /* for release */
};

static inline struct view *view_ref(struct view *view)
{
    ref_take(&view->ref);
    return view;
}

/* NULL is fine. */
static inline void view_unref(struct view *view)
{
    if (view && ref_drop(&view->ref))
        view->release(view);
}

/* The base itself: no deltas. Released with free. NULL: no memory. */
struct view *view_create_base(const struct model *model, struct error *err);

/* An uninitialised-but-base view for makers: site and norm arrays in one allocation with the view, filled as the base's,
   to be changed through the out arrays before it is shared. `n_extra` bytes of the maker's own follow (64-aligned), at *extra_out
   (NULL when 0). release is free; the maker may set its own, which ends with view_free. */
struct view *view_create_copy_of_base(const struct model *model, size_t n_extra, struct site_view **sites_out,
                                      struct norm_view **norms_out, void **extra_out, struct error *err);
/* What that takes, for who counts memory before it is there. SIZE_MAX: more than can be. */
size_t view_bytes(const struct model *model, size_t n_extra);
void view_free(struct view *view);

#endif
