/*
 * model_load.c - tensors to sites. What the configuration promises must be there with exactly its shape; what it does
 * not know is reported. Tables stay where they are mapped; what products need is packed, by all cores together, and its
 * pages of the file may go then.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cpu.h"
#include "base/huge.h"
#include "base/json.h"
#include "base/pool.h"
#include "model/family.h"
#include "model/layout.h"
#include "model/rope.h"

enum { MOST_WARNINGS = 16, MOST_THREADS = 16, CHUNK_ELEMENTS = 1 << 20, WEIGHTS_ALIGNMENT = 64 };

struct loader {
    struct model *model;
    const struct model_options *options;
    bool *is_used;             /* per tensor of the file */
    bool has_prefix;           /* the file's names carry the family's prefix */
    const struct tensor **site_tensors; /* per site; NULL for a tied head */
    bool is_cached, is_mapped; /* the cache was good; what is in it is used where it is */
    const void **cached;       /* per site: its matrix in the cache; NULL: it has none there */
    size_t n_placed_bytes;     /* of the model's weights_memory */
    struct chunk *chunks;
    size_t n_chunks;
    atomic_size_t n_done;
    atomic_bool has_failed;
};

static void report(const struct loader *loader, const char *what, double fraction)
{
    if (loader->options->progress)
        loader->options->progress(loader->options->progress_context, what, fraction);
}

/* The tensor's name in this file: the module's path, less the prefix when the file has none, and the suffix. */
static const char *tensor_name(struct loader *loader, const char *path, const char *suffix)
{
    const char *prefix = loader->model->config.family->prefix;
    size_t n_prefix = strlen(prefix);
    char name[LIMIT_NAME_BYTES];
    if (!loader->has_prefix && strncmp(path, prefix, n_prefix) == 0)
        path += n_prefix;
    int n = snprintf(name, sizeof name, "%s%s", path, suffix);
    return arena_copy_text(&loader->model->arena, name, (size_t)n);
}

static const struct tensor *use(struct loader *loader, const char *name)
{
    const struct tensor *tensor = tensor_file_find(&loader->model->files, name);
    if (tensor)
        loader->is_used[tensor - loader->model->files.tensors] = true;
    return tensor;
}

/* Names with and without the prefix in one file would be two models. */
static bool detect_prefix(struct loader *loader, struct error *err)
{
    struct model *model = loader->model;
    loader->has_prefix = true;
    const char *with = tensor_name(loader, model->norms[0].path, ".weight");
    loader->has_prefix = false;
    const char *without = tensor_name(loader, model->norms[0].path, ".weight");
    if (!with || !without)
        return error_no_memory(err);
    loader->has_prefix = tensor_file_find(&model->files, with) != NULL;
    bool has_plain = tensor_file_find(&model->files, without) != NULL;
    if (loader->has_prefix && has_plain)
        return error_set(err, ERROR_BAD_INPUT, with, "the weights hold both '%s' and '%s'", with, without);
    if (!loader->has_prefix && !has_plain)
        return error_set(err, ERROR_MISMATCH, with, "the weights have no tensor '%s', which a %s model has", with,
                         model->config.model_type);
    return true;
}

static bool check_dtype(const struct tensor *tensor, struct error *err)
{
    if (dtype_is_weight(tensor->dtype))
        return true;
    return error_set(err, ERROR_MISMATCH, tensor->name, "'%s' holds %s, but weights must be F32, F16 or BF16",
                     tensor->name, dtype_name(tensor->dtype));
}

static bool check_matrix_shape(const struct tensor *tensor, size_t n_rows, size_t n_columns, struct error *err)
{
    char shape[128];
    if (tensor->n_dims == 2 && tensor->shape[0] == n_rows && tensor->shape[1] == n_columns)
        return true;
    return error_set(err, ERROR_MISMATCH, tensor->name, "'%s' has the shape %s, but the config asks for [%zu, %zu]",
                     tensor->name, tensor_shape_text(tensor, shape, sizeof shape), n_rows, n_columns);
}

