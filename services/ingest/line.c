/* line.c - the only file that speaks GStreamer.
 *
 * No autoplugging: callers name fixed elements, and only the plugins that these need are loaded,
 * from the system's folder, without a registry (which would be written to a home directory and
 * could name anything). */
#include "services/ingest/line.h"
#include "engine/base/heap.h"
#include "services/ingest/frames.h"
#include <gst/app/app.h>
#include <gst/gst.h>
#include <gst/video/video.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAUNCH_MAX 512

/* Of pictures and sound; lines of video load theirs when one comes. */
static const char *const plugins[] = {
    "coreelements", "app",  "gdkpixbuf",    "png",           "webp",     "wavparse",
    "audioparsers", "flac", "mpg123",       "ogg",           "opus",     "vorbis",
    "isomp4",       "faad", "audioconvert", "audioresample", "matroska",
};

bool lines_load(const char *const *names, size_t n, struct status *st)
{
    GError *error = NULL;
    for (size_t i = 0; i < n; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/libgst%s.so", MILLRACE_GST_PLUGINS, names[i]);
        GstPlugin *plugin = gst_plugin_load_file(path, &error);
        if (!plugin) {
            (void)status_fail(st, STATUS_NOT_FOUND, "GStreamer plugin '%s': %s", names[i],
                              error->message);
            g_error_free(error);
            return false;
        }
        gst_object_unref(plugin);
    }
    return true;
}

bool lines_open(struct status *st)
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
    return lines_load(plugins, G_N_ELEMENTS(plugins), st);
}

struct line {
    GstElement *pipeline;
    GstAppSink *sink;
    /* What the source puts out: a file, or packets. */
    struct span file;
    struct sample *const *packets;
    size_t n_packets;
    size_t at; /* in bytes, or packets */
};

/* A sample is GStreamer's own; the struct is never defined. */
static GstSample *own(struct sample *sample)
{
    return (GstSample *)sample;
}

static void push_bytes(GstAppSrc *app, guint wanted, gpointer context)
{
    struct line *line = context;
    size_t n = wanted > 0 && wanted < 1U << 20 ? wanted : 65536;
    if (n > line->file.size - line->at)
        n = line->file.size - line->at;
    if (n == 0) {
        gst_app_src_end_of_stream(app);
        return;
    }
    GstBuffer *buffer = gst_buffer_new_wrapped_full(
        GST_MEMORY_FLAG_READONLY, (gpointer)(line->file.data + line->at), n, 0, n, NULL, NULL);
    GST_BUFFER_OFFSET(buffer) = line->at;
    line->at += n;
    gst_app_src_push_buffer(app, buffer);
}

static void push_packet(GstAppSrc *app, guint wanted, gpointer context)
{
    (void)wanted;
    struct line *line = context;
    if (line->at == line->n_packets) {
        gst_app_src_end_of_stream(app);
        return;
    }
    GstBuffer *buffer = gst_sample_get_buffer(own(line->packets[line->at++]));
    gst_app_src_push_buffer(app, gst_buffer_ref(buffer));
}

static gboolean seek(GstAppSrc *app, guint64 at, gpointer context)
{
    (void)app;
    struct line *line = context;
    if (at > line->file.size)
        return FALSE;
    line->at = (size_t)at;
    return TRUE;
}

void line_close(struct line *line)
{
    if (!line)
        return;
    if (line->sink)
        gst_object_unref(line->sink);
    if (line->pipeline) {
        gst_element_set_state(line->pipeline, GST_STATE_NULL);
        gst_object_unref(line->pipeline);
    }
    heap_free(line);
}

/* The line without a source that works; NULL on failure. */
static struct line *line_make(const char *elements, GstElement **out_source, struct status *st)
{
    char launch[LAUNCH_MAX];
    GError *error = NULL;
    struct line *line = heap_new(1, sizeof *line);
    snprintf(launch, sizeof launch,
             "appsrc name=source ! %s ! appsink name=sink sync=false max-buffers=8", elements);
    line->pipeline = gst_parse_launch(launch, &error);
    if (!line->pipeline || error) {
        (void)status_fail(st, STATUS_INTERNAL, "decoder line: %s", error ? error->message : "?");
        g_clear_error(&error);
        line_close(line);
        return NULL;
    }
    *out_source = gst_bin_get_by_name(GST_BIN(line->pipeline), "source");
    line->sink = GST_APP_SINK(gst_bin_get_by_name(GST_BIN(line->pipeline), "sink"));
    return line;
}

