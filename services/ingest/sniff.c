/* sniff.c - the table of kinds, told by their first bytes. */
#include "services/ingest/sniff.h"
#include <string.h>

static bool starts(struct span bytes, size_t at, const char *magic, size_t n)
{
    return bytes.size >= at + n && memcmp(bytes.data + at, magic, n) == 0;
}

static bool is_png(struct span b)
{
    return starts(b, 0, "\x89PNG\r\n\x1a\n", 8);
}

static bool is_jpeg(struct span b)
{
    return starts(b, 0, "\xff\xd8\xff", 3);
}

static bool is_webp(struct span b)
{
    return starts(b, 0, "RIFF", 4) && starts(b, 8, "WEBP", 4);
}

static bool is_wav(struct span b)
{
    return starts(b, 0, "RIFF", 4) && starts(b, 8, "WAVE", 4);
}

static bool is_flac(struct span b)
{
    return starts(b, 0, "fLaC", 4);
}

static bool is_ogg(struct span b)
{
    return starts(b, 0, "OggS", 4);
}

/* Files of old QuickTime have no ftyp. */
static bool is_mp4(struct span b)
{
    if (starts(b, 4, "moov", 4) || starts(b, 4, "mdat", 4) || starts(b, 4, "wide", 4))
        return true;
    return starts(b, 4, "ftyp", 4) && !starts(b, 8, "hei", 3) && !starts(b, 8, "mif1", 4) &&
           !starts(b, 8, "avif", 4);
}

static bool is_webm(struct span b)
{
    return starts(b, 0, "\x1a\x45\xdf\xa3", 4);
}

/* MPEG audio has no magic: an ID3 tag, or a frame header of layer III with no reserved value. */
static bool is_mp3(struct span b)
{
    if (starts(b, 0, "ID3", 3))
        return true;
    return b.size >= 4 && b.data[0] == 0xff && (b.data[1] & 0xe6) == 0xe2 &&
           (b.data[1] & 0x18) != 0x08 && (b.data[2] & 0xf0) != 0xf0 && (b.data[2] & 0x0c) != 0x0c;
}

// clang-format off
static const struct {
    enum medium_kind kind; /* of PNG, Ogg and WebM the walker says which */
    enum medium_want want;
    bool (*is)(struct span bytes);
    bool (*walk)(struct medium *out, struct span bytes, struct status *st);
} rows[] = {
    {MEDIUM_PNG,        WANT_PICTURE, is_png,  sniff_png},
    {MEDIUM_JPEG,       WANT_PICTURE, is_jpeg, sniff_jpeg},
    {MEDIUM_WEBP,       WANT_PICTURE, is_webp, sniff_webp},
    {MEDIUM_WAV,        WANT_SOUND,   is_wav,  sniff_wav},
    {MEDIUM_FLAC,       WANT_SOUND,   is_flac, sniff_flac},
    {MEDIUM_OGG_OPUS,   WANT_SOUND,   is_ogg,  sniff_ogg},
    {MEDIUM_MP4_AAC,    WANT_SOUND,   is_mp4,  sniff_mp4_sound},
    {MEDIUM_WEBM_OPUS,  WANT_SOUND,   is_webm, sniff_webm_sound},
    {MEDIUM_MP4_VIDEO,  WANT_VIDEO,   is_mp4,  sniff_mp4_video},
    {MEDIUM_WEBM_VIDEO, WANT_VIDEO,   is_webm, sniff_webm_video},
    {MEDIUM_MP3,        WANT_SOUND,   is_mp3,  sniff_mp3},
};
// clang-format on

static const char *const names[MEDIUM_KINDS] = {
    [MEDIUM_PNG] = "PNG",
    [MEDIUM_PNG_DEEP] = "PNG",
    [MEDIUM_JPEG] = "JPEG",
    [MEDIUM_WEBP] = "WebP",
    [MEDIUM_WAV] = "WAV",
    [MEDIUM_FLAC] = "FLAC",
    [MEDIUM_MP3] = "MP3",
    [MEDIUM_OGG_OPUS] = "Ogg Opus",
    [MEDIUM_OGG_VORBIS] = "Ogg Vorbis",
    [MEDIUM_MP4_AAC] = "MP4",
    [MEDIUM_WEBM_OPUS] = "WebM/MKV",
    [MEDIUM_WEBM_VORBIS] = "WebM/MKV",
    [MEDIUM_MP4_VIDEO] = "MP4",
    [MEDIUM_WEBM_VIDEO] = "WebM/MKV",
};

