/* A chat request's body as HTTP brings it: once whole, once in pieces as the first byte says. Both
 * must end the same way. */
#include "gateway/api.h"
#include "tests/fuzz/model.h"
#include <string.h>

#define BYTES_MAX (1U << 20)

struct outcome {
    bool read, accepted;
    uint64_t hash;
    size_t media, blobs;
    struct api_error error;
};

static bool push(struct body *body, struct span bytes, size_t piece, struct status *st)
{
    for (size_t at = 0, n; at < bytes.size; at += n) {
        n = bytes.size - at < piece ? bytes.size - at : piece;
        if (!body_push(body, span_of(bytes.data + at, n), st))
            return false;
    }
    return body_finish(body, st);
}

static void run(struct outcome *out, struct span bytes, size_t piece)
{
    static struct ledger_config config;
    struct api_context context = {.config = &config, .created = 1234, .random = 42};
    struct body *body = body_new(api_chat_rules, API_CHAT_RULES, BYTES_MAX, 7);
    struct api_request request = {0};
    struct status st = {0};

    out->read = push(body, bytes, piece, &st);
    if (!out->read) {
        body_path(body, out->error.param);
        (void)api_refuse(&out->error, st.code, out->error.param, "%s", st.text);
    } else {
        out->hash = body_hash(body);
        out->media = body_media(body);
        out->accepted = api_chat_request(&context, body, &request, &out->error);
        out->blobs = out->accepted ? request.msg->head.n_blobs : 0;
    }
    if (!out->accepted) {
        struct buffer json = {0};
        fuzz_must(api_http(&out->error) >= 400 && out->error.text[0] != '\0');
        api_error_json(&out->error, &json);
        buffer_clear(&json);
    }
    api_request_clear(&request);
    body_free(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole = {0}, cut = {0};

    if (size == 0)
        return 0;
    struct span rest = span_of(data + 1, size - 1);
    run(&whole, rest, rest.size + 1);
    run(&cut, rest, (size_t)data[0] + 1);
    fuzz_must(whole.read == cut.read && whole.accepted == cut.accepted && whole.hash == cut.hash);
    fuzz_must(whole.media == cut.media && whole.blobs == cut.blobs);
    fuzz_must(strcmp(whole.error.text, cut.error.text) == 0 &&
              strcmp(whole.error.param, cut.error.param) == 0);
    return 0;
}
