/* sniff_mp4.c - MP4: is there AAC in it, and which part of it is the clip.
 *
 * Encoders put about 1024 samples in front and say so in an edit list. GStreamer's qtdemux honours
 * the list by whole packets, which loses the one the decoder warms up on and, with a duration
 * counted in milliseconds, sometimes the last. So decode.c opens the list up (edit_at), has
 * everything decoded, and cuts to start_s and length_s. */
#include "services/ingest/reader.h"
#include "services/ingest/sniff.h"
#include <string.h>

#define TRACKS_MAX 64 /* looked at for sound; the search is quadratic */

/* A box: its content is [begin, end) of the file. */
struct box {
    size_t begin, end;
};

/* The box that starts at `at`, its content within `end`; false when it does not fit. */
static bool box_at(struct span bytes, size_t at, size_t end, struct box *out, const char **out_name)
{
    if (at > end || end - at < 8)
        return false;
    uint64_t size = reader_be(bytes, at, 4);
    size_t header = 8;
    if (size == 1) {
        if (end - at < 16)
            return false;
        size = reader_be64(bytes, at + 8);
        header = 16;
    } else if (size == 0) {
        size = end - at; /* the last box: to the end */
    }
    if (size < header || size > end - at)
        return false;
    *out_name = (const char *)bytes.data + at + 4;
    *out = (struct box){at + header, at + (size_t)size};
    return true;
}

/* The nth box of that name inside `in`. */
static bool box_find(struct span bytes, struct box in, const char *name, size_t nth,
                     struct box *out)
{
    struct box box;
    const char *found;
    for (size_t at = in.begin; box_at(bytes, at, in.end, &box, &found); at = box.end)
        if (memcmp(found, name, 4) == 0 && nth-- == 0) {
            *out = box;
            return true;
        }
    return false;
}

static bool box_path(struct span bytes, struct box in, const char *const *path, struct box *out)
{
    for (; *path; path++)
        if (!box_find(bytes, in, *path, 0, &in))
            return false;
    *out = in;
    return true;
}

static struct span box_span(struct span bytes, struct box box)
{
    return span_of(bytes.data + box.begin, box.end - box.begin);
}

/* Time scale and duration of mvhd and mdhd, which begin alike. */
static bool read_times(struct span b, double *scale, double *duration)
{
    const bool wide = b.size > 0 && b.data[0] == 1;
    if (!reader_has(b, 0, wide ? 32 : 20))
        return false;
    *scale = reader_be(b, wide ? 20 : 12, 4);
    *duration = wide ? (double)reader_be64(b, 24) : reader_be(b, 16, 4);
    return *scale > 0;
}

/* An edit list of one entry that names a start; anything richer is left to the demuxer. */
static void read_edits(struct medium *out, struct span bytes, struct box trak, double movie_scale,
                       double scale)
{
    struct box elst;
    if (!box_path(bytes, trak, (const char *const[]){"edts", "elst", NULL}, &elst))
        return;
    const struct span b = box_span(bytes, elst);
    const bool wide = b.size > 0 && b.data[0] == 1;
    if (!reader_has(b, 0, wide ? 28 : 20) || reader_be(b, 4, 4) != 1)
        return;
    const double length = wide ? (double)reader_be64(b, 8) : reader_be(b, 8, 4);
    const double start = wide ? (double)(int64_t)reader_be64(b, 16) : (int32_t)reader_be(b, 12, 4);
    if (start < 0)
        return;
    out->edit_at = elst.begin + 8;
    out->edit_version = wide;
    out->start_s = start / scale;
    /* The list counts in units of the movie, often milliseconds; the track is exact. */
    const double listed_s = length / movie_scale, rest_s = out->length_s - start / scale;
    out->length_s = length > 0 && listed_s < rest_s - 1.5 / movie_scale ? listed_s : rest_s;
}

static bool read_track(struct medium *out, struct span bytes, struct box trak, double movie_scale,
                       struct status *st)
{
    struct box mdhd, stsd, stts;
    double scale, duration;
    if (!box_path(bytes, trak, (const char *const[]){"mdia", "mdhd", NULL}, &mdhd) ||
        !read_times(box_span(bytes, mdhd), &scale, &duration))
        return status_fail(st, STATUS_CORRUPT, "no times (mdhd) of the sound track");
    if (!box_path(bytes, trak, (const char *const[]){"mdia", "minf", "stbl", "stsd", NULL},
                  &stsd) ||
        !box_path(bytes, trak, (const char *const[]){"mdia", "minf", "stbl", "stts", NULL}, &stts))
        return status_fail(st, STATUS_CORRUPT, "no sample table of the sound track");
    const struct span entry = box_span(bytes, stsd);
    if (!reader_has(entry, 0, 16) || memcmp(entry.data + 12, "mp4a", 4) != 0)
        return status_fail(st, STATUS_UNSUPPORTED, "the sound in it is not AAC");
    const double packet = reader_be(box_span(bytes, stts), 12, 4);
    if (duration > 0) { /* a fragmented file has none: then all of it is taken */
        out->length_s = duration / scale;
        out->expect_s = duration / scale;
        read_edits(out, bytes, trak, movie_scale, scale);
    }
    /* The decoder (faad) puts out nothing for the first packet. */
    if (packet > 0 && packet <= 4096) {
        out->start_s -= packet / scale;
        out->expect_s = out->expect_s > 0 ? out->expect_s - packet / scale : 0;
    }
    return true;
}

bool sniff_mp4(struct medium *out, struct span bytes, struct status *st)
{
    const struct box file = {0, bytes.size};
    struct box box, moov, mvhd, trak, hdlr;
    const char *name;
    size_t at = 0;
    for (; at < bytes.size && box_at(bytes, at, bytes.size, &box, &name); at = box.end)
        ;
    if (at < bytes.size)
        return status_fail(st, STATUS_CORRUPT, "the file is cut off inside a box");
    double movie_scale, ignored;
    if (!box_find(bytes, file, "moov", 0, &moov) || !box_find(bytes, moov, "mvhd", 0, &mvhd) ||
        !read_times(box_span(bytes, mvhd), &movie_scale, &ignored))
        return status_fail(st, STATUS_CORRUPT, "no index (moov) in it");
    for (size_t i = 0; i < TRACKS_MAX && box_find(bytes, moov, "trak", i, &trak); i++) {
        if (!box_path(bytes, trak, (const char *const[]){"mdia", "hdlr", NULL}, &hdlr))
            continue;
        const struct span handler = box_span(bytes, hdlr);
        if (reader_has(handler, 8, 4) && memcmp(handler.data + 8, "soun", 4) == 0)
            return read_track(out, bytes, trak, movie_scale, st);
    }
    return status_fail(st, STATUS_UNSUPPORTED, "no sound track in it");
}
