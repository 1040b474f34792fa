/* api_params.h - what a chat request asks for beside its messages. */
#pragma once
#include "gateway/reader.h"
#include <stdint.h>

#define CHAT_STOPS_MAX 8

struct said {
    bool value, given;
};

/* What was asked; -1, NAN and an empty span: not said. */
struct chat_params {
    struct span model, effort, tool_choice;
    const json_t *messages;
    bool stream, include_usage, tools, preserve_thinking;
    struct said enable, thinking;
    int64_t max_tokens, max_completion_tokens, top_k, seed, n, top_logprobs;
    int64_t image_budget, video_budget, video_frames_max, video_sound_s;
    double temperature, top_p, min_p, video_fps;
    struct span stops[CHAT_STOPS_MAX];
    size_t n_stops;
    struct span ignored;
    struct api_media_usual usual;
};

/* Read the body's object: a closed schema, and what its fields say together. The spans point into
 * the JSON tree. */
MUST_CHECK bool chat_params_read(struct reader *r, const json_t *root, struct chat_params *out);

/* As asked for, or what is usual. */
size_t chat_image_budget(const struct chat_params *p);
size_t chat_video_frames(const struct chat_params *p);
size_t chat_video_budget(const struct chat_params *p);
