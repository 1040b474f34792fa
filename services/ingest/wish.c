#include "services/ingest/wish.h"
#include "proto/media.h"
#include <inttypes.h>
#include <stdlib.h>

static bool check_budget(const char *name, uint64_t budget, struct status *st)
{
    return media_budget_known(budget) ||
           status_fail(st, STATUS_INVALID, "%s %" PRIu64 ": it is %s soft tokens", name, budget,
                       MEDIA_BUDGETS);
}

static bool check_wish(const struct wish *wish, struct status *st)
{
    if (!check_budget("image_budget", wish->image_budget, st) ||
        !check_budget("video_budget", wish->video_budget, st))
        return false;
    if (!(wish->video_fps >= VIDEO_FPS_MIN && wish->video_fps <= VIDEO_FPS_MAX))
        return status_fail(st, STATUS_INVALID, "video_fps %g: it is %g to %g frames a second",
                           wish->video_fps, VIDEO_FPS_MIN, VIDEO_FPS_MAX);
    if (wish->video_frames_max * wish->video_budget > VIDEO_TOKENS_MAX)
        return status_fail(st, STATUS_LIMIT,
                           "video_frames_max %" PRIu64 " of video_budget %" PRIu64
                           ": together at most %d soft "
                           "tokens",
                           wish->video_frames_max, wish->video_budget, VIDEO_TOKENS_MAX);
    return true;
}

/* A field of a job, within [min, max]; what is not there stays. */
static bool field_number(struct span fields, const char *name, uint64_t min, uint64_t max,
                         uint64_t *out, struct status *st)
{
    int64_t value = (int64_t)*out;
    (void)field_int(fields, name, &value);
    if (value < (int64_t)min || value > (int64_t)max)
        return status_fail(st, STATUS_INVALID, "%s %lld: it is %" PRIu64 " to %" PRIu64, name,
                           (long long)value, min, max);
    *out = (uint64_t)value;
    return true;
}

bool wish_fields(struct wish *wish, struct span fields, struct status *st)
{
    uint64_t image_budget = 0;
    if (!field_number(fields, "image_budget", 0, UINT32_MAX, &image_budget, st))
        return false;
    if (image_budget > 0)
        wish->image_budget = image_budget;
    (void)field_float(fields, "video_fps", &wish->video_fps);
    return field_number(fields, "video_budget", 0, UINT32_MAX, &wish->video_budget, st) &&
           field_number(fields, "video_frames_max", 1, VIDEO_FRAMES_MAX, &wish->video_frames_max,
                        st) &&
           field_number(fields, "video_sound_s", 0, VIDEO_SOUND_S_MAX, &wish->video_sound_s, st) &&
           check_wish(wish, st);
}

static bool option_fps(const struct stage_options *options, double *fps, struct status *st)
{
    const char *text = stage_option(options, "video-fps", "1");
    char *end;
    *fps = strtod(text, &end);
    if (end == text || *end)
        return status_fail(st, STATUS_INVALID, "--video-fps '%s' is not a number", text);
    return true;
}

bool wish_options(struct wish *out, const struct stage_options *options, struct status *st)
{
    *out =
        (struct wish){.video_budget = VIDEO_BUDGET_DEFAULT, .video_sound_s = VIDEO_SOUND_S_DEFAULT};
    return stage_number(options, "image-budget", "280", 1, UINT32_MAX, &out->image_budget, st) &&
           stage_number(options, "video-frames", "60", 1, VIDEO_FRAMES_MAX, &out->video_frames_max,
                        st) &&
           option_fps(options, &out->video_fps, st) && check_wish(out, st);
}
