/*
 * weight_cache.c - the header is built twice, by who writes a cache and by who would use it, and compared as bytes.
 *
 *     0    "LORADPAK"
 *     8    (4) version of this format, (4) 0x01020304, as this machine stores them
 *     16   (64) SHA-256, in hex, of what the weights depend on
 *     80   (8) bytes of the whole file, (8) number of matrices
 *     96   (64) SHA-256, in hex, of the entries: of each matrix its type, layout, n_out, n_in, begin and bytes, (8) each
 *     160  the entries
 *
 * Each matrix begins at a multiple of 4096 bytes from the file's beginning; between them are zeros.
 */
#include "model/weight_cache.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/huge.h"

static const char MAGIC[8] = "LORADPAK";
enum {
    VERSION = 1,
    BYTE_ORDER_MARK = 0x01020304,
    ALIGNMENT = 4096, /* a page, which is a multiple of what kernels want */
    SAMPLE_BYTES = 64,
    SLICE_BYTES = 64 << 20 /* written between two reports of progress */
};

struct header {
    char magic[sizeof MAGIC];
    uint32_t version, byte_order;
    char identity[DIGEST_HEX_SIZE - 1];
    uint64_t n_bytes, n_matrices;
    char entries_digest[DIGEST_HEX_SIZE - 1];
};

_Static_assert(sizeof(struct header) == 160, "no holes");

struct entry {
    uint64_t type, layout, n_out, n_in, begin, n_bytes;
};

/* ---- identity ---- */

/* What pack_panel makes of the same few numbers: it tells packings apart that somebody forgot to number. */
static bool describe_packing(struct buffer *text)
{
    enum { N_ROWS = PANEL_ROWS, N_IN = 2 * PACK_GROUP, N = N_ROWS * N_IN };
    char hex[DIGEST_HEX_SIZE];
    float *rows = malloc(N * sizeof *rows);
    uint32_t state = 1;
    for (size_t i = 0; rows && i < N; i++) {
        state = state * 1664525u + 1013904223u;
        rows[i] = ((float)(state >> 16) - 32768.0f) / 65536.0f;
    }
    for (int type = 0; rows && type < N_WEIGHT_TYPES; type++) {
        size_t n_bytes = packed_bytes((enum weight_type)type, N_ROWS, N_IN);
        void *panel = aligned_alloc(64, align_up(n_bytes, 64));
        if (!panel) {
            free(rows);
            return false;
        }
        pack_panel((enum weight_type)type, panel, rows, N_ROWS, N_IN); /* bits are bits: shorter elements take the first ones */
        digest_hex(panel, n_bytes, hex);
        buffer_printf(text, "packed %d %s\n", type, hex);
        free(panel);
    }
    buffer_printf(text, "packing %d panel %d lanes %d group %d\n", PACK_VERSION, PANEL_ROWS, PANEL_LANES, PACK_GROUP);
    for (size_t i = 0; i < sizeof PACK_Q4_VALUES; i++)
        buffer_printf(text, "code %d\n", PACK_Q4_VALUES[i]);
    free(rows);
    return rows != NULL;
}

static void describe_file(struct buffer *text, const struct file_bytes *file, const char *path)
{
    char hex[DIGEST_HEX_SIZE];
    size_t n_header = file->n_bytes < 8 ? file->n_bytes : 8 + (size_t)size_min(load_le64(file->data), file->n_bytes - 8);
    digest_hex(file->data, n_header, hex);
    buffer_printf(text, "file %zu:%s bytes %zu modified %lld inode %llu header %s\n", strlen(path), path, file->n_bytes,
                  (long long)file->stamp.modified_ns, (unsigned long long)file->stamp.inode, hex);
}

/* A few bytes from the middle: images of file systems may give two releases of a model the same path, size, time and inode. */
static void describe_matrix(struct buffer *text, const struct cached_matrix *matrix)
{
    const struct tensor *tensor = matrix->tensor;
    size_t n_sample = size_min(SAMPLE_BYTES, tensor->n_bytes);
    char hex[DIGEST_HEX_SIZE];
    digest_hex((const char *)tensor->data + (tensor->n_bytes - n_sample) / 2, n_sample, hex);
    buffer_printf(text, "matrix %zu:%s transposed %d sample %s\n", strlen(tensor->name), tensor->name, matrix->is_transposed, hex);
}

static bool identify(struct weight_cache *cache, const char *weights, const struct tensor_file *files, struct error *err)
{
    struct buffer text;
    buffer_init(&text, 0);
    buffer_printf(&text, "weights %s\n", weights);
    bool ok = describe_packing(&text);
    for (size_t i = 0; i < files->n_files; i++)
        describe_file(&text, &files->files[i], files->paths[i]);
    for (size_t i = 0; i < cache->n_matrices; i++)
        describe_matrix(&text, &cache->matrices[i]);
    ok = ok && !text.failed;
    if (ok)
        digest_hex(text.data, text.n_bytes, cache->identity);
    buffer_finish(&text);
    return ok || error_no_memory(err);
}

