/*
 * export.c - the base's files once more, with merged tensors in the place of some.
 *
 * One tensor is merged at a time and written at once, so a large model needs no second copy in memory. Which
 * base tensors a site or norm stands for is found by name: a site knows its weight's, a bias is called like
 * it.
 */
#include "lora/export.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/json.h"

/* A tensor of the output. */
struct item {
    const struct tensor *from; /* the base's: its name unless `name` is given, its type and shape */
    const char *name;
    size_t site;         /* SIZE_MAX: none */
    const float *values; /* replaces a bias or a norm; n_elements of `from` */
    bool is_bias;        /* of `site`, to which lora_bias adds */
};

struct export
{
    const struct model *model;
    const struct compose_part *parts;
    size_t n_parts;
    export_progress *progress;
    void *progress_context;
    struct view *view; /* what replaces what, with all checks of mixing done */
    struct item *items;
    size_t n_items;
    struct file_writer writer;
    bool splits_tie; /* the head no longer equals the embedding */
};

static bool is_touched(const struct export *export, size_t site)
{
    const struct site_view *view = &export->view->sites[site];
    return view->n_deltas > 0 || view->row_gain || view->weight != export->model->sites[site].weight;
}

/* -- Which tensor is what ------------------------------------------------------------------- */

static bool is_named(const struct tensor *tensor, const char *stem, size_t n_stem, const char *leaf)
{
    return strncmp(tensor->name, stem, n_stem) == 0 && strcmp(tensor->name + n_stem, leaf) == 0;
}

static void match_site(struct export *export, struct item *item, size_t index)
{
    const struct site *site = &export->model->sites[index];
    size_t n_name = strlen(site->tensor_name), n_leaf = strlen(".weight");
    if (strcmp(item->from->name, site->tensor_name) == 0) {
        item->site = index;
    } else if (n_name > n_leaf && is_named(item->from, site->tensor_name, n_name - n_leaf, ".bias")) {
        item->site = index;
        item->is_bias = true;
        item->values = export->view->sites[index].bias == site->bias ? NULL : export->view->sites[index].bias;
    }
}

/* A norm's path ends with the tensor's name, since the files may leave the family's prefix out. */
static bool is_norm_tensor(const struct tensor *tensor, const struct norm *norm, const char *leaf)
{
    size_t n = strlen(tensor->name), n_leaf = strlen(leaf), n_path = strlen(norm->path);
    if (n <= n_leaf || strcmp(tensor->name + n - n_leaf, leaf) != 0)
        return false;
    size_t n_stem = n - n_leaf;
    const char *stem = n_stem <= n_path ? norm->path + n_path - n_stem : norm->path;
    const char *name = n_stem <= n_path ? tensor->name : tensor->name + n_stem - n_path;
    size_t n_common = size_min(n_stem, n_path);
    bool is_whole = n_stem == n_path || (n_stem < n_path ? stem[-1] == '.' : name[-1] == '.');
    return is_whole && strncmp(stem, name, n_common) == 0;
}

static void match_norm(struct export *export, struct item *item, size_t index)
{
    const struct norm *norm = &export->model->norms[index];
    const struct norm_view *view = &export->view->norms[index];
    if (view->weight != norm->weight && is_norm_tensor(item->from, norm, ".weight"))
        item->values = view->weight;
    if (view->bias != norm->bias && is_norm_tensor(item->from, norm, ".bias"))
        item->values = view->bias;
}

static bool is_tied_head(const struct model *model, size_t site)
{
    return model->config.tied_head && site == model->head_site;
}

static bool list_items(struct export *export, struct error *err)
{
    const struct model *model = export->model;
    size_t n = model->files.n_tensors;
    export->items = calloc(n + 1, sizeof *export->items);
    if (!export->items)
        return error_no_memory(err);
    for (size_t i = 0; i < n; i++) {
        struct item *item = &export->items[export->n_items];
        *item = (struct item){.from = &model->files.tensors[i], .site = SIZE_MAX};
        for (size_t site = 0; site < model->n_sites; site++)
            if (!is_tied_head(model, site))
                match_site(export, item, site);
        for (size_t norm = 0; norm < model->n_norms; norm++)
            match_norm(export, item, norm);
        /* Some files hold the tied head too; it is written below if it is a tensor of its own now. */
        bool is_old_head = export->splits_tie && strcmp(item->from->name, "lm_head.weight") == 0;
        export->n_items += !is_old_head;
    }
    if (export->splits_tie) {
        const struct tensor *embedding =
            tensor_file_find(&model->files, model->sites[model->embedding_site].tensor_name);
        export->items[export->n_items++] =
            (struct item){.from = embedding, .name = "lm_head.weight", .site = model->head_site};
    }
    return true;
}