static void line_start(struct line *line, GstElement *source, GstAppSrcCallbacks *callbacks)
{
    gst_app_src_set_callbacks(GST_APP_SRC(source), callbacks, line, NULL);
    gst_object_unref(source);
    gst_element_set_state(line->pipeline, GST_STATE_PLAYING);
}

bool line_open_file(struct line **out, const char *elements, struct span file, bool seekable,
                    struct status *st)
{
    GstElement *source;
    struct line *line = line_make(elements, &source, st);
    if (!line)
        return false;
    line->file = file;
    g_object_set(source, "stream-type",
                 seekable ? GST_APP_STREAM_TYPE_RANDOM_ACCESS : GST_APP_STREAM_TYPE_STREAM, "size",
                 (gint64)file.size, "format", GST_FORMAT_BYTES, NULL);
    line_start(line, source, &(GstAppSrcCallbacks){.need_data = push_bytes, .seek_data = seek});
    *out = line;
    return true;
}

bool line_open_packets(struct line **out, const char *elements, struct sample *const *packets,
                       size_t n, struct status *st)
{
    GstElement *source;
    struct line *line = line_make(elements, &source, st);
    if (!line)
        return false;
    line->packets = packets;
    line->n_packets = n;
    if (n > 0)
        gst_app_src_set_caps(GST_APP_SRC(source), gst_sample_get_caps(own(packets[0])));
    g_object_set(source, "format", GST_FORMAT_TIME, NULL);
    line_start(line, source, &(GstAppSrcCallbacks){.need_data = push_packet});
    *out = line;
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

struct sample *line_pull(struct line *line, bool *failed, struct status *st)
{
    *failed = false;
    for (;;) {
        GstSample *sample = gst_app_sink_try_pull_sample(line->sink, 10 * GST_MSECOND);
        if (sample)
            return (struct sample *)sample;
        if (line_failed(line, st)) {
            *failed = true;
            return NULL;
        }
        if (gst_app_sink_is_eos(line->sink))
            return NULL;
    }
}

void sample_free(struct sample *sample)
{
    if (sample)
        gst_sample_unref(own(sample));
}

void sample_append(struct sample *sample, struct buffer *out)
{
    GstBuffer *buffer = gst_sample_get_buffer(own(sample));
    GstMapInfo map;
    if (!gst_buffer_map(buffer, &map, GST_MAP_READ))
        return;
    buffer_append(out, map.data, map.size);
    gst_buffer_unmap(buffer, &map);
}

struct sample_time sample_time(struct sample *sample)
{
    GstBuffer *buffer = gst_sample_get_buffer(own(sample));
    const guint64 time = GST_BUFFER_PTS(buffer), length = GST_BUFFER_DURATION(buffer);
    struct sample_time out = {.mark = time,
                              .key = !GST_BUFFER_FLAG_IS_SET(buffer, GST_BUFFER_FLAG_DELTA_UNIT)};
    (void)gst_buffer_extract(buffer, 0, &out.first, 1);
    out.shown = GST_CLOCK_TIME_IS_VALID(time) && time < (guint64)INT64_MAX &&
                !GST_BUFFER_FLAG_IS_SET(buffer, GST_BUFFER_FLAG_DECODE_ONLY);
    /* Nanoseconds are rounded down from the container's units: to the nearest microsecond. */
    out.begin_us = out.shown ? (int64_t)((time + 500) / 1000) : 0;
    if (GST_CLOCK_TIME_IS_VALID(length) && length < (guint64)INT64_MAX)
        out.length_us = (int64_t)(length / 1000);
    return out;
}

/* Where red, green and blue are in a pixel of the formats that our picture decoders put out. */
static bool pixel_layout(struct frame_layout *out, const GstVideoInfo *info)
{
    const bool grey = GST_VIDEO_INFO_IS_GRAY(info);
    if (info->colorimetry.range == GST_VIDEO_COLOR_RANGE_16_235 ||
        GST_VIDEO_INFO_N_PLANES(info) != 1 || !(grey || GST_VIDEO_INFO_IS_RGB(info)) ||
        GST_VIDEO_INFO_COMP_DEPTH(info, 0) != 8)
        return false;
    *out = (struct frame_layout){.stride = (size_t)GST_VIDEO_INFO_PLANE_STRIDE(info, 0),
                                 .pixel_bytes = (size_t)GST_VIDEO_INFO_COMP_PSTRIDE(info, 0)};
    for (guint c = 0; c < 3; c++)
        out->at[c] = (size_t)GST_VIDEO_INFO_COMP_POFFSET(info, grey ? 0 : c);
    return true;
}

/* Each value of 16 bits, in the machine's order, to 8; in place. */
static void narrow(uint8_t *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t value;
        memcpy(&value, values + 2 * i, sizeof value);
        values[i] = (uint8_t)((value * 255U + 32895U) >> 16);
    }
}

