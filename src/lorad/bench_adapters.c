/*
 * bench_adapters.c - random adapters on all linear sites, written as PEFT directories and loaded like anybody's.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "lorad/bench.h"

static float random_value(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return ((float)(*state >> 40) / (float)(1 << 24) - 0.5f) * 0.02f;
}

static const enum dtype DTYPES[] = {[LORAD_ELEMENT_BF16] = DTYPE_BF16, [LORAD_ELEMENT_F16] = DTYPE_F16,
                                    [LORAD_ELEMENT_F32] = DTYPE_F32};

static bool make_pair(const struct site *site, size_t rank, enum dtype dtype, struct tensor *a, struct tensor *b,
                      char names[2][256], uint64_t *seed, struct error *err)
{
    size_t n_a = rank * site->n_in, n_b = site->n_out * rank, size = dtype_size(dtype);
    char *values = malloc((n_a + n_b) * size);
    if (!values)
        return error_no_memory(err);
    for (size_t i = 0; i < n_a + n_b; i++) {
        float value = random_value(seed);
        dtype_from_f32(values + i * size, dtype, &value, 1);
    }
    snprintf(names[0], sizeof names[0], "base_model.model.%s.lora_A.weight", site->path);
    snprintf(names[1], sizeof names[1], "base_model.model.%s.lora_B.weight", site->path);
    *a = (struct tensor){.name = names[0], .dtype = dtype, .n_dims = 2, .shape = {rank, site->n_in},
                         .n_elements = n_a, .n_bytes = n_a * size, .data = values};
    *b = (struct tensor){.name = names[1], .dtype = dtype, .n_dims = 2, .shape = {site->n_out, rank},
                         .n_elements = n_b, .n_bytes = n_b * size, .data = values + n_a * size};
    return true;
}

static bool write_config(const char *directory, size_t rank, struct error *err)
{
    char text[256];
    char *path = path_join(directory, "adapter_config.json");
    int n = snprintf(text, sizeof text,
                     "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"r\": %zu, \"lora_alpha\": %zu, "
                     "\"target_modules\": \"all-linear\"}", rank, 2 * rank);
    bool ok = path ? file_replace(path, text, (size_t)n, err) : error_no_memory(err);
    free(path);
    return ok;
}

static bool write_random_adapter(const struct model *model, const char *directory, size_t rank, enum dtype dtype,
                                 uint64_t seed, struct error *err)
{
    struct tensor *tensors = calloc(2 * model->n_sites, sizeof *tensors);
    char (*names)[2][256] = calloc(model->n_sites, sizeof *names);
    char *path = path_join(directory, "adapter_model.safetensors");
    size_t n = 0;
    bool ok = tensors && names && path ? true : error_no_memory(err);
    for (size_t i = 0; ok && i < model->n_sites; i++)
        if (model->sites[i].kind == SITE_LINEAR) {
            ok = make_pair(&model->sites[i], rank, dtype, &tensors[n], &tensors[n + 1], names[i], &seed, err);
            n += ok ? 2 : 0;
        }
    ok = ok && write_config(directory, rank, err) && safetensors_write(path, tensors, n, err);
    for (size_t i = 0; i < n; i += 2)
        free((void *)tensors[i].data);
    free(tensors);
    free(names);
    free(path);
    return ok;
}

const char *bench_adapter_dtype_name(const struct bench *bench)
{
    return dtype_name(DTYPES[bench->options.adapter_dtype]);
}

static void name_adapter(char out[32], size_t adapter)
{
    snprintf(out, 32, "bench-%zu", adapter);
}

char *bench_write_adapter(struct bench *bench, size_t adapter, size_t rank, struct error *err)
{
    char name[32];
    name_adapter(name, adapter);
    char *directory = path_join(bench->directory, name);
    if (!directory) {
        error_no_memory(err);
        return NULL;
    }
    if (directory_create(directory, err) &&
        write_random_adapter(bench->lorad->model, directory, rank, DTYPES[bench->options.adapter_dtype], adapter + 1, err))
        return directory;
    free(directory);
    return NULL;
}

bool bench_load_adapter(struct bench *bench, size_t adapter, const char *directory, struct error *err)
{
    struct lorad_load_options load = {.path = directory, .trusted_path = true};
    char id[32];
    name_adapter(id, adapter);
    return lorad_adapter_load(bench->lorad, id, &load, NULL, err);
}

bool bench_add_adapters(struct bench *bench, size_t first, size_t n, size_t rank, struct error *err)
{
    bool ok = true;
    for (size_t i = first; ok && i < first + n; i++) {
        char *directory = bench_write_adapter(bench, i, rank, err);
        ok = directory && bench_load_adapter(bench, i, directory, err) && directory_remove(directory, err);
        free(directory);
        if (bench->options.open.progress)
            bench->options.open.progress(bench->options.open.progress_context, "making adapters",
                                         (double)(i + 1 - first) / (double)n);
    }
    return ok;
}

bool bench_merge_adapter(struct bench *bench, size_t adapter, unsigned wait_ms, struct error *err)
{
    char id[32];
    name_adapter(id, adapter);
    return lorad_adapter_merge(bench->lorad, id, wait_ms, err);
}

bool bench_unload_adapters(struct bench *bench, size_t first, size_t n, struct error *err)
{
    char id[32];
    for (size_t i = first; i < first + n; i++) {
        name_adapter(id, i);
        if (!lorad_adapter_unload(bench->lorad, id, NULL, false, err))
            return false;
    }
    return true;
}
