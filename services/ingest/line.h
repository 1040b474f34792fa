/* line.h - a line of GStreamer elements that runs: bytes in at its source, samples out at its sink.
 * No type of GStreamer leaves line.c. */
#pragma once
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "services/ingest/decode.h"

struct line;
struct sample; /* a picture, some sound, or a packet that is still encoded */

/* Start GStreamer, without a registry, and load the plugins that all lines need. Once. */
MUST_CHECK bool lines_open(struct status *st);
/* Load plugins [n]; those that are there already cost nothing. Fails naming the one missing. */
MUST_CHECK bool lines_load(const char *const *plugins, size_t n, struct status *st);

/* elements: what stands between source and sink ("pngdec"). The file must outlive the line; a
 * demuxer reads it where it likes when it is `seekable`. */
MUST_CHECK bool line_open_file(struct line **out, const char *elements, struct span file,
                               bool seekable, struct status *st);
/* The source puts out these packets [n] of another line, in order; they must outlive the line. */
MUST_CHECK bool line_open_packets(struct line **out, const char *elements,
                                  struct sample *const *packets, size_t n, struct status *st);
void line_close(struct line *line);

/* The next sample, the caller's; NULL at the end and on failure (*failed tells which). */
struct sample *line_pull(struct line *line, bool *failed, struct status *st);
void sample_free(struct sample *sample);

void sample_append(struct sample *sample, struct buffer *out);
/* When a packet or picture appears and for how long, by the track's own clock. mark is the same for
 * a packet and the picture in it. shown: it is there to be seen, not only for others to lean on. */
struct sample_time {
    uint64_t mark;
    int64_t begin_us, length_us; /* length 0: not known */
    bool shown, key;
    uint8_t first; /* byte of a packet */
};
struct sample_time sample_time(struct sample *sample);
/* The picture as RGB, upright (EXIF orientation 1 to 8); alpha is dropped, not blended. Fails on
 * one that is larger than pixels_max. */
MUST_CHECK bool sample_rgb(struct sample *sample, size_t pixels_max, int orientation,
                           struct decoded *out, struct status *st);
