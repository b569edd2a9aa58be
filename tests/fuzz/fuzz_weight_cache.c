/*
 * fuzz_weight_cache.c - any bytes as a cache of packed weights. Only the very header that this process would write is accepted, in a file of
 * the very size; then every matrix lies inside, whole, aligned and apart from the others.
 *
 * The first byte chooses: odd, and the rest is the file; even, and the rest are changes to a good one: (2) where, (1) the byte there; the
 * first such pair of bytes, if not zero, is its length in units of 16 bytes.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "model/weight_cache.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data);

enum { N_MATRICES = 3, N_HEADER = 4096, N_GOOD = N_HEADER + N_MATRICES * 4096 };

static volatile size_t sink;

static struct cached_matrix matrices[N_MATRICES];

static struct weight_cache make_cache(void)
{
    static const struct cached_matrix SHAPES[N_MATRICES] = {
        {.type = WEIGHT_F32, .layout = MATRIX_ROWS, .n_out = 3, .n_in = 5},
        {.type = WEIGHT_Q4, .layout = MATRIX_PACKED, .n_out = 70, .n_in = 40},
        {.type = WEIGHT_BF16, .layout = MATRIX_PACKED, .n_out = 16, .n_in = 7},
    };
    struct weight_cache cache = {.matrices = matrices, .n_matrices = N_MATRICES};
    memcpy(matrices, SHAPES, sizeof matrices);
    digest_hex("weights", 7, cache.identity);
    return cache;
}

/* A good file: written once and read back. */
static const unsigned char *good(void)
{
    static unsigned char bytes[N_GOOD];
    static bool is_made;
    struct file_bytes file;
    char folder[] = "/tmp/lorad-fuzz-XXXXXX";
    if (is_made)
        return bytes;
    struct weight_cache cache = make_cache();
    char *path = mkdtemp(folder) ? path_join(folder, "f") : NULL;
    cache.path = path;
    for (size_t i = 0; i < N_MATRICES; i++)
        matrices[i].data = calloc(1, N_GOOD);
    if (!path || !weight_cache_write(&cache, NULL, NULL, NULL) || !file_read(&file, path, N_GOOD, NULL) || file.n_bytes != N_GOOD)
        abort();
    memcpy(bytes, file.data, N_GOOD);
    for (size_t i = 0; i < N_MATRICES; i++)
        free((void *)matrices[i].data);
    file_close(&file);
    if (!directory_remove(folder, NULL))
        abort();
    free(path);
    is_made = true;
    return bytes;
}

static void check(const unsigned char *bytes, size_t n_bytes)
{
    struct weight_cache cache = make_cache();
    struct error err;
    bool accepted = weight_cache_parse(&cache, bytes, n_bytes, &err);
    assert(accepted == (n_bytes == N_GOOD && memcmp(bytes, good(), N_HEADER) == 0));
    if (!accepted) {
        assert(err.code == ERROR_MISMATCH);
        return;
    }
    const unsigned char *end = bytes + N_HEADER;
    for (size_t i = 0; i < N_MATRICES; i++) {
        const unsigned char *from = matrices[i].data;
        size_t n = matrix_layout_bytes(matrices[i].type, matrices[i].layout, matrices[i].n_out, matrices[i].n_in);
        assert(from >= end && (size_t)(from - bytes) % 4096 == 0);
        end = from + n;
        assert(end <= bytes + n_bytes);
        for (size_t j = 0; j < n; j++)
            sink += from[j];
    }
}

static void check_changed(const uint8_t *data, size_t n_data)
{
    size_t n_bytes = n_data >= 2 && (data[0] || data[1]) ? (size_t)(data[0] | data[1] << 8) * 16 : N_GOOD;
    unsigned char *bytes = calloc(1, n_bytes + 1);
    if (!bytes)
        return;
    memcpy(bytes, good(), n_bytes < N_GOOD ? n_bytes : N_GOOD);
    for (size_t i = 2; i + 3 <= n_data; i += 3) {
        size_t at = (size_t)(data[i] | data[i + 1] << 8);
        if (at < n_bytes)
            bytes[at] = data[i + 2];
    }
    unsigned char *exact = realloc(bytes, n_bytes ? n_bytes : 1); /* so that one byte too many is seen */
    check(exact, n_bytes);
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data)
{
    if (n_data == 0)
        return 0;
    if (data[0] & 1) {
        unsigned char *bytes = malloc(n_data - 1 ? n_data - 1 : 1);
        if (!bytes)
            return 0;
        memcpy(bytes, data + 1, n_data - 1);
        check(bytes, n_data - 1);
        free(bytes);
    } else {
        check_changed(data + 1, n_data - 1);
    }
    return 0;
}
