#include "engine/cost.h"

#include "base/bytes.h"

const size_t COST_TOKENS[COST_POINTS] = {1, 2, 4, 8, 16, 32};
const struct cost_model COST_TYPICAL = {.weights_us = {1000, 1050, 1150, 1500, 2600, 5000}, .barriers_us = 20};

/* A pair's matrices are too small to be read at full speed. */
static const double PAIR_FACTOR = 1.3;

/* A token's cost that is near enough to what it costs in the largest batches. */
static const double BUSY = 1.25;

double cost_weights_us(const struct cost_model *cost, size_t n_tokens)
{
    const double *us = cost->weights_us;
    size_t i = 1;
    if (n_tokens == 0)
        return 0;
    while (i < COST_POINTS - 1 && COST_TOKENS[i] < n_tokens)
        i++;
    double slope = (us[i] - us[i - 1]) / (double)(COST_TOKENS[i] - COST_TOKENS[i - 1]);
    return us[i - 1] + slope * ((double)n_tokens - (double)COST_TOKENS[i - 1]);
}

static bool is_linear(const struct site *site)
{
    return site->kind == SITE_LINEAR || site->kind == SITE_HEAD;
}

static double bytes_of(const struct matrix *matrix)
{
    return (double)matrix_bytes(matrix);
}

static double pair_bytes(const struct site_view *site)
{
    double bytes = 0;
    for (size_t d = 0; d < site->n_deltas; d++)
        bytes += (double)site->deltas[d].rank * (double)(site->deltas[d].n_in + site->deltas[d].n_out) *
                 (double)weight_type_size(site->deltas[d].type);
    return bytes;
}

static struct cost_view measure(const struct view *view, bool if_merged)
{
    const struct model *model = view->model;
    double all = 0, own = 0, pairs = 0;
    for (size_t i = 0; i < model->n_sites; i++) {
        const struct site_view *site = &view->sites[i];
        if (!is_linear(&model->sites[i]))
            continue;
        all += bytes_of(model->sites[i].weight);
        if (site->weight != model->sites[i].weight || (if_merged && site->n_deltas > 0))
            own += bytes_of(site->weight);
        if (!if_merged)
            pairs += pair_bytes(site);
    }
    return (struct cost_view){.own = own / all, .pairs = pairs / all};
}

struct cost_view cost_of_view(const struct view *view)
{
    return measure(view, false);
}

struct cost_view cost_if_merged(const struct view *view)
{
    return measure(view, true);
}

/* The least share of the base's weights that a view with more than `above` of them uses; 2: there is none. */
static double next_base_share(const struct cost_load *loads, size_t n_loads, double above)
{
    double next = 2;
    for (size_t i = 0; i < n_loads; i++) {
        double share = 1 - loads[i].view.own;
        if (loads[i].n_tokens > 0 && share > above && share < next)
            next = share;
    }
    return next;
}

/* The base's weights pass once for all who use them. Views use more or fewer of them; those that use fewer are taken to use a
   part of what the others use. */
static double base_us(const struct cost_model *cost, const struct cost_load *loads, size_t n_loads)
{
    static const double LEAST = 1e-6; /* below it is rounding */
    double us = 0, from = LEAST, to;
    while ((to = next_base_share(loads, n_loads, from)) < 2) {
        size_t n_tokens = 0;
        for (size_t i = 0; i < n_loads; i++)
            if (1 - loads[i].view.own >= to)
                n_tokens += loads[i].n_tokens;
        us += (to - (from > LEAST ? from : 0)) * cost_weights_us(cost, n_tokens);
        from = to;
    }
    return us;
}

double cost_step_us(const struct cost_model *cost, const struct cost_load *loads, size_t n_loads)
{
    double us = base_us(cost, loads, n_loads);
    bool has_pairs = false;
    for (size_t i = 0; i < n_loads; i++) {
        const struct cost_view *view = &loads[i].view;
        if (loads[i].n_tokens == 0)
            continue;
        us += (view->own + PAIR_FACTOR * view->pairs) * cost_weights_us(cost, loads[i].n_tokens);
        has_pairs |= view->pairs > 0;
    }
    return us + (has_pairs ? cost->barriers_us : 0);
}

size_t cost_busy_width(const struct cost_model *cost, size_t least, size_t most)
{
    double slope = (cost->weights_us[COST_POINTS - 1] - cost->weights_us[COST_POINTS - 2]) /
                   (double)(COST_TOKENS[COST_POINTS - 1] - COST_TOKENS[COST_POINTS - 2]);
    size_t n = least;
    while (n < most && cost_weights_us(cost, n) > BUSY * slope * (double)n)
        n++;
    return n;
}

size_t cost_room(const struct cost_model *cost, size_t n_tokens, double times, size_t most)
{
    double limit_us = times * cost_weights_us(cost, n_tokens);
    size_t low = 0, high = most; /* low fits, what is above high does not, or is not asked for */
    while (low < high) {
        size_t middle = low + ceil_divide(high - low, 2);
        if (cost_weights_us(cost, n_tokens + middle) <= limit_us)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}
