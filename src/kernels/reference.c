/*
 * reference.c - what each row means, in plain C: the definition that the other sets match bit for bit.
 *
 * Clear before fast.
 */
#include "kernels/pack.h"
#include "kernels/sets.h"

#include <math.h>
#include <string.h>

#include "kernels/scalar.h"

enum { LANES = 16 };

/* The exact value of a weight. Subnormal halves are normal floats, so no flag may flush them; a NaN is made
   quiet, as the conversion instructions do. */
static float widen_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 1023u;
    if (exponent == 31)
        return float_of_bits(sign | 0x7f800000u | (fraction ? 0x400000u : 0) | fraction << 13);
    if (exponent == 0)
        return copysignf((float)fraction * 0x1p-24f, float_of_bits(sign));
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/* Drops the last n_bits, to nearest, ties to even. The carry may run into the exponent, and should. */
static uint32_t round_off(uint32_t value, unsigned n_bits)
{
    return (value + ((1u << (n_bits - 1)) - 1) + (value >> n_bits & 1)) >> n_bits;
}

static uint16_t narrow_to_bf16(float value)
{
    uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)round_off(bits, 16);
}

static uint16_t narrow_to_half(float value)
{
    uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
    uint32_t exponent = magnitude >> 23, half;

    if (magnitude > 0x7f800000u)
        half = 0x7e00 | (magnitude >> 13 & 0x1ff);
    else if (exponent >= 143) /* 2^16 and more */
        half = 0x7c00;
    else if (exponent >= 113) /* normal halves; what is rounded up to 2^16 becomes infinity by its carry */
        half = round_off(magnitude - (112u << 23), 13);
    else if (exponent >= 102) /* in units of 2^-24 */
        half = round_off((magnitude & 0x7fffffu) | 0x800000u, 126 - exponent);
    else
        half = 0;
    return (uint16_t)(sign | half);
}

static float element(const void *w, size_t i, enum weight_type type)
{
    const unsigned char *at = (const unsigned char *)w + i * weight_type_size(type);
    float value;
    uint16_t half;

    if (type == WEIGHT_F32) {
        memcpy(&value, at, sizeof value);
        return value;
    }
    memcpy(&half, at, sizeof half);
    return type == WEIGHT_F16 ? widen_half(half) : float_of_bits((uint32_t)half << 16);
}

static float join(float lanes[LANES])
{
    for (size_t step = LANES / 2; step > 0; step /= 2)
        for (size_t l = 0; l < step; l++)
            lanes[l] = lanes[l] + lanes[l + step];
    return lanes[0];
}

static float join_max(float lanes[LANES])
{
    for (size_t step = LANES / 2; step > 0; step /= 2)
        for (size_t l = 0; l < step; l++)
            lanes[l] = v_max(lanes[l], lanes[l + step]);
    return lanes[0];
}

/* The sum of w[k] * x[k]. */
static float dot(const void *w, size_t w_at, enum weight_type type, const float *x, size_t n)
{
    float lanes[LANES] = {0};

    for (size_t k = 0; k < n; k += LANES)
        for (size_t l = 0; l < LANES; l++) {
            bool there = k + l < n;
            float a = there ? element(w, w_at + k + l, type) : 0.0f, b = there ? x[k + l] : 0.0f;
            lanes[l] = fmaf(a, b, lanes[l]);
        }
    return join(lanes);
}

static void shrink(enum weight_type type, float *out, size_t out_stride, const void *a, size_t n_rows,
                   size_t n_in, const float *x, size_t x_stride, size_t n_tokens)
{
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t o = 0; o < n_rows; o++)
            out[t * out_stride + o] = dot(a, o * n_in, type, x + t * x_stride, n_in);
}

/* ---- products with packed weights ---- */

static void prepare_elements(const struct activations *to, const struct activations_part *part, const float *x, size_t x_stride)
{
    for (size_t t = part->first_token; t < part->end_token; t++)
        for (size_t k = part->first; k < part->end; k++)
            memcpy(activations_at(to, t) + k * to->width * 4, &x[t * x_stride + k], 4);
}

static void prepare_bf16(const struct activations *to, const struct activations_part *part, const float *x, size_t x_stride)
{
    for (size_t t = part->first_token; t < part->end_token; t++)
        for (size_t k = part->first; k < part->end; k += 2) {
            uint16_t pair[2] = {narrow_to_bf16(x[t * x_stride + k]), k + 1 < part->end ? narrow_to_bf16(x[t * x_stride + k + 1]) : 0};
            memcpy(activations_at(to, t) + k / 2 * to->width * 4, pair, 4);
        }
}

