/* GGUF version 3 (spec weights.md section 2). The file is hostile until each number was checked. */
#include "engine/base/heap.h"
#include "engine/weights/container.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

#define ALIGNMENT_DEFAULT 32
#define ALIGNMENT_MIN 8 /* of the format; also what float32 vectors need when they are borrowed */
#define ALIGNMENT_MAX 65536
#define TENSOR_BYTES_MIN                                                                           \
    32                   /* the shortest entry: length, name of 0, n_dims, one dim, type, offset */
#define KEY_BYTES_MIN 13 /* length, name of 0, type, one byte */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read as they lie");

struct cursor {
    const uint8_t *data;
    size_t size, at;
};

/* Next n bytes, or NULL when the file ends before. */
static const uint8_t *take(struct cursor *c, uint64_t n)
{
    if (n > c->size - c->at)
        return NULL;
    const uint8_t *p = c->data + c->at;
    c->at += (size_t)n;
    return p;
}

static bool take_u32(struct cursor *c, uint32_t *out, const char *field, struct status *st)
{
    const uint8_t *p = take(c, sizeof *out);
    if (!p)
        return status_fail(st, STATUS_CORRUPT, "%s: the file ends", field);
    memcpy(out, p, sizeof *out);
    return true;
}

static bool take_u64(struct cursor *c, uint64_t *out, const char *field, struct status *st)
{
    const uint8_t *p = take(c, sizeof *out);
    if (!p)
        return status_fail(st, STATUS_CORRUPT, "%s: the file ends", field);
    memcpy(out, p, sizeof *out);
    return true;
}

/* A name of ours: length and bytes, at most WEIGHTS_NAME_BYTES_MAX, not empty, no zero bytes. */
static bool take_name(struct cursor *c, char **out, const char *field, struct status *st)
{
    uint64_t n;
    if (!take_u64(c, &n, field, st))
        return false;
    if (n == 0 || n > WEIGHTS_NAME_BYTES_MAX)
        return status_fail(st, n ? STATUS_LIMIT : STATUS_CORRUPT,
                           "%s: length is %llu, allowed are 1 to %d", field, (unsigned long long)n,
                           WEIGHTS_NAME_BYTES_MAX);
    const uint8_t *p = take(c, n);
    if (!p)
        return status_fail(st, STATUS_CORRUPT, "%s: the file ends", field);
    if (memchr(p, 0, (size_t)n))
        return status_fail(st, STATUS_CORRUPT, "%s: holds a zero byte", field);
    *out = heap_text((const char *)p, (size_t)n);
    return true;
}

static const size_t value_bytes[VALUE_TYPES] = {
    [VALUE_U8] = 1,  [VALUE_I8] = 1,     [VALUE_U16] = 2,   [VALUE_I16] = 2, [VALUE_U32] = 4,
    [VALUE_I32] = 4, [VALUE_F32] = 4,    [VALUE_BOOL] = 1,  [VALUE_U64] = 8, [VALUE_I64] = 8,
    [VALUE_F64] = 8, [VALUE_STRING] = 0, [VALUE_ARRAY] = 0,
};

/* Walk `count` values of one type and leave their bytes in out. */
static bool take_values(struct cursor *c, enum value_type type, size_t count, struct span *out,
                        struct status *st)
{
    size_t begin = c->at;
    if (type == VALUE_STRING) {
        for (size_t i = 0; i < count; i++) {
            uint64_t n;
            if (!take_u64(c, &n, "string length", st))
                return status_wrap(st, "element %zu", i);
            if (!take(c, n))
                return status_fail(st, STATUS_CORRUPT,
                                   "element %zu: a string of %llu bytes, the file ends", i,
                                   (unsigned long long)n);
        }
    } else {
        /* count <= WEIGHTS_ARRAY_MAX, so the product is small */
        const uint8_t *p = take(c, (uint64_t)count * value_bytes[type]);
        if (!p)
            return status_fail(st, STATUS_CORRUPT, "%zu values of %zu bytes, the file ends", count,
                               value_bytes[type]);
        for (size_t i = 0; type == VALUE_BOOL && i < count; i++)
            if (p[i] > 1)
                return status_fail(st, STATUS_CORRUPT, "element %zu: a bool of %u", i, p[i]);
    }
    *out = span_of(c->data + begin, c->at - begin);
    return true;
}

