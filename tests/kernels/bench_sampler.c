/*
 * bench_sampler.c - how long a draw takes, over the ways to sample and the instruction sets: bench_sampler [SET].
 *
 * Logits as a model gives them: close to normal, and a few far above. Rows are used in turn, more of them than the second-level
 * cache holds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cpu.h"
#include "base/pool.h"
#include "engine/random.h"
#include "engine/sampler.h"

enum { N_VOCAB = 151936, N_ROWS = 8, N_DRAWS = 101, N_SEEN = 300 };

static const struct {
    const char *name;
    struct lorad_sampling sampling;
    int n_top; /* -1: a draw; else log-probabilities */
} WAYS[] = {
    {"greedy", {.temperature = 0, .top_p = 1, .repetition_penalty = 1}, -1},
    {"greedy, penalties", {.temperature = 0, .top_p = 1, .repetition_penalty = 1.1}, -1},
    {"temperature", {.temperature = 0.8, .top_p = 1, .repetition_penalty = 1}, -1},
    {"temperature 2", {.temperature = 2, .top_p = 1, .repetition_penalty = 1}, -1},
    {"top-k 40", {.temperature = 0.8, .top_p = 1, .top_k = 40, .repetition_penalty = 1}, -1},
    {"top-k 40, top-p 0.95", {.temperature = 0.8, .top_p = 0.95, .top_k = 40, .repetition_penalty = 1}, -1},
    {"the same, penalties", {.temperature = 0.8, .top_p = 0.95, .top_k = 40, .repetition_penalty = 1.1}, -1},
    {"top-k 1000", {.temperature = 0.8, .top_p = 1, .top_k = 1000, .repetition_penalty = 1}, -1},
    {"top-p 0.95", {.temperature = 0.8, .top_p = 0.95, .repetition_penalty = 1}, -1},
    {"top-p 0.95, temperature 2", {.temperature = 2, .top_p = 0.95, .repetition_penalty = 1}, -1},
    {"min-p 0.05", {.temperature = 0.8, .top_p = 1, .min_p = 0.05, .repetition_penalty = 1}, -1},
    {"log-probability", {.top_p = 1}, 0},
    {"log-probability and 20 best", {.top_p = 1}, 20},
};

static double now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static float *make_rows(void)
{
    float *rows = malloc((size_t)N_ROWS * N_VOCAB * sizeof *rows);
    for (size_t i = 0; rows && i < (size_t)N_ROWS * N_VOCAB; i++) {
        double sum = 0;
        for (uint64_t j = 0; j < 4; j++)
            sum += random_uniform(j, i) - 0.5;
        rows[i] = (float)(sum * 4);
    }
    for (size_t i = 0; rows && i < N_ROWS * 20; i++)
        rows[i % N_ROWS * N_VOCAB + (size_t)(random_uniform(9, i) * N_VOCAB)] += (float)(random_uniform(10, i) * 14);
    return rows;
}

static double median_us(struct sampler *sampler, const struct kernels *kernels, float *rows, size_t n_rows, int n_top)
{
    double times[N_DRAWS];
    for (size_t i = 0; i < N_DRAWS; i++) {
        float *row = rows + i % n_rows * N_VOCAB;
        struct lorad_token token = {.id = 1};
        double begin = now_us();
        if (n_top < 0)
            token.id = sampler_draw(sampler, row, NULL, 0);
        else
            sampler_logprobs(kernels, row, N_VOCAB, 1, (size_t)n_top, &token);
        times[i] = now_us() - begin;
        sampler_accept(sampler, token.id);
    }
    qsort(times, N_DRAWS, sizeof *times, by_value);
    return times[N_DRAWS / 2];
}

int main(int argc, char **argv)
{
    const struct kernels *sets[KERNELS_MOST_SETS];
    size_t n_sets = kernels_all(cpu_detect_features(), sets);
    float *rows = make_rows();
    int32_t seen[N_SEEN];
    if (!rows)
        return 2;
    compute_thread_begin();
    for (size_t i = 0; i < N_SEEN; i++)
        seen[i] = (int32_t)(random_uniform(3, i) * N_VOCAB);
    printf("microseconds, medians of %d; %d logits, the same row again and again / %d rows in turn\n", N_DRAWS, N_VOCAB, N_ROWS);
    for (size_t s = 0; s < n_sets; s++)
        for (size_t w = 0; w < sizeof WAYS / sizeof *WAYS; w++) {
            if (argc > 1 ? strcmp(argv[1], sets[s]->name) != 0 : s == 0)
                continue;
            struct sampler *sampler = sampler_create(&WAYS[w].sampling, seen, N_SEEN, N_VOCAB, sets[s], NULL);
            if (!sampler)
                return 2;
            double same = median_us(sampler, sets[s], rows, 1, WAYS[w].n_top);
            double turns = median_us(sampler, sets[s], rows, N_ROWS, WAYS[w].n_top);
            printf("%-10s %-28s %8.1f %8.1f\n", sets[s]->name, WAYS[w].name, same, turns);
            fflush(stdout);
            sampler_destroy(sampler);
        }
    free(rows);
    return 0;
}
