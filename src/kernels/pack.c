/*
 * pack.c - all packing moves 4-byte units: an f32, a pair of bf16, a quad of bytes. Quantising makes a group's bytes first.
 *
 * Scales are bf16, so that weights of any magnitude have one; codes are chosen for the scale as it is stored, so its rounding costs nothing.
 */
#include "kernels/pack.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "base/bytes.h"
#include "kernels/scalar.h"
#include "kernels/sets.h"

enum { GROUP = PACK_GROUP, QUADS = GROUP / 4, Q4_WORDS = QUADS / 2, ZERO_BYTE = 128 };

const uint8_t PACK_Q4_VALUES[16] = {1, 28, 50, 67, 81, 95, 107, 119, 130, 141, 152, 164, 177, 192, 210, 234};

static size_t group_bytes(enum weight_type type, size_t width)
{
    return width * ((type == WEIGHT_Q8 ? GROUP : GROUP / 2) + sizeof(uint16_t));
}

size_t panel_bytes(enum weight_type type, size_t width, size_t n_in)
{
    switch (type) {
    case WEIGHT_F32: return n_in * width * 4;
    case WEIGHT_F16: return n_in * width * 2;
    case WEIGHT_BF16: return ceil_divide(n_in, 2) * width * 4;
    case WEIGHT_Q8:
    case WEIGHT_Q4: return ceil_divide(n_in, GROUP) * group_bytes(type, width);
    case N_WEIGHT_TYPES: break;
    }
    assert(!"a weight type");
    return 0;
}

size_t packed_bytes(enum weight_type type, size_t n_out, size_t n_in)
{
    size_t n_rows, n_elements, n_bytes;
    if (n_out > SIZE_MAX - PANEL_ROWS || n_in > SIZE_MAX - GROUP)
        return SIZE_MAX;
    n_rows = ceil_divide(n_out, PANEL_LANES) * PANEL_LANES;
    if (!size_multiply(n_rows, n_in + GROUP, &n_elements) || !size_multiply(n_elements, 4, &n_bytes)) /* 4: the widest */
        return SIZE_MAX;
    return packed_at(type, n_out, n_in) + panel_bytes(type, panel_width(n_out % PANEL_ROWS), n_in);
}

size_t activations_width(const struct kernels *set, enum weight_type type, size_t n_tokens)
{
    size_t most = set->tokens_per_block[type];
    if (n_tokens <= set->tokens_at_once[type])
        return size_max(n_tokens, 1);
    return ceil_divide(n_tokens, ceil_divide(n_tokens, most)); /* 9 tokens are 5 and 4, not 8 and 1 */
}

/* ---- elements ---- */

/* 16-bit pairs or 32-bit words: both are columns of 4-byte units, but for a last half pair. */
static void pack_words(uint32_t *out, size_t width, const char *rows, size_t n_rows, size_t row_bytes)
{
    size_t n_whole = row_bytes / 4;
    for (size_t lane = 0; lane < width; lane += PANEL_LANES)
        for (size_t word = 0; word < n_whole; word += 16) /* a cache line of each row at a time */
            for (size_t w = word; w < size_min(word + 16, n_whole); w++)
                for (size_t o = lane; o < lane + PANEL_LANES; o++) {
                    uint32_t unit = 0;
                    if (o < n_rows)
                        memcpy(&unit, rows + o * row_bytes + w * 4, 4);
                    out[w * width + o] = unit;
                }
    for (size_t o = 0; row_bytes % 4 && o < width; o++) {
        uint16_t half = 0;
        if (o < n_rows)
            memcpy(&half, rows + o * row_bytes + n_whole * 4, 2);
        out[n_whole * width + o] = half; /* little-endian: the first of the pair */
    }
}

