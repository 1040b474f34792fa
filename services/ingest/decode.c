/* decode.c - the only file that speaks GStreamer.
 *
 * No autoplugging: what was sniffed picks a fixed line of elements, and only the plugins that these
 * lines name are loaded, from the system's folder, without a registry (which would be written to a
 * home directory and could name anything).
 *
 * gdkpixbufdec for JPEG, because it gives finished RGB with libjpeg's own upsampling of chroma (as
 * Pillow does); jpegdec leaves that to videoconvert, which does it worse. pngdec for PNG, because
 * gdkpixbufdec shows damaged files in part; but gdkpixbufdec for 16 bits a sample (the high byte is
 * kept, of grey too), where pngdec 1.22 shifts the channels: there sniff.c checks the sums. A PNG
 * whose compressed data are sound but too few is taken, the rest of it black. */
#include "services/ingest/decode.h"
#include "engine/media/media.h"
#include "services/ingest/frames.h"
#include "services/ingest/sniff.h"
#include <gst/app/app.h>
#include <gst/gst.h>
#include <gst/video/video.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SOUND_TAIL                                                                                 \
    " ! audioconvert ! audioresample quality=10"                                                   \
    " ! audio/x-raw,format=F32LE,rate=16000,channels=1,layout=interleaved"
#define SINK " ! appsink name=sink sync=false max-buffers=8"

static const char *const lines[MEDIUM_KINDS] = {
    [MEDIUM_PNG] = "appsrc name=source ! pngdec" SINK,
    [MEDIUM_PNG_DEEP] = "appsrc name=source ! gdkpixbufdec" SINK,
    [MEDIUM_JPEG] = "appsrc name=source ! gdkpixbufdec" SINK,
    [MEDIUM_WEBP] = "appsrc name=source ! webpdec" SINK,
    [MEDIUM_WAV] = "appsrc name=source ! wavparse" SOUND_TAIL SINK,
    [MEDIUM_FLAC] = "appsrc name=source ! flacparse ! flacdec" SOUND_TAIL SINK,
    [MEDIUM_MP3] = "appsrc name=source ! mpegaudioparse ! mpg123audiodec" SOUND_TAIL SINK,
    [MEDIUM_OGG_OPUS] = "appsrc name=source ! oggdemux ! opusdec" SOUND_TAIL SINK,
    [MEDIUM_OGG_VORBIS] = "appsrc name=source ! oggdemux ! vorbisdec" SOUND_TAIL SINK,
    [MEDIUM_MP4_AAC] = "appsrc name=source ! qtdemux name=demux demux.audio_0"
                       " ! aacparse ! faad" SOUND_TAIL SINK,
};

static const char *const plugins[] = {
    "coreelements", "app",  "gdkpixbuf",    "png",           "webp", "wavparse",
    "audioparsers", "flac", "mpg123",       "ogg",           "opus", "vorbis",
    "isomp4",       "faad", "audioconvert", "audioresample",
};

bool decode_open(struct status *st)
{
    setenv("GST_REGISTRY_DISABLE", "yes", 1);
    setenv("GST_REGISTRY_FORK", "no", 1);
    setenv("GST_PLUGIN_SYSTEM_PATH_1_0", "", 1);
    setenv("GST_PLUGIN_PATH_1_0", "", 1);
    setenv("GDK_PIXBUF_MODULE_FILE", "/dev/null", 1); /* JPEG is built in */
    setenv("GIO_USE_VFS", "local", 1);
    GError *error = NULL;
    if (!gst_init_check(NULL, NULL, &error)) {
        (void)status_fail(st, STATUS_SYSTEM, "GStreamer does not start: %s", error->message);
        g_error_free(error);
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(plugins); i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/libgst%s.so", MILLRACE_GST_PLUGINS, plugins[i]);
        GstPlugin *plugin = gst_plugin_load_file(path, &error);
        if (!plugin) {
            (void)status_fail(st, STATUS_NOT_FOUND, "GStreamer plugin '%s': %s", plugins[i],
                              error->message);
            g_error_free(error);
            return false;
        }
        gst_object_unref(plugin);
    }
    return true;
}

/* The file as the source of a line; demuxers read it where they like. */
struct source {
    uint8_t *data;
    size_t size, at;
};

