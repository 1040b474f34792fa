/* up: what each process of the line is started with. */
#include "services/millrace/up.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct arguments {
    const char *items[CHILD_ARGUMENTS_MAX];
    size_t n;
    char texts[16][32];
    size_t n_texts;
};

static void add(struct arguments *a, const char *name, const char *value)
{
    a->items[a->n++] = name;
    if (value)
        a->items[a->n++] = value;
}

static void add_number(struct arguments *a, const char *name, uint64_t value)
{
    char *text = a->texts[a->n_texts++];

    (void)snprintf(text, sizeof a->texts[0], "%" PRIu64, value);
    add(a, name, text);
}

static void add_decimal(struct arguments *a, const char *name, double value)
{
    char *text = a->texts[a->n_texts++];

    (void)snprintf(text, sizeof a->texts[0], "%g", value);
    add(a, name, text);
}

/* Of a request that does not say; ingest does so, and the gateway reserves memory for it. */
static void add_media_usual(struct arguments *a, const struct config_stage *ingest)
{
    if (ingest->image_budget)
        add_number(a, "--image-budget", ingest->image_budget);
    if (ingest->video_frames)
        add_number(a, "--video-frames", ingest->video_frames);
}

static void add_gateway(struct up *up, struct supervise *s)
{
    char program[CONFIG_PATH_MAX + 32];
    char lines[CONFIG_PIPELINES_MAX][CONFIG_NAME_MAX * (CONFIG_STEPS_MAX + 2)];
    struct arguments a = {0};
    const struct config *c = &up->config;

    (void)snprintf(program, sizeof program, "%s/millrace-gateway", up->programs);
    add(&a, program, NULL);
    add(&a, "--listen", c->listen);
    add(&a, "--bus", up->bus);
    add_number(&a, "--memory", c->memory_bytes);
    add_number(&a, "--body-bytes", c->body_bytes);
    for (size_t i = 0; i < c->n_stages; i++)
        if (strcmp(c->stages[i].name, "ingest") == 0)
            add_media_usual(&a, &c->stages[i]);
    for (size_t i = 0; i < c->n_pipelines; i++) {
        size_t at = (size_t)snprintf(lines[i], sizeof lines[i], "%s=", c->pipelines[i].name);
        for (size_t k = 0; k < c->pipelines[i].n_steps; k++)
            at += (size_t)snprintf(lines[i] + at, sizeof lines[i] - at, "%s%s", k ? "," : "",
                                   c->pipelines[i].steps[k]);
        add(&a, "--pipeline", lines[i]);
    }
    a.items[a.n] = NULL;
    supervise_add(s, "gateway", "", a.items);
}

static void add_stage_options(const struct up *up, const struct config_stage *stage,
                              struct arguments *a)
{
    const struct config *c = &up->config;
    bool ingest = strcmp(stage->name, "ingest") == 0;
    bool infer = strcmp(stage->name, "infer") == 0;
    bool encode = strcmp(stage->name, "encode") == 0;

    if (stage->program[0])
        return;
    if (!ingest)
        add(a, "--model", c->weights);
    if ((ingest || encode) && c->media[0])
        add(a, "--media", c->media);
    if ((infer || encode) && c->manifest[0])
        add(a, "--manifest", c->manifest);
    if (ingest)
        add_media_usual(a, stage);
    if (ingest && stage->video_fps > 0)
        add_decimal(a, "--video-fps", stage->video_fps);
    if (!infer)
        return;
    add_number(a, "--context", c->context);
    add_number(a, "--slots", stage->slots);
    add_number(a, "--threads", stage->threads);
    add_number(a, "--kv-bytes", up->kv_bytes);
    if (stage->kv_type[0])
        add(a, "--kv-type", stage->kv_type);
    if (stage->exact)
        add(a, "--exact", "yes");
    if (c->drafter[0])
        add(a, "--drafter", c->drafter);
    if (c->drafter[0] && stage->draft_tokens)
        add_number(a, "--draft-tokens", stage->draft_tokens);
}

static void add_stage(struct up *up, struct supervise *s, const struct config_stage *stage)
{
    char program[CONFIG_PATH_MAX + 64];
    char seat[128];

    for (uint64_t i = 0; i < stage->replicas; i++) {
        struct arguments a = {0};
        if (stage->program[0])
            (void)snprintf(program, sizeof program, "%s", stage->program);
        else
            (void)snprintf(program, sizeof program, "%s/millrace-%s", up->programs, stage->name);
        (void)snprintf(seat, sizeof seat, "localhost/%s/%" PRIu64, stage->name, i);
        add(&a, program, NULL);
        add(&a, "--bus", up->bus);
        add_stage_options(up, stage, &a);
        a.items[a.n] = NULL;
        supervise_add(s, stage->name, seat, a.items);
    }
}

static bool uses(const struct config *config, const char *stage)
{
    for (size_t i = 0; i < config->n_pipelines; i++)
        for (size_t k = 0; k < config->pipelines[i].n_steps; k++)
            if (strcmp(config->pipelines[i].steps[k], stage) == 0)
                return true;
    return false;
}

void up_add_children(struct up *up, struct supervise *s)
{
    struct config *c = &up->config;

    add_gateway(up, s);
    for (size_t i = 0; i < c->n_pipelines; i++)
        for (size_t k = 0; k < c->pipelines[i].n_steps; k++)
            (void)config_stage(c, c->pipelines[i].steps[k]);
    for (size_t i = 0; i < c->n_stages; i++)
        if (uses(c, c->stages[i].name))
            add_stage(up, s, &c->stages[i]);
}
