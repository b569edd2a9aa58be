/*
 * check_kernels.c - every row of every instruction set that this CPU has, against reference.c, bit for bit;
 * and reference.c against sums that are exact, or done in double.
 *
 * `--quick` checks an eighth of the cases. `--bench [SET [PART]]` measures instead: one set, rows whose name has PART in it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cpu.h"
#include "base/pool.h"
#include "kernels/kernels.h"
#include "kernels/scalar.h"
#include "kit.h"

enum { LANES = 16, MOST_POSITIONS = 400 };

/* ---- each row against the reference ---- */

static size_t random_length(void)
{
    return random_between(1, 10) < 10 ? random_between(1, 70) : random_between(71, 1500);
}

static void compare_shrink(const struct kernels *reference, const struct kernels *set, size_t n_rows,
                           size_t n_in, size_t n_tokens)
{
    enum values kind = random_between(0, 1) ? PLAIN : NASTY;
    char shape[128];

    if (is_left_out())
        return;
    for (int type = 0; type < N_ELEMENT_TYPES; type++) {
        size_t x_stride = n_in + random_between(0, 5), out_stride = n_rows + random_between(0, 5);
        const void *w = edge_weights(0, n_rows * n_in, (enum weight_type)type, kind);
        const float *x = edge_floats(1, (n_tokens - 1) * x_stride + n_in, kind);
        struct outputs out = outputs_of((n_tokens - 1) * out_stride + n_rows, PLAIN);
        snprintf(shape, sizeof shape, "%s %zu x %zu, %zu tokens", weight_type_name((enum weight_type)type),
                 n_rows, n_in, n_tokens);
        reference->shrink[type](out.reference, out_stride, w, n_rows, n_in, x, x_stride, n_tokens, NULL);
        set->shrink[type](out.set, out_stride, w, n_rows, n_in, x, x_stride, n_tokens, random_between(0, 1) ? w : NULL);
        compare(&out, set, "shrink", shape);
    }
}

static void check_shrink(const struct kernels *reference, const struct kernels *set)
{
    for (size_t n = 1; n <= 70; n++) {
        compare_shrink(reference, set, random_between(1, 9), n, random_between(1, 9));
        compare_shrink(reference, set, n, random_between(1, 70), random_between(1, 9));
        compare_shrink(reference, set, random_between(1, 70), random_between(1, 40), random_between(1, 20));
    }
    for (size_t n = 0; n < 6; n++) {
        compare_shrink(reference, set, random_between(1, 70), random_between(1000, 2100),
                       random_between(1, 12));
        compare_shrink(reference, set, random_between(30, 40), random_between(8000, 9000),
                       random_between(1, 9));
    }
    for (size_t n_tokens = 1; n_tokens <= 40; n_tokens++) /* about where few tokens end */
        compare_shrink(reference, set, random_between(1, 20), random_between(1, 100), n_tokens);
    compare_shrink(reference, set, 11, 40003, 7); /* a row that fills a block alone */
}

static void check_shrink_tells_tokens_apart(const struct kernels *set)
{
    enum { ROWS = 37, IN = 75, TOKENS = 11 };
    static float w[ROWS * IN], x[TOKENS * IN], together[TOKENS * ROWS], alone[ROWS];

    for (size_t i = 0; i < ROWS * IN; i++)
        w[i] = random_float();
    for (size_t i = 0; i < TOKENS * IN; i++)
        x[i] = random_float();
    set->shrink[WEIGHT_F32](together, ROWS, w, ROWS, IN, x, IN, TOKENS, NULL);
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t o = 0; o < ROWS; o++) /* row by row, as another share of the work would */
            set->shrink[WEIGHT_F32](alone + o, ROWS, w + o * IN, 1, IN, x + t * IN, IN, 1, NULL);
        check(memcmp(alone, together + t * ROWS, sizeof alone) == 0, set->name, "shrink",
              "a token's result depends on its company");
    }
}

static void check_expand(const struct kernels *reference, const struct kernels *set)
{
    char shape[128];

    for (size_t n_out = 1; n_out <= 150; n_out++)
        for (int type = 0; type < N_ELEMENT_TYPES; type++) {
            if (is_left_out())
                continue;
            enum values kind = random_between(0, 1) ? PLAIN : NASTY;
            /* Also so many tokens that B is widened, and too high a rank for that. */
            bool is_many = random_between(0, 2) == 0;
            size_t rank = random_between(0, is_many ? 70 : 20);
            size_t n_tokens = is_many ? random_between(14, 40) : random_between(1, 11);
            size_t u_stride = rank + random_between(0, 3), out_stride = n_out + random_between(0, 5);
            /* Up to the last column that exists of the last panel's last row: what lies behind is not to be read. */
            size_t last = (n_out - 1) % KERNELS_PANEL + 1;
            size_t n_b = rank ? (n_out - last) * rank + (rank - 1) * KERNELS_PANEL + last : 0;
            float scale = random_between(0, 3) ? random_float() : 0.0f;
            const void *b = edge_weights(0, n_b, (enum weight_type)type, kind);
            const float *u = edge_floats(1, (n_tokens - 1) * u_stride + rank, kind);
            struct outputs out = outputs_of((n_tokens - 1) * out_stride + n_out, kind);
            reference->expand[type](out.reference, out_stride, b, rank, u, u_stride, scale, n_out, n_tokens);
            set->expand[type](out.set, out_stride, b, rank, u, u_stride, scale, n_out, n_tokens);
            snprintf(shape, sizeof shape, "%s rank %zu to %zu, %zu tokens",
                     weight_type_name((enum weight_type)type), rank, n_out, n_tokens);
            compare(&out, set, "expand", shape);
        }
}

static void check_widen(const struct kernels *reference, const struct kernels *set)
{
    for (size_t n = 1; n <= 70; n++)
        for (int type = 0; type < N_ELEMENT_TYPES; type++) {
            if (is_left_out())
                continue;
            const void *w = edge_weights(0, n, (enum weight_type)type, NASTY);
            struct outputs out = outputs_of(n, PLAIN);
            reference->widen[type](out.reference, w, n);
            set->widen[type](out.set, w, n);
            compare(&out, set, "widen", weight_type_name((enum weight_type)type));
        }
}

