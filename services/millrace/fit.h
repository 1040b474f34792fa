/* fit.h - does a model fit this machine? Sizes of its parts, and refusals in words with numbers. */
#pragma once
#include "engine/base/status.h"
#include <stdint.h>

/* The arithmetic of keys and values (engine/model/kv.h), in bytes. */
struct fit_kv {
    uint64_t full_token, sliding_token; /* of one position */
    uint64_t window;                    /* positions that sliding layers hold at most */
    uint64_t full, sliding;             /* of all positions that are held */
    uint64_t request;                   /* that are reserved: whole pages, and room for new rows */
    uint64_t picture;                   /* beside all requests' while the largest picture is read */
};

/* Scratch memory of all processes together, measured; and what the gateway may hold by default. */
#define FIT_WORK_BYTES ((uint64_t)400 << 20)
#define FIT_CONTEXT_DEFAULT 8192
#define FIT_GATEWAY_BYTES ((uint64_t)1 << 30)

/* What a decoder needs beside its file. */
struct fit {
    char arch[32];
    uint64_t file_bytes;
    uint64_t media_bytes;   /* 0: no media file, or the same as the model's */
    bool media_inside;      /* the model's checkpoint has a media part too */
    uint64_t drafter_bytes; /* 0: no drafter */
    uint64_t context;       /* positions the model was made for */
    uint64_t wanted;  /* positions of a request: as asked for, else FIT_CONTEXT_DEFAULT at most */
    struct fit_kv kv; /* keys and values of one such request */
    uint64_t available_bytes; /* memory this machine has free now, caches of files included */
    uint64_t width, layers;
};

/* Read model and media file (may be "") and check them against each other and against this machine:
 * instruction set, context (0: the default). kv_type as kv_type_read has it. The error says what to
 * do. */
MUST_CHECK bool fit_read(struct fit *out, const char *model, const char *media, uint64_t context,
                         const char *kv_type, struct status *st);

/* Add a drafter (may be ""): checks that it was made for the model. */
MUST_CHECK bool fit_drafter(struct fit *fit, const char *model, const char *drafter,
                            struct status *st);

/* STATUS_LIMIT with both numbers when file, media, drafter, keys and values (kv_bytes of all
 * requests, and those of a picture) and `other_bytes` together exceed what is free. */
MUST_CHECK bool fit_memory(const struct fit *fit, uint64_t kv_bytes, uint64_t other_bytes,
                           struct status *st);

/* The largest context, a multiple of 1024 and at most the model's, for one request at a time with
 * keys and values of that type, beside the file, work space and gateway; 0: none. */
uint64_t fit_context(const char *model, const char *kv_type, uint64_t available_bytes);

/* "6.98 GB", "12 KB". Valid for the next seven calls. */
const char *fit_bytes(uint64_t bytes);
