/* GET /health/live and /health/ready: is this process there, and can it answer a request. */
#include "engine/base/heap.h"
#include "gateway/api.h"
#include <jansson.h>

static unsigned write_out(unsigned http, json_t *root, struct buffer *out)
{
    char *text = json_dumps(root, JSON_COMPACT);

    buffer_append_text(out, text);
    heap_free(text);
    json_decref(root);
    return http;
}

unsigned api_live_answer(const struct api_context *context, const char *rest, struct buffer *out)
{
    (void)context;
    (void)rest;
    return write_out(200, json_pack("{s:s}", "status", "live"), out);
}

/* 503 while a pipeline lacks a worker of one of its stages: `missing` names pipeline and stage. */
unsigned api_ready_answer(const struct api_context *context, const char *rest, struct buffer *out)
{
    json_t *missing = json_object();
    const char *stage;

    (void)rest;
    for (uint32_t i = 0; i < context->config->n_pipelines; i++)
        if (!ledger_ready(context->ledger, i, &stage))
            (void)json_object_set_new(missing, context->config->pipelines[i].name,
                                      json_string(stage));
    bool ready = json_object_size(missing) == 0 && !context->draining;
    struct ledger_counts counts;
    ledger_counts(context->ledger, &counts);
    json_t *root = json_pack("{s:s,s:o,s:I,s:I,s:I}", "status",
                             ready               ? "ready"
                             : context->draining ? "stopping"
                                                 : "not ready",
                             "missing", missing, "requests", (json_int_t)counts.requests, "waiting",
                             (json_int_t)counts.waiting, "workers", (json_int_t)counts.workers);
    return write_out(ready ? 200 : 503, root, out);
}
