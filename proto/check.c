#include "proto/check.h"
#include <string.h>

#define KEYS_MAX 64      /* of one map */
#define KEY_BYTES_MAX 32 /* of one key */

/* A container that is not at its end yet. */
struct level {
    size_t left; /* values to come; keys of a map count */
    bool is_map;
    size_t n_keys;
    struct span keys[KEYS_MAX];
};

struct walk {
    struct span bytes;
    size_t at;
    size_t nodes_left;
    size_t depth;
    struct level levels[CHECK_DEPTH_MAX];
};

enum shape { SHAPE_PLAIN, SHAPE_TEXT, SHAPE_BYTES, SHAPE_ARRAY, SHAPE_MAP, SHAPE_NONE };

/* What a leading byte means: the shape, how many bytes of length or value follow it, and what the
 * byte itself says of length. */
struct lead {
    enum shape shape;
    size_t follow;
    size_t length;
};

static struct lead lead_of(uint8_t byte)
{
    /* 0xc0 to 0xdf; msgpack's specification, "Formats". */
    static const struct lead table[32] = {
        [0x00] = {SHAPE_PLAIN, 0, 0}, /* nil */
        [0x01] = {SHAPE_NONE, 0, 0},  /* never used */
        [0x02] = {SHAPE_PLAIN, 0, 0}, /* false, true */
        [0x03] = {SHAPE_PLAIN, 0, 0}, [0x04] = {SHAPE_BYTES, 1, 0}, [0x05] = {SHAPE_BYTES, 2, 0},
        [0x06] = {SHAPE_BYTES, 4, 0}, [0x07] = {SHAPE_NONE, 0, 0},  [0x08] = {SHAPE_NONE, 0, 0},
        [0x09] = {SHAPE_NONE, 0, 0},                                /* 7 to 9: extension types */
        [0x0a] = {SHAPE_PLAIN, 4, 0},                               /* floats */
        [0x0b] = {SHAPE_PLAIN, 8, 0}, [0x0c] = {SHAPE_PLAIN, 1, 0}, /* unsigned */
        [0x0d] = {SHAPE_PLAIN, 2, 0}, [0x0e] = {SHAPE_PLAIN, 4, 0}, [0x0f] = {SHAPE_PLAIN, 8, 0},
        [0x10] = {SHAPE_PLAIN, 1, 0}, /* signed */
        [0x11] = {SHAPE_PLAIN, 2, 0}, [0x12] = {SHAPE_PLAIN, 4, 0}, [0x13] = {SHAPE_PLAIN, 8, 0},
        [0x14] = {SHAPE_NONE, 0, 0}, /* 14 to 18: fixed extension types */
        [0x15] = {SHAPE_NONE, 0, 0},  [0x16] = {SHAPE_NONE, 0, 0},  [0x17] = {SHAPE_NONE, 0, 0},
        [0x18] = {SHAPE_NONE, 0, 0},  [0x19] = {SHAPE_TEXT, 1, 0},  [0x1a] = {SHAPE_TEXT, 2, 0},
        [0x1b] = {SHAPE_TEXT, 4, 0},  [0x1c] = {SHAPE_ARRAY, 2, 0}, [0x1d] = {SHAPE_ARRAY, 4, 0},
        [0x1e] = {SHAPE_MAP, 2, 0},   [0x1f] = {SHAPE_MAP, 4, 0},
    };

    if (byte < 0x80 || byte >= 0xe0)
        return (struct lead){SHAPE_PLAIN, 0, 0};
    if (byte < 0x90)
        return (struct lead){SHAPE_MAP, 0, byte & 15U};
    if (byte < 0xa0)
        return (struct lead){SHAPE_ARRAY, 0, byte & 15U};
    if (byte < 0xc0)
        return (struct lead){SHAPE_TEXT, 0, byte & 31U};
    return table[byte - 0xc0];
}

static size_t bytes_left(const struct walk *walk)
{
    return walk->bytes.size - walk->at;
}

