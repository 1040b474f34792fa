#include "services/encode/pieces.h"
#include "engine/base/heap.h"
#include "proto/media.h"
#include <string.h>

#define SOUND_LEVEL_MAX 4.0F
#define SOFT_BYTES_MAX ((size_t)248 << 20) /* what a message can carry beside the ids */

void pieces_clear(struct pieces *p)
{
    for (size_t i = 0; i < p->n_blobs; i++)
        blob_drop(p->blobs[i]);
    heap_free(p->items);
    heap_free(p->times);
    heap_free(p->stamps);
    heap_free(p->sounds);
    *p = (struct pieces){0};
}

static struct piece *add_piece(struct pieces *p, enum media_kind kind)
{
    struct piece *piece = &p->items[p->n++];

    *piece = (struct piece){.kind = kind};
    return piece;
}

/* Size of a picture in soft tokens; dims: the last three of its blob. */
static bool read_size(const struct media_shape *shape, const char *name, const size_t *dims,
                      size_t *out_tokens, struct status *st)
{
    size_t rows = dims[0] / shape->patch_px;
    size_t columns = dims[1] / shape->patch_px;

    if (dims[2] != 3)
        return status_fail(st, STATUS_CORRUPT, "%s: %zu channels, not 3", name, dims[2]);
    if (rows == 0 || columns == 0 || dims[0] % shape->patch_px || dims[1] % shape->patch_px)
        return status_fail(st, STATUS_CORRUPT, "%s: %zux%zu is no multiple of %zu", name, dims[0],
                           dims[1], shape->patch_px);
    if (rows > shape->positions || columns > shape->positions)
        return status_fail(st, STATUS_CORRUPT, "%s: %zux%zu tiles, the model has %zu", name, rows,
                           columns, shape->positions);
    *out_tokens = rows * columns;
    return true;
}

/* Pictures of one size: one, or the frames of a video. */
static bool read_pictures(struct pieces *p, const struct media_shape *shape, enum media_kind kind,
                          const struct blob_desc *desc, struct blob *blob, struct status *st)
{
    size_t frames = kind == MEDIA_VIDEO ? 1 : 0; /* dimensions in front of a picture's three */
    size_t n = frames ? desc->dims[0] : 1;
    size_t tokens;

    if (desc->type != BLOB_U8 || desc->n_dims != 3 + frames)
        return status_fail(st, STATUS_CORRUPT, "%s: not u8 %s[height][width][3]", desc->name,
                           frames ? "[frames]" : "");
    if (n < 1 || n > VIDEO_FRAMES_MAX)
        return status_fail(st, STATUS_CORRUPT, "%s: %zu frames, allowed are 1 to %d", desc->name, n,
                           VIDEO_FRAMES_MAX);
    if (!read_size(shape, desc->name, desc->dims + frames, &tokens, st))
        return false;
    p->media[p->n_media] = (struct chat_medium){.tokens = tokens, .n_frames = frames ? n : 0};
    p->kinds[p->n_media++] = kind;
    for (size_t i = 0; i < n; i++) {
        struct piece *piece = add_piece(p, kind);
        piece->height = desc->dims[frames];
        piece->width = desc->dims[frames + 1];
        piece->rgb = blob_data(blob) + i * piece->height * piece->width * 3;
        piece->tokens = tokens;
    }
    return true;
}

/* When the frames of the newest video are seen. */
static bool read_times(struct pieces *p, const struct blob_desc *desc, struct blob *blob,
                       struct status *st)
{
    struct chat_medium *video = &p->media[p->n_media - 1];
    const int32_t *times_ms = (const int32_t *)(const void *)blob_data(blob);
    size_t first = p->n - video->n_frames;

    if (desc->type != BLOB_I32 || desc->n_dims != 1 || desc->dims[0] != video->n_frames)
        return status_fail(st, STATUS_CORRUPT, "%s: not i32 [%zu]", desc->name, video->n_frames);
    for (size_t i = 0; i < video->n_frames; i++) {
        if (times_ms[i] < (i > 0 ? times_ms[i - 1] : 0))
            return status_fail(st, STATUS_CORRUPT, "%s: time %zu is %d ms, before the one before",
                               desc->name, i, times_ms[i]);
        video_time(p->stamps[first + i], times_ms[i] * (int64_t)1000);
        p->times[first + i] = span_text(p->stamps[first + i]);
    }
    video->times = p->times + first;
    return true;
}

static bool check_samples(const struct blob_desc *desc, const float *samples, size_t max,
                          struct status *st)
{
    if (desc->type != BLOB_F32 || desc->n_dims != 1)
        return status_fail(st, STATUS_CORRUPT, "%s: not f32 [samples]", desc->name);
    if (desc->dims[0] == 0 || desc->dims[0] > max)
        return status_fail(st, STATUS_CORRUPT, "%s: %zu samples, allowed are 1 to %zu", desc->name,
                           desc->dims[0], max);
    for (size_t i = 0; i < desc->dims[0]; i++)
        if (!(samples[i] >= -SOUND_LEVEL_MAX && samples[i] <= SOUND_LEVEL_MAX))
            return status_fail(st, STATUS_CORRUPT, "%s: sample %zu is out of range", desc->name, i);
    return true;
}

