/*
 * report.h - building, copying and freeing load reports. Owned by one thread at a time.
 */
#ifndef LORA_REPORT_H
#define LORA_REPORT_H

#include <lorad/types.h>

#include "base/error.h"

bool report_warn(struct lorad_load_report *report, struct error *err, const char *format, ...)
    PRINTF_LIKE(3, 4);
/* One more site, zeroed, or NULL. Room for `n_maximum` in all is made at the first call. */
struct lorad_site_report *report_add_site(struct lorad_load_report *report, size_t n_maximum,
                                          struct error *err);
bool report_copy(struct lorad_load_report *out, const struct lorad_load_report *report,
                 struct error *err) MUST_USE;
void report_finish(struct lorad_load_report *report); /* frees and zeroes; zeroed is fine */

#endif
