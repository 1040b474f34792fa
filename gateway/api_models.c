/* GET /v1/models: the names of the pipelines. */
#include "engine/base/heap.h"
#include "gateway/api.h"
#include <jansson.h>

unsigned api_models_answer(const struct api_context *context, struct buffer *out)
{
    json_t *list = json_array();

    for (size_t i = 0; i < context->config->n_pipelines; i++)
        (void)json_array_append_new(
            list, json_pack("{s:s,s:s,s:I,s:s}", "id", context->config->pipelines[i].name, "object",
                            "model", "created", (json_int_t)0, "owned_by", "millrace"));
    json_t *root = json_pack("{s:s,s:o}", "object", "list", "data", list);
    char *text = json_dumps(root, JSON_COMPACT);
    buffer_append_text(out, text);
    heap_free(text);
    json_decref(root);
    return 200;
}
