#include "engine/weights/weights.h"
#include "engine/base/heap.h"
#include "engine/base/limits.h"
#include "engine/weights/container.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct weights_format *const formats[] = {
    &weights_gguf,
    &weights_safetensors,
};

/* ---- opening ---- */

bool weights_map(struct weights *w, const char *path, struct status *st)
{
    struct stat info;
    /* With the first of several files: all of them stay open, and there may be a thousand. */
    if (w->n_pieces == 1)
        limits_allow_files();
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused, not waited for */
    if (fd < 0 && errno == ENOENT)
        return status_fail(st, STATUS_NOT_FOUND, "'%s' is not there", path);
    if (fd < 0)
        return status_fail_sys(st, errno, "open '%s'", path);
    if (fstat(fd, &info) < 0) {
        (void)status_fail_sys(st, errno, "fstat '%s'", path);
        goto fail;
    }
    if (!S_ISREG(info.st_mode)) {
        (void)status_fail(st, STATUS_INVALID, "'%s' is no regular file", path);
        goto fail;
    }
    if (info.st_size < 4) {
        (void)status_fail(st, STATUS_CORRUPT, "'%s': magic: the file ends", path);
        goto fail;
    }
    size_t size = (size_t)info.st_size;
    /* What is used through the mapping: all but the matrices that ops_lay_out reads. A file that
     * is cut off kills the process that uses it so (SIGBUS, which stage.c puts into words); the
     * supervisor starts it again, and then the shorter file is refused. Copying gigabytes would be
     * the only cure. */
    void *data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        (void)status_fail_sys(st, errno, "mmap '%s'", path);
        goto fail;
    }
    w->pieces = heap_resize(w->pieces, w->n_pieces + 1, sizeof *w->pieces);
    w->pieces[w->n_pieces++] = (struct mapping){
        .path = heap_text(path, strlen(path)), .data = data, .size = size, .fd = fd};
    return true;
fail:
    (void)close(fd);
    return false;
}

void weights_unmap(struct weights *w, size_t piece)
{
    struct mapping *m = &w->pieces[piece];

    if (!m->data)
        return;
    (void)munmap(m->data, m->size);
    (void)close(m->fd);
    m->data = NULL;
    m->size = 0;
}

void weights_forget(struct weights *w)
{
    weights_unmap(w, --w->n_pieces);
    heap_free(w->pieces[w->n_pieces].path);
}

void *weights_own(struct weights *w, size_t size_bytes)
{
    w->owned = heap_resize(w->owned, w->n_owned + 1, sizeof *w->owned);
    w->owned[w->n_owned] = heap_new(size_bytes, 1);
    return w->owned[w->n_owned++];
}

struct named {
    const char *name;
    uint32_t index;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

/* Sort and keep the order; refuses equal neighbours. */
static bool sort_names(struct named *names, size_t n, uint32_t *out, const char *what,
                       struct status *st)
{
    if (n)
        qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        if (i && strcmp(names[i - 1].name, names[i].name) == 0)
            return status_fail(st, STATUS_CORRUPT, "%s '%s' occurs twice", what, names[i].name);
        out[i] = names[i].index;
    }
    return true;
}

bool weights_index(struct weights *w, struct status *st)
{
    size_t n = w->n_keys > w->n_tensors ? w->n_keys : w->n_tensors;
    struct named *names = heap_array(struct named, n);

    w->keys_sorted = heap_array(uint32_t, w->n_keys);
    w->tensors_sorted = heap_array(uint32_t, w->n_tensors);
    for (size_t i = 0; i < w->n_keys; i++)
        names[i] = (struct named){w->keys[i].key, (uint32_t)i};
    bool done = sort_names(names, w->n_keys, w->keys_sorted, "metadata", st);
    for (size_t i = 0; done && i < w->n_tensors; i++)
        names[i] = (struct named){w->tensors[i].name, (uint32_t)i};
    done = done && sort_names(names, w->n_tensors, w->tensors_sorted, "tensor", st);
    heap_free(names);
    return done;
}

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Map the file that a folder stands for: the first that is there of those the formats name. */
static bool map_in_folder(struct weights *w, const char *path, struct status *st)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        for (size_t k = 0; k < 2 && formats[i]->in_folder[k]; k++) {
            struct buffer file = {0};
            buffer_printf(&file, "%s/%s", path, formats[i]->in_folder[k]);
            bool there = access((const char *)file.data, F_OK) == 0;
            bool done = there && weights_map(w, (const char *)file.data, st);
            buffer_clear(&file);
            if (there)
                return done;
        }
    return status_fail(st, STATUS_INVALID, "'%s' is a folder without a model (model.safetensors)",
                       path);
}

bool weights_open(struct weights **out, const char *path, struct status *st)
{
    struct weights *w = heap_new(1, sizeof *w);
    const struct weights_format *format = NULL;

    w->path = heap_text(path, strlen(path));
    if (is_folder(path) ? !map_in_folder(w, path, st) : !weights_map(w, path, st))
        goto fail_mapped;
    struct span file = span_of(w->pieces[0].data, w->pieces[0].size);
    for (size_t i = 0; i < sizeof formats / sizeof formats[0] && !format; i++)
        if (formats[i]->recognizes(file))
            format = formats[i];
    if (!format) {
        (void)status_fail(st, STATUS_CORRUPT, "magic: no model format that is known here");
        goto fail;
    }
    if (!format->read(w, st) || !weights_index(w, st))
        goto fail;
    *out = w;
    return true;
fail:
    (void)status_wrap(st, "weights '%s'", path);
    weights_close(w);
    return false;
fail_mapped: /* the path is in the text already */
    weights_close(w);
    return status_wrap(st, "weights");
}

