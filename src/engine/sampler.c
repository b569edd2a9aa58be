/*
 * sampler.c - the adjusted logits, then what the filters leave, then one draw from it.
 *
 * The vocabulary is never sorted. top-k finds the k-th largest value with a heap of k. top-p sums the weights in buckets of
 * similar ones, keeps the best buckets whole and looks closely only at the one where the nucleus becomes full. Weights are
 * e^(x - max), so the best token's is 1.
 */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "engine/random.h"

enum { BLOCK = 16 };                /* fixed inner loops, which compilers turn into vectors */
enum { N_BUCKETS = 0x3f80 + 1 };    /* by the upper half of a float's bits, up to 1's: 128 to the octave */
static const double COLDEST = 1e-6; /* what a temperature between 0 and this counts as: the division stays finite */
static const uint32_t IN_PROMPT = 1u << 31;

struct sampler_scratch {
    float *values; /* (n_vocab): adjusted logits */
    float *weights;
    int32_t *ids;
    double *masses; /* (N_BUCKETS) */
};

struct sampler {
    struct lorad_sampling sampling;
    const struct kernels *kernels;
    size_t n_vocab;
    uint64_t n_accepted;
    uint32_t *counts; /* per token: times in the output, and IN_PROMPT; NULL without penalties */
    int32_t *seen;    /* the tokens whose count is not 0 */
    size_t n_seen;
    struct sampler_scratch *scratch, *own_scratch;
};

/* Some tokens with their weights. */
struct candidates {
    int32_t *ids;
    float *weights;
    size_t n;
    double total; /* of the weights */
};

struct sampler_scratch *sampler_scratch_create(size_t n_vocab, struct error *err)
{
    struct sampler_scratch *scratch = calloc(1, sizeof *scratch);
    if (scratch) {
        scratch->values = calloc(n_vocab, sizeof *scratch->values);
        scratch->weights = calloc(n_vocab, sizeof *scratch->weights);
        scratch->ids = calloc(n_vocab, sizeof *scratch->ids);
        scratch->masses = calloc(N_BUCKETS, sizeof *scratch->masses);
        if (scratch->values && scratch->weights && scratch->ids && scratch->masses)
            return scratch;
    }
    sampler_scratch_destroy(scratch);
    error_no_memory(err);
    return NULL;
}

void sampler_scratch_destroy(struct sampler_scratch *scratch)
{
    if (!scratch)
        return;
    free(scratch->values);
    free(scratch->weights);
    free(scratch->ids);
    free(scratch->masses);
    free(scratch);
}

void sampler_use_scratch(struct sampler *sampler, struct sampler_scratch *scratch)
{
    sampler->scratch = scratch;
}

/* ---- adjusting ---- */

static void see(struct sampler *sampler, int32_t token, bool is_prompt)
{
    uint32_t *count = &sampler->counts[token];
    if (*count == 0)
        sampler->seen[sampler->n_seen++] = token;
    if (is_prompt)
        *count |= IN_PROMPT;
    else
        *count += 1;
}

static void penalize(const struct sampler *sampler, float *values)
{
    const struct lorad_sampling *sampling = &sampler->sampling;
    for (size_t i = 0; i < sampler->n_seen; i++) {
        int32_t token = sampler->seen[i];
        uint32_t n_times = sampler->counts[token] & ~IN_PROMPT;
        double value = (double)values[token];
        value = value > 0 ? value / sampling->repetition_penalty : value * sampling->repetition_penalty;
        if (n_times > 0)
            value -= sampling->frequency_penalty * n_times + sampling->presence_penalty;
        values[token] = (float)value;
    }
}

/* The logits after bias, penalties and bans; the given ones themselves when nothing changes them. */
static const float *adjust(const struct sampler *sampler, const float *logits, const int32_t *banned, size_t n_banned)
{
    const struct lorad_sampling *sampling = &sampler->sampling;
    float *values = sampler->scratch->values;
    if (sampling->n_logit_bias == 0 && !sampler->counts && n_banned == 0)
        return logits;
    memcpy(values, logits, sampler->n_vocab * sizeof *values);
    for (size_t i = 0; i < sampling->n_logit_bias; i++)
        values[sampling->logit_bias[i].id] += sampling->logit_bias[i].bias;
    if (sampler->counts)
        penalize(sampler, values);
    for (size_t i = 0; i < n_banned; i++)
        values[banned[i]] = -INFINITY;
    return values;
}

/* ---- filtering ---- */

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

/* weights = e^((values - best) / temperature), in place if you like. */
static void weigh(float *weights, const float *values, size_t n, float best, double temperature)
{
    float inverse = (float)(1 / fmax(temperature, COLDEST));
    size_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            weights[i + j] = exp_of((values[i + j] - best) * inverse);
    for (; i < n; i++)
        weights[i] = exp_of((values[i] - best) * inverse);
}

