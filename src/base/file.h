/*
 * file.h - whole files: map read-only, read with a limit, replace atomically.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

/* What tells a file from its successors under the same name. */
struct file_stamp {
    uint64_t inode;
    int64_t modified_ns;
};

/* Bytes that are either mapped read-only (base models, which the operator owns) or read into
   private memory (adapters: somebody may truncate the file under a mapping, which kills). */
struct file_bytes {
    const unsigned char *data; /* at least 64-byte aligned; NULL for an empty file */
    size_t n_bytes;
    bool is_mapped;
    struct file_stamp stamp; /* when it was opened */
};

/* A large file begins at a multiple of a huge page, so that the system may map it in such where its page cache holds them. */
bool file_map(struct file_bytes *file, const char *path, struct error *err) MUST_USE;
/* Refuses (ERROR_TOO_LARGE) a file of more than `maximum` bytes before reading, non-regular files too. */
bool file_read(struct file_bytes *file, const char *path, size_t maximum, struct error *err) MUST_USE;
void file_close(struct file_bytes *file); /* zeroed is fine */

/* Reads a text file into `out` (initialised by the caller). */
bool file_read_text(struct buffer *out, const char *path, size_t maximum, struct error *err) MUST_USE;

/* The same of what the system writes as it is read (/proc, /sys): its size is not known before. False also when it is not there. */
bool file_read_system_text(struct buffer *out, const char *path) MUST_USE;

/* Writes to a temporary file beside `path`, syncs, renames over it, syncs the directory: a reader
   sees the old bytes or the new ones, never a part. */
bool file_replace(const char *path, const void *bytes, size_t n_bytes, struct error *err) MUST_USE;

/* The same for bytes that come in pieces. Open, write, then commit or abort, both of which end the
   writer; aborting a zeroed or ended one is fine. Nothing is at `path` before the commit, and nothing stays behind when
   the process is killed before it, where the file system has files without a name (O_TMPFILE). */
struct file_writer {
    int descriptor;
    char *path;      /* NULL: not open */
    char *temporary; /* NULL: the file has no name yet */
};
bool file_writer_open(struct file_writer *writer, const char *path, struct error *err) MUST_USE;
bool file_writer_write(struct file_writer *writer, const void *bytes, size_t n_bytes, struct error *err) MUST_USE;
bool file_writer_commit(struct file_writer *writer, struct error *err) MUST_USE;
void file_writer_abort(struct file_writer *writer);

bool file_exists(const char *path);
bool path_is_directory(const char *path);
bool directory_create(const char *path, struct error *err) MUST_USE; /* with parents; existing is fine */
/* Removes a directory and everything in it, not following links. A missing one is fine. */
bool directory_remove(const char *path, struct error *err) MUST_USE;

/* dir + "/" + name; NULL on no memory. The caller frees. */
char *path_join(const char *directory, const char *name);

/* Resolves `path` (relative ones from `root`), follows links, and hands out the real path if it lies
   inside `root`; ERROR_BAD_INPUT with `param` otherwise, ERROR_NOT_FOUND when there is nothing. Caller frees. */
char *path_confine(const char *root, const char *path, const char *param, struct error *err);

#endif
