/*
 * matrix.c - wrapping, or filling panel by panel with conversion and transposition on the way.
 */
#include "model/matrix.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/huge.h"

enum weight_type weight_type_of(enum dtype dtype)
{
    assert(dtype_is_weight(dtype));
    return dtype == DTYPE_F32 ? WEIGHT_F32 : dtype == DTYPE_F16 ? WEIGHT_F16 : WEIGHT_BF16;
}

enum dtype dtype_of_weight(enum weight_type type)
{
    assert(weight_type_is_exact(type));
    return type == WEIGHT_F32 ? DTYPE_F32 : type == WEIGHT_F16 ? DTYPE_F16 : DTYPE_BF16;
}

size_t matrix_layout_bytes(enum weight_type type, enum matrix_layout layout, size_t n_out, size_t n_in)
{
    size_t n_elements, n_bytes;
    if (layout == MATRIX_PACKED)
        return packed_bytes(type, n_out, n_in);
    return size_multiply(n_out, n_in, &n_elements) && size_multiply(n_elements, weight_type_size(type), &n_bytes) ? n_bytes : SIZE_MAX;
}

struct matrix *matrix_wrap(enum weight_type type, enum matrix_layout layout, size_t n_out, size_t n_in, const void *data, struct error *err)
{
    struct matrix *matrix = malloc(sizeof *matrix);
    if (!matrix) {
        error_no_memory(err);
        return NULL;
    }
    *matrix = (struct matrix){.type = type, .layout = layout, .n_out = n_out, .n_in = n_in, .data = data};
    ref_init(&matrix->ref);
    return matrix;
}

struct matrix *matrix_create(enum weight_type type, enum matrix_layout layout, size_t n_out, size_t n_in, struct error *err)
{
    size_t n_bytes = matrix_layout_bytes(type, layout, n_out, n_in);
    void *memory = huge_malloc(size_max(n_bytes, 1)); /* on small pages a merge would spend a quarter of its time on faults */
    assert(layout == MATRIX_PACKED || weight_type_is_exact(type));
    if (!memory) {
        error_no_memory(err);
        return NULL;
    }
    struct matrix *matrix = matrix_wrap(type, layout, n_out, n_in, memory, err);
    if (!matrix) {
        free(memory);
        return NULL;
    }
    matrix->owned = memory;
    matrix->owned_bytes = n_bytes;
    return matrix;
}

struct matrix *matrix_place(enum weight_type type, enum matrix_layout layout, size_t n_out, size_t n_in, void *memory, struct error *err)
{
    struct matrix *matrix = matrix_wrap(type, layout, n_out, n_in, memory, err);
    if (!matrix)
        return NULL;
    matrix->owned = memory;
    matrix->owned_bytes = matrix_layout_bytes(type, layout, n_out, n_in);
    matrix->is_placed = true;
    return matrix;
}

static void free_memory(struct matrix *matrix)
{
    if (!matrix->is_placed)
        free(matrix->owned);
}

void matrix_move(struct matrix *matrix, const void *data)
{
    free_memory(matrix);
    matrix->data = data;
    matrix->owned = NULL;
    matrix->owned_bytes = 0;
}

static bool check_tensor(const struct tensor *tensor, struct error *err)
{
    char shape[128];
    if (!dtype_is_weight(tensor->dtype))
        return error_set(err, ERROR_MISMATCH, tensor->name, "'%s' holds %s, but weights must be F32, F16 or BF16", tensor->name,
                         dtype_name(tensor->dtype));
    if (tensor->n_dims != 2 || tensor->n_elements == 0)
        return error_set(err, ERROR_MISMATCH, tensor->name, "'%s' has the shape %s, but a matrix is expected", tensor->name,
                         tensor_shape_text(tensor, shape, sizeof shape));
    return true;
}

/* As large as a tensor (n_out, n_in), or with `transposed` (n_in, n_out) as Conv1D stores it, not filled. */
static struct matrix *create_for(const struct tensor *tensor, bool transposed, enum weight_type type, enum matrix_layout layout, struct error *err)
{
    if (!check_tensor(tensor, err))
        return NULL;
    return matrix_create(type, layout, tensor->shape[transposed ? 1 : 0], tensor->shape[transposed ? 0 : 1], err);
}

/* ---- rows ---- */

/* Columns [first, first + n_rows) of a tensor (n_in, n_out), as rows. */
static void read_columns(const struct tensor *tensor, size_t first, size_t n_rows, float *out)
{
    enum { BLOCK = 64 };
    float block[BLOCK];
    size_t n_in = tensor->shape[0], n_out = tensor->shape[1], size = dtype_size(tensor->dtype);
    for (size_t done = 0, n; done < n_rows; done += n) {
        n = size_min(BLOCK, n_rows - done);
        for (size_t k = 0; k < n_in; k++) {
            dtype_to_f32(block, (const char *)tensor->data + (k * n_out + first + done) * size, tensor->dtype, n);
            for (size_t i = 0; i < n; i++)
                out[(done + i) * n_in + k] = block[i];
        }
    }
}

static void read_tensor(const struct tensor *tensor, bool transposed, size_t first, size_t n_rows, float *out)
{
    size_t n_in = tensor->shape[1];
    if (transposed)
        read_columns(tensor, first, n_rows, out);
    else
        dtype_to_f32(out, (const char *)tensor->data + first * n_in * dtype_size(tensor->dtype), tensor->dtype, n_rows * n_in);
}

void matrix_read_rows(const struct matrix *matrix, size_t first, size_t n_rows, float *out)
{
    assert(first + n_rows <= matrix->n_out);
    if (matrix->origin)
        read_tensor(matrix->origin, matrix->origin_is_transposed, first, n_rows, out);
    else if (matrix->layout == MATRIX_PACKED)
        unpack_rows(matrix->type, out, matrix->data, matrix->n_out, matrix->n_in, first, n_rows);
    else
        dtype_to_f32(out, matrix_row(matrix, first), dtype_of_weight(matrix->type), n_rows * matrix->n_in);
}

