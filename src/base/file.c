#include "base/file.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"

enum {
    DATA_ALIGNMENT = 64,
    HUGE_PAGE = 2 << 20,
    ATTEMPTS = 100, /* to find a free temporary name */
    MOST_DEPTH = 64 /* of a directory to remove: we make two levels, and recursion needs an end */
};

/* --- reading --- */

/* Opens a regular file and tells its size and stamp; -1 with err. O_NONBLOCK keeps a FIFO from hanging us
   before fstat can tell what it is. */
static int open_regular(const char *path, size_t *n_bytes_out, struct file_stamp *stamp_out, struct error *err)
{
    struct stat status;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (descriptor < 0) {
        error_io(err, "cannot open", path, errno);
        return -1;
    }
    if (fstat(descriptor, &status) != 0)
        error_io(err, "cannot look at", path, errno);
    else if (!S_ISREG(status.st_mode))
        error_set(err, ERROR_BAD_INPUT, NULL, "'%s' is not a regular file", path);
    else if ((uintmax_t)status.st_size > SIZE_MAX - DATA_ALIGNMENT)
        error_set(err, ERROR_TOO_LARGE, NULL, "'%s' has %jd bytes", path, (intmax_t)status.st_size);
    else {
        *n_bytes_out = (size_t)status.st_size;
        *stamp_out = (struct file_stamp){
            .inode = status.st_ino,
            .modified_ns = (int64_t)status.st_mtim.tv_sec * 1000000000 + (int64_t)status.st_mtim.tv_nsec,
        };
        return descriptor;
    }
    close(descriptor);
    return -1;
}

/* Reads until `n_bytes` are there or the file ends. Returns how many, SIZE_MAX with errno. */
static size_t read_fully(int descriptor, unsigned char *out, size_t n_bytes)
{
    size_t n_read = 0;
    while (n_read < n_bytes) {
        ssize_t n = read(descriptor, out + n_read, size_min(n_bytes - n_read, (size_t)1 << 30));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return SIZE_MAX;
        if (n == 0)
            break;
        n_read += (size_t)n;
    }
    return n_read;
}

/* Exactly the bytes that fstat announced, and then the end: a file that changes meanwhile is
   neither its old self nor its new one. */
static bool read_exactly(int descriptor, unsigned char *out, size_t n_bytes, const char *path,
                         struct error *err)
{
    unsigned char more;
    size_t n_read = read_fully(descriptor, out, n_bytes);
    size_t n_more = n_read == n_bytes ? read_fully(descriptor, &more, 1) : 0;
    if (n_read == SIZE_MAX || n_more == SIZE_MAX)
        return error_io(err, "cannot read", path, errno);
    if (n_read < n_bytes || n_more > 0)
        return error_set(err, ERROR_IO, NULL, "'%s' changed its size while it was read", path);
    return true;
}