/* Every change must have found its tensor. */
static bool check_all_found(const struct export *export, struct error *err)
{
    const struct model *model = export->model;
    for (size_t site = 0; site < model->n_sites; site++) {
        bool is_found = !is_touched(export, site) || is_tied_head(model, site);
        for (size_t i = 0; i < export->n_items && !is_found; i++)
            is_found = export->items[i].site == site && !export->items[i].is_bias;
        if (!is_found)
            return error_set(err, ERROR_INTERNAL, model->sites[site].path,
                             "the base's tensor of '%s' was not found", model->sites[site].path);
    }
    return true;
}

static bool check_biases(const struct export *export, struct error *err)
{
    for (size_t site = 0; site < export->model->n_sites; site++) {
        const struct site_view *view = &export->view->sites[site];
        for (size_t i = 0; i < view->n_deltas; i++)
            if (view->deltas[i].bias && !export->model->sites[site].bias)
                return error_set(err, ERROR_MISMATCH, "lora_bias",
                                 "the adapter adds a bias to '%s' (lora_bias), which has none in the base: "
                                 "it cannot be merged into a model of this family",
                                 export->model->sites[site].path);
    }
    return true;
}

/* Whether embedding and head, one tensor in the base, are still equal. */
static bool find_tie(struct export *export, struct error *err)
{
    const struct model *model = export->model;
    if (!model->config.tied_head ||
        (!is_touched(export, model->embedding_site) && !is_touched(export, model->head_site)))
        return true;
    struct matrix *embedding = merge_site(model, model->embedding_site, export->parts, export->n_parts, err);
    struct matrix *head =
        embedding ? merge_site(model, model->head_site, export->parts, export->n_parts, err) : NULL;
    if (head)
        export->splits_tie =
            embedding->type != head->type ||
            memcmp(embedding->data, head->data, head->n_out * head->n_in * weight_type_size(head->type)) != 0;
    bool ok = head != NULL;
    matrix_unref(embedding);
    matrix_unref(head);
    return ok;
}

/* -- Writing ------------------------------------------------------------------------------- */

static const char *name_of(const struct item *item)
{
    return item->name ? item->name : item->from->name;
}

