/*
 * safetensors.c - 8 bytes with the header's length, a JSON header, the tensors' bytes.
 *
 * The format is safe because everything in it can be checked before anything is believed, so the
 * order of the checks is the point of this file: the length against the limit and the file, the
 * first character, UTF-8, JSON without duplicate keys, then each tensor by itself (type, shape,
 * the product of the shape against the span) and all spans together: sorted by place, each begins
 * where the one before ended, and the last ends with the file. Two tensors can then not share a
 * byte, and no byte belongs to none.
 */
#include "formats/tensor_file.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/utf8.h"

enum {
    PREFIX_BYTES = 8,    /* the header's length, little-endian */
    MOST_SHARDS = 4096,  /* the largest models known have 200 */
    DATA_ALIGNMENT = 64, /* of what we write */
    ARENA_CHUNK = 64 * 1024
};

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"
#define PICKLE_NAME "pytorch_model.bin"

const struct tensor_file_limits TENSOR_FILE_BASE_MODEL = {
    .header_bytes = LIMIT_MODEL_HEADER_BYTES,
    .n_tensors = LIMIT_TENSORS,
    .allow_empty = true,
};

const struct tensor_file_limits TENSOR_FILE_ADAPTER = {
    .header_bytes = LIMIT_ADAPTER_HEADER_BYTES,
    .n_tensors = LIMIT_ADAPTER_TENSORS,
    .read_privately = true,
};

/* --- one file's header --- */

/* "tensor 'name' ...", with the name as param. */
static bool tensor_error(struct error *err, enum error_code code, const char *name, const char *format, ...)
    PRINTF_LIKE(4, 5);
static bool tensor_error(struct error *err, enum error_code code, const char *name, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_set(err, code, name, "tensor '%.100s' %s", name, text);
}

/* The bytes of one file while it is looked at. */
struct image {
    const unsigned char *data; /* the tensors' bytes */
    size_t n_bytes;
    const char *header;
    size_t n_header;
};

static bool find_header(struct image *image, const unsigned char *bytes, size_t n_bytes,
                        const struct tensor_file_limits *limits, struct error *err)
{
    if (n_bytes < PREFIX_BYTES)
        return error_set(err, ERROR_BAD_INPUT, "header",
                         "the file has %zu bytes, which is too short for safetensors", n_bytes);
    uint64_t n_header = load_le64(bytes);
    if (n_header > n_bytes - PREFIX_BYTES)
        return error_set(err, ERROR_BAD_INPUT, "header",
                         "the header should have %" PRIu64
                         " bytes, but the file ends %zu bytes after its beginning: "
                         "it is cut short, or not safetensors",
                         n_header, n_bytes - PREFIX_BYTES);
    if (n_header > limits->header_bytes)
        return error_set(err, ERROR_TOO_LARGE, "header",
                         "the header has %" PRIu64 " bytes; at most %zu are allowed", n_header,
                         limits->header_bytes);
    const char *header = (const char *)bytes + PREFIX_BYTES;
    if (n_header == 0 || header[0] != '{')
        return error_set(err, ERROR_BAD_INPUT, "header", "the header does not begin with '{'");
    image->header = header;
    image->n_header = (size_t)n_header;
    image->data = bytes + PREFIX_BYTES + image->n_header;
    image->n_bytes = n_bytes - PREFIX_BYTES - image->n_header;
    return true;
}

static bool check_metadata(const json_t *metadata, struct error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return error_set(err, ERROR_BAD_INPUT, "__metadata__", "__metadata__ must be an object of strings");
    json_object_foreach ((json_t *)(uintptr_t)metadata, key, value)
        if (!json_is_string(value))
            return error_set(err, ERROR_BAD_INPUT, "__metadata__",
                             "'%.100s' in __metadata__ must be a string", key);
    return true;
}

static bool wrong(const char *name, const char *field, const char *expected, const json_t *value,
                  struct error *err)
{
    char found[96];
    return tensor_error(err, ERROR_BAD_INPUT, name, "must have %s as %s, but has %s", expected, field,
                        json_describe(value, found, sizeof found));
}

static bool read_dtype(struct tensor *tensor, const json_t *value, struct error *err)
{
    if (!json_is_string(value))
        return wrong(tensor->name, "its dtype", "a string", value, err);
    if (!dtype_from_name(json_string_value(value), &tensor->dtype))
        return wrong(tensor->name, "its dtype", "a type that we know", value, err);
    return true;
}

