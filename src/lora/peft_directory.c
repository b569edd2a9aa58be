#include "lora/peft_directory.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

#define CONFIG_NAME "adapter_config.json"
#define WEIGHTS_NAME "adapter_model.safetensors"
#define PICKLE_NAME "adapter_model.bin"

static bool has_file(const char *directory, const char *name)
{
    char *path = path_join(directory, name);
    bool found = path && file_exists(path);
    free(path);
    return found;
}

/* PEFT puts adapters that are not named "default" into a subdirectory. NULL without an error: there is none.
 */
static char *find_below(const char *directory, struct error *err)
{
    DIR *stream = opendir(directory);
    char *found = NULL;
    if (!stream) {
        error_io(err, "cannot read the adapter's directory", directory, errno);
        return NULL;
    }
    for (struct dirent *entry; (entry = readdir(stream));) {
        char *below = entry->d_name[0] == '.' ? NULL : path_join(directory, entry->d_name);
        if (!below || !has_file(below, CONFIG_NAME)) {
            free(below);
            continue;
        }
        if (found) {
            error_set(err, ERROR_MISMATCH, "path", "holds several adapters ('%s' and '%s'): name one of them",
                      strrchr(found, '/') + 1, entry->d_name);
            free(below);
            free(found);
            closedir(stream);
            return NULL;
        }
        found = below;
    }
    closedir(stream);
    if (!found)
        error_set(err, ERROR_NOT_FOUND, CONFIG_NAME,
                  "there is no " CONFIG_NAME " in the adapter's directory");
    return found;
}

static char *find_directory(const char *directory, struct error *err)
{
    if (!has_file(directory, CONFIG_NAME))
        return find_below(directory, err);
    char *copy = strdup(directory);
    if (!copy)
        error_no_memory(err);
    return copy;
}

static bool check_weights_are_there(const char *directory, struct error *err)
{
    if (has_file(directory, WEIGHTS_NAME))
        return true;
    if (has_file(directory, PICKLE_NAME))
        return error_set(err, ERROR_MISMATCH, PICKLE_NAME,
                         "there is only " PICKLE_NAME
                         ", a pickle, which is a program and is not opened: load it with PEFT "
                         "where you trust it and save it again (save_pretrained writes " WEIGHTS_NAME ")");
    return error_set(err, ERROR_NOT_FOUND, WEIGHTS_NAME,
                     "there is no " WEIGHTS_NAME " in the adapter's directory");
}

static void put_length(unsigned char out[8], uint64_t n)
{
    for (int i = 0; i < 8; i++)
        out[i] = (unsigned char)(n >> (8 * i));
}

static bool digest_files(char out[DIGEST_HEX_SIZE], const char *config, size_t n_config, const void *weights,
                         size_t n_weights, struct error *err)
{
    unsigned char lengths[16];
    struct digest *digest = digest_create();
    if (!digest)
        return error_no_memory(err);
    put_length(lengths, n_config);
    put_length(lengths + 8, n_weights);
    digest_update(digest, lengths, sizeof lengths);
    digest_update(digest, config, n_config);
    digest_update(digest, weights, n_weights);
    digest_finish_hex(digest, out);
    return true;
}

static bool read_config_text(struct buffer *out, const char *directory, struct error *err)
{
    char *path = path_join(directory, CONFIG_NAME);
    if (!path)
        return error_no_memory(err);
    bool ok = file_read_text(out, path, LIMIT_CONFIG_BYTES, err);
    free(path);
    return ok;
}

static bool read_weights(struct file_bytes *out, const char *directory, size_t file_limit, struct error *err)
{
    char *path = path_join(directory, WEIGHTS_NAME);
    if (!path)
        return error_no_memory(err);
    bool ok = file_read(out, path, file_limit ? file_limit : SIZE_MAX, err);
    free(path);
    return ok;
}

static bool open_files(struct peft_directory *opened, const char *directory, bool allow_other_heads,
                       size_t file_limit, struct buffer *text, struct error *err)
{
    if (!read_config_text(text, directory, err))
        return false;
    if (!peft_config_parse(&opened->config, buffer_text(text), text->n_bytes, allow_other_heads, err)) {
        if (err && !strstr(err->message, CONFIG_NAME))
            error_prefix(err, CONFIG_NAME);
        return false;
    }
    const struct file_bytes *weights = &opened->weights;
    return check_weights_are_there(directory, err) &&
           read_weights(&opened->weights, directory, file_limit, err) &&
           safetensors_parse(&opened->tensors, weights->data, weights->n_bytes, WEIGHTS_NAME,
                             &TENSOR_FILE_ADAPTER, err) &&
           digest_files(opened->digest, buffer_text(text), text->n_bytes, weights->data, weights->n_bytes,
                        err);
}

bool peft_directory_open(struct peft_directory *out, const char *directory, bool allow_other_heads,
                         size_t file_limit, struct error *err)
{
    struct peft_directory opened = {0};
    struct buffer text;
    char *found = find_directory(directory, err);
    if (!found)
        return false;
    buffer_init(&text, LIMIT_CONFIG_BYTES);
    bool ok = open_files(&opened, found, allow_other_heads, file_limit, &text, err);
    buffer_finish(&text);
    free(found);
    if (ok)
        *out = opened;
    else
        peft_directory_close(&opened);
    return ok;
}

void peft_directory_close(struct peft_directory *directory)
{
    tensor_file_close(&directory->tensors);
    file_close(&directory->weights);
    peft_config_finish(&directory->config);
}

static bool digest_found(const char *directory, size_t file_limit, char out[DIGEST_HEX_SIZE],
                         struct error *err)
{
    struct buffer text;
    struct file_bytes weights = {0};
    buffer_init(&text, LIMIT_CONFIG_BYTES);
    bool ok = read_config_text(&text, directory, err) && check_weights_are_there(directory, err) &&
              read_weights(&weights, directory, file_limit, err) &&
              digest_files(out, buffer_text(&text), text.n_bytes, weights.data, weights.n_bytes, err);
    file_close(&weights);
    buffer_finish(&text);
    return ok;
}

bool peft_directory_digest(const char *directory, size_t file_limit, char out[DIGEST_HEX_SIZE],
                           struct error *err)
{
    char *found = find_directory(directory, err);
    bool ok = found && digest_found(found, file_limit, out, err);
    free(found);
    return ok;
}
