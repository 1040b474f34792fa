#include "engine/base/log.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES_MAX 2048

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *process_name = "millrace";
static enum log_level shown = LOG_INFO;

void log_open(const char *process, enum log_level lowest)
{
    const char *wish = getenv("MILLRACE_LOG");

    process_name = process;
    shown = lowest;
    for (int i = LOG_DEBUG; wish && i <= LOG_ERROR; i++)
        if (strcmp(wish, level_names[i]) == 0)
            shown = (enum log_level)i;
}

/* A line is one line, whatever came in from a file or a socket. */
static void make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7F)
            *text = '?';
}

struct log_quoted log_quoted(const char *text)
{
    struct log_quoted out;
    size_t n = 0;

    out.text[n++] = '"';
    for (; *text && n + 4 <= sizeof out.text; text++) {
        if (*text == '"' || *text == '\\')
            out.text[n++] = '\\';
        out.text[n++] = *text;
    }
    out.text[n++] = '"';
    out.text[n] = 0;
    return out;
}

void log_line(enum log_level level, const char *message, const char *format, ...)
{
    char pairs[LINE_BYTES_MAX - 256];
    char line[LINE_BYTES_MAX];
    char when[32];
    struct timespec now;
    struct tm parts;
    va_list args;

    if (level < shown)
        return;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &parts);
    (void)strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &parts);
    va_start(args, format);
    (void)vsnprintf(pairs, sizeof pairs, format, args);
    va_end(args);
    make_printable(pairs);
    int n = snprintf(line, sizeof line, "%s.%06ldZ %s %s: %.160s %s\n", when, now.tv_nsec / 1000,
                     level_names[level], process_name, message, pairs);
    if (n > (int)sizeof line - 1)
        n = (int)sizeof line - 1;
    /* One write, so that lines of several processes do not mix. */
    (void)!write(STDERR_FILENO, line, (size_t)n);
}
