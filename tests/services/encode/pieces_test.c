/* pieces_test.c - what encode takes for decoded media: everything else is refused by name. */
#include "engine/weights/weights.h"
#include "proto/media.h"
#include "services/encode/pieces.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define MMPROJ "tests/golden/media/nano-mmproj-f32.gguf"

static struct weights *weights;
static struct projector *projector;
static size_t side; /* of a tile, px */

static int open_projector(void **state)
{
    struct status st = {0};
    (void)state;
    if (!weights_open(&weights, MMPROJ, &st) || !projector_open(&projector, weights, 0, &st))
        fail_msg("%s", st.text);
    side = projector_shape(projector)->patch_px;
    return 0;
}

static int close_projector(void **state)
{
    (void)state;
    projector_close(projector);
    weights_close(weights);
    return 0;
}

static void add(struct msg *job, const char *name, enum blob_type type, const size_t *dims,
                size_t n_dims)
{
    size_t size = type == BLOB_U8 ? 1 : 4;
    for (size_t i = 0; i < n_dims; i++)
        size *= dims[i];
    struct blob *blob = blob_new(size);
    memset(blob_data(blob), 0, size);
    msg_add_take(job, name, type, dims, n_dims, blob);
}

#define DIMS(...)                                                                                  \
    (const size_t[]){__VA_ARGS__}, sizeof((const size_t[]){__VA_ARGS__}) / sizeof(size_t)

static void refuse(struct msg *job, const struct projector *p, const char *why)
{
    struct pieces pieces;
    struct status st = {0};
    assert_false(pieces_read(&pieces, p, job, &st));
    if (!strstr(st.text, why))
        fail_msg("'%s' does not say '%s'", st.text, why);
    pieces_clear(&pieces);
    msg_clear(job);
}

static void test_refused(void **state)
{
    (void)state;
    struct msg job = {0};
    add(&job, "image.rgb", BLOB_U8, DIMS(side, side, 3));
    refuse(&job, NULL, "no media file");
    const size_t bad[][4] = {
        {side, side, 4, 3}, {side + 1, side, 3, 3}, {0, side, 3, 3}, {side, side, 0, 2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        add(&job, "image.rgb", BLOB_U8, bad[i], bad[i][3]);
        refuse(&job, projector, "image.rgb: ");
    }
    add(&job, "audio.pcm", BLOB_F32, DIMS(MEDIA_AUDIO_SAMPLES_MAX + 1));
    refuse(&job, projector, "audio.pcm: 480001 samples");
    add(&job, "video.rgb", BLOB_U8, DIMS(side, side, 3));
    refuse(&job, projector, "video.rgb: not u8 [frames]");
    add(&job, "video.rgb", BLOB_U8, DIMS(0, side, side, 3));
    refuse(&job, projector, "0 frames");
    add(&job, "video.rgb", BLOB_U8, DIMS(VIDEO_FRAMES_MAX + 1, side, side, 3));
    refuse(&job, projector, "241 frames");
}

static void test_refused_order(void **state)
{
    (void)state;
    struct msg job = {0};
    add(&job, "video.rgb", BLOB_U8, DIMS(2, side, side, 3));
    refuse(&job, projector, "video.times: missing");
    add(&job, "video.times", BLOB_I32, DIMS(2));
    refuse(&job, projector, "at the wrong place");
    add(&job, "video.rgb", BLOB_U8, DIMS(2, side, side, 3));
    add(&job, "video.pcm", BLOB_F32, DIMS(100));
    refuse(&job, projector, "video.pcm: at the wrong place, behind 'video.rgb'");
    add(&job, "video.rgb", BLOB_U8, DIMS(2, side, side, 3));
    add(&job, "image.rgb", BLOB_U8, DIMS(side, side, 3));
    add(&job, "video.times", BLOB_I32, DIMS(2));
    refuse(&job, projector, "behind 'image.rgb'");
    add(&job, "video.rgb", BLOB_U8, DIMS(2, side, side, 3));
    add(&job, "video.times", BLOB_I32, DIMS(3));
    refuse(&job, projector, "video.times: not i32 [2]");
    add(&job, "video.rgb", BLOB_U8, DIMS(2, side, side, 3));
    add(&job, "video.times", BLOB_I32, DIMS(2));
    ((int32_t *)(void *)blob_data(job.blobs[1]))[0] = 5;
    refuse(&job, projector, "time 1 is 0 ms");
    add(&job, "video.rgb", BLOB_U8, DIMS(1, side, side, 3));
    add(&job, "video.times", BLOB_I32, DIMS(1));
    add(&job, "video.pcm", BLOB_F32, DIMS(VIDEO_SOUND_S_MAX * MEDIA_AUDIO_RATE_HZ + 1));
    refuse(&job, projector, "video.pcm: 4800001 samples");
    add(&job, "video.rgb", BLOB_U8, DIMS(1, side, side, 3));
    add(&job, "video.times", BLOB_I32, DIMS(1));
    add(&job, "video.pcm", BLOB_F32, DIMS(3));
    ((float *)(void *)blob_data(job.blobs[2]))[2] = 5.0F;
    refuse(&job, projector, "video.pcm: sample 2");
}

/* A picture, a video with 30 s and one sample of sound, a sound: pieces in the order of the prompt.
 */
static void test_pieces(void **state)
{
    (void)state;
    struct msg job = {0};
    struct pieces p;
    struct status st = {0};
    add(&job, "turns", BLOB_U8, DIMS(1));
    add(&job, "image.rgb", BLOB_U8, DIMS(side, side, 3));
    add(&job, "video.rgb", BLOB_U8, DIMS(2, side, 2 * side, 3));
    add(&job, "video.times", BLOB_I32, DIMS(2));
    ((int32_t *)(void *)blob_data(job.blobs[3]))[1] = 61999;
    add(&job, "video.pcm", BLOB_F32, DIMS(MEDIA_AUDIO_SAMPLES_MAX + 1));
    add(&job, "audio.pcm", BLOB_F32, DIMS(1));
    assert_true(pieces_read(&p, projector, &job, &st));
    assert_int_equal(p.n_media, 3);
    assert_int_equal(p.n, 6);
    const size_t clip = audio_tokens(projector_shape(projector), MEDIA_AUDIO_SAMPLES_MAX);
    const size_t tokens[] = {1, 2, 2, clip, 1, 1};
    static const enum media_kind kinds[] = {MEDIA_IMAGE, MEDIA_VIDEO, MEDIA_VIDEO,
                                            MEDIA_AUDIO, MEDIA_AUDIO, MEDIA_AUDIO};
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(p.items[i].tokens, tokens[i]);
        assert_int_equal(p.items[i].kind, kinds[i]);
    }
    assert_int_equal(p.rows, clip + 7);
    assert_ptr_equal(p.items[2].rgb, p.items[1].rgb + side * 2 * side * 3);
    assert_int_equal(p.items[4].n_samples, 1);
    const struct chat_medium *video = &p.media[1];
    assert_int_equal(p.kinds[1], MEDIA_VIDEO);
    assert_int_equal(video->n_frames, 2);
    assert_true(span_is(video->times[0], "00:00") && span_is(video->times[1], "01:01"));
    assert_int_equal(video->n_sounds, 2);
    assert_int_equal(video->sounds[1], 1);
    pieces_clear(&p);
    msg_clear(&job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_order),
        cmocka_unit_test(test_pieces),
    };
    return cmocka_run_group_tests(tests, open_projector, close_projector);
}
