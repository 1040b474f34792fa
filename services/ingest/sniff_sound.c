/* sniff_sound.c - WAV, FLAC, MP3, Ogg: rate, length, completeness, silence put in by encoders. */
#include "services/ingest/reader.h"
#include "services/ingest/sniff.h"
#include <string.h>

#define RATE_HZ_MIN 4000
#define RATE_HZ_MAX 192000
#define CHANNELS_MAX 8

static bool cut_off(struct status *st, const char *where)
{
    return status_fail(st, STATUS_CORRUPT, "the file is cut off %s", where);
}

static bool check_rate(uint32_t rate_hz, struct status *st)
{
    if (rate_hz < RATE_HZ_MIN || rate_hz > RATE_HZ_MAX)
        return status_fail(st, STATUS_UNSUPPORTED, "%u samples a second; %u to %u are read",
                           rate_hz, RATE_HZ_MIN, RATE_HZ_MAX);
    return true;
}

struct wav_format {
    uint32_t tag, channels, rate_hz, block_bytes, bits;
};

static bool check_wav_format(const struct wav_format *f, struct status *st)
{
    if (f->tag != 1 && f->tag != 3)
        return status_fail(st, STATUS_UNSUPPORTED, "format tag %u; plain PCM and float are read",
                           f->tag);
    const bool known = f->tag == 1 ? f->bits == 8 || f->bits == 16 || f->bits == 24 || f->bits == 32
                                   : f->bits == 32 || f->bits == 64;
    if (!known)
        return status_fail(st, STATUS_UNSUPPORTED, "%u bits a sample", f->bits);
    if (f->channels == 0 || f->channels > CHANNELS_MAX)
        return status_fail(st, STATUS_UNSUPPORTED, "%u channels", f->channels);
    if (f->block_bytes != f->channels * f->bits / 8)
        return status_fail(st, STATUS_CORRUPT, "%u bytes a block do not fit %u channels of %u bits",
                           f->block_bytes, f->channels, f->bits);
    return check_rate(f->rate_hz, st);
}

bool sniff_wav(struct medium *out, struct span bytes, struct status *st)
{
    struct wav_format format = {0};
    for (size_t at = 12; reader_has(bytes, at, 8);) {
        const size_t length = reader_le(bytes, at + 4, 4);
        const struct span chunk = reader_part(bytes, at + 8, length);
        if (memcmp(bytes.data + at, "fmt ", 4) == 0 && chunk.size >= 16) {
            format = (struct wav_format){reader_le(chunk, 0, 2), reader_le(chunk, 2, 2),
                                         reader_le(chunk, 4, 4), reader_le(chunk, 12, 2),
                                         reader_le(chunk, 14, 2)};
            if (format.tag == 0xfffe) /* the tag is the start of the GUID in the extension */
                format.tag = reader_le(chunk, 24, 2);
            if (!check_wav_format(&format, st))
                return false;
        }
        if (memcmp(bytes.data + at, "data", 4) == 0) {
            if (format.block_bytes == 0)
                return status_fail(st, STATUS_CORRUPT, "no format before the samples");
            /* Who writes into a pipe cannot know the length: then it is to the end. */
            if (chunk.size < length && length != UINT32_MAX)
                return status_fail(st, STATUS_CORRUPT,
                                   "the file is cut off: %zu of %zu bytes of sound are there",
                                   chunk.size, length);
            const size_t samples = chunk.size / format.block_bytes;
            out->expect_s = (double)samples / (double)format.rate_hz;
            return true;
        }
        at += 8 + length + (length & 1);
    }
    return cut_off(st, "before the samples");
}

bool sniff_flac(struct medium *out, struct span bytes, struct status *st)
{
    if (!reader_has(bytes, 4, 38) || (bytes.data[4] & 0x7f) != 0)
        return cut_off(st, "in STREAMINFO");
    const uint32_t rate_hz = reader_be(bytes, 18, 3) >> 4;
    const uint64_t samples = (uint64_t)(bytes.data[21] & 0xf) << 32 | reader_be(bytes, 22, 4);
    if (!check_rate(rate_hz, st))
        return false;
    out->expect_s = (double)samples / (double)rate_hz;
    return true;
}

struct mp3_frame {
    uint32_t rate_hz, samples;
    size_t size_bytes, info_at; /* info_at: where a Xing header would be */
};

