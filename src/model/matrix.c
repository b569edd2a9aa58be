/*
 * matrix.c - wrapping, or copying in blocks of source rows with conversion and transposition on the way.
 */
#include "model/matrix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"

enum { ALIGNMENT = 64, BLOCK_ROWS = 32, HUGE_PAGE = 2 << 20 };

enum weight_type weight_type_of(enum dtype dtype)
{
    assert(dtype_is_weight(dtype));
    return dtype == DTYPE_F32 ? WEIGHT_F32 : dtype == DTYPE_F16 ? WEIGHT_F16 : WEIGHT_BF16;
}

enum dtype dtype_of_weight(enum weight_type type)
{
    return type == WEIGHT_F32 ? DTYPE_F32 : type == WEIGHT_F16 ? DTYPE_F16 : DTYPE_BF16;
}

struct matrix *matrix_wrap(enum weight_type type, size_t n_out, size_t n_in, const void *data, struct error *err)
{
    struct matrix *matrix = malloc(sizeof *matrix);
    if (!matrix) {
        error_no_memory(err);
        return NULL;
    }
    *matrix = (struct matrix){.type = type, .n_out = n_out, .n_in = n_in, .data = data};
    ref_init(&matrix->ref);
    return matrix;
}

/* Large ones on huge pages where the system grants them: a merge would spend a quarter of its time on page faults. */
static void *allocate(size_t n_bytes)
{
    size_t alignment = n_bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    void *memory;
    if (posix_memalign(&memory, alignment, n_bytes) != 0)
        return NULL;
    if (alignment == HUGE_PAGE)
        (void)madvise(memory, n_bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE); /* refused: small pages then */
    return memory;
}

struct matrix *matrix_create(enum weight_type type, size_t n_out, size_t n_in, struct error *err)
{
    size_t n_elements, n_bytes;
    void *memory = NULL;
    if (size_multiply(n_out, n_in, &n_elements) && size_multiply(n_elements, weight_type_size(type), &n_bytes))
        memory = allocate(size_max(n_bytes, 1));
    if (!memory) {
        error_no_memory(err);
        return NULL;
    }
    struct matrix *matrix = matrix_wrap(type, n_out, n_in, memory, err);
    if (!matrix) {
        free(memory);
        return NULL;
    }
    matrix->owned = memory;
    matrix->owned_bytes = n_bytes;
    return matrix;
}

/* Elements of `from` as elements of `to`; `scratch` holds n floats. */
static void convert(void *out, enum dtype to, const void *in, enum dtype from, size_t n, float *scratch)
{
    if (from == to) {
        memcpy(out, in, n * dtype_size(to));
    } else if (to == DTYPE_F32) {
        dtype_to_f32(out, in, from, n);
    } else {
        dtype_to_f32(scratch, in, from, n);
        dtype_from_f32(out, to, scratch, n);
    }
}

/* out column `column` and the `n_rows - 1` after it = rows of the block (n_rows, n_columns). */
static void transpose_block(char *out, size_t out_row_bytes, size_t column, const char *block, size_t n_rows,
                            size_t n_columns, size_t size)
{
    for (size_t o = 0; o < n_columns; o++) {
        char *to = out + o * out_row_bytes + column * size;
        for (size_t i = 0; i < n_rows; i++)
            memcpy(to + i * size, block + (i * n_columns + o) * size, size);
    }
}

static bool fill(struct matrix *matrix, const struct tensor *tensor, bool transposed, struct error *err)
{
    enum dtype to = dtype_of_weight(matrix->type);
    size_t n_rows = tensor->shape[0], n_columns = tensor->shape[1], size = dtype_size(to);
    const char *in = tensor->data;
    char *block = malloc(BLOCK_ROWS * n_columns * size);
    float *scratch = malloc(n_columns * sizeof *scratch);
    bool ok = block && scratch;

    for (size_t row = 0; ok && row < n_rows; row += BLOCK_ROWS) {
        size_t n_block = size_min(BLOCK_ROWS, n_rows - row);
        char *to_rows = transposed ? block : (char *)matrix->owned + row * n_columns * size;
        for (size_t i = 0; i < n_block; i++)
            convert(to_rows + i * n_columns * size, to, in + (row + i) * n_columns * dtype_size(tensor->dtype),
                    tensor->dtype, n_columns, scratch);
        if (transposed)
            transpose_block(matrix->owned, matrix->n_in * size, row, block, n_block, n_columns, size);
    }
    free(block);
    free(scratch);
    return ok || error_no_memory(err);
}

struct matrix *matrix_from_tensor(const struct tensor *tensor, bool transposed, enum weight_type type, bool may_wrap,
                                  struct error *err)
{
    char shape[128];
    if (!dtype_is_weight(tensor->dtype)) {
        error_set(err, ERROR_MISMATCH, tensor->name, "'%s' holds %s, but weights must be F32, F16 or BF16",
                  tensor->name, dtype_name(tensor->dtype));
        return NULL;
    }
    if (tensor->n_dims != 2 || tensor->n_elements == 0) {
        error_set(err, ERROR_MISMATCH, tensor->name, "'%s' has the shape %s, but a matrix is expected", tensor->name,
                  tensor_shape_text(tensor, shape, sizeof shape));
        return NULL;
    }
    size_t n_out = tensor->shape[transposed ? 1 : 0], n_in = tensor->shape[transposed ? 0 : 1];
    bool is_aligned = (uintptr_t)tensor->data % dtype_size(tensor->dtype) == 0;
    if (may_wrap && is_aligned && !transposed && weight_type_of(tensor->dtype) == type)
        return matrix_wrap(type, n_out, n_in, tensor->data, err);

    struct matrix *matrix = matrix_create(type, n_out, n_in, err);
    if (matrix && !fill(matrix, tensor, transposed, err)) {
        matrix_unref(matrix);
        return NULL;
    }
    return matrix;
}

struct matrix *matrix_ref(struct matrix *matrix)
{
    ref_take(&matrix->ref);
    return matrix;
}

void matrix_unref(struct matrix *matrix)
{
    if (!matrix || !ref_drop(&matrix->ref))
        return;
    free(matrix->owned);
    free(matrix);
}