static void pack_halves(uint16_t *out, size_t width, const char *rows, size_t n_rows, size_t n_in)
{
    for (size_t lane = 0; lane < width; lane += PANEL_LANES)
        for (size_t k = 0; k < n_in; k++)
            for (size_t o = lane; o < lane + PANEL_LANES; o++) {
                uint16_t half = 0;
                if (o < n_rows)
                    memcpy(&half, rows + (o * n_in + k) * 2, 2);
                out[k * width + o] = half;
            }
}

/* ---- groups ---- */

/* Four lanes: what every machine has. */
typedef float lanes __attribute__((vector_size(16)));
typedef int32_t integers __attribute__((vector_size(16)));
enum { N_LANES = 4, N_VECTORS = GROUP / N_LANES };

static lanes all(float value)
{
    return (lanes){value, value, value, value};
}

static lanes select_lanes(integers mask, lanes yes, lanes no)
{
    return (lanes)(((integers)yes & mask) | ((integers)no & ~mask));
}

static lanes magnitude(lanes x)
{
    return (lanes)((integers)x & 0x7fffffff);
}

/* NaN if one of them is. */
static float largest_magnitude(const lanes *w)
{
    lanes most = all(0);
    for (size_t v = 0; v < N_VECTORS; v++)
        most = select_lanes((magnitude(w[v]) > most) | (w[v] != w[v]), magnitude(w[v]), most);
    float largest = 0;
    for (size_t i = 0; i < N_LANES; i++)
        largest = most[i] > largest || isnan(most[i]) ? most[i] : largest;
    return largest;
}

static float scale_of_bits(uint16_t bits)
{
    return float_of_bits((uint32_t)bits << 16);
}

/* The least bf16 that is not smaller than a non-negative scale. */
static uint16_t scale_up(float scale)
{
    uint32_t bits = bits_of_float(scale);
    return (uint16_t)((bits >> 16) + ((bits & 0xffff) != 0 && bits < 0x7f7f0000u));
}

/* NaN becomes an end. */
static uint16_t quantize_q8(uint8_t *bytes, const lanes *w)
{
    uint16_t bits = scale_up(largest_magnitude(w) / 127.0f);
    float scale = scale_of_bits(bits), inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (size_t v = 0; v < N_VECTORS; v++) {
        lanes x = w[v] * inverse;
        x = select_lanes(x < 127.0f, x, all(127.0f));
        x = select_lanes(x > -127.0f, x, all(-127.0f)) + (ROUND_TO_INTEGER + ZERO_BYTE);
        for (size_t i = 0; i < N_LANES; i++)
            bytes[v * N_LANES + i] = (uint8_t)((integers)x)[i];
    }
    return bits;
}

static float value_of_code(size_t code)
{
    return (float)PACK_Q4_VALUES[code] - ZERO_BYTE;
}

/* The code whose value is nearest to an integer of [-256, 255], plus 256; and that value. */
enum { NEAREST_ZERO = 256, N_NEAREST = 2 * NEAREST_ZERO };
static uint8_t nearest_codes[N_NEAREST];
static float nearest_values[N_NEAREST];
static pthread_once_t nearest_once = PTHREAD_ONCE_INIT;

static void make_nearest(void)
{
    for (size_t i = 0, code = 0; i < N_NEAREST; i++) {
        float x = (float)i - NEAREST_ZERO;
        while (code < 15 && fabsf(value_of_code(code + 1) - x) < fabsf(value_of_code(code) - x))
            code++;
        nearest_codes[i] = (uint8_t)code;
        nearest_values[i] = value_of_code(code);
    }
}

/* Where x, rounded to an integer, is in those tables. No scale that is tried makes a weight much larger than the codes' ends, so all are
   inside; what is not finite gets any place. */
static integers index_of(lanes x)
{
    return (integers)(x + (ROUND_TO_INTEGER + NEAREST_ZERO)) & (N_NEAREST - 1);
}

static float sum(lanes x)
{
    return (x[0] + x[2]) + (x[1] + x[3]);
}