/* Largest and smallest by the rule of v_max and v_min, so that a NaN has the same effect everywhere. */
static void prepare_group(int8_t bytes[PACK_GROUP], float *scale, int32_t *start, const float values[PACK_GROUP])
{
    float lanes[LANES] = {0};
    for (size_t i = 0; i < PACK_GROUP; i++)
        lanes[i % LANES] = v_max(lanes[i % LANES], fabsf(values[i]));
    float most = join_max(lanes), inverse = most > 0.0f ? 127.0f / most : 0.0f;
    *start = PACK_SUM_START;
    for (size_t i = 0; i < PACK_GROUP; i++) {
        float rounded = v_min(v_max(values[i] * inverse, -127.0f), 127.0f) + ROUND_TO_INTEGER;
        bytes[i] = (int8_t)(int)(bits_of_float(rounded) - bits_of_float(ROUND_TO_INTEGER));
        *start -= 128 * bytes[i];
    }
    *scale = most / 127.0f;
}

static void prepare_groups(const struct activations *to, const struct activations_part *part, const float *x, size_t x_stride)
{
    enum { N_QUADS = PACK_GROUP / 4 };
    size_t row = to->width * 4;
    for (size_t t = part->first_token; t < part->end_token; t++)
        for (size_t k = part->first; k < part->end; k += PACK_GROUP) {
            char *at = activations_at(to, t) + k / PACK_GROUP * PACK_GROUP_UNITS * row;
            float values[PACK_GROUP], scale;
            int8_t bytes[PACK_GROUP];
            int32_t start;
            for (size_t i = 0; i < PACK_GROUP; i++)
                values[i] = k + i < part->end ? x[t * x_stride + k + i] : 0.0f;
            prepare_group(bytes, &scale, &start, values);
            for (size_t quad = 0; quad < N_QUADS; quad++)
                memcpy(at + quad * row, bytes + quad * 4, 4);
            memcpy(at + N_QUADS * row, &scale, 4);
            memcpy(at + (N_QUADS + 1) * row, &start, 4);
        }
}

static float bf16_at(const void *p, size_t i)
{
    return element(p, i, WEIGHT_BF16);
}

static float multiply_pairs(const char *panel, size_t width, size_t o, const struct activations *x, size_t t)
{
    float acc = 0;
    for (size_t pair = 0; pair < (x->n_in + 1) / 2; pair++) {
        size_t at = (pair * width + o) * 2;
        const char *pair_of_x = activations_at(x, t) + pair * x->width * 4;
        acc = fmaf(bf16_at(panel, at + 1), bf16_at(pair_of_x, 1), acc);
        acc = fmaf(bf16_at(panel, at), bf16_at(pair_of_x, 0), acc);
    }
    return acc;
}

static float multiply_pairs_apart(const char *panel, size_t width, size_t o, const struct activations *x, size_t t)
{
    enum { PAIRS = 16 };
    const size_t n_pairs = (x->n_in + 1) / 2;
    float acc = 0;
    for (size_t first = 0; first < n_pairs; first += PAIRS) {
        float sums[2] = {0, 0};
        for (size_t pair = first; pair < first + PAIRS && pair < n_pairs; pair++)
            for (size_t i = 0; i < 2; i++)
                sums[i] = fmaf(bf16_at(panel, (pair * width + o) * 2 + i), bf16_at(activations_at(x, t) + pair * x->width * 4, i), sums[i]);
        acc += sums[0] + sums[1];
    }
    return acc;
}

static int32_t unsigned_weight(enum weight_type type, const unsigned char *group, size_t width, size_t o, size_t i)
{
    size_t half = PACK_GROUP / 2;
    if (type == WEIGHT_Q8)
        return group[i / 4 * 4 * width + o * 4 + i % 4];
    unsigned char codes = group[i % half / 4 * 4 * width + o * 4 + i % 4];
    return PACK_Q4_VALUES[i < half ? codes & 15 : codes >> 4];
}