static void check_pairwise(const struct kernels *reference, const struct kernels *set)
{
    for (size_t i = 0; i < 200; i++) {
        if (is_left_out())
            continue;
        enum values kind = (enum values)random_between(0, N_VALUES - 1);
        size_t n = i < 70 ? i + 1 : random_length();
        const float *a = edge_floats(0, n, kind);
        struct outputs out = outputs_of(n, kind);
        reference->add(out.reference, a, n);
        set->add(out.set, a, n);
        compare(&out, set, "add", "");
        out = outputs_of(n, kind);
        reference->multiply(out.reference, a, n);
        set->multiply(out.set, a, n);
        compare(&out, set, "multiply", "");
    }
}

static void check_activations(const struct kernels *reference, const struct kernels *set)
{
    static const float special[] = {INFINITY, -INFINITY, NAN,  88.7228f, -103.9f,
                                    0.625f,   -0.625f,   4.0f, -0.0f};
    static const char *const names[N_ACTIVATIONS] = {"silu", "gelu_tanh", "gelu_erf", "relu"};

    for (int a = 0; a < N_ACTIVATIONS; a++)
        for (size_t i = 0; i < 200; i++) {
            if (is_left_out())
                continue;
            size_t n = i < 70 ? i + 1 : random_length();
            struct outputs out = outputs_of(n, (enum values)random_between(0, N_VALUES - 1));
            size_t at = random_between(0, n - 1);
            out.reference[at] = out.set[at] =
                special[random_between(0, sizeof special / sizeof *special - 1)];
            reference->activate[a](out.reference, n);
            set->activate[a](out.set, n);
            compare(&out, set, names[a], "");
        }
}

static void check_norms(const struct kernels *reference, const struct kernels *set)
{
    for (size_t i = 0; i < 300; i++) {
        if (is_left_out())
            continue;
        enum values kind = (enum values)random_between(0, N_VALUES - 1);
        size_t n = i < 70 ? i + 1 : random_length();
        const float *x = edge_floats(0, n, kind), *weight = edge_floats(1, n, PLAIN),
                    *bias = edge_floats(2, n, PLAIN);
        struct outputs out = outputs_of(n, PLAIN);

        reference->rms_norm(out.reference, x, weight, n, 1e-5f);
        set->rms_norm(out.set, x, weight, n, 1e-5f);
        compare(&out, set, "rms_norm", "");
        out = outputs_of(n, kind); /* in place */
        reference->rms_norm(out.reference, out.reference, weight, n, 1e-6f);
        set->rms_norm(out.set, out.set, weight, n, 1e-6f);
        compare(&out, set, "rms_norm", "in place");
        out = outputs_of(n, kind);
        reference->layer_norm(out.reference, x, weight, bias, n, 1e-5f);
        set->layer_norm(out.set, x, weight, bias, n, 1e-5f);
        compare(&out, set, "layer_norm", "");
        out = outputs_of(n, kind);
        reference->layer_norm(out.reference, out.reference, weight, NULL, n, 1e-5f);
        set->layer_norm(out.set, out.set, weight, NULL, n, 1e-5f);
        compare(&out, set, "layer_norm", "in place, without bias");
    }
}

static void check_rope(const struct kernels *reference, const struct kernels *set)
{
    for (size_t half = 0; half <= 140; half++) {
        if (is_left_out())
            continue;
        enum values kind = random_between(0, 1) ? PLAIN : NASTY;
        const float *cosine = edge_floats(0, half, kind), *sine = edge_floats(1, half, kind);
        struct outputs out = outputs_of(2 * half, kind);
        reference->rope(out.reference, cosine, sine, 2 * half);
        set->rope(out.set, cosine, sine, 2 * half);
        compare(&out, set, "rope", "");
    }
}

/* A sequence's keys and values, in blocks that lie in any order, each at the end of some room. */
struct cached {
    enum weight_type type;
    size_t d_head, n_blocks, block_bytes;
    char *keys, *values;
    uint32_t numbers[MOST_POSITIONS / KERNELS_KV_BLOCK + 1];
};

static struct cached cached_of(enum weight_type type, size_t d_head, size_t n_positions, enum values kind)
{
    struct cached cached = {.type = type,
                            .d_head = d_head,
                            .n_blocks = (n_positions + KERNELS_KV_BLOCK - 1) / KERNELS_KV_BLOCK,
                            .block_bytes = KERNELS_KV_BLOCK * d_head * weight_type_size(type)};
    cached.keys = edge_weights(0, cached.n_blocks * KERNELS_KV_BLOCK * d_head, type, kind);
    cached.values = edge_weights(1, cached.n_blocks * KERNELS_KV_BLOCK * d_head, type, kind == NASTY ? NASTY : PLAIN);
    for (size_t b = 0; b < cached.n_blocks; b++)
        cached.numbers[b] = (uint32_t)b;
    for (size_t b = cached.n_blocks; b-- > 1;) {
        size_t other = random_between(0, b);
        uint32_t number = cached.numbers[b];
        cached.numbers[b] = cached.numbers[other], cached.numbers[other] = number;
    }
    return cached;
}

/* Element i of position j. */
static char *key_at(const struct cached *cached, size_t j, size_t i)
{
    return cached->keys + cached->numbers[j / KERNELS_KV_BLOCK] * cached->block_bytes +
           (i * KERNELS_KV_BLOCK + j % KERNELS_KV_BLOCK) * weight_type_size(cached->type);
}
static char *value_at(const struct cached *cached, size_t j, size_t i)
{
    return cached->values + cached->numbers[j / KERNELS_KV_BLOCK] * cached->block_bytes +
           (j % KERNELS_KV_BLOCK * cached->d_head + i) * weight_type_size(cached->type);
}

/* What nobody sees may be anything. */
static void spoil(const struct cached *cached, size_t first, size_t end)
{
    for (size_t j = 0; j < cached->n_blocks * KERNELS_KV_BLOCK; j++)
        for (size_t i = 0; i < cached->d_head && (j < first || j >= end); i++) {
            memset(key_at(cached, j, i), 0xff, weight_type_size(cached->type));
            memset(value_at(cached, j, i), 0xff, weight_type_size(cached->type));
        }
}

