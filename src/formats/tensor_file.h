/*
 * tensor_file.h - what every container of tensors yields: names, types, shapes and where the bytes are.
 *
 * By the time a file is open everything in it has been checked: the header's size and JSON, each
 * shape's product, each span against the file, no overlap, no hole, no duplicate name. Nothing is
 * allocated by a size from the file before that size was compared with the file's own.
 */
#ifndef FORMATS_TENSOR_FILE_H
#define FORMATS_TENSOR_FILE_H

#include "base/arena.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/map.h"
#include "formats/dtype.h"

struct tensor {
    const char *name; /* NUL-terminated, valid UTF-8 */
    enum dtype dtype;
    size_t n_dims; /* 0: a scalar */
    size_t shape[LIMIT_TENSOR_DIMS];
    size_t n_elements;
    size_t n_bytes;
    const void *data; /* row-major, little-endian, any alignment */
};

struct tensor_file {
    struct file_bytes *files; /* one per shard */
    const char **paths;       /* theirs, links resolved */
    size_t n_files;
    struct tensor *tensors;
    size_t n_tensors;
    struct map by_name;  /* name -> struct tensor * */
    struct arena arena;  /* names, tensors */
};

/* What a file may be. */
struct tensor_file_limits {
    size_t header_bytes;
    size_t n_tensors;
    size_t file_bytes;   /* 0: any */
    bool read_privately; /* adapters: into memory of our own; base models are mapped */
    bool allow_empty;    /* tensors without elements; base models only */
};
extern const struct tensor_file_limits TENSOR_FILE_BASE_MODEL, TENSOR_FILE_ADAPTER;

/* Opens one safetensors file. */
bool safetensors_open(struct tensor_file *out, const char *path, const struct tensor_file_limits *limits,
                      struct error *err) MUST_USE;

/* Parses bytes in memory (they must outlive `out`); what safetensors_open does after reading. `name`
   stands for the file in messages. */
bool safetensors_parse(struct tensor_file *out, const void *bytes, size_t n_bytes, const char *name,
                       const struct tensor_file_limits *limits, struct error *err) MUST_USE;

/* Opens a model directory's weights: model.safetensors, or model.safetensors.index.json with its shards
   (plain file names only; each tensor in the shard that the index says, none missing, none twice). */
bool safetensors_open_model(struct tensor_file *out, const char *directory, struct error *err) MUST_USE;

void tensor_file_close(struct tensor_file *file); /* zeroed is fine */
const struct tensor *tensor_file_find(const struct tensor_file *file, const char *name); /* NULL: not there */

/* "[2, 3, 4]" for messages. */
const char *tensor_shape_text(const struct tensor *tensor, char *buffer, size_t n_buffer);

/* Writing: the header first, tensors in the given order, data 64-byte aligned as a whole. `metadata_format`
   is "pt". Written to a temporary file and renamed. */
bool safetensors_write(const char *path, const struct tensor *tensors, size_t n_tensors, struct error *err) MUST_USE;

#endif
