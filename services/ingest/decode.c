/* decode.c - pictures and sounds: what was sniffed picks a fixed line of elements.
 *
 * gdkpixbufdec for JPEG, because it gives finished RGB with libjpeg's own upsampling of chroma (as
 * Pillow does); jpegdec leaves that to videoconvert, which does it worse. pngdec for PNG, because
 * gdkpixbufdec shows damaged files in part; but gdkpixbufdec for 16 bits a sample (the high byte is
 * kept, of grey too), where pngdec 1.22 shifts the channels: there sniff.c checks the sums. A PNG
 * whose compressed data are sound but too few is taken, the rest of it black. */
#include "services/ingest/decode.h"
#include "services/ingest/frames.h"
#include "services/ingest/line.h"
#include <string.h>

#define SOUND_TAIL                                                                                 \
    " ! audioconvert ! audioresample quality=10"                                                   \
    " ! audio/x-raw,format=F32LE,rate=16000,channels=1,layout=interleaved"

static const char *const lines[MEDIUM_KINDS] = {
    [MEDIUM_PNG] = "pngdec",
    [MEDIUM_PNG_DEEP] = "gdkpixbufdec",
    [MEDIUM_JPEG] = "gdkpixbufdec",
    [MEDIUM_WEBP] = "webpdec",
    [MEDIUM_WAV] = "wavparse" SOUND_TAIL,
    [MEDIUM_FLAC] = "flacparse ! flacdec" SOUND_TAIL,
    [MEDIUM_MP3] = "mpegaudioparse ! mpg123audiodec" SOUND_TAIL,
    [MEDIUM_OGG_OPUS] = "oggdemux ! opusdec" SOUND_TAIL,
    [MEDIUM_OGG_VORBIS] = "oggdemux ! vorbisdec" SOUND_TAIL,
    [MEDIUM_MP4_AAC] = "qtdemux name=demux demux.audio_0 ! aacparse ! faad" SOUND_TAIL,
    [MEDIUM_WEBM_OPUS] = "matroskademux name=demux demux.audio_0 ! opusdec" SOUND_TAIL,
    [MEDIUM_WEBM_VORBIS] = "matroskademux name=demux demux.audio_0 ! vorbisdec" SOUND_TAIL,
};

bool decode_open(struct status *st)
{
    return lines_open(st);
}

static bool decode_picture(struct decoded *out, struct span file, const struct medium *medium,
                           const struct decode_request *request, struct status *st)
{
    struct line *line;
    bool failed;
    if (!line_open_file(&line, lines[medium->kind], file, false, st))
        return false;
    struct sample *sample = line_pull(line, &failed, st);
    bool ok = sample || (!failed && status_fail(st, STATUS_CORRUPT, "there is no picture in it"));
    const size_t pixels = medium->width_px * medium->height_px;
    ok = ok && sample_rgb(sample, pixels, medium->orientation, out, st);
    const bool turned = medium->orientation > 4;
    if (ok && (turned ? out->height : out->width) != medium->width_px)
        ok = status_fail(st, STATUS_CORRUPT, "the header says %zu x %zu px, decoded are %zu x %zu",
                         medium->width_px, medium->height_px, out->width, out->height);
    sample_free(sample);
    /* A decoder that hits trouble late has given its picture and complains now. */
    while (ok && (sample = line_pull(line, &failed, st)) != NULL)
        sample_free(sample);
    line_close(line);
    return ok && !failed &&
           (request->budget == 0 || frame_resize(out, request->budget, request->tile_px, st));
}

void edit_open(uint8_t *file, const struct medium *medium)
{
    if (medium->edit_at == 0)
        return;
    const size_t n = medium->edit_version ? 8 : 4;
    memset(file + medium->edit_at - 4, 0, 4 + 2 * n);
    file[medium->edit_at - 1] = 1;        /* entry */
    file[medium->edit_at + n - 4] = 0x7f; /* duration; the start stays 0 */
}

bool decode_sound(struct decoded *out, uint8_t *file, size_t size, const struct medium *medium,
                  const struct sound_limit *limit, struct status *st)
{
    struct line *line;
    struct sample *sample;
    struct buffer all = {0};
    bool failed = false;
    edit_open(file, medium);
    if (!line_open_file(&line, lines[medium->kind], span_of(file, size), true, st))
        return false;
    while (all.size < sound_bytes_max(medium, limit) &&
           (sample = line_pull(line, &failed, st)) != NULL) {
        sample_append(sample, &all);
        sample_free(sample);
    }
    line_close(line);
    const bool ok = !failed && sound_cut(out, &all, medium, limit, st);
    buffer_clear(&all);
    return ok;
}

bool decode_medium(struct decoded *out, uint8_t *file, size_t size,
                   const struct decode_request *request, struct status *st)
{
    static const struct sound_limit limit = {.seconds = DECODE_SECONDS_MAX};
    struct medium medium;
    struct decoded result = {0};
    const enum medium_want want = (enum medium_want)request->want;
    bool ok = false;
    if (!sniff(&medium, span_of(file, size), want, st))
        return false;
    switch (want) {
    case WANT_PICTURE:
        ok = decode_picture(&result, span_of(file, size), &medium, request, st);
        break;
    case WANT_SOUND:
        ok = decode_sound(&result, file, size, &medium, &limit, st);
        break;
    case WANT_VIDEO:
        ok = decode_video(&result, file, size, &medium, request, st);
        break;
    case WANTS:
        break;
    }
    if (!ok) {
        buffer_clear(&result.bytes);
        return status_wrap(st, "%s", medium_name(medium.kind));
    }
    *out = result;
    return true;
}
