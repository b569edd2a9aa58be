#include "engine/logits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

bool logits_init(struct logits *logits, size_t n, struct error *err)
{
    size_t n_blocks = ceil_divide(n, KERNELS_BLOCK);
    *logits = (struct logits){.n = n, .n_blocks = n_blocks};
    logits->blocks = calloc(n_blocks, sizeof *logits->blocks);
    logits->copy = calloc(n, sizeof *logits->copy);
    logits->maxima = calloc(n_blocks * KERNELS_LANES, sizeof *logits->maxima);
    return (logits->blocks && logits->copy && logits->maxima) || error_no_memory(err);
}

void logits_finish(struct logits *logits)
{
    free(logits->blocks);
    free(logits->copy);
    free(logits->maxima);
}

bool logits_take(struct logits *logits, const struct kernels *kernels, const float *row)
{
    logits->kernels = kernels;
    logits->row = row;
    for (size_t i = 0; i < logits->n_blocks; i++)
        logits->blocks[i] = row + i * KERNELS_BLOCK;
    return kernels->block_maxima(logits->maxima, row, logits->n);
}

float *logits_change(struct logits *logits, int32_t id)
{
    size_t block = (size_t)id / KERNELS_BLOCK;
    float *copy = logits->copy + block * KERNELS_BLOCK;
    if (logits->blocks[block] != copy) {
        memcpy(copy, logits->blocks[block], logits_block_size(logits, block) * sizeof *copy);
        logits->blocks[block] = copy;
    }
    return logits->copy + id;
}

void logits_settle(struct logits *logits)
{
    const struct kernels *kernels = logits->kernels;
    for (size_t i = 0; i < logits->n_blocks; i++)
        if (logits->blocks[i] != logits->row + i * KERNELS_BLOCK)
            (void)kernels->block_maxima(logits->maxima + i * KERNELS_LANES, logits->blocks[i], logits_block_size(logits, i));
    /* The first of equal maxima is in the first block that has a best element. */
    size_t block = kernels->arg_max(logits->maxima, logits->n_blocks * KERNELS_LANES) / KERNELS_LANES;
    size_t at = kernels->arg_max(logits->blocks[block], logits_block_size(logits, block));
    logits->best = block * KERNELS_BLOCK + at;
    logits->most = logits->blocks[block][at];
}

static bool has_at_least(const float *maxima, float least)
{
    bool has = false;
    for (size_t i = 0; i < KERNELS_LANES; i++)
        has |= maxima[i] >= least;
    return has;
}

size_t logits_select(const struct logits *logits, float least, int32_t *ids, float *values)
{
    size_t n = 0;
    for (size_t i = 0; i < logits->n_blocks; i++)
        if (has_at_least(logits->maxima + i * KERNELS_LANES, least))
            n += logits->kernels->select_at_least(ids + n, values + n, logits->blocks[i], logits_block_size(logits, i), least,
                                                  i * KERNELS_BLOCK);
    return n;
}
