/*
 * weight_cache.h - packed weights in a file, so that the next start maps them instead of packing them again and processes that serve the
 * same model share their pages.
 *
 * One file for each model directory and type of weights. Its header is a function of all that its bytes depend on: the model's files
 * (real path, size, time of change, inode, header, a sample of each matrix), the type that was asked for, how weights are packed, the
 * byte order, and where each matrix lies. Only a file with exactly the header that this process would write is used; so nothing in
 * it needs to be trusted but the weights themselves, like those of the model. Whoever can write the directory decides what the model answers,
 * and ends the process if he truncates a file that it has mapped (SIGBUS); a replaced one does no harm.
 */
#ifndef MODEL_WEIGHT_CACHE_H
#define MODEL_WEIGHT_CACHE_H

#include "base/digest.h"
#include "base/file.h"
#include "formats/tensor_file.h"
#include "model/matrix.h"

/* A matrix of the cache, in the order of the model's sites. */
struct cached_matrix {
    enum weight_type type;
    enum matrix_layout layout;
    size_t n_out, n_in;
    const struct tensor *tensor; /* it is made from this one */
    bool is_transposed;          /* whose shape is (n_in, n_out) */
    const void *data;            /* for writing; weight_cache_open fills it in */
};

struct weight_cache {
    const char *path;
    char identity[DIGEST_HEX_SIZE];
    struct cached_matrix *matrices;
    size_t n_matrices;
    struct file_bytes file; /* not open: zero */
};

/* What the weights of `matrices` depend on goes into cache->identity, and the name of their file below `directory` into cache->path, in
   the arena. `model_directory` and `weights`, the type as it was asked for, tell one file from another. */
bool weight_cache_init(struct weight_cache *cache, const char *directory, const char *model_directory, const char *weights,
                       const struct tensor_file *files, struct cached_matrix *matrices, size_t n_matrices, struct arena *arena,
                       struct error *err) MUST_USE;

/* Maps the file and fills in where the matrices are, 64-byte aligned, until weight_cache_close. ERROR_NOT_FOUND: there is none;
   ERROR_MISMATCH: it is of another version or model, or damaged. */
bool weight_cache_open(struct weight_cache *cache, struct error *err) MUST_USE;

/* The same for bytes in memory, which must outlive the cache. */
bool weight_cache_parse(struct weight_cache *cache, const void *bytes, size_t n_bytes, struct error *err) MUST_USE;

/* Writes the matrices to a file of its own and puts it in the place of what was there: any number of processes may do so at the same
   time. `progress` gets the fraction that is written; may be NULL. */
bool weight_cache_write(const struct weight_cache *cache, void (*progress)(void *context, double fraction), void *context,
                        struct error *err) MUST_USE;

/* Whether all but a sixteenth of the open file lies in huge pages, as where the file system's cache has them. Products from small ones take up to
   a quarter longer (measured: 24 GB/s instead of 30; a fifth of them small cost 6 %). True for a file that is small itself. */
bool weight_cache_is_huge(const struct weight_cache *cache);

void weight_cache_close(struct weight_cache *cache); /* zeroed is fine */

#endif
