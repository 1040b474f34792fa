/* container.h - what a container format fills in when it reads a file; inside this folder only. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/weights/weights.h"

#define WEIGHTS_NAME_BYTES_MAX 256 /* of a key or a tensor name */
#define WEIGHTS_KEYS_MAX 65536
#define WEIGHTS_TENSORS_MAX 65536
#define WEIGHTS_PIECES_MAX 1024
#define WEIGHTS_ARRAY_MAX (1 << 24) /* elements of a metadata array */

/* Numbers as in GGUF. */
enum value_type {
    VALUE_U8,
    VALUE_I8,
    VALUE_U16,
    VALUE_I16,
    VALUE_U32,
    VALUE_I32,
    VALUE_F32,
    VALUE_BOOL,
    VALUE_STRING,
    VALUE_ARRAY,
    VALUE_U64,
    VALUE_I64,
    VALUE_F64,
    VALUE_TYPES
};

struct metadata {
    char *key;
    enum value_type type; /* of an array: that of its elements */
    bool is_array;
    size_t count;     /* elements; 1 when no array */
    struct span data; /* as in the file, unaligned, checked: strings are u64 length and bytes */
};

struct mapping {
    void *data;
    size_t size;
};

struct weights {
    char *path; /* of the first piece */
    struct mapping *pieces;
    size_t n_pieces;
    struct metadata *keys; /* in file order, of the first piece */
    size_t n_keys;
    struct tensor_view *tensors; /* in file order; names are ours */
    size_t n_tensors;
    /* indices in order of name, made when all is read */
    uint32_t *keys_sorted, *tensors_sorted;
};

/* Map one more piece, read-only. */
MUST_CHECK bool weights_map(struct weights *w, const char *path, struct status *st);

/* Sort keys and tensors by name; refuses two of the same name. Lookups work afterwards. */
MUST_CHECK bool weights_index(struct weights *w, struct status *st);

/* One container format. */
struct weights_format {
    const char *name;
    bool (*recognizes)(struct span file);
    /* pieces[0] is mapped; fills keys and tensors, maps further pieces. What was made so far is
     * left for the caller to clear on failure. */
    bool (*read)(struct weights *w, struct status *st);
};

extern const struct weights_format weights_gguf;
