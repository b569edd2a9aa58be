/*
 * merge.c - lorad_merge: a model directory and adapters -> a merged model directory.
 */
#include <stdlib.h>

#include "base/cpu.h"
#include "base/limits.h"
#include "kernels/blas.h"
#include "lora/export.h"
#include "lorad/lorad_internal.h"

static bool load_parts(const struct model *model, const struct lorad_merge_part *parts, size_t n_parts,
                       struct compose_part *out, struct error *err)
{
    for (size_t i = 0; i < n_parts; i++) {
        out[i].adapter = adapter_load(parts[i].path, model, false, UINT64_MAX, err);
        out[i].factor = parts[i].weight;
        if (!out[i].adapter)
            return false;
    }
    return true;
}

bool lorad_merge(const char *model_path, const struct lorad_merge_part *parts, size_t n_parts,
                 const char *out_directory, lorad_progress *progress, void *progress_context, struct error *err)
{
    struct lorad_options options = {.model_path = model_path, .progress = progress, .progress_context = progress_context};
    struct compose_part loaded[LIMIT_REQUEST_ADAPTERS] = {0};
    const struct kernels *kernels;
    if (n_parts == 0 || n_parts > LIMIT_REQUEST_ADAPTERS)
        return error_set(err, ERROR_BAD_INPUT, "adapter", "1 to %d adapters can be merged, not %zu",
                         LIMIT_REQUEST_ADAPTERS, n_parts);
    struct model *model = open_model(&options, &kernels, err);
    if (!model)
        return false;
    blas_set_threads(cpu_usable_cores());
    bool ok = load_parts(model, parts, n_parts, loaded, err) &&
              export_merged(model, model_path, loaded, n_parts, out_directory, progress, progress_context, err);
    for (size_t i = 0; i < n_parts; i++)
        adapter_unref(loaded[i].adapter);
    model_destroy(model);
    return ok;
}
