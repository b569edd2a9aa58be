/* W' against W + s BA in double precision and plain loops, read from the adapter's own file. */
#include "lora/merge.h"

#include <math.h>
#include <stdlib.h>

#include "base/cpu.h"
#include "lora/compose.h"
#include "support/check.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

static const struct kernels *kernels;

static int choose_kernels(void **state)
{
    struct error err;
    (void)state;
    kernels = kernels_select(cpu_detect_features(), "c", &err);
    return kernels ? 0 : -1;
}

/* -- The other computation ------------------------------------------------------------------ */

static const struct tensor *find_part(const struct tensor_file *file, const char *path, const char *suffix)
{
    char name[400];
    snprintf(name, sizeof name, "base_model.model.%s.%s", path, suffix);
    return tensor_file_find(file, name);
}

static double at(const struct tensor *tensor, size_t i)
{
    float value;
    dtype_to_f32(&value, (const char *)tensor->data + i * dtype_size(tensor->dtype), tensor->dtype, 1);
    return (double)value;
}

static double base_at(const struct site *site, size_t o, size_t i)
{
    bool is_table = site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION;
    return (double)matrix_read_element(site->weight, is_table ? i : o, is_table ? o : i);
}

/* W + s BA, DoRA's gain and all, (n_out, n_in). */
static double *expected_weight(const struct tensor_file *file, const struct site *site, double s)
{
    bool is_table = site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION;
    const struct tensor *a = find_part(file, site->path, is_table ? "lora_embedding_A" : "lora_A.weight");
    const struct tensor *b = find_part(file, site->path, is_table ? "lora_embedding_B" : "lora_B.weight");
    const struct tensor *m = find_part(file, site->path, "lora_magnitude_vector");
    assert_non_null(a);
    assert_non_null(b);
    size_t rank = a->shape[0];
    double *out = calloc(site->n_out * site->n_in, sizeof *out);
    for (size_t o = 0; o < site->n_out; o++) {
        double norm = 0;
        for (size_t i = 0; i < site->n_in; i++) {
            double v = base_at(site, o, i);
            for (size_t j = 0; j < rank; j++)
                v += s * at(b, o * rank + j) * at(a, j * site->n_in + i);
            out[o * site->n_in + i] = v;
            norm += v * v;
        }
        for (size_t i = 0; m && i < site->n_in; i++)
            out[o * site->n_in + i] *= at(m, o) / sqrt(norm);
    }
    return out;
}

static double worst_difference(const struct site *site, const struct matrix *merged, const double *expected)
{
    bool is_table = site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION;
    double worst = 0;
    for (size_t o = 0; o < site->n_out; o++)
        for (size_t i = 0; i < site->n_in; i++) {
            float value = matrix_read_element(merged, is_table ? i : o, is_table ? o : i);
            double e = expected[o * site->n_in + i];
            worst = fmax(worst, fabs((double)value - e) / (fabs(e) + 0.05));
        }
    return worst;
}

/* -- The comparison ------------------------------------------------------------------------- */

static struct merged *merge_all(struct adapter *adapter)
{
    struct error err = {0};
    bool is_done = false;
    size_t n_steps = 0;
    struct merge_job *job = merge_begin(adapter, NULL, &err);
    assert_non_null(job);
    while (!is_done) {
        double before = merge_fraction(job);
        assert_ok(merge_step(job, &is_done, &err), &err);
        assert_true(merge_fraction(job) >= before);
        n_steps++;
    }
    assert_true(n_steps >= adapter->n_sites);
    struct merged *merged = merge_take(job);
    merge_end(job);
    return merged;
}

