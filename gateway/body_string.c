/* What becomes of the strings of a body: keys, texts, media. */
#include "engine/base/heap.h"
#include "gateway/body_private.h"
#include "gateway/release.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool skeleton_key(struct body *body, struct status *st)
{
    char quoted[BODY_KEY_BYTES_MAX * 6 + 2];
    size_t n = 0;

    quoted[n++] = '"';
    for (size_t i = 0; i < body->key_size; i++) {
        uint8_t c = body->key[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            quoted[n++] = (char)c;
            continue;
        }
        int put = snprintf(quoted + n, 7, "\\u%04x", c);
        n += (size_t)put;
    }
    quoted[n++] = '"';
    return skeleton_add(body, quoted, n, st);
}

static bool add_text(struct body *body, const uint8_t *data, size_t size, struct status *st)
{
    if (body->texts.size + size > BODY_TEXT_BYTES_MAX)
        return body_value_fail(body, st, STATUS_TOO_LARGE, "more than %u bytes of text in all",
                               BODY_TEXT_BYTES_MAX);
    buffer_append(&body->texts, data, size);
    return true;
}

static bool add_key(struct body *body, const uint8_t *data, size_t size, struct status *st)
{
    if (body->key_size + size > sizeof body->key) {
        if (!body->in_raw)
            return body_value_fail(body, st, STATUS_LIMIT, "a key of more than %zu bytes",
                                   sizeof body->key);
        size = sizeof body->key - body->key_size;
    }
    memcpy(body->key + body->key_size, data, size);
    body->key_size += size;
    return true;
}

static bool bad_base64(struct body *body, struct status *st)
{
    return body_value_fail(body, st, STATUS_INVALID, "not base64 after %zu decoded bytes",
                           body->medium_bytes.size);
}

static bool add_medium(struct body *body, const uint8_t *data, size_t size, struct status *st)
{
    return base64_add(&body->base64, data, size, &body->medium_bytes) || bad_base64(body, st);
}

static void start_medium(struct body *body, const char *name)
{
    body->sink = TO_MEDIUM;
    body->medium_name = name;
    body->base64 = (struct base64){0};
    buffer_reset(&body->medium_bytes);
}

static bool head_becomes_text(struct body *body, struct status *st)
{
    body->sink = TO_TEXT;
    return add_text(body, (const uint8_t *)body->url_head, body->url_head_size, st);
}

/* The comma of a data: URL has come: url_head is what stood before it. */
static bool end_url_head(struct body *body, struct status *st)
{
    static const char start[] = "data:";
    static const char end[] = ";base64";
    size_t size = body->url_head_size;

    if (size < sizeof start - 1 + sizeof end - 1 ||
        strncasecmp(body->url_head, start, sizeof start - 1) != 0 ||
        strncasecmp(body->url_head + size - (sizeof end - 1), end, sizeof end - 1) != 0) {
        if (!head_becomes_text(body, st))
            return false;
        return add_text(body, (const uint8_t *)",", 1, st);
    }
    start_medium(body, body->medium_name);
    if (body->n_media < BODY_MEDIA_MAX) {
        const char *type = body->url_head + sizeof start - 1;
        size_t n = strcspn(type, ";,");
        struct body_medium *medium = &body->media[body->n_media];
        if (n < sizeof medium->type) {
            memcpy(medium->type, type, n);
            medium->type[n] = 0;
        }
    }
    return true;
}

static bool add_url(struct body *body, const uint8_t *data, size_t size, size_t *used,
                    struct status *st)
{
    for (*used = 0; *used < size;) {
        uint8_t c = data[(*used)++];
        if (c == ',')
            return end_url_head(body, st);
        if (body->url_head_size + 1 == sizeof body->url_head) {
            if (!head_becomes_text(body, st))
                return false;
            return add_text(body, &c, 1, st);
        }
        body->url_head[body->url_head_size++] = (char)c;
        body->url_head[body->url_head_size] = 0;
    }
    return true;
}

bool string_add(struct body *body, const uint8_t *data, size_t size, struct status *st)
{
    if (body->sink == TO_URL_HEAD) {
        size_t used;
        if (!add_url(body, data, size, &used, st))
            return false;
        data += used;
        size -= used;
    }
    switch (body->sink) {
    case TO_KEY:
        return add_key(body, data, size, st);
    case TO_TEXT:
        return add_text(body, data, size, st);
    case TO_MEDIUM:
        return add_medium(body, data, size, st);
    case TO_URL_HEAD:
    case TO_NOTHING:
        break;
    }
    return true;
}