/* A norm's weight or a bias: n floats in the arena, all finite. NULL on failure. */
static const float *load_vector(struct loader *loader, const char *path, const char *suffix, size_t n, struct error *err)
{
    struct model *model = loader->model;
    char shape[128];
    const char *name = tensor_name(loader, path, suffix);
    float *values = arena_allocate_array(&model->arena, n, sizeof *values);
    if (!name || !values) {
        error_no_memory(err);
        return NULL;
    }
    const struct tensor *tensor = use(loader, name);
    if (!tensor) {
        error_set(err, ERROR_MISMATCH, name, "the weights have no tensor '%s'", name);
        return NULL;
    }
    if (!check_dtype(tensor, err))
        return NULL;
    if (tensor->n_dims != 1 || tensor->shape[0] != n) {
        error_set(err, ERROR_MISMATCH, name, "'%s' has the shape %s, but the config asks for [%zu]", name,
                  tensor_shape_text(tensor, shape, sizeof shape), n);
        return NULL;
    }
    size_t bad = dtype_find_not_finite(tensor->data, tensor->dtype, n);
    if (bad < n) {
        error_set(err, ERROR_MISMATCH, name, "element %zu of '%s' is not finite", bad, name);
        return NULL;
    }
    dtype_to_f32(values, tensor->data, tensor->dtype, n);
    model->n_parameters += n;
    return values;
}

static bool load_norms(struct loader *loader, struct error *err)
{
    struct model *model = loader->model;
    for (size_t i = 0; i < model->n_norms; i++) {
        struct norm *norm = &model->norms[i];
        norm->weight = load_vector(loader, norm->path, ".weight", norm->n, err);
        if (!norm->weight)
            return false;
        if (model->config.family->norm == NORM_LAYER &&
            !(norm->bias = load_vector(loader, norm->path, ".bias", norm->n, err)))
            return false;
    }
    return true;
}

static bool find_site_tensor(struct loader *loader, struct site *site, const struct tensor **out, struct error *err)
{
    site->tensor_name = tensor_name(loader, site->path, ".weight");
    if (!site->tensor_name)
        return error_no_memory(err);
    const struct tensor *tensor = use(loader, site->tensor_name);
    if (!tensor)
        return error_set(err, ERROR_MISMATCH, site->tensor_name, "the weights have no tensor '%s'", site->tensor_name);
    bool is_table = site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION;
    bool is_transposed = is_table || site->is_conv1d;
    size_t n_rows = is_transposed ? site->n_in : site->n_out, n_columns = is_transposed ? site->n_out : site->n_in;
    if (!check_dtype(tensor, err) || !check_matrix_shape(tensor, n_rows, n_columns, err))
        return false;
    *out = tensor;
    return true;
}

/* A tied model's file may hold the table once, under either name, or twice. Twice and different is a contradiction
   that releases of transformers resolve in different ways, so it is not ours to resolve. */
static bool find_tied_tensor(struct loader *loader, struct error *err)
{
    struct model *model = loader->model;
    struct site *embedding = &model->sites[model->embedding_site], *head = &model->sites[model->head_site];
    const char *embedding_name = tensor_name(loader, embedding->path, ".weight");
    const char *head_name = tensor_name(loader, head->path, ".weight");
    if (!embedding_name || !head_name)
        return error_no_memory(err);

    const struct tensor *table = use(loader, embedding_name), *second = use(loader, head_name);
    if (!table && !second)
        return error_set(err, ERROR_MISMATCH, embedding_name, "the weights have no tensor '%s'", embedding_name);
    if (table && second &&
        (table->dtype != second->dtype || table->n_bytes != second->n_bytes ||
         memcmp(table->data, second->data, table->n_bytes) != 0))
        return error_set(err, ERROR_MISMATCH, "tie_word_embeddings",
                         "the config ties the output head to the embedding, but '%s' and '%s' differ", head_name,
                         embedding_name);
    embedding->tensor_name = head->tensor_name = table ? embedding_name : head_name;
    table = table ? table : second;
    loader->site_tensors[model->embedding_site] = table;
    return check_dtype(table, err) && check_matrix_shape(table, embedding->n_in, embedding->n_out, err);
}

static bool find_site_tensors(struct loader *loader, struct error *err)
{
    struct model *model = loader->model;
    for (size_t i = 0; i < model->n_sites; i++) {
        struct site *site = &model->sites[i];
        if (model->config.tied_head && i == model->head_site)
            continue;
        bool found = model->config.tied_head && i == model->embedding_site
                         ? find_tied_tensor(loader, err)
                         : find_site_tensor(loader, site, &loader->site_tensors[i], err);
        if (!found)
            return false;
        if (layout_site_has_bias(model, site) && !(site->bias = load_vector(loader, site->path, ".bias", site->n_out, err)))
            return false;
    }
    return true;
}

