/*
 * log.c - a line is built on the stack and goes out in one write, so that lines of several threads
 * do not mix. JSON lines are made from the same "key=value" text.
 */
#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/utf8.h"

enum { LINE_BYTES = 4096 };

static atomic_int lowest_level = LOG_INFO;
static atomic_int line_format = LOG_TEXT;

static const char *const LEVEL_NAMES[] = {"debug", "info", "warning", "error"};

void log_configure(enum log_level lowest, enum log_format format)
{
    atomic_store(&lowest_level, (int)lowest);
    atomic_store(&line_format, (int)format);
}

/* Appends as printf does; what does not fit is cut. */
struct line {
    char text[LINE_BYTES];
    size_t n_bytes;
};

static void add(struct line *line, const char *bytes, size_t n_bytes)
{
    size_t room = sizeof line->text - line->n_bytes - 1;
    if (n_bytes > room)
        n_bytes = utf8_valid_prefix(bytes, room);
    memcpy(line->text + line->n_bytes, bytes, n_bytes);
    line->n_bytes += n_bytes;
    line->text[line->n_bytes] = '\0';
}

static void add_text(struct line *line, const char *text)
{
    add(line, text, strlen(text));
}

static void add_time(struct line *line)
{
    struct timespec now;
    struct tm fields;
    char text[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &fields);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &fields);
    snprintf(text + n, sizeof text - n, ".%03ldZ", now.tv_nsec / 1000000);
    add_text(line, text);
}

/* Length of the JSON string literal at the beginning, 0 when there is none that ends. */
static size_t literal_length(const char *text)
{
    if (text[0] != '"')
        return 0;
    for (size_t i = 1; text[i]; i++) {
        if (text[i] == '\\' && text[i + 1])
            i++;
        else if (text[i] == '"')
            return i + 1;
    }
    return 0;
}

static bool is_number(const char *text, size_t n_bytes)
{
    const char *end = text + n_bytes;
    if (text < end && *text == '-')
        text++;
    size_t n_digits = strspn(text, "0123456789");
    if (n_digits == 0 || (n_digits > 1 && *text == '0') || (size_t)(end - text) < n_digits)
        return false;
    text += n_digits;
    if (text < end && *text == '.') {
        n_digits = strspn(text + 1, "0123456789");
        if (n_digits == 0)
            return false;
        text += 1 + n_digits;
    }
    return text == end;
}

static bool is_bare_json(const char *text, size_t n_bytes)
{
    return is_number(text, n_bytes) ||
           (n_bytes == 4 && (memcmp(text, "true", 4) == 0 || memcmp(text, "null", 4) == 0)) ||
           (n_bytes == 5 && memcmp(text, "false", 5) == 0);
}

static void add_quoted(struct line *line, const char *text, size_t n_bytes)
{
    add(line, "\"", 1);
    for (size_t i = 0; i < n_bytes; i++) {
        if (text[i] == '"' || text[i] == '\\')
            add(line, "\\", 1);
        add(line, text + i, 1);
    }
    add(line, "\"", 1);
}

/* ,"key":value for each of the pairs. */
static void add_pairs_as_json(struct line *line, const char *pairs)
{
    /* The line must stay whole JSON, so a pair that might not fit is left out. */
    enum { RESERVE = 4 };
    while (*pairs) {
        size_t n_key = strcspn(pairs, "= ");
        if (pairs[n_key] != '=') {
            pairs += n_key + strspn(pairs + n_key, " ");
            continue;
        }
        const char *value = pairs + n_key + 1;
        size_t n_literal = literal_length(value);
        size_t n_value = n_literal ? n_literal : strcspn(value, " ");
        if (line->n_bytes + n_key + 2 * n_value + 6 + RESERVE > sizeof line->text)
            return;
        add(line, ",", 1);
        add_quoted(line, pairs, n_key);
        add(line, ":", 1);
        if (n_literal || is_bare_json(value, n_value))
            add(line, value, n_value);
        else
            add_quoted(line, value, n_value);
        pairs = value + n_value + strspn(value + n_value, " ");
    }
}

static void write_out(const char *bytes, size_t n_bytes)
{
    while (n_bytes > 0) {
        ssize_t n = write(STDERR_FILENO, bytes, n_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nobody is left to tell */
        bytes += n;
        n_bytes -= (size_t)n;
    }
}

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    char raw[LINE_BYTES], pairs[LINE_BYTES];
    struct line line = {.n_bytes = 0};
    va_list arguments;

    if ((int)level < atomic_load(&lowest_level))
        return;
    int errno_value = errno;
    va_start(arguments, format);
    vsnprintf(raw, sizeof raw, format, arguments);
    va_end(arguments);
    /* One event is one line, whatever the values hold. */
    utf8_clean(pairs, sizeof pairs, raw, strlen(raw));

    if (atomic_load(&line_format) == LOG_JSON) {
        add_text(&line, "{\"time\":\"");
        add_time(&line);
        add_text(&line, "\",\"level\":\"");
        add_text(&line, LEVEL_NAMES[level]);
        add_text(&line, "\",\"event\":");
        add_quoted(&line, event, strlen(event));
        add_pairs_as_json(&line, pairs);
        add_text(&line, "}");
    } else {
        add_time(&line);
        add_text(&line, " level=");
        add_text(&line, LEVEL_NAMES[level]);
        add_text(&line, " event=");
        add_text(&line, event);
        if (*pairs)
            add_text(&line, " ");
        add_text(&line, pairs);
        if (line.n_bytes == sizeof line.text - 1)
            line.n_bytes--;
    }
    line.text[line.n_bytes++] = '\n';
    write_out(line.text, line.n_bytes);
    errno = errno_value;
}

/* The escape of one character, or its own bytes. */
static size_t escape(char out[8], const char *text, size_t length)
{
    unsigned char c = (unsigned char)text[0];
    if (length > 1) {
        memcpy(out, text, length);
        return length;
    }
    if (c == '"' || c == '\\') {
        out[0] = '\\';
        out[1] = (char)c;
        return 2;
    }
    if (c == '\n' || c == '\t' || c == '\r') {
        out[0] = '\\';
        out[1] = c == '\n' ? 'n' : c == '\t' ? 't' : 'r';
        return 2;
    }
    if (c < 0x20 || c == 0x7F)
        return (size_t)snprintf(out, 8, "\\u%04x", c);
    out[0] = (char)c;
    return 1;
}

const char *log_quote(const char *text, char *buffer, size_t n_buffer)
{
    size_t n_bytes = strlen(text), n_written = 0;
    char piece[8];

    if (n_buffer < 3) {
        if (n_buffer > 0)
            buffer[0] = '\0';
        return buffer;
    }
    buffer[n_written++] = '"';
    for (size_t position = 0, length; position < n_bytes; position += length) {
        bool is_valid = utf8_next(text + position, n_bytes - position, &length) == UTF8_COMPLETE;
        size_t n_piece = is_valid ? escape(piece, text + position, length) : 1;
        if (!is_valid)
            piece[0] = '?';
        if (n_written + n_piece + 2 > n_buffer)
            break;
        memcpy(buffer + n_written, piece, n_piece);
        n_written += n_piece;
    }
    buffer[n_written++] = '"';
    buffer[n_written] = '\0';
    return buffer;
}
