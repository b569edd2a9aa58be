/*
 * catalogue.h - the adapters that lie in a directory, each under its directory's name.
 *
 * A name is an adapter's when it is a valid id and its directory holds an adapter_config.json. Any thread; no file of an adapter is
 * opened, and the directory is read anew only when it has changed.
 */
#ifndef LORA_CATALOGUE_H
#define LORA_CATALOGUE_H

#include <stddef.h>

#include "base/error.h"
#include "base/ref.h"

struct catalogue;

/* What was there when it was read; shared, so never changed. */
struct catalogue_names {
    char **names; /* sorted */
    size_t n_names;
    struct ref ref; /* this and what follows: private */
    char **others; /* directories that hold no adapter, yet */
    size_t n_others;
    long long changed_ns; /* when the directory was last changed; -1: it may change again unseen */
};

struct catalogue *catalogue_create(const char *directory); /* NULL: no memory */
void catalogue_destroy(struct catalogue *catalogue);

/* The real path of the adapter `id`, inside the directory; caller frees. NULL: ERROR_NOT_FOUND with param "adapter". */
char *catalogue_find(const struct catalogue *catalogue, const char *id, struct error *err);

/* All names, with a reference for the caller. */
struct catalogue_names *catalogue_read(struct catalogue *catalogue, struct error *err);
void catalogue_names_unref(struct catalogue_names *names); /* NULL is fine */

#endif
