#include "engine/base/config.h"
#include "engine/base/bytes.h"
#include <assert.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define FILE_BYTES_MAX ((size_t)1 << 20)

struct reader {
    yaml_document_t document;
    char folder[CONFIG_PATH_MAX]; /* of the file, for relative paths */
};

/* ------------------------------------------------------------------ scalars */

static const char *scalar(const yaml_node_t *node)
{
    return node->type == YAML_SCALAR_NODE ? (const char *)node->data.scalar.value : NULL;
}

static bool fail_at(struct status *st, const yaml_node_t *node, const char *key, const char *wanted)
{
    return status_fail(st, STATUS_INVALID, "line %zu: %.60s: %s is wanted",
                       node->start_mark.line + 1, key, wanted);
}

static bool read_text(const yaml_node_t *node, const char *key, char *out, size_t size,
                      struct status *st)
{
    const char *text = scalar(node);

    if (!text || !*text || strlen(text) >= size)
        return fail_at(st, node, key, "a text that is not empty and not too long");
    (void)snprintf(out, size, "%s", text);
    return true;
}

/* "none" is no file. */
static bool read_path(const struct reader *r, const yaml_node_t *node, const char *key, char *out,
                      struct status *st)
{
    char text[CONFIG_PATH_MAX];

    if (!read_text(node, key, text, sizeof text, st))
        return false;
    if (strcmp(text, "none") == 0)
        text[0] = 0;
    bool relative = text[0] && text[0] != '/';
    int n = snprintf(out, CONFIG_PATH_MAX, "%s%s%s", relative ? r->folder : "", relative ? "/" : "",
                     text);
    if (n >= CONFIG_PATH_MAX)
        return fail_at(st, node, key, "a shorter path");
    return true;
}

/* Those of the pipeline file; the flags of `millrace up` have the same names, with a hyphen. */
static const struct number {
    const char *key;
    uint64_t min, max;
} numbers[] = {
    {"context", 16, 262144},
    {"memory", 1 << 20, UINT64_C(1) << 40},
    {"body", 1 << 10, 1 << 30},
    {"replicas", 1, 64},
    {"threads", 0, 256},
    {"slots", 1, 64},
    {"kv_bytes", 1 << 16, UINT64_C(1) << 40},
    {"draft_tokens", 1, 8},
    {"image_budget", 70, 1120},
    {"video_frames", 1, 240},
};

/* Soft tokens of a picture double from step to step; nothing between is one. */
static bool is_budget(uint64_t value)
{
    return value % 70 == 0 && (value / 70 & (value / 70 - 1)) == 0;
}

bool config_number(const char *key, const char *text, uint64_t *out, struct status *st)
{
    const struct number *n = numbers;
    struct status ignored = {0};
    uint64_t value = 0;

    while (strcmp(n->key, key) != 0) {
        n++;
        assert(n < numbers + sizeof numbers / sizeof *numbers);
    }
    bool ok = text && config_size(text, &value, &ignored) && value >= n->min && value <= n->max;
    bool budget = strcmp(key, "image_budget") == 0;
    if (budget && !(ok && is_budget(value)))
        return status_fail(st, STATUS_INVALID, "70, 140, 280, 560 or 1120 is wanted");
    if (!ok)
        return status_fail(st, STATUS_INVALID, "a number from %" PRIu64 " to %" PRIu64 " is wanted",
                           n->min, n->max);
    *out = value;
    return true;
}

static bool read_number(const yaml_node_t *node, const char *key, uint64_t *out, struct status *st)
{
    return config_number(key, scalar(node), out, st) ||
           status_wrap(st, "line %zu: %s", node->start_mark.line + 1, key);
}

static bool read_bool(const yaml_node_t *node, const char *key, bool *out, struct status *st)
{
    const char *text = scalar(node);

    if (!text || (strcmp(text, "true") != 0 && strcmp(text, "false") != 0))
        return fail_at(st, node, key, "true or false");
    *out = text[0] == 't';
    return true;
}

bool config_fps(const char *text, double *out)
{
    char *end = NULL;
    const double value = text ? strtod(text, &end) : 0;

    if (!text || end == text || *end || !(value >= 0.01 && value <= 30))
        return false;
    *out = value;
    return true;
}

