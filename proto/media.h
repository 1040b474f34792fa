/* media.h - what a request may ask of its media: fields of jobs that more than one process checks.
 * Sizes that follow from the model are in engine/media. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Soft tokens that a picture, or a frame of a video, may have. */
#define MEDIA_BUDGETS "70, 140, 280, 560 or 1120"
bool media_budget_known(uint64_t budget);
#define IMAGE_BUDGET_DEFAULT 280

/* A video, unless asked for otherwise: a frame a second, at most 60, of at most 70 soft tokens
 * (spec media.md section 5). */
#define VIDEO_FPS_DEFAULT 1.0
#define VIDEO_FRAMES_DEFAULT 60
#define VIDEO_BUDGET_DEFAULT 70
#define VIDEO_FRAMES_MAX 240
#define VIDEO_FPS_MIN 0.01
#define VIDEO_FPS_MAX 30.0
#define VIDEO_TOKENS_MAX 16800 /* frames times budget: what a message can carry at 12B */
/* Of its sound track so much is heard, in pieces of at most 30 s. */
#define VIDEO_SOUND_S_DEFAULT 60
#define VIDEO_SOUND_S_MAX ((size_t)300)
#define VIDEO_SOUNDS_MAX 10 /* pieces */