static enum weight_type type_for(const struct loader *loader, const struct site *site, const struct tensor *tensor)
{
    enum weight_type native = weight_type_of(tensor->dtype);
    switch (loader->options->weights) {
    case MODEL_WEIGHTS_NATIVE: return native;
    case MODEL_WEIGHTS_F32: return WEIGHT_F32;
    case MODEL_WEIGHTS_F16: return WEIGHT_F16;
    case MODEL_WEIGHTS_BF16: return WEIGHT_BF16;
    case MODEL_WEIGHTS_Q8: return site_layout(site) == MATRIX_PACKED ? WEIGHT_Q8 : native;
    case MODEL_WEIGHTS_Q4: return site_layout(site) == MATRIX_PACKED ? WEIGHT_Q4 : native;
    }
    return native;
}

/* A tied head is packed from the embedding's tensor. */
static const struct tensor *tensor_of(const struct loader *loader, size_t site)
{
    const struct model *model = loader->model;
    bool is_tied = model->config.tied_head && site == model->head_site;
    return loader->site_tensors[is_tied ? model->embedding_site : site];
}

/* A table of which the file's own bytes serve. */
static bool lies_in_file(const struct loader *loader, size_t index)
{
    const struct site *site = &loader->model->sites[index];
    const struct tensor *tensor = tensor_of(loader, index);
    return site_layout(site) == MATRIX_ROWS && type_for(loader, site, tensor) == weight_type_of(tensor->dtype) &&
           (uintptr_t)tensor->data % dtype_size(tensor->dtype) == 0;
}

/* What a site's matrix is made of, as the cache keeps it. */
static struct cached_matrix describe_matrix(const struct loader *loader, size_t index)
{
    const struct site *site = &loader->model->sites[index];
    const struct tensor *tensor = tensor_of(loader, index);
    return (struct cached_matrix){
        .type = type_for(loader, site, tensor),
        .layout = site_layout(site),
        .n_out = tensor->shape[site->is_conv1d ? 1 : 0],
        .n_in = tensor->shape[site->is_conv1d ? 0 : 1],
        .tensor = tensor,
        .is_transposed = site->is_conv1d,
    };
}

/* What a site's weights need in memory. */
static size_t placed_bytes(const struct loader *loader, size_t index)
{
    struct cached_matrix matrix = describe_matrix(loader, index);
    if (lies_in_file(loader, index) || loader->is_mapped)
        return 0;
    return align_up(matrix_layout_bytes(matrix.type, matrix.layout, matrix.n_out, matrix.n_in), WEIGHTS_ALIGNMENT);
}

/* One piece for all weights: small matrices lie on huge pages together. */
static bool allocate_weights(struct loader *loader, struct error *err)
{
    struct model *model = loader->model;
    size_t n_bytes = 0;
    for (size_t i = 0; i < model->n_sites; i++)
        if (!size_add(n_bytes, placed_bytes(loader, i), &n_bytes))
            return error_no_memory(err);
    if (n_bytes == 0)
        return true;
    model->weights_memory = huge_allocate(n_bytes);
    model->weights_memory_bytes = n_bytes;
    return model->weights_memory || error_no_memory(err);
}

/* A site's matrix: in the file, the cache or memory. */
static bool create_weight(struct loader *loader, size_t index, struct error *err)
{
    struct site *site = &loader->model->sites[index];
    struct cached_matrix matrix = describe_matrix(loader, index);
    if (lies_in_file(loader, index)) {
        site->weight = matrix_wrap(matrix.type, matrix.layout, matrix.n_out, matrix.n_in, matrix.tensor->data, err);
    } else if (loader->is_mapped) {
        site->weight = matrix_wrap(matrix.type, matrix.layout, matrix.n_out, matrix.n_in, loader->cached[index], err);
    } else {
        void *memory = (char *)loader->model->weights_memory + loader->n_placed_bytes;
        site->weight = matrix_place(matrix.type, matrix.layout, matrix.n_out, matrix.n_in, memory, err);
        loader->n_placed_bytes += placed_bytes(loader, index);
    }
    if (!site->weight)
        return false;
    if (matrix.type != weight_type_of(matrix.tensor->dtype)) {
        site->weight->origin = matrix.tensor;
        site->weight->origin_is_transposed = matrix.is_transposed;
    }
    return true;
}

/* Where a site's chunks begin among all: pieces of work of about the same size. */
struct chunk {
    size_t site, first, n_rows;
};

static size_t chunk_rows(const struct matrix *matrix)
{
    return size_max(1, CHUNK_ELEMENTS / (PANEL_ROWS * matrix->n_in)) * PANEL_ROWS;
}

