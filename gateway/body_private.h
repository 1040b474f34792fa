/* body_private.h - what the files of body.c share. */
#pragma once
#include "gateway/base64.h"
#include "gateway/body.h"

#define LEVEL_KEY_MAX 32 /* longer than any key of a rule */

enum scan_state {
    AT_VALUE,
    AT_VALUE_OR_END, /* after [ */
    AT_KEY_OR_END,   /* after { */
    AT_KEY,
    AT_COLON,
    AT_NEXT, /* after a value in a container */
    AT_DONE,
    IN_STRING,
    IN_NUMBER,
    IN_WORD
};
enum number_state {
    NUMBER_MINUS,
    NUMBER_ZERO,
    NUMBER_INT,
    NUMBER_DOT,
    NUMBER_FRACTION,
    NUMBER_E,
    NUMBER_E_SIGN,
    NUMBER_EXPONENT
};
/* Where the characters of the open string go. */
enum sink { TO_KEY, TO_TEXT, TO_URL_HEAD, TO_MEDIUM, TO_NOTHING };

struct level {
    bool is_array;
    size_t index; /* of the value in an array */
    char key[LEVEL_KEY_MAX];
};
struct piece {
    size_t offset, size;
};

struct body {
    const struct body_rule *rules;
    size_t n_rules, bytes_max, bytes;
    uint64_t hash;
    uint8_t hash_bytes[8]; /* [hash_left] of the next eight */
    size_t hash_left;
    bool at_value; /* the failure concerns one value, not the JSON as such */

    enum scan_state state;
    struct level levels[BODY_DEPTH_MAX];
    size_t depth, values;
    enum number_state number;
    size_t number_start; /* in the skeleton */
    const char *word;    /* what is still expected of true, false, null */

    enum sink sink;
    unsigned escape; /* 0: none, 1: after the backslash, 2..5: that many - 1 hex digits wanted */
    uint32_t code, high;
    unsigned utf8_left;
    uint8_t utf8_low, utf8_high; /* bounds of the next byte */
    uint8_t key[BODY_KEY_BYTES_MAX];
    size_t key_size;
    char url_head[BODY_URL_HEAD_MAX];
    size_t url_head_size;
    size_t text_start;

    const char *medium_name;
    struct buffer medium_bytes;
    struct base64 base64;

    bool in_raw, has_raw;
    size_t raw_depth, raw_from; /* raw_from: in the piece at hand */

    struct buffer skeleton, texts, raw;
    struct piece *pieces;
    size_t n_pieces, pieces_capacity;
    struct body_medium media[BODY_MEDIA_MAX];
    size_t n_media;
};

struct cursor {
    const uint8_t *data;
    size_t size, at;
    size_t before; /* bytes of earlier pieces, for positions */
};

/* body.c */
bool body_value_fail(struct body *body, struct status *st, enum status_code code,
                     const char *format, ...) PRINTF_LIKE(4, 5); /* the value at hand is wrong */
MUST_CHECK bool skeleton_add(struct body *body, const void *data, size_t size, struct status *st);
MUST_CHECK bool skeleton_reference(struct body *body, char letter, size_t i, struct status *st);
void body_value_path(const struct body *body, char out[BODY_PATH_MAX]); /* of the value at hand */
const struct body_rule *body_rule(const struct body *body); /* of the value at hand, or NULL */

/* body_string.c: characters of the open string, escapes undone; and its end. */
void string_start(struct body *body, enum sink sink);
void string_start_value(struct body *body, const struct body_rule *rule);
MUST_CHECK bool string_add(struct body *body, const uint8_t *data, size_t size, struct status *st);
MUST_CHECK bool string_end_key(struct body *body, struct status *st);
MUST_CHECK bool string_end_value(struct body *body, struct status *st);

/* body_scan.c: the grammar. */
bool scan_not_json(const struct cursor *c, const char *wanted, struct status *st);
MUST_CHECK bool scan(struct body *body, struct cursor *c, struct status *st);
/* No more bytes: a number may end here. */
MUST_CHECK bool scan_finish(struct body *body, struct cursor *c, struct status *st);