/* A random call, but for outputs: first_position and n_tokens are given. */
static struct attend attend_of(const struct cached *cached, size_t first_position, size_t n_tokens, enum values kind)
{
    size_t n_heads = random_between(1, random_between(0, 3) ? 9 : 16), width = n_heads * cached->d_head;
    struct attend work = {.out_stride = width + random_between(0, 5), .q_stride = width + random_between(0, 5),
                          .n_tokens = n_tokens, .n_heads = n_heads, .d_head = cached->d_head, .first_position = first_position,
                          .window = random_between(0, 3) ? 0 : random_between(1, first_position + n_tokens + 1),
                          .scale = 0.125f, .blocks = cached->numbers, .keys = cached->keys, .values = cached->values,
                          .block_bytes = cached->block_bytes};
    size_t n_scratch = kernels_attend_scratch(n_tokens * n_heads, cached->d_head), end = first_position + 1;
    work.q = edge_floats(2, (n_tokens - 1) * work.q_stride + width, kind);
    work.scratch = edge_floats(3, n_scratch, WIDE);
    spoil(cached, work.window && end > work.window ? end - work.window : 0, first_position + n_tokens);
    return work;
}

static size_t attend_outputs(const struct attend *work)
{
    return (work->n_tokens - 1) * work->out_stride + work->n_heads * work->d_head;
}

/* What keys, queries and values are like goes together so that scores stay finite, mostly. */
static void compare_attend(const struct kernels *reference, const struct kernels *set, enum weight_type type, size_t d_head,
                           size_t first_position, size_t n_tokens)
{
    enum values kind = (enum values)random_between(0, N_VALUES - 1);
    struct cached cached = cached_of(type, d_head, first_position + n_tokens, kind);
    struct attend work = attend_of(&cached, first_position, n_tokens, kind == NASTY ? PLAIN : kind);
    struct outputs out = outputs_of(attend_outputs(&work), PLAIN);
    char shape[128];

    work.out = out.reference;
    reference->attend[type](&work);
    work.out = out.set;
    set->attend[type](&work);
    snprintf(shape, sizeof shape, "%s, %zu tokens from %zu on, window %zu, %zu heads of %zu", weight_type_name(type), n_tokens,
             first_position, work.window, work.n_heads, d_head);
    compare(&out, set, "attend", shape);
}

static void check_attend(const struct kernels *reference, const struct kernels *set)
{
    for (int type = 0; type < N_ELEMENT_TYPES; type++)
        for (size_t i = 0; i < 400; i++)
            if (!is_left_out())
                compare_attend(reference, set, (enum weight_type)type, i < 256 ? i + 1 : random_between(1, 160),
                               random_between(0, i % 10 ? 100 : MOST_POSITIONS - 20), random_between(0, 2) ? random_between(1, 20) : 1);
}

/* However a prompt is cut, each token comes out the same. */
static void check_attend_tells_tokens_apart(const struct kernels *set)
{
    static float together[MAX_OUT], apart[MAX_OUT];

    for (int type = 0; type < N_ELEMENT_TYPES; type++)
        for (size_t i = 0; i < 40; i++) {
            if (is_left_out())
                continue;
            size_t n_tokens = random_between(2, 20), n;
            struct cached cached = cached_of((enum weight_type)type, random_between(1, 130), MOST_POSITIONS, PLAIN);
            struct attend work = attend_of(&cached, random_between(0, MOST_POSITIONS - 20), n_tokens, PLAIN), part = work;
            work.out = together;
            set->attend[type](&work);
            for (size_t t = 0; t < n_tokens; t += n) {
                n = random_between(1, n_tokens - t);
                part.n_tokens = n, part.first_position = work.first_position + t;
                part.q = work.q + t * work.q_stride, part.out = apart + t * work.out_stride;
                set->attend[type](&part);
            }
            for (size_t t = 0; t < n_tokens; t++)
                check(memcmp(together + t * work.out_stride, apart + t * work.out_stride,
                             work.n_heads * work.d_head * sizeof *apart) == 0, set->name, "attend",
                      "a token's result depends on its company");
        }
}

/* Floats of all kinds: any bits, and those next to where a rounding changes. */
static float any_float(void)
{
    uint32_t bits = (uint32_t)(random_bits() >> 32);
    switch (random_between(0, 5)) {
    case 0: /* about what f16 can hold, subnormals too */
        return float_of_bits((bits & 0x80ffffffu) | (uint32_t)random_between(100, 144) << 23);
    case 1: /* near a tie of bf16 */
        return float_of_bits((bits & 0xffff0000u) | (0x7ffeu + (bits & 3)));
    case 2: /* near a tie of f16 */
        return float_of_bits((bits & 0xffffe000u) | (0x0ffeu + (bits & 3)));
    case 3: /* a NaN or infinity */
        return float_of_bits(bits | 0x7f800000u);
    case 4:
        return random_value(NASTY);
    default:
        return float_of_bits(bits);
    }
}

static void check_narrow(const struct kernels *reference, const struct kernels *set)
{
    static unsigned char narrowed[2][MOST_POSITIONS * sizeof(float) + 2 * GUARD_BYTES];

    for (size_t i = 0; i < 3000; i++)
        for (int type = 0; type < N_ELEMENT_TYPES; type++) {
            if (is_left_out())
                continue;
            size_t n = i < 70 ? i + 1 : random_between(1, MOST_POSITIONS), at = GUARD_BYTES + 2 * (i % 7);
            float *x = edge(0, n * sizeof *x);
            for (size_t k = 0; k < n; k++)
                x[k] = any_float();
            memset(narrowed, 0xa5, sizeof narrowed);
            reference->narrow[type](narrowed[0] + at, x, n);
            set->narrow[type](narrowed[1] + at, x, n);
            check(memcmp(narrowed[0], narrowed[1], sizeof *narrowed) == 0, set->name, "narrow",
                  weight_type_name((enum weight_type)type));
        }
}

static void check_vocabulary(const struct kernels *reference, const struct kernels *set)
{
    for (size_t i = 0; i < 400; i++) {
        if (is_left_out())
            continue;
        enum values kind = (enum values)random_between(0, N_VALUES - 1);
        size_t n = i < 200 ? i + 1 : random_length();
        float *x = edge_floats(0, n, kind);
        if (random_between(0, 4) == 0)
            x[random_between(0, n - 1)] = -INFINITY;
        check(reference->arg_max(x, n) == set->arg_max(x, n), set->name, "arg_max", "another index");
        check(same_float(reference->log_sum_exp(x, n), set->log_sum_exp(x, n)), set->name, "log_sum_exp",
              "another value");
    }
}