/* Sizes are plain integers here: the format allows no 8.0. */
static bool read_size(size_t *out, const json_t *value)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (size_t)json_integer_value(value);
    return true;
}

static bool read_shape(struct tensor *tensor, const json_t *value, const struct tensor_file_limits *limits,
                       struct error *err)
{
    if (!json_is_array(value))
        return wrong(tensor->name, "its shape", "an array", value, err);
    if (json_array_size(value) > LIMIT_TENSOR_DIMS)
        return tensor_error(err, ERROR_TOO_LARGE, tensor->name, "has %zu dimensions; at most %d are allowed",
                            json_array_size(value), LIMIT_TENSOR_DIMS);
    tensor->n_dims = json_array_size(value);
    tensor->n_elements = 1;
    bool fits = true, is_empty = false;
    for (size_t i = 0; i < tensor->n_dims; i++) {
        const json_t *size = json_array_get(value, i);
        if (!read_size(&tensor->shape[i], size))
            return wrong(tensor->name, "each size of its shape", "an integer from 0", size, err);
        is_empty |= tensor->shape[i] == 0;
        fits = fits && size_multiply(tensor->n_elements, tensor->shape[i], &tensor->n_elements);
    }
    if (!fits || !size_multiply(tensor->n_elements, dtype_size(tensor->dtype), &tensor->n_bytes))
        return tensor_error(err, ERROR_BAD_INPUT, tensor->name,
                            "has a shape whose size does not fit in memory");
    if (is_empty && !limits->allow_empty)
        return tensor_error(err, ERROR_BAD_INPUT, tensor->name, "has no elements");
    return true;
}

static bool read_span(struct tensor *tensor, const json_t *value, const struct image *image,
                      struct error *err)
{
    size_t begin, end;
    char shape[128];
    if (!json_is_array(value) || json_array_size(value) != 2 ||
        !read_size(&begin, json_array_get(value, 0)) || !read_size(&end, json_array_get(value, 1)))
        return tensor_error(err, ERROR_BAD_INPUT, tensor->name,
                            "must have two integers from 0 as data_offsets");
    if (begin > end)
        return tensor_error(err, ERROR_BAD_INPUT, tensor->name, "ends at %zu, before it begins at %zu", end,
                            begin);
    if (end > image->n_bytes)
        return tensor_error(err, ERROR_BAD_INPUT, tensor->name,
                            "ends at byte %zu of the data, but the file has only %zu: it is cut short", end,
                            image->n_bytes);
    if (end - begin != tensor->n_bytes)
        return tensor_error(err, ERROR_BAD_INPUT, tensor->name, "has %zu bytes, but %s of %s needs %zu",
                            end - begin, tensor_shape_text(tensor, shape, sizeof shape),
                            dtype_name(tensor->dtype), tensor->n_bytes);
    tensor->data = image->data + begin;
    return true;
}

static bool read_entry(struct tensor *tensor, const json_t *entry, const struct image *image,
                       const struct tensor_file_limits *limits, struct error *err)
{
    static const char *const FIELDS[] = {"dtype", "shape", "data_offsets", NULL};
    if (!json_is_object(entry))
        return wrong(tensor->name, "its entry", "an object", entry, err);
    for (const char *const *field = FIELDS; *field; field++)
        if (!json_object_get(entry, *field))
            return tensor_error(err, ERROR_BAD_INPUT, tensor->name, "has no %s", *field);
    const char *key;
    json_t *value;
    JSON_FOR_EACH (entry, key, value)
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 && strcmp(key, "data_offsets") != 0)
            return tensor_error(err, ERROR_BAD_INPUT, tensor->name, "has an unknown field '%s'", key);
    return read_dtype(tensor, json_object_get(entry, "dtype"), err) &&
           read_shape(tensor, json_object_get(entry, "shape"), limits, err) &&
           read_span(tensor, json_object_get(entry, "data_offsets"), image, err);
}

static int compare_places(const void *left, const void *right)
{
    const struct tensor *a = left, *b = right;
    uintptr_t begin_a = (uintptr_t)a->data, begin_b = (uintptr_t)b->data;
    if (begin_a != begin_b)
        return begin_a < begin_b ? -1 : 1;
    /* Empty ones first: they end where the next begins. */
    return (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes);
}