static float multiply_groups(const char *panel, size_t width, size_t o, const struct activations *x, size_t t)
{
    size_t n_bytes = (x->type == WEIGHT_Q8 ? PACK_GROUP : PACK_GROUP / 2) * width, row = x->width * 4, quads = PACK_GROUP / 4;
    const unsigned char *group = (const unsigned char *)panel;
    const char *at = activations_at(x, t);
    float acc = 0;

    for (size_t k = 0; k < x->n_in; k += PACK_GROUP, group += n_bytes + 2 * width, at += PACK_GROUP_UNITS * row) {
        float w_scale = bf16_at(group + n_bytes, o), x_scale, sum_and_more;
        int32_t sum;
        memcpy(&x_scale, at + quads * row, 4);
        memcpy(&sum, at + (quads + 1) * row, 4);
        for (size_t i = 0; i < PACK_GROUP; i++)
            sum += unsigned_weight(x->type, group, width, o, i) * (signed char)at[i / 4 * row + i % 4];
        memcpy(&sum_and_more, &sum, 4);
        acc = fmaf(fmaf(sum_and_more, w_scale, -PACK_SUM_START_VALUE * w_scale), x_scale, acc);
    }
    return acc;
}

static float multiply_elements(const char *panel, size_t width, size_t o, const struct activations *x, size_t t)
{
    float acc = 0, value;
    for (size_t k = 0; k < x->n_in; k++) {
        memcpy(&value, activations_at(x, t) + k * x->width * 4, 4);
        acc = fmaf(element(panel, k * width + o, x->type), value, acc);
    }
    return acc;
}

typedef float multiply_function(const char *panel, size_t width, size_t o, const struct activations *x, size_t t);

static void multiply_packed(enum weight_type type, multiply_function *multiply_one, float *out, size_t out_stride, const void *w, size_t n_rows,
                            const struct activations *x, size_t first_token, size_t n_tokens)
{
    for (size_t first = 0; first < n_rows; first += PANEL_ROWS) {
        const char *panel = (const char *)w + packed_at(type, first, x->n_in);
        size_t n = n_rows - first < PANEL_ROWS ? n_rows - first : PANEL_ROWS, width = panel_width(n);
        for (size_t t = 0; t < n_tokens; t++)
            for (size_t o = 0; o < n; o++)
                out[t * out_stride + first + o] = multiply_one(panel, width, o, x, first_token + t);
    }
}

#define PACKED_ROW(TYPE, suffix, multiply_one)                                                                                       \
    static void multiply_##suffix(float *out, size_t out_stride, const void *w, size_t n_rows, const struct activations *x, size_t first,  \
                                  size_t n_tokens)                                                                                   \
    {                                                                                                                                \
        multiply_packed(TYPE, multiply_one, out, out_stride, w, n_rows, x, first, n_tokens);                                         \
    }

PACKED_ROW(WEIGHT_F32, f32, multiply_elements)
PACKED_ROW(WEIGHT_F16, f16, multiply_elements)
PACKED_ROW(WEIGHT_BF16, bf16, multiply_pairs)
PACKED_ROW(WEIGHT_BF16, bf16_apart, multiply_pairs_apart)
PACKED_ROW(WEIGHT_Q8, q8, multiply_groups)
PACKED_ROW(WEIGHT_Q4, q4, multiply_groups)

/* ---- low-rank pairs ---- */

static void expand(enum weight_type type, float *out, size_t out_stride, const void *b, size_t rank,
                   const float *u, size_t u_stride, float scale, size_t n_out, size_t n_tokens)
{
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t o = 0; o < n_out; o++) {
            float acc = 0;
            for (size_t j = 0; j < rank; j++)
                acc = fmaf(element(b, (o / KERNELS_PANEL * rank + j) * KERNELS_PANEL + o % KERNELS_PANEL, type),
                           u[t * u_stride + j], acc);
            out[t * out_stride + o] = fmaf(scale, acc, out[t * out_stride + o]);
        }
}

static void merge(enum weight_type type, void *out, const void *w, size_t n_rows, size_t n_in, const float *b, const float *a, size_t rank,
                  float scale, const float *gain)
{
    memset(out, 0, packed_bytes(type, n_rows, n_in)); /* what fills up */
    for (size_t row = 0; row < n_rows; row++) {
        size_t first = row / PANEL_ROWS * PANEL_ROWS, width = panel_width(n_rows - first), o = row - first;
        size_t panel = packed_at(type, row, n_in) / weight_type_size(type);
        for (size_t k = 0; k < n_in; k++) {
            size_t at = panel + (type == WEIGHT_BF16 ? (k / 2 * width + o) * 2 + k % 2 : k * width + o);
            float acc = 0;
            for (size_t j = 0; j < rank; j++)
                acc = fmaf(b[(row / KERNELS_PANEL * rank + j) * KERNELS_PANEL + row % KERNELS_PANEL], a[k * rank + j], acc);
            float merged = fmaf(scale, acc, element(w, at, type)) * (gain ? gain[row] : 1.0f);
            kernels_reference.narrow[type]((char *)out + at * weight_type_size(type), &merged, 1);
        }
    }
}