/* Room for `n_bytes` that begins at a multiple of a huge page; NULL where there is none, and for what is too small to gain by it. */
static void *reserve(size_t n_bytes)
{
    if (n_bytes < 2 * HUGE_PAGE || n_bytes > SIZE_MAX / 2)
        return NULL;
    size_t n_whole = align_up(n_bytes, HUGE_PAGE), n_reserved = n_whole + HUGE_PAGE;
    char *room = mmap(NULL, n_reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return NULL;
    size_t n_before = (size_t)-(uintptr_t)room % HUGE_PAGE;
    if (n_before > 0)
        munmap(room, n_before);
    munmap(room + n_before + n_whole, n_reserved - n_before - n_whole);
    return room + n_before;
}

static void *map_descriptor(int descriptor, size_t n_bytes)
{
    void *room = reserve(n_bytes);
    void *data = mmap(room, n_bytes, PROT_READ, MAP_SHARED | (room ? MAP_FIXED : 0), descriptor, 0);
    if (!room)
        return data;
    int errno_value = errno;
    long page = sysconf(_SC_PAGESIZE);
    size_t n_used = data == MAP_FAILED ? 0 : align_up(n_bytes, page > 0 ? (size_t)page : HUGE_PAGE);
    if (n_used < align_up(n_bytes, HUGE_PAGE))
        munmap((char *)room + n_used, align_up(n_bytes, HUGE_PAGE) - n_used);
    errno = errno_value;
    return data;
}

bool file_map(struct file_bytes *file, const char *path, struct error *err)
{
    size_t n_bytes;
    struct file_stamp stamp;
    int descriptor = open_regular(path, &n_bytes, &stamp, err);
    if (descriptor < 0)
        return false;
    void *data = n_bytes > 0 ? map_descriptor(descriptor, n_bytes) : NULL;
    int errno_value = errno;
    close(descriptor);
    if (data == MAP_FAILED)
        return error_io(err, "cannot map", path, errno_value);
    *file = (struct file_bytes){.data = data, .n_bytes = n_bytes, .is_mapped = n_bytes > 0, .stamp = stamp};
    return true;
}

bool file_read(struct file_bytes *file, const char *path, size_t maximum, struct error *err)
{
    size_t n_bytes;
    struct file_stamp stamp;
    unsigned char *data = NULL;
    int descriptor = open_regular(path, &n_bytes, &stamp, err);
    if (descriptor < 0)
        return false;
    if (n_bytes > maximum) {
        error_set(err, ERROR_TOO_LARGE, NULL, "'%s' has %zu bytes; at most %zu are allowed", path, n_bytes,
                  maximum);
        goto fail;
    }
    if (n_bytes > 0) {
        data = aligned_alloc(DATA_ALIGNMENT, align_up(n_bytes, DATA_ALIGNMENT));
        if (!data) {
            error_no_memory(err);
            goto fail;
        }
    }
    if (!read_exactly(descriptor, data, n_bytes, path, err))
        goto fail;
    close(descriptor);
    *file = (struct file_bytes){.data = data, .n_bytes = n_bytes, .stamp = stamp};
    return true;

fail:
    free(data);
    close(descriptor);
    return false;
}

void file_close(struct file_bytes *file)
{
    if (!file)
        return;
    void *data = (void *)(uintptr_t)file->data; /* the const is ours, for readers */
    if (file->is_mapped)
        munmap(data, file->n_bytes);
    else
        free(data);
    *file = (struct file_bytes){0};
}

bool file_read_text(struct buffer *out, const char *path, size_t maximum, struct error *err)
{
    struct file_bytes file = {0};
    if (!file_read(&file, path, maximum, err))
        return false;
    bool fits = buffer_append(out, file.data, file.n_bytes);
    file_close(&file);
    return fits || error_no_memory(err);
}

bool file_read_system_text(struct buffer *out, const char *path)
{
    char block[4096];
    ssize_t n;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return false;
    while ((n = read(descriptor, block, sizeof block)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0 && !buffer_append(out, block, (size_t)n))
            break;
    close(descriptor);
    return n == 0;
}

/* --- writing --- */

/* The directory of `path`, for opening: "." when there is none in it. */
static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static bool sync_directory_of(const char *path, struct error *err)
{
    char *directory = directory_of(path);
    if (!directory)
        return error_no_memory(err);
    int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Some file systems do not sync directories, and say EINVAL. */
    bool synced = descriptor >= 0 && (fsync(descriptor) == 0 || errno == EINVAL);
    if (!synced)
        error_io(err, "cannot sync", directory, errno);
    if (descriptor >= 0)
        close(descriptor);
    free(directory);
    return synced;
}

/* The numbers only make a clash with a crashed run's leftover rare; who uses the name must see to it. NULL: no memory. */
static char *temporary_name(const char *path)
{
    static atomic_uint counter;
    char *name;
    return asprintf(&name, "%s.%ld.%u.tmp", path, (long)getpid(), atomic_fetch_add(&counter, 1)) < 0 ? NULL : name;
}

static void name_descriptor(char *out, size_t n_out, int descriptor)
{
    snprintf(out, n_out, "/proc/self/fd/%d", descriptor);
}

/* A file without a name beside `path`, that can be given one; -1 where there is no such thing. */
static int open_unnamed(const char *path)
{
    char shown[64], *directory = directory_of(path);
    int descriptor = directory ? open(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666) : -1;
    free(directory);
    if (descriptor < 0)
        return -1;
    name_descriptor(shown, sizeof shown, descriptor);
    if (access(shown, F_OK) == 0)
        return descriptor;
    close(descriptor); /* without /proc it would stay nameless */
    return -1;
}

static int open_named(const char *path, char **temporary_out, struct error *err)
{
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        char *temporary = temporary_name(path);
        if (!temporary) {
            error_no_memory(err);
            return -1;
        }
        int descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (descriptor >= 0) {
            *temporary_out = temporary;
            return descriptor;
        }
        int errno_value = errno;
        if (errno_value != EEXIST)
            error_io(err, "cannot create", temporary, errno_value);
        free(temporary);
        if (errno_value != EEXIST)
            return -1;
    }
    error_set(err, ERROR_IO, NULL, "cannot find a free temporary name beside '%s'", path);
    return -1;
}

bool file_writer_open(struct file_writer *writer, const char *path, struct error *err)
{
    *writer = (struct file_writer){.descriptor = -1, .path = strdup(path)};
    if (!writer->path)
        return error_no_memory(err);
    writer->descriptor = open_unnamed(path);
    if (writer->descriptor < 0)
        writer->descriptor = open_named(path, &writer->temporary, err);
    if (writer->descriptor >= 0)
        return true;
    file_writer_abort(writer);
    return false;
}

bool file_writer_write(struct file_writer *writer, const void *bytes, size_t n_bytes, struct error *err)
{
    const char *from = bytes;
    while (n_bytes > 0) {
        ssize_t n = write(writer->descriptor, from, size_min(n_bytes, (size_t)1 << 30));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_io(err, "cannot write", writer->path, errno);
        from += n;
        n_bytes -= (size_t)n;
    }
    return true;
}

static void forget(struct file_writer *writer)
{
    free(writer->temporary);
    free(writer->path);
    *writer = (struct file_writer){.descriptor = -1};
}

void file_writer_abort(struct file_writer *writer)
{
    if (!writer || !writer->path)
        return;
    if (writer->descriptor >= 0)
        close(writer->descriptor);
    if (writer->temporary)
        unlink(writer->temporary);
    forget(writer);
}

/* Gives the file a name, from which it can be renamed: a link replaces nothing. */
static bool name_temporary(struct file_writer *writer)
{
    char shown[64];
    name_descriptor(shown, sizeof shown, writer->descriptor);
    for (int attempt = 0; !writer->temporary && attempt < ATTEMPTS; attempt++) {
        char *temporary = temporary_name(writer->path);
        if (temporary && linkat(AT_FDCWD, shown, AT_FDCWD, temporary, AT_SYMLINK_FOLLOW) == 0) {
            writer->temporary = temporary;
            break;
        }
        int errno_value = temporary ? errno : ENOMEM;
        free(temporary);
        errno = errno_value;
        if (errno_value != EEXIST)
            break;
    }
    return writer->temporary != NULL;
}

/* All bytes on the disk and the file with a name; errno. */
static bool finish_writing(struct file_writer *writer)
{
    bool written = fsync(writer->descriptor) == 0 && name_temporary(writer);
    int errno_value = errno;
    if (close(writer->descriptor) != 0 && written) {
        written = false;
        errno_value = errno;
    }
    writer->descriptor = -1;
    errno = errno_value;
    return written;
}

bool file_writer_commit(struct file_writer *writer, struct error *err)
{
    if (!finish_writing(writer)) {
        error_io(err, "cannot write", writer->path, errno);
        file_writer_abort(writer);
        return false;
    }
    if (rename(writer->temporary, writer->path) != 0) {
        error_io(err, "cannot replace", writer->path, errno);
        file_writer_abort(writer);
        return false;
    }
    bool synced = sync_directory_of(writer->path, err);
    forget(writer);
    return synced;
}

bool file_replace(const char *path, const void *bytes, size_t n_bytes, struct error *err)
{
    struct file_writer writer;
    if (!file_writer_open(&writer, path, err))
        return false;
    if (!file_writer_write(&writer, bytes, n_bytes, err)) {
        file_writer_abort(&writer);
        return false;
    }
    return file_writer_commit(&writer, err);
}

/* --- directories --- */

bool file_exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0;
}