static json_t *describe(const struct item *item, size_t begin)
{
    json_t *shape = json_array();
    for (size_t i = 0; shape && i < item->from->n_dims; i++)
        if (json_array_append_new(shape, json_integer((json_int_t)item->from->shape[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(item->from->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)(begin + item->from->n_bytes));
}

static char *make_header(const struct export *export)
{
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    size_t at = 0;
    bool ok = header != NULL;
    for (size_t i = 0; ok && i < export->n_items; i++) {
        ok = json_object_set_new(header, name_of(&export->items[i]), describe(&export->items[i], at)) == 0;
        at += export->items[i].from->n_bytes;
    }
    char *text = ok ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    return text;
}

/* The length, the header, and spaces up to a multiple of 64, so that the data is aligned. */
static bool write_header(struct export *export, struct error *err)
{
    static const char spaces[64] = "                                                                ";
    char *text = make_header(export);
    unsigned char length[8];
    if (!text)
        return error_no_memory(err);
    size_t n = strlen(text), n_total = align_up(n + 8, 64) - 8;
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)n_total >> (8 * i));
    bool ok = file_writer_write(&export->writer, length, 8, err) &&
              file_writer_write(&export->writer, text, n, err) &&
              file_writer_write(&export->writer, spaces, n_total - n, err);
    free(text);
    return ok;
}

static bool write_floats(struct export *export, const float *values, const struct tensor *as,
                         struct error *err)
{
    void *bytes = malloc(as->n_bytes);
    if (!bytes)
        return error_no_memory(err);
    dtype_from_f32(bytes, as->dtype, values, as->n_elements);
    bool ok = dtype_find_not_finite(bytes, as->dtype, as->n_elements) == as->n_elements ||
              error_set(err, ERROR_MISMATCH, as->name, "tensor '%s' does not fit into %s once merged",
                        as->name, dtype_name(as->dtype));
    ok = ok && file_writer_write(&export->writer, bytes, as->n_bytes, err);
    free(bytes);
    return ok;
}

static bool write_bias(struct export *export, const struct item *item, struct error *err)
{
    const struct site_view *view = &export->view->sites[item->site];
    size_t n = item->from->n_elements;
    float *bias = malloc(n * sizeof *bias);
    if (!bias)
        return error_no_memory(err);
    memcpy(bias, view->bias, n * sizeof *bias);
    for (size_t i = 0; i < view->n_deltas; i++)
        for (size_t o = 0; view->deltas[i].bias && o < n; o++)
            bias[o] += view->deltas[i].scale * view->deltas[i].bias[o];
    bool ok = write_floats(export, bias, item->from, err);
    free(bias);
    return ok;
}

static bool adds_bias(const struct export *export, size_t site)
{
    const struct site_view *view = &export->view->sites[site];
    for (size_t i = 0; i < view->n_deltas; i++)
        if (view->deltas[i].bias)
            return true;
    return false;
}

/* In the file's type and orientation. */
static bool write_matrix(struct export *export, const struct item *item, struct error *err)
{
    const struct site *site = &export->model->sites[item->site];
    const struct tensor *as = item->from;
    struct matrix *merged = merge_site(export->model, item->site, export->parts, export->n_parts, err);
    float *wide = merged ? malloc(merged->n_out * merged->n_in * sizeof *wide) : NULL;
    bool ok = wide || (merged && error_no_memory(err));
    if (wide) {
        size_t n_rows = merged->n_out, n_columns = merged->n_in;
        float *row = wide;
        if (site->is_conv1d) {
            row = malloc(n_columns * sizeof *row);
            ok = row || error_no_memory(err);
        }
        for (size_t i = 0; ok && i < n_rows; i++) {
            dtype_to_f32(site->is_conv1d ? row : wide + i * n_columns, matrix_row(merged, i),
                         dtype_of_weight(merged->type), n_columns);
            for (size_t j = 0; site->is_conv1d && j < n_columns; j++)
                wide[j * n_rows + i] = row[j];
        }
        if (site->is_conv1d)
            free(row);
        ok = ok && write_floats(export, wide, as, err);
    }
    free(wide);
    matrix_unref(merged);
    return ok;
}

static bool write_item(struct export *export, const struct item *item, struct error *err)
{
    if (item->site != SIZE_MAX && item->is_bias && (item->values || adds_bias(export, item->site)))
        return write_bias(export, item, err);
    if (item->values)
        return write_floats(export, item->values, item->from, err);
    if (item->site != SIZE_MAX && !item->is_bias && is_touched(export, item->site))
        return write_matrix(export, item, err);
    return file_writer_write(&export->writer, item->from->data, item->from->n_bytes, err);
}

static bool write_weights(struct export *export, const char *directory, struct error *err)
{
    char *path = path_join(directory, "model.safetensors");
    bool ok = path ? file_writer_open(&export->writer, path, err) && write_header(export, err)
                   : error_no_memory(err);
    for (size_t i = 0; ok && i < export->n_items; i++) {
        if (export->progress)
            export->progress(export->progress_context, name_of(&export->items[i]),
                             (double)i / (double)export->n_items);
        ok = write_item(export, &export->items[i], err);
    }
    if (ok)
        ok = file_writer_commit(&export->writer, err);
    else
        file_writer_abort(&export->writer);
    free(path);
    return ok;
}

/* -- The other files ----------------------------------------------------------------------- */

static bool copy_file(const char *from_directory, const char *to_directory, const char *name,
                      struct error *err)
{
    struct file_bytes bytes = {0};
    char *from = path_join(from_directory, name), *to = path_join(to_directory, name);
    bool ok = (from && to) || error_no_memory(err);
    if (ok && file_exists(from))
        ok = file_map(&bytes, from, err) &&
             file_replace(to, bytes.data ? (const char *)bytes.data : "", bytes.n_bytes, err);
    file_close(&bytes);
    free(from);
    free(to);
    return ok;
}

static bool write_untied_config(const char *from_directory, const char *to_directory, struct error *err)
{
    char *from = path_join(from_directory, "config.json"), *to = path_join(to_directory, "config.json"),
         *text = NULL;
    json_t *config = NULL;
    bool ok = (from && to) || error_no_memory(err);
    if (ok)
        config = json_read_file(from, LIMIT_CONFIG_BYTES, JSON_PLAIN, "config.json", err);
    if (config) {
        bool is_set = json_object_set_new(config, "tie_word_embeddings", json_false()) == 0;
        text = is_set ? json_dumps(config, JSON_INDENT(2)) : NULL;
        ok = text ? file_replace(to, text, strlen(text), err) : error_no_memory(err);
    } else {
        ok = false;
    }
    json_decref(config);
    free(text);
    free(from);
    free(to);
    return ok;
}

static bool copy_files(const struct export *export, const char *from, const char *to, struct error *err)
{
    static const char *const names[] = {"generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "tokenizer.model",
                                        "chat_template.jinja"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!copy_file(from, to, names[i], err))
            return false;
    return export->splits_tie ? write_untied_config(from, to, err) : copy_file(from, to, "config.json", err);
}

/* -- The directory -------------------------------------------------------------------------- */

static bool check_target(const char *directory, struct error *err)
{
    struct stat status;
    if (lstat(directory, &status) != 0)
        return errno == ENOENT || error_io(err, "cannot look at", directory, errno);
    DIR *stream = opendir(directory);
    if (!stream)
        return error_set(err, ERROR_CONFLICT, "output",
                         "'%s' is there already, and is no directory that can be read", directory);
    size_t n = 0;
    while (readdir(stream))
        n++;
    closedir(stream);
    return n <= 2 || error_set(err, ERROR_CONFLICT, "output", "'%s' is not empty", directory);
}

static char *create_beside(const char *directory, struct error *err)
{
    char *beside = NULL;
    size_t n = strlen(directory);
    while (n > 1 && directory[n - 1] == '/')
        n--;
    if (asprintf(&beside, "%.*s.XXXXXX", (int)n, directory) < 0) {
        error_no_memory(err);
        return NULL;
    }
    if (mkdtemp(beside) && chmod(beside, 0755) == 0)
        return beside;
    error_io(err, "cannot create a directory beside", directory, errno);
    free(beside);
    return NULL;
}

static bool write_directory(struct export *export, const char *model_directory, const char *out_directory,
                            struct error *err)
{
    char *beside = create_beside(out_directory, err);
    if (!beside)
        return false;
    bool ok = copy_files(export, model_directory, beside, err) && write_weights(export, beside, err);
    if (ok && ((rmdir(out_directory) != 0 && errno != ENOENT) || rename(beside, out_directory) != 0))
        ok = error_io(err, "cannot rename the finished directory to", out_directory, errno);
    if (!ok && !directory_remove(beside, NULL))
        error_prefix(err, "('%s' is left behind)", beside);
    free(beside);
    return ok;
}

bool export_merged(const struct model *model, const char *model_directory, const struct compose_part *parts,
                   size_t n_parts, const char *out_directory, export_progress *progress,
                   void *progress_context, struct error *err)
{
    struct export export = {.model = model,
                            .parts = parts,
                            .n_parts = n_parts,
                            .progress = progress,
                            .progress_context = progress_context};
    if (!check_target(out_directory, err))
        return false;
    export.view = compose_on_the_fly(model, parts, n_parts, err);
    bool ok = export.view && check_biases(&export, err) && find_tie(&export, err) &&
              list_items(&export, err) && check_all_found(&export, err) &&
              write_directory(&export, model_directory, out_directory, err);
    view_unref(export.view);
    free(export.items);
    return ok;
}