/* Header of a layer III frame; false when these four bytes are none. */
static bool mp3_frame(struct mp3_frame *out, uint32_t header)
{
    static const uint16_t kbit[2][16] = {
        {0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0},
        {0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0}};
    static const uint32_t rates[3] = {44100, 48000, 32000};
    const uint32_t version = header >> 19 & 3; /* 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5 */
    const uint32_t rate = header >> 10 & 3, bitrate = header >> 12 & 15;
    if (header >> 21 != 0x7ff || version == 1 || (header >> 17 & 3) != 1 || rate == 3 ||
        bitrate == 0 || bitrate == 15)
        return false;
    const bool first = version == 3, mono = (header >> 6 & 3) == 3;
    out->rate_hz = rates[rate] >> (first ? 0 : version == 2 ? 1 : 2);
    out->samples = first ? 1152 : 576;
    out->size_bytes =
        out->samples / 8 * kbit[first][bitrate] * 1000U / out->rate_hz + (header >> 9 & 1);
    out->info_at = 4U + (first ? (mono ? 17U : 32U) : (mono ? 9U : 17U));
    return true;
}

#define MP3_SEARCH_BYTES 65536
#define MP3_DECODER_DELAY 529 /* samples, of every decoder */
#define MP3_ENCODER_DELAY 576 /* of LAME, taken where the file does not tell */

/* Encoder delay and padding from the header that LAME and Lavc write into the first frame. */
static void mp3_gapless(struct medium *out, struct span bytes, const struct mp3_frame *frame)
{
    const double rate = (double)frame->rate_hz;
    out->start_s = (MP3_DECODER_DELAY + MP3_ENCODER_DELAY) / rate;
    const struct span info = reader_part(bytes, frame->info_at, frame->size_bytes);
    if (info.size < 8 || (memcmp(info.data, "Xing", 4) != 0 && memcmp(info.data, "Info", 4) != 0))
        return;
    const uint32_t flags = reader_be(info, 4, 4);
    if (!(flags & 1))
        return;
    const double samples = (double)reader_be(info, 8, 4) * frame->samples;
    out->expect_s = samples / rate;
    const size_t tag = 8U + (flags & 1 ? 4 : 0) + (flags & 2 ? 4 : 0) + (flags & 4 ? 100 : 0) +
                       (flags & 8 ? 4 : 0);
    const uint32_t gaps = reader_be(info, tag + 21, 3);
    if (gaps == 0)
        return;
    const uint32_t delay = gaps >> 12, padding = gaps & 0xfff;
    out->start_s = (delay + MP3_DECODER_DELAY) / rate;
    out->length_s = (samples - delay - padding) / rate;
}

bool sniff_mp3(struct medium *out, struct span bytes, struct status *st)
{
    size_t at = 0;
    if (reader_has(bytes, 0, 10) && memcmp(bytes.data, "ID3", 3) == 0)
        at = 10 + ((size_t)(bytes.data[6] & 0x7f) << 21 | (size_t)(bytes.data[7] & 0x7f) << 14 |
                   (size_t)(bytes.data[8] & 0x7f) << 7 | (bytes.data[9] & 0x7f));
    for (const size_t end = at + MP3_SEARCH_BYTES; at < end && reader_has(bytes, at, 4); at++) {
        struct mp3_frame frame, next;
        if (!mp3_frame(&frame, reader_be(bytes, at, 4)))
            continue;
        const size_t after = at + frame.size_bytes;
        if (reader_has(bytes, after, 4) && !mp3_frame(&next, reader_be(bytes, after, 4)))
            continue; /* four bytes that only look like a header */
        mp3_gapless(out, reader_part(bytes, at, bytes.size), &frame);
        return true;
    }
    return status_fail(st, STATUS_CORRUPT, "no frame of MPEG audio, layer III");
}

static bool ogg_codec(struct medium *out, struct span packet, struct status *st)
{
    if (packet.size >= 19 && memcmp(packet.data, "OpusHead", 8) == 0)
        out->kind = MEDIUM_OGG_OPUS;
    else if (packet.size >= 30 && memcmp(packet.data, "\x01vorbis", 7) == 0)
        out->kind = MEDIUM_OGG_VORBIS;
    else
        return status_fail(st, STATUS_UNSUPPORTED, "an Ogg file with neither Opus nor Vorbis");
    return out->kind == MEDIUM_OGG_OPUS || check_rate(reader_le(packet, 12, 4), st);
}

bool sniff_ogg(struct medium *out, struct span bytes, struct status *st)
{
    for (size_t at = 0; at < bytes.size;) {
        const size_t segments = reader_has(bytes, at, 27) ? bytes.data[at + 26] : 0;
        if (!reader_has(bytes, at, 27 + segments))
            return cut_off(st, "inside a page header");
        if (memcmp(bytes.data + at, "OggS", 4) != 0)
            return status_fail(st, STATUS_CORRUPT, "no page at byte %zu", at);
        size_t length = 0;
        for (size_t i = 0; i < segments; i++)
            length += bytes.data[at + 27 + i];
        if (!reader_has(bytes, at + 27 + segments, length))
            return cut_off(st, "inside a page");
        if (at == 0 && !ogg_codec(out, reader_part(bytes, 27 + segments, length), st))
            return false;
        at += 27 + segments + length;
    }
    return true;
}