/* A sound, or the sound track of the newest video, in pieces that the model can take. */
static bool read_sound(struct pieces *p, const struct media_shape *shape, enum media_kind of,
                       const struct blob_desc *desc, struct blob *blob, struct status *st)
{
    const float *samples = (const float *)(const void *)blob_data(blob);
    size_t max =
        of == MEDIA_VIDEO ? VIDEO_SOUND_S_MAX * MEDIA_AUDIO_RATE_HZ : MEDIA_AUDIO_SAMPLES_MAX;
    size_t first = p->n;

    if (!check_samples(desc, samples, max, st))
        return false;
    for (size_t at = 0; at < desc->dims[0]; at += MEDIA_AUDIO_SAMPLES_MAX) {
        size_t left = desc->dims[0] - at;
        struct piece *piece = add_piece(p, MEDIA_AUDIO);
        piece->samples = samples + at;
        piece->n_samples = left < MEDIA_AUDIO_SAMPLES_MAX ? left : MEDIA_AUDIO_SAMPLES_MAX;
        piece->tokens = audio_tokens(shape, piece->n_samples);
        p->sounds[p->n - 1] = piece->tokens;
    }
    if (of == MEDIA_VIDEO) {
        p->media[p->n_media - 1].sounds = p->sounds + first;
        p->media[p->n_media - 1].n_sounds = p->n - first;
    } else {
        p->media[p->n_media] = (struct chat_medium){.tokens = p->items[first].tokens};
        p->kinds[p->n_media++] = MEDIA_AUDIO;
    }
    return true;
}

static bool read_blob(struct pieces *p, const struct media_shape *shape,
                      const struct blob_desc *desc, struct blob *blob, const char *before,
                      struct status *st)
{
    if (strcmp(desc->name, "image.rgb") == 0)
        return read_pictures(p, shape, MEDIA_IMAGE, desc, blob, st);
    if (strcmp(desc->name, "audio.pcm") == 0)
        return read_sound(p, shape, MEDIA_AUDIO, desc, blob, st);
    if (strcmp(desc->name, "video.rgb") == 0)
        return read_pictures(p, shape, MEDIA_VIDEO, desc, blob, st);
    bool times = strcmp(desc->name, "video.times") == 0;
    if (strcmp(before, times ? "video.rgb" : "video.times") != 0)
        return status_fail(st, STATUS_CORRUPT, "%s: at the wrong place, behind '%s'", desc->name,
                           before);
    return times ? read_times(p, desc, blob, st)
                 : read_sound(p, shape, MEDIA_VIDEO, desc, blob, st);
}

static bool is_medium(const char *name)
{
    static const char *const names[] = {"image.rgb", "audio.pcm", "video.rgb", "video.times",
                                        "video.pcm"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* Room for as many pieces as there can be, so that nothing that is pointed to moves. */
static void make_room(struct pieces *p, const struct msg *job)
{
    size_t most = 0;

    for (size_t i = 0; i < job->head.n_blobs; i++) {
        const struct blob_desc *desc = &job->head.blobs[i];
        if (strcmp(desc->name, "video.rgb") == 0)
            most += desc->dims[0] < VIDEO_FRAMES_MAX ? desc->dims[0] : VIDEO_FRAMES_MAX;
        else if (is_medium(desc->name))
            most += strcmp(desc->name, "video.pcm") == 0 ? VIDEO_SOUNDS_MAX : 1;
    }
    p->items = heap_array(struct piece, most);
    p->times = heap_array(struct span, most);
    p->stamps = heap_new(most, sizeof *p->stamps);
    p->sounds = heap_array(size_t, most);
}

bool pieces_read(struct pieces *out, const struct projector *projector, const struct msg *job,
                 struct status *st)
{
    const char *before = "";

    *out = (struct pieces){0};
    make_room(out, job);
    for (size_t i = 0; i < job->head.n_blobs; i++) {
        const struct blob_desc *desc = &job->head.blobs[i];
        if (!is_medium(desc->name))
            continue;
        if (!projector)
            return status_fail(
                st, STATUS_UNSUPPORTED,
                "this line has no media file: pictures, sound and video are not read");
        out->blobs[out->n_blobs++] = blob_keep(job->blobs[i]);
        if (!read_blob(out, projector_shape(projector), desc, job->blobs[i], before, st))
            return false;
        before = desc->name;
    }
    for (size_t i = 0; i < out->n_media; i++)
        if (out->kinds[i] == MEDIA_VIDEO && !out->media[i].times)
            return status_fail(st, STATUS_CORRUPT, "video.times: missing behind a video.rgb");
    for (size_t i = 0; i < out->n; i++)
        out->rows += out->items[i].tokens;
    size_t width = projector ? projector_shape(projector)->width : 1;
    if (out->rows > SOFT_BYTES_MAX / (width * sizeof(float)))
        return status_fail(st, STATUS_LIMIT,
                           "the media of the request make %zu soft tokens; at most %zu can be "
                           "carried",
                           out->rows, SOFT_BYTES_MAX / (width * sizeof(float)));
    return true;
}
