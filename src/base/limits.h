/*
 * limits.h - every maximum in the program that is not a flag, with its reason.
 */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

#include <stddef.h>

/* Files of a model or adapter. */
#define LIMIT_CONFIG_BYTES ((size_t)1 << 20)          /* config.json, adapter_config.json: real ones are a few KB, EVA patterns 100 KB */
#define LIMIT_TOKENIZER_BYTES ((size_t)64 << 20)      /* tokenizer.json: the largest known is 33 MB */
#define LIMIT_MODEL_HEADER_BYTES ((size_t)100 << 20)  /* safetensors: the limit of the format's own reader */
#define LIMIT_ADAPTER_HEADER_BYTES ((size_t)4 << 20)  /* 80 layers x 7 sites x 2 tensors is 150 KB */
#define LIMIT_TENSORS ((size_t)1 << 17)
#define LIMIT_ADAPTER_TENSORS ((size_t)1 << 14)
#define LIMIT_TENSOR_DIMS 8
#define LIMIT_NAME_BYTES 512                          /* a tensor's or module's name */
#define LIMIT_JSON_DEPTH 64                           /* nesting; jansson itself allows 2,048 */
/* Objects and arrays in a JSON text: the first, and one more for so many bytes each. jansson needs
   200 bytes for "{}"; the densest real text, a tokenizer's list of pairs, has 10 bytes a pair. */
#define LIMIT_JSON_CONTAINERS 4096
#define LIMIT_JSON_BYTES_PER_CONTAINER 8

/* Shapes: far above any real model, low enough that products of two fit in 63 bits. */
#define LIMIT_LAYERS 1024
#define LIMIT_HEADS 4096
#define LIMIT_WIDTH ((size_t)1 << 20)                 /* hidden, feed-forward */
#define LIMIT_VOCAB ((size_t)1 << 22)
#define LIMIT_CONTEXT ((size_t)1 << 22)
#define LIMIT_RANK 4096
#define LIMIT_ALPHA 1e6                               /* real ones are below 10,000; products with weights stay finite */
#define LIMIT_PATTERN_BYTES ((size_t)16 << 10)        /* a regular expression in adapter_config.json; real ones have 500 */

/* Requests. */
#define LIMIT_BODY_BYTES ((size_t)8 << 20)            /* a JSON body; uploads have a limit of their own */
#define LIMIT_ADAPTER_ID_BYTES 128
#define LIMIT_REQUEST_ADAPTERS 32                     /* adapters mixed in one request */
#define LIMIT_STOP_STRINGS 16
#define LIMIT_STOP_BYTES 512                          /* one stop string */
#define LIMIT_STOP_TOKENS 64
#define LIMIT_LOGIT_BIAS 1024
#define LIMIT_TOP_LOGPROBS 20
#define LIMIT_CHOICES 16                              /* n */
#define LIMIT_PROMPTS 128                             /* prompts in one completion call */

#endif