static void check(struct tiny_model model_spec, struct tiny_adapter spec, double scale, double allowed)
{
    struct error err = {0};
    struct tensor_file file;
    struct model *model = tiny_model_load(model_spec, MODEL_WEIGHTS_NATIVE, kernels);
    char *directory = tiny_adapter_write(model, spec),
         *path = path_join(directory, "adapter_model.safetensors");
    struct adapter *adapter = adapter_load(directory, model, false, UINT64_MAX, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    assert_ok(safetensors_open(&file, path, &TENSOR_FILE_ADAPTER, &err), &err);
    struct merged *merged = merge_all(adapter);
    assert_int_equal(merged->bytes, merge_bytes(adapter, NULL));
    size_t n_checked = 0;
    for (size_t i = 0; i < model->n_sites; i++) {
        const struct site *site = &model->sites[i];
        const struct compose_part part = {adapter, 1};
        if (!adapter_find_site(adapter, i)) {
            assert_null(merged->weights[i]);
            continue;
        }
        assert_int_equal(merged->weights[i]->type, site->weight->type);
        double *expected = expected_weight(&file, site, scale);
        double worst = worst_difference(site, merged->weights[i], expected);
        if (worst > allowed)
            fail_msg("%s is %.3g off", site->path, worst);
        struct matrix *alone = merge_site(model, i, &part, 1, &err);
        assert_int_equal(alone->layout, MATRIX_ROWS);
        for (size_t o = 0; o < alone->n_out; o++)
            for (size_t k = 0; k < alone->n_in; k++)
                assert_float_equal(matrix_read_element(alone, o, k), matrix_read_element(merged->weights[i], o, k), allowed);
        matrix_unref(alone);
        free(expected);
        n_checked++;
    }
    assert_true(n_checked > 0);
    merged_unref(merged);
    adapter_unref(adapter);
    tensor_file_close(&file);
    free(path);
    tiny_remove(directory);
    model_destroy(model);
}

#define SCALE (8.0 / 4.0)

static void a_merged_weight_is_w_plus_s_b_a(void **state)
{
    (void)state;
    check((struct tiny_model){0}, (struct tiny_adapter){0}, SCALE, 1e-6);
    check((struct tiny_model){0}, (struct tiny_adapter){.use_rslora = true}, 8 / sqrt(4), 1e-6);
    check((struct tiny_model){.family = "gpt2"}, (struct tiny_adapter){0}, SCALE, 1e-6);
    check((struct tiny_model){.d_ffn = 700, .d_model = 96}, (struct tiny_adapter){.rank = 130}, 8.0 / 130,
          1e-6);
}

static void adapters_in_16_bits_merge_exactly(void **state)
{
    (void)state;
    check((struct tiny_model){0}, (struct tiny_adapter){.dtype = DTYPE_BF16}, SCALE, 1e-6);
    check((struct tiny_model){0}, (struct tiny_adapter){.dtype = DTYPE_F16}, SCALE, 1e-6);
}

static void weights_in_16_bits_are_rounded_once(void **state)
{
    (void)state;
    check((struct tiny_model){.dtype = DTYPE_BF16}, (struct tiny_adapter){0}, SCALE, 1.001 / 256);
    check((struct tiny_model){.dtype = DTYPE_F16}, (struct tiny_adapter){0}, SCALE, 1.001 / 2048);
    check((struct tiny_model){.dtype = DTYPE_BF16, .family = "gpt2"},
          (struct tiny_adapter){.dtype = DTYPE_BF16}, SCALE, 1.001 / 256);
}

static void dora_is_merged_with_its_gain(void **state)
{
    (void)state;
    check((struct tiny_model){0}, (struct tiny_adapter){.use_dora = true}, SCALE, 3e-6);
    check((struct tiny_model){.family = "gpt2"}, (struct tiny_adapter){.use_dora = true}, SCALE, 3e-6);
}

static void embeddings_and_heads_are_merged_in_their_own_shape(void **state)
{
    static const char *const llama[] = {"model.embed_tokens", "lm_head", NULL};
    static const char *const gpt2[] = {"transformer.wte", "transformer.wpe", NULL};
    (void)state;
    check((struct tiny_model){.tied_head = -1}, (struct tiny_adapter){.sites = llama}, SCALE, 1e-6);
    check((struct tiny_model){.tied_head = -1}, (struct tiny_adapter){.sites = llama, .use_dora = true},
          SCALE, 3e-6);
    check((struct tiny_model){.family = "gpt2"}, (struct tiny_adapter){.sites = gpt2}, SCALE, 1e-6);
}

static void the_bias_of_b_goes_into_the_bias(void **state)
{
    struct error err = {0};
    (void)state;
    struct model *model =
        tiny_model_load((struct tiny_model){.family = "gpt2"}, MODEL_WEIGHTS_NATIVE, kernels);
    char *directory = tiny_adapter_write(model, (struct tiny_adapter){.lora_bias = true});
    struct adapter *adapter = adapter_load(directory, model, false, UINT64_MAX, &err);
    if (!adapter)
        fail_msg("%s", err.message);
    struct merged *merged = merge_all(adapter);
    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct adapter_site *site = &adapter->sites[i];
        const struct site *base = &model->sites[site->site];
        assert_non_null(site->delta.bias);
        for (size_t o = 0; o < base->n_out; o++)
            assert_float_equal(merged->biases[site->site][o], base->bias[o] + 2 * site->delta.bias[o], 1e-6);
    }
    merged_unref(merged);
    adapter_unref(adapter);
    tiny_remove(directory);
    model_destroy(model);
}

