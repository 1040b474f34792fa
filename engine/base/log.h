/* log.h - one line an event on standard error: time, level, process, message, key=value pairs. */
#pragma once
#include "engine/base/status.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Name of the process and the lowest level that is shown; MILLRACE_LOG (debug, info, warn, error)
 * overrides the level. `process` must outlive the process. */
void log_open(const char *process, enum log_level lowest);

void log_line(enum log_level level, const char *message, const char *format, ...) PRINTF_LIKE(3, 4);

/* A value that may hold blanks, in quotes: nothing in it looks like another key=value pair. What
 * would end the quotes is escaped by a backslash; too long a text is cut. */
struct log_quoted {
    char text[512];
};
struct log_quoted log_quoted(const char *text);

/* log_info("prefill done", "file=%s elapsed_ms=%.1f", log_quoted(path).text, ms); */
#define log_debug(message, ...) log_line(LOG_DEBUG, (message), __VA_ARGS__)
#define log_info(message, ...) log_line(LOG_INFO, (message), __VA_ARGS__)
#define log_warn(message, ...) log_line(LOG_WARN, (message), __VA_ARGS__)
#define log_error(message, ...) log_line(LOG_ERROR, (message), __VA_ARGS__)
