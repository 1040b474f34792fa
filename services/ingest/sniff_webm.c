/* sniff_webm.c - WebM and Matroska: which tracks are in it, which way up, and whether it is all
 * there (RFC 8794, RFC 9559). */
#include "services/ingest/reader.h"
#include "services/ingest/sniff.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum element_id {
    ID_HEADER = 0x1a45dfa3,
    ID_SEGMENT = 0x18538067,
    ID_TRACKS = 0x1654ae6b,
    ID_CLUSTER = 0x1f43b675,
    ID_TRACK = 0xae,
    ID_TRACK_TYPE = 0x83,
    ID_CODEC = 0x86,
    ID_VIDEO = 0xe0,
    ID_WIDTH = 0xb0,
    ID_HEIGHT = 0xba,
    ID_PROJECTION = 0x7670,
    ID_ROLL = 0x7675,
};

/* An element: its content is [begin, end) of the file. */
struct element {
    uint32_t id;
    size_t begin, end;
    bool open; /* of a size that was not known when it was written: to the end of what it is in */
};

enum step { STEP_ELEMENT, STEP_END, STEP_CUT };

/* The element at `at`, within `end`. */
static enum step element_at(struct span bytes, size_t at, size_t end, struct element *out)
{
    if (at == end)
        return STEP_END;
    const uint8_t first = bytes.data[at];
    size_t id_size = 1, size_size = 1;
    while (id_size <= 4 && !(first & 0x80 >> (id_size - 1)))
        id_size++;
    if (id_size > 4 || end - at <= id_size)
        return STEP_CUT;
    out->id = reader_be(bytes, at, id_size);
    at += id_size;
    while (size_size <= 8 && !(bytes.data[at] & 0x80 >> (size_size - 1)))
        size_size++;
    if (size_size > 8 || end - at < size_size)
        return STEP_CUT;
    uint64_t size = 0;
    for (size_t i = 0; i < size_size; i++)
        size = size << 8 | bytes.data[at + i];
    size &= (UINT64_C(1) << 7 * size_size) - 1;
    out->open = size == (UINT64_C(1) << 7 * size_size) - 1;
    out->begin = at + size_size;
    if (out->open)
        size = end - out->begin;
    if (size > end - out->begin)
        return STEP_CUT;
    out->end = out->begin + (size_t)size;
    return STEP_ELEMENT;
}

/* The first element of that id inside [begin, end). */
static bool find(struct span bytes, size_t begin, size_t end, uint32_t id, struct element *out)
{
    for (; element_at(bytes, begin, end, out) == STEP_ELEMENT; begin = out->end)
        if (out->id == id)
            return true;
    return false;
}

static uint64_t number(struct span bytes, const struct element *in, uint32_t id)
{
    struct element e;
    uint64_t value = 0;
    if (find(bytes, in->begin, in->end, id, &e))
        for (size_t i = e.begin; i < e.end && e.end - e.begin <= 8; i++)
            value = value << 8 | bytes.data[i];
    return value;
}

/* A segment of a live recording has no size, nor have its clusters: then their parts stand in a row
 * with what follows them. All is there when the row ends where the file does. */
static bool walk_segment(struct span bytes, struct element *out_tracks, struct status *st)
{
    struct element e, segment;
    bool tracks = false;
    enum step step;
    if (!find(bytes, 0, bytes.size, ID_SEGMENT, &segment))
        return status_fail(st, STATUS_CORRUPT,
                           "the file is cut off: not all of its segment is there");
    size_t at = segment.begin;
    while ((step = element_at(bytes, at, segment.end, &e)) == STEP_ELEMENT) {
        if (e.id == ID_TRACKS && !tracks) {
            *out_tracks = e;
            tracks = true;
        }
        at = e.id == ID_CLUSTER && e.open ? e.begin : e.end;
    }
    if (step == STEP_CUT)
        return status_fail(st, STATUS_CORRUPT, "the file is cut off at byte %zu, or damaged there",
                           at);
    return tracks || status_fail(st, STATUS_CORRUPT, "no tracks in it");
}

/* The first track of that type; false when there is none. */
static bool find_track(struct span bytes, const struct element *tracks, uint64_t type,
                       struct element *out, struct span *out_codec)
{
    struct element codec;
    for (size_t at = tracks->begin; find(bytes, at, tracks->end, ID_TRACK, out); at = out->end) {
        if (number(bytes, out, ID_TRACK_TYPE) != type)
            continue;
        *out_codec = span_of(NULL, 0);
        if (find(bytes, out->begin, out->end, ID_CODEC, &codec))
            *out_codec = span_of(bytes.data + codec.begin, codec.end - codec.begin);
        while (out_codec->size > 0 && out_codec->data[out_codec->size - 1] == 0)
            out_codec->size--;
        return true;
    }
    return false;
}

