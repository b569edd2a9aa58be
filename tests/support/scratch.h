/*
 * scratch.h - files for tests: a folder of one's own, and whole files in and out. Header only; it
 * stops the test program on any failure, which is never what a test is about.
 */
#ifndef SUPPORT_SCRATCH_H
#define SUPPORT_SCRATCH_H

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* A new folder below $TMPDIR or /tmp. The path lasts until scratch_remove. */
static inline char *scratch_create(void)
{
    const char *parent = getenv("TMPDIR");
    char *path = path_join(parent && *parent ? parent : "/tmp", "lorad-test-XXXXXX");
    if (!path || !mkdtemp(path))
        abort();
    return path;
}

static inline void scratch_remove(char *path)
{
    if (!directory_remove(path, NULL))
        abort();
    free(path);
}

/* Writes `n_bytes` to folder/name, making the folders in between. */
static inline void scratch_write(const char *folder, const char *name, const void *bytes, size_t n_bytes)
{
    char *path = path_join(folder, name);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    if (!directory_create(path, NULL))
        abort();
    *slash = '/';
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, n_bytes, file) != n_bytes || fclose(file) != 0)
        abort();
    free(path);
}

static inline void scratch_write_text(const char *folder, const char *name, const char *text)
{
    scratch_write(folder, name, text, strlen(text));
}

/* The repository, for reading what is committed: $LORAD_SOURCE, or the working directory. */
static inline const char *source_folder(void)
{
    const char *folder = getenv("LORAD_SOURCE");
    return folder && *folder ? folder : ".";
}

/* Real data that is not part of the repository: $LORAD_TEST_DATA, or shared/data beside the
   checkout. NULL when `name` is not there. The caller frees. */
static inline char *test_data(const char *name)
{
    const char *folder = getenv("LORAD_TEST_DATA");
    char *root = folder && *folder ? strdup(folder) : path_join(source_folder(), "../shared/data");
    char *path = path_join(root, name);
    free(root);
    if (file_exists(path))
        return path;
    free(path);
    return NULL;
}

#endif