bool path_is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static bool create_one(const char *path, struct error *err)
{
    if (mkdir(path, 0777) == 0)
        return true;
    int errno_value = errno;
    return path_is_directory(path) || error_io(err, "cannot create directory", path, errno_value);
}

bool directory_create(const char *path, struct error *err)
{
    char *prefix = strdup(path);
    if (!prefix)
        return error_no_memory(err);
    bool created = true;
    for (char *slash = prefix + 1; created && *prefix && (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        created = create_one(prefix, err);
        *slash = '/';
    }
    created = created && create_one(path, err);
    free(prefix);
    return created;
}

static bool remove_contents(int descriptor, const char *path, int depth, struct error *err);

/* `shown` is the path of the whole, for messages. */
static bool remove_entry(int parent, const char *name, const char *shown, int depth, struct error *err)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return true;
    if (errno != EISDIR && errno != EPERM)
        return error_io(err, "cannot remove from", shown, errno);
    int descriptor = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0)
        return error_io(err, "cannot remove from", shown, errno);
    if (!remove_contents(descriptor, shown, depth + 1, err))
        return false;
    if (unlinkat(parent, name, AT_REMOVEDIR) != 0)
        return error_io(err, "cannot remove from", shown, errno);
    return true;
}

/* Takes over the descriptor. */
static bool remove_contents(int descriptor, const char *shown, int depth, struct error *err)
{
    DIR *directory = depth <= MOST_DEPTH ? fdopendir(descriptor) : NULL;
    if (!directory) {
        int errno_value = depth <= MOST_DEPTH ? errno : ELOOP;
        close(descriptor);
        return error_io(err, "cannot look into", shown, errno_value);
    }
    bool removed = true;
    struct dirent *entry;
    while (removed && (errno = 0, entry = readdir(directory))) {
        bool is_link_of_its_own = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        if (!is_link_of_its_own)
            removed = remove_entry(dirfd(directory), entry->d_name, shown, depth, err);
    }
    if (removed && errno)
        removed = error_io(err, "cannot look into", shown, errno);
    closedir(directory);
    return removed;
}

