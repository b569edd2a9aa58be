#include "lora/source.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/file.h"

char *source_confine(const char *adapters_dir, const char *path, struct error *err)
{
    if (!adapters_dir) {
        error_set(err, ERROR_BAD_INPUT, "path",
                  "adapters are not loaded by path here: the daemon has no --adapters-dir");
        return NULL;
    }
    return path_confine(adapters_dir, path, "path", err);
}

static char *uploads(const char *state_dir, struct error *err)
{
    char *path = path_join(state_dir, "uploads");
    if (!path) {
        error_no_memory(err);
        return NULL;
    }
    if (directory_create(path, err))
        return path;
    free(path);
    return NULL;
}

static bool random_name(char out[33], struct error *err)
{
    unsigned char bytes[16];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return error_io(err, "cannot get random bytes", "getrandom", errno);
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    return true;
}

char *source_stage(const char *state_dir, struct error *err)
{
    char name[33];
    if (!state_dir) {
        error_set(err, ERROR_BAD_INPUT, NULL, "uploads are not taken here: the daemon has no --state-dir");
        return NULL;
    }
    char *parent = uploads(state_dir, err);
    char *path = parent && random_name(name, err) ? path_join(parent, name) : NULL;
    if (path && mkdir(path, 0700) != 0) {
        error_io(err, "cannot create", path, errno);
        free(path);
        path = NULL;
    }
    free(parent);
    return path;
}

char *source_upload_path(const char *state_dir, const char *digest)
{
    char *parent = path_join(state_dir, "uploads");
    char *path = parent ? path_join(parent, digest) : NULL;
    free(parent);
    return path;
}

char *source_keep(const char *state_dir, const char *staged, const char *digest, struct error *err)
{
    char *kept = source_upload_path(state_dir, digest);
    bool ok = kept || error_no_memory(err);
    if (kept && strcmp(kept, staged) == 0)
        return kept;
    if (kept && path_is_directory(kept))
        ok = directory_remove(staged, err);
    else if (kept && rename(staged, kept) != 0)
        ok = error_io(err, "cannot rename the upload to", kept, errno);
    if (ok)
        return kept;
    free(kept);
    return NULL;
}

static bool sweep_entry(const char *parent, const char *name, const struct map *wanted, struct error *err)
{
    char *path = path_join(parent, name);
    bool ok = path ? map_get(wanted, path) || directory_remove(path, err) : error_no_memory(err);
    free(path);
    return ok;
}

bool source_sweep(const char *state_dir, const struct map *wanted, struct error *err)
{
    char *parent = uploads(state_dir, err);
    DIR *stream = parent ? opendir(parent) : NULL;
    bool ok = stream || (parent && error_io(err, "cannot read", parent, errno));
    for (struct dirent *entry; ok && (entry = readdir(stream));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            ok = sweep_entry(parent, entry->d_name, wanted, err);
    if (stream)
        closedir(stream);
    free(parent);
    return ok;
}
