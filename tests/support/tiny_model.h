/*
 * tiny_model.h - small random Hugging Face models and PEFT adapters on disk, for tests.
 *
 * The same description gives the same bytes. Weights are drawn so that logits spread over a few units and every
 * part of the model matters. What cannot be written ends the process: a test has nothing to say about it.
 */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "formats/dtype.h"
#include "model/model.h"

/* Zero fields take the defaults named beside them. */
struct tiny_model {
    const char *family;       /* "llama" */
    size_t n_layers;          /* 2 */
    size_t d_model;           /* 32 */
    size_t n_heads;           /* 4 */
    size_t n_kv_heads;        /* 2; gpt2: n_heads */
    size_t d_head;            /* d_model / n_heads; written only when given (always for qwen3) */
    size_t d_ffn;             /* 48 */
    size_t n_vocab;           /* 96; 257 or more with has_tokenizer (default then 260) */
    size_t max_positions;     /* 128 */
    unsigned seed;
    enum dtype dtype;         /* DTYPE_F32 */
    int tied_head;            /* 0: the family's default; 1 tied, -1 not */
    bool attention_bias;      /* llama, qwen3 */
    bool mlp_bias;            /* llama */
    bool has_no_prefix;       /* tensor names without "model." or "transformer." */
    bool has_tokenizer;       /* a byte-level tokenizer.json: ids 0..255 are bytes, 256 is the end of text */
    const char *more_config;  /* further members of config.json: "\"sliding_window\": 8" */
    const char *without;      /* leave out the tensor of this name */
    const char *misshapen;    /* give the tensor of this name one more row */
    const char *not_finite;   /* put a NaN into the tensor of this name */
    const char *extra_tensor; /* one more tensor of this name */
};

/* A new directory under TMPDIR; the caller removes it with tiny_remove, which also frees the name. */
char *tiny_model_write(struct tiny_model spec);
void tiny_remove(char *directory);

/* Writes one and loads it; the directory is gone afterwards (mapped files live on). */
struct model *tiny_model_load(struct tiny_model spec, enum model_weights weights, const struct kernels *kernels);

struct tiny_adapter {
    const char *const *sites; /* module paths, ends with NULL; NULL: all linear sites of the body */
    size_t rank;              /* 4 */
    double alpha;             /* 8 */
    unsigned seed;
    enum dtype dtype;         /* DTYPE_F32 */
    float size;               /* of the random elements; 0: 0.1 */
    bool use_rslora, use_dora, lora_bias;
    const char *more_config;  /* further members of adapter_config.json; may repeat none */
};

/* An adapter directory for a loaded model, in PEFT's names and shapes. */
char *tiny_adapter_write(const struct model *model, struct tiny_adapter spec);

/* Deterministic random numbers in [-1, 1). */
float tiny_random(uint64_t *state);

#endif
