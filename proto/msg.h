/* msg.h - the messages between gateway and stages: kinds, fields, limits. The words: README.md. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION 1
#define HEAD_BYTES_MAX 65536 /* of a head frame */
#define BLOBS_MAX 48         /* blobs of one message */
#define MESSAGE_BYTES_MAX (256U << 20)
#define BLOB_NAME_MAX 16 /* bytes, the ending zero included */
#define BLOB_DIMS_MAX 4
#define STAGE_NAME_MAX 32
#define SEAT_MAX 96
#define NUMERICS_MAX 96
#define BEAT_RIDS_MAX 64
#define SLOTS_MAX 256 /* jobs that a worker holds at once */

struct rid {
    uint8_t bytes[16];
};
struct rid_text {
    char text[33];
};
struct rid_text rid_hex(struct rid rid);
bool rid_equal(struct rid a, struct rid b);

enum msg_kind {
    MSG_HELLO,
    MSG_WELCOME,
    MSG_REFUSE,
    MSG_CREDIT,
    MSG_JOB,
    MSG_MORE_INPUT, /* "more"; MSG_MORE is a flag of sockets */
    MSG_RESULT,
    MSG_FAILED,
    MSG_CANCEL,
    MSG_BEAT,
    MSG_GONE,
    MSG_DRAIN,
    MSG_BYE,
    MSG_KINDS
};

/* Whose fault a `failed` is: decides whether the job is tried again. */
enum fault { FAULT_REQUEST, FAULT_CAPACITY, FAULT_STAGE };

/* What the bytes of a blob are. */
enum blob_type { BLOB_U8, BLOB_I32, BLOB_F32, BLOB_BF16, BLOB_JSON, BLOB_MSGPACK, BLOB_TYPES };

/* What a blob frame holds: its name says the role, the product of dims [n_dims] times the element
 * size is its length in bytes. JSON and msgpack have one dim, in bytes. */
struct blob_desc {
    char name[BLOB_NAME_MAX];
    enum blob_type type;
    size_t n_dims;
    size_t dims[BLOB_DIMS_MAX];
};

/* A head. Which fields count in which kind: README.md; the others are zero and not written. Text
 * fields end with a zero. `fields` is a msgpack map of the stage's own values (parameters of a job,
 * numbers of a result); it is checked, and borrowed from the frame it came in. */
struct head {
    enum msg_kind kind;
    struct rid rid;
    uint32_t epoch;
    uint32_t seq;          /* more, result: 0, 1, 2, ... without gaps */
    bool last;             /* more, result */
    uint32_t index;        /* more, result of infer: index of the first token in blob "tokens" */
    uint32_t upto;         /* result of format: how many tokens the bytes cover */
    uint32_t skip;         /* job of format: so many tokens are already written out */
    int64_t ms_left;       /* job: of the deadline */
    uint64_t tenant;       /* job: whose it is; 0 where nobody is told apart */
    enum status_code code; /* failed, refuse, gone */
    enum fault fault;      /* failed */
    char text[240];        /* failed, refuse */
    struct span fields;

    uint32_t wire_min, wire_max; /* hello */
    char stage[STAGE_NAME_MAX];  /* hello */
    char seat[SEAT_MAX];         /* hello, gone: host/stage/index, stable */
    uint64_t start;              /* hello, gone: random per process */
    uint64_t model;              /* hello: hash of tokenizer and shape; 0: any. Must match others */
    char numerics[NUMERICS_MAX]; /* hello of infer: what bit equality hangs on */
    uint32_t slots;              /* hello: jobs at once */
    uint32_t n;                  /* credit: how many more */
    uint32_t interval_ms;        /* welcome: of beats */
    uint64_t work;               /* beat: counter of work done */
    uint32_t held;               /* beat: jobs held */
    uint64_t memory_bytes;       /* beat: resident */
    struct rid running[BEAT_RIDS_MAX]; /* beat: in the running step */
    size_t n_running;

    struct blob_desc blobs[BLOBS_MAX]; /* one for each blob frame, in order */
    size_t n_blobs;
};

/* Bytes shared by count: a blob is received once and sent on without a copy. The data starts at a
 * multiple of 8. Keep and drop may be called from any thread (ZeroMQ's lets go of what it has
 * sent); a blob that has more than one user is only read. */
struct blob;
struct blob *blob_new(size_t size); /* zero-filled is not promised */
struct blob *blob_copy(const void *data, size_t size);
struct blob *blob_keep(struct blob *blob); /* one more user */
void blob_drop(struct blob *blob);         /* one less; NULL does nothing */
uint8_t *blob_data(struct blob *blob);
size_t blob_size(const struct blob *blob);
/* Bytes that somebody else owns, with a function that lets go of them (link.c: a ZeroMQ frame).
 * release may be called from any thread. */
struct blob *blob_wrap(void *data, size_t size, void (*release)(void *context), void *context);

/* A message; blobs [head.n_blobs], one use of each is the message's. Large: keep it on the heap or
 * static. */
struct msg {
    struct head head;
    struct blob *blobs[BLOBS_MAX];
    struct blob *frame; /* what head.fields points into, or NULL */
};
/* Add a blob (takes over one use of it) described by name, type and dims. Asserts on overflow. */
void msg_add_take(struct msg *msg, const char *name, enum blob_type type, const size_t *dims,
                  size_t n_dims, struct blob *blob);
/* Index of the nth blob of that name, or -1. */
int msg_find(const struct msg *msg, const char *name, size_t nth);
void msg_clear(struct msg *msg);                    /* drops the blobs; zeroes what must be */
extern const char *const msg_kind_names[MSG_KINDS]; /* as they travel */
const char *msg_kind_name(enum msg_kind kind);
size_t blob_type_size(enum blob_type type); /* bytes of an element */