static void widen(enum weight_type type, float *out, const void *w, size_t n)
{
    if (type == WEIGHT_F32) {
        memcpy(out, w, n * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = element(w, i, type);
}

static void narrow(enum weight_type type, void *out, const float *x, size_t n)
{
    if (type == WEIGHT_F32) {
        memcpy(out, x, n * sizeof *x);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t half = type == WEIGHT_F16 ? narrow_to_half(x[i]) : narrow_to_bf16(x[i]);
        memcpy((char *)out + i * sizeof half, &half, sizeof half);
    }
}

#define ROWS_OF_TYPE(TYPE, suffix)                                                                           \
    static void shrink_##suffix(float *out, size_t out_stride, const void *a, size_t n_rows, size_t n_in,    \
                                const float *x, size_t x_stride, size_t n_tokens, const void *next)          \
    {                                                                                                        \
        (void)next;                                                                                          \
        shrink(TYPE, out, out_stride, a, n_rows, n_in, x, x_stride, n_tokens);                               \
    }                                                                                                        \
    static void expand_##suffix(float *out, size_t out_stride, const void *b, size_t rank, const float *u,   \
                                size_t u_stride, float scale, size_t n_out, size_t n_tokens)                 \
    {                                                                                                        \
        expand(TYPE, out, out_stride, b, rank, u, u_stride, scale, n_out, n_tokens);                         \
    }                                                                                                        \
    static void merge_##suffix(void *out, const void *w, size_t n_rows, size_t n_in, const float *b,         \
                               const float *a, size_t rank, float scale, const float *gain)                  \
    {                                                                                                        \
        merge(TYPE, out, w, n_rows, n_in, b, a, rank, scale, gain);                                          \
    }                                                                                                        \
    static void widen_##suffix(float *out, const void *w, size_t n)                                          \
    {                                                                                                        \
        widen(TYPE, out, w, n);                                                                              \
    }

ROWS_OF_TYPE(WEIGHT_F32, f32)
ROWS_OF_TYPE(WEIGHT_F16, f16)
ROWS_OF_TYPE(WEIGHT_BF16, bf16)

static void add(float *out, const float *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] += a[i];
}

static void multiply(float *out, const float *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] *= a[i];
}

#define ACTIVATION_ROW(name)                                                                                 \
    static void name(float *x, size_t n)                                                                     \
    {                                                                                                        \
        for (size_t i = 0; i < n; i++)                                                                       \
            x[i] = v_##name(x[i]);                                                                           \
    }

ACTIVATION_ROW(silu)
ACTIVATION_ROW(gelu_tanh)
ACTIVATION_ROW(gelu_erf)
ACTIVATION_ROW(relu)

static void rms_norm(float *out, const float *x, const float *weight, size_t n, float eps)
{
    float inverse = 1.0f / sqrtf(dot(x, 0, WEIGHT_F32, x, n) / (float)n + eps);

    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * inverse * weight[i];
}

static void layer_norm(float *out, const float *x, const float *weight, const float *bias, size_t n,
                       float eps)
{
    float sums[LANES] = {0}, squares[LANES] = {0};
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            sums[l] += i + l < n ? x[i + l] : 0.0f;
    float mean = join(sums) / (float)n;

    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float d = i + l < n ? x[i + l] - mean : 0.0f;
            squares[l] = fmaf(d, d, squares[l]);
        }
    float deviation = sqrtf(join(squares) / (float)n + eps);

    for (size_t i = 0; i < n; i++) {
        float y = (x[i] - mean) / deviation;
        out[i] = bias ? fmaf(y, weight[i], bias[i]) : y * weight[i];
    }
}

static void rope(float *x, const float *cosine, const float *sine, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        float a = x[i], b = x[i + n / 2];
        x[i] = fmaf(a, cosine[i], -(b * sine[i]));
        x[i + n / 2] = fmaf(b, cosine[i], a * sine[i]);
    }
}