static bool take_value(struct cursor *c, struct metadata *m, struct status *st)
{
    uint32_t type;
    uint64_t count = 1;

    if (!take_u32(c, &type, "value type", st))
        return false;
    m->is_array = type == VALUE_ARRAY;
    if (m->is_array) {
        if (!take_u32(c, &type, "element type", st) || !take_u64(c, &count, "array length", st))
            return false;
        if (type == VALUE_ARRAY)
            return status_fail(st, STATUS_UNSUPPORTED, "element type: an array of arrays");
        if (count > WEIGHTS_ARRAY_MAX)
            return status_fail(st, STATUS_LIMIT, "array length is %llu, allowed are %d",
                               (unsigned long long)count, WEIGHTS_ARRAY_MAX);
    }
    if (type >= VALUE_TYPES)
        return status_fail(st, STATUS_CORRUPT, "value type %u is unknown", type);
    m->type = (enum value_type)type;
    m->count = (size_t)count;
    return take_values(c, m->type, m->count, &m->data, st);
}

static bool read_keys(struct weights *w, struct cursor *c, size_t count, struct status *st)
{
    w->keys = heap_array(struct metadata, count);
    for (size_t i = 0; i < count; i++) {
        struct metadata *m = &w->keys[i];
        if (!take_name(c, &m->key, "key", st))
            return status_wrap(st, "metadata %zu", i);
        w->n_keys = i + 1;
        if (!take_value(c, m, st))
            return status_wrap(st, "metadata '%s'", m->key);
    }
    return true;
}

/* Shape and type of a tensor; leaves its size in bytes. */
static bool take_shape(struct cursor *c, struct tensor_view *t, struct status *st)
{
    uint32_t n_dims, type;
    uint64_t values = 1;

    if (!take_u32(c, &n_dims, "n_dims", st))
        return false;
    if (n_dims < 1 || n_dims > WEIGHTS_DIMS_MAX)
        return status_fail(st, STATUS_CORRUPT, "n_dims is %u, allowed are 1 to %d", n_dims,
                           WEIGHTS_DIMS_MAX);
    t->n_dims = n_dims;
    for (size_t i = 0; i < WEIGHTS_DIMS_MAX; i++) {
        uint64_t dim = 1;
        if (i < n_dims && !take_u64(c, &dim, "dims", st))
            return false;
        if (dim == 0 || dim > (uint64_t)PTRDIFF_MAX / values)
            return status_fail(st, STATUS_CORRUPT, "dims[%zu] is %llu", i, (unsigned long long)dim);
        values *= dim;
        t->dims[i] = (size_t)dim;
    }
    if (!take_u32(c, &type, "type", st))
        return false;
    t->type = quant_find(type);
    if (!t->type)
        return status_fail(st, STATUS_UNSUPPORTED, "type %u (%s) is not read by this version", type,
                           quant_name(type));
    if (t->dims[0] % t->type->block_values)
        return status_fail(st, STATUS_CORRUPT,
                           "dims[0] is %zu, no multiple of the %zu values of %s", t->dims[0],
                           t->type->block_values, t->type->name);
    uint64_t blocks = values / t->type->block_values;
    if (blocks > (uint64_t)PTRDIFF_MAX / t->type->block_bytes)
        return status_fail(st, STATUS_CORRUPT, "dims: %llu values", (unsigned long long)values);
    t->size_bytes = (size_t)blocks * t->type->block_bytes;
    return true;
}

/* One entry of the tensor table; the offset stays in `data` as a number until the table ends. */
static bool read_tensor(struct weights *w, struct cursor *c, uint64_t *offset, struct status *st)
{
    struct tensor_view *t = &w->tensors[w->n_tensors];
    char *name = NULL;

    if (!take_name(c, &name, "name", st))
        return status_wrap(st, "tensor %zu", w->n_tensors);
    *t = (struct tensor_view){.name = name};
    w->n_tensors++;
    if (!take_shape(c, t, st) || !take_u64(c, offset, "offset", st))
        return status_wrap(st, "tensor '%s'", t->name);
    return true;
}

/* Point the tensors from index `first` on into the data section. Overlapping tensors are allowed:
 * the file is only read. */
static bool place_tensors(struct weights *w, size_t first, const uint64_t *offsets,
                          const struct cursor *c, size_t alignment, struct status *st)
{
    size_t start = (c->at + alignment - 1) / alignment * alignment;
    for (size_t i = first; i < w->n_tensors; i++) {
        struct tensor_view *t = &w->tensors[i];
        uint64_t offset = offsets[i - first];
        if (offset % alignment)
            return status_fail(st, STATUS_CORRUPT,
                               "tensor '%s': offset %llu is no multiple of the alignment %zu",
                               t->name, (unsigned long long)offset, alignment);
        if (start > c->size || offset > c->size - start ||
            t->size_bytes > c->size - start - (size_t)offset)
            return status_fail(st, STATUS_CORRUPT,
                               "tensor '%s': offset %llu + %zu bytes lies beyond the end of the "
                               "file (%zu bytes)",
                               t->name, (unsigned long long)offset, t->size_bytes, c->size);
        t->data = c->data + start + (size_t)offset;
    }
    return true;
}

