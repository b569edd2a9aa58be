/*
 * candidates.c - the vocabulary is never sorted.
 *
 * top-k: the k-th largest of the blocks' maxima is a lower bound for the k-th largest logit, and few logits reach it; the k-th largest of
 * those is found with a heap of k. min-p is turned into a bound on the logits in the same way. top-p sums the weights in buckets of similar
 * ones, keeps the best buckets whole and looks closely only at the one where the nucleus becomes full; of a whole vocabulary only the large
 * weights are put into buckets, the smaller ones when those do not suffice.
 */
#include "engine/candidates.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

enum { N_BUCKETS = 0x3f80 + 1 };      /* by the upper half of a float's bits, up to 1's: 128 to the octave */
static const double COLDEST = 1e-6;   /* what a temperature between 0 and this counts as: the division stays finite */
static const double SMALL_P = 1e-30;  /* a min-p below this may keep weights that are 0 */

/* Tokens that are still being filtered. */
struct set {
    int32_t *ids;
    float *weights;
    size_t n;
    double total;
};

bool candidates_room_init(struct candidates_room *room, size_t n_vocab, struct error *err)
{
    *room = (struct candidates_room){.weights = calloc(n_vocab, sizeof *room->weights),
                                     .picked = calloc(n_vocab, sizeof *room->picked),
                                     .ids = calloc(n_vocab, sizeof *room->ids),
                                     .masses = calloc(N_BUCKETS, sizeof *room->masses),
                                     .passed = calloc(ceil_divide(n_vocab, KERNELS_BLOCK), sizeof *room->passed)};
    return (room->weights && room->picked && room->ids && room->masses && room->passed) || error_no_memory(err);
}

void candidates_room_finish(struct candidates_room *room)
{
    free(room->weights);
    free(room->picked);
    free(room->ids);
    free(room->masses);
    free(room->passed);
}

/* ---- weights ---- */

static float inverse_of(double temperature)
{
    return (float)(1 / fmax(temperature, COLDEST));
}

static double join(const double sums[8])
{
    double total = 0;
    for (size_t i = 0; i < 8; i++)
        total += sums[i];
    return total;
}

/* In the order in which the row `weigh` adds. */
static double sum(const float *weights, size_t n)
{
    double sums[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++)
            sums[j] += (double)weights[i + j];
    for (; i < n; i++)
        sums[0] += (double)weights[i];
    return join(sums);
}

/* The set's weights are logits yet. */
static void weigh(const struct logits *logits, struct set *set, double temperature)
{
    double sums[8] = {0};
    logits->kernels->weigh(set->weights, sums, set->weights, set->n, logits->most, inverse_of(temperature));
}

/* All tokens; returns the total. */
static double weigh_all(const struct logits *logits, double temperature, struct candidates_room *room)
{
    double sums[8] = {0};
    for (size_t i = 0; i < logits->n_blocks; i++) {
        logits->kernels->weigh(room->weights + i * KERNELS_BLOCK, sums, logits->blocks[i], logits_block_size(logits, i), logits->most,
                               inverse_of(temperature));
        room->passed[i] = join(sums);
    }
    return join(sums);
}

/* ---- top-k and min-p ---- */

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

static void keep_at_least(struct set *set, float least)
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

/* The set's weights are logits. Those that equal the k-th largest stay with it. */
static void take_top(const struct logits *logits, size_t k, float *heap, struct set *set)
{
    size_t n_maxima = logits->n_blocks * KERNELS_LANES;
    float bound = k <= n_maxima ? kth_largest(logits->maxima, n_maxima, k, heap) : -INFINITY;
    set->n = logits_select(logits, bound, set->ids, set->weights);
    keep_at_least(set, kth_largest(set->weights, set->n, k, heap));
}

/* A little more than those whose weight is at least min_p: whoever is left out is far from it. */
static void take_likely(const struct logits *logits, const struct lorad_sampling *sampling, struct set *set)
{
    const double slack = 1e-3; /* of the exponent; it and the logarithm are exact to 1e-5 */
    double distance = (log(sampling->min_p) - slack) / (double)inverse_of(sampling->temperature);
    set->n = logits_select(logits, (float)((double)logits->most + distance), set->ids, set->weights);
}

/* ---- top-p ---- */

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

static size_t bucket_of(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits >> 16;
}

/* Where the nucleus becomes full. */
struct edge {
    size_t bucket;
    double above; /* the sum of the better buckets */
};

/* The bucket in which the sum of all weights, the best first, reaches `full`. The set holds all weights of the buckets from `lowest` on;
   false: they do not suffice. A bucket's sum is exact, so the order of its additions does not matter: its weights have one exponent, and
   their bits with those of their number are fewer than a double's. */
static bool find_edge(const struct set *set, double full, size_t lowest, double *masses, struct edge *out)
{
    struct edge edge = {N_BUCKETS - 1, 0};
    for (size_t i = 0; i < set->n; i++)
        masses[bucket_of(set->weights[i])] += (double)set->weights[i];
    for (; edge.bucket > lowest && edge.above + masses[edge.bucket] < full; edge.bucket--)
        edge.above += masses[edge.bucket];
    bool is_full = lowest == 0 || edge.above + masses[edge.bucket] >= full;
    if (set->n > N_BUCKETS / 8)
        memset(masses, 0, N_BUCKETS * sizeof *masses);
    for (size_t i = 0; i < set->n && set->n <= N_BUCKETS / 8; i++)
        masses[bucket_of(set->weights[i])] = 0;
    *out = edge;
    return is_full;
}

