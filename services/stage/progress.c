#include "services/stage/progress.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_CELLS 40
#define BAR_US 100000
#define LINE_US 2000000
#define QUIET_US 1000000 /* shorter than this nobody needs to be told */

void progress_begin(struct progress *progress, const char *what, const char *path)
{
    *progress = (struct progress){.what = what,
                                  .path = path,
                                  .begun_us = clock_now_us(),
                                  .terminal = isatty(STDERR_FILENO) == 1};
}

void progress_show(void *self, size_t done, size_t all)
{
    struct progress *progress = self;
    int64_t now_us = clock_now_us();
    char bar[BAR_CELLS + 1];

    if (now_us - progress->begun_us < QUIET_US ||
        now_us - progress->shown_us < (progress->terminal ? BAR_US : LINE_US))
        return;
    progress->shown_us = now_us;
    progress->shown = true;
    int percent = (int)(100.0 * (double)done / (double)all);
    if (!progress->terminal) {
        log_info(progress->what, "file=%s percent=%d", progress->path, percent);
        return;
    }
    memset(bar, '.', BAR_CELLS);
    memset(bar, '#', (size_t)(percent * BAR_CELLS / 100));
    bar[BAR_CELLS] = 0;
    (void)fprintf(stderr, "\r%s [%s] %3d %%", progress->what, bar, percent);
}

void progress_end(struct progress *progress)
{
    if (progress->terminal && progress->shown)
        (void)fputc('\n', stderr);
    progress->shown = false;
}
