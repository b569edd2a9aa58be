#include "engine/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cpu.h"
#include "base/json.h"
#include "engine/random.h"
#include "support/check.h"
#include "support/naive_sampler.h"

static const struct kernels *kernels;

static const struct lorad_sampling plain = {.repetition_penalty = 1, .temperature = 1, .top_p = 1, .has_seed = true, .seed = 1};

static struct sampler *make(struct lorad_sampling sampling, const int32_t *prompt, size_t n_prompt, size_t n_vocab)
{
    struct sampler *sampler = sampler_create(&sampling, prompt, n_prompt, n_vocab, kernels, NULL);
    assert_non_null(sampler);
    return sampler;
}

/* Logits that spread over `width`, different for each seed. */
static float *random_logits(size_t n, uint64_t seed, double width)
{
    float *logits = malloc(n * sizeof *logits);
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)(width * (random_uniform(seed, i) - 0.5));
    return logits;
}

/* ---- random numbers ---- */

static void philox_gives_the_published_numbers(void **state)
{
    static const struct { uint32_t counter[4], key[2], out[4]; } known[] = {
        {{0}, {0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        random_philox(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static void uniform_numbers_are_below_one_and_even(void **state)
{
    size_t buckets[10] = {0};
    (void)state;
    for (uint64_t i = 0; i < 100000; i++) {
        double u = random_uniform(42, i);
        assert_true(u >= 0 && u < 1);
        buckets[(size_t)(u * 10)]++;
    }
    for (size_t i = 0; i < 10; i++)
        assert_in_range(buckets[i], 9500, 10500); /* 5 standard deviations */
}

/* ---- golden distributions ---- */

static json_t *read_golden(void)
{
    char path[4096];
    const char *source = getenv("LORAD_SOURCE"), *slash = strrchr(__FILE__, '/');
    if (source)
        snprintf(path, sizeof path, "%s/tests/golden/sampling.json", source);
    else
        snprintf(path, sizeof path, "%.*s/../golden/sampling.json", (int)(slash - __FILE__), __FILE__);
    json_t *cases = json_load_file(path, 0, NULL);
    if (!cases)
        fail_msg("%s cannot be read", path);
    return cases;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static size_t read_ids(const json_t *array, int32_t *out)
{
    for (size_t i = 0; i < json_array_size(array); i++)
        out[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return json_array_size(array);
}

static void check_case(const json_t *entry)
{
    const json_t *settings = json_object_get(entry, "settings");
    const json_t *logits_json = json_object_get(entry, "logits"), *expected = json_object_get(entry, "probabilities");
    struct lorad_logit_bias bias[8];
    size_t n_vocab = json_array_size(logits_json), n_bias = 0;
    float logits[64], probabilities[64];
    int32_t prompt[64], output[64];
    const char *key;
    json_t *value;
    assert_true(n_vocab > 0 && n_vocab <= 64 && json_array_size(expected) == n_vocab);
    json_object_foreach(json_object_get(settings, "logit_bias"), key, value)
        bias[n_bias++] = (struct lorad_logit_bias){atoi(key), (float)json_number_value(value)};
    for (size_t i = 0; i < n_vocab; i++)
        logits[i] = (float)json_number_value(json_array_get(logits_json, i));
    struct lorad_sampling sampling = {
        .logit_bias = bias,
        .n_logit_bias = n_bias,
        .repetition_penalty = number(settings, "repetition_penalty"),
        .presence_penalty = number(settings, "presence_penalty"),
        .frequency_penalty = number(settings, "frequency_penalty"),
        .temperature = number(settings, "temperature"),
        .min_p = number(settings, "min_p"),
        .top_k = (size_t)json_integer_value(json_object_get(settings, "top_k")),
        .top_p = number(settings, "top_p"),
    };
    size_t n_prompt = read_ids(json_object_get(entry, "prompt"), prompt);
    size_t n_output = read_ids(json_object_get(entry, "output"), output);
    struct sampler *sampler = make(sampling, prompt, n_prompt, n_vocab);
    for (size_t i = 0; i < n_output; i++)
        sampler_accept(sampler, output[i]);
    sampler_probabilities(sampler, logits, probabilities);
    for (size_t i = 0; i < n_vocab; i++) {
        double wanted = json_number_value(json_array_get(expected, i)), got = (double)probabilities[i];
        if (fabs(got - wanted) > 1e-6 || (got > 1e-30) != (wanted > 1e-30)) {
            char *text = json_dumps(settings, JSON_COMPACT);
            fail_msg("%s: token %zu has %.9g, not %.9g", text, i, got, wanted);
        }
    }
    sampler_destroy(sampler);
}

static void distributions_are_the_golden_ones(void **state)
{
    json_t *cases = read_golden();
    (void)state;
    assert_true(json_array_size(cases) >= 20);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(json_array_get(cases, i));
    json_decref(cases);
}

/* ---- against a sort of everything ---- */

struct ranked {
    int32_t id;
    double weight;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static void expect(const struct lorad_sampling *s, const float *logits, size_t n, double *out)
{
    struct ranked *all = malloc(n * sizeof *all);
    double best = -INFINITY, total = 0, before = 0, kept = 0;
    size_t n_kept = 0;
    for (size_t i = 0; i < n; i++)
        best = fmax(best, (double)logits[i]);
    for (size_t i = 0; i < n; i++)
        all[i] = (struct ranked){(int32_t)i, exp(((double)logits[i] - best) / s->temperature)};
    qsort(all, n, sizeof *all, by_rank);
    while (n_kept < n && all[n_kept].weight >= s->min_p)
        n_kept++;
    if (s->top_k > 0 && s->top_k < n_kept) {
        double least = all[s->top_k - 1].weight;
        for (n_kept = s->top_k; n_kept < n && all[n_kept].weight == least;)
            n_kept++;
    }
    for (size_t i = 0; i < n_kept; i++)
        total += all[i].weight;
    memset(out, 0, n * sizeof *out);
    for (size_t i = 0; i < n_kept && (i == 0 || s->top_p == 1 || before < s->top_p * total); i++) {
        before += all[i].weight;
        kept += out[all[i].id] = all[i].weight;
    }
    for (size_t i = 0; i < n; i++)
        out[i] /= kept;
    free(all);
}

static void filters_keep_what_a_full_sort_keeps(void **state)
{
    enum { N = 5003 };
    static const double temperatures[] = {0.3, 1, 2.5}, top_ps[] = {1e-9, 0.1, 0.5, 0.9, 0.999, 1}, min_ps[] = {0, 0.001, 0.3};
    static const size_t top_ks[] = {0, 1, 2, 40, 4000, N, 2 * N};
    double expected[N];
    float probabilities[N];
    size_t n_differences = 0, n_all = 0;
    (void)state;
    for (size_t a = 0; a < 3; a++)
        for (size_t b = 0; b < 6; b++)
            for (size_t c = 0; c < 3; c++)
                for (size_t d = 0; d < 7; d++) {
                    struct lorad_sampling s = plain;
                    s.temperature = temperatures[a], s.top_p = top_ps[b], s.min_p = min_ps[c], s.top_k = top_ks[d];
                    float *logits = random_logits(N, 1000 + a + 10 * b + 100 * c + 1000 * d, 24);
                    struct sampler *sampler = make(s, NULL, 0, N);
                    sampler_probabilities(sampler, logits, probabilities);
                    expect(&s, logits, N, expected);
                    for (size_t i = 0; i < N; i++) {
                        /* Rounding may move the filters' edge by a token. */
                        n_all++;
                        if (((double)probabilities[i] > 1e-12) != (expected[i] > 1e-12))
                            n_differences++;
                        else
                            assert_true(fabs((double)probabilities[i] - expected[i]) <= 2e-4 * expected[i] + 1e-9);
                    }
                    sampler_destroy(sampler);
                    free(logits);
                }
    assert_true(n_all > 1000000);
    assert_in_range(n_differences, 0, 40);
}

static void equal_logits_are_kept_lowest_id_first(void **state)
{
    float logits[100] = {0}, probabilities[100];
    struct lorad_sampling sampling = plain;
    (void)state;
    sampling.top_p = 0.095;
    struct sampler *sampler = make(sampling, NULL, 0, 100);
    sampler_probabilities(sampler, logits, probabilities);
    for (size_t i = 0; i < 100; i++)
        assert_true(i < 10 ? fabsf(probabilities[i] - 0.1f) < 1e-6f : probabilities[i] == 0);
    sampler_destroy(sampler);
}

/* ---- drawing ---- */

static void draws_follow_the_distribution(void **state)
{
    enum { N = 50, N_DRAWS = 200000 };
    static const struct { double temperature, top_p, min_p; size_t top_k; } settings[] = {
        {1, 1, 0, 0}, {1.7, 1, 0, 0}, {1, 0.8, 0, 0}, {1.3, 1, 0.05, 0}, {1.5, 0.9, 0, 12}};
    (void)state;
    for (size_t c = 0; c < sizeof settings / sizeof *settings; c++) {
        struct lorad_sampling sampling = plain;
        sampling.temperature = settings[c].temperature, sampling.top_p = settings[c].top_p;
        sampling.min_p = settings[c].min_p, sampling.top_k = settings[c].top_k, sampling.seed = 77 + c;
        float *logits = random_logits(N, c, 8), probabilities[N];
        size_t counts[N] = {0};
        struct sampler *sampler = make(sampling, NULL, 0, N);
        sampler_probabilities(sampler, logits, probabilities);
        for (size_t i = 0; i < N_DRAWS; i++) {
            int32_t token = sampler_draw(sampler, logits, NULL, 0);
            assert_in_range(token, 0, N - 1);
            counts[token]++;
            sampler_accept(sampler, token);
        }
        for (size_t i = 0; i < N; i++) {
            double p = (double)probabilities[i], mean = p * N_DRAWS;
            if (p == 0)
                assert_int_equal(counts[i], 0);
            assert_true(fabs((double)counts[i] - mean) <= 5 * sqrt(mean * (1 - p)) + 1);
        }
        sampler_destroy(sampler);
        free(logits);
    }
}

static void the_seed_and_the_position_alone_decide(void **state)
{
    enum { N = 300, N_DRAWS = 50 };
    int32_t first[N_DRAWS];
    size_t n_same = 0;
    (void)state;
    struct sampler_scratch *shared = sampler_scratch_create(N, NULL);
    for (int round = 0; round < 3; round++) {
        struct lorad_sampling sampling = plain;
        sampling.seed = round < 2 ? 5 : 6;
        struct sampler *sampler = make(sampling, NULL, 0, N), *other = make(plain, NULL, 0, N);
        if (round == 1) {
            sampler_use_scratch(sampler, shared);
            sampler_use_scratch(other, shared);
        }
        for (size_t i = 0; i < N_DRAWS; i++) {
            float *logits = random_logits(N, i, 6);
            if (round == 1) /* what others draw changes nothing, nor does drawing twice */
                sampler_draw(other, logits, NULL, 0), sampler_draw(sampler, logits, NULL, 0);
            int32_t token = sampler_draw(sampler, logits, NULL, 0);
            sampler_accept(sampler, token);
            if (round == 0)
                first[i] = token;
            else if (round == 1)
                assert_int_equal(token, first[i]);
            else
                n_same += token == first[i];
            free(logits);
        }
        sampler_destroy(sampler);
        sampler_destroy(other);
    }
    sampler_scratch_destroy(shared);
    assert_true(n_same < N_DRAWS / 2);
}

static void temperature_zero_takes_the_best_and_the_lowest_of_equals(void **state)
{
    float logits[40] = {0};
    struct lorad_sampling sampling = plain;
    struct lorad_logit_bias bias = {20, 3};
    (void)state;
    sampling.temperature = 0;
    logits[7] = logits[9] = 2;
    struct sampler *sampler = make(sampling, NULL, 0, 40);
    assert_int_equal(sampler_draw(sampler, logits, NULL, 0), 7);
    assert_int_equal(sampler_draw(sampler, logits, (int32_t[]){7}, 1), 9);
    assert_int_equal(sampler_draw(sampler, logits, (int32_t[]){9, 7}, 2), 0);
    assert_true(logits[7] == 2); /* untouched */
    sampler_destroy(sampler);
    sampling.logit_bias = &bias, sampling.n_logit_bias = 1;
    sampler = make(sampling, NULL, 0, 40);
    assert_int_equal(sampler_draw(sampler, logits, NULL, 0), 20);
    sampler_destroy(sampler);
}

static void a_tiny_temperature_is_as_good_as_zero(void **state)
{
    float *logits = random_logits(500, 3, 10);
    struct lorad_sampling sampling = plain;
    (void)state;
    sampling.temperature = 1e-300;
    struct sampler *sampler = make(sampling, NULL, 0, 500);
    for (int i = 0; i < 100; i++) {
        int32_t token = sampler_draw(sampler, logits, NULL, 0);
        assert_int_equal(token, kernels->arg_max(logits, 500));
        sampler_accept(sampler, token);
    }
    sampler_destroy(sampler);
    free(logits);
}

static void banned_tokens_never_come(void **state)
{
    float logits[3] = {0, 0, 5};
    (void)state;
    struct sampler *sampler = make(plain, NULL, 0, 3);
    for (int i = 0; i < 1000; i++) {
        assert_true(sampler_draw(sampler, logits, (int32_t[]){2}, 1) != 2);
        sampler_accept(sampler, 0);
    }
    assert_int_equal(sampler_draw(sampler, logits, (int32_t[]){0, 1, 2}, 3), -1);
    sampler_destroy(sampler);
}

static void numbers_that_are_not_finite_are_noticed_wherever_they_are(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    (void)state;
    for (double temperature = 0; temperature <= 1; temperature++)
        for (size_t i = 0; i < 50; i++)
            for (size_t b = 0; b < 3; b++) {
                struct lorad_sampling sampling = plain;
                float logits[50] = {0};
                sampling.temperature = temperature;
                struct sampler *sampler = make(sampling, NULL, 0, 50);
                assert_true(sampler_is_finite(logits, 50));
                logits[(i + 1) % 50] = -3.4e38f;
                assert_true(sampler_draw(sampler, logits, NULL, 0) >= 0);
                logits[i] = bad[b];
                assert_false(sampler_is_finite(logits, 50));
                assert_int_equal(sampler_draw(sampler, logits, NULL, 0), -1);
                sampler_destroy(sampler);
            }
}

static void penalties_see_the_prompt_only_for_repetition(void **state)
{
    const int32_t prompt[] = {1, 1};
    float logits[4] = {1, 1, 1, 1}, p[4];
    struct lorad_sampling sampling = plain;
    (void)state;
    sampling.presence_penalty = sampling.frequency_penalty = 1;
    struct sampler *sampler = make(sampling, prompt, 2, 4);
    sampler_probabilities(sampler, logits, p);
    assert_true(fabsf(p[1] - 0.25f) < 1e-6f);
    sampler_accept(sampler, 2);
    sampler_accept(sampler, 2);
    sampler_probabilities(sampler, logits, p); /* token 2: twice 1, and once 1 */
    assert_true(fabsf(p[2] / p[0] - expf(-3)) < 1e-6f);
    assert_true(p[1] == p[0]);
    sampler_destroy(sampler);
}

/* ---- the same tokens as in the plainest way ---- */

/* Logits whose values repeat, so that filters cut among equals. */
static float *coarse_logits(size_t n, uint64_t seed, double width, double grain)
{
    float *logits = random_logits(n, seed, width);
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)(round((double)logits[i] / grain) * grain);
    return logits;
}

static void compare_draws(const struct naive_sampler *naive, size_t n_draws, float *(*make_logits)(size_t n, uint64_t seed))
{
    int32_t output[64], prompt[] = {3, 5, 3, (int32_t)naive->n_vocab - 1}, banned[] = {0, 7};
    struct naive_sampler expected = *naive;
    expected.prompt = prompt, expected.n_prompt = 4, expected.output = output;
    struct sampler *sampler = make(naive->sampling, prompt, 4, naive->n_vocab);
    assert_true(n_draws <= 64);
    for (size_t i = 0; i < n_draws; i++) {
        float *logits = make_logits(naive->n_vocab, i);
        size_t n_banned = naive->n_vocab > 20 ? i % 3 : 0;
        output[i] = sampler_draw(sampler, logits, banned, n_banned);
        assert_int_equal(output[i], naive_sampler_draw(&expected, logits, banned, n_banned));
        sampler_accept(sampler, output[i]);
        expected.n_output++;
        free(logits);
    }
    sampler_destroy(sampler);
}

static float *wide(size_t n, uint64_t seed)
{
    return random_logits(n, seed, 30);
}
static float *flat(size_t n, uint64_t seed)
{
    return random_logits(n, seed, 2);
}
static float *repeating(size_t n, uint64_t seed)
{
    return coarse_logits(n, seed, 12, 0.5);
}
static float *equal(size_t n, uint64_t seed)
{
    return coarse_logits(n, seed, 1e-3, 1);
}
static float *huge(size_t n, uint64_t seed)
{
    return random_logits(n, seed, 6e38);
}

static void every_filter_draws_the_same_tokens_as_the_plainest_way(void **state)
{
    static float *(*const shapes[])(size_t n, uint64_t seed) = {wide, flat, repeating, equal, huge};
    static const size_t sizes[] = {1, 2, 17, 1023, 1024, 1025, 3000}, top_ks[] = {0, 1, 3, 40, 900, 5000};
    static const double temperatures[] = {0, 1e-9, 0.4, 1, 3}, top_ps[] = {1e-9, 0.3, 0.95, 0.999999, 1};
    static const double min_ps[] = {0, 1e-40, 1e-12, 0.02, 1};
    const struct lorad_logit_bias bias[] = {{0, 3}, {0, -1.5f}};
    size_t n = 0;
    (void)state;
    for (size_t t = 0; t < 5; t++)
        for (size_t k = 0; k < 6; k++)
            for (size_t p = 0; p < 5; p++)
                for (size_t m = 0; m < 5; m++, n++) {
                    struct naive_sampler naive = {.sampling = plain, .n_vocab = sizes[n % 7]};
                    naive.sampling.seed = n;
                    naive.sampling.temperature = temperatures[t], naive.sampling.top_k = top_ks[k];
                    naive.sampling.top_p = top_ps[p], naive.sampling.min_p = min_ps[m];
                    if (n % 4 == 1)
                        naive.sampling.repetition_penalty = 1.3, naive.sampling.frequency_penalty = 0.2;
                    if (n % 4 == 2)
                        naive.sampling.presence_penalty = -0.7;
                    if (n % 3 == 1)
                        naive.sampling.logit_bias = bias, naive.sampling.n_logit_bias = 2;
                    if (naive.n_vocab < 6)
                        naive.sampling.repetition_penalty = 1, naive.sampling.frequency_penalty = naive.sampling.presence_penalty = 0;
                    compare_draws(&naive, 6, shapes[n / 7 % 5]);
                }
}

static void a_whole_vocabulary_gives_the_same_tokens_too(void **state)
{
    static const struct lorad_sampling ways[] = {
        {.temperature = 0}, {.temperature = 0.8}, {.temperature = 2.5}, {.top_k = 40, .temperature = 0.8},
        {.top_k = 40, .top_p = 0.95, .temperature = 0.8}, {.top_p = 0.95, .temperature = 0.8}, {.top_p = 0.95, .temperature = 4},
        {.top_p = 0.5, .temperature = 100}, {.min_p = 0.05, .temperature = 1}, {.top_k = 3000, .top_p = 0.9, .temperature = 1.5}};
    (void)state;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct naive_sampler naive = {.sampling = ways[i], .n_vocab = 151936};
        naive.sampling.repetition_penalty = i % 2 ? 1.1 : 1;
        naive.sampling.top_p = ways[i].top_p > 0 ? ways[i].top_p : 1;
        naive.sampling.seed = 11 + i;
        compare_draws(&naive, 3, wide);
        compare_draws(&naive, 3, repeating);
    }
}

/* ---- log-probabilities ---- */

static void logprobs_are_those_of_log_softmax_best_first(void **state)
{
    enum { N = 1000 };
    float *logits = random_logits(N, 9, 30);
    struct lorad_token token;
    double total = 0;
    (void)state;
    logits[500] = logits[30] = 40;
    logits[31] = 39;
    for (size_t i = 0; i < N; i++)
        total += exp((double)logits[i]);
    sampler_logprobs(kernels, logits, N, 12, 20, &token);
    assert_int_equal(token.id, 12);
    assert_true(fabs((double)token.logprob - ((double)logits[12] - log(total))) < 1e-5);
    assert_int_equal(token.n_top, 20);
    assert_int_equal(token.top[0].id, 30); /* equals: the lower id first */
    assert_int_equal(token.top[1].id, 500);
    assert_int_equal(token.top[2].id, 31);
    for (size_t i = 0; i < token.n_top; i++) {
        size_t n_better = 0, id = (size_t)token.top[i].id;
        assert_true(fabs((double)token.top[i].logprob - ((double)logits[id] - log(total))) < 1e-5);
        for (size_t j = 0; j < N; j++)
            n_better += logits[j] > logits[id] || (logits[j] == logits[id] && j < id);
        assert_int_equal(n_better, i);
    }
    sampler_logprobs(kernels, logits, N, 12, 0, &token);
    assert_int_equal(token.n_top, 0);
    sampler_logprobs(kernels, logits, 3, 1, 20, &token);
    assert_int_equal(token.n_top, 3);
    free(logits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_numbers),
        cmocka_unit_test(uniform_numbers_are_below_one_and_even),
        cmocka_unit_test(distributions_are_the_golden_ones),
        cmocka_unit_test(filters_keep_what_a_full_sort_keeps),
        cmocka_unit_test(equal_logits_are_kept_lowest_id_first),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(the_seed_and_the_position_alone_decide),
        cmocka_unit_test(temperature_zero_takes_the_best_and_the_lowest_of_equals),
        cmocka_unit_test(a_tiny_temperature_is_as_good_as_zero),
        cmocka_unit_test(banned_tokens_never_come),
        cmocka_unit_test(numbers_that_are_not_finite_are_noticed_wherever_they_are),
        cmocka_unit_test(penalties_see_the_prompt_only_for_repetition),
        cmocka_unit_test(every_filter_draws_the_same_tokens_as_the_plainest_way),
        cmocka_unit_test(a_whole_vocabulary_gives_the_same_tokens_too),
        cmocka_unit_test(logprobs_are_those_of_log_softmax_best_first),
    };
    kernels = kernels_select(cpu_detect_features(), getenv("LORAD_CPU"), NULL);
    return kernels ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
