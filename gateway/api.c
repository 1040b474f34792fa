#include "gateway/api.h"
#include "engine/base/heap.h"
#include <ctype.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct api_route routes[] = {
    {.method = "POST",
     .path = "/v1/chat/completions",
     .rules = api_chat_rules,
     .n_rules = API_CHAT_RULES,
     .request = api_chat_request},
    {.method = "GET", .path = "/v1/models", .answer = api_models_answer},
    {.method = "GET", .path = "/v1/models/", .answer = api_model_answer},
    {.method = "GET", .path = "/health/live", .answer = api_live_answer},
    {.method = "GET", .path = "/health/ready", .answer = api_ready_answer},
};

/* The catalogue. */
// clang-format off
static const struct {
    unsigned http;
    const char *type, *code;
} catalogue[STATUS_CODES] = {
    [STATUS_OK]          = {500, "server_error",          "internal_error"},
    [STATUS_INVALID]     = {400, "invalid_request_error", "invalid_value"},
    [STATUS_NOT_FOUND]   = {404, "invalid_request_error", "not_found"},
    [STATUS_UNSUPPORTED] = {400, "invalid_request_error", "unsupported_value"},
    [STATUS_CORRUPT]     = {400, "invalid_request_error", "invalid_value"},
    [STATUS_LIMIT]       = {400, "invalid_request_error", "limit_exceeded"},
    [STATUS_BUSY]        = {429, "rate_limit_error",      "rate_limit_exceeded"},
    [STATUS_DEADLINE]    = {504, "server_error",          "deadline_exceeded"},
    [STATUS_CANCELLED]   = {503, "server_error",          "cancelled"},
    [STATUS_SYSTEM]      = {500, "server_error",          "internal_error"},
    [STATUS_INTERNAL]    = {500, "server_error",          "internal_error"},
    [STATUS_UNAVAILABLE] = {503, "server_error",          "unavailable"},
    [STATUS_DENIED]      = {403, "invalid_request_error", "permission_denied"},
    [STATUS_POISON]      = {422, "invalid_request_error", "refused_input"},
    [STATUS_TOO_LARGE]   = {413, "invalid_request_error", "request_too_large"},
};
// clang-format on

bool api_refuse(struct api_error *error, enum status_code code, const char *param,
                const char *format, ...)
{
    va_list args;

    *error = (struct api_error){.code = code};
    (void)snprintf(error->param, sizeof error->param, "%s", param);
    va_start(args, format);
    (void)vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return false;
}

bool api_refuse_model(struct api_error *error, struct span name)
{
    size_t n = utf8_valid_prefix(name.data, name.size < 64 ? name.size : 64);

    return api_refuse(error, STATUS_NOT_FOUND, "model",
                      "there is no model '%.*s'; GET /v1/models lists them", (int)n,
                      (const char *)name.data);
}

/* "messages[2].content: why" names the parameter. */
static size_t path_length(const char *text)
{
    size_t n = strcspn(text, ": ");

    if (text[n] != ':' || text[n + 1] != ' ' || n >= BODY_PATH_MAX)
        return 0;
    return strncmp(text, "messages[", 9) == 0 || strncmp(text, "tools", 5) == 0 ? n : 0;
}

/* The path of the medium that "image 2: why" means, or "". */
static const char *medium_path(const struct api_media *media, const char *text)
{
    size_t n = strcspn(text, " :");
    size_t number = 1;

    if (text[n] == ' ' && text[n + 1] >= '1' && text[n + 1] <= '9') {
        char *end;
        number = strtoul(text + n + 1, &end, 10);
        if (*end != ':')
            return "";
    } else if (text[n] != ':')
        return "";
    for (size_t i = 0; i < media->n; i++) {
        const char *kind = media->items[i].kind;
        if (strlen(kind) == n && strncmp(kind, text, n) == 0 && --number == 0)
            return media->items[i].path;
    }
    return "";
}

void api_error_from_end(struct api_error *error, enum status_code code, const char *text,
                        int64_t retry_after_s, const struct api_media *media)
{
    size_t n = path_length(text);

    (void)api_refuse(error, code, medium_path(media, text), "%s", n ? text + n + 2 : text);
    if (n) {
        memcpy(error->param, text, n);
        error->param[n] = 0;
    }
    error->medium = code == STATUS_UNSUPPORTED;
    error->retry_after_s = retry_after_s;
}

unsigned api_http(const struct api_error *error)
{
    if (error->method)
        return 405;
    if (error->code == STATUS_UNSUPPORTED && error->medium)
        return 415;
    return catalogue[error->code < STATUS_CODES ? error->code : STATUS_INTERNAL].http;
}

/* Texts may quote what a client or a file said: cut to what is UTF-8. */
static json_t *text_value(const char *text)
{
    return json_stringn(text, utf8_valid_prefix((const uint8_t *)text, strlen(text)));
}

void api_error_json(const struct api_error *error, struct buffer *out)
{
    enum status_code code = error->code < STATUS_CODES ? error->code : STATUS_INTERNAL;
    const char *word = catalogue[code].code;

    if (code == STATUS_LIMIT && strstr(error->text, "context"))
        word = "context_length_exceeded";
    if (code == STATUS_NOT_FOUND && strcmp(error->param, "model") == 0)
        word = "model_not_found";
    json_t *root =
        json_pack("{s:{s:o,s:s,s:o,s:s}}", "error", "message", text_value(error->text), "type",
                  catalogue[code].type, "param",
                  error->param[0] ? text_value(error->param) : json_null(), "code", word);
    char *text = json_dumps(root, JSON_COMPACT);
    buffer_append_text(out, text ? text : "{}");
    heap_free(text);
    json_decref(root);
}

void api_request_clear(struct api_request *request)
{
    if (request->msg) {
        msg_clear(request->msg);
        heap_free(request->msg);
    }
    *request = (struct api_request){0};
}

static bool path_fits(const char *row, const char *path)
{
    size_t n = strlen(row);

    return row[n - 1] == '/' ? strncmp(row, path, n) == 0 && path[n] : strcmp(row, path) == 0;
}

const struct api_route *api_find(const char *method, const char *path, struct api_error *error,
                                 const char **out_allow)
{
    const char *allow = NULL;

    *out_allow = NULL;
    if (strcmp(method, "HEAD") == 0)
        method = "GET";
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (!path_fits(routes[i].path, path))
            continue;
        if (strcmp(routes[i].method, method) == 0)
            return &routes[i];
        allow = strcmp(routes[i].method, "GET") == 0 ? "GET, HEAD" : routes[i].method;
    }
    *out_allow = allow;
    if (!allow)
        (void)api_refuse(error, STATUS_NOT_FOUND, "", "no such address: %.100s", path);
    else
        (void)api_refuse(error, STATUS_INVALID, "", "%.16s is not allowed here, only %s", method,
                         allow);
    error->method = allow != NULL;
    return NULL;
}
