/*
 * fuzz_safetensors.c - any bytes as a safetensors file. What is accepted must keep every promise of
 * tensor_file.h, and all of its bytes must be there to be read.
 *
 * The first byte chooses: odd, and the rest is the file; even, and the two bytes behind it are the
 * header's length, which spares the fuzzer from guessing a number that has to fit.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/utf8.h"
#include "formats/tensor_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data);

static volatile size_t sink;

static void check_tensor(const struct tensor_file *file, const struct tensor *tensor)
{
    char shape[40];
    size_t n_elements = 1;
    for (size_t i = 0; i < tensor->n_dims; i++)
        assert(size_multiply(n_elements, tensor->shape[i], &n_elements));
    assert(n_elements == tensor->n_elements);
    assert(tensor->n_bytes == n_elements * dtype_size(tensor->dtype));
    assert(tensor_file_find(file, tensor->name) == tensor);
    assert(utf8_is_valid(tensor->name, strlen(tensor->name)));
    assert(strlen(tensor_shape_text(tensor, shape, sizeof shape)) < sizeof shape);
    for (size_t i = 0; i < tensor->n_bytes; i++)
        sink += ((const unsigned char *)tensor->data)[i];
    if (dtype_is_weight(tensor->dtype))
        sink += dtype_find_not_finite(tensor->data, tensor->dtype, tensor->n_elements);
}

static void check(const unsigned char *bytes, size_t n_bytes, const struct tensor_file_limits *limits)
{
    struct tensor_file file;
    struct error err;
    if (!safetensors_parse(&file, bytes, n_bytes, "fuzz", limits, &err)) {
        assert(err.code == ERROR_BAD_INPUT || err.code == ERROR_TOO_LARGE);
        assert(utf8_is_valid(err.message, strlen(err.message)) &&
               utf8_is_valid(err.param, strlen(err.param)));
        return;
    }
    const unsigned char *next = bytes + 8 + load_le64(bytes);
    for (size_t i = 0; i < file.n_tensors; i++) {
        assert(file.tensors[i].data == next);
        assert(limits->allow_empty || file.tensors[i].n_bytes > 0);
        next += file.tensors[i].n_bytes;
        check_tensor(&file, &file.tensors[i]);
    }
    assert(next == bytes + n_bytes);
    tensor_file_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data)
{
    if (n_data < 3)
        return 0;
    bool is_raw = data[0] & 1;
    size_t n_bytes = is_raw ? n_data - 1 : 8 + n_data - 3;
    /* Memory of the exact size, so that one byte too many is seen. */
    unsigned char *bytes = calloc(1, n_bytes);
    if (!bytes)
        return 0;
    if (!is_raw)
        memcpy(bytes, data + 1, 2);
    memcpy(is_raw ? bytes : bytes + 8, is_raw ? data + 1 : data + 3, is_raw ? n_bytes : n_bytes - 8);
    check(bytes, n_bytes, &TENSOR_FILE_ADAPTER);
    check(bytes, n_bytes, &TENSOR_FILE_BASE_MODEL);
    free(bytes);
    return 0;
}