static float maximum(const float *x, size_t n)
{
    float lanes[LANES];
    for (size_t l = 0; l < LANES; l++)
        lanes[l] = -INFINITY;
    for (size_t i = 0; i < n; i++)
        lanes[i % LANES] = v_max(lanes[i % LANES], x[i]);
    return join_max(lanes);
}

/* The sum of e^(x - m). */
static float sum_exp(const float *x, size_t n, float m)
{
    float lanes[LANES] = {0};

    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float e = i + l < n ? v_exp(x[i + l] - m) : 0.0f;
            lanes[l] += e;
        }
    return join(lanes);
}

/* ---- attention ---- */

/* One token's head. */
struct row {
    const struct attend *work;
    enum weight_type type;
    const float *q;
    size_t first, end; /* of the positions it sees */
    float most, sums[LANES];
    float *mixture; /* (d_head) */
};

static const char *block_of(const struct attend *work, const void *base, size_t position)
{
    return (const char *)base + work->blocks[position / KERNELS_KV_BLOCK] * work->block_bytes;
}

static float score_of(const struct row *row, size_t position)
{
    const struct attend *work = row->work;
    const char *keys = block_of(work, work->keys, position);
    float acc = 0;
    for (size_t i = 0; i < work->d_head; i++)
        acc = fmaf(element(keys, i * KERNELS_KV_BLOCK + position % KERNELS_KV_BLOCK, row->type), row->q[i] * work->scale, acc);
    return acc;
}

/* A step's positions from `begin` up to `end` that the row sees. */
static void attend_step(struct row *row, size_t begin, size_t end)
{
    const struct attend *work = row->work;
    float scores[KERNELS_ATTEND_STEP], lanes[LANES];
    for (size_t l = 0; l < LANES; l++)
        lanes[l] = -INFINITY;
    for (size_t j = begin; j < end; j++) {
        scores[j - begin] = score_of(row, j);
        lanes[j % LANES] = v_max(lanes[j % LANES], scores[j - begin]);
    }
    float most = v_max(row->most, join_max(lanes)), factor = v_exp(row->most - most);
    for (size_t l = 0; l < LANES; l++)
        row->sums[l] *= factor;
    for (size_t i = 0; i < work->d_head; i++)
        row->mixture[i] *= factor;
    row->most = most;
    for (size_t j = begin; j < end; j++) {
        const char *values = block_of(work, work->values, j);
        float p = v_exp(scores[j - begin] - most);
        row->sums[j % LANES] += p;
        for (size_t i = 0; i < work->d_head; i++)
            row->mixture[i] = fmaf(p, element(values, j % KERNELS_KV_BLOCK * work->d_head + i, row->type), row->mixture[i]);
    }
}

static void attend_row(struct row *row)
{
    memset(row->mixture, 0, row->work->d_head * sizeof *row->mixture);
    for (size_t begin = row->first, end; begin < row->end; begin = end) {
        end = begin - begin % KERNELS_ATTEND_STEP + KERNELS_ATTEND_STEP;
        end = end < row->end ? end : row->end;
        attend_step(row, begin, end);
    }
    float inverse = 1.0f / join(row->sums);
    for (size_t i = 0; i < row->work->d_head; i++)
        row->mixture[i] *= inverse;
}

static void attend(enum weight_type type, const struct attend *work)
{
    for (size_t t = 0; t < work->n_tokens; t++)
        for (size_t h = 0; h < work->n_heads; h++) {
            size_t end = work->first_position + t + 1;
            struct row row = {.work = work,
                              .type = type,
                              .q = work->q + t * work->q_stride + h * work->d_head,
                              .first = work->window && end > work->window ? end - work->window : 0,
                              .end = end,
                              .most = -INFINITY,
                              .mixture = work->out + t * work->out_stride + h * work->d_head};
            attend_row(&row);
        }
}

#define CACHE_ROWS_OF_TYPE(TYPE, suffix)                                                                     \
    static void narrow_##suffix(void *out, const float *x, size_t n)                                         \
    {                                                                                                        \
        narrow(TYPE, out, x, n);                                                                             \
    }                                                                                                        \
    static void attend_##suffix(const struct attend *work)                                                   \
    {                                                                                                        \
        attend(TYPE, work);                                                                                  \
    }