bool directory_remove(const char *path, struct error *err)
{
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0)
        return errno == ENOENT || error_io(err, "cannot remove", path, errno);
    if (!remove_contents(descriptor, path, 0, err))
        return false;
    return rmdir(path) == 0 || errno == ENOENT || error_io(err, "cannot remove", path, errno);
}

/* --- paths --- */

char *path_join(const char *directory, const char *name)
{
    char *path;
    size_t n_directory = strlen(directory);
    bool needs_slash = n_directory == 0 || directory[n_directory - 1] != '/';
    return asprintf(&path, "%s%s%s", directory, needs_slash ? "/" : "", name) < 0 ? NULL : path;
}

/* `path` is `root` or below it, by whole components. Both absolute, `root` without a slash at its
   end unless it is "/". */
static bool is_inside(const char *path, const char *root)
{
    size_t n_root = strlen(root);
    if (strcmp(root, "/") == 0)
        return path[0] == '/';
    return strncmp(path, root, n_root) == 0 && (path[n_root] == '/' || path[n_root] == '\0');
}

/* Whether ".." climbs above the beginning, by the text alone. */
static bool climbs_out(const char *path)
{
    long depth = 0;
    while (*path) {
        size_t length = strcspn(path, "/");
        if (length == 2 && path[0] == '.' && path[1] == '.')
            depth--;
        else if (length > 0 && !(length == 1 && path[0] == '.'))
            depth++;
        if (depth < 0)
            return true;
        path += length;
        path += strspn(path, "/");
    }
    return false;
}

/* Says "nothing there" only about places inside the root, so that nobody can ask us what lies outside. */
static bool may_say_missing(const char *real_root, const char *root, const char *path)
{
    if (path[0] != '/')
        return !climbs_out(path);
    if (strstr(path, "/../") || (strlen(path) >= 3 && strcmp(path + strlen(path) - 3, "/..") == 0))
        return false;
    return is_inside(path, real_root) || is_inside(path, root);
}

char *path_confine(const char *root, const char *path, const char *param, struct error *err)
{
    char *real_root = NULL, *joined = NULL, *real = NULL;
    char reason[128];

    if (!*path) {
        error_set(err, ERROR_BAD_INPUT, param, "the path is empty");
        return NULL;
    }
    real_root = realpath(root, NULL);
    if (!real_root) {
        error_io(err, "cannot resolve", root, errno);
        return NULL;
    }
    joined = path[0] == '/' ? strdup(path) : path_join(real_root, path);
    if (!joined) {
        error_no_memory(err);
        goto end;
    }
    real = realpath(joined, NULL);
    int errno_value = errno;
    if (real && is_inside(real, real_root))
        goto end;
    if (!real && errno_value == ENOMEM)
        error_no_memory(err);
    else if (!real && may_say_missing(real_root, root, path))
        error_set(err, errno_value == ENOENT || errno_value == ENOTDIR ? ERROR_NOT_FOUND : ERROR_BAD_INPUT,
                  param, "cannot resolve '%s': %s", path, strerror_r(errno_value, reason, sizeof reason));
    else
        error_set(err, ERROR_BAD_INPUT, param, "'%s' lies outside of the allowed directory", path);
    free(real);
    real = NULL;

end:
    free(joined);
    free(real_root);
    return real;
}
