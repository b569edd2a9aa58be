/*
 * kernels.h - the arithmetic, behind one table: one row per operation, its contract above it.
 *
 * Every implementation of a row gives the same bits, on every instruction set (but for `sums_pairs_apart`), for any blocking, token
 * count and thread count; reference.c says what that is. Three rules make it so:
 *
 *  - A product with packed weights (panels.h, pack.h) has one accumulator per output, fed in order of the input index; in tiles of bf16 it takes
 *    32 inputs at a time.
 *  - A sum along a row (dot product, norm, the sum of a softmax) is 16 interleaved partial sums: lane l takes
 *    elements l, l+16, l+32, ... in order, each by one fused multiply-add; missing elements at the end
 *    count as +0. The lanes are joined in one fixed tree: l += l+8, then l += l+4, l += l+2, l += l+1.
 *  - exp, tanh and erf are our own polynomials, the same operations in each instruction set, never libm's.
 *
 * Compiled with -ffp-contract=off; denormals are flushed (compute_thread_begin). Which results are denormal is for the processor to say
 * where rounding would make one the smallest normal number: x86 looks after rounding, AArch64 before. No row allocates. Sizes may be any
 * (no alignment of data or length is needed) unless said; outputs do not overlap inputs unless said.
 */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define KERNELS_MOST_SETS 8
#define KERNELS_LANES 16          /* partial sums, and of block_maxima */
#define KERNELS_BLOCK 1024        /* elements, see block_maxima */
#define KERNELS_PANEL 16          /* outputs of a panel of B, see expand */
#define KERNELS_EXPAND_AHEAD 4096 /* bytes of B that expand fetches before it wants them, of few tokens; the first are the caller's to fetch */

#define KERNELS_KV_BLOCK 16       /* positions of a block of keys and values, see attend */
#define KERNELS_ATTEND_STEP 64    /* positions between two looks at the maximum, see attend */

/* The first three are elements of their own, in rows or packed; q8 and q4 are packed only, see pack.h. */
enum weight_type {
    WEIGHT_F32,
    WEIGHT_F16,
    WEIGHT_BF16,
    N_ELEMENT_TYPES,
    WEIGHT_Q8 = N_ELEMENT_TYPES,
    WEIGHT_Q4,
    N_WEIGHT_TYPES
};

/* Bytes of an element of f32, f16 or bf16. */
static inline size_t weight_type_size(enum weight_type type)
{
    return type == WEIGHT_F32 ? 4 : 2;
}
const char *weight_type_name(enum weight_type type); /* "f32", "f16", "bf16", "q8", "q4" */

enum activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH, ACTIVATION_GELU_ERF, ACTIVATION_RELU, N_ACTIVATIONS };

/* What attend is asked: neighbouring tokens of a sequence, with the query heads that share one key/value head. Keys and values
   lie in blocks of KERNELS_KV_BLOCK positions, keys as (d_head, KERNELS_KV_BLOCK), values as (KERNELS_KV_BLOCK, d_head) elements;
   all of a block can be read. */
struct attend {
    float *out;            /* (n_tokens, n_heads d_head) */
    size_t out_stride;     /* from token to token */
    const float *q;        /* the same */
    size_t q_stride;
    size_t n_tokens, n_heads, d_head;
    size_t first_position; /* of the first token; token t sees the keys of positions up to first_position + t, */
    size_t window;         /* of these the last `window`; 0: all */
    float scale;
    const uint32_t *blocks;    /* block b of the sequence is number blocks[b] */
    const void *keys, *values; /* of block number 0 */
    size_t block_bytes;        /* from a block number to the next */
    float *scratch;            /* as many floats as kernels_attend_scratch says */
};

struct activations; /* pack.h */
struct activations_part;

struct kernels {
    const char *name; /* "c", "avx2", "avx512", ...: for the log and /metrics */

    /* Sums of bf16 are made as tiles make them, see multiply_packed: such a set is used where it is asked for, never by itself. */
    bool sums_pairs_apart;

    /* Up to tokens_at_once lie in one block of prepared activations: of so many weights pass once; of more tokens, up to tokens_per_block. */
    unsigned char tokens_at_once[N_WEIGHT_TYPES], tokens_per_block[N_WEIGHT_TYPES];