/* Of keys that are not sorted yet. */
static const struct metadata *key_of(const struct weights *w, const char *key)
{
    for (size_t i = 0; i < w->n_keys; i++)
        if (strcmp(w->keys[i].key, key) == 0)
            return &w->keys[i];
    return NULL;
}

/* A number of ours in the header, default when it is missing. */
static bool header_number(const struct weights *w, const char *key, uint64_t *out,
                          struct status *st)
{
    const struct metadata *m = key_of(w, key);
    if (!m)
        return true;
    if (m->is_array || (m->type != VALUE_U8 && m->type != VALUE_U16 && m->type != VALUE_U32 &&
                        m->type != VALUE_U64 && m->type != VALUE_I32))
        return status_fail(st, STATUS_CORRUPT, "metadata '%s': no unsigned number", key);
    int32_t negative = 0;
    if (m->type == VALUE_I32)
        memcpy(&negative, m->data.data, sizeof negative);
    if (negative < 0)
        return status_fail(st, STATUS_CORRUPT, "metadata '%s': is negative", key);
    *out = 0;
    memcpy(out, m->data.data, m->data.size);
    return true;
}

static bool read_alignment(const struct weights *w, size_t *out, struct status *st)
{
    uint64_t alignment = ALIGNMENT_DEFAULT;
    if (!header_number(w, "general.alignment", &alignment, st))
        return false;
    if (alignment < ALIGNMENT_MIN || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1)))
        return status_fail(st, STATUS_CORRUPT,
                           "metadata 'general.alignment': is %llu, allowed are powers of two from "
                           "%d to %d",
                           (unsigned long long)alignment, ALIGNMENT_MIN, ALIGNMENT_MAX);
    *out = (size_t)alignment;
    return true;
}

/* Magic, version and counts. A count is checked against what is left of the file, so what we
 * allocate for it is never much larger than the file. */
static bool read_counts(struct cursor *c, size_t *n_tensors, size_t *n_keys, struct status *st)
{
    uint32_t version;
    uint64_t tensors, keys;
    const uint8_t *magic = take(c, 4);

    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return status_fail(st, STATUS_CORRUPT, "magic: is not GGUF");
    if (!take_u32(c, &version, "version", st))
        return false;
    if (version != 3)
        return status_fail(st, STATUS_UNSUPPORTED, "version: is %u, read is 3", version);
    if (!take_u64(c, &tensors, "tensor count", st) || !take_u64(c, &keys, "metadata count", st))
        return false;
    if (tensors > WEIGHTS_TENSORS_MAX)
        return status_fail(st, STATUS_LIMIT, "tensor count: is %llu, allowed are %d",
                           (unsigned long long)tensors, WEIGHTS_TENSORS_MAX);
    if (keys > WEIGHTS_KEYS_MAX)
        return status_fail(st, STATUS_LIMIT, "metadata count: is %llu, allowed are %d",
                           (unsigned long long)keys, WEIGHTS_KEYS_MAX);
    if (tensors * TENSOR_BYTES_MIN + keys * KEY_BYTES_MIN > c->size - c->at)
        return status_fail(st, STATUS_CORRUPT,
                           "tensor count %llu, metadata count %llu: more than the file can hold",
                           (unsigned long long)tensors, (unsigned long long)keys);
    *n_tensors = (size_t)tensors;
    *n_keys = (size_t)keys;
    return true;
}

/* Read one piece: its keys go to w->keys, its tensors are appended. */
static bool read_piece(struct weights *w, const struct mapping *piece, struct status *st)
{
    struct cursor c = {.data = piece->data, .size = piece->size};
    size_t n_tensors, n_keys, alignment, first = w->n_tensors;

    if (!read_counts(&c, &n_tensors, &n_keys, st) || !read_keys(w, &c, n_keys, st) ||
        !read_alignment(w, &alignment, st))
        return false;
    if (n_tensors > WEIGHTS_TENSORS_MAX - first)
        return status_fail(st, STATUS_LIMIT, "tensor count: more than %d in all pieces",
                           WEIGHTS_TENSORS_MAX);
    w->tensors = heap_resize(w->tensors, first + n_tensors, sizeof *w->tensors);
    uint64_t *offsets = heap_array(uint64_t, n_tensors);
    bool done = true;
    for (size_t i = 0; done && i < n_tensors; i++)
        done = read_tensor(w, &c, &offsets[i], st);
    done = done && place_tensors(w, first, offsets, &c, alignment, st);
    heap_free(offsets);
    return done;
}

