/*
 * naive_sampler.c - the vocabulary as a whole at each step; what candidates.c must give to the bit.
 */
#include "support/naive_sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/random.h"

enum { N_BUCKETS = 0x3f80 + 1 };

struct set {
    int32_t *ids;
    float *weights;
    size_t n;
    double total;
};

/* The largest value, the lowest index of equals. */
static size_t find_best(const float *values, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

static bool is_seen(const struct naive_sampler *sampler, int32_t id, size_t *n_times)
{
    bool is_in_prompt = false;
    *n_times = 0;
    for (size_t i = 0; i < sampler->n_prompt; i++)
        is_in_prompt |= sampler->prompt[i] == id;
    for (size_t i = 0; i < sampler->n_output; i++)
        *n_times += sampler->output[i] == id;
    return is_in_prompt || *n_times > 0;
}

static void adjust(const struct naive_sampler *sampler, float *values, const int32_t *banned, size_t n_banned)
{
    const struct lorad_sampling *sampling = &sampler->sampling;
    size_t n_times;
    for (size_t i = 0; i < sampling->n_logit_bias; i++)
        values[sampling->logit_bias[i].id] += sampling->logit_bias[i].bias;
    for (size_t i = 0; i < sampler->n_vocab; i++) {
        double value = (double)values[i];
        if (!is_seen(sampler, (int32_t)i, &n_times))
            continue;
        value = value > 0 ? value / sampling->repetition_penalty : value * sampling->repetition_penalty;
        if (n_times > 0)
            value -= sampling->frequency_penalty * (double)n_times + sampling->presence_penalty;
        values[i] = (float)value;
    }
    for (size_t i = 0; i < n_banned; i++)
        values[banned[i]] = -INFINITY;
}

/* e^x for x <= 0, below -87 exactly 0; relative error 2e-7. Our own, so that a draw does not depend on libm's version. */
static inline float exp_of(float x)
{
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: adding it leaves no bits for a fraction */
    float clamped = x > -87.0f ? x : -87.0f;
    float n = clamped * 1.44269504f + to_integer - to_integer;
    float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return x > -87.0f ? p * power : 0.0f;
}

static double sum(const struct set *set)
{
    double lanes[8] = {0}, total = 0;
    for (size_t i = 0; i < set->n; i++)
        lanes[i < set->n / 8 * 8 ? i % 8 : 0] += (double)set->weights[i];
    for (size_t i = 0; i < 8; i++)
        total += lanes[i];
    return total;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static float kth_largest(const float *values, size_t n, size_t k)
{
    float *sorted = malloc(n * sizeof *sorted);
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    float value = sorted[k - 1];
    free(sorted);
    return value;
}

static void keep_at_least(struct set *set, const float *values, float least)
{
    size_t n = 0;
    for (size_t i = 0; i < set->n; i++) {
        if (values[i] < least)
            continue;
        set->ids[n] = set->ids[i];
        set->weights[n++] = set->weights[i];
    }
    set->n = n;
}

static bool is_better(const struct set *set, size_t a, size_t b)
{
    return set->weights[a] > set->weights[b] || (set->weights[a] == set->weights[b] && set->ids[a] < set->ids[b]);
}

static void swap(struct set *set, size_t a, size_t b)
{
    float weight = set->weights[a];
    int32_t id = set->ids[a];
    set->weights[a] = set->weights[b];
    set->ids[a] = set->ids[b];
    set->weights[b] = weight;
    set->ids[b] = id;
}

static size_t bucket_of(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits >> 16;
}

/* The bucket in which the sum of all weights, the best first, reaches `full`; *above_out: the sum of the better buckets. */
static size_t find_edge(const struct set *set, double full, double *above_out)
{
    double *masses = calloc(N_BUCKETS, sizeof *masses), above = 0;
    size_t edge = N_BUCKETS - 1;
    for (size_t i = 0; i < set->n; i++)
        masses[bucket_of(set->weights[i])] += (double)set->weights[i];
    for (; edge > 0 && above + masses[edge] < full; edge--)
        above += masses[edge];
    free(masses);
    *above_out = above;
    return edge;
}

static void sift_down_best(struct set *set, size_t n, size_t at)
{
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_better(set, child + 1, child))
            child++;
        if (!is_better(set, child, at))
            break;
        swap(set, child, at);
    }
}

static void keep_nucleus(struct set *set, double top_p)
{
    double full = top_p * set->total, before;
    size_t edge = find_edge(set, full, &before), n = 0, n_edge = 0;
    for (size_t i = 0; i < set->n; i++)
        if (bucket_of(set->weights[i]) >= edge)
            swap(set, i, n++);
    for (size_t i = 0; i < n; i++)
        if (bucket_of(set->weights[i]) == edge)
            swap(set, i, n_edge++);

    /* A heap of the edge's; the best one goes behind it, to those that are kept. */
    for (size_t i = n_edge / 2; i-- > 0;)
        sift_down_best(set, n_edge, i);
    while (n_edge > 0 && (n_edge == n || before < full)) {
        before += (double)set->weights[0];
        swap(set, 0, --n_edge);
        sift_down_best(set, n_edge, 0);
    }
    set->ids += n_edge;
    set->weights += n_edge;
    set->n = n - n_edge;
    set->total = sum(set);
}

static void collect(const struct naive_sampler *sampler, const float *values, float best, struct set *set)
{
    const struct lorad_sampling *sampling = &sampler->sampling;
    float inverse = (float)(1 / fmax(sampling->temperature, 1e-6));
    for (set->n = 0; set->n < sampler->n_vocab; set->n++) {
        set->ids[set->n] = (int32_t)set->n;
        set->weights[set->n] = exp_of((values[set->n] - best) * inverse);
    }
    if (sampling->top_k > 0 && sampling->top_k < sampler->n_vocab)
        keep_at_least(set, values, kth_largest(values, sampler->n_vocab, sampling->top_k));
    if (sampling->min_p > 0)
        keep_at_least(set, set->weights, (float)sampling->min_p);
    set->total = sum(set);
    if (sampling->top_p < 1)
        keep_nucleus(set, sampling->top_p);
}

static int32_t draw_from(const struct set *set, double goal)
{
    double passed = 0;
    int32_t drawn = -1;
    for (size_t i = 0; i < set->n; i++) {
        if (set->weights[i] == 0)
            continue;
        drawn = set->ids[i];
        passed += (double)set->weights[i];
        if (passed > goal)
            break;
    }
    return drawn;
}

int32_t naive_sampler_draw(const struct naive_sampler *sampler, const float *logits, const int32_t *banned, size_t n_banned)
{
    size_t n = sampler->n_vocab;
    float *values = malloc(n * sizeof *values), *weights = malloc(n * sizeof *weights);
    int32_t *ids = malloc(n * sizeof *ids);
    struct set set = {ids, weights, 0, 0};
    memcpy(values, logits, n * sizeof *values);
    adjust(sampler, values, banned, n_banned);
    size_t best = find_best(values, n);
    int32_t drawn = (int32_t)best;
    if (sampler->sampling.temperature > 0) {
        collect(sampler, values, values[best], &set);
        drawn = draw_from(&set, random_uniform(sampler->sampling.seed, sampler->n_output) * set.total);
    }
    free(values);
    free(weights);
    free(ids);
    return drawn;
}
