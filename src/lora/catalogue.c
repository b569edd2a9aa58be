/*
 * catalogue.c - what was read is kept until the directory's time of change says that names came or went.
 *
 * That time does not tell when a directory that is there already becomes an adapter, so those that are not one yet are looked at each
 * time. It has the grain of the kernel's clock: what was read within two seconds of a change is not kept.
 */
#include "lora/catalogue.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "lora/registry.h"

#define CONFIG_NAME "adapter_config.json"
#define SETTLED_NS 2000000000LL

struct catalogue {
    char *directory;
    pthread_mutex_t lock;
    struct catalogue_names *present; /* guarded by the lock; NULL: not read yet */
};

struct catalogue *catalogue_create(const char *directory)
{
    struct catalogue *catalogue = calloc(1, sizeof *catalogue);
    if (!catalogue)
        return NULL;
    catalogue->directory = strdup(directory);
    if (catalogue->directory && pthread_mutex_init(&catalogue->lock, NULL) == 0)
        return catalogue;
    free(catalogue->directory);
    free(catalogue);
    return NULL;
}

void catalogue_destroy(struct catalogue *catalogue)
{
    if (!catalogue)
        return;
    catalogue_names_unref(catalogue->present);
    pthread_mutex_destroy(&catalogue->lock);
    free(catalogue->directory);
    free(catalogue);
}

static void free_names(char **names, size_t n_names)
{
    for (size_t i = 0; i < n_names; i++)
        free(names[i]);
    free(names);
}

void catalogue_names_unref(struct catalogue_names *names)
{
    if (!names || !ref_drop(&names->ref))
        return;
    free_names(names->names, names->n_names);
    free_names(names->others, names->n_others);
    free(names);
}

/* -- One name ------------------------------------------------------------------------------ */

static bool refuse_unknown(const char *id, struct error *err)
{
    return error_set(err, ERROR_NOT_FOUND, "adapter", "there is no adapter '%s'", id);
}

char *catalogue_find(const struct catalogue *catalogue, const char *id, struct error *err)
{
    struct error problem = {0};
    if (!adapter_id_is_valid(id))
        return refuse_unknown(id, err), NULL;
    char *path = path_confine(catalogue->directory, id, "adapter", &problem);
    char *config = path ? path_join(path, CONFIG_NAME) : NULL;
    bool ok = config && file_exists(config);
    if (path && !config)
        error_no_memory(err);
    else if (!path && problem.code != ERROR_NOT_FOUND && err)
        *err = problem;
    else if (!ok)
        refuse_unknown(id, err);
    free(config);
    if (ok)
        return path;
    free(path);
    return NULL;
}

/* -- All names ----------------------------------------------------------------------------- */

static bool holds_adapter(const struct catalogue *catalogue, int directory, const char *name, unsigned char type)
{
    char path[LORAD_ID_SIZE + sizeof CONFIG_NAME + 1];
    if (type == DT_LNK) { /* may lead out of the directory, and is not an adapter then */
        char *real = catalogue_find(catalogue, name, NULL);
        free(real);
        return real != NULL;
    }
    snprintf(path, sizeof path, "%.*s/" CONFIG_NAME, LORAD_ID_SIZE - 1, name); /* a valid id is no longer */
    return faccessat(directory, path, F_OK, 0) == 0;
}

static bool append(char ***names, size_t *n_names, const char *name)
{
    if ((*n_names & (*n_names - 1)) == 0) { /* full at every power of two */
        char **larger = realloc(*names, (*n_names ? 2 * *n_names : 1) * sizeof *larger);
        if (!larger)
            return false;
        *names = larger;
    }
    (*names)[*n_names] = strdup(name);
    return (*names)[*n_names] && ++*n_names;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool read_names(const struct catalogue *catalogue, DIR *stream, struct catalogue_names *out)
{
    bool ok = true;
    for (struct dirent *entry; ok && (entry = readdir(stream));) {
        bool may_be = entry->d_type == DT_DIR || entry->d_type == DT_LNK || entry->d_type == DT_UNKNOWN;
        if (!may_be || !adapter_id_is_valid(entry->d_name))
            continue;
        bool is_adapter = holds_adapter(catalogue, dirfd(stream), entry->d_name, entry->d_type);
        ok = is_adapter ? append(&out->names, &out->n_names, entry->d_name)
                        : append(&out->others, &out->n_others, entry->d_name);
    }
    if (ok && out->n_names > 0)
        qsort(out->names, out->n_names, sizeof *out->names, compare_names);
    return ok;
}

static long long time_of_change(int descriptor)
{
    struct stat status;
    if (fstat(descriptor, &status) != 0)
        return -1;
    return status.st_mtim.tv_sec * 1000000000LL + status.st_mtim.tv_nsec;
}

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static struct catalogue_names *scan(const struct catalogue *catalogue, DIR *stream, struct error *err)
{
    struct catalogue_names *names = calloc(1, sizeof *names);
    if (!names)
        return error_no_memory(err), NULL;
    ref_init(&names->ref);
    names->changed_ns = time_of_change(dirfd(stream)); /* first: what changes meanwhile shows next time */
    if (now_ns() - names->changed_ns < SETTLED_NS)
        names->changed_ns = -1;
    if (read_names(catalogue, stream, names))
        return names;
    catalogue_names_unref(names);
    return error_no_memory(err), NULL;
}

static bool is_current(const struct catalogue *catalogue, int directory, const struct catalogue_names *names)
{
    if (names->changed_ns < 0 || names->changed_ns != time_of_change(directory))
        return false;
    for (size_t i = 0; i < names->n_others; i++)
        if (holds_adapter(catalogue, directory, names->others[i], DT_UNKNOWN))
            return false;
    return true;
}

static struct catalogue_names *take_present(struct catalogue *catalogue)
{
    pthread_mutex_lock(&catalogue->lock);
    struct catalogue_names *names = catalogue->present;
    if (names)
        ref_take(&names->ref);
    pthread_mutex_unlock(&catalogue->lock);
    return names;
}

static void put_present(struct catalogue *catalogue, struct catalogue_names *names)
{
    ref_take(&names->ref);
    pthread_mutex_lock(&catalogue->lock);
    struct catalogue_names *old = catalogue->present;
    catalogue->present = names;
    pthread_mutex_unlock(&catalogue->lock);
    catalogue_names_unref(old);
}

struct catalogue_names *catalogue_read(struct catalogue *catalogue, struct error *err)
{
    struct catalogue_names *names = take_present(catalogue);
    DIR *stream = opendir(catalogue->directory);
    if (!stream)
        error_io(err, "cannot read", catalogue->directory, errno);
    if (!stream || !names || !is_current(catalogue, dirfd(stream), names)) {
        catalogue_names_unref(names);
        names = stream ? scan(catalogue, stream, err) : NULL;
        if (names)
            put_present(catalogue, names);
    }
    if (stream)
        closedir(stream);
    return names;
}