/* A key: short text that this map does not have yet. Keys are compared one by one: 64 are few. */
static bool add_key(struct level *level, struct span key, struct status *st)
{
    if (key.size == 0 || key.size > KEY_BYTES_MAX)
        return status_fail(st, STATUS_LIMIT, "a key of %zu bytes, allowed are 1 to %d", key.size,
                           KEY_BYTES_MAX);
    for (size_t i = 0; i < level->n_keys; i++)
        if (span_equal(level->keys[i], key))
            return status_fail(st, STATUS_CORRUPT, "key '%.*s' twice in a map", (int)key.size,
                               (const char *)key.data);
    level->keys[level->n_keys++] = key; /* open_container saw to the room */
    return true;
}

static bool open_container(struct walk *walk, enum shape shape, size_t count, struct status *st)
{
    bool is_map = shape == SHAPE_MAP;

    if (walk->depth == CHECK_DEPTH_MAX)
        return status_fail(st, STATUS_LIMIT, "nested deeper than %d", CHECK_DEPTH_MAX);
    if (is_map && count > KEYS_MAX)
        return status_fail(st, STATUS_LIMIT, "a map of %zu keys, allowed are %d", count, KEYS_MAX);
    size_t values = is_map ? 2 * count : count;
    /* Every value takes a byte at least; this keeps a count from promising what cannot come. */
    if (values > bytes_left(walk))
        return status_fail(st, STATUS_CORRUPT, "%zu values announced, %zu bytes are left", values,
                           bytes_left(walk));
    if (values > walk->nodes_left)
        return status_fail(st, STATUS_LIMIT, "too many values");
    struct level *level = &walk->levels[walk->depth++];
    level->left = values;
    level->is_map = is_map;
    level->n_keys = 0;
    return true;
}

/* One value, or the opening of a container. */
static bool step(struct walk *walk, struct status *st)
{
    struct level *level = walk->depth ? &walk->levels[walk->depth - 1] : NULL;
    bool is_key = level && level->is_map && level->left % 2 == 0;

    if (bytes_left(walk) == 0)
        return status_fail(st, STATUS_CORRUPT, "cut off");
    if (walk->nodes_left == 0)
        return status_fail(st, STATUS_LIMIT, "too many values");
    walk->nodes_left--;
    if (level)
        level->left--;
    uint8_t byte = walk->bytes.data[walk->at++];
    struct lead lead = lead_of(byte);
    if (lead.shape == SHAPE_NONE)
        return status_fail(st, STATUS_UNSUPPORTED, "type 0x%02x is not allowed", byte);
    if (is_key && lead.shape != SHAPE_TEXT)
        return status_fail(st, STATUS_INVALID, "a key that is no text");
    if (lead.follow > bytes_left(walk))
        return status_fail(st, STATUS_CORRUPT, "cut off");
    size_t length = lead.length;
    for (size_t i = 0; i < lead.follow; i++)
        length = length << 8 | walk->bytes.data[walk->at++];
    if (lead.shape == SHAPE_PLAIN)
        return true;
    if (lead.shape == SHAPE_ARRAY || lead.shape == SHAPE_MAP)
        return open_container(walk, lead.shape, length, st);
    if (length > bytes_left(walk))
        return status_fail(st, STATUS_CORRUPT, "%zu bytes announced, %zu are left", length,
                           bytes_left(walk));
    struct span bytes = span_of(walk->bytes.data + walk->at, length);
    walk->at += length;
    if (lead.shape == SHAPE_TEXT && utf8_valid_prefix(bytes.data, bytes.size) != bytes.size)
        return status_fail(st, STATUS_INVALID, "text that is not UTF-8");
    return !is_key || add_key(level, bytes, st);
}

bool check_msgpack(struct span bytes, size_t nodes_max, struct status *st)
{
    struct walk walk;

    /* The key tables (8 KiB) are not zeroed: each level does that when it is opened. */
    walk.bytes = bytes;
    walk.at = 0;
    walk.nodes_left = nodes_max;
    walk.depth = 0;
    do {
        size_t at = walk.at;
        if (!step(&walk, st))
            return status_wrap(st, "msgpack byte %zu", at);
        while (walk.depth > 0 && walk.levels[walk.depth - 1].left == 0)
            walk.depth--;
    } while (walk.depth > 0);
    if (bytes_left(&walk) > 0)
        return status_fail(st, STATUS_CORRUPT, "msgpack byte %zu: %zu bytes too many", walk.at,
                           bytes_left(&walk));
    return true;
}