bool sniff_webm_sound(struct medium *out, struct span bytes, struct status *st)
{
    struct element tracks, track;
    struct span codec;
    if (!walk_segment(bytes, &tracks, st))
        return false;
    if (!find_track(bytes, &tracks, 2, &track, &codec))
        return status_fail(st, STATUS_UNSUPPORTED, "no sound track in it");
    if (span_is(codec, "A_OPUS"))
        out->kind = MEDIUM_WEBM_OPUS;
    else if (span_is(codec, "A_VORBIS"))
        out->kind = MEDIUM_WEBM_VORBIS;
    else
        return status_fail(st, STATUS_UNSUPPORTED, "the sound in it is neither Opus nor Vorbis");
    return true;
}

static bool video_codec(struct span codec, enum video_codec *out, struct status *st)
{
    static const struct {
        const char *word;
        enum video_codec codec;
    } read[] = {{"V_MPEG4/ISO/AVC", VIDEO_H264},
                {"V_MPEGH/ISO/HEVC", VIDEO_HEVC},
                {"V_VP8", VIDEO_VP8},
                {"V_VP9", VIDEO_VP9}};
    static const struct {
        const char *word, *name;
    } foreign[] = {{"V_AV1", "AV1"},
                   {"V_MPEG4/ISO/SP", "MPEG-4 part 2"},
                   {"V_MPEG4/ISO/ASP", "MPEG-4 part 2"},
                   {"V_MPEG4/ISO/AP", "MPEG-4 part 2"},
                   {"V_MPEG4/MS/V3", "MS MPEG-4"},
                   {"V_MPEG2", "MPEG-2"},
                   {"V_MPEG1", "MPEG-1"},
                   {"V_THEORA", "Theora"},
                   {"V_MJPEG", "Motion JPEG"},
                   {"V_PRORES", "ProRes"},
                   {"V_FFV1", "FFV1"}};
    for (size_t i = 0; i < sizeof read / sizeof *read; i++)
        if (span_is(codec, read[i].word)) {
            *out = read[i].codec;
            return true;
        }
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (span_is(codec, foreign[i].word))
            return sniff_foreign_codec(foreign[i].name, codec, st);
    return sniff_foreign_codec(NULL, codec, st);
}

/* Quarter turns, counted against the clock in the file (ProjectionPoseRoll). */
static int roll_orientation(struct span bytes, const struct element *video)
{
    struct element projection, roll;
    if (!find(bytes, video->begin, video->end, ID_PROJECTION, &projection) ||
        !find(bytes, projection.begin, projection.end, ID_ROLL, &roll))
        return 1;
    double degrees = 0;
    if (roll.end - roll.begin == 4) {
        float narrow;
        const uint32_t bits = reader_be(bytes, roll.begin, 4);
        memcpy(&narrow, &bits, sizeof narrow);
        degrees = (double)narrow;
    } else if (roll.end - roll.begin == 8) {
        const uint64_t bits = reader_be64(bytes, roll.begin);
        memcpy(&degrees, &bits, sizeof degrees);
    }
    if (degrees == 90.0)
        return 8;
    if (degrees == -90.0)
        return 6;
    return fabs(degrees) == 180.0 ? 3 : 1;
}

bool sniff_webm_video(struct medium *out, struct span bytes, struct status *st)
{
    struct element tracks, track, video;
    struct span codec, sound;
    if (!walk_segment(bytes, &tracks, st))
        return false;
    if (!find_track(bytes, &tracks, 1, &track, &codec))
        return status_fail(st, STATUS_UNSUPPORTED, "no video track in it");
    if (!video_codec(codec, &out->codec, st))
        return false;
    if (!find(bytes, track.begin, track.end, ID_VIDEO, &video))
        return status_fail(st, STATUS_CORRUPT, "the video track has no size");
    const uint64_t width = number(bytes, &video, ID_WIDTH),
                   height = number(bytes, &video, ID_HEIGHT);
    if (!sniff_video_size(out, width < UINT32_MAX ? (size_t)width : UINT32_MAX,
                          height < UINT32_MAX ? (size_t)height : UINT32_MAX, st))
        return false;
    out->orientation = roll_orientation(bytes, &video);
    if (find_track(bytes, &tracks, 2, &track, &sound)) {
        out->has_sound = span_is(sound, "A_OPUS") || span_is(sound, "A_VORBIS");
        (void)snprintf(out->sound_name, sizeof out->sound_name, "%.*s",
                       sound.size < 31 ? (int)sound.size : 31,
                       sound.size ? (const char *)sound.data : "");
        for (char *c = out->sound_name; *c; c++)
            if (*c <= ' ' || *c > '~')
                *c = '?';
    }
    return true;
}