static void push_next(GstAppSrc *app, guint wanted, gpointer context)
{
    struct source *source = context;
    size_t n = wanted > 0 && wanted < 1U << 20 ? wanted : 65536;
    if (n > source->size - source->at)
        n = source->size - source->at;
    if (n == 0) {
        gst_app_src_end_of_stream(app);
        return;
    }
    GstBuffer *buffer = gst_buffer_new_wrapped_full(GST_MEMORY_FLAG_READONLY,
                                                    source->data + source->at, n, 0, n, NULL, NULL);
    GST_BUFFER_OFFSET(buffer) = source->at;
    source->at += n;
    gst_app_src_push_buffer(app, buffer);
}

static gboolean seek(GstAppSrc *app, guint64 at, gpointer context)
{
    (void)app;
    struct source *source = context;
    if (at > source->size)
        return FALSE;
    source->at = (size_t)at;
    return TRUE;
}

/* A line that runs. */
struct line {
    GstElement *pipeline;
    GstAppSink *sink;
    struct source source;
};

static void line_close(struct line *line)
{
    if (line->sink)
        gst_object_unref(line->sink);
    if (line->pipeline) {
        gst_element_set_state(line->pipeline, GST_STATE_NULL);
        gst_object_unref(line->pipeline);
    }
}

static bool line_open(struct line *line, enum medium_kind kind, uint8_t *file, size_t size,
                      struct status *st)
{
    *line = (struct line){.source = {file, size, 0}};
    GError *error = NULL;
    line->pipeline = gst_parse_launch(lines[kind], &error);
    if (!line->pipeline || error) {
        (void)status_fail(st, STATUS_INTERNAL, "decoder line: %s", error ? error->message : "?");
        g_clear_error(&error);
        line_close(line);
        return false;
    }
    GstElement *source = gst_bin_get_by_name(GST_BIN(line->pipeline), "source");
    line->sink = GST_APP_SINK(gst_bin_get_by_name(GST_BIN(line->pipeline), "sink"));
    const bool picture = medium_is_picture(kind);
    g_object_set(source, "stream-type",
                 picture ? GST_APP_STREAM_TYPE_STREAM : GST_APP_STREAM_TYPE_RANDOM_ACCESS, "size",
                 (gint64)size, "format", GST_FORMAT_BYTES, NULL);
    GstAppSrcCallbacks callbacks = {.need_data = push_next, .seek_data = seek};
    gst_app_src_set_callbacks(GST_APP_SRC(source), &callbacks, &line->source, NULL);
    gst_object_unref(source);
    gst_element_set_state(line->pipeline, GST_STATE_PLAYING);
    return true;
}