static bool list_chunks(struct loader *loader, struct error *err)
{
    const struct model *model = loader->model;
    for (int pass = 0; pass < 2; pass++) {
        loader->n_chunks = 0;
        for (size_t i = 0; i < model->n_sites; i++) {
            const struct matrix *weight = model->sites[i].weight;
            size_t step = chunk_rows(weight);
            for (size_t row = 0; weight->owned && row < weight->n_out; row += step, loader->n_chunks++)
                if (pass == 1)
                    loader->chunks[loader->n_chunks] = (struct chunk){i, row, size_min(step, weight->n_out - row)};
        }
        if (pass == 0 && !(loader->chunks = malloc((loader->n_chunks + 1) * sizeof *loader->chunks)))
            return error_no_memory(err);
    }
    return true;
}

/* Where a row's panel, or the row of a table, begins; the end of the matrix for what is behind the last one. */
static size_t begin_of(const struct matrix *matrix, size_t row)
{
    if (row >= matrix->n_out)
        return matrix_bytes(matrix);
    return matrix->layout == MATRIX_PACKED ? packed_at(matrix->type, row, matrix->n_in)
                                           : row * matrix->n_in * weight_type_size(matrix->type);
}

static void copy_chunk(const struct matrix *matrix, const void *cached, const struct chunk *chunk)
{
    size_t begin = begin_of(matrix, chunk->first), end = begin_of(matrix, chunk->first + chunk->n_rows);
    memcpy((char *)matrix->owned + begin, (const char *)cached + begin, end - begin);
}

static void fill_chunk(void *context, size_t part, size_t n_parts, size_t thread)
{
    struct loader *loader = context;
    const struct chunk *chunk = &loader->chunks[part];
    const struct site *site = &loader->model->sites[chunk->site];
    if (loader->is_cached)
        copy_chunk(site->weight, loader->cached[chunk->site], chunk);
    else if (!matrix_fill(site->weight, tensor_of(loader, chunk->site), site->is_conv1d, chunk->first, chunk->n_rows, NULL))
        atomic_store(&loader->has_failed, true); /* there is no memory */
    size_t n_done = atomic_fetch_add(&loader->n_done, 1) + 1;
    if (thread == 0)
        report(loader, "loading weights", (double)n_done / (double)n_parts);
}

/* The kernel reads ahead what will be served from the mapping, and drops what was copied out of it. */
static void advise(const struct model *model, bool is_copied)
{
    long page = sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < model->files.n_files; i++) {
        const struct file_bytes *file = &model->files.files[i];
        if (file->is_mapped && file->n_bytes && page > 0 && (uintptr_t)file->data % (uintptr_t)page == 0)
            madvise((void *)file->data, file->n_bytes, is_copied ? MADV_DONTNEED : MADV_WILLNEED);
    }
}

/* All cores together, each the first to touch what it fills. */
static bool fill_weights(struct loader *loader, struct error *err)
{
    struct pool *pool = pool_create(size_min(cpu_usable_cores(), MOST_THREADS), err);
    if (!pool)
        return false;
    pool_run(pool, fill_chunk, loader, loader->n_chunks);
    pool_destroy(pool);
    return !atomic_load(&loader->has_failed) || error_no_memory(err);
}

/* ---- the cache ---- */

static const char *weights_text(enum model_weights weights)
{
    static const char *const names[] = {
        [MODEL_WEIGHTS_NATIVE] = "native", [MODEL_WEIGHTS_F32] = "f32", [MODEL_WEIGHTS_F16] = "f16",
        [MODEL_WEIGHTS_BF16] = "bf16",     [MODEL_WEIGHTS_Q8] = "q8",   [MODEL_WEIGHTS_Q4] = "q4",
    };
    return names[weights];
}

static const char *keep_message(struct model *model, const struct error *err)
{
    const char *copy = arena_copy_text(&model->arena, err->message, strlen(err->message));
    return copy ? copy : "there is no memory";
}

/* What does not lie in the model's file would lie in the cache. */
static bool plan_cache(struct loader *loader, struct error *err)
{
    struct model *model = loader->model;
    size_t n = 0;
    struct cached_matrix *matrices = arena_allocate_array(&model->arena, model->n_sites, sizeof *matrices);
    if (!matrices)
        return error_no_memory(err);
    for (size_t i = 0; i < model->n_sites; i++)
        if (!lies_in_file(loader, i))
            matrices[n++] = describe_matrix(loader, i);
    return weight_cache_init(&model->cache, loader->options->cache_directory, loader->options->directory,
                             weights_text(loader->options->weights), &model->files, matrices, n, &model->arena, err);
}