void weights_close(struct weights *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->n_keys; i++)
        heap_free(w->keys[i].key);
    for (size_t i = 0; i < w->n_tensors; i++)
        heap_free((char *)(uintptr_t)w->tensors[i].name);
    for (size_t i = 0; i < w->n_pieces; i++) {
        weights_unmap(w, i);
        heap_free(w->pieces[i].path);
    }
    for (size_t i = 0; w->layouts && i < w->n_tensors; i++)
        heap_free(w->layouts[i].made);
    for (size_t i = 0; i < w->n_owned; i++)
        heap_free(w->owned[i]);
    heap_free(w->owned);
    heap_free(w->keys);
    heap_free(w->tensors);
    heap_free(w->layouts);
    heap_free(w->pieces);
    heap_free(w->keys_sorted);
    heap_free(w->tensors_sorted);
    heap_free(w->path);
    heap_free(w);
}

const char *weights_path(const struct weights *w)
{
    return w->path;
}

size_t weights_size_bytes(const struct weights *w)
{
    size_t sum = 0;
    for (size_t i = 0; i < w->n_pieces; i++)
        sum += w->pieces[i].size;
    return sum;
}

size_t weights_files(const struct weights *w)
{
    return w->n_pieces;
}

const char *weights_file(const struct weights *w, size_t index)
{
    assert(index < w->n_pieces);
    return w->pieces[index].path;
}

/* ---- tensors ---- */

size_t weights_tensors(const struct weights *w)
{
    return w->n_tensors;
}

const struct tensor_view *weights_at(const struct weights *w, size_t index)
{
    assert(index < w->n_tensors);
    return &w->tensors[index];
}

const struct tensor_view *weights_find(const struct weights *w, const char *name)
{
    size_t low = 0, high = w->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct tensor_view *t = &w->tensors[w->tensors_sorted[middle]];
        int order = strcmp(name, t->name);
        if (order == 0)
            return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static void write_dims(struct buffer *out, const size_t *dims, size_t n_dims)
{
    buffer_append_byte(out, '[');
    for (size_t i = 0; i < n_dims; i++)
        buffer_printf(out, "%s%zu", i ? ", " : "", dims[i]);
    buffer_append_byte(out, ']');
}

static bool fail_dims(const struct tensor_view *t, const size_t *dims, size_t n_dims,
                      struct status *st)
{
    struct buffer text = {0};
    buffer_append_text(&text, "dims are ");
    write_dims(&text, t->dims, t->n_dims);
    buffer_append_text(&text, ", expected ");
    write_dims(&text, dims, n_dims);
    buffer_append_byte(&text, 0);
    (void)status_fail(st, STATUS_CORRUPT, "tensor '%s': %s", t->name, (const char *)text.data);
    buffer_clear(&text);
    return false;
}

/* Made when first asked for: who reads a vocabulary need not hold the matrices of pictures. */
static void make_values(const struct weights *w, size_t index)
{
    struct layout *layout = &w->layouts[index];
    struct tensor_view *t = &w->tensors[index];
    layout->made = heap_new(t->size_bytes, 1);
    layout_make(layout, t, layout->made);
    t->data = layout->made;
}

bool weights_borrow(const struct weights *w, const char *name, const size_t *dims, size_t n_dims,
                    const struct tensor_view **out, struct status *st)
{
    const struct tensor_view *t = weights_find(w, name);
    assert(n_dims >= 1 && n_dims <= WEIGHTS_DIMS_MAX);
    if (!t)
        return status_fail(st, STATUS_CORRUPT, "tensor '%s' is missing", name);
    /* trailing ones say nothing: [3840] and [3840, 1] are the same */
    for (size_t i = 0; i < WEIGHTS_DIMS_MAX; i++)
        if (t->dims[i] != (i < n_dims ? dims[i] : 1))
            return fail_dims(t, dims, n_dims, st);
    if (!t->data)
        make_values(w, (size_t)(t - w->tensors));
    *out = t;
    return true;
}

/* The piece that holds the byte at `data`; NULL: none does. */
static const struct mapping *piece_at(const struct weights *w, const uint8_t *data)
{
    for (size_t i = 0; w && i < w->n_pieces; i++) {
        const uint8_t *base = w->pieces[i].data;
        if (base && data >= base && data < base + w->pieces[i].size)
            return &w->pieces[i];
    }
    return NULL;
}

bool weights_read(const struct weights *w, const struct tensor_view *view, size_t at, size_t size,
                  void *out, struct status *st)
{
    const uint8_t *from = (const uint8_t *)view->data + at;
    const struct mapping *piece = piece_at(w, from);
    uint8_t *to = out;

    assert(at <= view->size_bytes && size <= view->size_bytes - at);
    if (!piece) {
        memcpy(out, from, size);
        return true;
    }
    while (size > 0) {
        ssize_t n = pread(piece->fd, to, size, (off_t)(from - (const uint8_t *)piece->data));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return status_fail_sys(st, errno, "read '%s' for tensor '%s'", piece->path, view->name);
        if (n == 0)
            return status_fail(st, STATUS_CORRUPT,
                               "tensor '%s': '%s' became shorter since it was opened", view->name,
                               piece->path);
        from += n;
        to += n;
        size -= (size_t)n;
    }
    return true;
}

bool weights_borrow_f32(const struct weights *w, const char *name, size_t n, const float **out,
                        struct status *st)
{
    const struct tensor_view *t;
    if (!weights_borrow(w, name, &n, 1, &t, st))
        return false;
    if (t->type->dtype != DTYPE_F32)
        return status_fail(st, STATUS_UNSUPPORTED, "tensor '%s': type is %s, expected f32", name,
                           t->type->name);
    *out = t->data;
    return true;
}