CACHE_ROWS_OF_TYPE(WEIGHT_F32, f32)
CACHE_ROWS_OF_TYPE(WEIGHT_F16, f16)
CACHE_ROWS_OF_TYPE(WEIGHT_BF16, bf16)

static size_t arg_max(const float *x, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

static float log_sum_exp(const float *x, size_t n)
{
    float m = maximum(x, n);

    return (float)(m + log(sum_exp(x, n, m)));
}

/* The largest of the lane that begins at x[0]; the sign of a zero is not the order's affair. */
static float lane_maximum(const float *x, size_t n)
{
    float most = -INFINITY;
    for (size_t i = 0; i < n; i += LANES)
        most = v_max(x[i], most);
    return most + 0.0f;
}

static bool block_maxima(float *maxima, const float *x, size_t n)
{
    bool all_finite = true;

    for (size_t begin = 0; begin < n; begin += KERNELS_BLOCK) {
        size_t n_block = n - begin < KERNELS_BLOCK ? n - begin : KERNELS_BLOCK;
        for (size_t l = 0; l < LANES; l++)
            *maxima++ = l < n_block ? lane_maximum(x + begin + l, n_block - l) : -INFINITY;
    }
    for (size_t i = 0; i < n; i++)
        all_finite = all_finite && isfinite(x[i]);
    return all_finite;
}

static size_t select_at_least(int32_t *ids, float *values, const float *x, size_t n, float least, size_t first)
{
    size_t n_kept = 0;

    for (size_t i = 0; i < n; i++)
        if (x[i] >= least) {
            ids[n_kept] = (int32_t)(first + i);
            values[n_kept++] = x[i];
        }
    return n_kept;
}

static void weigh(float *weights, double sums[8], const float *x, size_t n, float best, float inverse)
{
    for (size_t i = 0; i < n; i++) {
        weights[i] = v_weight((x[i] - best) * inverse);
        sums[i < n / 8 * 8 ? i % 8 : 0] += (double)weights[i];
    }
}

const struct kernels kernels_reference = {
    .name = "c",
    .tokens_at_once = {1, 1, 1, 1, 1},
    .tokens_per_block = {1, 1, 1, 1, 1},
    .prepare = {[WEIGHT_F32] = prepare_elements,
                [WEIGHT_F16] = prepare_elements,
                [WEIGHT_BF16] = prepare_bf16,
                [WEIGHT_Q8] = prepare_groups,
                [WEIGHT_Q4] = prepare_groups},
    .multiply_packed = {[WEIGHT_F32] = multiply_f32,
                        [WEIGHT_F16] = multiply_f16,
                        [WEIGHT_BF16] = multiply_bf16,
                        [WEIGHT_Q8] = multiply_q8,
                        [WEIGHT_Q4] = multiply_q4},
    .shrink = {[WEIGHT_F32] = shrink_f32, [WEIGHT_F16] = shrink_f16, [WEIGHT_BF16] = shrink_bf16},
    .expand = {[WEIGHT_F32] = expand_f32, [WEIGHT_F16] = expand_f16, [WEIGHT_BF16] = expand_bf16},
    .merge = {[WEIGHT_F32] = merge_f32, [WEIGHT_F16] = merge_f16, [WEIGHT_BF16] = merge_bf16},
    .widen = {[WEIGHT_F32] = widen_f32, [WEIGHT_F16] = widen_f16, [WEIGHT_BF16] = widen_bf16},
    .narrow = {[WEIGHT_F32] = narrow_f32, [WEIGHT_F16] = narrow_f16, [WEIGHT_BF16] = narrow_bf16},
    .add = add,
    .multiply = multiply,
    .activate = {[ACTIVATION_SILU] = silu,
                 [ACTIVATION_GELU_TANH] = gelu_tanh,
                 [ACTIVATION_GELU_ERF] = gelu_erf,
                 [ACTIVATION_RELU] = relu},
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .rope = rope,
    .attend = {[WEIGHT_F32] = attend_f32, [WEIGHT_F16] = attend_f16, [WEIGHT_BF16] = attend_bf16},
    .arg_max = arg_max,
    .log_sum_exp = log_sum_exp,
    .block_maxima = block_maxima,
    .select_at_least = select_at_least,
    .weigh = weigh,
};

void kernels_use_pairs_apart(struct kernels *table)
{
    table->sums_pairs_apart = true;
    table->multiply_packed[WEIGHT_BF16] = multiply_bf16_apart;
}