/* w * inverse becomes the nearest values: the scale with which these come nearest to w, and how much they explain of w^2 then. */
static float fit_scale(const lanes *w, float inverse, float *explained)
{
    lanes products = all(0), squares = all(0);
    for (size_t v = 0; v < N_VECTORS; v++) {
        integers at = index_of(w[v] * inverse);
        lanes values = {nearest_values[at[0]], nearest_values[at[1]], nearest_values[at[2]], nearest_values[at[3]]};
        products += w[v] * values;
        squares += values * values;
    }
    float product = sum(products), square = sum(squares);
    *explained = square > 0 ? product * product / square : 0;
    return square > 0 ? product / square : 0;
}

struct fit {
    float end, explained, scale; /* `end` is what the value of the largest magnitude becomes */
};

static void improve(struct fit *best, const lanes *w, float largest, float end)
{
    struct fit fit = {.end = end};
    fit.scale = fit_scale(w, end / largest, &fit.explained);
    if (fit.explained > best->explained)
        *best = fit;
}

static bool has_value(const lanes *w, float value)
{
    integers found = {0};
    for (size_t v = 0; v < N_VECTORS; v++)
        found |= w[v] == value;
    return found[0] | found[1] | found[2] | found[3];
}

/* The value of the largest magnitude becomes one of the ends of the codes, or somewhat more or less: what is best. More steps are not worth their
   time: two more that are twice as far make the error 0.3 % smaller, the best of fifty scales 3 %, and predictions of models show neither. */
static uint16_t quantize_q4(uint8_t *codes, const lanes *w)
{
    static const float STRETCH[] = {0.94f, 1.06f};
    float most = largest_magnitude(w);
    struct fit best = {.explained = -1};
    if (most > 0 && most <= FLT_MAX) {
        float largest = has_value(w, -most) ? -most : most;
        improve(&best, w, largest, value_of_code(0));
        improve(&best, w, largest, value_of_code(15));
        float end = best.end;
        for (size_t i = 0; i < sizeof STRETCH / sizeof *STRETCH; i++)
            improve(&best, w, largest, end * STRETCH[i]);
    }
    uint16_t bits;
    kernels_reference.narrow[WEIGHT_BF16](&bits, &best.scale, 1);
    float scale = scale_of_bits(bits), inverse = scale != 0 ? 1.0f / scale : 0.0f;
    for (size_t v = 0; v < N_VECTORS; v++) {
        integers at = index_of(w[v] * inverse);
        for (size_t i = 0; i < N_LANES; i++)
            codes[v * N_LANES + i] = nearest_codes[at[i]];
    }
    return most <= FLT_MAX ? bits : 0x7fc0; /* what is not finite must not look as if it were */
}

/* The group's bytes in the order of storage: as they are, or two codes in each. */
static size_t code_bytes(enum weight_type type, uint8_t bytes[GROUP], const lanes *w, uint16_t *scale)
{
    if (type == WEIGHT_Q8) {
        *scale = quantize_q8(bytes, w);
        return GROUP;
    }
    *scale = quantize_q4(bytes, w);
    for (size_t i = 0; i < GROUP / 2; i++)
        bytes[i] = (uint8_t)(bytes[i] | bytes[GROUP / 2 + i] << 4);
    return GROUP / 2;
}

static void pack_groups(enum weight_type type, char *out, size_t width, const float *rows, size_t n_rows, size_t n_in)
{
    pthread_once(&nearest_once, make_nearest);
    for (size_t first = 0; first < n_in; first += GROUP, out += group_bytes(type, width))
        for (size_t o = 0; o < width; o++) {
            lanes w[N_VECTORS] = {0};
            uint8_t bytes[GROUP];
            uint16_t scale;
            if (o < n_rows)
                memcpy(w, rows + o * n_in + first, size_min(GROUP, n_in - first) * sizeof(float));
            size_t n_bytes = code_bytes(type, bytes, w, &scale);
            for (size_t i = 0; i < n_bytes; i += 4)
                memcpy(out + i * width + o * 4, bytes + i, 4);
            memcpy(out + n_bytes * width + o * 2, &scale, 2);
        }
}

