#include "proto/msg.h"
#include "engine/base/heap.h"
#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

struct blob {
    atomic_size_t users; /* ZeroMQ's thread drops what it has sent */
    size_t size;
    uint8_t *data;
    void (*release)(void *context); /* NULL: the data is `own` */
    void *context;
    alignas(16) uint8_t own[];
};

struct blob *blob_new(size_t size)
{
    struct blob *blob = heap_new(1, sizeof *blob + size);

    atomic_init(&blob->users, 1);
    blob->size = size;
    blob->data = blob->own;
    return blob;
}

struct blob *blob_copy(const void *data, size_t size)
{
    struct blob *blob = blob_new(size);

    if (size)
        memcpy(blob->data, data, size);
    return blob;
}

struct blob *blob_wrap(void *data, size_t size, void (*release)(void *context), void *context)
{
    struct blob *blob = blob_new(0);

    assert(release);
    assert((uintptr_t)data % 8 == 0);
    blob->size = size;
    blob->data = data;
    blob->release = release;
    blob->context = context;
    return blob;
}

struct blob *blob_keep(struct blob *blob)
{
    atomic_fetch_add_explicit(&blob->users, 1, memory_order_relaxed);
    return blob;
}

void blob_drop(struct blob *blob)
{
    if (!blob)
        return;
    /* Release and acquire: whoever drops last sees what the other users did with the bytes. */
    size_t before = atomic_fetch_sub_explicit(&blob->users, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before > 1)
        return;
    if (blob->release)
        blob->release(blob->context);
    heap_free(blob);
}

uint8_t *blob_data(struct blob *blob)
{
    return blob->data;
}

size_t blob_size(const struct blob *blob)
{
    return blob->size;
}

struct rid_text rid_hex(struct rid rid)
{
    static const char digits[] = "0123456789abcdef";
    struct rid_text out;

    for (size_t i = 0; i < sizeof rid.bytes; i++) {
        out.text[2 * i] = digits[rid.bytes[i] >> 4];
        out.text[2 * i + 1] = digits[rid.bytes[i] & 15];
    }
    out.text[2 * sizeof rid.bytes] = 0;
    return out;
}

bool rid_equal(struct rid a, struct rid b)
{
    return memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0;
}

size_t blob_type_size(enum blob_type type)
{
    static const size_t sizes[BLOB_TYPES] = {
        [BLOB_U8] = 1,   [BLOB_I32] = 4,  [BLOB_F32] = 4,
        [BLOB_BF16] = 2, [BLOB_JSON] = 1, [BLOB_MSGPACK] = 1,
    };

    assert(type < BLOB_TYPES);
    return sizes[type];
}

void msg_add_take(struct msg *msg, const char *name, enum blob_type type, const size_t *dims,
                  size_t n_dims, struct blob *blob)
{
    struct blob_desc *desc = &msg->head.blobs[msg->head.n_blobs];
    size_t size = blob_type_size(type);

    assert(msg->head.n_blobs < BLOBS_MAX);
    assert(n_dims >= 1 && n_dims <= BLOB_DIMS_MAX);
    assert(strlen(name) < BLOB_NAME_MAX);
    *desc = (struct blob_desc){.type = type, .n_dims = n_dims};
    (void)snprintf(desc->name, sizeof desc->name, "%s", name);
    for (size_t i = 0; i < n_dims; i++) {
        desc->dims[i] = dims[i];
        size *= dims[i];
    }
    assert(size == blob_size(blob));
    msg->blobs[msg->head.n_blobs++] = blob;
}

int msg_find(const struct msg *msg, const char *name, size_t nth)
{
    for (size_t i = 0; i < msg->head.n_blobs; i++)
        if (strcmp(msg->head.blobs[i].name, name) == 0 && nth-- == 0)
            return (int)i;
    return -1;
}

void msg_clear(struct msg *msg)
{
    for (size_t i = 0; i < msg->head.n_blobs; i++)
        blob_drop(msg->blobs[i]);
    blob_drop(msg->frame);
    memset(msg, 0, sizeof *msg);
}

const char *const msg_kind_names[MSG_KINDS] = {
    [MSG_HELLO] = "hello",   [MSG_WELCOME] = "welcome", [MSG_REFUSE] = "refuse",
    [MSG_CREDIT] = "credit", [MSG_JOB] = "job",         [MSG_MORE_INPUT] = "more",
    [MSG_RESULT] = "result", [MSG_FAILED] = "failed",   [MSG_CANCEL] = "cancel",
    [MSG_BEAT] = "beat",     [MSG_GONE] = "gone",       [MSG_DRAIN] = "drain",
    [MSG_BYE] = "bye",
};

const char *msg_kind_name(enum msg_kind kind)
{
    return (unsigned)kind < MSG_KINDS ? msg_kind_names[kind] : "unknown";
}