/* "<the model's directory>-<weights>-<digest of its path>.packed": one that was made from older files is replaced, not kept. */
static const char *name_file(struct arena *arena, const char *directory, const char *model_directory, const char *weights)
{
    char hex[DIGEST_HEX_SIZE], name[128];
    char *real = realpath(model_directory, NULL);
    const char *path = real ? real : model_directory, *slash = strrchr(path, '/');
    digest_hex(path, strlen(path), hex);
    int n = snprintf(name, sizeof name, "%.64s-%s-%.16s.packed", slash ? slash + 1 : path, weights, hex);
    free(real);
    char *joined = n > 0 && (size_t)n < sizeof name ? path_join(directory, name) : NULL;
    const char *copy = joined ? arena_copy_text(arena, joined, strlen(joined)) : NULL;
    free(joined);
    return copy;
}

bool weight_cache_init(struct weight_cache *cache, const char *directory, const char *model_directory, const char *weights,
                       const struct tensor_file *files, struct cached_matrix *matrices, size_t n_matrices, struct arena *arena,
                       struct error *err)
{
    *cache = (struct weight_cache){.matrices = matrices, .n_matrices = n_matrices};
    cache->path = name_file(arena, directory, model_directory, weights);
    if (!cache->path)
        return error_no_memory(err);
    return identify(cache, weights, files, err);
}

/* ---- header ---- */

static size_t bytes_of(const struct cached_matrix *matrix)
{
    return matrix_layout_bytes(matrix->type, matrix->layout, matrix->n_out, matrix->n_in);
}

/* The header that a cache with these matrices has, filled up to where the first one begins. */
static bool build_header(struct buffer *out, const struct weight_cache *cache, struct error *err)
{
    size_t n_entries = cache->n_matrices * sizeof(struct entry), n_bytes = align_up(sizeof(struct header) + n_entries, ALIGNMENT);
    size_t n_header = n_bytes;
    char hex[DIGEST_HEX_SIZE];
    struct entry *entries = calloc(cache->n_matrices + 1, sizeof *entries);
    if (!entries)
        return error_no_memory(err);
    for (size_t i = 0; i < cache->n_matrices; i++) {
        const struct cached_matrix *matrix = &cache->matrices[i];
        entries[i] = (struct entry){matrix->type, matrix->layout, matrix->n_out, matrix->n_in, n_bytes, bytes_of(matrix)};
        n_bytes += align_up(bytes_of(matrix), ALIGNMENT);
    }
    struct header header = {.version = VERSION, .byte_order = BYTE_ORDER_MARK, .n_bytes = n_bytes, .n_matrices = cache->n_matrices};
    memcpy(header.magic, MAGIC, sizeof MAGIC);
    memcpy(header.identity, cache->identity, sizeof header.identity);
    digest_hex(entries, n_entries, hex);
    memcpy(header.entries_digest, hex, sizeof header.entries_digest);
    buffer_append(out, &header, sizeof header);
    buffer_append(out, entries, n_entries);
    while (!out->failed && out->n_bytes < n_header)
        buffer_append_byte(out, 0);
    free(entries);
    return !out->failed || error_no_memory(err);
}

/* One reason after the other, the plainest first. `expected` is whole. */
static bool check_header(const void *bytes, size_t n_bytes, const struct buffer *expected, struct error *err)
{
    struct header found, wanted;
    memcpy(&wanted, expected->data, sizeof wanted);
    if (n_bytes < expected->n_bytes)
        return error_set(err, ERROR_MISMATCH, NULL, "it has %zu bytes, less than its header should", n_bytes);
    memcpy(&found, bytes, sizeof found);
    if (memcmp(found.magic, wanted.magic, sizeof found.magic) != 0)
        return error_set(err, ERROR_MISMATCH, NULL, "it holds no packed weights");
    if (found.version != wanted.version || found.byte_order != wanted.byte_order)
        return error_set(err, ERROR_MISMATCH, NULL, "it was written by another version or kind of machine");
    if (memcmp(found.identity, wanted.identity, sizeof found.identity) != 0)
        return error_set(err, ERROR_MISMATCH, NULL, "it was made from other files, or packed by another version");
    if (memcmp(bytes, expected->data, expected->n_bytes) != 0)
        return error_set(err, ERROR_MISMATCH, NULL, "its header is damaged");
    if (n_bytes != wanted.n_bytes)
        return error_set(err, ERROR_MISMATCH, NULL, "it has %zu bytes, not %llu", n_bytes, (unsigned long long)wanted.n_bytes);
    return true;
}