static double sum(const float *weights, size_t n)
{
    double lanes[8] = {0}, total = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++)
            lanes[j] += (double)weights[i + j];
    for (; i < n; i++)
        lanes[0] += (double)weights[i];
    for (size_t j = 0; j < 8; j++)
        total += lanes[j];
    return total;
}

static void sift_down_least(float *heap, size_t n, size_t at)
{
    float value = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (!(heap[child] < value))
            break;
        heap[at] = heap[child];
    }
    heap[at] = value;
}

/* The k-th largest value, 0 < k <= n. `heap` has room for k. */
static float kth_largest(const float *values, size_t n, size_t k, float *heap)
{
    memcpy(heap, values, k * sizeof *heap);
    for (size_t i = k / 2; i-- > 0;)
        sift_down_least(heap, k, i);
    for (size_t i = k; i < n; i++)
        if (values[i] > heap[0]) {
            heap[0] = values[i];
            sift_down_least(heap, k, 0);
        }
    return heap[0];
}

static bool is_better(const struct candidates *set, size_t a, size_t b)
{
    return set->weights[a] > set->weights[b] || (set->weights[a] == set->weights[b] && set->ids[a] < set->ids[b]);
}

static void swap(struct candidates *set, size_t a, size_t b)
{
    float weight = set->weights[a];
    int32_t id = set->ids[a];
    set->weights[a] = set->weights[b];
    set->ids[a] = set->ids[b];
    set->weights[b] = weight;
    set->ids[b] = id;
}

static void sift_down_best(struct candidates *set, size_t n, size_t at)
{
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_better(set, child + 1, child))
            child++;
        if (!is_better(set, child, at))
            break;
        swap(set, child, at);
    }
}

static void keep_at_least(struct candidates *set, float least)
{
    size_t n = 0;
    for (size_t i = 0; i < set->n; i++) {
        if (set->weights[i] < least)
            continue;
        set->ids[n] = set->ids[i];
        set->weights[n++] = set->weights[i];
    }
    set->n = n;
}

static size_t bucket_of(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits >> 16;
}

/* The bucket in which the sum of all weights, the best first, reaches `full`; *above_out: the sum of the better buckets. */
static size_t find_edge(const struct candidates *set, double full, double *masses, double *above_out)
{
    size_t edge = N_BUCKETS - 1;
    double above = 0;
    memset(masses, 0, N_BUCKETS * sizeof *masses);
    for (size_t i = 0; i < set->n; i++)
        masses[bucket_of(set->weights[i])] += (double)set->weights[i];
    for (; edge > 0 && above + masses[edge] < full; edge--)
        above += masses[edge];
    *above_out = above;
    return edge;
}

/* Keeps the best token, and each one before which the better ones do not yet sum to top_p. */
static void keep_nucleus(struct candidates *set, double top_p, double *masses)
{
    double full = top_p * set->total, before;
    size_t edge = find_edge(set, full, masses, &before), n = 0, n_edge = 0;
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
    set->total = sum(set->weights, set->n);
}

static struct candidates collect(const struct sampler *sampler, const float *values, float best)
{
    const struct lorad_sampling *sampling = &sampler->sampling;
    struct sampler_scratch *scratch = sampler->scratch;
    struct candidates set = {scratch->ids, scratch->weights, 0, 0};
    if (sampling->top_k > 0 && sampling->top_k < sampler->n_vocab) {
        float least = kth_largest(values, sampler->n_vocab, sampling->top_k, scratch->weights);
        for (size_t i = 0; i < sampler->n_vocab; i++)
            if (values[i] >= least) {
                set.ids[set.n] = (int32_t)i;
                set.weights[set.n++] = values[i];
            }
        weigh(set.weights, set.weights, set.n, best, sampling->temperature);
    } else {
        for (set.n = 0; set.n < sampler->n_vocab; set.n++)
            set.ids[set.n] = (int32_t)set.n;
        weigh(set.weights, values, set.n, best, sampling->temperature);
    }
    if (sampling->min_p > 0)
        keep_at_least(&set, (float)sampling->min_p);
    set.total = sum(set.weights, set.n);
    if (sampling->top_p < 1)
        keep_nucleus(&set, sampling->top_p, scratch->masses);
    return set;
}

/* ---- drawing ---- */

bool sampler_is_finite(const float *logits, size_t n_vocab)
{
    /* An exponent of ones, and no other, carries into the sign bit, when that is clear. */
    const uint32_t no_sign = 0x7fffffffu, one = 0x00800000u;
    uint32_t carries[BLOCK] = {0}, all = 0, bits[BLOCK];
    size_t i = 0;
    for (; i + BLOCK <= n_vocab; i += BLOCK) {
        memcpy(bits, logits + i, sizeof bits);
        for (size_t j = 0; j < BLOCK; j++)
            carries[j] |= (bits[j] & no_sign) + one;
    }
    for (; i < n_vocab; i++) {
        memcpy(bits, logits + i, sizeof *bits);
        all |= (bits[0] & no_sign) + one;
    }
    for (size_t j = 0; j < BLOCK; j++)
        all |= carries[j];
    return (all & ~no_sign) == 0;
}

