/*
 * naive_forward.c - everything is (n_tokens, width) arrays of double. W' = W + sum s B A is formed whole, gain and bias
 * follow, and the product is taken with it.
 */
#include "support/naive_forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/dtype.h"

static double element(const void *data, enum weight_type type, size_t i)
{
    float value;
    dtype_to_f32(&value, (const char *)data + i * weight_type_size(type), dtype_of_weight(type), 1);
    return (double)value;
}

double naive_weight(const struct matrix *matrix, size_t row, size_t k)
{
    if (matrix->layout == MATRIX_PACKED)
        return (double)unpack_element(matrix->type, matrix->data, matrix->n_out, matrix->n_in, row, k);
    return element(matrix->data, matrix->type, row * matrix->n_in + k);
}

static double *zeros(size_t n)
{
    double *values = calloc(n ? n : 1, sizeof *values);
    if (!values)
        abort();
    return values;
}

static bool is_table(const struct site *site)
{
    return site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION;
}

/* y[o] of a site for input x (linear, head) or for row `token` of a table. */
static double site_output(const struct site *site, const struct site_view *view, size_t o, const double *x, size_t token)
{
    double sum = 0;
    if (is_table(site))
        sum = naive_weight(view->weight, token, o);
    else
        for (size_t k = 0; k < site->n_in; k++)
            sum += naive_weight(view->weight, o, k) * x[k];
    for (size_t d = 0; d < view->n_deltas; d++) {
        const struct delta *delta = &view->deltas[d];
        double low = delta->bias ? (double)delta->bias[o] : 0;
        for (size_t j = 0; j < delta->rank; j++) {
            double u = 0;
            if (is_table(site))
                u = element(delta->a, delta->type, token * delta->rank + j);
            else
                for (size_t k = 0; k < site->n_in; k++)
                    u += element(delta->a, delta->type, j * site->n_in + k) * x[k];
            low += element(delta->b, delta->type, delta_b_at(delta->rank, o, j)) * u;
        }
        sum += (double)delta->scale * low;
    }
    if (view->row_gain)
        sum *= (double)view->row_gain[o];
    if (view->bias)
        sum += (double)view->bias[o];
    return sum;
}

/* out (n_tokens, stride) from column `at` on. */
static size_t apply(const struct view *view, size_t site, const double *x, size_t n_tokens, double *out, size_t stride,
                    size_t at)
{
    const struct site *map = &view->model->sites[site];
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t o = 0; o < map->n_out; o++)
            out[t * stride + at + o] = site_output(map, &view->sites[site], o, x + t * map->n_in, 0);
    return map->n_out;
}

static void norm(const struct view *view, size_t index, const double *x, double *out, size_t n, enum norm_kind kind)
{
    const struct norm_view *weights = &view->norms[index];
    double mean = 0, square = 0;
    for (size_t i = 0; i < n && kind == NORM_LAYER; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        square += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++)
        out[i] = (x[i] - mean) / sqrt(square + (double)view->model->config.norm_eps) * (double)weights->weight[i] +
                 (weights->bias ? (double)weights->bias[i] : 0);
}

static void norm_rows(const struct view *view, size_t index, const double *x, double *out, size_t n_tokens)
{
    enum norm_kind kind = view->model->norms[index].bias ? NORM_LAYER : NORM_RMS;
    size_t n = view->model->config.d_model;
    for (size_t t = 0; t < n_tokens; t++)
        norm(view, index, x + t * n, out + t * n, n, kind);
}

static double activate(enum activation kind, double x)
{
    switch (kind) {
    case ACTIVATION_SILU: return x / (1 + exp(-x));
    case ACTIVATION_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACTIVATION_GELU_ERF: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ACTIVATION_RELU: return x > 0 ? x : 0;
    case N_ACTIVATIONS: break;
    }
    abort();
}

/* Frequencies by the papers' formulas; llama3 as published with Llama 3.1. */
static double frequency(const struct model_config *config, size_t i)
{
    double inverse = pow(config->rope_theta, -2.0 * (double)i / (double)config->d_head);
    if (config->rope_scaling == ROPE_LINEAR)
        return inverse / config->rope_factor;
    if (config->rope_scaling == ROPE_PLAIN)
        return inverse;
    double original = (double)config->rope_original_positions, wave = 2 * M_PI / inverse;
    double low = config->rope_low_frequency_factor, high = config->rope_high_frequency_factor;
    if (wave < original / high)
        return inverse;
    if (wave > original / low)
        return inverse / config->rope_factor;
    double smooth = (original / wave - low) / (high - low);
    return (1 - smooth) * inverse / config->rope_factor + smooth * inverse;
}

static void rotate(const struct model_config *config, double *x, size_t position)
{
    size_t half = config->d_head / 2;
    for (size_t i = 0; i < half; i++) {
        double angle = (double)position * frequency(config, i), a = x[i], b = x[i + half];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + half] = b * cos(angle) + a * sin(angle);
    }
}

