/* safetensors (spec weights.md section 1): one file, or pieces and their index. The file is hostile
 * until each number was checked. What its names and its config.json mean: checkpoint.c. */
#include "engine/base/heap.h"
#include "engine/base/json_scan.h"
#include "engine/weights/checkpoint.h"
#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES_MAX ((size_t)16 << 20) /* the format allows 100 MB; 12B has 0.1 MB */
#define INDEX_BYTES_MAX ((size_t)16 << 20)
#define FILE_ENDING ".safetensors"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read as they lie");

static const struct {
    const char *name;
    enum dtype dtype;
} dtypes[] = {
    {"BF16", DTYPE_BF16}, {"F16", DTYPE_F16}, {"F32", DTYPE_F32},
    {"I8", DTYPE_I8},     {"I16", DTYPE_I16}, {"I32", DTYPE_I32},
};

/* Where a tensor lies in the data of its piece. */
struct extent {
    uint64_t begin, end;
    uint32_t tensor;
};

struct reader {
    struct weights *w;
    size_t room;            /* in w->tensors, extents and piece_of */
    struct extent *extents; /* of the piece that is being read; [0] is its first tensor */
    uint32_t *piece_of;     /* [n_tensors] index of its piece */
    struct buffer text;
    struct status *st;
};

/* ---- a tensor's entry ---- */

static bool read_number(struct json_scan *json, const char *field, uint64_t *out, struct status *st)
{
    struct span number;
    if (!json_scan_number(json, &number, st))
        return status_wrap(st, "%s", field);
    if (!span_number(number, 0, UINT64_MAX, out))
        return status_fail(st, STATUS_CORRUPT, "%s: '%.*s' is no whole number", field,
                           (int)(number.size < 24 ? number.size : 24), (const char *)number.data);
    return true;
}

static bool read_numbers(struct json_scan *json, const char *field, size_t max, uint64_t *out,
                         size_t *out_n, struct status *st)
{
    struct json_walk walk = {0};
    *out_n = 0;
    while (json_scan_next(json, '[', &walk, st)) {
        if (*out_n == max)
            return status_fail(st, STATUS_CORRUPT, "%s: more than %zu numbers", field, max);
        if (!read_number(json, field, &out[(*out_n)++], st))
            return false;
    }
    return walk.ended || status_wrap(st, "%s", field);
}

static bool read_dtype(struct reader *r, struct json_scan *json, struct tensor_view *t)
{
    buffer_reset(&r->text);
    if (!json_scan_string(json, &r->text, r->st))
        return status_wrap(r->st, "dtype");
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (span_is(buffer_span(&r->text), dtypes[i].name))
            t->type = quant_find(dtypes[i].dtype);
    if (!t->type)
        return status_fail(r->st, STATUS_UNSUPPORTED, "dtype %.*s is not read by this version",
                           (int)(r->text.size < 24 ? r->text.size : 24),
                           (const char *)r->text.data);
    return true;
}

/* The axes come outermost first; a single value has none. */
static bool set_dims(struct tensor_view *t, const uint64_t *shape, size_t n, struct status *st)
{
    uint64_t values = 1;
    t->n_dims = n ? n : 1;
    for (size_t i = 0; i < WEIGHTS_DIMS_MAX; i++) {
        uint64_t dim = i < n ? shape[n - 1 - i] : 1;
        if (dim == 0 || dim > (uint64_t)PTRDIFF_MAX / values)
            return status_fail(st, STATUS_CORRUPT, "shape: an axis of %llu",
                               (unsigned long long)dim);
        values *= dim;
        t->dims[i] = (size_t)dim;
    }
    if (values > (uint64_t)PTRDIFF_MAX / t->type->block_bytes)
        return status_fail(st, STATUS_CORRUPT, "shape: %llu values", (unsigned long long)values);
    t->size_bytes = (size_t)values * t->type->block_bytes;
    return true;
}

static bool read_entry(struct reader *r, struct json_scan *json, struct tensor_view *t,
                       struct extent *extent)
{
    uint64_t shape[WEIGHTS_DIMS_MAX], offsets[2];
    size_t n_shape = SIZE_MAX, n_offsets = 0;
    struct json_walk walk = {0};

