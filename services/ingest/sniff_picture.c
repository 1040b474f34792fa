/* sniff_picture.c - PNG, JPEG and WebP: size, orientation, completeness. */
#include "services/ingest/reader.h"
#include "services/ingest/sniff.h"
#include <string.h>

static bool check_size(struct medium *out, uint32_t width, uint32_t height, struct status *st)
{
    if (width == 0 || height == 0)
        return status_fail(st, STATUS_CORRUPT, "the size is %u x %u px", width, height);
    if (width > PICTURE_SIDE_MAX || height > PICTURE_SIDE_MAX ||
        (uint64_t)width * height > PICTURE_PIXELS_MAX)
        return status_fail(st, STATUS_LIMIT,
                           "%u x %u px are too many: at most %u million pixels and %u px a side "
                           "are taken",
                           width, height, PICTURE_PIXELS_MAX / 1000000, PICTURE_SIDE_MAX);
    out->width_px = width;
    out->height_px = height;
    return true;
}

static bool cut_off(struct status *st, const char *where)
{
    return status_fail(st, STATUS_CORRUPT, "the file is cut off %s", where);
}

/* EXIF is a small TIFF file; the orientation is tag 0x0112 of its first directory. What cannot be
 * read counts as upright. */
static int exif_orientation(struct span tiff)
{
    const bool little = reader_be(tiff, 0, 2) == 0x4949;
    uint32_t (*const number)(struct span, size_t, size_t) = little ? reader_le : reader_be;
    if (number(tiff, 2, 2) != 42)
        return 1;
    const size_t directory = number(tiff, 4, 4);
    const size_t n = number(tiff, directory, 2);
    for (size_t i = 0; i < n; i++) {
        const size_t entry = directory + 2 + 12 * i;
        if (!reader_has(tiff, entry, 12))
            return 1;
        if (number(tiff, entry, 2) != 0x0112)
            continue;
        const uint32_t value = number(tiff, entry + 8, 2);
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

/* Whether a chunk's sum (CRC-32, PNG specification annex D) fits; bytes [at, at + n) are summed. */
static bool sum_fits(struct span bytes, size_t at, size_t n)
{
    uint32_t sum = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        sum ^= bytes.data[at + i];
        for (int bit = 0; bit < 8; bit++)
            sum = (sum & 1 ? 0xedb88320U : 0) ^ sum >> 1;
    }
    return ~sum == reader_be(bytes, at + n, 4);
}

/* Deflated text or a profile: the decoder unpacks it, to a thousand times its size. */
static bool is_packed(const uint8_t *name, struct span chunk)
{
    if (memcmp(name, "zTXt", 4) == 0 || memcmp(name, "iCCP", 4) == 0)
        return true;
    if (memcmp(name, "iTXt", 4) != 0 || chunk.size == 0)
        return false;
    const uint8_t *keyword_end = memchr(chunk.data, 0, chunk.size - 1);
    return keyword_end && keyword_end[1] != 0;
}

bool sniff_png(struct medium *out, struct span bytes, struct status *st)
{
    if (!reader_has(bytes, 8, 25) || memcmp(bytes.data + 12, "IHDR", 4) != 0)
        return cut_off(st, "in the first chunk (IHDR)");
    if (!check_size(out, reader_be(bytes, 16, 4), reader_be(bytes, 20, 4), st))
        return false;
    if (bytes.data[24] == 16)
        out->kind = MEDIUM_PNG_DEEP;
    size_t packed = 0;
    for (size_t at = 8;;) {
        const size_t length = reader_be(bytes, at, 4);
        if (!reader_has(bytes, at, 12) || !reader_has(bytes, at + 12, length))
            return cut_off(st, "before the last chunk (IEND)");
        const uint8_t *name = bytes.data + at + 4;
        /* The other decoder checks sums itself. */
        if (out->kind == MEDIUM_PNG_DEEP && !sum_fits(bytes, at + 4, 4 + length))
            return status_fail(st, STATUS_CORRUPT, "chunk at byte %zu is damaged", at);
        if (is_packed(name, reader_part(bytes, at + 8, length)))
            packed += length;
        if (packed > PICTURE_PACKED_BYTES_MAX)
            return status_fail(st, STATUS_LIMIT,
                               "texts and profiles of more than %u bytes beside the picture",
                               PICTURE_PACKED_BYTES_MAX);
        if (memcmp(name, "eXIf", 4) == 0)
            out->orientation = exif_orientation(reader_part(bytes, at + 8, length));
        if (memcmp(name, "IEND", 4) == 0)
            return true;
        at += 12 + length;
    }
}

static bool is_frame_header(uint8_t marker)
{
    return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

/* Segments up to the first scan; then only the end marker counts, wherever it is. */
bool sniff_jpeg(struct medium *out, struct span bytes, struct status *st)
{
    size_t at = 2;
    for (;;) {
        while (reader_has(bytes, at, 2) && bytes.data[at] == 0xff && bytes.data[at + 1] == 0xff)
            at++; /* fill bytes */
        if (!reader_has(bytes, at, 4))
            return cut_off(st, "before the picture begins");
        if (bytes.data[at] != 0xff)
            return status_fail(st, STATUS_CORRUPT, "no marker at byte %zu", at);
        const uint8_t marker = bytes.data[at + 1];
        const size_t length = reader_be(bytes, at + 2, 2);
        if (length < 2)
            return status_fail(st, STATUS_CORRUPT, "segment of %zu bytes at byte %zu", length, at);
        if (!reader_has(bytes, at + 2, length))
            return cut_off(st, "before the picture begins");
        const struct span body = reader_part(bytes, at + 4, length - 2);
        if (marker == 0xe1 && body.size > 6 && memcmp(body.data, "Exif\0", 6) == 0)
            out->orientation = exif_orientation(reader_part(body, 6, body.size));
        if (is_frame_header(marker) &&
            !check_size(out, reader_be(body, 3, 2), reader_be(body, 1, 2), st))
            return false;
        at += 2 + length;
        if (marker == 0xda)
            break;
    }
    if (out->width_px == 0)
        return status_fail(st, STATUS_CORRUPT, "no frame header before the first scan");
    /* In a scan a 0xff byte is followed by 0 or a restart marker, so the end is found from the
     * back; what cameras append behind it is passed over. */
    for (size_t i = bytes.size - 1; i > at; i--)
        if (bytes.data[i - 1] == 0xff && bytes.data[i] == 0xd9)
            return true;
    return cut_off(st, "before the end of the picture (no end marker)");
}

/* Canvas size from the first chunk: VP8X, VP8L or VP8. */
static bool webp_size(struct medium *out, struct span chunk, const uint8_t *name, struct status *st)
{
    if (memcmp(name, "VP8X", 4) == 0 && chunk.size >= 10) {
        if (chunk.data[0] & 2)
            return status_fail(st, STATUS_UNSUPPORTED, "it is an animation; send one picture");
        return check_size(out, 1 + reader_le(chunk, 4, 3), 1 + reader_le(chunk, 7, 3), st);
    }
    if (memcmp(name, "VP8L", 4) == 0 && chunk.size >= 5) {
        const uint32_t bits = reader_le(chunk, 1, 4);
        return check_size(out, 1 + (bits & 0x3fff), 1 + (bits >> 14 & 0x3fff), st);
    }
    if (memcmp(name, "VP8 ", 4) == 0 && chunk.size >= 10)
        return check_size(out, reader_le(chunk, 6, 2) & 0x3fff, reader_le(chunk, 8, 2) & 0x3fff,
                          st);
    return status_fail(st, STATUS_CORRUPT, "the first chunk is none that holds a size");
}

bool sniff_webp(struct medium *out, struct span bytes, struct status *st)
{
    const size_t claimed = (size_t)reader_le(bytes, 4, 4) + 8;
    if (!reader_has(bytes, 12, 8) || claimed > bytes.size)
        return cut_off(st, "before the end its header tells");
    const struct span file = reader_part(bytes, 0, claimed);
    for (size_t at = 12; reader_has(file, at, 8);) {
        const size_t length = reader_le(file, at + 4, 4);
        if (!reader_has(file, at + 8, length))
            return cut_off(st, "inside a chunk");
        const struct span chunk = reader_part(file, at + 8, length);
        if (at == 12 && !webp_size(out, chunk, file.data + at, st))
            return false;
        if (memcmp(file.data + at, "EXIF", 4) == 0) {
            const bool prefixed = length > 6 && memcmp(chunk.data, "Exif\0", 6) == 0;
            out->orientation =
                exif_orientation(prefixed ? reader_part(chunk, 6, chunk.size) : chunk);
        }
        at += 8 + length + (length & 1);
    }
    if (out->width_px == 0)
        return status_fail(st, STATUS_CORRUPT, "there is no picture in it");
    return true;
}
