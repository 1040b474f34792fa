/* video.c - a video: the packets that its shown frames need, decoded; and its sound track.
 *
 * First the container is taken apart, which costs little: then it is known when every frame is
 * seen, and which of them are shown. Only groups of pictures (from a key frame on) in which there
 * is one are decoded, each up to the last that is wanted; of what comes out only the wanted
 * pictures are converted and kept, at the model's size. */
#include "engine/base/heap.h"
#include "engine/media/media.h"
#include "proto/media.h"
#include "services/ingest/decode.h"
#include "services/ingest/frames.h"
#include "services/ingest/line.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Two threads: the machine has other work. Damaged pictures are not given out. */
#define LIBAV(name) "avdec_" name " max-threads=2 output-corrupt=false"

static const char *const decoders[VIDEO_CODECS] = {
    [VIDEO_H264] = LIBAV("h264"),
    [VIDEO_HEVC] = LIBAV("h265"),
    [VIDEO_VP8] = LIBAV("vp8"),
    [VIDEO_VP9] = LIBAV("vp9"),
};

/* A frame as the container tells of it. */
struct packet {
    struct sample *sample;
    struct sample_time time;
    size_t group; /* counts key frames */
    bool needed;  /* to be decoded */
};

struct clip {
    struct packet *packets; /* [n] in the order of decoding */
    size_t n;
    size_t *order; /* [n_shown] packets in the order of showing */
    size_t n_shown;
    int64_t end_us;
    size_t *chosen; /* [n_chosen] indices of order */
    size_t n_chosen;
};

static void clip_clear(struct clip *clip)
{
    for (size_t i = 0; i < clip->n; i++)
        sample_free(clip->packets[i].sample);
    heap_free(clip->packets);
    heap_free(clip->order);
    heap_free(clip->chosen);
    *clip = (struct clip){0};
}

static bool add_packet(struct clip *clip, struct sample *sample, enum video_codec codec,
                       struct status *st)
{
    if ((clip->n & (clip->n - 1)) == 0)
        clip->packets =
            heap_resize(clip->packets, clip->n ? 2 * clip->n : 1, sizeof *clip->packets);
    struct packet *packet = &clip->packets[clip->n];
    *packet = (struct packet){.sample = sample, .time = sample_time(sample)};
    /* VP8 has packets that are only leaned on (RFC 6386 section 9.1, show_frame). */
    if (codec == VIDEO_VP8 && !(packet->time.first & 0x10))
        packet->time.shown = false;
    packet->group = clip->n == 0 ? 0 : packet[-1].group + packet->time.key;
    clip->n++;
    if (clip->n > DECODE_VIDEO_PACKETS_MAX)
        return status_fail(st, STATUS_LIMIT, "more than %d frames", DECODE_VIDEO_PACKETS_MAX);
    return true;
}

static bool read_packets(struct clip *clip, struct span file, const struct medium *medium,
                         struct status *st)
{
    struct line *line;
    struct sample *sample;
    bool failed = false, ok = true;
    const char *demuxer = medium->kind == MEDIUM_MP4_VIDEO
                              ? "qtdemux name=demux demux.video_0"
                              : "matroskademux name=demux demux.video_0";
    if (!line_open_file(&line, demuxer, file, true, st))
        return false;
    while (ok && (sample = line_pull(line, &failed, st)) != NULL)
        ok = add_packet(clip, sample, medium->codec, st);
    line_close(line);
    if (!ok || failed)
        return false;
    return clip->n > 0 || status_fail(st, STATUS_CORRUPT, "there is no frame in it");
}

static const struct packet *sorted_packets; /* qsort has no context; a child has one thread here */