/* The first error on the bus, if there is one. Words of a decoder may hold bytes of the file. */
static bool line_failed(const struct line *line, struct status *st)
{
    GstBus *bus = gst_element_get_bus(line->pipeline);
    GstMessage *message = gst_bus_pop_filtered(bus, GST_MESSAGE_ERROR);
    gst_object_unref(bus);
    if (!message)
        return false;
    GError *error = NULL;
    gst_message_parse_error(message, &error, NULL);
    for (char *c = error->message; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    (void)status_fail(st, STATUS_CORRUPT, "does not decode: %s", error->message);
    g_error_free(error);
    gst_message_unref(message);
    return true;
}

/* The next piece, or NULL at the end and on failure (*failed tells which). */
static GstSample *line_pull(const struct line *line, bool *failed, struct status *st)
{
    *failed = false;
    for (;;) {
        GstSample *sample = gst_app_sink_try_pull_sample(line->sink, 10 * GST_MSECOND);
        if (sample)
            return sample;
        if (line_failed(line, st)) {
            *failed = true;
            return NULL;
        }
        if (gst_app_sink_is_eos(line->sink))
            return NULL;
    }
}

/* Where red, green and blue are in a pixel of the formats that our decoders put out. */
static bool pixel_layout(struct frame_layout *out, const GstVideoInfo *info)
{
    const bool grey = GST_VIDEO_INFO_IS_GRAY(info);
    if (GST_VIDEO_INFO_N_PLANES(info) != 1 || !(grey || GST_VIDEO_INFO_IS_RGB(info)) ||
        GST_VIDEO_INFO_COMP_DEPTH(info, 0) != 8)
        return false;
    *out = (struct frame_layout){.stride = (size_t)GST_VIDEO_INFO_PLANE_STRIDE(info, 0),
                                 .pixel_bytes = (size_t)GST_VIDEO_INFO_COMP_PSTRIDE(info, 0)};
    for (guint c = 0; c < 3; c++)
        out->at[c] = (size_t)GST_VIDEO_INFO_COMP_POFFSET(info, grey ? 0 : c);
    return true;
}

/* Rows of a decoded picture as RGB without padding; alpha is dropped, not blended. */
static bool copy_rgb(struct decoded *out, GstSample *sample, const struct medium *medium,
                     struct status *st)
{
    GstVideoInfo info;
    GstVideoFrame frame;
    struct frame_layout layout;
    GstCaps *caps = gst_sample_get_caps(sample);
    if (!caps || !gst_video_info_from_caps(&info, caps) || !pixel_layout(&layout, &info))
        return status_fail(st, STATUS_INTERNAL, "the decoder's pixels are of no known kind");
    const size_t width = (size_t)info.width, height = (size_t)info.height;
    if (width != medium->width_px || height != medium->height_px)
        return status_fail(st, STATUS_CORRUPT,
                           "the header says %zu x %zu px, decoded are %zu x %zu", medium->width_px,
                           medium->height_px, width, height);
    if (!gst_video_frame_map(&frame, &info, gst_sample_get_buffer(sample), GST_MAP_READ))
        return status_fail(st, STATUS_INTERNAL, "the decoder's pixels cannot be read");
    layout.stride = (size_t)GST_VIDEO_FRAME_PLANE_STRIDE(&frame, 0);
    frame_upright(out, GST_VIDEO_FRAME_PLANE_DATA(&frame, 0), height, width, &layout,
                  medium->orientation);
    gst_video_frame_unmap(&frame);
    return true;
}

static bool decode_picture(struct decoded *out, struct line *line, const struct medium *medium,
                           struct status *st)
{
    bool failed;
    GstSample *sample = line_pull(line, &failed, st);
    if (!sample)
        return failed ? false : status_fail(st, STATUS_CORRUPT, "there is no picture in it");
    bool ok = copy_rgb(out, sample, medium, st);
    gst_sample_unref(sample);
    /* A decoder that hits trouble late has given its picture and complains now. */
    while (ok && (sample = line_pull(line, &failed, st)) != NULL)
        gst_sample_unref(sample);
    return ok && !failed;
}

#define SOUND_BYTES_MAX ((size_t)MEDIA_AUDIO_RATE_HZ * 600 * sizeof(float)) /* decoded at all */

static bool decode_sound(struct decoded *out, struct line *line, const struct medium *medium,
                         struct status *st)
{
    bool failed = false;
    GstSample *sample;
    struct buffer all = {0};
    while (all.size <= SOUND_BYTES_MAX && (sample = line_pull(line, &failed, st)) != NULL) {
        GstMapInfo map;
        if (gst_buffer_map(gst_sample_get_buffer(sample), &map, GST_MAP_READ)) {
            buffer_append(&all, map.data, map.size);
            gst_buffer_unmap(gst_sample_get_buffer(sample), &map);
        }
        gst_sample_unref(sample);
    }
    const bool ok = !failed && sound_cut(out, &all, medium, st);
    buffer_clear(&all);
    return ok;
}

/* An edit list that shows everything: from 0, and for long. */
static void open_edit(uint8_t *file, const struct medium *medium)
{
    if (medium->edit_at == 0)
        return;
    const size_t n = medium->edit_version ? 8 : 4;
    memset(file + medium->edit_at, 0, 2 * n);
    file[medium->edit_at + n - 4] = 0x7f; /* duration; the start stays 0 */
}

bool decode_medium(struct decoded *out, uint8_t *file, size_t size,
                   const struct decode_request *request, struct status *st)
{
    struct medium medium;
    struct line line;
    struct decoded result = {0};
    const bool picture = request->want == DECODE_PICTURE;
    if (!sniff(&medium, span_of(file, size), picture, st))
        return false;
    open_edit(file, &medium);
    if (!line_open(&line, medium.kind, file, size, st))
        return false;
    bool ok = picture ? decode_picture(&result, &line, &medium, st)
                      : decode_sound(&result, &line, &medium, st);
    line_close(&line);
    if (ok && picture && request->budget > 0)
        ok = frame_resize(&result, request->budget, request->tile_px, st);
    if (!ok) {
        buffer_clear(&result.bytes);
        return status_wrap(st, "%s", medium_name(medium.kind));
    }
    *out = result;
    return true;
}
