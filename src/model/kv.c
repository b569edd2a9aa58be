/*
 * kv.c - one mapping cut into blocks, a count per block, a stack of free ones.
 *
 * The mapping asks for huge pages: blocks are read in any order, a few kilobytes here and there, and every other small page would be
 * looked up again. In a block each layer's head has its keys and then its values side by side, because attention reads both. The
 * last block given back is the first given out again: its pages are there already.
 */
#include "model/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/huge.h"

enum { WRITE_CHUNK = 128 }; /* elements of a key that are rounded at a time */

struct kv {
    char *memory;
    size_t n_bytes;
    const struct kernels *kernels;
    enum weight_type type;
    size_t n_layers, n_kv_heads, d_head;
    size_t head_bytes; /* keys, or values, of one head in a block */
    size_t block_bytes;
    size_t n_blocks, n_free;
    uint32_t *references; /* per block */
    uint32_t *free_blocks; /* n_free used, the top last */
};

uint64_t kv_block_bytes(const struct model *model, enum weight_type type)
{
    const struct model_config *config = &model->config;
    return (uint64_t)config->n_layers * config->n_kv_heads * config->d_head * 2 * KV_BLOCK_TOKENS * weight_type_size(type);
}

static struct kv *allocate(size_t n_blocks, size_t block_bytes)
{
    struct kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return NULL;
    kv->references = calloc(n_blocks, sizeof *kv->references);
    kv->free_blocks = calloc(n_blocks, sizeof *kv->free_blocks);
    kv->n_bytes = n_blocks * block_bytes;
    if (kv->references && kv->free_blocks)
        kv->memory = huge_allocate(kv->n_bytes);
    if (!kv->memory) {
        kv_destroy(kv);
        return NULL;
    }
    return kv;
}

struct kv *kv_create(const struct model *model, enum weight_type type, uint64_t memory_bytes, size_t context,
                     struct error *err)
{
    uint64_t block_bytes = kv_block_bytes(model, type), n_needed = ceil_divide(context, KV_BLOCK_TOKENS);
    uint64_t n_blocks = memory_bytes / block_bytes;
    if (n_blocks >= KV_NO_BLOCK)
        n_blocks = KV_NO_BLOCK - 1;
    if (n_blocks < n_needed || n_blocks == 0) {
        error_set(err, ERROR_TOO_LARGE, "kv_memory",
                  "one sequence of %zu tokens needs %llu bytes of key/value cache, but the budget is %llu", context,
                  (unsigned long long)(n_needed * block_bytes), (unsigned long long)memory_bytes);
        return NULL;
    }
    struct kv *kv = allocate((size_t)n_blocks, (size_t)block_bytes);
    if (!kv) {
        error_set(err, ERROR_NO_MEMORY, "kv_memory", "%llu bytes of key/value cache cannot be reserved",
                  (unsigned long long)(n_blocks * block_bytes));
        return NULL;
    }
    kv->kernels = model->kernels;
    kv->type = type;
    kv->n_layers = model->config.n_layers;
    kv->n_kv_heads = model->config.n_kv_heads;
    kv->d_head = model->config.d_head;
    kv->head_bytes = KV_BLOCK_TOKENS * model->config.d_head * weight_type_size(type);
    kv->block_bytes = (size_t)block_bytes;
    kv->n_blocks = kv->n_free = (size_t)n_blocks;
    for (size_t i = 0; i < kv->n_blocks; i++)
        kv->free_blocks[i] = (uint32_t)(kv->n_blocks - 1 - i);
    return kv;
}

void kv_destroy(struct kv *kv)
{
    if (!kv)
        return;
    huge_free(kv->memory, kv->n_bytes);
    free(kv->references);
    free(kv->free_blocks);
    free(kv);
}

enum weight_type kv_type(const struct kv *kv)
{
    return kv->type;
}

size_t kv_n_blocks(const struct kv *kv)
{
    return kv->n_blocks;
}

size_t kv_n_free(const struct kv *kv)
{
    return kv->n_free;
}

uint32_t kv_acquire(struct kv *kv)
{
    if (kv->n_free == 0)
        return KV_NO_BLOCK;
    uint32_t block = kv->free_blocks[--kv->n_free];
    kv->references[block] = 1;
    return block;
}

void kv_retain(struct kv *kv, uint32_t block)
{
    assert(block < kv->n_blocks && kv->references[block] > 0);
    kv->references[block]++;
}

void kv_release(struct kv *kv, uint32_t block)
{
    assert(block < kv->n_blocks && kv->references[block] > 0);
    if (--kv->references[block] == 0)
        kv->free_blocks[kv->n_free++] = block;
}

size_t kv_n_references(const struct kv *kv, uint32_t block)
{
    assert(block < kv->n_blocks);
    return kv->references[block];
}

static char *head_at(struct kv *kv, uint32_t block, size_t layer, size_t kv_head)
{
    assert(block < kv->n_blocks && layer < kv->n_layers && kv_head < kv->n_kv_heads);
    return kv->memory + block * kv->block_bytes + (layer * kv->n_kv_heads + kv_head) * 2 * kv->head_bytes;
}

void *kv_keys(struct kv *kv, uint32_t block, size_t layer, size_t kv_head)
{
    return head_at(kv, block, layer, kv_head);
}

void *kv_values(struct kv *kv, uint32_t block, size_t layer, size_t kv_head)
{
    return head_at(kv, block, layer, kv_head) + kv->head_bytes;
}

size_t kv_stride(const struct kv *kv)
{
    return kv->block_bytes;
}

/* A chunk of elements of a key, as they lie one below the other in a block. */
static void write_column(char *out, const char *elements, size_t n, size_t size)
{
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * KV_BLOCK_TOKENS * size, elements + i * size, size);
}

void kv_write(struct kv *kv, uint32_t block, size_t layer, size_t kv_head, size_t row, const float *key, const float *value)
{
    size_t size = weight_type_size(kv->type);
    char *keys = (char *)kv_keys(kv, block, layer, kv_head) + row * size;
    char *values = (char *)kv_values(kv, block, layer, kv_head) + row * kv->d_head * size;
    char elements[WRITE_CHUNK * sizeof(float)];

    assert(row < KV_BLOCK_TOKENS);
    kv->kernels->narrow[kv->type](values, value, kv->d_head);
    for (size_t i = 0, n; i < kv->d_head; i += n) {
        n = size_min(WRITE_CHUNK, kv->d_head - i);
        kv->kernels->narrow[kv->type](elements, key + i, n);
        if (size == sizeof(float))
            write_column(keys + i * KV_BLOCK_TOKENS * size, elements, n, sizeof(float));
        else
            write_column(keys + i * KV_BLOCK_TOKENS * size, elements, n, sizeof(uint16_t));
    }
}