static int by_time(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    const int64_t tx = sorted_packets[x].time.begin_us, ty = sorted_packets[y].time.begin_us;
    if (tx != ty)
        return tx < ty ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* Within what the container shows of the track; half a millisecond for rounded times. */
static bool is_shown(const struct sample_time *time, const struct medium *medium)
{
    const double at_s = (double)time->begin_us / 1e6 + 0.0005;
    return time->shown && at_s >= medium->start_s &&
           (medium->length_s < 0 || at_s < medium->start_s + medium->length_s);
}

/* The order of showing. Before the first key frame nothing can be decoded. */
static bool order_frames(struct clip *clip, const struct medium *medium, struct status *st)
{
    clip->order = heap_array(size_t, clip->n);
    size_t first = 0;
    while (first < clip->n && !clip->packets[first].time.key)
        first++;
    for (size_t i = first; i < clip->n; i++)
        if (is_shown(&clip->packets[i].time, medium))
            clip->order[clip->n_shown++] = i;
    if (clip->n_shown == 0)
        return status_fail(st, STATUS_CORRUPT, "there is no frame in it that is shown");
    sorted_packets = clip->packets;
    qsort(clip->order, clip->n_shown, sizeof *clip->order, by_time);
    const struct sample_time *begin = &clip->packets[clip->order[0]].time;
    const struct sample_time *last = &clip->packets[clip->order[clip->n_shown - 1]].time;
    int64_t length_us = last->length_us;
    if (length_us <= 0 && clip->n_shown > 1) /* as long as the others, on average */
        length_us = (last->begin_us - begin->begin_us) / (int64_t)(clip->n_shown - 1);
    const int64_t begin_us = clip->packets[clip->order[0]].time.begin_us;
    clip->end_us = last->begin_us + length_us - begin_us;
    for (size_t i = 0; i < clip->n; i++) /* the clip begins with its first frame */
        clip->packets[i].time.begin_us -= begin_us;
    if (clip->end_us > DECODE_VIDEO_SECONDS_MAX * 1000000LL)
        return status_fail(st, STATUS_LIMIT, "it is %.0f seconds long; at most %d are taken",
                           (double)clip->end_us / 1e6, DECODE_VIDEO_SECONDS_MAX);
    return true;
}

static void choose(struct clip *clip, const struct decode_request *request)
{
    int64_t *times_us = heap_array(int64_t, clip->n_shown);
    for (size_t i = 0; i < clip->n_shown; i++)
        times_us[i] = clip->packets[clip->order[i]].time.begin_us;
    clip->chosen = heap_array(size_t, request->frames_max);
    clip->n_chosen = video_choose(clip->chosen, times_us, clip->n_shown, clip->end_us, request->fps,
                                  request->frames_max);
    heap_free(times_us);
}

static const struct packet *chosen_packet(const struct clip *clip, size_t i)
{
    return &clip->packets[clip->order[clip->chosen[i]]];
}

/* All of its group up to it. */
static void need(struct clip *clip, size_t at)
{
    const size_t group = clip->packets[at].group;
    for (size_t i = at + 1; i-- > 0 && clip->packets[i].group == group && !clip->packets[i].needed;)
        clip->packets[i].needed = true;
}

/* A frame that is shown before the key frame of its group leans on the group before, too. */
static void need_all(struct clip *clip)
{
    size_t *key = heap_array(size_t, clip->packets[clip->n - 1].group + 1);
    for (size_t i = clip->n; i-- > 0;)
        key[clip->packets[i].group] = i;
    for (size_t k = 0; k < clip->n_chosen; k++) {
        const size_t at = clip->order[clip->chosen[k]];
        const size_t first = key[clip->packets[at].group];
        need(clip, at);
        if (first > 0 && clip->packets[at].time.begin_us < clip->packets[first].time.begin_us)
            need(clip, first - 1);
    }
    heap_free(key);
}

/* Which packet this picture is of: it is near the last one, which *at is the index of. */
static const struct packet *find_packet(const struct clip *clip, uint64_t mark, size_t *at)
{
    for (size_t i = 0; i < 2 * clip->n; i++) {
        /* 0, 1, -1, 2, -2, ... */
        const size_t away = (i + 1) / 2 % clip->n;
        const size_t here = (*at + (i & 1 ? away : clip->n - away)) % clip->n;
        if (clip->packets[here].time.mark == mark && clip->packets[here].needed) {
            *at = here;
            return &clip->packets[here];
        }
    }
    return NULL;
}

/* Keep a picture: at the size of the first one, which is the model's. */
static bool keep(struct decoded *out, struct sample *sample, int64_t time_us,
                 const struct medium *medium, const struct decode_request *request,
                 struct buffer *times, struct status *st)
{
    struct decoded frame = {0};
    if (!sample_rgb(sample, VIDEO_PIXELS_MAX, medium->orientation, &frame, st))
        return false;
    if (out->frames == 0) {
        out->height = frame.height;
        out->width = frame.width;
        if (request->budget > 0 &&
            !image_target_size(frame.height, frame.width, request->budget, request->tile_px,
                               &out->height, &out->width, st)) {
            buffer_clear(&frame.bytes);
            return false;
        }
    }
    const size_t size = out->height * out->width * 3;
    buffer_reserve(&out->bytes, out->bytes.size + size);
    image_resize(out->bytes.data + out->bytes.size, out->height, out->width, frame.bytes.data,
                 frame.height, frame.width);
    out->bytes.size += size;
    buffer_clear(&frame.bytes);
    const int32_t time_ms = (int32_t)((time_us + 500) / 1000);
    buffer_append(times, &time_ms, sizeof time_ms);
    out->frames++;
    return true;
}

static bool decode_frames(struct decoded *out, const struct clip *clip, struct line *line,
                          const struct medium *medium, const struct decode_request *request,
                          struct status *st)
{
    struct sample *sample;
    struct buffer times = {0};
    bool failed = false, ok = true;
    size_t due = 0, at = 0;
    while (ok && due < clip->n_chosen && (sample = line_pull(line, &failed, st)) != NULL) {
        const struct packet *packet = find_packet(clip, sample_time(sample).mark, &at);
        const size_t before = due;
        while (packet && due < clip->n_chosen &&
               chosen_packet(clip, due)->time.begin_us <= packet->time.begin_us)
            due++;
        if (due > before)
            ok = keep(out, sample, packet->time.begin_us, medium, request, &times, st);
        sample_free(sample);
    }
    if (ok && !failed && out->frames < clip->n_chosen)
        ok =
            status_fail(st, STATUS_CORRUPT, "the file is damaged: %zu of %zu frames can be decoded",
                        out->frames, clip->n_chosen);
    buffer_append(&out->bytes, times.data, times.size);
    buffer_clear(&times);
    return ok && !failed;
}

static bool decode_pictures(struct decoded *out, uint8_t *file, size_t size,
                            const struct medium *medium, const struct decode_request *request,
                            struct status *st)
{
    struct clip clip = {0};
    struct line *line = NULL;
    edit_open(file, medium);
    bool ok =
        read_packets(&clip, span_of(file, size), medium, st) && order_frames(&clip, medium, st);
    if (ok) {
        size_t n = 0;
        choose(&clip, request);
        need_all(&clip);
        struct sample **needed = (struct sample **)heap_new(clip.n, sizeof(struct sample *));
        for (size_t i = 0; i < clip.n; i++)
            if (clip.packets[i].needed)
                needed[n++] = clip.packets[i].sample;
        ok = line_open_packets(&line, decoders[medium->codec], needed, n, st) &&
             decode_frames(out, &clip, line, medium, request, st);
        line_close(line);
        heap_free((void *)needed);
        out->frames_seen = clip.n_shown;
        out->length_ms = (size_t)((clip.end_us + 500) / 1000);
    }
    clip_clear(&clip);
    return ok;
}

/* What cannot be heard is said, in out->note. */
static bool decode_track(struct decoded *out, uint8_t *file, size_t size,
                         const struct medium *video, size_t seconds, struct status *st)
{
    struct medium medium;
    const struct sound_limit limit = {.seconds = seconds, .cut = true};
    if (video->sound_name[0] == 0)
        return true;
    if (!video->has_sound) {
        (void)snprintf(out->note, sizeof out->note, "its sound (%s) is not read",
                       video->sound_name);
        return true;
    }
    if (seconds == 0) {
        (void)snprintf(out->note, sizeof out->note, "its sound was not wanted");
        return true;
    }
    if (!sniff(&medium, span_of(file, size), WANT_SOUND, st) ||
        !decode_sound(out, file, size, &medium, &limit, st))
        return status_wrap(st, "its sound");
    if (out->sound_cut)
        (void)snprintf(out->note, sizeof out->note, "of its sound the first %zu seconds are heard",
                       seconds);
    return true;
}

bool decode_video(struct decoded *out, uint8_t *file, size_t size, const struct medium *medium,
                  const struct decode_request *request, struct status *st)
{
    /* A third of a second and 46 MB, which pictures and sounds should not have to pay. */
    static const char *const plugins[] = {"libav"};
    assert(request->fps > 0 && request->frames_max > 0 && request->frames_max <= VIDEO_FRAMES_MAX);
    return lines_load(plugins, 1, st) && decode_pictures(out, file, size, medium, request, st) &&
           decode_track(out, file, size, medium, request->sound_s, st);
}