static bool end_medium(struct body *body, struct status *st)
{
    struct buffer *bytes = &body->medium_bytes;

    if (!base64_end(&body->base64, bytes))
        return bad_base64(body, st);
    if (bytes->size == 0)
        return body_value_fail(body, st, STATUS_INVALID, "is empty");
    if (body->n_media == BODY_MEDIA_MAX)
        return body_value_fail(body, st, STATUS_LIMIT, "more than %d media", BODY_MEDIA_MAX);
    /* Give back what growing took too much; shrinking a large block does not copy. */
    uint8_t *data = heap_resize(bytes->data, bytes->size, 1);
    struct body_medium *medium = &body->media[body->n_media];
    medium->name = body->medium_name;
    body_value_path(body, medium->path);
    medium->blob = release_blob_take(data, bytes->size);
    *bytes = (struct buffer){0};
    return skeleton_reference(body, 'm', body->n_media++, st);
}

/* A short string without characters that JSON must escape stands in the skeleton itself. */
static bool stands_inline(const uint8_t *data, size_t size)
{
    if (size > BODY_INLINE_BYTES_MAX)
        return false;
    for (size_t i = 0; i < size; i++)
        if (data[i] < 0x20 || data[i] == '"' || data[i] == '\\')
            return false;
    return true;
}

static bool end_text(struct body *body, struct status *st)
{
    size_t size = body->texts.size - body->text_start;
    const uint8_t *data = size ? body->texts.data + body->text_start : (const uint8_t *)"";

    if (stands_inline(data, size)) {
        if (!skeleton_add(body, "\"", 1, st) || !skeleton_add(body, data, size, st) ||
            !skeleton_add(body, "\"", 1, st))
            return false;
        body->texts.size = body->text_start;
        return true;
    }
    if (body->n_pieces == body->pieces_capacity) {
        body->pieces_capacity = body->pieces_capacity * 2 + 16;
        body->pieces = heap_resize(body->pieces, body->pieces_capacity, sizeof *body->pieces);
    }
    body->pieces[body->n_pieces] = (struct piece){body->text_start, size};
    return skeleton_reference(body, 't', body->n_pieces++, st);
}

bool string_end_key(struct body *body, struct status *st)
{
    struct level *level = &body->levels[body->depth - 1];
    size_t n = body->key_size < sizeof level->key - 1 ? body->key_size : sizeof level->key - 1;

    for (size_t i = 0; i < n; i++)
        level->key[i] = body->key[i] > 0x20 && body->key[i] < 0x7F ? (char)body->key[i] : '?';
    level->key[n] = 0;
    return skeleton_key(body, st);
}

bool string_end_value(struct body *body, struct status *st)
{
    switch (body->sink) {
    case TO_URL_HEAD:
        return head_becomes_text(body, st) && end_text(body, st);
    case TO_TEXT:
        return end_text(body, st);
    case TO_MEDIUM:
        return end_medium(body, st);
    case TO_KEY:
    case TO_NOTHING:
        break;
    }
    return true;
}

void string_start(struct body *body, enum sink sink)
{
    if (sink == TO_KEY) /* until it is whole, a failure is the container's */
        body->levels[body->depth - 1].key[0] = 0;
    body->state = IN_STRING;
    body->sink = sink;
    body->escape = 0;
    body->high = 0;
    body->utf8_left = 0;
    body->key_size = 0;
    body->url_head_size = 0;
    body->url_head[0] = 0;
    body->text_start = body->texts.size;
}

void string_start_value(struct body *body, const struct body_rule *rule)
{
    string_start(body, body->in_raw ? TO_NOTHING : TO_TEXT);
    if (!rule || body->in_raw)
        return;
    body->medium_name = rule->name;
    if (rule->cut == BODY_DATA_URL)
        body->sink = TO_URL_HEAD;
    if (rule->cut == BODY_BASE64)
        start_medium(body, rule->name);
    if (body->n_media < BODY_MEDIA_MAX)
        body->media[body->n_media].type[0] = 0;
}
