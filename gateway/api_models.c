/* GET /v1/models: the names of the pipelines; GET /v1/models/NAME: one of them. */
#include "engine/base/heap.h"
#include "gateway/api.h"
#include <jansson.h>
#include <string.h>

static json_t *model_of(const char *name)
{
    return json_pack("{s:s,s:s,s:I,s:s}", "id", name, "object", "model", "created", (json_int_t)0,
                     "owned_by", "millrace");
}

static unsigned write_out(json_t *root, struct buffer *out)
{
    char *text = json_dumps(root, JSON_COMPACT);

    buffer_append_text(out, text);
    heap_free(text);
    json_decref(root);
    return 200;
}

unsigned api_models_answer(const struct api_context *context, const char *rest, struct buffer *out)
{
    json_t *list = json_array();

    (void)rest;
    for (size_t i = 0; i < context->config->n_pipelines; i++)
        (void)json_array_append_new(list, model_of(context->config->pipelines[i].name));
    return write_out(json_pack("{s:s,s:o}", "object", "list", "data", list), out);
}

unsigned api_model_answer(const struct api_context *context, const char *rest, struct buffer *out)
{
    struct api_error error;

    for (size_t i = 0; i < context->config->n_pipelines; i++)
        if (strcmp(context->config->pipelines[i].name, rest) == 0)
            return write_out(model_of(rest), out);
    (void)api_refuse_model(&error, span_text(rest));
    api_error_json(&error, out);
    return api_http(&error);
}
