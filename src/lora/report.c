#include "lora/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool report_warn(struct lorad_load_report *report, struct error *err, const char *format, ...)
{
    va_list arguments;
    char *text;
    char **warnings = realloc(report->warnings, (report->n_warnings + 1) * sizeof *warnings);
    if (!warnings)
        return error_no_memory(err);
    report->warnings = warnings;
    va_start(arguments, format);
    int n = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (n < 0)
        return error_no_memory(err);
    warnings[report->n_warnings++] = text;
    return true;
}

struct lorad_site_report *report_add_site(struct lorad_load_report *report, size_t n_maximum,
                                          struct error *err)
{
    if (!report->sites)
        report->sites = calloc(n_maximum ? n_maximum : 1, sizeof *report->sites);
    if (!report->sites)
        return error_no_memory(err), NULL;
    return &report->sites[report->n_sites++];
}

bool report_copy(struct lorad_load_report *out, const struct lorad_load_report *report, struct error *err)
{
    struct lorad_load_report copy = *report;
    copy.sites = NULL;
    copy.warnings = NULL;
    copy.n_warnings = 0;
    if (report->n_sites > 0) {
        copy.sites = malloc(report->n_sites * sizeof *copy.sites);
        if (!copy.sites)
            return error_no_memory(err);
        memcpy(copy.sites, report->sites, report->n_sites * sizeof *copy.sites);
    }
    for (size_t i = 0; i < report->n_warnings; i++)
        if (!report_warn(&copy, err, "%s", report->warnings[i])) {
            report_finish(&copy);
            return false;
        }
    *out = copy;
    return true;
}

void report_finish(struct lorad_load_report *report)
{
    for (size_t i = 0; i < report->n_warnings; i++)
        free(report->warnings[i]);
    free(report->warnings);
    free(report->sites);
    memset(report, 0, sizeof *report);
}