enum { MOST_LOGITS = 1 << 18 };

static void check_block_maxima(const struct kernels *reference, const struct kernels *set, float *x, size_t n)
{
    static float maxima[2][MOST_LOGITS / KERNELS_BLOCK * KERNELS_LANES];
    static const float wrong[] = {NAN, INFINITY, -INFINITY};
    memset(maxima, 0xa5, sizeof maxima);
    bool is_finite = reference->block_maxima(maxima[0], x, n);
    check(is_finite == set->block_maxima(maxima[1], x, n), set->name, "block_maxima", "another answer");
    check(memcmp(maxima[0], maxima[1], sizeof *maxima) == 0, set->name, "block_maxima", "other maxima");
    float *somewhere = &x[random_between(0, n - 1)], before = *somewhere;
    *somewhere = wrong[random_between(0, 2)];
    check(!set->block_maxima(maxima[1], x, n), set->name, "block_maxima", "takes what is not finite");
    *somewhere = before;
}

static void check_select(const struct kernels *reference, const struct kernels *set, const float *x, size_t n, float least)
{
    static int32_t ids[2][MOST_LOGITS];
    static float values[2][MOST_LOGITS];
    size_t first = random_between(0, 1000), n_kept = reference->select_at_least(ids[0], values[0], x, n, least, first);
    size_t n_other = set->select_at_least(ids[1], values[1], x, n, least, first);
    check(n_kept == n_other && memcmp(ids[0], ids[1], n_kept * sizeof **ids) == 0 &&
              memcmp(values[0], values[1], n_kept * sizeof **values) == 0,
          set->name, "select_at_least", "others");
}

static void check_weigh(const struct kernels *reference, const struct kernels *set, const float *x, size_t n, float best)
{
    static float weights[2][MOST_LOGITS];
    double sums[2][8] = {{1, 2, 3, 4, 5, 6, 7, 1e-9}};
    float inverse = random_between(0, 3) ? 1.0f + random_float() : 1e6f;
    memcpy(sums[1], sums[0], sizeof *sums);
    memcpy(weights[1], x, n * sizeof *x);
    reference->weigh(weights[0], sums[0], x, n, best, inverse);
    set->weigh(weights[1], sums[1], weights[1], n, best, inverse);
    check(memcmp(weights[0], weights[1], n * sizeof **weights) == 0, set->name, "weigh", "other weights");
    check(memcmp(sums[0], sums[1], sizeof *sums) == 0, set->name, "weigh", "other sums");
}

static void check_choice(const struct kernels *reference, const struct kernels *set)
{
    for (size_t i = 0; i < 400; i++) {
        if (is_left_out())
            continue;
        enum values kind = (enum values)random_between(0, N_VALUES - 1);
        size_t n = i < 200 ? i + 1 : i < 380 ? random_between(1, 3 * KERNELS_BLOCK) : random_between(1, MOST_LOGITS);
        float *x = edge_floats(0, n, kind), best = x[reference->arg_max(x, n)];
        check_block_maxima(reference, set, x, n);
        check_select(reference, set, x, n, x[random_between(0, n - 1)]);
        check_select(reference, set, x, n, best);
        check_select(reference, set, x, n, -INFINITY);
        check_weigh(reference, set, x, n, best);
        x[random_between(0, n - 1)] = -INFINITY; /* what is banned */
        check_weigh(reference, set, x, n, best);
    }
}

static void check_set(const struct kernels *reference, const struct kernels *set)
{
    check_choice(reference, set);
    check_shrink(reference, set);
    check_expand(reference, set);
    check_widen(reference, set);
    check_pairwise(reference, set);
    check_activations(reference, set);
    check_norms(reference, set);
    check_rope(reference, set);
    check_attend(reference, set);
    check_narrow(reference, set);
    check_vocabulary(reference, set);
}

/* ---- known values, for the reference as for the others ---- */

static bool near(double value, double wanted, double tolerance)
{
    return fabs(value - wanted) <= tolerance * (1 + fabs(wanted));
}

static void known_products(const struct kernels *set)
{
    enum { ROWS = 13, IN = 53, TOKENS = 6, RANK = 5 };
    float w[ROWS * IN], x[TOKENS * IN], out[TOKENS * ROWS], u[TOKENS * RANK];

    for (size_t i = 0; i < ROWS * IN; i++)
        w[i] = (float)random_between(0, 16) - 8;
    for (size_t i = 0; i < TOKENS * IN; i++)
        x[i] = (float)random_between(0, 16) - 8;
    for (size_t i = 0; i < TOKENS * RANK; i++)
        u[i] = (float)random_between(0, 16) - 8;
    set->shrink[WEIGHT_F32](out, ROWS, w, ROWS, IN, x, IN, TOKENS, NULL);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t o = 0; o < ROWS; o++) {
            double sum = 0;
            for (size_t k = 0; k < IN; k++)
                sum += (double)w[o * IN + k] * (double)x[t * IN + k];
            check((double)out[t * ROWS + o] == sum, set->name, "shrink", "integers do not add up");
        }
    set->expand[WEIGHT_F32](out, ROWS, w, RANK, u, RANK, 0.5f, ROWS, TOKENS);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t o = 0; o < ROWS; o++) {
            double sum = 0, low = 0;
            for (size_t k = 0; k < IN; k++)
                sum += (double)w[o * IN + k] * (double)x[t * IN + k];
            for (size_t j = 0; j < RANK; j++)
                low += (double)w[j * KERNELS_PANEL + o] * (double)u[t * RANK + j];
            check((double)out[t * ROWS + o] == sum + 0.5 * low, set->name, "expand",
                  "integers do not add up");
        }
}

static double half_value(unsigned half)
{
    int exponent = (int)(half >> 10 & 31);
    double fraction = half & 1023, value;
    if (exponent == 31)
        value = fraction > 0 ? (double)NAN : (double)INFINITY;
    else
        value = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half & 0x8000 ? -value : value;
}