/* Puts the tensors into the order of the file and checks that they cover it exactly. */
static bool check_coverage(struct tensor *tensors, size_t n_tensors, const struct image *image,
                           struct error *err)
{
    qsort(tensors, n_tensors, sizeof *tensors, compare_places);
    size_t covered = 0;
    for (size_t i = 0; i < n_tensors; i++) {
        size_t begin = (size_t)((const unsigned char *)tensors[i].data - image->data);
        if (begin < covered)
            return tensor_error(err, ERROR_BAD_INPUT, tensors[i].name,
                                "begins at byte %zu of the data, inside of '%s'", begin, tensors[i - 1].name);
        if (begin > covered)
            return tensor_error(
                err, ERROR_BAD_INPUT, tensors[i].name,
                "begins at byte %zu of the data, but the bytes from %zu on belong to no tensor", begin,
                covered);
        covered = begin + tensors[i].n_bytes;
    }
    if (covered != image->n_bytes)
        return error_set(err, ERROR_BAD_INPUT, "data",
                         "the last tensor ends at byte %zu of the data, but the file goes on to %zu", covered,
                         image->n_bytes);
    return true;
}

static bool copy_name(struct tensor *tensor, const char *key, struct arena *arena, struct error *err)
{
    size_t n_key = strlen(key);
    if (n_key == 0 || n_key > LIMIT_NAME_BYTES)
        return error_set(err, ERROR_BAD_INPUT, key,
                         "a tensor's name must have from 1 to %d bytes, but one has %zu", LIMIT_NAME_BYTES,
                         n_key);
    tensor->name = arena_copy_text(arena, key, n_key);
    return tensor->name || error_no_memory(err);
}

/* All tensors of one image, in the order of the file, in `arena`. */
static bool read_tensors(struct tensor **tensors_out, size_t *n_out, struct arena *arena,
                         const struct image *image, const struct tensor_file_limits *limits,
                         struct error *err)
{
    json_t *header = json_parse_object(image->header, image->n_header, JSON_PLAIN, "the header", err);
    if (!header)
        return false;
    const char *key;
    json_t *entry;
    size_t n_entries = json_object_size(header), n = 0;
    struct tensor *tensors = NULL;
    bool read = false;

    if (n_entries > limits->n_tensors) {
        error_set(err, ERROR_TOO_LARGE, "header", "the file has %zu tensors; at most %zu are allowed",
                  n_entries, limits->n_tensors);
        goto end;
    }
    tensors = arena_allocate_array(arena, n_entries, sizeof *tensors);
    if (!tensors) {
        error_no_memory(err);
        goto end;
    }
    JSON_FOR_EACH (header, key, entry) {
        bool is_metadata = strcmp(key, "__metadata__") == 0;
        if (is_metadata ? !check_metadata(entry, err)
                        : !copy_name(&tensors[n], key, arena, err) ||
                              !read_entry(&tensors[n], entry, image, limits, err))
            goto end;
        n += !is_metadata;
    }
    read = check_coverage(tensors, n, image, err);
end:
    json_decref(header);
    if (read) {
        *tensors_out = tensors;
        *n_out = n;
    }
    return read;
}

/* --- a file, or several --- */

static bool index_names(struct tensor_file *file, struct error *err)
{
    for (size_t i = 0; i < file->n_tensors; i++)
        if (!map_set(&file->by_name, file->tensors[i].name, &file->tensors[i]))
            return error_no_memory(err);
    return true;
}

static bool parse_single(struct tensor_file *file, const void *bytes, size_t n_bytes,
                         const struct tensor_file_limits *limits, struct error *err)
{
    struct image image;
    return find_header(&image, bytes, n_bytes, limits, err) &&
           read_tensors(&file->tensors, &file->n_tensors, &file->arena, &image, limits, err) &&
           index_names(file, err);
}

static bool begin(struct tensor_file *file, size_t n_files, struct error *err)
{
    *file = (struct tensor_file){0};
    arena_init(&file->arena, ARENA_CHUNK);
    map_init(&file->by_name);
    if (n_files == 0)
        return true;
    file->files = calloc(n_files, sizeof *file->files);
    file->paths = arena_allocate_array(&file->arena, n_files, sizeof *file->paths);
    return (file->files && file->paths) || error_no_memory(err);
}

