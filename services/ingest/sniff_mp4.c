/* sniff_mp4.c - MP4 and MOV: which tracks are in it, which way up, and which part of the sound is
 * the clip.
 *
 * Encoders put about 1024 samples in front and say so in an edit list. GStreamer's qtdemux honours
 * the list by whole packets, which loses the one the decoder warms up on and, with a duration
 * counted in milliseconds, sometimes the last. So decode.c opens the list up (edit_at), has
 * everything decoded, and cuts to start_s and length_s. */
#include "services/ingest/reader.h"
#include "services/ingest/sniff.h"
#include <stdio.h>
#include <string.h>

#define TRACKS_MAX 64 /* looked at; the search is quadratic */

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

/* The number after a tag of an MPEG-4 descriptor: seven bits a byte. */
static size_t skip_length(struct span b, size_t at)
{
    for (int i = 0; i < 4 && reader_be(b, at, 1) & 0x80; i++)
        at++;
    return at + 1;
}

/* What an entry "mp4a" or "mp4v" holds, ISO/IEC 14496-1 table 5; 0 when it does not say. */
static uint32_t object_type(struct span entry)
{
    for (size_t at = 0; reader_has(entry, at, 12); at++) {
        if (memcmp(entry.data + at, "esds", 4) != 0 || entry.data[at + 8] != 3)
            continue;
        at = skip_length(entry, at + 9) + 3; /* of the stream: its number, flags */
        return reader_be(entry, at, 1) == 4 ? reader_be(entry, skip_length(entry, at + 1), 1) : 0;
    }
    return 0;
}

/* The codec of a sound track, NULL when it has no name here. */
static const char *sound_codec(struct span bytes, struct box stsd)
{
    static const struct {
        const char *word, *name;
    } codecs[] = {{"Opus", "Opus"},     {"fLaC", "FLAC"},   {"alac", "Apple Lossless"},
                  {"ac-3", "AC-3"},     {"ec-3", "E-AC-3"}, {".mp3", "MP3"},
                  {"sowt", "PCM"},      {"twos", "PCM"},    {"lpcm", "PCM"},
                  {"in24", "PCM"},      {"samr", "AMR"},    {"ulaw", "mu-law"},
                  {"enca", "encrypted"}};
    const struct span entry = box_span(bytes, stsd);
    if (!reader_has(entry, 0, 16))
        return NULL;
    if (memcmp(entry.data + 12, "mp4a", 4) == 0) {
        const uint32_t type = object_type(entry);
        return type == 0x69 || type == 0x6b ? "MP3" : type == 0xa5 ? "AC-3" : "AAC";
    }
    for (size_t i = 0; i < sizeof codecs / sizeof *codecs; i++)
        if (memcmp(entry.data + 12, codecs[i].word, 4) == 0)
            return codecs[i].name;
    return NULL;
}

static bool read_sound(struct medium *out, struct span bytes, struct box trak, double movie_scale,
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
    const char *codec = sound_codec(bytes, stsd);
    if (!codec || strcmp(codec, "AAC") != 0)
        return status_fail(st, STATUS_UNSUPPORTED, "the sound in it is %s, not AAC",
                           codec ? codec : "of no known codec");
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

/* The first track whose handler has that name; false when there is none. */
static bool find_track(struct span bytes, struct box moov, const char *handler, struct box *out)
{
    struct box hdlr;
    for (size_t i = 0; i < TRACKS_MAX && box_find(bytes, moov, "trak", i, out); i++) {
        if (!box_path(bytes, *out, (const char *const[]){"mdia", "hdlr", NULL}, &hdlr))
            continue;
        const struct span kind = box_span(bytes, hdlr);
        if (reader_has(kind, 8, 4) && memcmp(kind.data + 8, handler, 4) == 0)
            return true;
    }
    return false;
}

/* The index, of a file that is all there. */
static bool find_movie(struct span bytes, struct box *out_moov, double *out_scale,
                       struct status *st)
{
    const struct box file = {0, bytes.size};
    struct box box, mvhd;
    const char *name;
    double ignored;
    size_t at = 0;
    for (; at < bytes.size && box_at(bytes, at, bytes.size, &box, &name); at = box.end)
        ;
    if (at < bytes.size)
        return status_fail(st, STATUS_CORRUPT, "the file is cut off inside a box");
    if (!box_find(bytes, file, "moov", 0, out_moov) ||
        !box_find(bytes, *out_moov, "mvhd", 0, &mvhd) ||
        !read_times(box_span(bytes, mvhd), out_scale, &ignored))
        return status_fail(st, STATUS_CORRUPT, "no index (moov) in it");
    return true;
}

bool sniff_mp4_sound(struct medium *out, struct span bytes, struct status *st)
{
    struct box moov, trak;
    double movie_scale;
    if (!find_movie(bytes, &moov, &movie_scale, st))
        return false;
    if (find_track(bytes, moov, "soun", &trak))
        return read_sound(out, bytes, trak, movie_scale, st);
    return status_fail(st, STATUS_UNSUPPORTED, "no sound track in it");
}

/* ---- video ---- */

static bool video_codec(struct span entry, enum video_codec *out, struct status *st)
{
    static const struct {
        const char *word;
        enum video_codec codec;
    } read[] = {{"avc1", VIDEO_H264}, {"avc3", VIDEO_H264}, {"hvc1", VIDEO_HEVC},
                {"hev1", VIDEO_HEVC}, {"vp08", VIDEO_VP8},  {"vp09", VIDEO_VP9}};
    static const struct {
        const char *word, *name;
    } foreign[] = {{"av01", "AV1"},
                   {"mp4v", "MPEG-4 part 2"},
                   {"s263", "H.263"},
                   {"h263", "H.263"},
                   {"jpeg", "Motion JPEG"},
                   {"mjpa", "Motion JPEG"},
                   {"mjpb", "Motion JPEG"},
                   {"apch", "ProRes"},
                   {"apcn", "ProRes"},
                   {"apcs", "ProRes"},
                   {"apco", "ProRes"},
                   {"ap4h", "ProRes"},
                   {"dvh1", "Dolby Vision"},
                   {"dvhe", "Dolby Vision"},
                   {"vvc1", "VVC"},
                   {"encv", "encrypted"},
                   {"rle ", "QuickTime Animation"}};
    const uint8_t *word = entry.data + 12;
    for (size_t i = 0; i < sizeof read / sizeof *read; i++)
        if (memcmp(word, read[i].word, 4) == 0) {
            *out = read[i].codec;
            return true;
        }
    const uint32_t type = memcmp(word, "mp4v", 4) == 0 ? object_type(entry) : 0;
    if (type >= 0x60 && type <= 0x65)
        return sniff_foreign_codec("MPEG-2", span_of(NULL, 0), st);
    if (type == 0x6a || type == 0x6c)
        return sniff_foreign_codec(type == 0x6a ? "MPEG-1" : "Motion JPEG", span_of(NULL, 0), st);
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (memcmp(word, foreign[i].word, 4) == 0)
            return sniff_foreign_codec(foreign[i].name, span_of(NULL, 0), st);
    return sniff_foreign_codec(NULL, span_of(word, 4), st);
}

/* A matrix of quarter turns and mirrors as the EXIF orientation that does the same; other ones (a
 * shear, a few degrees) are left out. */
static int matrix_orientation(struct span tkhd)
{
    const size_t at = tkhd.size > 0 && tkhd.data[0] == 1 ? 52 : 40;
    int sign[4]; /* a, b, c, d: where right and down point to */
    for (size_t i = 0; i < 4; i++) {
        static const size_t places[4] = {0, 4, 12, 16};
        const int32_t value = (int32_t)reader_be(tkhd, at + places[i], 4);
        sign[i] = (value > 0) - (value < 0);
    }
    static const struct {
        int sign[4];
        int orientation;
    } turns[] = {{{-1, 0, 0, 1}, 2}, {{-1, 0, 0, -1}, 3}, {{1, 0, 0, -1}, 4}, {{0, 1, 1, 0}, 5},
                 {{0, 1, -1, 0}, 6}, {{0, -1, -1, 0}, 7}, {{0, -1, 1, 0}, 8}};
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++)
        if (memcmp(sign, turns[i].sign, sizeof sign) == 0)
            return turns[i].orientation;
    return 1;
}

