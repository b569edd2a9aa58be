/*
 * source.h - where adapters come from: directories inside the allowed root, and uploads below the state
 * directory.
 *
 * An upload begins in uploads/<random>, and is renamed to uploads/<digest> when it has been loaded. Keeper
 * and HTTP threads; no state of its own.
 */
#ifndef LORA_SOURCE_H
#define LORA_SOURCE_H

#include "base/error.h"
#include "base/map.h"

/* The real path of `path` inside `adapters_dir` (NULL: none is allowed, ERROR_BAD_INPUT with param "path").
 * Caller frees. */
char *source_confine(const char *adapters_dir, const char *path, struct error *err);

/* A fresh directory state_dir/uploads/<random>. Caller frees the name. */
char *source_stage(const char *state_dir, struct error *err);

/* Renames a staged directory to uploads/<digest>, or removes it when that is there already. The new name;
 * caller frees. */
char *source_keep(const char *state_dir, const char *staged, const char *digest, struct error *err);

/* state_dir/uploads/<digest>. NULL: no memory. */
char *source_upload_path(const char *state_dir, const char *digest);

/* Removes every directory in uploads whose path is not a key of `wanted`. */
bool source_sweep(const char *state_dir, const struct map *wanted, struct error *err) MUST_USE;

#endif
