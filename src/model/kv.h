/*
 * kv.h - the key/value cache: a pool of fixed-size blocks and who holds which. Memory, no policy.
 *
 * A block holds KV_BLOCK_TOKENS positions of all layers. Blocks are counted: a block may be held by several sequences.
 * Engine thread only, but for the pool's threads reading and writing blocks inside a step.
 */
#ifndef MODEL_KV_H
#define MODEL_KV_H

#include "base/error.h"
#include "model/model.h"

#define KV_BLOCK_TOKENS KERNELS_KV_BLOCK
#define KV_NO_BLOCK UINT32_MAX

struct kv;

/* Keys and values are elements of `type`, rounded when they are written. As many blocks as fit into `memory_bytes` (at least one sequence of `context` must fit: ERROR_TOO_LARGE otherwise, saying
   what is needed). Pages are touched on first use. */
struct kv *kv_create(const struct model *model, enum weight_type type, uint64_t memory_bytes, size_t context,
                     struct error *err);
void kv_destroy(struct kv *kv);

uint64_t kv_block_bytes(const struct model *model, enum weight_type type);
enum weight_type kv_type(const struct kv *kv);
size_t kv_n_blocks(const struct kv *kv);
size_t kv_n_free(const struct kv *kv);

/* A free block with one reference, or KV_NO_BLOCK. */
uint32_t kv_acquire(struct kv *kv);
void kv_retain(struct kv *kv, uint32_t block);
void kv_release(struct kv *kv, uint32_t block);
size_t kv_n_references(const struct kv *kv, uint32_t block);

/* Keys, (d_head, KV_BLOCK_TOKENS) elements, and values, (KV_BLOCK_TOKENS, d_head), of one layer and key/value head in a block: so
   that whoever scores or mixes reads whole vectors. From a block to the next it is kv_stride bytes. */
void *kv_keys(struct kv *kv, uint32_t block, size_t layer, size_t kv_head);
void *kv_values(struct kv *kv, uint32_t block, size_t layer, size_t kv_head);
size_t kv_stride(const struct kv *kv);

/* Rounds d_head floats each into position `row` of a block. */
void kv_write(struct kv *kv, uint32_t block, size_t layer, size_t kv_head, size_t row, const float *key, const float *value);

#endif
