/*
 * quality.c - both read a text in step, some positions at a time, so that the logits of a long text with a large vocabulary need not be held.
 *
 * Sums are in double: a 16-bit type may be off by less than 1e-6 nats.
 */
#include "lorad/quality.h"

#include <math.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "lorad/bench.h"

enum { POSITIONS_AT_ONCE = 32 };

struct comparison {
    const struct quality_side *reference, *other;
    double *expected, *found;   /* log-probabilities of one position, n_vocab each */
    struct series divergences;  /* by position */
    double reference_log, log;  /* sums over the scored tokens */
    size_t n_scored, n_agreed, n_right;
};

/* The likeliest token is what it returns. */
static size_t log_softmax(double *out, const float *logits, size_t n)
{
    size_t best = 0;
    double sum = 0;
    for (size_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)logits[best]);
    double shift = (double)logits[best] + log(sum);
    for (size_t i = 0; i < n; i++)
        out[i] = (double)logits[i] - shift;
    return best;
}

/* Never below 0 but by rounding. */
static double divergence(const double *p, const double *q, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(p[i]) * (p[i] - q[i]);
    return fmax(sum, 0);
}

/* Position `at` of a text, which predicts the token after it. False in *is_right_out: another one was likelier, and it counts. */
static bool compare_position(struct comparison *comparison, const struct text *text, size_t at, const float *expected, const float *found,
                             bool *is_right_out, struct error *err)
{
    size_t n_vocab = comparison->reference->n_vocab, next = (size_t)text->tokens[at + 1];
    size_t expected_best = log_softmax(comparison->expected, expected, n_vocab);
    size_t found_best = log_softmax(comparison->found, found, n_vocab);
    comparison->n_agreed += expected_best == found_best;
    if (at + 1 >= text->first_scored) {
        comparison->n_scored++;
        comparison->reference_log += comparison->expected[next];
        comparison->log += comparison->found[next];
        *is_right_out = *is_right_out && found_best == next;
    }
    return series_add(&comparison->divergences, divergence(comparison->expected, comparison->found, n_vocab), err);
}

static bool compare_text(struct comparison *comparison, const struct text *text, struct error *err)
{
    const struct quality_side *reference = comparison->reference, *other = comparison->other;
    size_t n_vocab = reference->n_vocab, n_positions = text->n_tokens - 1;
    bool is_right = true;
    for (size_t first = 0, n; first < n_positions; first += n) {
        n = size_min(POSITIONS_AT_ONCE, n_positions - first);
        const float *expected = reader_read(reference->reader, reference->view, text->tokens, first, n, err);
        const float *found = expected ? reader_read(other->reader, other->view, text->tokens, first, n, err) : NULL;
        if (!found)
            return false;
        for (size_t i = 0; i < n; i++)
            if (!compare_position(comparison, text, first + i, expected + i * n_vocab, found + i * n_vocab, &is_right, err))
                return false;
    }
    comparison->n_right += is_right;
    return true;
}

static double mean(const struct series *series)
{
    double sum = 0;
    for (size_t i = 0; i < series->n; i++)
        sum += series->values[i];
    return sum / (double)series->n;
}

static struct quality conclude(const struct comparison *comparison, size_t n_texts)
{
    const struct series *divergences = &comparison->divergences;
    double n_scored = (double)comparison->n_scored;
    return (struct quality){
        .n_positions = divergences->n,
        .n_scored = comparison->n_scored,
        .reference_perplexity = exp(-comparison->reference_log / n_scored),
        .perplexity = exp(-comparison->log / n_scored),
        .kl = mean(divergences),
        .kl_p99 = series_percentile(divergences, 0.99),
        .kl_most = series_percentile(divergences, 1),
        .agreement = (double)comparison->n_agreed / (double)divergences->n,
        .right = (double)comparison->n_right / (double)n_texts,
    };
}

bool quality_measure(const struct quality_side *reference, const struct quality_side *other, const struct texts *texts,
                     struct quality *out, struct error *err)
{
    struct comparison comparison = {.reference = reference, .other = other};
    comparison.expected = calloc(reference->n_vocab, sizeof *comparison.expected);
    comparison.found = calloc(reference->n_vocab, sizeof *comparison.found);
    bool ok = comparison.expected && comparison.found ? true : error_no_memory(err);
    for (size_t i = 0; ok && i < texts->n_texts; i++)
        ok = compare_text(&comparison, &texts->texts[i], err);
    if (ok)
        *out = conclude(&comparison, texts->n_texts);
    series_finish(&comparison.divergences);
    free(comparison.expected);
    free(comparison.found);
    return ok;
}