float matrix_read_element(const struct matrix *matrix, size_t row, size_t k)
{
    const struct tensor *origin = matrix->origin;
    float value;
    assert(row < matrix->n_out && k < matrix->n_in);
    if (!origin && matrix->layout == MATRIX_PACKED)
        return unpack_element(matrix->type, matrix->data, matrix->n_out, matrix->n_in, row, k);
    size_t at = origin && matrix->origin_is_transposed ? k * matrix->n_out + row : row * matrix->n_in + k;
    enum dtype dtype = origin ? origin->dtype : dtype_of_weight(matrix->type);
    dtype_to_f32(&value, (const char *)(origin ? origin->data : matrix->data) + at * dtype_size(dtype), dtype, 1);
    return value;
}

size_t matrix_scratch_bytes(const struct matrix *matrix)
{
    return size_max(PANEL_ROWS * matrix->n_in * sizeof(float), 1);
}

static bool is_cut(const struct matrix *matrix, size_t first, size_t n_rows)
{
    return first + n_rows <= matrix->n_out && (matrix->layout == MATRIX_ROWS || (first % PANEL_ROWS == 0 && (n_rows % PANEL_ROWS == 0 || first + n_rows == matrix->n_out)));
}

static void write_panel(struct matrix *matrix, size_t first, size_t n_rows, const void *rows)
{
    pack_panel(matrix->type, (char *)matrix->owned + packed_at(matrix->type, first, matrix->n_in), rows, n_rows, matrix->n_in);
}

/* At most a panel. */
static bool write_some(struct matrix *matrix, size_t first, size_t n_rows, const float *rows, void *scratch)
{
    size_t n = n_rows * matrix->n_in;
    if (!weight_type_is_exact(matrix->type)) {
        write_panel(matrix, first, n_rows, rows);
        return dtype_find_not_finite(rows, DTYPE_F32, n) == n;
    }
    enum dtype dtype = dtype_of_weight(matrix->type);
    bool is_packed = matrix->layout == MATRIX_PACKED;
    void *to = is_packed ? scratch : (char *)matrix->owned + first * matrix->n_in * dtype_size(dtype);
    dtype_from_f32(to, dtype, rows, n);
    if (is_packed)
        write_panel(matrix, first, n_rows, to);
    return dtype_find_not_finite(to, dtype, n) == n;
}

bool matrix_write_rows(struct matrix *matrix, size_t first, size_t n_rows, const float *rows, void *scratch)
{
    bool is_finite = true;
    assert(is_cut(matrix, first, n_rows));
    for (size_t row = 0; row < n_rows; row += PANEL_ROWS)
        is_finite &= write_some(matrix, first + row, size_min(PANEL_ROWS, n_rows - row), rows + row * matrix->n_in, scratch);
    return is_finite;
}

/* ---- from a tensor ---- */

static bool is_same(const struct matrix *matrix, const struct tensor *tensor, bool transposed)
{
    return !transposed && weight_type_is_exact(matrix->type) && dtype_of_weight(matrix->type) == tensor->dtype;
}

/* Nothing to convert: bytes are moved. */
static void move(struct matrix *matrix, const struct tensor *tensor, size_t first, size_t n_rows)
{
    size_t row_bytes = matrix->n_in * dtype_size(tensor->dtype);
    const char *from = (const char *)tensor->data + first * row_bytes;
    if (matrix->layout == MATRIX_ROWS)
        memcpy((char *)matrix->owned + first * row_bytes, from, n_rows * row_bytes);
    else
        for (size_t row = 0; row < n_rows; row += PANEL_ROWS)
            write_panel(matrix, first + row, size_min(PANEL_ROWS, n_rows - row), from + row * row_bytes);
}

bool matrix_fill(struct matrix *matrix, const struct tensor *tensor, bool transposed, size_t first, size_t n_rows, struct error *err)
{
    assert(is_cut(matrix, first, n_rows));
    if (is_same(matrix, tensor, transposed)) {
        move(matrix, tensor, first, n_rows);
        return true;
    }
    float *rows = malloc(size_min(PANEL_ROWS, n_rows) * matrix->n_in * sizeof *rows);
    void *scratch = malloc(matrix_scratch_bytes(matrix));
    bool ok = rows && scratch;
    for (size_t row = first; ok && row < first + n_rows; row += PANEL_ROWS) {
        size_t n = size_min(PANEL_ROWS, first + n_rows - row);
        read_tensor(tensor, transposed, row, n, rows);
        (void)matrix_write_rows(matrix, row, n, rows, scratch); /* what the file holds is its author's business */
    }
    free(rows);
    free(scratch);
    return ok || error_no_memory(err);
}

struct matrix *matrix_from_tensor(const struct tensor *tensor, bool transposed, enum weight_type type, enum matrix_layout layout,
                                  bool may_wrap, struct error *err)
{
    if (!check_tensor(tensor, err))
        return NULL;
    bool is_aligned = (uintptr_t)tensor->data % dtype_size(tensor->dtype) == 0;
    if (may_wrap && is_aligned && !transposed && layout == MATRIX_ROWS && weight_type_of(tensor->dtype) == type)
        return matrix_wrap(type, layout, tensor->shape[0], tensor->shape[1], tensor->data, err);

    struct matrix *matrix = create_for(tensor, transposed, type, layout, err);
    if (matrix && !matrix_fill(matrix, tensor, transposed, 0, matrix->n_out, err)) {
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
    free_memory(matrix);
    free(matrix);
}