/* Who uses what is in the cache where it is shares it with others. But products from small pages take up to a quarter longer, so
   where there are no others, memory of one's own is better. */
static bool open_cache(struct loader *loader, struct error *err)
{
    struct model *model = loader->model;
    struct error why = {0};
    if (!loader->options->cache_directory)
        return true;
    if (!plan_cache(loader, err))
        return false;
    loader->is_cached = weight_cache_open(&model->cache, &why);
    if (!loader->is_cached && why.code != ERROR_NOT_FOUND)
        model->cache_refused = keep_message(model, &why);
    loader->is_mapped = loader->is_cached && weight_cache_is_huge(&model->cache);
    model->cache_was_read = loader->is_cached && !loader->is_mapped;
    loader->cached = arena_allocate_array(&model->arena, model->n_sites, sizeof *loader->cached);
    if (!loader->cached)
        return error_no_memory(err);
    for (size_t i = 0, n = 0; loader->is_cached && i < model->n_sites; i++)
        if (!lies_in_file(loader, i))
            loader->cached[i] = model->cache.matrices[n++].data;
    return true;
}

static void report_writing(void *context, double fraction)
{
    report(context, "writing the weights cache", fraction);
}

/* The file's pages take the place of this process's memory: others share them, and nothing is there twice. */
static void move_to_cache(struct model *model)
{
    size_t n_moved = 0;
    if (!weight_cache_is_huge(&model->cache)) {
        weight_cache_close(&model->cache);
        return;
    }
    for (size_t i = 0; i < model->n_sites; i++)
        if (model->sites[i].weight->owned)
            matrix_move(model->sites[i].weight, model->cache.matrices[n_moved++].data);
    huge_free(model->weights_memory, model->weights_memory_bytes);
    model->weights_memory = NULL;
}

static void write_cache(struct loader *loader)
{
    struct model *model = loader->model;
    struct weight_cache *cache = &model->cache;
    struct error why = {0};
    size_t n_given = 0;
    for (size_t i = 0; i < model->n_sites; i++)
        if (model->sites[i].weight->owned)
            cache->matrices[n_given++].data = model->sites[i].weight->data;
    model->cache_was_written = directory_create(loader->options->cache_directory, &why) &&
                               weight_cache_write(cache, report_writing, loader, &why) && weight_cache_open(cache, &why);
    if (model->cache_was_written)
        move_to_cache(model);
    else
        model->cache_failed = keep_message(model, &why);
}

static bool load_weights(struct loader *loader, struct error *err)
{
    struct model *model = loader->model;
    if (!open_cache(loader, err))
        return false;
    if (!loader->is_cached)
        advise(model, false);
    report(loader, "loading weights", 0);
    if (!allocate_weights(loader, err))
        return false;
    for (size_t i = 0; i < model->n_sites; i++)
        if (!create_weight(loader, i, err))
            return false;
    if (!list_chunks(loader, err) || (loader->n_chunks > 0 && !fill_weights(loader, err)))
        return false;
    report(loader, "loading weights", 1);
    if (!loader->is_cached)
        advise(model, true);
    if (loader->options->cache_directory && !loader->is_cached)
        write_cache(loader);
    if (model->cache_was_read)
        weight_cache_close(&model->cache);
    return true;
}

static void describe_weights(struct model *model)
{
    bool has_type[N_WEIGHT_TYPES] = {false};
    for (size_t i = 0; i < model->n_sites; i++) {
        const struct matrix *weight = model->sites[i].weight;
        bool is_tied = model->config.tied_head && i == model->head_site;
        model->n_parameters += is_tied ? 0 : (uint64_t)weight->n_out * weight->n_in;
        model->weight_bytes += matrix_bytes(weight);
        has_type[weight->type] |= weight->layout == MATRIX_PACKED;
    }
    size_t n_types = 0;
    for (size_t type = 0; type < N_WEIGHT_TYPES; type++)
        if (has_type[type]) {
            model->weights_name = weight_type_name((enum weight_type)type);
            n_types++;
        }
    if (n_types > 1)
        model->weights_name = "mixed";
}

static bool ends_with(const char *text, const char *end)
{
    size_t n_text = strlen(text), n_end = strlen(end);
    return n_text >= n_end && strcmp(text + n_text - n_end, end) == 0;
}

