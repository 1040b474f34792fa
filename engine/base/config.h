/* config.h - the pipeline file (YAML) as checked, typed values; the only file that speaks libyaml.
 */
#pragma once
#include "engine/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define CONFIG_PATH_MAX 1024
#define CONFIG_NAME_MAX 32
#define CONFIG_PIPELINES_MAX 8
#define CONFIG_STAGES_MAX 16
#define CONFIG_STEPS_MAX 8 /* stages of one pipeline */

struct config_pipeline {
    char name[CONFIG_NAME_MAX];
    char steps[CONFIG_STEPS_MAX][CONFIG_NAME_MAX]; /* names of stages, in order */
    size_t n_steps;
};

/* A stage's process; 0 and "" mean: the program's own default. */
struct config_stage {
    char name[CONFIG_NAME_MAX];
    char program[CONFIG_PATH_MAX]; /* "": millrace-NAME beside this program */
    uint64_t replicas;             /* 1 */
    uint64_t threads;              /* infer: 0 is one a core */
    uint64_t slots;                /* infer: requests in one batch */
    uint64_t kv_bytes;             /* infer: keys and values */
    uint64_t draft_tokens;         /* infer: guesses of the drafter at once */
    uint64_t image_budget;         /* ingest: soft tokens a picture */
    uint64_t video_frames;         /* ingest: frames of a video at most */
    double video_fps;              /* ingest: frames shown of each second of a video */
    char kv_type[8];               /* infer: f16, q8 or f32 */
    bool exact;                    /* infer: activations stay float32 */
};

struct config {
    char weights[CONFIG_PATH_MAX];  /* the decoder's GGUF file, or a checkpoint's folder */
    char media[CONFIG_PATH_MAX];    /* its "mmproj" file; "": the checkpoint's, "none": none */
    char drafter[CONFIG_PATH_MAX];  /* its drafter; "" is none */
    char manifest[CONFIG_PATH_MAX]; /* hashes that all model files must have; "" is none */
    uint64_t context; /* tokens of a request, prompt and answer; 0: 8192, or all the model has */
    char listen[64];  /* address:port of the HTTP side */
    char bus[CONFIG_PATH_MAX]; /* "": an ipc socket in a fresh 0700 directory */
    uint64_t memory_bytes;     /* of the gateway, for requests */
    uint64_t body_bytes;       /* largest request body */
    struct config_pipeline pipelines[CONFIG_PIPELINES_MAX];
    size_t n_pipelines;
    struct config_stage stages[CONFIG_STAGES_MAX];
    size_t n_stages;
};

/* One pipeline "chat" of ingest, encode, infer, format; 127.0.0.1:8080. */
void config_defaults(struct config *config);

/* Read a pipeline file over the defaults. Unknown keys, wrong types and values out of range are
 * refused with their line and name. Relative paths are relative to the file. */
MUST_CHECK bool config_load(struct config *config, const char *path, struct status *st);

/* What holds for every way to fill it: names known, a stage for every step. */
MUST_CHECK bool config_check(const struct config *config, struct status *st);

/* The settings of that stage, made with defaults when there are none. NULL: the table is full. */
struct config_stage *config_stage(struct config *config, const char *name);

/* "4GiB", "512MiB", "64KiB" or a plain number to bytes. */
MUST_CHECK bool config_size(const char *text, uint64_t *out, struct status *st);

/* The number of that key of the pipeline file ("context", "slots", ...), when it is in its range;
 * text may be NULL. The error says the range, not the key. */
MUST_CHECK bool config_number(const char *key, const char *text, uint64_t *out, struct status *st);

/* Frames a second of a video, 0.01 to 30; false when it is none. */
MUST_CHECK bool config_fps(const char *text, double *out);
