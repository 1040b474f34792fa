/* media.c - what a media file ("mmproj") says of sizes, without its matrices. */
#include "engine/media/media.h"
#include "engine/weights/weights.h"
#include <string.h>

#define PATCH_PX_MAX 256
#define MERGE_MAX 16
#define MERGE_DEFAULT 3

static bool check_word(const struct weights *w, const char *key, const char *wanted,
                       struct status *st)
{
    struct span word;
    if (!weights_string(w, key, &word, st))
        return false;
    if (!span_is(word, wanted))
        return status_fail(st, STATUS_UNSUPPORTED, "%s is '%.*s', only '%s' is read", key,
                           word.size > 40 ? 40 : (int)word.size, (const char *)word.data, wanted);
    return true;
}

static bool bounded(const struct weights *w, const char *key, uint64_t max, size_t *out,
                    struct status *st)
{
    uint64_t value;
    if (!weights_u64(w, key, &value, st))
        return false;
    if (value == 0 || value > max)
        return status_fail(st, STATUS_CORRUPT, "%s is %llu, not 1 to %llu", key,
                           (unsigned long long)value, (unsigned long long)max);
    *out = (size_t)value;
    return true;
}

static bool find(const struct weights *w, const char *name, size_t n_dims,
                 const struct tensor_view **out, struct status *st)
{
    const struct tensor_view *view = weights_find(w, name);
    if (!view || view->n_dims != n_dims)
        return status_fail(st, STATUS_CORRUPT, "%s: %s", name,
                           view ? "wrong number of dimensions" : "missing");
    *out = view;
    return true;
}

bool media_shape_read(struct media_shape *out, const struct weights *w, struct status *st)
{
    const struct tensor_view *table, *audio;
    size_t patch, merge = MERGE_DEFAULT;
    if (!weights_has(w, "clip.vision.projector_type"))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "no media file: 'clip.vision.projector_type' is missing");
    if (!check_word(w, "clip.vision.projector_type", "gemma4uv", st) ||
        !check_word(w, "clip.audio.projector_type", "gemma4ua", st) ||
        !bounded(w, "clip.vision.patch_size", PATCH_PX_MAX, &patch, st) ||
        (weights_has(w, "clip.vision.projector.scale_factor") &&
         !bounded(w, "clip.vision.projector.scale_factor", MERGE_MAX, &merge, st)) ||
        !find(w, "v.position_embd.weight", 3, &table, st) ||
        !find(w, "mm.a.input_projection.weight", 2, &audio, st))
        return false;
    *out = (struct media_shape){.patch_px = patch * merge,
                                .positions = table->dims[1],
                                .samples_per_token = audio->dims[0],
                                .width = audio->dims[1]};
    return true;
}
