/* video.c - which frames of a video are shown, and how their times are written (spec media.md
 * section 5). */
#include "engine/media/media.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>

/* Containers round times, Matroska to milliseconds: a frame that is due is not missed for that. */
#define SLACK_US 1000

size_t video_choose(size_t *out, const int64_t *times_us, size_t n, int64_t end_us, double fps,
                    size_t frames_max)
{
    assert(n > 0 && fps > 0 && frames_max > 0);
    const int64_t begin_us = times_us[0];
    const double length_us = end_us > begin_us ? (double)(end_us - begin_us) : 0.0;
    const double wanted = floor((length_us + SLACK_US) / 1e6 * fps);
    const double most = fmin((double)frames_max, fmax(wanted, 1.0));
    const size_t count = (size_t)most;
    size_t chosen = 0, at = 0;
    for (size_t i = 0; i < count; i++) {
        const double due_us = (double)begin_us + (double)i * length_us / (double)count + SLACK_US;
        while (at + 1 < n && (double)times_us[at + 1] <= due_us)
            at++;
        if (chosen == 0 || out[chosen - 1] < at)
            out[chosen++] = at;
    }
    return chosen;
}

void video_time(char out[VIDEO_TIME_SIZE], int64_t time_us)
{
    const int64_t seconds = time_us > 0 ? time_us / 1000000 : 0;
    (void)snprintf(out, VIDEO_TIME_SIZE, "%02lld:%02lld", (long long)(seconds / 60),
                   (long long)(seconds % 60));
}
