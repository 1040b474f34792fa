#include "gateway/body.h"
#include "engine/base/heap.h"
#include "gateway/body_private.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MARK "\\u0001" /* as it stands in the skeleton */

struct body *body_new(const struct body_rule *rules, size_t n_rules, size_t bytes_max,
                      uint64_t seed)
{
    struct body *body = heap_array(struct body, 1);

    body->rules = rules;
    body->n_rules = n_rules;
    body->bytes_max = bytes_max;
    body->hash = seed;
    return body;
}

void body_free(struct body *body)
{
    if (!body)
        return;
    buffer_clear(&body->skeleton);
    buffer_clear(&body->texts);
    buffer_clear(&body->raw);
    buffer_clear(&body->medium_bytes);
    for (size_t i = 0; i < body->n_media; i++)
        blob_drop(body->media[i].blob);
    heap_free(body->pieces);
    heap_free(body);
}

/* ---- where we are ---- */

static bool path_is(const struct body *body, const char *pattern)
{
    for (size_t i = 0; i < body->depth; i++) {
        const struct level *level = &body->levels[i];
        if (level->is_array) {
            if (strncmp(pattern, "[]", 2) != 0)
                return false;
            pattern += 2;
            continue;
        }
        if (i > 0 && *pattern++ != '.')
            return false;
        size_t n = strlen(level->key);
        if (n == 0 || strncmp(pattern, level->key, n) != 0)
            return false;
        pattern += n;
    }
    return *pattern == 0;
}

const struct body_rule *body_rule(const struct body *body)
{
    for (size_t i = 0; i < body->n_rules; i++)
        if (path_is(body, body->rules[i].path))
            return &body->rules[i];
    return NULL;
}

void body_value_path(const struct body *body, char out[BODY_PATH_MAX])
{
    size_t used = 0;

    out[0] = 0;
    for (size_t i = 0; i < body->depth && used < BODY_PATH_MAX; i++) {
        const struct level *level = &body->levels[i];
        if (!level->is_array && !level->key[0])
            break;
        int n = level->is_array
                    ? snprintf(out + used, BODY_PATH_MAX - used, "[%zu]", level->index)
                    : snprintf(out + used, BODY_PATH_MAX - used, "%s%s", i ? "." : "", level->key);
        used += n > 0 ? (size_t)n : 0;
    }
}

void body_path(const struct body *body, char out[BODY_PATH_MAX])
{
    out[0] = 0;
    if (body->at_value)
        body_value_path(body, out);
}

/* A failure that concerns the value at hand. */
bool body_value_fail(struct body *body, struct status *st, enum status_code code,
                     const char *format, ...)
{
    char text[sizeof st->text];
    va_list args;

    body->at_value = true;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return status_fail(st, code, "%s", text);
}

/* ---- the skeleton ---- */

bool skeleton_add(struct body *body, const void *data, size_t size, struct status *st)
{
    if (body->in_raw)
        return true;
    if (body->skeleton.size + size > BODY_SKELETON_BYTES_MAX)
        return status_fail(st, STATUS_TOO_LARGE, "more than %u bytes of structure",
                           BODY_SKELETON_BYTES_MAX);
    buffer_append(&body->skeleton, data, size);
    return true;
}

bool skeleton_reference(struct body *body, char letter, size_t i, struct status *st)
{
    char text[40];
    int n = snprintf(text, sizeof text, "\"" MARK "%c%zu\"", letter, i);

    return skeleton_add(body, text, (size_t)n, st);
}

/* Eight bytes at a time, wherever the pieces are cut: byte by byte it was 28 % of an upload. */
static uint64_t mix(uint64_t hash, const uint8_t *eight)
{
    uint64_t word;

    memcpy(&word, eight, sizeof word);
    hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ hash >> 32;
}

static void add_to_hash(struct body *body, struct span piece)
{
    size_t i = 0;

    while (i < piece.size) {
        if (body->hash_left == 0 && piece.size - i >= 8) {
            body->hash = mix(body->hash, piece.data + i);
            i += 8;
            continue;
        }
        body->hash_bytes[body->hash_left++] = piece.data[i++];
        if (body->hash_left == 8) {
            body->hash = mix(body->hash, body->hash_bytes);
            body->hash_left = 0;
        }
    }
}

bool body_push(struct body *body, struct span piece, struct status *st)
{
    struct cursor c = {.data = piece.data, .size = piece.size, .before = body->bytes};

    body->raw_from = 0;
    if (piece.size > body->bytes_max - body->bytes)
        return status_fail(st, STATUS_TOO_LARGE, "body of more than %zu bytes", body->bytes_max);
    add_to_hash(body, piece);
    if (!scan(body, &c, st))
        return false;
    body->bytes += piece.size;
    return true;
}

bool body_finish(struct body *body, struct status *st)
{
    struct cursor c = {.data = (const uint8_t *)"", .before = body->bytes};

    body->raw_from = 0; /* in this piece of no bytes, too */
    return scan_finish(body, &c, st);
}

/* ---- what came of it ---- */

struct span body_skeleton(const struct body *body)
{
    return buffer_span(&body->skeleton);
}

size_t body_bytes(const struct body *body)
{
    return body->bytes;
}

uint64_t body_hash(const struct body *body)
{
    uint8_t last[8] = {0};

    memcpy(last, body->hash_bytes, body->hash_left);
    return mix(mix(body->hash, last), (const uint8_t *)&(uint64_t){body->bytes});
}

struct span body_raw(const struct body *body)
{
    return buffer_span(&body->raw);
}

enum body_value body_resolve(const struct body *body, struct span value, struct span *out_text,
                             size_t *out_medium)
{
    size_t n = 0;

    *out_text = value;
    if (value.size < 3 || value.data[0] != 1)
        return BODY_IS_TEXT;
    for (size_t i = 2; i < value.size; i++)
        n = n * 10 + (value.data[i] - (size_t)'0');
    if (value.data[1] == 'r')
        return BODY_IS_RAW;
    if (value.data[1] == 'm') {
        assert(n < body->n_media);
        *out_medium = n;
        return BODY_IS_MEDIUM;
    }
    assert(value.data[1] == 't' && n < body->n_pieces);
    *out_text = span_of(body->texts.data + body->pieces[n].offset, body->pieces[n].size);
    return BODY_IS_TEXT;
}

size_t body_media(const struct body *body)
{
    return body->n_media;
}

const struct body_medium *body_medium(const struct body *body, size_t i)
{
    assert(i < body->n_media);
    return &body->media[i];
}
