/*
 * matrix.h - a weight matrix: immutable once published, reference counted.
 *
 * (n_out, n_in): rows are outputs. In one of two layouts: row-major, for tables of which single rows are read; or packed in panels
 * (kernels/pack.h), for products. Storage is either mapped from the model's file or a cache of packed weights (`owned` NULL: the model
 * outlives every matrix) or memory of the matrix's own.
 */
#ifndef MODEL_MATRIX_H
#define MODEL_MATRIX_H

#include "base/error.h"
#include "base/ref.h"
#include "formats/tensor_file.h"
#include "kernels/pack.h"

enum matrix_layout { MATRIX_ROWS, MATRIX_PACKED };

struct matrix {
    struct ref ref;
    enum weight_type type;
    enum matrix_layout layout;
    size_t n_out, n_in;
    const void *data;
    void *owned;        /* the same bytes, to be filled; NULL: `data` is mapped */
    size_t owned_bytes; /* 0 when mapped */
    bool is_placed;     /* `owned` is a part of memory that outlives the matrix: not its own to free */
    const struct tensor *origin; /* what was rounded or quantised to make it, and outlives it; NULL: `data` is all there is */
    bool origin_is_transposed;   /* the origin's shape is (n_in, n_out) */
};

/* Of its own memory (64-byte aligned, not initialised), to be filled before it is shared. f32, f16 or bf16, and packed also q8, q4. */
struct matrix *matrix_create(enum weight_type type, enum matrix_layout layout, size_t n_out, size_t n_in, struct error *err);

/* The same in memory that is given, 64-byte aligned, and outlives it. */
struct matrix *matrix_place(enum weight_type type, enum matrix_layout layout, size_t n_out, size_t n_in, void *memory, struct error *err);

/* Over bytes that outlive it. */
struct matrix *matrix_wrap(enum weight_type type, enum matrix_layout layout, size_t n_out, size_t n_in, const void *data, struct error *err);

/* Gives up the matrix's memory for the same bytes elsewhere, which outlive it. Before it is shared. */
void matrix_move(struct matrix *matrix, const void *data);

/* Fills rows [first, first + n_rows) from that tensor, converted to the type; of a packed one from a multiple of PANEL_ROWS on, to a
   multiple or the end. */
bool matrix_fill(struct matrix *matrix, const struct tensor *tensor, bool transposed, size_t first, size_t n_rows, struct error *err) MUST_USE;

/* Both at once. With `may_wrap` the tensor's bytes serve where nothing has to change; the tensor's file must outlive it then. */
struct matrix *matrix_from_tensor(const struct tensor *tensor, bool transposed, enum weight_type type, enum matrix_layout layout,
                                  bool may_wrap, struct error *err);

struct matrix *matrix_ref(struct matrix *matrix);
void matrix_unref(struct matrix *matrix); /* NULL is fine */

/* Bytes of a matrix's elements; SIZE_MAX: more than can be. */
size_t matrix_layout_bytes(enum weight_type type, enum matrix_layout layout, size_t n_out, size_t n_in);
static inline size_t matrix_bytes(const struct matrix *matrix)
{
    return matrix_layout_bytes(matrix->type, matrix->layout, matrix->n_out, matrix->n_in);
}

/* Of MATRIX_ROWS. */
static inline const void *matrix_row(const struct matrix *matrix, size_t row)
{
    return (const char *)matrix->data + row * matrix->n_in * weight_type_size(matrix->type);
}

/* Rows [first, first + n_rows) in f32, as precise as they are known: those of the origin if there is one. */
void matrix_read_rows(const struct matrix *matrix, size_t first, size_t n_rows, float *out);
float matrix_read_element(const struct matrix *matrix, size_t row, size_t k);

/* Writes such rows into `owned`, rounded or quantised, as matrix_fill cuts them. `scratch`: matrix_scratch_bytes. False: one of them is
   not finite in the matrix's type (all are written). */
bool matrix_write_rows(struct matrix *matrix, size_t first, size_t n_rows, const float *rows, void *scratch);
size_t matrix_scratch_bytes(const struct matrix *matrix);

/* F32/F16/BF16 only. */
enum weight_type weight_type_of(enum dtype dtype);
enum dtype dtype_of_weight(enum weight_type type);

#endif
