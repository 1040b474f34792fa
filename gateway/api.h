/* api.h - TABLE: method and path → handler; TABLE: status code → HTTP and OpenAI's words. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "gateway/body.h"
#include "gateway/ledger.h"
#include <stdint.h>

#define API_WIDTH 3840                     /* of a soft token of the 12B, for reservations */
#define API_PATCH_BYTES ((size_t)2304 * 3) /* pixels of one soft token of a picture */
#define API_AUDIO_SECONDS 30
#define API_AUDIO_TOKENS_S 25 /* of a second */
#define API_AUDIO_BYTES_S ((size_t)16000 * sizeof(float))
#define API_VIDEOS_MAX 4         /* of a request: each is up to three blobs */
#define API_CONTEXT_TOKENS 32768 /* asked for, when a request does not say how many */
#define API_OUTPUT_BYTES (1U << 20)

/* What ingest makes of media where a request does not say. */
struct api_media_usual {
    size_t image_budget, video_frames;
};

/* What the handlers see of the world. */
struct api_context {
    const struct ledger_config *config;
    const struct ledger *ledger;
    struct api_media_usual usual;
    int64_t created; /* unix seconds */
    uint64_t random; /* seed of a request that names none */
    bool draining;
};

/* Why a request is refused, before it is put in OpenAI's shape. */
struct api_error {
    enum status_code code;
    bool medium;               /* the medium is meant: 415 instead of 400 */
    bool method;               /* the method is meant: 405 */
    char param[BODY_PATH_MAX]; /* "messages[0].content"; empty: none */
    char text[240];
    int64_t retry_after_s; /* 0: not said */
};
/* Always returns false. */
bool api_refuse(struct api_error *error, enum status_code code, const char *param,
                const char *format, ...) PRINTF_LIKE(4, 5);
/* The same for a name that no model has. */
bool api_refuse_model(struct api_error *error, struct span name);

/* The media of a request, in the order of their blobs. */
struct api_media {
    size_t n;
    struct {
        const char *kind; /* name of the blob: "image" */
        char path[BODY_PATH_MAX];
    } items[BODY_MEDIA_MAX];
};

/* From an ACTION_END: text is the stage's or the ledger's. A text that begins with a path, or with
 * a medium ("image 2: why", "image: why" of an only one), names the parameter. */
void api_error_from_end(struct api_error *error, enum status_code code, const char *text,
                        int64_t retry_after_s, const struct api_media *media);
unsigned api_http(const struct api_error *error);
/* Appends {"error":{"message","type","param","code"}}. */
void api_error_json(const struct api_error *error, struct buffer *out);

/* What the ledger gets. Zeroed is empty. */
struct api_request {
    struct msg *msg; /* head.fields and the blobs */
    uint32_t pipeline;
    bool stream;
    uint64_t reserve_bytes, work, input_hash;
    uint32_t tokens_max;
    struct api_media media;
};
void api_request_clear(struct api_request *request);

/* One row of the table: a GET is answered at once, a POST has a body that becomes a request. */
struct api_route {
    const char *method;
    const char *path; /* one that ends in '/' stands for all addresses below it */
    /* Appends the body of the answer; returns the HTTP status. rest: of the address, after path. */
    unsigned (*answer)(const struct api_context *context, const char *rest, struct buffer *out);
    const struct body_rule *rules;
    size_t n_rules;
    bool (*request)(const struct api_context *context, const struct body *body,
                    struct api_request *out, struct api_error *error);
};
/* HEAD is a GET of which the library sends no body. NULL: error is filled in; *out_allow then is
 * the value of the Allow header of a 405, or NULL. */
const struct api_route *api_find(const char *method, const char *path, struct api_error *error,
                                 const char **out_allow);

/* The handlers, one API a file. */
#define API_CHAT_RULES 4
extern const struct body_rule api_chat_rules[API_CHAT_RULES];
bool api_chat_request(const struct api_context *context, const struct body *body,
                      struct api_request *out, struct api_error *error);
unsigned api_models_answer(const struct api_context *context, const char *rest, struct buffer *out);
unsigned api_model_answer(const struct api_context *context, const char *rest, struct buffer *out);
unsigned api_live_answer(const struct api_context *context, const char *rest, struct buffer *out);
unsigned api_ready_answer(const struct api_context *context, const char *rest, struct buffer *out);
