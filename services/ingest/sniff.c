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

static bool is_mp4(struct span b)
{
    return starts(b, 4, "ftyp", 4) && !starts(b, 8, "hei", 3) && !starts(b, 8, "mif1", 4) &&
           !starts(b, 8, "avif", 4);
}

/* MPEG audio has no magic: an ID3 tag, or a frame header of layer III with no reserved value. */
static bool is_mp3(struct span b)
{
    if (starts(b, 0, "ID3", 3))
        return true;
    return b.size >= 4 && b.data[0] == 0xff && (b.data[1] & 0xe6) == 0xe2 &&
           (b.data[1] & 0x18) != 0x08 && (b.data[2] & 0xf0) != 0xf0 && (b.data[2] & 0x0c) != 0x0c;
}

static const struct {
    enum medium_kind kind; /* of PNG and Ogg the walker says which */
    bool (*is)(struct span bytes);
    bool (*walk)(struct medium *out, struct span bytes, struct status *st);
} rows[] = {
    {MEDIUM_PNG, is_png, sniff_png},     {MEDIUM_JPEG, is_jpeg, sniff_jpeg},
    {MEDIUM_WEBP, is_webp, sniff_webp},  {MEDIUM_WAV, is_wav, sniff_wav},
    {MEDIUM_FLAC, is_flac, sniff_flac},  {MEDIUM_OGG_OPUS, is_ogg, sniff_ogg},
    {MEDIUM_MP4_AAC, is_mp4, sniff_mp4}, {MEDIUM_MP3, is_mp3, sniff_mp3},
};

static const char *const names[MEDIUM_KINDS] = {
    [MEDIUM_PNG] = "PNG",     [MEDIUM_PNG_DEEP] = "PNG",      [MEDIUM_JPEG] = "JPEG",
    [MEDIUM_WEBP] = "WebP",   [MEDIUM_WAV] = "WAV",           [MEDIUM_FLAC] = "FLAC",
    [MEDIUM_MP3] = "MP3",     [MEDIUM_OGG_OPUS] = "Ogg Opus", [MEDIUM_OGG_VORBIS] = "Ogg Vorbis",
    [MEDIUM_MP4_AAC] = "MP4",
};

const char *medium_name(enum medium_kind kind)
{
    return names[kind];
}

bool medium_is_picture(enum medium_kind kind)
{
    return kind <= MEDIUM_WEBP;
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
        {0, "\x1a\x45\xdf\xa3", "a Matroska or WebM file"},
        {8, "hei", "a HEIC picture"},
        {8, "mif1", "a HEIF picture"},
        {8, "avif", "an AVIF picture"},
        {8, "AVI ", "an AVI video"},
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

bool sniff(struct medium *out, struct span bytes, bool want_picture, struct status *st)
{
    const char *wanted = want_picture ? "picture (PNG, JPEG and WebP are read)"
                                      : "sound (WAV, FLAC, MP3, Ogg Opus, Ogg Vorbis and AAC in "
                                        "MP4 are read)";
    if (bytes.size == 0)
        return status_fail(st, STATUS_INVALID, "the file is empty");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!rows[i].is(bytes))
            continue;
        if (medium_is_picture(rows[i].kind) != want_picture)
            return status_fail(st, STATUS_UNSUPPORTED, "not a %s: it is %s", wanted,
                               names[rows[i].kind]);
        struct medium medium = {.kind = rows[i].kind, .orientation = 1, .length_s = -1.0};
        if (!rows[i].walk(&medium, bytes, st))
            return status_wrap(st, "%s", names[medium.kind]);
        *out = medium;
        return true;
    }
    return status_fail(st, STATUS_UNSUPPORTED, "not a %s: it is %s", wanted, foreign_name(bytes));
}
