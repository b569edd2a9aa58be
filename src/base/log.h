/*
 * log.h - one line per event on stderr, "key=value" text or JSON. Called from main, http and the keeper's
 * top loop only; everything below returns errors. Any thread.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

void log_configure(enum log_level lowest, enum log_format format);

/* `event` is a word ("adapter_loaded"); then pairs: key (const char *), format-checked value text.
   log_event(LOG_INFO, "adapter_loaded", "id=%s bytes=%zu", id, n): the text is `key=value` pairs separated by
   single spaces; string values must come through log_quote when they may hold spaces or foreign bytes. */
void log_event(enum log_level level, const char *event, const char *format, ...) PRINTF_LIKE(3, 4);

/* `text` as a JSON string literal, cut to fit, in `buffer`; returns buffer. */
const char *log_quote(const char *text, char *buffer, size_t n_buffer);

#endif