bool safetensors_parse(struct tensor_file *out, const void *bytes, size_t n_bytes, const char *name,
                       const struct tensor_file_limits *limits, struct error *err)
{
    struct tensor_file file;
    if (begin(&file, 0, err) && parse_single(&file, bytes, n_bytes, limits, err)) {
        *out = file;
        return true;
    }
    error_prefix(err, "%s", name);
    tensor_file_close(&file);
    return false;
}

static bool open_bytes(struct file_bytes *bytes, const char *path, const struct tensor_file_limits *limits,
                       struct error *err)
{
    size_t maximum = limits->file_bytes ? limits->file_bytes : SIZE_MAX;
    if (limits->read_privately)
        return file_read(bytes, path, maximum, err);
    if (!file_map(bytes, path, err))
        return false;
    if (bytes->n_bytes <= maximum)
        return true;
    error_set(err, ERROR_TOO_LARGE, NULL, "'%s' has %zu bytes; at most %zu are allowed", path, bytes->n_bytes,
              maximum);
    file_close(bytes);
    return false;
}

/* The next of the files that `begin` was told of. */
static bool open_next(struct tensor_file *file, const char *path, const struct tensor_file_limits *limits, struct error *err)
{
    if (!open_bytes(&file->files[file->n_files], path, limits, err))
        return false;
    char *real = realpath(path, NULL);
    const char *name = real ? real : path; /* moved away meanwhile */
    file->paths[file->n_files++] = arena_copy_text(&file->arena, name, strlen(name));
    free(real);
    return file->paths[file->n_files - 1] || error_no_memory(err);
}

bool safetensors_open(struct tensor_file *out, const char *path, const struct tensor_file_limits *limits,
                      struct error *err)
{
    struct tensor_file file;
    if (!begin(&file, 1, err) || !open_next(&file, path, limits, err))
        goto fail;
    if (!parse_single(&file, file.files[0].data, file.files[0].n_bytes, limits, err)) {
        error_prefix(err, "'%s'", path);
        goto fail;
    }
    *out = file;
    return true;

fail:
    tensor_file_close(&file);
    return false;
}

void tensor_file_close(struct tensor_file *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->n_files; i++)
        file_close(&file->files[i]);
    free(file->files);
    map_finish(&file->by_name);
    arena_finish(&file->arena);
    *file = (struct tensor_file){0};
}

const struct tensor *tensor_file_find(const struct tensor_file *file, const char *name)
{
    return map_get(&file->by_name, name);
}

const char *tensor_shape_text(const struct tensor *tensor, char *buffer, size_t n_buffer)
{
    size_t n_used = 0;
    if (n_buffer == 0)
        return "";
    buffer[0] = '\0';
    for (size_t i = 0; i <= tensor->n_dims; i++) {
        char piece[32];
        if (i == tensor->n_dims)
            snprintf(piece, sizeof piece, i == 0 ? "[]" : "]");
        else
            snprintf(piece, sizeof piece, "%s%zu", i == 0 ? "[" : ", ", tensor->shape[i]);
        size_t n_piece = strlen(piece);
        if (n_used + n_piece >= n_buffer)
            break;
        memcpy(buffer + n_used, piece, n_piece + 1);
        n_used += n_piece;
    }
    return buffer;
}

/* --- a model's directory --- */

/* The shards that an index names. `numbers`: file name -> its name in `names`, whose index is the number. */
struct shards {
    const char **names;
    size_t n;
    struct map numbers;
};

static bool is_plain_name(const char *name)
{
    return *name && *name != '.' && !strchr(name, '/') && strlen(name) <= 255;
}

static bool collect_shards(struct shards *shards, const json_t *weight_map, struct error *err)
{
    const char *key;
    json_t *value;
    JSON_FOR_EACH (weight_map, key, value) {
        const char *name = json_string_value(value);
        if (!name || !is_plain_name(name))
            return error_set(err, ERROR_BAD_INPUT, key,
                             "the shard of tensor '%.100s' must be a plain file name in the same directory",
                             key);
        if (map_get(&shards->numbers, name))
            continue;
        if (shards->n == MOST_SHARDS)
            return error_set(err, ERROR_TOO_LARGE, "weight_map", "there are more than %d shards",
                             MOST_SHARDS);
        shards->names[shards->n] = name;
        if (!map_set(&shards->numbers, name, &shards->names[shards->n]))
            return error_no_memory(err);
        shards->n++;
    }
    if (shards->n == 0)
        return error_set(err, ERROR_BAD_INPUT, "weight_map", "weight_map is empty");
    return true;
}