static void several_adapters_merge_into_their_sum(void **state)
{
    struct error err = {0};
    (void)state;
    struct model *model = tiny_model_load((struct tiny_model){0}, MODEL_WEIGHTS_NATIVE, kernels);
    struct compose_part parts[3] = {{.factor = 0.5}, {.factor = -2}, {.factor = 0}};
    char *directories[3];
    for (unsigned i = 0; i < 3; i++) {
        directories[i] =
            tiny_adapter_write(model, (struct tiny_adapter){.seed = i, .rank = i + 1, .alpha = i + 1});
        parts[i].adapter = adapter_load(directories[i], model, false, UINT64_MAX, &err);
        assert_non_null(parts[i].adapter);
    }
    size_t index = model->layer_sites[1][PROJECTION_UP];
    const struct site *site = &model->sites[index];
    struct matrix *merged = merge_site(model, index, parts, 3, &err);
    for (size_t o = 0; o < site->n_out; o++)
        for (size_t k = 0; k < site->n_in; k++) {
            double sum = base_at(site, o, k);
            for (size_t p = 0; p < 2; p++) {
                const struct delta *delta = &adapter_find_site(parts[p].adapter, index)->delta;
                for (size_t j = 0; j < delta->rank; j++)
                    sum += parts[p].factor * (double)((const float *)delta->b)[delta_b_at(delta->rank, o, j)] *
                           (double)((const float *)delta->a)[j * site->n_in + k];
            }
            assert_float_equal(((const float *)matrix_row(merged, o))[k], sum, 1e-6);
        }
    matrix_unref(merged);
    for (size_t i = 0; i < 3; i++) {
        adapter_unref(parts[i].adapter);
        tiny_remove(directories[i]);
    }
    model_destroy(model);
}

static void a_sum_beyond_the_type_is_refused_and_not_served_as_infinity(void **state)
{
    struct error err = {0};
    bool is_done = false, ok = true;
    (void)state;
    struct model *model =
        tiny_model_load((struct tiny_model){.dtype = DTYPE_F16}, MODEL_WEIGHTS_NATIVE, kernels);
    char *directory = tiny_adapter_write(model, (struct tiny_adapter){.size = 1000});
    struct adapter *adapter = adapter_load(directory, model, false, UINT64_MAX, &err);
    struct merge_job *job = merge_begin(adapter, NULL, &err);
    while (ok && !is_done)
        ok = merge_step(job, &is_done, &err);
    assert_false(ok);
    assert_int_equal(err.code, ERROR_MISMATCH);
    assert_non_null(strstr(err.message, "f16"));
    merge_end(job);
    adapter_unref(adapter);
    tiny_remove(directory);
    model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_merged_weight_is_w_plus_s_b_a),
        cmocka_unit_test(adapters_in_16_bits_merge_exactly),
        cmocka_unit_test(weights_in_16_bits_are_rounded_once),
        cmocka_unit_test(dora_is_merged_with_its_gain),
        cmocka_unit_test(embeddings_and_heads_are_merged_in_their_own_shape),
        cmocka_unit_test(the_bias_of_b_goes_into_the_bias),
        cmocka_unit_test(several_adapters_merge_into_their_sum),
        cmocka_unit_test(a_sum_beyond_the_type_is_refused_and_not_served_as_infinity),
    };
    return cmocka_run_group_tests(tests, choose_kernels, NULL);
}