static void attend(const struct model_config *config, size_t layer, const double *qkv, size_t width, size_t t,
                   size_t head, double *out)
{
    size_t d = config->d_head, kv = head / (config->n_heads / config->n_kv_heads);
    bool windowed = config->layer_is_windowed && config->layer_is_windowed[layer];
    size_t first = windowed && t + 1 > config->sliding_window ? t + 1 - config->sliding_window : 0;
    double scale = (double)config->attention_scale / (config->scale_by_inverse_layer ? (double)(layer + 1) : 1);
    double *p = zeros(t + 1), total = 0;
    for (size_t j = first; j <= t; j++) {
        double dot = 0;
        for (size_t i = 0; i < d; i++)
            dot += qkv[t * width + head * d + i] * qkv[j * width + (config->n_heads + kv) * d + i];
        total += p[j] = exp(scale * dot);
    }
    for (size_t j = first; j <= t; j++)
        for (size_t i = 0; i < d; i++)
            out[i] += p[j] / total * qkv[j * width + (config->n_heads + config->n_kv_heads + kv) * d + i];
    free(p);
}

static void attention(const struct view *view, size_t layer, double *x, double *h, size_t n)
{
    const struct model *model = view->model;
    const struct model_config *config = &model->config;
    const size_t *sites = model->layer_sites[layer], *norms = model->layer_norms[layer];
    size_t d = config->d_head, width = (config->n_heads + 2 * config->n_kv_heads) * d, at = 0;
    double *qkv = zeros(n * width), *out = zeros(n * config->n_heads * d);

    norm_rows(view, norms[NORM_ROLE_ATTENTION], x, h, n);
    if (sites[PROJECTION_QKV] != SIZE_MAX)
        apply(view, sites[PROJECTION_QKV], h, n, qkv, width, 0);
    else
        for (enum projection p = PROJECTION_Q; p <= PROJECTION_V; p++)
            at += apply(view, sites[p], h, n, qkv, width, at);
    for (size_t t = 0; t < n; t++)
        for (size_t head = 0; head < config->n_heads + config->n_kv_heads; head++) {
            double *q = qkv + t * width + head * d;
            size_t index = norms[head < config->n_heads ? NORM_ROLE_Q : NORM_ROLE_K];
            if (index != SIZE_MAX)
                norm(view, index, q, q, d, NORM_RMS);
            if (model->position_site == SIZE_MAX)
                rotate(config, q, t);
        }
    for (size_t t = 0; t < n; t++)
        for (size_t head = 0; head < config->n_heads; head++)
            attend(config, layer, qkv, width, t, head, out + (t * config->n_heads + head) * d);
    apply(view, sites[PROJECTION_ATTENTION_OUT], out, n, h, config->d_model, 0);
    for (size_t i = 0; i < n * config->d_model; i++)
        x[i] += h[i];
    free(qkv);
    free(out);
}

static void mlp(const struct view *view, size_t layer, double *x, double *h, size_t n)
{
    const struct model_config *config = &view->model->config;
    const size_t *sites = view->model->layer_sites[layer];
    double *up = zeros(n * config->d_ffn), *gate = zeros(n * config->d_ffn);
    norm_rows(view, view->model->layer_norms[layer][NORM_ROLE_MLP], x, h, n);
    apply(view, sites[PROJECTION_UP], h, n, up, config->d_ffn, 0);
    if (sites[PROJECTION_GATE] != SIZE_MAX)
        apply(view, sites[PROJECTION_GATE], h, n, gate, config->d_ffn, 0);
    for (size_t i = 0; i < n * config->d_ffn; i++)
        up[i] = sites[PROJECTION_GATE] != SIZE_MAX ? activate(config->activation, gate[i]) * up[i]
                                                   : activate(config->activation, up[i]);
    apply(view, sites[PROJECTION_DOWN], up, n, h, config->d_model, 0);
    for (size_t i = 0; i < n * config->d_model; i++)
        x[i] += h[i];
    free(up);
    free(gate);
}

double *naive_forward(const struct view *view, const int32_t *tokens, size_t n)
{
    const struct model *model = view->model;
    size_t d = model->config.d_model;
    double *x = zeros(n * d), *h = zeros(n * d), *logits = zeros(n * model->config.n_vocab);
    const size_t tables[] = {model->embedding_site, model->position_site};
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < 2 && tables[i] != SIZE_MAX; i++)
            for (size_t o = 0; o < d; o++)
                x[t * d + o] += site_output(&model->sites[tables[i]], &view->sites[tables[i]], o, NULL,
                                            i == 0 ? (size_t)tokens[t] : t);
    for (size_t layer = 0; layer < model->config.n_layers; layer++) {
        attention(view, layer, x, h, n);
        mlp(view, layer, x, h, n);
    }
    norm_rows(view, model->final_norm, x, h, n);
    apply(view, model->head_site, h, n, logits, model->config.n_vocab, 0);
    free(x);
    free(h);
    return logits;
}
