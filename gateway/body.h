/* body.h - a JSON body as it arrives: media into blobs, long texts aside, the skeleton for jansson.
 */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "proto/msg.h"
#include <stddef.h>
#include <stdint.h>

/* A body of 32 MB is never held as text and never parsed as a whole: that would stop every stream
 * for a second. The scanner checks the JSON grammar and UTF-8 byte by byte, as it comes, and writes
 * a skeleton without blanks in which only short plain strings stand themselves. Every other string
 * value is a reference, "\u0001" + letter + number; the client's own strings cannot look like one,
 * because a string with a control character in it is always a reference itself. */
#define BODY_SKELETON_BYTES_MAX (1U << 20)
#define BODY_TEXT_BYTES_MAX (2U << 20) /* of all texts together */
#define BODY_RAW_BYTES_MAX (256U << 10)
#define BODY_MEDIA_MAX 16
#define BODY_VALUES_MAX 16384 /* of the skeleton: what jansson takes in one piece */
#define BODY_DEPTH_MAX 64
#define BODY_KEY_BYTES_MAX 256
#define BODY_INLINE_BYTES_MAX 64 /* a longer string is a reference */
#define BODY_URL_HEAD_MAX 256    /* bytes of a data: URL before its comma */
#define BODY_PATH_MAX 160

/* What happens to the value at a path. */
enum body_cut {
    BODY_DATA_URL, /* a string; "data:...;base64," is decoded to a medium, all else stays text */
    BODY_BASE64,   /* a string, decoded to a medium */
    BODY_RAW,      /* any value, kept in its own spelling; one path of a table at most */
};
struct body_rule {
    const char *path; /* "messages[].content[].image_url.url" */
    enum body_cut cut;
    const char *name; /* of the blob: "image", "audio" */
};

struct body; /* opaque: the state of the scanner */

/* rules [n_rules] must outlive the body. seed: where the hash of the input starts. */
struct body *body_new(const struct body_rule *rules, size_t n_rules, size_t bytes_max,
                      uint64_t seed);
void body_free(struct body *body);

/* The next bytes. After a failure nothing more may be pushed; body_path then says where it was. */
MUST_CHECK bool body_push(struct body *body, struct span piece, struct status *st);
/* No more bytes: false when the value is not complete. */
MUST_CHECK bool body_finish(struct body *body, struct status *st);
/* The path of the value that is being read: "messages[0].content[1].image_url.url"; "" is the whole
 * body. */
void body_path(const struct body *body, char out[BODY_PATH_MAX]);

/* After body_finish, all borrowed until body_free. */
struct span body_skeleton(const struct body *body);
size_t body_bytes(const struct body *body);
uint64_t body_hash(const struct body *body); /* of all bytes, however they were cut; seeded */
struct span body_raw(const struct body *body);

struct body_medium {
    const char *name; /* of its rule */
    struct blob *blob;
    char type[48];            /* as a data: URL declares it, a hint; may be empty */
    char path[BODY_PATH_MAX]; /* of its value, as body_path says it */
};
/* What a string value of the skeleton stands for. */
enum body_value { BODY_IS_TEXT, BODY_IS_MEDIUM, BODY_IS_RAW };
/* value: the bytes of a string value that jansson gave. Text is returned in *out_text (the
 * value itself when it is no reference), a medium in *out_medium. */
enum body_value body_resolve(const struct body *body, struct span value, struct span *out_text,
                             size_t *out_medium);
size_t body_media(const struct body *body);
const struct body_medium *body_medium(const struct body *body, size_t i);