bool weight_cache_parse(struct weight_cache *cache, const void *bytes, size_t n_bytes, struct error *err)
{
    struct buffer expected;
    buffer_init(&expected, 0);
    bool ok = build_header(&expected, cache, err) && check_header(bytes, n_bytes, &expected, err);
    size_t begin = expected.n_bytes;
    for (size_t i = 0; ok && i < cache->n_matrices; i++) {
        cache->matrices[i].data = (const char *)bytes + begin;
        begin += align_up(bytes_of(&cache->matrices[i]), ALIGNMENT);
    }
    buffer_finish(&expected);
    return ok;
}

/* All of it is needed soon, in huge pages if possible: faults of a range that asks for them read the file in such, what is only read ahead
   comes in small ones. */
static void advise(const struct file_bytes *file)
{
    void *data = (void *)file->data;
    (void)madvise(data, file->n_bytes, MADV_HUGEPAGE);
#ifdef MADV_POPULATE_READ
    if (madvise(data, file->n_bytes, MADV_POPULATE_READ) == 0)
        return;
#endif
    (void)madvise(data, file->n_bytes, MADV_WILLNEED);
}

bool weight_cache_open(struct weight_cache *cache, struct error *err)
{
    struct file_bytes file;
    if (!file_map(&file, cache->path, err))
        return false;
    if (!weight_cache_parse(cache, file.data, file.n_bytes, err)) {
        file_close(&file);
        return false;
    }
    cache->file = file;
    advise(&file);
    return true;
}

/* Bytes of the mapping at `data` that are mapped in huge pages; SIZE_MAX: the system does not say. */
static size_t count_huge(const void *data)
{
    char line[512], wanted[32];
    bool is_here = false;
    size_t n_kib, n_bytes = SIZE_MAX;
    FILE *maps = fopen("/proc/self/smaps", "re");
    int n_wanted = snprintf(wanted, sizeof wanted, "%llx-", (unsigned long long)(uintptr_t)data);
    while (maps && n_bytes == SIZE_MAX && fgets(line, sizeof line, maps))
        if (strncmp(line, wanted, (size_t)n_wanted) == 0)
            is_here = true;
        else if (is_here && sscanf(line, "FilePmdMapped: %zu kB", &n_kib) == 1)
            n_bytes = n_kib << 10;
    if (maps)
        fclose(maps);
    return n_bytes;
}

bool weight_cache_is_huge(const struct weight_cache *cache)
{
    enum { SMALL = 8 << 20 };
    size_t n_whole = cache->file.n_bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    return cache->file.n_bytes < SMALL || count_huge(cache->file.data) >= n_whole - n_whole / 16;
}

void weight_cache_close(struct weight_cache *cache)
{
    file_close(&cache->file);
}

/* ---- writing ---- */

struct writing {
    struct file_writer writer;
    size_t n_done, n_all;
    void (*progress)(void *context, double fraction);
    void *context;
};

static bool write_matrix(struct writing *writing, const struct cached_matrix *matrix, struct error *err)
{
    static const char ZEROS[ALIGNMENT];
    size_t n_bytes = bytes_of(matrix), n_padding = align_up(n_bytes, ALIGNMENT) - n_bytes;
    for (size_t done = 0, n; done < n_bytes; done += n) {
        n = size_min(SLICE_BYTES, n_bytes - done);
        if (!file_writer_write(&writing->writer, (const char *)matrix->data + done, n, err))
            return false;
        writing->n_done += n;
        if (writing->progress)
            writing->progress(writing->context, (double)writing->n_done / (double)writing->n_all);
    }
    return n_padding == 0 || file_writer_write(&writing->writer, ZEROS, n_padding, err);
}

bool weight_cache_write(const struct weight_cache *cache, void (*progress)(void *context, double fraction), void *context,
                        struct error *err)
{
    struct writing writing = {.progress = progress, .context = context};
    struct buffer header;
    buffer_init(&header, 0);
    for (size_t i = 0; i < cache->n_matrices; i++)
        writing.n_all += bytes_of(&cache->matrices[i]);
    bool ok = build_header(&header, cache, err) && file_writer_open(&writing.writer, cache->path, err) &&
              file_writer_write(&writing.writer, header.data, header.n_bytes, err);
    for (size_t i = 0; ok && i < cache->n_matrices; i++)
        ok = write_matrix(&writing, &cache->matrices[i], err);
    ok = ok && file_writer_commit(&writing.writer, err);
    if (!ok)
        file_writer_abort(&writing.writer);
    buffer_finish(&header);
    return ok;
}
