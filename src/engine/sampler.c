/*
 * sampler.c - the adjusted logits, then what the filters leave (candidates.c), then one draw from it.
 */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "engine/candidates.h"
#include "engine/random.h"

enum { BLOCK = 16 }; /* fixed inner loops, which compilers turn into vectors */
static const uint32_t IN_PROMPT = 1u << 31;

struct sampler_scratch {
    struct logits logits;
    struct candidates_room room;
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

struct sampler_scratch *sampler_scratch_create(size_t n_vocab, struct error *err)
{
    struct sampler_scratch *scratch = calloc(1, sizeof *scratch);
    if (!scratch) {
        error_no_memory(err);
        return NULL;
    }
    if (logits_init(&scratch->logits, n_vocab, err) && candidates_room_init(&scratch->room, n_vocab, err))
        return scratch;
    sampler_scratch_destroy(scratch);
    return NULL;
}

void sampler_scratch_destroy(struct sampler_scratch *scratch)
{
    if (!scratch)
        return;
    logits_finish(&scratch->logits);
    candidates_room_finish(&scratch->room);
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

static void penalize(const struct sampler *sampler, struct logits *logits)
{
    const struct lorad_sampling *sampling = &sampler->sampling;
    for (size_t i = 0; i < sampler->n_seen; i++) {
        int32_t token = sampler->seen[i];
        uint32_t n_times = sampler->counts[token] & ~IN_PROMPT;
        float *logit = logits_change(logits, token);
        double value = (double)*logit;
        value = value > 0 ? value / sampling->repetition_penalty : value * sampling->repetition_penalty;
        if (n_times > 0)
            value -= sampling->frequency_penalty * n_times + sampling->presence_penalty;
        *logit = (float)value;
    }
}

/* The logits after bias, penalties and bans. False where sampler_draw gives -1. */
static bool prepare(struct sampler *sampler, const float *row, const int32_t *banned, size_t n_banned)
{
    const struct lorad_sampling *sampling = &sampler->sampling;
    if (!sampler->scratch)
        sampler->scratch = sampler->own_scratch = sampler_scratch_create(sampler->n_vocab, NULL);
    if (!sampler->scratch)
        return false;
    struct logits *logits = &sampler->scratch->logits;
    if (!logits_take(logits, sampler->kernels, row))
        return false;
    for (size_t i = 0; i < sampling->n_logit_bias; i++)
        *logits_change(logits, sampling->logit_bias[i].id) += sampling->logit_bias[i].bias;
    if (sampler->counts)
        penalize(sampler, logits);
    for (size_t i = 0; i < n_banned; i++)
        *logits_change(logits, banned[i]) = -INFINITY;
    logits_settle(logits);
    return isfinite(logits->most);
}

/* ---- drawing ---- */

int32_t sampler_draw(struct sampler *sampler, const float *logits, const int32_t *banned, size_t n_banned)
{
    if (!prepare(sampler, logits, banned, n_banned))
        return -1;
    struct sampler_scratch *scratch = sampler->scratch;
    if (sampler->sampling.temperature == 0)
        return (int32_t)scratch->logits.best;
    struct candidates set = candidates_collect(&scratch->logits, &sampler->sampling, &scratch->room);
    double goal = random_uniform(sampler->sampling.seed, sampler->n_accepted) * set.total;
    return (int32_t)candidates_id(&set, candidates_find(&set, goal));
}

void sampler_accept(struct sampler *sampler, int32_t token)
{
    sampler->n_accepted++;
    if (sampler->counts)
        see(sampler, token, false);
}

void sampler_probabilities(struct sampler *sampler, const float *logits, float *probabilities_out)
{
    memset(probabilities_out, 0, sampler->n_vocab * sizeof *probabilities_out);
    if (!prepare(sampler, logits, NULL, 0))
        return;
    struct sampler_scratch *scratch = sampler->scratch;
    if (sampler->sampling.temperature == 0) {
        probabilities_out[scratch->logits.best] = 1;
        return;
    }
    struct candidates set = candidates_collect(&scratch->logits, &sampler->sampling, &scratch->room);
    for (size_t i = 0; i < set.n; i++)
        probabilities_out[candidates_id(&set, i)] = (float)((double)set.weights[i] / set.total);
}

/* ---- log-probabilities ---- */

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

/* Puts a token among the n best, of which there may be *n_in_out yet; best first, the earlier of equals first. */
static void insert(struct lorad_token_logprob *top, size_t n, size_t *n_in_out, struct lorad_token_logprob token)
{
    if (*n_in_out == n && !(token.logprob > top[n - 1].logprob))
        return;
    size_t at = *n_in_out < n ? (*n_in_out)++ : n - 1;
    for (; at > 0 && token.logprob > top[at - 1].logprob; at--)
        top[at] = top[at - 1];
    top[at] = token;
}

/* The n best logits. Whoever is below the worst of those that are there is passed over. */
static void find_best(const struct kernels *kernels, const float *logits, size_t n_vocab, size_t n, struct lorad_token_logprob *top)
{
    int32_t ids[KERNELS_BLOCK];
    float values[KERNELS_BLOCK];
    size_t n_in = 0;
    for (size_t begin = 0; begin < n_vocab; begin += KERNELS_BLOCK) {
        float least = n_in < n ? -INFINITY : top[n - 1].logprob;
        size_t n_kept = kernels->select_at_least(ids, values, logits + begin, size_min(KERNELS_BLOCK, n_vocab - begin), least, begin);
        for (size_t i = 0; i < n_kept; i++)
            insert(top, n, &n_in, (struct lorad_token_logprob){ids[i], values[i]});
    }
}

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
    find_best(kernels, logits, n_vocab, n_top, out->top);
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