    while (json_scan_member(json, &walk, &r->text, r->st)) {
        bool ok;
        if (span_is(buffer_span(&r->text), "dtype"))
            ok = read_dtype(r, json, t);
        else if (span_is(buffer_span(&r->text), "shape"))
            ok = read_numbers(json, "shape", WEIGHTS_DIMS_MAX, shape, &n_shape, r->st);
        else if (span_is(buffer_span(&r->text), "data_offsets"))
            ok = read_numbers(json, "data_offsets", 2, offsets, &n_offsets, r->st);
        else
            ok = json_scan_skip(json, r->st);
        if (!ok)
            return false;
    }
    if (!walk.ended)
        return false;
    if (!t->type || n_shape == SIZE_MAX || n_offsets != 2)
        return status_fail(r->st, STATUS_CORRUPT, "%s is missing",
                           !t->type              ? "dtype"
                           : n_shape == SIZE_MAX ? "shape"
                                                 : "data_offsets");
    if (!set_dims(t, shape, n_shape, r->st))
        return false;
    extent->begin = offsets[0];
    extent->end = offsets[1];
    if (offsets[1] < offsets[0] || offsets[1] - offsets[0] != t->size_bytes)
        return status_fail(
            r->st, STATUS_CORRUPT, "data_offsets %llu to %llu: shape and dtype make %zu bytes",
            (unsigned long long)offsets[0], (unsigned long long)offsets[1], t->size_bytes);
    return true;
}

/* ---- a piece ---- */

static bool grow(struct reader *r)
{
    struct weights *w = r->w;
    if (w->n_tensors == WEIGHTS_TENSORS_MAX)
        return status_fail(r->st, STATUS_LIMIT, "more than %d tensors", WEIGHTS_TENSORS_MAX);
    if (w->n_tensors < r->room)
        return true;
    r->room = r->room ? 2 * r->room : 64;
    w->tensors = heap_resize(w->tensors, r->room, sizeof *w->tensors);
    r->extents = heap_resize(r->extents, r->room, sizeof *r->extents);
    r->piece_of = heap_resize(r->piece_of, r->room, sizeof *r->piece_of);
    return true;
}

static bool check_name(struct span name, struct status *st)
{
    if (name.size == 0 || name.size > WEIGHTS_NAME_BYTES_MAX)
        return status_fail(st, name.size ? STATUS_LIMIT : STATUS_CORRUPT,
                           "name: %zu bytes, allowed are 1 to %d", name.size,
                           WEIGHTS_NAME_BYTES_MAX);
    if (memchr(name.data, 0, name.size))
        return status_fail(st, STATUS_CORRUPT, "name: holds a zero byte");
    return true;
}

static bool read_tensor(struct reader *r, struct json_scan *json, size_t first)
{
    struct weights *w = r->w;

    if (!check_name(buffer_span(&r->text), r->st) || !grow(r))
        return status_wrap(r->st, "tensor %zu", w->n_tensors);
    struct tensor_view *t = &w->tensors[w->n_tensors];
    struct extent *extent = &r->extents[w->n_tensors - first];
    *t = (struct tensor_view){.name = heap_text((const char *)r->text.data, r->text.size)};
    *extent = (struct extent){.tensor = (uint32_t)w->n_tensors};
    r->piece_of[w->n_tensors] = (uint32_t)w->n_pieces - 1;
    w->n_tensors++;
    return read_entry(r, json, t, extent) || status_wrap(r->st, "tensor '%s'", t->name);
}

