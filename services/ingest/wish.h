/* wish.h - how media are wanted: from the stage's options, and a job's fields over them. */
#pragma once
#include "services/stage/stage.h"
#include <stdint.h>

struct wish {
    uint64_t image_budget, video_budget; /* soft tokens of a picture, and of a frame */
    uint64_t video_frames_max, video_sound_s;
    double video_fps;
};

MUST_CHECK bool wish_options(struct wish *out, const struct stage_options *options,
                             struct status *st);
/* What the fields do not say stays. */
MUST_CHECK bool wish_fields(struct wish *wish, struct span fields, struct status *st);
