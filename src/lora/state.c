/*
 * state.c - {"version": 1, "adapters": [{"id", "digest", "path" or "upload": true, "default_mode",
 * "allow_other_heads", "pinned"}]}.
 *
 * We wrote it, but read it as if a stranger had: a field that is off may mean another version, and half a
 * registry is worse than none.
 */
#include "lora/state.h"

#include <stdlib.h>
#include <string.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "lora/registry.h"

#define STATE_NAME "registry.json"
#define STATE_BYTES ((size_t)64 << 20)

static const char *const mode_names[] = {"auto", "on_the_fly", "merged"};

static bool read_mode(const json_t *object, enum lorad_mode *out, struct error *err)
{
    const char *name = "auto";
    if (!json_get_string(object, "default_mode", &name, err))
        return false;
    for (size_t i = 0; i < sizeof mode_names / sizeof mode_names[0]; i++)
        if (strcmp(name, mode_names[i]) == 0)
            return *out = (enum lorad_mode)i, true;
    return error_set(err, ERROR_BAD_INPUT, "default_mode", "is '%s'", name);
}

static bool read_entry(struct state_entry *out, const json_t *object, struct error *err)
{
    static const char *const known[] = {"id", "digest", "path", "upload", "default_mode", "allow_other_heads",
                                        "pinned", NULL};
    const char *id, *digest, *path = NULL;
    if (!json_is_object(object))
        return error_set(err, ERROR_BAD_INPUT, "adapters", "holds what is not an object");
    if (!json_check_known(object, known, err) || !json_require_string(object, "id", &id, err) ||
        !json_require_string(object, "digest", &digest, err) ||
        !json_get_string(object, "path", &path, err) ||
        !json_get_bool(object, "upload", &out->is_upload, err) ||
        !json_get_bool(object, "pinned", &out->is_pinned, err) ||
        !json_get_bool(object, "allow_other_heads", &out->allow_other_heads, err) ||
        !read_mode(object, &out->default_mode, err))
        return false;
    if (!adapter_id_is_valid(id) || !digest_hex_is_valid(digest))
        return error_set(err, ERROR_BAD_INPUT, "id", "'%.128s' or its digest is malformed", id);
    if (out->is_upload == (path != NULL))
        return error_set(err, ERROR_BAD_INPUT, "path", "'%s' needs a path, or to be an upload", id);
    memcpy(out->id, id, strlen(id) + 1);
    memcpy(out->digest, digest, strlen(digest) + 1);
    out->path = path ? strdup(path) : NULL;
    return !path || out->path || error_no_memory(err);
}

static bool read_entries(struct state *state, const json_t *list, struct error *err)
{
    size_t n = json_array_size(list);
    state->entries = calloc(n ? n : 1, sizeof *state->entries);
    if (!state->entries)
        return error_no_memory(err);
    for (size_t i = 0; i < n; i++) {
        state->n_entries++;
        if (!read_entry(&state->entries[i], json_array_get(list, i), err))
            return false;
    }
    return true;
}

static bool parse(struct state *state, const json_t *root, struct error *err)
{
    static const char *const known[] = {"version", "adapters", NULL};
    const json_t *list = NULL;
    size_t version = 0;
    return json_check_known(root, known, err) && json_require_size(root, "version", 1, 1, &version, err) &&
           json_get_array(root, "adapters", &list, err) && read_entries(state, list, err);
}

bool state_read(struct state *out, const char *state_dir, struct error *err)
{
    struct state state = {0};
    char *path = path_join(state_dir, STATE_NAME);
    if (!path)
        return error_no_memory(err);
    bool ok = true;
    if (file_exists(path)) {
        json_t *root = json_read_file(path, STATE_BYTES, JSON_PLAIN, STATE_NAME, err);
        ok = root && parse(&state, root, err);
        if (root && !ok)
            error_prefix(err, STATE_NAME);
        json_decref(root);
    }
    free(path);
    if (ok)
        *out = state;
    else
        state_finish(&state);
    return ok;
}

static json_t *describe(const struct state_entry *entry)
{
    json_t *object = json_object();
    bool ok = object && json_object_set_new(object, "id", json_string(entry->id)) == 0 &&
              json_object_set_new(object, "digest", json_string(entry->digest)) == 0 &&
              json_object_set_new(object, "default_mode", json_string(mode_names[entry->default_mode])) == 0;
    if (ok && entry->is_upload)
        ok = json_object_set_new(object, "upload", json_true()) == 0;
    else if (ok)
        ok = json_object_set_new(object, "path", json_string(entry->path)) == 0;
    if (ok && entry->allow_other_heads)
        ok = json_object_set_new(object, "allow_other_heads", json_true()) == 0;
    if (ok && entry->is_pinned)
        ok = json_object_set_new(object, "pinned", json_true()) == 0;
    if (ok)
        return object;
    json_decref(object);
    return NULL;
}

static char *print(const struct state *state)
{
    json_t *list = json_array(), *root = json_object();
    bool ok = list && root && json_object_set_new(root, "version", json_integer(1)) == 0;
    for (size_t i = 0; ok && i < state->n_entries; i++)
        ok = json_array_append_new(list, describe(&state->entries[i])) == 0;
    ok = ok && json_object_set(root, "adapters", list) == 0;
    char *text = ok ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(list);
    json_decref(root);
    return text;
}

bool state_write(const struct state *state, const char *state_dir, struct error *err)
{
    char *path = path_join(state_dir, STATE_NAME), *text = print(state);
    bool ok = (path && text) || error_no_memory(err);
    ok = ok && directory_create(state_dir, err) && file_replace(path, text, strlen(text), err);
    free(path);
    free(text);
    return ok;
}

void state_finish(struct state *state)
{
    for (size_t i = 0; i < state->n_entries; i++)
        free(state->entries[i].path);
    free(state->entries);
    memset(state, 0, sizeof *state);
}
