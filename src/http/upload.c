/*
 * upload.c - see upload.h. File names come from a list of two, never from the client.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/limits.h"
#include "http/multipart.h"
#include "http/upload.h"

static const char *const FILES[] = {"adapter_config.json", "adapter_model.safetensors"};
enum { FILE_CONFIG, FILE_WEIGHTS, N_FILES };

struct upload {
    struct multipart parser;
    char *directory;
    uint64_t max_bytes, n_bytes;    /* of all parts together */
    uint64_t n_file_bytes;          /* of the present part */
    int fd;                         /* the present part's file; -1: none */
    int file;
    bool seen[N_FILES];
    bool handed_over;
};

static bool begin_part(void *context, const char *name, const char *filename, struct error *err)
{
    struct upload *upload = context;
    upload->file = -1;
    for (int i = 0; i < N_FILES; i++)
        if (strcmp(filename, FILES[i]) == 0 || strcmp(name, FILES[i]) == 0)
            upload->file = i;
    if (upload->file < 0)
        return error_set(err, ERROR_BAD_INPUT, NULL, "multipart: part '%.64s' (file '%.64s') is neither %s nor %s", name,
                         filename, FILES[0], FILES[1]);
    if (upload->seen[upload->file])
        return error_set(err, ERROR_BAD_INPUT, NULL, "multipart: %s is there twice", FILES[upload->file]);
    upload->seen[upload->file] = true;
    upload->n_file_bytes = 0;
    char *path = path_join(upload->directory, FILES[upload->file]);
    if (!path)
        return error_no_memory(err);
    upload->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool ok = upload->fd >= 0 || error_io(err, "create", path, errno);
    free(path);
    return ok;
}

static bool write_all(int fd, const char *bytes, size_t n_bytes, struct error *err)
{
    while (n_bytes > 0) {
        ssize_t n = write(fd, bytes, n_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_io(err, "write", "an uploaded file", errno);
        bytes += n;
        n_bytes -= (size_t)n;
    }
    return true;
}

static bool part_data(void *context, const void *bytes, size_t n_bytes, struct error *err)
{
    struct upload *upload = context;
    upload->n_bytes += n_bytes;
    upload->n_file_bytes += n_bytes;
    if (upload->n_bytes > upload->max_bytes)
        return error_set(err, ERROR_TOO_LARGE, NULL, "the upload has more than %llu bytes",
                         (unsigned long long)upload->max_bytes);
    if (upload->file == FILE_CONFIG && upload->n_file_bytes > LIMIT_CONFIG_BYTES)
        return error_set(err, ERROR_TOO_LARGE, FILES[FILE_CONFIG], "has more than %zu bytes", LIMIT_CONFIG_BYTES);
    return write_all(upload->fd, bytes, n_bytes, err);
}

static bool end_part(void *context, struct error *err)
{
    struct upload *upload = context;
    int fd = upload->fd;
    upload->fd = -1;
    if (close(fd) != 0)
        return error_io(err, "write", FILES[upload->file], errno);
    return true;
}

struct upload *upload_begin(struct lorad *lorad, const char *content_type, uint64_t max_bytes, struct error *err)
{
    struct upload *upload = calloc(1, sizeof *upload);
    if (!upload) {
        error_no_memory(err);
        return NULL;
    }
    upload->fd = -1;
    upload->max_bytes = max_bytes;
    struct multipart_sink sink = {.begin = begin_part, .data = part_data, .end = end_part, .context = upload};
    upload->directory = lorad_staging_create(lorad, err);
    if (upload->directory && multipart_begin(&upload->parser, content_type, sink, err))
        return upload;
    upload_destroy(upload);
    return NULL;
}

bool upload_feed(struct upload *upload, const void *bytes, size_t n_bytes, struct error *err)
{
    return multipart_feed(&upload->parser, bytes, n_bytes, err);
}

bool upload_end(struct upload *upload, struct error *err)
{
    if (!multipart_end(&upload->parser, err))
        return false;
    for (int i = 0; i < N_FILES; i++)
        if (!upload->seen[i])
            return error_set(err, ERROR_BAD_INPUT, FILES[i], "is missing from the upload");
    return true;
}

const char *upload_directory(const struct upload *upload)
{
    return upload->directory;
}

void upload_hand_over(struct upload *upload)
{
    upload->handed_over = true;
}

void upload_destroy(struct upload *upload)
{
    if (!upload)
        return;
    if (upload->fd >= 0)
        close(upload->fd);
    multipart_finish(&upload->parser);
    if (upload->directory && !upload->handed_over)
        lorad_staging_remove(upload->directory);
    free(upload->directory);
    free(upload);
}
