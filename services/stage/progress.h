/* progress.h - how far something is that may take long: on a terminal a bar, else a line in the log
 * every two seconds; nothing in the first second. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct progress {
    const char *what; /* "reading weights" */
    const char *path;
    int64_t begun_us, shown_us;
    bool terminal, shown;
};

/* what and path must stay until the end. */
void progress_begin(struct progress *progress, const char *what, const char *path);
/* done of all, all > 0; self is a struct progress: it can be told to others as a callback. */
void progress_show(void *self, size_t done, size_t all);
void progress_end(struct progress *progress);