static void known_halves(const struct kernels *set)
{
    static uint16_t halves[65536];
    static float wide[65536];

    for (unsigned i = 0; i < 65536; i++)
        halves[i] = (uint16_t)i;
    set->widen[WEIGHT_F16](wide, halves, 65536);
    for (unsigned i = 0; i < 65536; i++)
        check(same_float(wide[i], (float)half_value(i)), set->name, "widen", "f16 is not exact");
    set->widen[WEIGHT_BF16](wide, halves, 65536);
    for (unsigned i = 0; i < 65536; i++)
        check(bits_of_float(wide[i]) == i << 16, set->name, "widen", "bf16 is not exact");
}

static uint16_t narrow_one(const struct kernels *set, enum weight_type type, uint32_t bits)
{
    float x = float_of_bits(bits);
    uint16_t out[LANES];
    set->narrow[type](out, &x, 1);
    return out[0];
}

/* The magnitude of an element as bits of a float, and half-way on to its neighbour; after the largest comes what
   would come if there were another one. In bits, as subnormals of bf16 may be flushed here. */
static uint32_t widened(enum weight_type type, unsigned bits)
{
    return type == WEIGHT_F16 ? bits_of_float((float)half_value(bits)) : bits << 16;
}
static uint32_t half_way_on(enum weight_type type, unsigned bits)
{
    if (type == WEIGHT_BF16)
        return bits << 16 | 0x8000;
    return bits < 0x400 ? bits_of_float((float)ldexp(2 * bits + 1, -25)) : widened(type, bits) + 0x1000;
}

/* Every element comes back; half-way to its neighbour the even one is taken, a little off half-way the nearer one. */
static void known_roundings(const struct kernels *set, enum weight_type type, unsigned infinity)
{
    const char *name = weight_type_name(type);
    for (unsigned bits = 0; bits <= infinity; bits++)
        for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
            if (bits < infinity && is_left_out())
                continue;
            uint32_t minus = sign << 16, tie = half_way_on(type, bits) | minus;
            check(narrow_one(set, type, widened(type, bits) | minus) == (bits | sign), set->name, "narrow", name);
            if (bits == infinity)
                continue;
            check(narrow_one(set, type, tie) == (bits + (bits & 1) + sign), set->name, "narrow", name);
            check(narrow_one(set, type, tie - 1) == (bits | sign), set->name, "narrow", name);
            check(narrow_one(set, type, tie + 1) == (bits + 1 + sign), set->name, "narrow", name);
        }
    for (uint32_t nan = 0x7f800001; nan < 0x80000000; nan += 997)
        for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
            unsigned out = narrow_one(set, type, nan | sign << 16);
            check((out & 0x8000) == sign && (out & 0x7fff) > infinity, set->name, "narrow", "a NaN vanishes");
        }
    check(narrow_one(set, type, 0x7f7fffff) == infinity, set->name, "narrow", "no overflow");
}

static void known_activations(const struct kernels *set)
{
    for (size_t i = 0; i < 4000; i++) {
        float at = random_value(i % 2 ? PLAIN : WIDE) * (i % 4 < 2 ? 1.0f : 0.1f);
        float y[N_ACTIVATIONS][LANES]; /* room for a set that stores too much, so that this ends */
        double x = at;
        double wanted[N_ACTIVATIONS] = {x / (1 + exp(-x)),
                                        x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))),
                                        x / 2 * (1 + erf(x / sqrt(2))), x > 0 ? x : 0};
        for (size_t a = 0; a < N_ACTIVATIONS; a++) {
            y[a][0] = at;
            set->activate[a](y[a], 1);
            check(near(y[a][0], wanted[a], 1e-6), set->name, "activate", "far from libm");
        }
    }
}

static void known_norms(const struct kernels *set)
{
    enum { N = 101 };
    float x[N], weight[N], bias[N], rms[N], layer[N];
    double squares = 0, sum = 0, variance = 0;

    for (size_t i = 0; i < N; i++) {
        x[i] = random_float() + 0.5f, weight[i] = random_float(), bias[i] = random_float();
        squares += (double)x[i] * (double)x[i], sum += (double)x[i];
    }
    for (size_t i = 0; i < N; i++)
        variance += pow((double)x[i] - sum / N, 2);
    set->rms_norm(rms, x, weight, N, 1e-5f);
    set->layer_norm(layer, x, weight, bias, N, 1e-5f);
    for (size_t i = 0; i < N; i++) {
        double w = weight[i];
        check(near(rms[i], (double)x[i] / sqrt(squares / N + 1e-5) * w, 1e-6), set->name, "rms_norm",
              "far from double");
        check(
            near(layer[i], ((double)x[i] - sum / N) / sqrt(variance / N + 1e-5) * w + (double)bias[i], 1e-6),
            set->name, "layer_norm", "far from double");
    }
}

static double cached_value(const struct kernels *set, enum weight_type type, const char *at)
{
    float value;
    set->widen[type](&value, at, 1);
    return (double)value;
}

/* Plain attention in double: all scores, their exponentials, the mixture. An error in a score is one in its weight. */
static void known_row(const struct kernels *set, const struct cached *cached, const struct attend *work, size_t token, size_t head)
{
    static double p[MOST_POSITIONS];
    size_t end = work->first_position + token + 1, first = work->window && end > work->window ? end - work->window : 0;
    const float *q = work->q + token * work->q_stride + head * work->d_head;
    const float *out = work->out + token * work->out_stride + head * work->d_head;
    double sum = 0, largest = 0;

    for (size_t j = first; j < end; j++) {
        double score = 0, magnitude = 0;
        for (size_t i = 0; i < work->d_head; i++) {
            double product = (double)work->scale * (double)q[i] * cached_value(set, cached->type, key_at(cached, j, i));
            score += product, magnitude += fabs(product);
        }
        sum += p[j] = exp(score);
        largest = fmax(largest, magnitude);
    }
    for (size_t i = 0; i < work->d_head; i++) {
        double mixed = 0, magnitude = 0;
        for (size_t j = first; j < end; j++) {
            double product = p[j] / sum * cached_value(set, cached->type, value_at(cached, j, i));
            mixed += product, magnitude += fabs(product);
        }
        check(fabs((double)out[i] - mixed) <= 0x1p-23 * (16 + 4 * largest) * magnitude, set->name, "attend", "far from double");
    }
}

