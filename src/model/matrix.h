/*
 * matrix.h - a weight matrix: immutable once published, reference counted.
 *
 * Rows are outputs: (n_out, n_in), row-major, one element type. Storage is either mapped from the model's file
 * (`owned` NULL: the model outlives every matrix) or memory of the matrix's own.
 */
#ifndef MODEL_MATRIX_H
#define MODEL_MATRIX_H

#include "base/error.h"
#include "base/ref.h"
#include "formats/tensor_file.h"
#include "kernels/kernels.h"

struct matrix {
    struct ref ref;
    enum weight_type type;
    size_t n_out, n_in;
    const void *data;
    void *owned;        /* freed with the matrix; NULL: `data` is somebody else's */
    size_t owned_bytes; /* 0 when mapped */
};

/* A matrix of its own memory (64-byte aligned, not initialised), to be filled through `owned` before it is shared. */
struct matrix *matrix_create(enum weight_type type, size_t n_out, size_t n_in, struct error *err);

/* A matrix over bytes that outlive it. */
struct matrix *matrix_wrap(enum weight_type type, size_t n_out, size_t n_in, const void *data, struct error *err);

/* From a tensor (n_out, n_in), or with `transposed` (n_in, n_out) as Conv1D stores it; converted to `type`. Wraps the
   tensor's bytes when nothing has to change and `may_wrap`, copies otherwise. */
struct matrix *matrix_from_tensor(const struct tensor *tensor, bool transposed, enum weight_type type, bool may_wrap,
                                  struct error *err);

struct matrix *matrix_ref(struct matrix *matrix);
void matrix_unref(struct matrix *matrix); /* NULL is fine */

static inline const void *matrix_row(const struct matrix *matrix, size_t row)
{
    return (const char *)matrix->data + row * matrix->n_in * weight_type_size(matrix->type);
}

/* F32/F16/BF16 only. */
enum weight_type weight_type_of(enum dtype dtype);
enum dtype dtype_of_weight(enum weight_type type);

#endif