const char *medium_name(enum medium_kind kind)
{
    return names[kind];
}

/* What people send instead; only so that the answer names it. */
static const char *foreign_name(struct span b)
{
    static const struct {
        size_t at;
        const char *magic;
        const char *name;
    } foreign[] = {
        {0, "GIF8", "a GIF"},
        {0, "BM", "a BMP"},
        {0, "II*", "a TIFF"},
        {0, "MM", "a TIFF"},
        {0, "%PDF", "a PDF document"},
        {0, "<svg", "an SVG drawing"},
        {0, "<?xml", "XML text"},
        {0, "<!DOCTYPE", "a web page"},
        {0, "<html", "a web page"},
        {0, "PK", "a ZIP archive"},
        {8, "hei", "a HEIC picture"},
        {8, "mif1", "a HEIF picture"},
        {8, "avif", "an AVIF picture"},
        {8, "AVI ", "an AVI video"},
        {0, "FLV\x01", "an FLV video"},
        {0, "\x47\x40", "an MPEG transport stream"},
        {0, "\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"},
        {0, "FORM", "an AIFF sound"},
        {0, "#!AMR", "an AMR sound"},
    };
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (starts(b, foreign[i].at, foreign[i].magic, strlen(foreign[i].magic)))
            return foreign[i].name;
    for (size_t i = 0; i < b.size && i < 64; i++)
        if (b.data[i] < 9 || b.data[i] > 126)
            return "bytes of no known kind";
    return "text";
}

bool sniff_foreign_codec(const char *name, struct span word, struct status *st)
{
    char shown[SOUND_NAME_SIZE] = "an unknown codec";
    for (size_t i = 0; i < word.size && i < sizeof shown - 1; i++) {
        shown[i] = (char)(word.data[i] > ' ' && word.data[i] <= '~' ? word.data[i] : '?');
        shown[i + 1] = 0;
    }
    return status_fail(st, STATUS_UNSUPPORTED,
                       "the video in it is %s; H.264, HEVC, VP8 and VP9 are read",
                       name ? name : shown);
}

bool sniff_video_size(struct medium *out, size_t width, size_t height, struct status *st)
{
    if (width == 0 || height == 0)
        return status_fail(st, STATUS_CORRUPT, "the size is %zu x %zu px", width, height);
    if (width > VIDEO_PIXELS_MAX / height)
        return status_fail(st, STATUS_LIMIT,
                           "%zu x %zu px are too many: at most %u million pixels a frame are taken",
                           width, height, VIDEO_PIXELS_MAX / 1000000);
    out->width_px = width;
    out->height_px = height;
    return true;
}

bool sniff(struct medium *out, struct span bytes, enum medium_want want, struct status *st)
{
    static const char *const wanted[WANTS] = {
        [WANT_PICTURE] = "picture (PNG, JPEG and WebP are read)",
        [WANT_SOUND] = ("sound (WAV, FLAC, MP3, Ogg Opus, Ogg Vorbis, AAC in MP4, Opus and Vorbis "
                        "in WebM are read)"),
        [WANT_VIDEO] = "video (H.264, HEVC, VP8 and VP9 in MP4, MOV, WebM and MKV are read)"};
    const char *found = NULL;
    if (bytes.size == 0)
        return status_fail(st, STATUS_INVALID, "the file is empty");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!rows[i].is(bytes))
            continue;
        if (rows[i].want != want) {
            found = rows[i].is == is_ogg ? "Ogg" : names[rows[i].kind];
            continue;
        }
        struct medium medium = {.kind = rows[i].kind, .orientation = 1, .length_s = -1.0};
        if (!rows[i].walk(&medium, bytes, st))
            return status_wrap(st, "%s", names[medium.kind]);
        *out = medium;
        return true;
    }
    return status_fail(st, STATUS_UNSUPPORTED, "not a %s: it is %s", wanted[want],
                       found ? found : foreign_name(bytes));
}
