/*
 * multipart.c - see multipart.h. The body begins as if a line end had come before it, so that the first boundary is like all others.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/utf8.h"
#include "http/multipart.h"

/* Finds `key=` among the parameters of a header value; copies the token or quoted string. False: absent or too long. */
static bool find_parameter(const char *value, const char *key, char *out, size_t n_out)
{
    size_t n_key = strlen(key), n = 0;
    const char *at = strchr(value, ';');
    while (at) {
        at += 1 + strspn(at + 1, " \t");
        if (strncasecmp(at, key, n_key) == 0 && at[n_key] == '=') {
            at += n_key + 1;
            bool quoted = *at == '"';
            at += quoted;
            while (*at && (quoted ? *at != '"' : *at != ';' && !isspace((unsigned char)*at))) {
                if (quoted && *at == '\\' && at[1])
                    at++;
                if (n + 1 >= n_out)
                    return false;
                out[n++] = *at++;
            }
            out[n] = '\0';
            return n > 0;
        }
        /* Skips this parameter, quoted strings whole. */
        bool quoted = false;
        for (; *at && (quoted || *at != ';'); at++)
            if (*at == '"')
                quoted = !quoted;
        at = *at ? at : NULL;
    }
    return false;
}

bool multipart_begin(struct multipart *parser, const char *content_type, struct multipart_sink sink, struct error *err)
{
    char boundary[MULTIPART_BOUNDARY_BYTES + 1];
    memset(parser, 0, sizeof *parser);
    if (!find_parameter(content_type, "boundary", boundary, sizeof boundary))
        return error_set(err, ERROR_BAD_INPUT, "Content-Type", "multipart/form-data without a boundary of 1 to %d characters",
                         MULTIPART_BOUNDARY_BYTES);
    parser->n_delimiter = (size_t)snprintf(parser->delimiter, sizeof parser->delimiter, "\r\n--%s", boundary);
    parser->sink = sink;
    buffer_init(&parser->pending, 0);
    if (!buffer_append(&parser->pending, "\r\n", 2))
        return error_no_memory(err);
    return true;
}

void multipart_finish(struct multipart *parser)
{
    buffer_finish(&parser->pending);
}

/* The header `key` in the part's head (lines ending in CRLF), or NULL. */
static bool find_header(const char *head, const char *key, char *out, size_t n_out)
{
    size_t n_key = strlen(key);
    for (const char *line = head; *line;) {
        size_t n = strcspn(line, "\r\n");
        if (n > n_key && strncasecmp(line, key, n_key) == 0 && line[n_key] == ':') {
            const char *value = line + n_key + 1;
            size_t n_value = n - n_key - 1;
            if (n_value >= n_out)
                return false;
            memcpy(out, value, n_value);
            out[n_value] = '\0';
            return true;
        }
        line += n;
        line += strspn(line, "\r\n");
    }
    return false;
}

static bool begin_part(struct multipart *parser, const char *head, size_t n_head, struct error *err)
{
    char disposition[MULTIPART_HEAD_BYTES], encoding[64], name[256] = "", filename[256] = "";
    if (strlen(head) != n_head || !utf8_is_valid(head, n_head))
        return error_set(err, ERROR_BAD_INPUT, NULL, "multipart: the head of a part is not text");
    if (!find_header(head, "Content-Disposition", disposition, sizeof disposition))
        return error_set(err, ERROR_BAD_INPUT, NULL, "multipart: a part without Content-Disposition");
    if (find_header(head, "Content-Transfer-Encoding", encoding, sizeof encoding) && !strcasestr(encoding, "binary") &&
        !strcasestr(encoding, "8bit") && !strcasestr(encoding, "7bit"))
        return error_set(err, ERROR_BAD_INPUT, NULL, "multipart: Content-Transfer-Encoding '%.32s' is not served", encoding);
    if (!find_parameter(disposition, "name", name, sizeof name))
        return error_set(err, ERROR_BAD_INPUT, NULL, "multipart: a part without a name");
    find_parameter(disposition, "filename", filename, sizeof filename);
    return parser->sink.begin(parser->sink.context, name, filename, err);
}