void pack_panel(enum weight_type type, void *panel, const void *rows, size_t n_rows, size_t n_in)
{
    size_t width = panel_width(n_rows);
    assert(n_rows >= 1 && n_rows <= PANEL_ROWS);
    switch (type) {
    case WEIGHT_F32: pack_words(panel, width, rows, n_rows, n_in * 4); break;
    case WEIGHT_F16: pack_halves(panel, width, rows, n_rows, n_in); break;
    case WEIGHT_BF16: pack_words(panel, width, rows, n_rows, n_in * 2); break;
    case WEIGHT_Q8:
    case WEIGHT_Q4: pack_groups(type, panel, width, rows, n_rows, n_in); break;
    case N_WEIGHT_TYPES: assert(!"a weight type");
    }
}

/* ---- back ---- */

static float element_of_group(enum weight_type type, const unsigned char *group, size_t width, size_t o, size_t i)
{
    size_t half = type == WEIGHT_Q8 ? GROUP : GROUP / 2, at = i % half;
    uint8_t byte = group[at / 4 * 4 * width + o * 4 + at % 4];
    uint16_t scale;
    memcpy(&scale, group + half * width + o * 2, 2);
    if (type == WEIGHT_Q4)
        byte = PACK_Q4_VALUES[i < half ? byte & 15 : byte >> 4];
    return ((float)byte - ZERO_BYTE) * scale_of_bits(scale);
}

static float element(enum weight_type type, const unsigned char *panel, size_t width, size_t o, size_t k)
{
    float value;
    if (type >= N_ELEMENT_TYPES)
        return element_of_group(type, panel + k / GROUP * group_bytes(type, width), width, o, k % GROUP);
    size_t at = type == WEIGHT_BF16 ? (k / 2 * width + o) * 2 + k % 2 : k * width + o;
    kernels_reference.widen[type](&value, panel + at * weight_type_size(type), 1);
    return value;
}

float unpack_element(enum weight_type type, const void *packed, size_t n_out, size_t n_in, size_t row, size_t k)
{
    const unsigned char *panel = (const unsigned char *)packed + packed_at(type, row, n_in);
    assert(row < n_out && k < n_in);
    return element(type, panel, panel_width(n_out - row / PANEL_ROWS * PANEL_ROWS), row % PANEL_ROWS, k);
}

/* Words of one row lie `width` words apart. */
static void unpack_words(uint32_t *out, size_t n_words, const uint32_t *column, size_t width)
{
    for (size_t w = 0; w < n_words; w++)
        out[w] = column[w * width];
}

static void unpack_bf16(float *out, const uint32_t *column, size_t width, size_t n_in)
{
    for (size_t k = 0; k < n_in; k++) {
        uint32_t pair = column[k / 2 * width];
        out[k] = float_of_bits(k % 2 ? pair & 0xffff0000u : pair << 16);
    }
}

void unpack_rows(enum weight_type type, float *out, const void *packed, size_t n_out, size_t n_in, size_t first, size_t n_rows)
{
    assert(first + n_rows <= n_out);
    for (size_t row = first; row < first + n_rows; row++, out += n_in) {
        const unsigned char *panel = (const unsigned char *)packed + packed_at(type, row, n_in);
        size_t o = row % PANEL_ROWS, width = panel_width(n_out - (row - o));
        const uint32_t *column = (const uint32_t *)(const void *)panel + o;
        if (type == WEIGHT_F32)
            unpack_words((uint32_t *)(void *)out, n_in, column, width);
        else if (type == WEIGHT_BF16)
            unpack_bf16(out, column, width, n_in);
        else
            for (size_t k = 0; k < n_in; k++)
                out[k] = element(type, panel, width, o, k);
    }
}