/* Every tensor of the shard stands in the index under this shard: then none is there twice either. */
static bool check_shard(const struct tensor *tensors, size_t n_tensors, const char *shard,
                        const json_t *weight_map, struct error *err)
{
    for (size_t i = 0; i < n_tensors; i++) {
        const char *listed = json_string_value(json_object_get(weight_map, tensors[i].name));
        if (!listed)
            return tensor_error(err, ERROR_BAD_INPUT, tensors[i].name, "is in '%s', but not in the index",
                                shard);
        if (strcmp(listed, shard) != 0)
            return tensor_error(err, ERROR_BAD_INPUT, tensors[i].name, "is in '%s', but the index says '%s'",
                                shard, listed);
    }
    return true;
}

struct part {
    struct tensor *tensors;
    size_t n;
};

static bool read_shard(struct part *part, struct tensor_file *file, const char *directory, const char *name,
                       const json_t *weight_map, struct error *err)
{
    const struct tensor_file_limits *limits = &TENSOR_FILE_BASE_MODEL;
    const struct file_bytes *bytes = &file->files[file->n_files];
    struct image image;
    char *path = path_join(directory, name);
    if (!path)
        return error_no_memory(err);
    bool opened = open_next(file, path, limits, err);
    free(path);
    if (!opened)
        return false;
    if (find_header(&image, bytes->data, bytes->n_bytes, limits, err) &&
        read_tensors(&part->tensors, &part->n, &file->arena, &image, limits, err) &&
        check_shard(part->tensors, part->n, name, weight_map, err))
        return true;
    error_prefix(err, "'%s'", name);
    return false;
}

/* One array of all tensors, since `by_name` points into it. */
static bool join_parts(struct tensor_file *file, const struct part *parts, const json_t *weight_map,
                       struct error *err)
{
    size_t n_total = 0;
    for (size_t i = 0; i < file->n_files; i++)
        n_total += parts[i].n;
    file->tensors = arena_allocate_array(&file->arena, n_total, sizeof *file->tensors);
    if (!file->tensors)
        return error_no_memory(err);
    for (size_t i = 0; i < file->n_files; i++)
        for (size_t j = 0; j < parts[i].n; j++)
            file->tensors[file->n_tensors++] = parts[i].tensors[j];
    if (!index_names(file, err))
        return false;

    const char *key;
    json_t *value;
    json_object_foreach ((json_t *)(uintptr_t)weight_map, key, value)
        if (!tensor_file_find(file, key))
            return tensor_error(err, ERROR_BAD_INPUT, key, "should be in '%s', but is not there",
                                json_string_value(value));
    return true;
}

static bool read_indexed(struct tensor_file *out, const char *directory, const json_t *weight_map,
                         struct error *err)
{
    struct shards shards = {.names = calloc(MOST_SHARDS, sizeof *shards.names)};
    struct part *parts = NULL;
    struct tensor_file file = {0};
    bool read = false;

    if (!shards.names) {
        error_no_memory(err);
        goto end;
    }
    if (!collect_shards(&shards, weight_map, err) || !begin(&file, shards.n, err))
        goto end;
    parts = calloc(shards.n, sizeof *parts);
    if (!parts) {
        error_no_memory(err);
        goto end;
    }
    read = true;
    for (size_t i = 0; read && i < shards.n; i++)
        read = read_shard(&parts[i], &file, directory, shards.names[i], weight_map, err);
    read = read && join_parts(&file, parts, weight_map, err);
end:
    if (read)
        *out = file;
    else
        tensor_file_close(&file);
    free(parts);
    map_finish(&shards.numbers);
    free(shards.names);
    return read;
}