    /* Makes a part of x, whose tokens are `x_stride` floats apart, ready for `multiply_packed` of the type; pack.h says how it lies. bf16:
       rounded to bf16. q8, q4: per group of 32 a scale, the largest magnitude / 127, and x / scale rounded to integers. */
    void (*prepare[N_WEIGHT_TYPES])(const struct activations *to, const struct activations_part *part, const float *x, size_t x_stride);

    /* out[t * out_stride + o] = sum over k of w[o][k] * x[first + t][k], for o < n_rows, t < n_tokens. w: n_rows rows packed in panels
       (pack.h), from the beginning of one on. Per output one sum, in order of k:
       f32, f16: acc = fma(w, x, acc) for each k; bf16: for each pair of k, acc = fma(w0, x0, fma(w1, x1, acc)), missing ones +0,
       or if sums_pairs_apart for each 16 pairs acc += a0 + a1, where a0 = fma(w0, x0, a0) and a1 = fma(w1, x1, a1), from 0 on, pair by pair;
       q8, q4: for each group, acc = fma(p, x_scale, acc), where p is w_scale times the sum of the 32 products of integers, made of the sum of
       them and M = 3 * 2^22, which needs no conversion: p = fma(M + sum, w_scale, -M * w_scale), exact before it is rounded. */
    void (*multiply_packed[N_WEIGHT_TYPES])(float *out, size_t out_stride, const void *w, size_t n_rows, const struct activations *x, size_t first,
                                            size_t n_tokens);

    /* The A half of a low-rank pair: out[t * out_stride + o] = sum over k of a[o * n_in + k] * x[t * x_stride + k], for o < n_rows,
       t < n_tokens; a is row-major (n_rows, n_in), elements of the row's type widened exactly to f32. A pair's matrix is too short to
       hide the way to memory: meanwhile n_rows rows of the same length are fetched from `next`, the matrix that will be wanted then
       (any address will do). */
    void (*shrink[N_ELEMENT_TYPES])(float *out, size_t out_stride, const void *a, size_t n_rows, size_t n_in,
                                   const float *x, size_t x_stride, size_t n_tokens, const void *next);

    /* The B half of a low-rank pair: for each t and o < n_out,
       acc = 0; acc = fma(B[o][j], u[t * u_stride + j], acc) for j = 0 .. rank-1 in order;
       out[t * out_stride + o] = fma(scale, acc, out[...]).
       b is B in panels of KERNELS_PANEL outputs, each (rank, KERNELS_PANEL), end to end; of the last one only the columns that
       exist are read, so a plain vector will do where the rank is 1. */
    void (*expand[N_ELEMENT_TYPES])(float *out, size_t out_stride, const void *b, size_t rank, const float *u,
                                   size_t u_stride, float scale, size_t n_out, size_t n_tokens);

    /* W' = gain * (W + scale * B A), both packed in panels of the row's type (pack.h): acc = 0; acc = fma(B[o][j], A[j][k], acc) for j in order;
       W'[o][k] = fma(scale, acc, W[o][k]) * gain[o], rounded as `narrow` does. b: B in panels of KERNELS_PANEL outputs as expand has it, widened
       and whole; a: A transposed, (n_in, rank), widened; gain: NULL: 1. */
    void (*merge[N_ELEMENT_TYPES])(void *out, const void *w, size_t n_rows, size_t n_in, const float *b, const float *a, size_t rank,
                                  float scale, const float *gain);

    /* out[i] = w[i] widened. */
    void (*widen[N_ELEMENT_TYPES])(float *out, const void *w, size_t n);
    /* out[i] = x[i] rounded to the nearest element of the row's type, ties to even, as IEEE 754 says: beyond the largest it is
       infinity, subnormal results are kept, NaN stays NaN (quiet, with the leading bits of its payload). The
       bits decide, never the flags of the thread: the subnormals of f32 are half-way to nothing in f16, and in bf16
       they are rounded like any other, flushed only by who calculates with them. */
    void (*narrow[N_ELEMENT_TYPES])(void *out, const float *x, size_t n);

    void (*add)(float *out, const float *a, size_t n);      /* out[i] += a[i] */
    void (*multiply)(float *out, const float *a, size_t n); /* out[i] *= a[i] */
    void (*activate[N_ACTIVATIONS])(float *x, size_t n);    /* in place */