static int by_begin(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* The tensors fill the data without overlap or gap, as the format demands. */
static bool place_tensors(struct reader *r, size_t first, const uint8_t *data, size_t size)
{
    struct weights *w = r->w;
    size_t n = w->n_tensors - first;
    uint64_t at = 0;

    if (n)
        qsort(r->extents, n, sizeof *r->extents, by_begin);
    for (size_t i = 0; i < n; i++) {
        const struct extent *extent = &r->extents[i];
        struct tensor_view *t = &w->tensors[extent->tensor];
        if (extent->begin != at || extent->end > size)
            return status_fail(r->st, STATUS_CORRUPT,
                               "tensor '%s': data_offsets %llu to %llu, expected from %llu on, "
                               "within %zu bytes of data",
                               t->name, (unsigned long long)extent->begin,
                               (unsigned long long)extent->end, (unsigned long long)at, size);
        at = extent->end;
        t->data = data + extent->begin;
        if ((uintptr_t)t->data % t->type->block_bytes)
            return status_fail(r->st, STATUS_UNSUPPORTED,
                               "tensor '%s': lies at a byte that is no multiple of %zu", t->name,
                               t->type->block_bytes);
    }
    if (at != size)
        return status_fail(r->st, STATUS_CORRUPT,
                           "%zu bytes of data, the tensors take the first %llu", size,
                           (unsigned long long)at);
    return true;
}

static bool read_header(struct reader *r, struct span header, size_t first)
{
    struct json_scan json = {.text = header};
    struct json_walk walk = {0};

    if (utf8_valid_prefix(header.data, header.size) != header.size)
        return status_fail(r->st, STATUS_CORRUPT, "header: not UTF-8");
    while (json_scan_member(&json, &walk, &r->text, r->st))
        if (span_is(buffer_span(&r->text), "__metadata__") ? !json_scan_skip(&json, r->st)
                                                           : !read_tensor(r, &json, first))
            return status_wrap(r->st, "header");
    return (walk.ended && json_scan_end(&json, r->st)) || status_wrap(r->st, "header");
}

/* The piece that was mapped last. */
static bool read_piece(struct reader *r)
{
    const struct mapping *piece = &r->w->pieces[r->w->n_pieces - 1];
    const uint8_t *data = piece->data;
    size_t first = r->w->n_tensors;
    uint64_t n;

    if (piece->size < sizeof n)
        return status_fail(r->st, STATUS_CORRUPT, "header length: the file ends");
    memcpy(&n, data, sizeof n);
    if (n > HEADER_BYTES_MAX)
        return status_fail(r->st, STATUS_LIMIT, "header length is %llu, allowed are %zu",
                           (unsigned long long)n, HEADER_BYTES_MAX);
    if (n > piece->size - sizeof n)
        return status_fail(r->st, STATUS_CORRUPT, "header of %llu bytes: the file ends",
                           (unsigned long long)n);
    size_t start = sizeof n + (size_t)n;
    return read_header(r, span_of(data + sizeof n, (size_t)n), first) &&
           place_tensors(r, first, data + start, piece->size - start);
}

/* ---- the index of several pieces ---- */

/* A plain name beside the index: letters, digits, '.', '_', '-'. */
static bool check_file_name(struct span name, struct status *st)
{
    size_t ending = strlen(FILE_ENDING);
    bool good = name.size > ending && name.size <= WEIGHTS_NAME_BYTES_MAX && name.data[0] != '.' &&
                memcmp(name.data + name.size - ending, FILE_ENDING, ending) == 0;
    for (size_t i = 0; good && i < name.size; i++) {
        uint8_t c = name.data[i];
        good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '.' || c == '_' || c == '-';
    }
    return good || status_fail(st, STATUS_CORRUPT, "weight_map: '%.*s' is no name of a file",
                               (int)(name.size < 80 ? name.size : 80), (const char *)name.data);
}

struct entry {
    const char *name;
    uint32_t tensor;
};

/* The walk over weight_map is made twice: to map what it names, then to compare. */
struct index {
    struct reader *r;
    const char *folder;
    size_t first_piece;    /* the pieces from here on are those it names */
    struct entry *entries; /* [n_tensors] by name; NULL in the first walk */
    size_t n_listed;
};

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* SIZE_MAX: not mapped yet. The piece mapped last is the likeliest. */
static size_t find_piece(const struct index *index, struct span file)
{
    const struct weights *w = index->r->w;
    for (size_t i = w->n_pieces; i-- > index->first_piece;)
        if (span_is(file, base_name(w->pieces[i].path)))
            return i;
    return SIZE_MAX;
}

static bool map_named(struct index *index, struct span file)
{
    struct weights *w = index->r->w;
    struct status *st = index->r->st;
    struct buffer path = {0};

    if (!check_file_name(file, st))
        return false;
    if (find_piece(index, file) != SIZE_MAX)
        return true;
    if (w->n_pieces == WEIGHTS_PIECES_MAX)
        return status_fail(st, STATUS_LIMIT, "weight_map: more than %d files", WEIGHTS_PIECES_MAX);
    buffer_printf(&path, "%s%.*s", index->folder, (int)file.size, (const char *)file.data);
    bool ok = weights_map(w, (const char *)path.data, st) &&
              (read_piece(index->r) || status_wrap(st, "'%s'", (const char *)path.data));
    buffer_clear(&path);
    return ok;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

/* The tensor is in that file, and was not listed before. */
static bool check_listed(struct index *index, const char *name, struct span file)
{
    const struct weights *w = index->r->w;
    const struct entry key = {.name = name};
    struct entry *entry =
        w->n_tensors ? bsearch(&key, index->entries, w->n_tensors, sizeof key, by_name) : NULL;
    if (!entry || index->r->piece_of[entry->tensor] != find_piece(index, file))
        return status_fail(index->r->st, STATUS_CORRUPT,
                           "weight_map: tensor '%.80s' is not in '%.*s'", name,
                           (int)(file.size < 80 ? file.size : 80), (const char *)file.data);
    index->n_listed++;
    return true;
}

static bool walk_map(struct index *index, struct json_scan *json)
{
    struct status *st = index->r->st;
    struct buffer *text = &index->r->text;
    struct buffer name = {0};
    struct json_walk walk = {0};
    bool ok = true;

    while (ok && json_scan_member(json, &walk, &name, st)) {
        buffer_append_byte(&name, 0);
        buffer_reset(text);
        ok = json_scan_string(json, text, st);
        if (ok && !index->entries) { /* `text` is used again by what is mapped */
            struct buffer file = {0};
            buffer_append(&file, text->data, text->size);
            ok = map_named(index, buffer_span(&file));
            buffer_clear(&file);
        } else if (ok) {
            ok = check_listed(index, (const char *)name.data, buffer_span(text));
        }
    }
    buffer_clear(&name);
    return ok && walk.ended;
}

static bool walk_index(struct index *index, struct span text)
{
    struct json_scan json = {.text = text};
    struct json_walk walk = {0};
    bool seen = false;

    while (json_scan_member(&json, &walk, &index->r->text, index->r->st)) {
        bool map = span_is(buffer_span(&index->r->text), "weight_map");
        if (map && seen)
            return status_fail(index->r->st, STATUS_CORRUPT, "weight_map occurs twice");
        seen = seen || map;
        if (map ? !walk_map(index, &json) : !json_scan_skip(&json, index->r->st))
            return false;
    }
    return walk.ended && json_scan_end(&json, index->r->st) &&
           (seen || status_fail(index->r->st, STATUS_CORRUPT, "weight_map is missing"));
}

static bool compare_index(struct index *index, struct span text)
{
    const struct weights *w = index->r->w;
    index->entries = heap_array(struct entry, w->n_tensors);
    for (size_t i = 0; i < w->n_tensors; i++)
        index->entries[i] = (struct entry){w->tensors[i].name, (uint32_t)i};
    qsort(index->entries, w->n_tensors, sizeof *index->entries, by_name);
    bool ok = walk_index(index, text);
    if (ok && index->n_listed != w->n_tensors)
        ok =
            status_fail(index->r->st, STATUS_CORRUPT, "weight_map: %zu tensors, the files hold %zu",
                        index->n_listed, w->n_tensors);
    heap_free(index->entries);
    return ok;
}

/* The index was mapped last. */
static bool read_index(struct reader *r, const char *folder)
{
    struct weights *w = r->w;
    struct span text = span_of(w->pieces[w->n_pieces - 1].data, w->pieces[w->n_pieces - 1].size);
    struct index index = {.r = r, .folder = folder, .first_piece = w->n_pieces};

    if (text.size > INDEX_BYTES_MAX)
        return status_fail(r->st, STATUS_LIMIT, "index: %zu bytes, allowed are %zu", text.size,
                           INDEX_BYTES_MAX);
    if (utf8_valid_prefix(text.data, text.size) != text.size)
        return status_fail(r->st, STATUS_CORRUPT, "index: not UTF-8");
    if (!walk_index(&index, text) || !compare_index(&index, text))
        return status_wrap(r->st, "index");
    weights_unmap(w, index.first_piece - 1);
    return true;
}

/* ---- the format ---- */

/* "model-00002-of-00004.safetensors": where the name of its index would begin to differ; 0: a file
 * of its own. */
static size_t split_stem(const char *path)
{
    static const char pattern[] = "-#####-of-#####.safetensors";
    size_t n = sizeof pattern - 1;
    size_t length = strlen(path);

    if (length <= n)
        return 0;
    for (size_t i = 0; i < n; i++) {
        char c = path[length - n + i];
        if (pattern[i] == '#' ? c < '0' || c > '9' : c != pattern[i])
            return 0;
    }
    return length - n;
}

static bool is_index(const struct mapping *piece)
{
    return *(const char *)piece->data == '{';
}

static bool read_pieces(struct reader *r, const char *folder)
{
    struct weights *w = r->w;
    size_t stem = split_stem(w->pieces[0].path);
    struct buffer path = {0};

    if (is_index(&w->pieces[0]))
        return read_index(r, folder);
    if (!stem)
        return read_piece(r);
    buffer_printf(&path, "%.*s.safetensors.index.json", (int)stem, w->pieces[0].path);
    weights_forget(w);
    bool ok = weights_map(w, (const char *)path.data, r->st) && read_index(r, folder);
    buffer_clear(&path);
    return ok;
}

static bool safetensors_read(struct weights *w, struct status *st)
{
    struct reader r = {.w = w, .st = st};
    const char *path = w->pieces[0].path;
    char *folder = heap_text(path, (size_t)(base_name(path) - path));
    bool ok = read_pieces(&r, folder) && checkpoint_read(w, folder, st);

    heap_free(r.extents);
    heap_free(r.piece_of);
    buffer_clear(&r.text);
    heap_free(folder);
    return ok;
}

static bool safetensors_recognizes(struct span file)
{
    uint64_t n = UINT64_MAX;
    if (file.size > sizeof n)
        memcpy(&n, file.data, sizeof n);
    return file.data[0] == '{' || (n < file.size && file.data[sizeof n] == '{');
}

const struct weights_format weights_safetensors = {
    .name = "safetensors",
    .recognizes = safetensors_recognizes,
    .read = safetensors_read,
    .in_folder = {"model.safetensors", "model.safetensors.index.json"},
};