static bool open_indexed(struct tensor_file *out, const char *directory, const char *path, struct error *err)
{
    const json_t *weight_map = NULL;
    json_t *index = json_read_file(path, LIMIT_MODEL_HEADER_BYTES, JSON_PLAIN, INDEX_NAME, err);
    if (!index)
        return false;
    bool read = json_get_object(index, "weight_map", &weight_map, err);
    if (read && !weight_map)
        read = error_set(err, ERROR_BAD_INPUT, "weight_map", "weight_map is missing");
    if (read && json_object_size(weight_map) > LIMIT_TENSORS)
        read = error_set(err, ERROR_TOO_LARGE, "weight_map",
                         "weight_map has %zu tensors; at most %zu are allowed", json_object_size(weight_map),
                         LIMIT_TENSORS);
    if (!read)
        error_prefix(err, INDEX_NAME);
    read = read && read_indexed(out, directory, weight_map, err);
    json_decref(index);
    return read;
}

bool safetensors_open_model(struct tensor_file *out, const char *directory, struct error *err)
{
    char *single = path_join(directory, SINGLE_NAME), *index = path_join(directory, INDEX_NAME);
    char *pickle = path_join(directory, PICKLE_NAME);
    bool opened = false;

    if (!single || !index || !pickle)
        error_no_memory(err);
    else if (file_exists(single))
        opened = safetensors_open(out, single, &TENSOR_FILE_BASE_MODEL, err);
    else if (file_exists(index)) {
        opened = open_indexed(out, directory, index, err);
        if (!opened)
            error_prefix(err, "'%s'", directory);
    } else
        error_set(err, ERROR_NOT_FOUND, NULL, "'%s' has neither " SINGLE_NAME " nor " INDEX_NAME "%s",
                  directory,
                  file_exists(pickle) ? "; convert its " PICKLE_NAME
                                        " with save_pretrained(safe_serialization=True)"
                                      : "");
    free(single);
    free(index);
    free(pickle);
    return opened;
}

/* --- writing --- */

static void append_name(struct buffer *header, const char *name)
{
    buffer_append_byte(header, '"');
    for (const char *c = name; *c; c++) {
        if (*c == '"' || *c == '\\')
            buffer_append_byte(header, '\\');
        if ((unsigned char)*c < 0x20)
            buffer_printf(header, "\\u%04x", (unsigned)*c);
        else
            buffer_append_byte(header, *c);
    }
    buffer_append_byte(header, '"');
}

static bool build_header(struct buffer *header, const struct tensor *tensors, size_t n_tensors,
                         struct error *err)
{
    size_t begin = 0;
    buffer_append_text(header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < n_tensors; i++) {
        const struct tensor *tensor = &tensors[i];
        size_t end;
        if (!size_add(begin, tensor->n_bytes, &end))
            return tensor_error(err, ERROR_TOO_LARGE, tensor->name, "makes the file too large");
        buffer_append_text(header, ",");
        append_name(header, tensor->name);
        buffer_printf(header, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(tensor->dtype));
        for (size_t j = 0; j < tensor->n_dims; j++)
            buffer_printf(header, "%s%zu", j ? "," : "", tensor->shape[j]);
        buffer_printf(header, "],\"data_offsets\":[%zu,%zu]}", begin, end);
        begin = end;
    }
    buffer_append_byte(header, '}');
    while (!header->failed && (PREFIX_BYTES + header->n_bytes) % DATA_ALIGNMENT != 0)
        buffer_append_byte(header, ' ');
    return !header->failed || error_no_memory(err);
}

bool safetensors_write(const char *path, const struct tensor *tensors, size_t n_tensors, struct error *err)
{
    struct buffer header;
    struct file_writer writer = {0};
    unsigned char prefix[PREFIX_BYTES];
    bool written = false;

    buffer_init(&header, 0);
    if (!build_header(&header, tensors, n_tensors, err))
        goto end;
    for (int i = 0; i < PREFIX_BYTES; i++)
        prefix[i] = (unsigned char)((uint64_t)header.n_bytes >> 8 * i);
    written = file_writer_open(&writer, path, err) &&
              file_writer_write(&writer, prefix, sizeof prefix, err) &&
              file_writer_write(&writer, header.data, header.n_bytes, err);
    for (size_t i = 0; written && i < n_tensors; i++)
        written = file_writer_write(&writer, tensors[i].data, tensors[i].n_bytes, err);
    written = written && file_writer_commit(&writer, err);
    if (!written)
        file_writer_abort(&writer);
end:
    buffer_finish(&header);
    return written;
}