/* What an edit list shows. The demuxer would drop the key frame that lies before it, so it gets the
 * list opened up, as for sound. Of a list that cuts pieces out, all from the first on is shown. */
static void read_video_edits(struct medium *out, struct span bytes, struct box trak,
                             double movie_scale, double scale)
{
    struct box elst;
    if (!box_path(bytes, trak, (const char *const[]){"edts", "elst", NULL}, &elst))
        return;
    const struct span b = box_span(bytes, elst);
    const size_t wide = b.size > 0 && b.data[0] == 1 ? 2 : 1, entry = 4 * (2 * wide + 1);
    const uint32_t n = reader_be(b, 4, 4);
    bool found = false;
    for (size_t i = 0, at = 8; i < n && reader_has(b, at, entry); i++, at += entry) {
        const double length = wide == 2 ? (double)reader_be64(b, at) : reader_be(b, at, 4);
        const double start =
            wide == 2 ? (double)(int64_t)reader_be64(b, at + 8) : (int32_t)reader_be(b, at + 4, 4);
        if (start < 0) /* nothing is shown for a while */
            continue;
        const bool first = !found;
        out->start_s = first || start / scale < out->start_s ? start / scale : out->start_s;
        out->length_s = first && length > 0 ? length / movie_scale : -1.0;
        found = true;
    }
    if (reader_has(b, 8, entry)) {
        out->edit_at = elst.begin + 8;
        out->edit_version = wide == 2;
    }
}

bool sniff_mp4_video(struct medium *out, struct span bytes, struct status *st)
{
    struct box moov, trak, tkhd, mdhd, stsd, sound;
    double movie_scale, scale, ignored;
    if (!find_movie(bytes, &moov, &movie_scale, st))
        return false;
    if (!find_track(bytes, moov, "vide", &trak))
        return status_fail(st, STATUS_UNSUPPORTED, "no video track in it");
    static const char *const path[] = {"mdia", "minf", "stbl", "stsd", NULL};
    if (!box_path(bytes, trak, path, &stsd) || stsd.end - stsd.begin < 8 + 36)
        return status_fail(st, STATUS_CORRUPT, "no sample table of the video track");
    const struct span entry = box_span(bytes, stsd);
    if (!video_codec(entry, &out->codec, st) ||
        !sniff_video_size(out, reader_be(entry, 40, 2), reader_be(entry, 42, 2), st))
        return false;
    if (box_path(bytes, trak, (const char *const[]){"mdia", "mdhd", NULL}, &mdhd) &&
        read_times(box_span(bytes, mdhd), &scale, &ignored))
        read_video_edits(out, bytes, trak, movie_scale, scale);
    if (box_find(bytes, trak, "tkhd", 0, &tkhd))
        out->orientation = matrix_orientation(box_span(bytes, tkhd));
    if (find_track(bytes, moov, "soun", &sound)) {
        const char *codec = box_path(bytes, sound, path, &stsd) ? sound_codec(bytes, stsd) : NULL;
        (void)snprintf(out->sound_name, sizeof out->sound_name, "%s",
                       codec ? codec : "an unknown codec");
        out->has_sound = codec && strcmp(codec, "AAC") == 0;
    }
    return true;
}