/* What follows a delimiter: "--" ends the body, CRLF (after padding) begins a part. *progress: something was consumed. */
static bool after_delimiter(struct multipart *parser, bool *progress, struct error *err)
{
    struct buffer *pending = &parser->pending;
    size_t n_padding = 0;
    if (pending->n_bytes < 2)
        return true;
    if (memcmp(pending->data, "--", 2) == 0) {
        parser->state = MULTIPART_DONE;
        *progress = true;
        return true;
    }
    while (n_padding < pending->n_bytes && strchr(" \t", pending->data[n_padding]) && pending->data[n_padding])
        n_padding++;
    if (n_padding > 64)
        return error_set(err, ERROR_BAD_INPUT, NULL, "multipart: a boundary is followed by too much white space");
    if (pending->n_bytes - n_padding < 2)
        return true;
    if (memcmp(pending->data + n_padding, "\r\n", 2) != 0)
        return error_set(err, ERROR_BAD_INPUT, NULL, "multipart: a boundary is not followed by a line end");
    buffer_drop_front(pending, n_padding + 2);
    parser->state = MULTIPART_HEAD;
    *progress = true;
    return true;
}

static bool read_head(struct multipart *parser, bool *progress, struct error *err)
{
    struct buffer *pending = &parser->pending;
    const char *end = pending->n_bytes >= 4 ? memmem(pending->data, pending->n_bytes, "\r\n\r\n", 4) : NULL;
    if (!end || (size_t)(end - pending->data) > MULTIPART_HEAD_BYTES - 4) {
        if (pending->n_bytes > MULTIPART_HEAD_BYTES)
            return error_set(err, ERROR_BAD_INPUT, NULL, "multipart: the head of a part has more than %d bytes",
                             MULTIPART_HEAD_BYTES);
        return true;
    }
    char head[MULTIPART_HEAD_BYTES];
    size_t n_head = (size_t)(end - pending->data);
    memcpy(head, pending->data, n_head);
    head[n_head] = '\0';
    if (!begin_part(parser, head, n_head, err))
        return false;
    buffer_drop_front(pending, n_head + 4);
    parser->state = MULTIPART_DATA;
    *progress = true;
    return true;
}

/* Hands on everything that cannot be part of a delimiter. */
static bool read_data(struct multipart *parser, bool *progress, struct error *err)
{
    struct buffer *pending = &parser->pending;
    bool is_part = parser->state == MULTIPART_DATA;
    const char *found = pending->n_bytes >= parser->n_delimiter
                            ? memmem(pending->data, pending->n_bytes, parser->delimiter, parser->n_delimiter)
                            : NULL;
    size_t n_certain = 0;
    if (found)
        n_certain = (size_t)(found - pending->data);
    else if (pending->n_bytes >= parser->n_delimiter)
        n_certain = pending->n_bytes - parser->n_delimiter + 1;
    if (is_part && n_certain > 0 && !parser->sink.data(parser->sink.context, pending->data, n_certain, err))
        return false;
    buffer_drop_front(pending, n_certain);
    if (found) {
        buffer_drop_front(pending, parser->n_delimiter);
        if (is_part && !parser->sink.end(parser->sink.context, err))
            return false;
        parser->state = MULTIPART_AFTER_DELIMITER;
        *progress = true;
    }
    return true;
}

bool multipart_feed(struct multipart *parser, const void *bytes, size_t n_bytes, struct error *err)
{
    bool progress = true;
    if (parser->state == MULTIPART_DONE)
        return true; /* the epilogue is nobody's */
    if (!buffer_append(&parser->pending, bytes, n_bytes))
        return error_no_memory(err);
    while (progress && parser->state != MULTIPART_DONE) {
        bool ok = true;
        progress = false;
        switch (parser->state) {
        case MULTIPART_AFTER_DELIMITER:
            ok = after_delimiter(parser, &progress, err);
            break;
        case MULTIPART_HEAD:
            ok = read_head(parser, &progress, err);
            break;
        case MULTIPART_PREAMBLE:
        case MULTIPART_DATA:
            ok = read_data(parser, &progress, err);
            break;
        case MULTIPART_DONE:
            break;
        }
        if (!ok)
            return false;
    }
    return true;
}

bool multipart_end(struct multipart *parser, struct error *err)
{
    if (parser->state != MULTIPART_DONE)
        return error_set(err, ERROR_BAD_INPUT, NULL, "multipart: the body ends before its closing boundary");
    return true;
}
