#include "proto/link.h"
#include "engine/base/heap.h"
#include "proto/address.h"
#include "proto/codec.h"
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <zmq.h>

#define PENDING_MAX 1024  /* messages queued in each direction; credits keep it far below */
#define HANDSHAKE_MS 2000 /* a peer that connects and says nothing is let go */
#define HEARTBEAT_MS 1000 /* ZeroMQ's own: they see a dead host, not a hung process */
#define HEARTBEAT_OVER_MS 3000
#define RECONNECT_MS 50
#define RECONNECT_MS_MAX 500
#define COPIED_BYTES_MAX 4096 /* up to here a copy costs less than counting and waking for it */

/* ---- one socket ---- */

struct line {
    void *context;
    void *socket;
};

static bool fail_zmq(struct status *st, const char *what)
{
    return status_fail(st, STATUS_SYSTEM, "%s: %s", what, zmq_strerror(errno));
}

static bool set_options(void *socket, struct status *st)
{
    static const struct {
        int option, value;
    } settings[] = {
        {ZMQ_LINGER, 0},
        {ZMQ_IMMEDIATE, 1}, /* nothing is queued for a gateway that is not there */
        {ZMQ_SNDHWM, PENDING_MAX},
        {ZMQ_RCVHWM, PENDING_MAX},
        {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS},
        {ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS},
        {ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_OVER_MS},
        {ZMQ_HEARTBEAT_TTL, HEARTBEAT_OVER_MS},
        {ZMQ_RECONNECT_IVL, RECONNECT_MS},
        {ZMQ_RECONNECT_IVL_MAX, RECONNECT_MS_MAX},
    };
    int64_t bytes_max = MESSAGE_BYTES_MAX;

    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (zmq_setsockopt(socket, settings[i].option, &settings[i].value, sizeof(int)) != 0)
            return fail_zmq(st, "socket option");
    if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &bytes_max, sizeof bytes_max) != 0)
        return fail_zmq(st, "socket option");
    return true;
}