bool config_size(const char *text, uint64_t *out, struct status *st)
{
    static const struct {
        const char *unit;
        unsigned shift;
    } units[] = {{"", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
    uint64_t value;
    size_t digits = strspn(text, "0123456789");

    if (span_number(span_of(text, digits), 0, UINT64_MAX, &value))
        for (size_t i = 0; i < sizeof units / sizeof *units; i++)
            if (strcmp(text + digits, units[i].unit) == 0 &&
                value <= UINT64_MAX >> units[i].shift) {
                *out = value << units[i].shift;
                return true;
            }
    return status_fail(st, STATUS_INVALID,
                       "'%.40s': a size is wanted, like 512MiB, 4GiB or a number of bytes", text);
}

/* ------------------------------------------------------------------ mappings */

typedef bool read_entry(struct reader *r, struct config *config, void *target, const char *key,
                        const yaml_node_t *value, struct status *st);

static bool walk(struct reader *r, struct config *config, void *target, const yaml_node_t *node,
                 const char *name, read_entry *read, struct status *st)
{
    if (node->type != YAML_MAPPING_NODE)
        return fail_at(st, node, name, "a mapping (key: value)");
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(&r->document, pair->key);
        const yaml_node_t *value = yaml_document_get_node(&r->document, pair->value);
        const char *text = scalar(key);
        if (!text)
            return fail_at(st, key, name, "a plain key");
        if (!read(r, config, target, text, value, st))
            return false;
    }
    return true;
}

static bool unknown(const yaml_node_t *value, const char *where, const char *key, struct status *st)
{
    return status_fail(st, STATUS_INVALID, "line %zu: %s: '%.60s' is not known",
                       value->start_mark.line + 1, where, key);
}

static bool read_model(struct reader *r, struct config *config, void *target, const char *key,
                       const yaml_node_t *value, struct status *st)
{
    (void)target;
    if (strcmp(key, "weights") == 0)
        return read_path(r, value, key, config->weights, st);
    if (strcmp(key, "media") == 0 && scalar(value) && strcmp(scalar(value), "none") == 0)
        return read_text(value, key, config->media, sizeof config->media, st);
    if (strcmp(key, "media") == 0)
        return read_path(r, value, key, config->media, st);
    if (strcmp(key, "manifest") == 0)
        return read_path(r, value, key, config->manifest, st);
    if (strcmp(key, "drafter") == 0)
        return read_path(r, value, key, config->drafter, st);
    if (strcmp(key, "context") == 0)
        return read_number(value, key, &config->context, st);
    return unknown(value, "model", key, st);
}

static bool read_gateway(struct reader *r, struct config *config, void *target, const char *key,
                         const yaml_node_t *value, struct status *st)
{
    (void)r;
    (void)target;
    if (strcmp(key, "listen") == 0)
        return read_text(value, key, config->listen, sizeof config->listen, st);
    if (strcmp(key, "bus") == 0)
        return read_text(value, key, config->bus, sizeof config->bus, st);
    if (strcmp(key, "memory") == 0)
        return read_number(value, key, &config->memory_bytes, st);
    if (strcmp(key, "body") == 0)
        return read_number(value, key, &config->body_bytes, st);
    return unknown(value, "gateway", key, st);
}

static bool read_pipeline(struct reader *r, struct config *config, void *target, const char *key,
                          const yaml_node_t *value, struct status *st)
{
    struct config_pipeline *pipeline = &config->pipelines[config->n_pipelines];

    (void)target;
    if (config->n_pipelines == CONFIG_PIPELINES_MAX)
        return fail_at(st, value, key, "at most 8 pipelines");
    if (strlen(key) >= CONFIG_NAME_MAX || value->type != YAML_SEQUENCE_NODE)
        return fail_at(st, value, key, "a list of stages");
    *pipeline = (struct config_pipeline){0};
    (void)snprintf(pipeline->name, sizeof pipeline->name, "%s", key);
    for (yaml_node_item_t *item = value->data.sequence.items.start;
         item < value->data.sequence.items.top; item++) {
        const yaml_node_t *step = yaml_document_get_node(&r->document, *item);
        if (pipeline->n_steps == CONFIG_STEPS_MAX)
            return fail_at(st, step, key, "at most 8 stages");
        if (!read_text(step, key, pipeline->steps[pipeline->n_steps], CONFIG_NAME_MAX, st))
            return false;
        pipeline->n_steps++;
    }
    config->n_pipelines++;
    return true;
}

static bool read_stage(struct reader *r, struct config *config, void *target, const char *key,
                       const yaml_node_t *value, struct status *st)
{
    struct config_stage *stage = target;

    (void)config;
    if (strcmp(key, "program") == 0)
        return read_path(r, value, key, stage->program, st);
    if (strcmp(key, "replicas") == 0)
        return read_number(value, key, &stage->replicas, st);
    if (strcmp(key, "threads") == 0)
        return read_number(value, key, &stage->threads, st);
    if (strcmp(key, "slots") == 0)
        return read_number(value, key, &stage->slots, st);
    if (strcmp(key, "kv_bytes") == 0)
        return read_number(value, key, &stage->kv_bytes, st);
    if (strcmp(key, "kv_type") == 0)
        return read_text(value, key, stage->kv_type, sizeof stage->kv_type, st);
    if (strcmp(key, "draft_tokens") == 0)
        return read_number(value, key, &stage->draft_tokens, st);
    if (strcmp(key, "image_budget") == 0)
        return read_number(value, key, &stage->image_budget, st);
    if (strcmp(key, "video_frames") == 0)
        return read_number(value, key, &stage->video_frames, st);
    if (strcmp(key, "video_fps") == 0)
        return config_fps(scalar(value), &stage->video_fps) ||
               fail_at(st, value, key, "a number from 0.01 to 30");
    if (strcmp(key, "exact") == 0)
        return read_bool(value, key, &stage->exact, st);
    return unknown(value, stage->name, key, st);
}

static bool read_stages(struct reader *r, struct config *config, void *target, const char *key,
                        const yaml_node_t *value, struct status *st)
{
    (void)target;
    if (strlen(key) >= CONFIG_NAME_MAX)
        return fail_at(st, value, key, "a shorter name");
    struct config_stage *stage = config_stage(config, key);
    if (!stage)
        return fail_at(st, value, key, "at most 16 stages");
    return walk(r, config, stage, value, key, read_stage, st);
}

static bool read_top(struct reader *r, struct config *config, void *target, const char *key,
                     const yaml_node_t *value, struct status *st)
{
    (void)target;
    if (strcmp(key, "model") == 0)
        return walk(r, config, NULL, value, key, read_model, st);
    if (strcmp(key, "gateway") == 0)
        return walk(r, config, NULL, value, key, read_gateway, st);
    if (strcmp(key, "stages") == 0)
        return walk(r, config, NULL, value, key, read_stages, st);
    if (strcmp(key, "pipelines") == 0) {
        config->n_pipelines = 0;
        return walk(r, config, NULL, value, key, read_pipeline, st);
    }
    return unknown(value, "pipeline file", key, st);
}

/* ------------------------------------------------------------------ public */

struct config_stage *config_stage(struct config *config, const char *name)
{
    for (size_t i = 0; i < config->n_stages; i++)
        if (strcmp(config->stages[i].name, name) == 0)
            return &config->stages[i];
    if (config->n_stages == CONFIG_STAGES_MAX)
        return NULL;
    struct config_stage *stage = &config->stages[config->n_stages++];
    *stage = (struct config_stage){.replicas = 1};
    (void)snprintf(stage->name, sizeof stage->name, "%s", name);
    return stage;
}

void config_defaults(struct config *config)
{
    *config = (struct config){
        .listen = "127.0.0.1:8080",
        .memory_bytes = UINT64_C(1) << 30,
        .body_bytes = UINT64_C(64) << 20,
        .n_pipelines = 1,
        .pipelines = {
            {.name = "chat", .steps = {"ingest", "encode", "infer", "format"}, .n_steps = 4}}};
}

bool config_check(const struct config *config, struct status *st)
{
    static const char *const ours[] = {"ingest", "encode", "infer", "format"};

    if (!config->weights[0])
        return status_fail(st, STATUS_INVALID,
                           "no model: give --model FILE, or model: { weights: FILE }");
    for (size_t i = 0; i < config->n_pipelines; i++) {
        const struct config_pipeline *pipeline = &config->pipelines[i];
        for (size_t k = 0; k < pipeline->n_steps; k++) {
            bool known = false;
            for (size_t o = 0; o < sizeof ours / sizeof *ours; o++)
                known = known || strcmp(pipeline->steps[k], ours[o]) == 0;
            for (size_t s = 0; s < config->n_stages; s++)
                known = known || (strcmp(pipeline->steps[k], config->stages[s].name) == 0 &&
                                  config->stages[s].program[0]);
            if (!known)
                return status_fail(st, STATUS_INVALID,
                                   "pipeline %s: stage '%s' is none of ours and has no program:",
                                   pipeline->name, pipeline->steps[k]);
        }
        if (pipeline->n_steps == 0)
            return status_fail(st, STATUS_INVALID, "pipeline %s: no stages", pipeline->name);
    }
    return true;
}

static bool parse(struct config *config, struct reader *r, const struct buffer *text,
                  struct status *st)
{
    yaml_parser_t parser;

    if (!yaml_parser_initialize(&parser))
        return status_fail(st, STATUS_INTERNAL, "yaml parser");
    yaml_parser_set_input_string(&parser, text->data ? text->data : (const uint8_t *)"",
                                 text->size);
    bool ok = yaml_parser_load(&parser, &r->document) == 1;
    if (!ok) {
        (void)status_fail(st, STATUS_INVALID, "line %zu: %s", parser.problem_mark.line + 1,
                          parser.problem ? parser.problem : "not YAML");
    } else {
        const yaml_node_t *root = yaml_document_get_root_node(&r->document);
        ok = root ? walk(r, config, NULL, root, "pipeline file", read_top, st)
                  : status_fail(st, STATUS_INVALID, "the file is empty");
        yaml_document_delete(&r->document);
    }
    yaml_parser_delete(&parser);
    return ok;
}

bool config_load(struct config *config, const char *path, struct status *st)
{
    struct buffer text = {0};
    struct reader r = {0};
    char copy[CONFIG_PATH_MAX];

    if (strlen(path) >= sizeof copy)
        return status_fail(st, STATUS_INVALID, "pipeline file: path too long");
    (void)snprintf(copy, sizeof copy, "%s", path);
    (void)snprintf(r.folder, sizeof r.folder, "%s", dirname(copy));
    if (!bytes_read_file(&text, path, FILE_BYTES_MAX, st))
        return false;
    bool ok = parse(config, &r, &text, st);
    buffer_clear(&text);
    return ok || status_wrap(st, "'%s'", path);
}
