/*
 * bench_limits.c - the limit that decoding runs into: the bytes that a step must read, and how fast this machine reads memory.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "lorad/bench.h"

#define READ_BYTES ((size_t)512 << 20)

struct read_job {
    const uint64_t *words;
    size_t n_words;
    uint64_t sums[256];
};

static void read_part(void *context, size_t part, size_t n_parts, size_t thread)
{
    struct read_job *job = context;
    size_t begin = job->n_words * part / n_parts, end = job->n_words * (part + 1) / n_parts;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = begin; i + 4 <= end; i += 4) {
        a += job->words[i];
        b += job->words[i + 1];
        c += job->words[i + 2];
        d += job->words[i + 3];
    }
    job->sums[thread & 255] += a + b + c + d;
}

/* The best of a few passes over a buffer much larger than the caches. The engine is idle then, so the pool is free. */
double bench_measure_bandwidth(const struct bench *bench)
{
    struct pool *pool = bench->lorad->pool;
    struct read_job job = {.n_words = READ_BYTES / 8};
    uint64_t *words = malloc(READ_BYTES);
    double best = 0;
    if (!words)
        return NAN;
    memset(words, 1, READ_BYTES);
    job.words = words;
    for (int pass = 0; pass < 6; pass++) {
        uint64_t begin = clock_now_us();
        pool_run(pool, read_part, &job, pool_n_threads(pool));
        double seconds = (double)(clock_now_us() - begin) / 1e6;
        if ((double)READ_BYTES / seconds > best)
            best = (double)READ_BYTES / seconds;
    }
    free(words);
    return best;
}

/* Every linear site and the head. */
uint64_t bench_weight_bytes(const struct bench *bench)
{
    const struct model *model = bench->lorad->model;
    uint64_t bytes = 0;
    for (size_t i = 0; i < model->n_sites; i++) {
        const struct site *site = &model->sites[i];
        if (site->kind == SITE_LINEAR || site->kind == SITE_HEAD)
            bytes += matrix_bytes(site->weight);
    }
    return bytes;
}

uint64_t bench_kv_bytes_per_position(const struct bench *bench)
{
    return kv_block_bytes(bench->lorad->model, kv_type_of(&bench->options.open)) / KV_BLOCK_TOKENS;
}