static void line_close(struct line *line, int linger_ms)
{
    if (line->socket) {
        (void)zmq_setsockopt(line->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
        (void)zmq_close(line->socket);
    }
    while (line->context && zmq_ctx_term(line->context) != 0 && errno == EINTR)
        continue;
    *line = (struct line){0};
}

static bool line_open(struct line *line, int type, struct status *st)
{
    *line = (struct line){.context = zmq_ctx_new()};
    if (!line->context)
        return fail_zmq(st, "context");
    line->socket = zmq_socket(line->context, type);
    if (line->socket && set_options(line->socket, st))
        return true;
    if (!line->socket)
        (void)fail_zmq(st, "socket");
    line_close(line, 0);
    return false;
}

static int line_descriptor(const struct line *line)
{
    int fd = -1;
    size_t size = sizeof fd;

    int rc = zmq_getsockopt(line->socket, ZMQ_FD, &fd, &size);
    assert(rc == 0);
    return fd;
}

/* ---- frames in ---- */

static void release_frame(void *context)
{
    (void)zmq_msg_close(context);
    heap_free(context);
}

/* A blob of a frame's bytes; the frame is left empty. Large frames are kept as they are. ZeroMQ may
 * put a small one anywhere inside its receive buffer: it is copied, which also gives alignment. */
static struct blob *blob_of_frame(zmq_msg_t *frame)
{
    size_t size = zmq_msg_size(frame);

    if (size <= COPIED_BYTES_MAX || (uintptr_t)zmq_msg_data(frame) % 8 != 0)
        return blob_copy(zmq_msg_data(frame), size);
    zmq_msg_t *kept = heap_new(1, sizeof *kept);
    (void)zmq_msg_init(kept);
    (void)zmq_msg_move(kept, frame);
    return blob_wrap(zmq_msg_data(kept), size, release_frame, kept);
}

/* Never waits: the parts of a message arrive together. */
static bool next_frame(void *socket, zmq_msg_t *frame)
{
    (void)zmq_msg_init(frame);
    for (;;) {
        if (zmq_msg_recv(frame, socket, ZMQ_DONTWAIT) >= 0)
            return true;
        if (errno != EINTR)
            break;
    }
    (void)zmq_msg_close(frame);
    return false;
}

/* What has come in of a message. */
struct arrival {
    struct blob *frames[1 + BLOBS_MAX]; /* head, blobs */
    size_t n_frames;
    size_t size;
    bool too_much;
};

/* Frames beyond the limits are read and let go, so that the next message starts where it should. */
static void gather(void *socket, bool more, struct arrival *out)
{
    zmq_msg_t frame;

    while (more && next_frame(socket, &frame)) {
        more = zmq_msg_more(&frame);
        out->size += zmq_msg_size(&frame);
        if (out->n_frames == 1 + BLOBS_MAX || out->size > MESSAGE_BYTES_MAX)
            out->too_much = true;
        else
            out->frames[out->n_frames++] = blob_of_frame(&frame);
        (void)zmq_msg_close(&frame);
    }
}

static bool check_blobs(const struct head *head, const struct arrival *arrival, struct status *st)
{
    if (arrival->n_frames - 1 != head->n_blobs)
        return status_fail(st, STATUS_CORRUPT, "%zu blobs announced, %zu came", head->n_blobs,
                           arrival->n_frames - 1);
    for (size_t i = 0; i < head->n_blobs; i++) {
        const struct blob_desc *desc = &head->blobs[i];
        size_t size = blob_type_size(desc->type); /* head_unpack saw to the product */
        for (size_t d = 0; d < desc->n_dims; d++)
            size *= desc->dims[d];
        if (size != blob_size(arrival->frames[1 + i]))
            return status_fail(st, STATUS_CORRUPT, "blob '%s' has %zu bytes, its dims say %zu",
                               desc->name, blob_size(arrival->frames[1 + i]), size);
    }
    return true;
}

/* Takes the frames, in any case. On failure the head is there when it alone was right. */
static bool assemble(struct msg *out, struct arrival *arrival, struct status *st)
{
    struct blob *const *frames = arrival->frames;
    bool ok = false;

    *out = (struct msg){.head = {.kind = MSG_KINDS}};
    if (arrival->n_frames == 0)
        return status_fail(st, STATUS_CORRUPT, "a message without a head");
    if (head_unpack(&out->head, span_of(blob_data(frames[0]), blob_size(frames[0])), st)) {
        if (arrival->too_much)
            (void)status_fail(st, STATUS_TOO_LARGE, "more than %d blobs or %u bytes", BLOBS_MAX,
                              MESSAGE_BYTES_MAX);
        else
            ok = check_blobs(&out->head, arrival, st);
        if (!ok)
            (void)status_wrap(st, "%s", msg_kind_name(out->head.kind));
    }
    for (size_t i = 1; i < arrival->n_frames; i++) {
        if (ok)
            out->blobs[i - 1] = frames[i];
        else
            blob_drop(frames[i]);
    }
    if (!ok)
        out->head.n_blobs = 0;
    out->frame = frames[0];
    return ok;
}

/* ---- frames out ---- */

static void let_go(void *data, void *context)
{
    (void)data;
    blob_drop(context); /* in ZeroMQ's thread, when the bytes are sent */
}

static bool send_frame(void *socket, zmq_msg_t *frame, bool more)
{
    for (;;) {
        if (zmq_msg_send(frame, socket, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) >= 0)
            return true;
        if (errno != EINTR)
            break;
    }
    int sys = errno;
    (void)zmq_msg_close(frame);
    errno = sys;
    return false;
}

static bool send_bytes(void *socket, const void *data, size_t size, bool more)
{
    zmq_msg_t frame;

    int rc = zmq_msg_init_size(&frame, size);
    assert(rc == 0); /* small; without memory heap.c would end the process too */
    memcpy(zmq_msg_data(&frame), data, size);
    return send_frame(socket, &frame, more);
}

static bool send_blob(void *socket, struct blob *blob, bool more)
{
    zmq_msg_t frame;

    if (blob_size(blob) <= COPIED_BYTES_MAX)
        return send_bytes(socket, blob_data(blob), blob_size(blob), more);
    int rc = zmq_msg_init_data(&frame, blob_data(blob), blob_size(blob), let_go, blob_keep(blob));
    assert(rc == 0);
    return send_frame(socket, &frame, more);
}

/* Room is asked for at the first frame only; the others of a message then go the same way. When the
 * connection ends in between, ZeroMQ drops the rest, which must still be handed over. */
static bool send_parts(void *socket, const void *id, size_t id_size, const struct msg *msg,
                       struct status *st)
{
    struct buffer head = {0};
    const char *kind = msg_kind_name(msg->head.kind);
    bool ok = true;

    head_pack(&msg->head, &head);
    if (head.size > HEAD_BYTES_MAX) {
        ok = status_fail(st, STATUS_LIMIT, "%s: a head of %zu bytes, allowed are %d", kind,
                         head.size, HEAD_BYTES_MAX);
        goto out;
    }
    if (id_size)
        ok = send_bytes(socket, id, id_size, true);
    if (ok)
        ok = send_bytes(socket, head.data, head.size, msg->head.n_blobs > 0);
    if (!ok) {
        (void)status_fail(st, errno == EAGAIN ? STATUS_BUSY : STATUS_UNAVAILABLE, "send %s: %s",
                          kind, zmq_strerror(errno));
        goto out;
    }
    for (size_t i = 0; i < msg->head.n_blobs; i++)
        if (!send_blob(socket, msg->blobs[i], i + 1 < msg->head.n_blobs))
            ok = status_fail(st, STATUS_UNAVAILABLE, "send %s: the connection ended", kind);
out:
    buffer_clear(&head);
    return ok;
}

/* ---- the gateway's end ---- */

struct peer {
    bool used;
    uint8_t size;
    uint8_t id[255];
};

struct bus {
    struct line line;
    uint32_t last;  /* number given last: a freed one rests as long as possible */
    uint32_t bound; /* no used number at or above */
    struct peer peers[BUS_PEERS_MAX];
};

bool bus_open(struct bus **out, const char *address, struct status *st)
{
    static const int on = 1;
    struct bus *bus = heap_new(1, sizeof *bus);

    bus->last = BUS_PEERS_MAX - 1;
    if (!address_check(address, st) || !address_check_unused(address, st))
        goto fail;
    if (!line_open(&bus->line, ZMQ_ROUTER, st))
        goto fail;
    if (zmq_setsockopt(bus->line.socket, ZMQ_ROUTER_MANDATORY, &on, sizeof on) != 0 ||
        zmq_bind(bus->line.socket, address) != 0) {
        (void)fail_zmq(st, "bind");
        goto fail;
    }
    *out = bus;
    return true;
fail:
    bus_close(bus);
    return status_wrap(st, "bus '%s'", address);
}

void bus_close(struct bus *bus)
{
    if (!bus)
        return;
    line_close(&bus->line, 0);
    heap_free(bus);
}

int bus_descriptor(const struct bus *bus)
{
    return line_descriptor(&bus->line);
}

/* The number of a routing id, a new one if need be; BUS_PEER_NONE when there are too many. */
static uint32_t number_of(struct bus *bus, const uint8_t *id, size_t size)
{
    for (uint32_t i = 0; i < bus->bound; i++)
        if (bus->peers[i].used && bus->peers[i].size == size &&
            memcmp(bus->peers[i].id, id, size) == 0)
            return i;
    for (uint32_t n = 1; n <= BUS_PEERS_MAX; n++) {
        uint32_t i = (bus->last + n) % BUS_PEERS_MAX;
        if (bus->peers[i].used)
            continue;
        bus->peers[i] = (struct peer){.used = true, .size = (uint8_t)size};
        memcpy(bus->peers[i].id, id, size);
        bus->last = i;
        if (bus->bound <= i)
            bus->bound = i + 1;
        return i;
    }
    return BUS_PEER_NONE;
}

bool bus_receive(struct bus *bus, struct msg *msg, uint32_t *out_peer, bool *bad, struct status *st)
{
    struct arrival arrival = {.n_frames = 0};
    zmq_msg_t id;

    *bad = false;
    if (!next_frame(bus->line.socket, &id))
        return false;
    size_t id_size = zmq_msg_size(&id);
    assert(id_size >= 1 && id_size <= sizeof bus->peers[0].id);
    *out_peer = number_of(bus, zmq_msg_data(&id), id_size);
    gather(bus->line.socket, zmq_msg_more(&id), &arrival);
    (void)zmq_msg_close(&id);
    *bad = !assemble(msg, &arrival, st);
    if (*out_peer == BUS_PEER_NONE) {
        *bad = true;
        msg_clear(msg);
        msg->head.kind = MSG_KINDS;
        (void)status_fail(st, STATUS_LIMIT, "more than %d peers", BUS_PEERS_MAX);
    }
    return true;
}

bool bus_send_take(struct bus *bus, uint32_t peer, struct msg *msg, struct status *st)
{
    bool ok;

    if (peer >= BUS_PEERS_MAX || !bus->peers[peer].used)
        ok = status_fail(st, STATUS_UNAVAILABLE, "peer %u is not there", peer);
    else
        ok = send_parts(bus->line.socket, bus->peers[peer].id, bus->peers[peer].size, msg, st);
    msg_clear(msg);
    return ok;
}

void bus_forget(struct bus *bus, uint32_t peer)
{
    assert(peer < BUS_PEERS_MAX);
    bus->peers[peer].used = false;
    while (bus->bound > 0 && !bus->peers[bus->bound - 1].used)
        bus->bound--;
}

/* ---- a worker's end ---- */

struct link {
    struct line line;
};

bool link_open(struct link **out, const char *address, struct status *st)
{
    struct link *link = heap_new(1, sizeof *link);

    if (!address_check(address, st))
        goto fail;
    if (!line_open(&link->line, ZMQ_DEALER, st))
        goto fail;
    if (zmq_connect(link->line.socket, address) != 0) {
        (void)fail_zmq(st, "connect");
        goto fail;
    }
    *out = link;
    return true;
fail:
    link_close(link);
    return status_wrap(st, "bus '%s'", address);
}

void link_close(struct link *link)
{
    link_finish(link, 0);
}

void link_finish(struct link *link, int linger_ms)
{
    if (!link)
        return;
    line_close(&link->line, linger_ms);
    heap_free(link);
}

int link_descriptor(const struct link *link)
{
    return line_descriptor(&link->line);
}

bool link_receive(struct link *link, struct msg *msg, bool *bad, struct status *st)
{
    struct arrival arrival = {.n_frames = 0};
    zmq_msg_t head;

    *bad = false;
    if (!next_frame(link->line.socket, &head))
        return false;
    bool more = zmq_msg_more(&head);
    arrival.size = zmq_msg_size(&head);
    arrival.frames[arrival.n_frames++] = blob_of_frame(&head);
    (void)zmq_msg_close(&head);
    gather(link->line.socket, more, &arrival);
    *bad = !assemble(msg, &arrival, st);
    return true;
}

static int events_of(const struct line *line)
{
    int events = 0;
    size_t size = sizeof events;

    int rc = zmq_getsockopt(line->socket, ZMQ_EVENTS, &events, &size);
    return rc == 0 ? events : 0;
}

bool link_can_send(const struct link *link)
{
    return (events_of(&link->line) & ZMQ_POLLOUT) != 0;
}

bool link_send_take(struct link *link, struct msg *msg, struct status *st)
{
    bool ok = send_parts(link->line.socket, NULL, 0, msg, st);

    msg_clear(msg);
    return ok;
}

/* zmq_poll asks for ZMQ_EVENTS before it waits and each time the edge-triggered descriptor fires;
 * waiting on that descriptor alone would sleep over a message that is already there. */
bool link_wait(struct link *link, const int *fds, size_t n, bool *readable, int timeout_ms)
{
    zmq_pollitem_t items[1 + LINK_FDS_MAX] = {{.socket = link->line.socket, .events = ZMQ_POLLIN}};

    assert(n <= LINK_FDS_MAX);
    for (size_t i = 0; i < n; i++) {
        items[1 + i] = (zmq_pollitem_t){.fd = fds[i], .events = ZMQ_POLLIN};
        readable[i] = false;
    }
    if (zmq_poll(items, (int)(1 + n), timeout_ms) < 0)
        return false; /* a signal */
    for (size_t i = 0; i < n; i++)
        readable[i] = items[1 + i].revents != 0;
    return (items[0].revents & ZMQ_POLLIN) != 0;
}