/* What a decoder of video puts out: luma and chroma, 8 bits or more. By way of 16 bits: the
 * converter's short cuts from 8 bits to 8 bits are 3 levels off on average. */
static bool convert(struct decoded *out, const GstVideoInfo *info, const GstVideoFrame *in,
                    int orientation)
{
    GstVideoInfo rgb;
    GstVideoFrame wide;
    if (!gst_video_info_set_format(&rgb, GST_VIDEO_FORMAT_ARGB64, (guint)info->width,
                                   (guint)info->height))
        return false;
    rgb.fps_n = info->fps_n; /* the converter changes neither rate nor fields */
    rgb.fps_d = info->fps_d;
    rgb.interlace_mode = info->interlace_mode;
    /* No dither: equal pixels stay equal. */
    GstVideoConverter *converter = gst_video_converter_new(
        info, &rgb,
        gst_structure_new("options", GST_VIDEO_CONVERTER_OPT_DITHER_METHOD,
                          GST_TYPE_VIDEO_DITHER_METHOD, GST_VIDEO_DITHER_NONE, NULL));
    if (!converter)
        return false;
    GstBuffer *buffer = gst_buffer_new_allocate(NULL, GST_VIDEO_INFO_SIZE(&rgb), NULL);
    const bool ok = buffer && gst_video_frame_map(&wide, &rgb, buffer, GST_MAP_READWRITE);
    if (ok) {
        gst_video_converter_frame(converter, in, &wide);
        const size_t stride = (size_t)GST_VIDEO_FRAME_PLANE_STRIDE(&wide, 0) / 2;
        const struct frame_layout layout = {.stride = stride, .pixel_bytes = 4, .at = {1, 2, 3}};
        narrow(GST_VIDEO_FRAME_PLANE_DATA(&wide, 0), stride * (size_t)rgb.height);
        frame_upright(out, GST_VIDEO_FRAME_PLANE_DATA(&wide, 0), (size_t)rgb.height,
                      (size_t)rgb.width, &layout, orientation);
        gst_video_frame_unmap(&wide);
    }
    gst_clear_buffer(&buffer);
    gst_video_converter_free(converter);
    return ok;
}

bool sample_rgb(struct sample *sample, size_t pixels_max, int orientation, struct decoded *out,
                struct status *st)
{
    GstVideoInfo info;
    GstVideoFrame frame;
    struct frame_layout layout;
    GstCaps *caps = gst_sample_get_caps(own(sample));
    if (!caps || !gst_video_info_from_caps(&info, caps))
        return status_fail(st, STATUS_INTERNAL, "the decoder's pixels are of no known kind");
    const size_t width = (size_t)info.width, height = (size_t)info.height;
    if (width == 0 || height == 0 || width > pixels_max / height)
        return status_fail(st, STATUS_LIMIT, "decoded are %zu x %zu px: at most %zu pixels", width,
                           height, pixels_max);
    if (!gst_video_frame_map(&frame, &info, gst_sample_get_buffer(own(sample)), GST_MAP_READ))
        return status_fail(st, STATUS_INTERNAL, "the decoder's pixels cannot be read");
    bool ok = true;
    if (pixel_layout(&layout, &info)) {
        layout.stride = (size_t)GST_VIDEO_FRAME_PLANE_STRIDE(&frame, 0);
        frame_upright(out, GST_VIDEO_FRAME_PLANE_DATA(&frame, 0), height, width, &layout,
                      orientation);
    } else {
        ok = convert(out, &info, &frame, orientation);
    }
    gst_video_frame_unmap(&frame);
    return ok || status_fail(st, STATUS_INTERNAL, "the decoder's pixels are of no known kind");
}
