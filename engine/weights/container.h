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
    size_t count; /* elements; 1 when no array */
    struct span
        data; /* unaligned, checked, in the file or owned: strings are u64 length and bytes */
};

/* A file that was read: mapped and open, or (data NULL, size 0) read and let go again. */
struct mapping {
    char *path;
    void *data;
    size_t size;
    int fd;
};

/* How the values of a tensor lie in its file, where that is not how they are lent. */
enum layout_change {
    LAYOUT_SAME,  /* but perhaps of another type */
    LAYOUT_PATCH, /* dims[0] is a tile, channel last; lent channel first (spec media.md 2.5) */
    LAYOUT_AXES,  /* dims[1] and dims[2] are swapped */
};

struct layout {
    const void *source; /* in a piece; NULL: the tensor is lent as it lies */
    const struct quant_row *type;
    enum layout_change change;
    void *made; /* once it was borrowed */
};

struct weights {
    char *path; /* as given */
    struct mapping *pieces;
    size_t n_pieces;
    struct metadata *keys; /* in file order, of the first piece */
    size_t n_keys;
    struct tensor_view *tensors; /* in file order; names are ours */
    size_t n_tensors;
    struct layout *layouts; /* [n_tensors], or NULL: all are lent as they lie */
    /* indices in order of name, made when all is read */
    uint32_t *keys_sorted, *tensors_sorted;
    void **owned; /* values and metadata that no file holds as they are lent */
    size_t n_owned;
};

/* Map one more piece, read-only. */
MUST_CHECK bool weights_map(struct weights *w, const char *path, struct status *st);
/* Unmap a piece; that it was read stays known. */
void weights_unmap(struct weights *w, size_t piece);
/* Unmap the last piece as if it had never been mapped. */
void weights_forget(struct weights *w);

/* Zeroed memory that lives as long as `w`. */
void *weights_own(struct weights *w, size_t size_bytes);

/* One more key with a value that is copied; strings as struct metadata has them. */
void weights_add_key(struct weights *w, const char *key, enum value_type type, const void *value,
                     size_t size_bytes);
void weights_add_array(struct weights *w, const char *key, enum value_type type, size_t count,
                       const void *values, size_t size_bytes);
void weights_add_string(struct weights *w, const char *key, struct span text);

/* The bytes of a tensor that is not lent as it lies (layout.c). */
void layout_make(const struct layout *layout, const struct tensor_view *t, void *out);

/* Sort keys and tensors by name; refuses two of the same name. Lookups work afterwards. */
MUST_CHECK bool weights_index(struct weights *w, struct status *st);

/* One container format. */
struct weights_format {
    const char *name;
    bool (*recognizes)(struct span file);
    /* pieces[0] is mapped; fills keys and tensors, maps further pieces. What was made so far is
     * left for the caller to clear on failure. */
    bool (*read)(struct weights *w, struct status *st);
    const char *in_folder[2]; /* files looked for when a folder is given; NULL: none */
};

extern const struct weights_format weights_gguf;
extern const struct weights_format weights_safetensors;