static void known_attention(const struct kernels *set)
{
    static float out[MAX_OUT];

    for (size_t i = 0; i < 30; i++) {
        size_t n_tokens = random_between(1, 9), first_position = random_between(0, MOST_POSITIONS - n_tokens);
        enum weight_type type = (enum weight_type)(i % N_ELEMENT_TYPES);
        struct cached cached = cached_of(type, random_between(1, 130), first_position + n_tokens, PLAIN);
        struct attend work = attend_of(&cached, first_position, n_tokens, i % 2 ? PLAIN : EQUALS);
        work.out = out;
        set->attend[type](&work);
        for (size_t t = 0; t < n_tokens; t++)
            for (size_t h = 0; h < work.n_heads; h++)
                known_row(set, &cached, &work, t, h);
    }
}

static void known_rotation(const struct kernels *set)
{
    float x[6] = {1, 2, 3, 4, 5, 6}, cosine[3] = {0, 1, 0.5f}, sine[3] = {1, 0, -0.5f};
    const float turned[6] = {-4, 2, 4.5f, 1, 5, 1.5f};
    set->rope(x, cosine, sine, 6);
    check(memcmp(x, turned, sizeof x) == 0, set->name, "rope", "does not rotate the pairs");
}

static void known_vocabulary(const struct kernels *set)
{
    enum { N = 1000 };
    float x[N];
    double sum = 0;

    for (size_t i = 0; i < N; i++) {
        x[i] = 5 * random_float();
        sum += exp((double)x[i]);
    }
    check(near(set->log_sum_exp(x, N), log(sum), 1e-6), set->name, "log_sum_exp", "far from double");
    x[17] = x[333] = x[999] = 6.0f;
    check(set->arg_max(x, N) == 17, set->name, "arg_max", "not the first of equals");
    x[999] = 7.0f;
    check(set->arg_max(x, N) == 999, set->name, "arg_max", "not the last element");
    check(set->arg_max(x, 1) == 0, set->name, "arg_max", "not the only element");
    x[0] = 800.0f;
    check(set->log_sum_exp(x, N) == 800.0f, set->name, "log_sum_exp", "does not bear large values");
}

static void known_choice(const struct kernels *set)
{
    enum { N = KERNELS_BLOCK + 40 };
    float x[N], maxima[2 * KERNELS_LANES], values[N], weights[N];
    int32_t ids[N];
    double sums[8] = {0}, total = 0, exact = 0;

    for (size_t i = 0; i < N; i++)
        x[i] = -1.0f - (float)(i % 7);
    x[33] = 2.0f, x[KERNELS_BLOCK + 35] = -0.0f;
    check(set->block_maxima(maxima, x, N) && maxima[1] == 2.0f && maxima[KERNELS_LANES + 3] == 0.0f && maxima[0] == -1.0f,
          set->name, "block_maxima", "not the largest");
    check(set->select_at_least(ids, values, x, N, 0.0f, 5) == 2 && ids[0] == 38 && ids[1] == KERNELS_BLOCK + 40 && values[0] == 2.0f,
          set->name, "select_at_least", "not those two");
    set->weigh(weights, sums, x, N, 2.0f, 0.75f);
    for (size_t i = 0; i < N; i++) {
        double wanted = exp(((double)x[i] - 2) * 0.75);
        check(near((double)weights[i] / wanted, 1, 3e-7), set->name, "weigh", "far from double");
        exact += wanted;
    }
    for (size_t i = 0; i < 8; i++)
        total += sums[i];
    check(near(total / exact, 1, 3e-7), set->name, "weigh", "sums far from double");
    const float far[2] = {-86.9f, -87.1f};
    set->weigh(weights, sums, far, 2, 0.0f, 1.0f);
    check(weights[0] > 0x1p-126f && weights[1] == 0.0f, set->name, "weigh", "does not end at e^-87");
}

static void known_values(const struct kernels *set)
{
    known_choice(set);
    known_products(set);
    known_halves(set);
    known_roundings(set, WEIGHT_F16, 0x7c00);
    known_roundings(set, WEIGHT_BF16, 0x7f80);
    known_activations(set);
    known_norms(set);
    known_attention(set);
    known_rotation(set);
    known_vocabulary(set);
    check_shrink_tells_tokens_apart(set);
    check_attend_tells_tokens_apart(set);
}

/* ---- the polynomials ---- */

static void check_precision(void)
{
    double exp_ulps = 0, tanh_error = 0, erf_error = 0;

    for (uint32_t bits = 0; bits < 0x42d00000u; bits += 1009 * (uint32_t)(cases_per_check * cases_per_check)) /* |x| up to 104 */
        for (uint32_t sign = 0; sign < 2; sign++) {
            float x = float_of_bits(bits | sign << 31), e = v_exp(x);
            long double exact = expl((long double)x);
            if (exact >= 0x1p-126L && exact < 0x1p128L) {
                long double ulp = ldexpl(1, (int)floorl(log2l(exact)) - 23);
                exp_ulps = fmax(exp_ulps, (double)(fabsl((long double)e - exact) / ulp));
            }
            tanh_error = fmax(tanh_error, (double)fabsl((long double)v_tanh(x) - tanhl((long double)x)));
            erf_error = fmax(erf_error, (double)fabsl((long double)v_erf(x) - erfl((long double)x)));
        }
    printf("exp: at most %.3f ulp; tanh: %.2g; erf: %.2g absolutely\n", exp_ulps, tanh_error, erf_error);
    check(exp_ulps <= 1.0, "polynomial", "exp", "more than 1 ulp off");
    check(tanh_error <= 1e-7, "polynomial", "tanh", "more than 1e-7 off");
    check(erf_error <= 1e-7, "polynomial", "erf", "more than 1e-7 off");
    check(v_exp(90.0f) == INFINITY && v_exp(-INFINITY) == 0.0f && v_exp(0.0f) == 1.0f, "polynomial", "exp",
          "ends");
    check(isnan(v_exp(NAN)) && isnan(v_tanh(NAN)) && isnan(v_erf(NAN)), "polynomial", "exp",
          "a NaN vanishes");
    check(v_tanh(INFINITY) == 1.0f && v_erf(-INFINITY) == -1.0f, "polynomial", "tanh, erf", "ends");
}