/* The adjusted logits and the best of them, or NULL where sampler_draw gives -1. */
static const float *prepare(struct sampler *sampler, const float *logits, const int32_t *banned, size_t n_banned,
                            size_t *best_out)
{
    if (!sampler->scratch)
        sampler->scratch = sampler->own_scratch = sampler_scratch_create(sampler->n_vocab, NULL);
    if (!sampler->scratch || !sampler_is_finite(logits, sampler->n_vocab))
        return NULL;
    const float *values = adjust(sampler, logits, banned, n_banned);
    size_t best = sampler->kernels->arg_max(values, sampler->n_vocab);
    if (!isfinite(values[best]))
        return NULL;
    *best_out = best;
    return values;
}

int32_t sampler_draw(struct sampler *sampler, const float *logits, const int32_t *banned, size_t n_banned)
{
    size_t best;
    const float *values = prepare(sampler, logits, banned, n_banned, &best);
    if (!values)
        return -1;
    if (sampler->sampling.temperature == 0)
        return (int32_t)best;

    struct candidates set = collect(sampler, values, values[best]);
    double goal = random_uniform(sampler->sampling.seed, sampler->n_accepted) * set.total, passed = 0;
    int32_t drawn = (int32_t)best;
    for (size_t i = 0; i < set.n; i++) {
        if (set.weights[i] == 0)
            continue;
        drawn = set.ids[i];
        passed += (double)set.weights[i];
        if (passed > goal)
            break;
    }
    return drawn;
}

void sampler_accept(struct sampler *sampler, int32_t token)
{
    sampler->n_accepted++;
    if (sampler->counts)
        see(sampler, token, false);
}

void sampler_probabilities(struct sampler *sampler, const float *logits, float *probabilities_out)
{
    size_t best;
    const float *values = prepare(sampler, logits, NULL, 0, &best);
    memset(probabilities_out, 0, sampler->n_vocab * sizeof *probabilities_out);
    if (!values)
        return;
    if (sampler->sampling.temperature == 0) {
        probabilities_out[best] = 1;
        return;
    }
    struct candidates set = collect(sampler, values, values[best]);
    for (size_t i = 0; i < set.n; i++)
        probabilities_out[set.ids[i]] = (float)((double)set.weights[i] / set.total);
}

/* ---- log-probabilities ---- */

void sampler_logprobs(const struct kernels *kernels, const float *logits, size_t n_vocab, int32_t chosen, size_t n_top,
                      struct lorad_token *out)
{
    float normalizer = kernels->log_sum_exp(logits, n_vocab);
    n_top = size_min(size_min(n_top, LORAD_TOP_LOGPROBS), n_vocab);
    out->id = chosen;
    out->logprob = logits[chosen] - normalizer;
    out->n_top = n_top;
    if (n_top == 0)
        return;

    size_t n = 0; /* in out->top, best first, still as logits */
    for (size_t i = 0; i < n_vocab; i++) {
        if (n == n_top && !(logits[i] > out->top[n - 1].logprob))
            continue;
        size_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && logits[i] > out->top[at - 1].logprob; at--)
            out->top[at] = out->top[at - 1];
        out->top[at] = (struct lorad_token_logprob){(int32_t)i, logits[i]};
    }
    for (size_t i = 0; i < n_top; i++)
        out->top[i].logprob -= normalizer;
}

/* ---- life ---- */

static bool has_penalties(const struct lorad_sampling *sampling)
{
    return sampling->repetition_penalty != 1 || sampling->presence_penalty != 0 || sampling->frequency_penalty != 0;
}

struct sampler *sampler_create(const struct lorad_sampling *sampling, const int32_t *prompt, size_t n_prompt,
                               size_t n_vocab, const struct kernels *kernels, struct error *err)
{
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler) {
        error_no_memory(err);
        return NULL;
    }
    *sampler = (struct sampler){.sampling = *sampling, .kernels = kernels, .n_vocab = n_vocab};
    for (size_t i = 0; i < sampling->n_logit_bias; i++)
        assert(sampling->logit_bias[i].id >= 0 && (size_t)sampling->logit_bias[i].id < n_vocab);
    if (!has_penalties(sampling))
        return sampler;
    sampler->counts = calloc(n_vocab, sizeof *sampler->counts);
    sampler->seen = calloc(n_vocab, sizeof *sampler->seen);
    if (!sampler->counts || !sampler->seen) {
        sampler_destroy(sampler);
        error_no_memory(err);
        return NULL;
    }
    for (size_t i = 0; i < n_prompt; i++)
        see(sampler, prompt[i], true);
    return sampler;
}

void sampler_destroy(struct sampler *sampler)
{
    if (!sampler)
        return;
    sampler_scratch_destroy(sampler->own_scratch);
    free(sampler->counts);
    free(sampler->seen);
    free(sampler);
}