/* "…-00001-of-00003.gguf" -> its length without that ending; 0: the path has another ending. */
static size_t split_stem(const char *path, uint64_t count)
{
    char ending[48];
    int n = snprintf(ending, sizeof ending, "-00001-of-%05llu.gguf", (unsigned long long)count);
    size_t length = strlen(path);
    assert(n > 0 && (size_t)n < sizeof ending);
    if (length <= (size_t)n || strcmp(path + length - (size_t)n, ending) != 0)
        return 0;
    return length - (size_t)n;
}

static bool check_piece_number(const struct weights *w, uint64_t number, uint64_t count,
                               struct status *st)
{
    uint64_t no = 0, of = 1;
    if (!header_number(w, "split.no", &no, st) || !header_number(w, "split.count", &of, st))
        return false;
    if (no != number || of != count)
        return status_fail(st, STATUS_CORRUPT,
                           "split.no, split.count: piece %llu of %llu stands where %llu of %llu "
                           "should be",
                           (unsigned long long)no + 1, (unsigned long long)of,
                           (unsigned long long)number + 1, (unsigned long long)count);
    return true;
}

/* Read a further piece; its keys are checked and let go, those of the first piece stay. */
static bool read_further(struct weights *w, const char *path, uint64_t number, uint64_t count,
                         struct status *st)
{
    struct metadata *keys = w->keys;
    size_t n_keys = w->n_keys;

    if (!weights_map(w, path, st))
        return false;
    w->keys = NULL;
    w->n_keys = 0;
    bool done =
        read_piece(w, &w->pieces[w->n_pieces - 1], st) && check_piece_number(w, number, count, st);
    for (size_t i = 0; i < w->n_keys; i++)
        heap_free(w->keys[i].key);
    heap_free(w->keys);
    w->keys = keys;
    w->n_keys = n_keys;
    return done;
}

static bool read_split(struct weights *w, uint64_t count, struct status *st)
{
    uint64_t tensors = 0, number = 0;

    if (count > WEIGHTS_PIECES_MAX)
        return status_fail(st, STATUS_LIMIT, "split.count: is %llu, allowed are %d",
                           (unsigned long long)count, WEIGHTS_PIECES_MAX);
    if (!header_number(w, "split.no", &number, st))
        return false;
    if (number != 0)
        return status_fail(st, STATUS_INVALID,
                           "split.no: this is piece %llu of %llu, give the first one",
                           (unsigned long long)number + 1, (unsigned long long)count);
    size_t stem = split_stem(w->path, count);
    if (!stem)
        return status_fail(st, STATUS_INVALID,
                           "split.count: a file of %llu pieces must be named "
                           "'...-00001-of-%05llu.gguf'",
                           (unsigned long long)count, (unsigned long long)count);
    for (uint64_t i = 1; i < count; i++) {
        struct buffer path = {0};
        buffer_printf(&path, "%.*s-%05llu-of-%05llu.gguf", (int)stem, w->path,
                      (unsigned long long)i + 1, (unsigned long long)count);
        buffer_append_byte(&path, 0);
        bool done = read_further(w, (const char *)path.data, i, count, st);
        buffer_clear(&path);
        if (!done)
            return status_wrap(st, "piece %llu", (unsigned long long)i + 1);
    }
    tensors = w->n_tensors;
    if (!header_number(w, "split.tensors.count", &tensors, st))
        return false;
    if (tensors != w->n_tensors)
        return status_fail(st, STATUS_CORRUPT, "split.tensors.count: is %llu, the pieces hold %zu",
                           (unsigned long long)tensors, w->n_tensors);
    return true;
}

static bool gguf_read(struct weights *w, struct status *st)
{
    uint64_t count = 1;
    if (!read_piece(w, &w->pieces[0], st) || !header_number(w, "split.count", &count, st))
        return false;
    return count <= 1 || read_split(w, count, st);
}

static bool gguf_recognizes(struct span file)
{
    return file.size >= 4 && memcmp(file.data, "GGUF", 4) == 0;
}

const struct weights_format weights_gguf = {
    .name = "gguf",
    .recognizes = gguf_recognizes,
    .read = gguf_read,
};