/* Masks and tables that old files carry along: computed, not learned. */
static bool is_known_buffer(const struct family *family, const struct tensor *tensor)
{
    if (family->position == POSITION_LEARNED)
        return (ends_with(tensor->name, ".attn.bias") && tensor->n_dims == 4) ||
               ends_with(tensor->name, ".attn.masked_bias");
    return ends_with(tensor->name, ".rotary_emb.inv_freq");
}

static bool warn_of_unknown(struct loader *loader, struct error *err)
{
    struct model *model = loader->model;
    char text[LIMIT_NAME_BYTES + 256], shape[128];
    size_t n_unknown = 0;
    const char **warnings = arena_allocate_array(&model->arena, MOST_WARNINGS + 1, sizeof *warnings);
    if (!warnings)
        return error_no_memory(err);
    model->warnings = warnings;
    for (size_t i = 0; i < model->files.n_tensors; i++) {
        const struct tensor *tensor = &model->files.tensors[i];
        if (loader->is_used[i] || is_known_buffer(model->config.family, tensor) || n_unknown++ >= MOST_WARNINGS)
            continue;
        int n = snprintf(text, sizeof text, "tensor '%s' %s is no part of this %s model and is not used", tensor->name,
                         tensor_shape_text(tensor, shape, sizeof shape), model->config.model_type);
        warnings[model->n_warnings] = arena_copy_text(&model->arena, text, size_min((size_t)n, sizeof text - 1));
        if (!warnings[model->n_warnings++])
            return error_no_memory(err);
    }
    if (n_unknown > MOST_WARNINGS) {
        int n = snprintf(text, sizeof text, "%zu more tensors are not used", n_unknown - MOST_WARNINGS);
        warnings[model->n_warnings] = arena_copy_text(&model->arena, text, (size_t)n);
        if (!warnings[model->n_warnings++])
            return error_no_memory(err);
    }
    return true;
}

static bool load_rope(struct model *model, struct error *err)
{
    if (model->config.family->position != POSITION_ROPE)
        return true;
    float *inverse = arena_allocate_array(&model->arena, model->config.d_head / 2, sizeof *inverse);
    if (!inverse)
        return error_no_memory(err);
    rope_inverse_frequencies(inverse, &model->config);
    model->rope_inverse_frequency = inverse;
    return true;
}

static bool read_config(struct model *model, const char *directory, struct error *err)
{
    char *path = path_join(directory, "config.json");
    json_t *config = path ? json_read_file(path, LIMIT_CONFIG_BYTES, JSON_PLAIN, "config.json", err) : NULL;
    if (!path)
        error_no_memory(err);
    free(path);
    if (!config)
        return false;
    bool ok = model_config_parse(&model->config, config, &model->arena, err) &&
              generation_config_read(&model->generation, directory, config, model->config.n_vocab, err);
    json_decref(config);
    return ok;
}

static bool load(struct loader *loader, struct error *err)
{
    struct model *model = loader->model;
    const char *directory = loader->options->directory;
    if (!read_config(model, directory, err) || !layout_build(model, err) ||
        !safetensors_open_model(&model->files, directory, err))
        return false;

    loader->is_used = calloc(model->files.n_tensors + 1, sizeof *loader->is_used);
    loader->site_tensors = calloc(model->n_sites, sizeof *loader->site_tensors);
    if (!loader->is_used || !loader->site_tensors)
        return error_no_memory(err);
    if (!detect_prefix(loader, err) || !load_norms(loader, err) || !find_site_tensors(loader, err) ||
        !load_weights(loader, err) || !load_rope(model, err) || !warn_of_unknown(loader, err))
        return false;
    describe_weights(model);
    return true;
}

struct model *model_open(const struct model_options *options, struct error *err)
{
    struct model *model = calloc(1, sizeof *model);
    if (!model) {
        error_no_memory(err);
        return NULL;
    }
    arena_init(&model->arena, (size_t)1 << 16);
    model->kernels = options->kernels;
    struct loader loader = {.model = model, .options = options};
    bool ok = load(&loader, err);
    free(loader.is_used);
    free(loader.site_tensors);
    free(loader.chunks);
    if (!ok) {
        error_prefix(err, "model '%s'", options->directory);
        model_destroy(model);
        return NULL;
    }
    return model;
}

struct model *model_load(const char *directory, enum model_weights weights, const struct kernels *kernels,
                         model_progress *progress, void *progress_context, struct error *err)
{
    struct model_options options = {.directory = directory,
                                    .weights = weights,
                                    .kernels = kernels,
                                    .progress = progress,
                                    .progress_context = progress_context};
    return model_open(&options, err);
}