/* Keeps the best token, and each one before which the better ones do not yet sum to `full`. The set has those of the edge's bucket and better
   ones, by their ids. */
static void keep_nucleus(struct set *set, double full, struct edge edge)
{
    size_t n = set->n, n_edge = 0;
    for (size_t i = 0; i < n; i++)
        if (bucket_of(set->weights[i]) == edge.bucket)
            swap(set, i, n_edge++);

    /* A heap of the edge's; the best one goes behind it, to those that are kept. */
    double before = edge.above;
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

/* The least weight of a bucket. */
static float floor_of(size_t bucket)
{
    uint32_t bits = (uint32_t)bucket << 16;
    float weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

/* Of all tokens, whose weights and their total are known. Large weights often suffice; those that are not less than the missing share of the
   mean do so always, but for rounding. */
static struct set find_nucleus(const struct logits *logits, double top_p, double total, struct candidates_room *room)
{
    double full = top_p * total;
    float enough = (float)((1 - top_p) * total / (double)logits->n);
    const size_t lowest[] = {size_max(bucket_of(0x1p-8f), bucket_of(enough)), bucket_of(enough), 0};
    struct set set = {room->ids, room->picked, 0, 0};
    struct edge edge;
    size_t step = 0;
    do
        set.n = logits->kernels->select_at_least(set.ids, set.weights, room->weights, logits->n, floor_of(lowest[step]), 0);
    while (!find_edge(&set, full, lowest[step++], room->masses, &edge));
    set.n = logits->kernels->select_at_least(set.ids, set.weights, room->weights, logits->n, floor_of(edge.bucket), 0);
    keep_nucleus(&set, full, edge);
    return set;
}

/* ---- all filters ---- */

static struct candidates candidates_of(const struct set *set)
{
    return (struct candidates){.ids = set->ids, .weights = set->weights, .n = set->n, .total = set->total};
}

static struct candidates filter(struct set *set, const struct lorad_sampling *sampling, struct candidates_room *room)
{
    struct edge edge;
    if (sampling->min_p > 0)
        keep_at_least(set, (float)sampling->min_p);
    set->total = sum(set->weights, set->n);
    if (sampling->top_p < 1) {
        find_edge(set, sampling->top_p * set->total, 0, room->masses, &edge);
        keep_at_least(set, floor_of(edge.bucket));
        keep_nucleus(set, sampling->top_p * set->total, edge);
    }
    return candidates_of(set);
}

struct candidates candidates_collect(const struct logits *logits, const struct lorad_sampling *sampling, struct candidates_room *room)
{
    struct set set = {room->ids, room->picked, 0, 0};
    bool has_top_k = sampling->top_k > 0 && sampling->top_k < logits->n;
    if (has_top_k || sampling->min_p > SMALL_P) {
        if (has_top_k)
            take_top(logits, sampling->top_k, room->weights, &set);
        else
            take_likely(logits, sampling, &set);
        weigh(logits, &set, sampling->temperature);
        return filter(&set, sampling, room);
    }
    double total = weigh_all(logits, sampling->temperature, room);
    if (sampling->min_p > 0) {
        set.n = logits->kernels->select_at_least(set.ids, set.weights, room->weights, logits->n, 0.0f, 0);
        return filter(&set, sampling, room);
    }
    if (sampling->top_p < 1) {
        set = find_nucleus(logits, sampling->top_p, total, room);
        return candidates_of(&set);
    }
    return (struct candidates){.weights = room->weights, .n = logits->n, .total = total, .passed = room->passed};
}

/* ---- finding one ---- */

static size_t find_exactly(const struct candidates *set, double goal)
{
    double passed = 0;
    size_t found = set->n;
    for (size_t i = 0; i < set->n; i++) {
        if (set->weights[i] == 0)
            continue;
        found = i;
        passed += (double)set->weights[i];
        if (passed > goal)
            break;
    }
    return found;
}

/* The sums by another order of additions differ from those that decide by less than `doubt`: where one of them is as near to the goal as
   that, n is returned. */
static size_t find_by_blocks(const struct candidates *set, double goal)
{
    double doubt = 4 * DBL_EPSILON * (double)set->n * set->total, passed = 0;
    size_t begin = 0, end;
    for (size_t block = 0; begin < set->n && !(set->passed[block] > goal + doubt); block++, begin += KERNELS_BLOCK)
        passed = set->passed[block];
    if (passed > goal - doubt)
        return set->n;
    end = size_min(begin + KERNELS_BLOCK, set->n);
    for (size_t i = begin; i < end; i++) {
        passed += (double)set->weights[i];
        if (passed > goal + doubt)
            return set->weights[i] == 0 ? set->n : i;
        if (passed > goal - doubt)
            return set->n;
    }
    return set->n;
}

size_t candidates_find(const struct candidates *set, double goal)
{
    size_t found = set->passed ? find_by_blocks(set, goal) : set->n;
    return found < set->n ? found : find_exactly(set, goal);
}
