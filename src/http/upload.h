/*
 * upload.h - a multipart adapter upload, streamed to staging files.
 */
#ifndef HTTP_UPLOAD_H
#define HTTP_UPLOAD_H

#include "http/request.h"

/* Makes a staging directory. NULL: err (no state directory, no memory, a bad Content-Type). */
struct upload *upload_begin(struct lorad *lorad, const char *content_type, uint64_t max_bytes, struct error *err);
bool upload_feed(struct upload *upload, const void *bytes, size_t n_bytes, struct error *err) MUST_USE;
/* After the last byte: both files must be there, whole. */
bool upload_end(struct upload *upload, struct error *err) MUST_USE;
const char *upload_directory(const struct upload *upload);
/* From now on the directory is the registry's. */
void upload_hand_over(struct upload *upload);
void upload_destroy(struct upload *upload); /* removes the directory unless handed over. NULL is fine */

#endif
