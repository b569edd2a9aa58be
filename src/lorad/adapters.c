/*
 * adapters.c - the registry's calls, and the rule that a draining daemon loads nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "lorad/lorad_internal.h"

static bool check_serving(struct lorad *lorad, struct error *err)
{
    if (lorad_is_draining(lorad))
        return error_set(err, ERROR_UNAVAILABLE, NULL, "the daemon is shutting down");
    return true;
}

bool lorad_adapter_load(struct lorad *lorad, const char *id, const struct lorad_load_options *options,
                        struct lorad_load_report *report, struct error *err)
{
    if (!lorad_adapter_id_is_valid(id))
        return error_set(err, ERROR_BAD_INPUT, "id",
                         "must be 1 to 128 letters, digits, '.', '_' or '-', and begin with a letter or digit");
    if (strcmp(id, lorad->name) == 0)
        return error_set(err, ERROR_BAD_INPUT, "id", "'%s' is the base model's name", id);
    return check_serving(lorad, err) && registry_load(lorad->registry, id, options, report, err);
}

void lorad_load_report_finish(struct lorad_load_report *report)
{
    if (!report)
        return;
    for (size_t i = 0; i < report->n_warnings; i++)
        free(report->warnings[i]);
    free(report->warnings);
    free(report->sites);
    memset(report, 0, sizeof *report);
}

bool lorad_adapter_unload(struct lorad *lorad, const char *id, const char *if_match, bool force, struct error *err)
{
    return check_serving(lorad, err) && registry_unload(lorad->registry, id, if_match, force, err);
}

bool lorad_adapter_merge(struct lorad *lorad, const char *id, unsigned wait_ms, struct error *err)
{
    return check_serving(lorad, err) && registry_merge(lorad->registry, id, wait_ms, err);
}

bool lorad_adapter_unmerge(struct lorad *lorad, const char *id, struct error *err)
{
    return check_serving(lorad, err) && registry_unmerge(lorad->registry, id, err);
}

bool lorad_adapter_list(struct lorad *lorad, struct lorad_adapter_list *out, struct error *err)
{
    return registry_list(lorad->registry, NULL, out, err);
}

bool lorad_adapter_list_all(struct lorad *lorad, struct lorad_adapter_list *out, struct error *err)
{
    return registry_list_all(lorad->registry, NULL, out, err);
}

bool lorad_adapter_get(struct lorad *lorad, const char *id, struct lorad_adapter_list *out, struct error *err)
{
    return registry_list_all(lorad->registry, id, out, err);
}

void lorad_adapter_list_finish(struct lorad_adapter_list *list)
{
    for (size_t i = 0; i < list->n_adapters; i++) {
        free(list->adapters[i].path);
        free(list->adapters[i].error);
    }
    free(list->adapters);
    memset(list, 0, sizeof *list);
}

bool lorad_adapter_id_is_valid(const char *id)
{
    return adapter_id_is_valid(id);
}

char *lorad_staging_create(struct lorad *lorad, struct error *err)
{
    return check_serving(lorad, err) ? registry_stage(lorad->registry, err) : NULL;
}

void lorad_staging_remove(const char *directory)
{
    registry_unstage(directory);
}