    /* out[i] = x[i] * (1 / sqrt(sum(x^2) / n + eps)) * weight[i]; out may be x. */
    void (*rms_norm)(float *out, const float *x, const float *weight, size_t n, float eps);
    /* out[i] = (x[i] - mean) / sqrt(var + eps) * weight[i] + bias[i], biased variance in two passes; bias may be
       NULL; out may be x. */
    void (*layer_norm)(float *out, const float *x, const float *weight, const float *bias, size_t n, float eps);

    /* Rotates pairs (i, i + n/2), i < n/2: x_i cos - x_{i+n/2} sin, x_{i+n/2} cos + x_i sin, each as one product and
       one fma. In place; cos and sin have n/2 entries. */
    void (*rope)(float *x, const float *cosine, const float *sine, size_t n);

    /* Attention with keys and values of the row's type, widened exactly to f32, in one pass over them. For each token and head,
       over the positions j that the token sees, in order of j:
       score_j = sum of k_j[i] (scale * q[i]) in order of i, one fused multiply-add each;
       for each run of KERNELS_ATTEND_STEP positions that begins at a multiple of it and of which any is seen:
           m' = the larger of m and the run's scores (the maximum of each lane j % 16 first, then the tree), m = -infinity before;
           sums and mixture are multiplied by e^(m - m'); m = m';
           p_j = e^(score_j - m); sum of lane j % 16 += p_j; mixture[i] = fma(p_j, v_j[i], mixture[i]);
       out[i] = mixture[i] * (1 / the joined sums). Which other tokens are in the call shows nowhere. Positions that a token does not
       see have no part in it, whatever is there. */
    void (*attend[N_ELEMENT_TYPES])(const struct attend *work);

    /* The largest element's index (the first of equals). n >= 1, no NaN. */
    size_t (*arg_max)(const float *x, size_t n);
    /* m + log(sum(exp(x - m))), m the maximum: the softmax's normaliser. The logarithm is taken in double. */
    float (*log_sum_exp)(const float *x, size_t n);

    /* For each KERNELS_BLOCK elements KERNELS_LANES maxima: of lane l those of x[l], x[l + KERNELS_LANES], ...; -infinity where a lane has no
       element, and never -0. False: some element is NaN or infinite; a NaN may be missing among the maxima then. */
    bool (*block_maxima)(float *maxima, const float *x, size_t n);
    /* The elements that are at least `least`, in their order, and `first` + their indices; returns how many. Room for n; no NaN. */
    size_t (*select_at_least)(int32_t *ids, float *values, const float *x, size_t n, float least, size_t first);
    /* weights[i] = e^((x[i] - best) * inverse), 0 below e^-87 (see v_weight), which may be in place; no x[i] is larger than `best`.
       sums[j] += weights[j], weights[j + 8], ... in order, but the last n % 8 are all added to sums[0]. */
    void (*weigh)(float *weights, double sums[8], const float *x, size_t n, float best, float inverse);
};

/* A row is a token's head: the scaled query, the mixture, the scores of a step, the sums and the maximum of each; keys or values of
   a step widened; room to align. */
static inline size_t kernels_attend_scratch(size_t n_rows, size_t d_head)
{
    size_t lanes = 16, width = (d_head + lanes - 1) / lanes * lanes;
    return n_rows * (2 * width + KERNELS_ATTEND_STEP + lanes + 1) + KERNELS_ATTEND_STEP * d_head + lanes;
}

/* The best table for `features` (cpu_detect_features), or the one that `forced` names: "c", "avx2", "avxvnni", "avx512",
   "avx512vnni", "avx512amx", "avx512amxbf16", "avx512bf16", "neon", "neondot"; NULL or "": the best. NULL with ERROR_BAD_INPUT: no such set, or this CPU lacks it. */
const struct kernels *kernels_select(unsigned features, const char *forced, struct error *err);

/* All tables that `features` can run, the reference first; returns how many. For tests and benchmarks. */
size_t kernels_all(unsigned features, const struct kernels *out[KERNELS_MOST_SETS]);

/* What `set` has to agree with to the bit: the reference, or one that sums pairs apart too. */
const struct kernels *kernels_reference_of(const struct kernels *set);

#endif