/* ---- selection ---- */

static void check_selection(void)
{
    struct error err = {0};
    unsigned features = cpu_detect_features();

    check(strcmp(kernels_select(0, NULL, &err)->name, "c") == 0, "select", "",
          "no features give another set than c");
    check(strcmp(kernels_select(features, "c", &err)->name, "c") == 0, "select", "", "c is not honoured");
    check(kernels_select(features, "", &err) == kernels_select(features, NULL, &err), "select", "",
          "empty name");
    const struct kernels *best = kernels_select(~(unsigned)(CPU_NEVER | CPU_AVX512_BF16_FAST), NULL, &err); /* of all sets; none is run */
    check(strcmp(best->name, "avx512bf16") != 0, "select", "", "slow pairs of bf16 are chosen without being asked for");
    const unsigned amd = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI | CPU_AVX512_BF16 | CPU_AVX512_BF16_FAST;
    if (kernels_select(amd, "avx512bf16", NULL))
        check(strcmp(kernels_select(amd, NULL, &err)->name, "avx512bf16") == 0, "select", "", "fast pairs of bf16 are not chosen");
    check(!best->sums_pairs_apart, "select", "", "a set with bits of its own is chosen without being asked for");
    check(!kernels_select(features, "sse9", &err) && err.code == ERROR_BAD_INPUT, "select", "",
          "sse9 is accepted");
    check(!kernels_select(0, "avx2", &err) && err.code == ERROR_BAD_INPUT, "select", "",
          "avx2 without the feature");
    check(!kernels_select(0, "neon", &err) && err.code == ERROR_BAD_INPUT, "select", "",
          "neon without the feature");
}

/* ---- measuring ---- */

static const char *wanted_part; /* NULL: all */

struct job {
    const struct kernels *set;
    enum weight_type type;
    size_t n_rows, n_in, n_tokens, bytes;
    char *pool;
    float *x, *out, *scores;
    const struct attend_shape *attend;
    const uint32_t *blocks;
};

/* Another matrix each time, so that weights come from memory, as in decoding. */
static const void *weights_of(const struct job *job, size_t i)
{
    return job->pool + i % (POOL_BYTES / job->bytes) * job->bytes;
}

static void run_shrink(void *context, size_t i)
{
    struct job *job = context;
    job->set->shrink[job->type](job->out, job->n_rows, weights_of(job, i), job->n_rows, job->n_in, job->x,
                                job->n_in, job->n_tokens, weights_of(job, i + 1));
}

static void run_expand(void *context, size_t i)
{
    struct job *job = context;
    job->set->expand[job->type](job->out, job->n_rows, weights_of(job, i), job->n_in, job->x, job->n_in, 1.0f, job->n_rows, job->n_tokens);
}

/* As the cache has them: in each block, for each head, its keys and then its values. */
struct attend_shape {
    size_t n_heads, d_head, n_kv_heads;
};
enum { CHUNK = 256, TILE_ROWS = 96 };

/* The last n_tokens of job->n_in positions of one head of one of the sequences in the pool. */
static void run_attend(void *context, size_t i)
{
    struct job *job = context;
    const struct attend_shape *shape = job->attend;
    size_t part_bytes = KERNELS_KV_BLOCK * shape->d_head * weight_type_size(job->type), n_kv_heads = shape->n_kv_heads;
    size_t n_sequences = POOL_BYTES / (job->bytes * n_kv_heads), tile = TILE_ROWS / shape->n_heads, n;
    const char *sequence = job->pool + i / n_kv_heads % n_sequences * job->bytes * n_kv_heads;
    struct attend work = {.out = job->out, .out_stride = shape->n_heads * shape->d_head, .q = job->x,
                          .q_stride = shape->n_heads * shape->d_head, .n_heads = shape->n_heads, .d_head = shape->d_head,
                          .scale = 0.125f, .blocks = job->blocks, .keys = sequence + i % n_kv_heads * 2 * part_bytes,
                          .block_bytes = n_kv_heads * 2 * part_bytes, .scratch = job->scores};
    work.values = (const char *)work.keys + part_bytes;
    for (size_t t = 0; t < job->n_tokens; t += n) {
        n = tile < job->n_tokens - t ? tile : job->n_tokens - t;
        work.n_tokens = n, work.first_position = job->n_in - job->n_tokens + t;
        job->set->attend[job->type](&work);
    }
}

static void run_narrow(void *context, size_t i)
{
    struct job *job = context;
    (void)i;
    job->set->narrow[job->type](job->out, job->x, job->n_in);
}

static void run_activation(void *context, size_t i)
{
    struct job *job = context;
    (void)i;
    job->set->activate[job->type](job->out, job->n_in);
}

static void run_log_sum_exp(void *context, size_t i)
{
    struct job *job = context;
    (void)i;
    sink = job->set->log_sum_exp(job->x, job->n_in);
}

static void run_arg_max(void *context, size_t i)
{
    struct job *job = context;
    (void)i;
    sink = (float)job->set->arg_max(job->x, job->n_in);
}

static void measure(const char *what, struct job *job, double flops, void (*work)(void *context, size_t i),
                    const struct limits *limits)
{
    if (wanted_part && !strstr(what, wanted_part))
        return;
    double bytes = (double)job->bytes, seconds = median_seconds(work, job);
    printf("%-7s %-34s %12.0f ns %8.1f GFLOP/s (%3.0f %%) %7.1f GB/s (%3.0f %%)\n", job->set->name, what,
           seconds * 1e9, flops / seconds * 1e-9, 100 * flops / seconds / limits->flops,
           bytes / seconds * 1e-9, 100 * bytes / seconds / limits->bytes);
    fflush(stdout);
}

