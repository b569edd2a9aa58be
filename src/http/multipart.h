/*
 * multipart.h - a multipart/form-data body, parsed as it streams by (RFC 7578, RFC 2046). Nothing is kept but the head of the
 * present part and a tail that may be the beginning of a boundary.
 */
#ifndef HTTP_MULTIPART_H
#define HTTP_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/error.h"

#define MULTIPART_BOUNDARY_BYTES 70 /* RFC 2046, 5.1.1 */
#define MULTIPART_HEAD_BYTES 8192   /* all headers of one part */

struct multipart_sink {
    /* A part begins. `filename` is "" when there is none. False ends the parse with the sink's error. */
    bool (*begin)(void *context, const char *name, const char *filename, struct error *err);
    bool (*data)(void *context, const void *bytes, size_t n_bytes, struct error *err);
    bool (*end)(void *context, struct error *err);
    void *context;
};

struct multipart {
    char delimiter[MULTIPART_BOUNDARY_BYTES + 5]; /* "\r\n--boundary" */
    size_t n_delimiter;
    enum { MULTIPART_PREAMBLE, MULTIPART_AFTER_DELIMITER, MULTIPART_HEAD, MULTIPART_DATA, MULTIPART_DONE } state;
    struct buffer pending;
    struct multipart_sink sink;
};

/* `content_type` is the header's value: "multipart/form-data; boundary=...". */
bool multipart_begin(struct multipart *parser, const char *content_type, struct multipart_sink sink, struct error *err);
bool multipart_feed(struct multipart *parser, const void *bytes, size_t n_bytes, struct error *err);
/* After the last byte: ERROR_BAD_INPUT unless the closing boundary has been seen. */
bool multipart_end(struct multipart *parser, struct error *err);
void multipart_finish(struct multipart *parser); /* frees; zeroed is fine */

#endif