static void bench_attend(struct job job, enum weight_type type, const struct limits *limits)
{
    static const struct attend_shape shapes[] = {{7, 64, 2}, {4, 64, 8}, {4, 128, 8}, {1, 128, 8}};
    static const size_t contexts[] = {512, 2048, 8192}, tokens[] = {1, CHUNK};
    char what[64];

    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t t = 0; t < 2; t++)
            for (size_t c = 0; c < sizeof contexts / sizeof *contexts; c++) {
                size_t n = tokens[t], width = shapes[s].n_heads * shapes[s].d_head;
                size_t n_pairs = n * contexts[c] - n * (n - 1) / 2;
                job.type = type, job.attend = &shapes[s], job.n_tokens = n, job.n_in = contexts[c];
                job.bytes = 2 * job.n_in * shapes[s].d_head * weight_type_size(type);
                snprintf(what, sizeof what, "attend %-4s %zux%zu, %zu of %zu", weight_type_name(type), shapes[s].n_heads,
                         shapes[s].d_head, n, contexts[c]);
                measure(what, &job, 4.0 * (double)(n_pairs * width), run_attend, limits);
            }
}

static void bench_set(struct job job)
{
    static const size_t shapes[][2] = {{16, 2048}, {16, 8192}, {64, 2048}};
    static const size_t tokens[] = {1, 2, 4, 8, 32, 128}, ranks[] = {8, 16, 64};
    struct limits limits = measure_limits(job.set, job.pool);
    char what[64];

    printf("%-7s one core: %.1f GFLOP/s, reads %.1f GB/s\n", job.set->name, limits.flops * 1e-9,
           limits.bytes * 1e-9);
    for (int type = 0; type < N_ELEMENT_TYPES; type++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++) {
                job.type = (enum weight_type)type;
                job.n_rows = shapes[s][0], job.n_in = shapes[s][1], job.n_tokens = tokens[t];
                job.bytes = job.n_rows * job.n_in * weight_type_size(job.type);
                snprintf(what, sizeof what, "shrink %-4s %zux%zu, %zu tokens", weight_type_name(job.type),
                         job.n_rows, job.n_in, job.n_tokens);
                measure(what, &job, 2.0 * (double)(job.n_rows * job.n_in * job.n_tokens), run_shrink,
                        &limits);
            }
    for (size_t r = 0; r < sizeof ranks / sizeof *ranks; r++)
        for (size_t t = 1; t <= 8; t *= 8) {
            job.type = WEIGHT_F32, job.n_rows = 2048, job.n_in = ranks[r], job.n_tokens = t;
            job.bytes = job.n_rows * job.n_in * sizeof(float);
            snprintf(what, sizeof what, "expand f32 rank %zu to 2048, %zu tok.", job.n_in, t);
            measure(what, &job, 2.0 * (double)(job.n_rows * job.n_in * t), run_expand, &limits);
        }
    for (int type = 0; type < N_ELEMENT_TYPES; type++)
        bench_attend(job, (enum weight_type)type, &limits);
    for (int type = WEIGHT_F16; type < N_ELEMENT_TYPES; type++) {
        job.type = (enum weight_type)type, job.n_in = 1024, job.bytes = job.n_in * sizeof(float);
        snprintf(what, sizeof what, "narrow %-4s 1024", weight_type_name(job.type));
        measure(what, &job, 0, run_narrow, &limits);
    }
    static const char *const activations[N_ACTIVATIONS] = {"silu", "gelu_tanh", "gelu_erf", "relu"};
    job.n_in = 8192, job.bytes = job.n_in * sizeof(float);
    for (int a = 0; a < N_ACTIVATIONS; a++) {
        job.type = (enum weight_type)a;
        measure(activations[a], &job, 0, run_activation, &limits);
    }
    job.n_in = 150000, job.bytes = job.n_in * sizeof(float);
    measure("log_sum_exp 150000", &job, 0, run_log_sum_exp, &limits);
    measure("arg_max 150000", &job, 0, run_arg_max, &limits);
}

static int bench(const struct kernels *const *sets, size_t n_sets, const char *only)
{
    const size_t n_floats = 512 * 8192;
    static uint32_t blocks[8192 / KERNELS_KV_BLOCK];
    struct job job = {.pool = aligned_alloc(4096, POOL_BYTES),
                      .x = malloc(n_floats * sizeof(float)),
                      .out = malloc(n_floats * sizeof(float)),
                      .scores = malloc(kernels_attend_scratch(TILE_ROWS, 128) * sizeof(float)),
                      .blocks = blocks};

    madvise(job.pool, POOL_BYTES, MADV_HUGEPAGE);
    if (!job.pool || !job.x || !job.out || !job.scores)
        return 2;
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        blocks[i] = (uint32_t)i;
    /* Every type reads numbers near 1 or near 0.01 here. */
    for (size_t i = 0; i < POOL_BYTES / sizeof(uint16_t); i++)
        ((uint16_t *)(void *)job.pool)[i] = (uint16_t)(0x3c00 + (i * 40503 & 0x3ff));
    for (size_t i = 0; i < n_floats; i++)
        job.x[i] = random_float(), job.out[i] = random_float();
    printf(
        "medians of one thread's own time; in brackets the share of what one core can do, measured before\n");
    for (size_t i = 0; i < n_sets; i++) {
        job.set = sets[i];
        if (only ? strcmp(only, sets[i]->name) == 0 : strcmp("c", sets[i]->name) != 0)
            bench_set(job);
    }
    free(job.pool), free(job.x), free(job.out), free(job.scores);
    return 0;
}

int main(int argc, char **argv)
{
    const struct kernels *sets[KERNELS_MOST_SETS];
    size_t n_sets = kernels_all(cpu_detect_features(), sets);

    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        compute_thread_begin();
        wanted_part = argc > 3 ? argv[3] : NULL;
        return bench(sets, n_sets, argc > 2 ? argv[2] : NULL);
    }
    if ((argc > 1 && strcmp(argv[1], "--quick") == 0) || getenv("LORAD_TEST_SANITIZED")) {
        cases_per_check = 8;
    } else if (argc > 1) {
        fprintf(stderr, "usage: check_kernels [--quick | --bench [SET [PART]]]\n");
        return 2;
    }
    make_regions();
    check_precision();
    check_selection();
    /* As a thread starts, and with denormals flushed, as all computing threads run. */
    for (int flushed = 0; flushed < 2; flushed++) {
        if (flushed)
            compute_thread_begin();
        for (size_t i = 0; i < n_sets; i++) {
            known_values(sets[i]);
            if (i > 0)
                check_set(sets[0], sets[i]);
        }
    }
    return print_result(sets, n_sets);
}
