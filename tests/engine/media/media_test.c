/* media_test.c - sizes, resampling, patches and projectors against the golden cases. */
#include "engine/base/heap.h"
#include "engine/kernels/cpu.h"
#include "engine/media/media.h"
#include "engine/weights/weights.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOLDER "tests/golden/media/"
#define SOFT_TOLERANCE 0.0005 /* of image.gguf and audio.gguf, and tighter than theirs */

static struct weights *open_golden(const char *path)
{
    struct weights *w;
    struct status st = {0};
    if (!weights_open(&w, path, &st))
        fail_msg("%s", st.text);
    return w;
}

static const struct tensor_view *get(const struct weights *w, const char *name)
{
    const struct tensor_view *view = weights_find(w, name);
    if (!view)
        fail_msg("%s is missing", name);
    return view;
}

static void test_refused_sizes(void **state)
{
    (void)state;
    struct status st = {0};
    size_t h, w;
    assert_false(image_target_size(0, 5, 280, 48, &h, &w, &st));
    assert_int_equal(st.code, STATUS_INVALID);
}

static void test_sizes(void **state)
{
    (void)state;
    struct weights *golden = open_golden(FOLDER "image-sizes.gguf");
    const struct tensor_view *table = get(golden, "table");
    for (size_t i = 0; i < table->dims[1]; i++) {
        int32_t row[6];
        size_t h = 0, w = 0;
        struct status st = {0};
        memcpy(row, (const uint8_t *)table->data + i * sizeof row, sizeof row);
        const bool ok =
            image_target_size((size_t)row[0], (size_t)row[1], (size_t)row[2], 48, &h, &w, &st);
        if (ok != (row[5] != 0) || h != (size_t)row[3] || w != (size_t)row[4])
            fail_msg("%dx%d budget %d: %zux%zu, expected %dx%d", row[0], row[1], row[2], h, w,
                     row[3], row[4]);
    }
    weights_close(golden);
}

/* The bytes are those of float64 in every kernel set, so not even one level is allowed. */
static void check_resize(const struct tensor_view *rgb, const struct tensor_view *resized)
{
    const size_t h = resized->dims[2], w = resized->dims[1];
    uint8_t *out = heap_array(uint8_t, h * w * 3);
    image_resize(out, h, w, rgb->data, rgb->dims[2], rgb->dims[1]);
    assert_memory_equal(out, resized->data, h * w * 3);
    memset(out, 0, h * w * 3);
    cpu_set_mask(0);
    image_resize(out, h, w, rgb->data, rgb->dims[2], rgb->dims[1]);
    cpu_set_mask(UINT32_MAX);
    assert_memory_equal(out, resized->data, h * w * 3);
    heap_free(out);
}

static void check_patches(const struct tensor_view *resized, const struct tensor_view *patches,
                          size_t tile)
{
    const size_t n = patches->dims[0] * patches->dims[1];
    float *out = heap_array(float, n);
    image_patches(out, resized->data, resized->dims[2], resized->dims[1], tile);
    for (size_t i = 0; i < n; i++) {
        float expected;
        memcpy(&expected, (const uint8_t *)patches->data + i * sizeof expected, sizeof expected);
        assert_true(fabsf(out[i] - expected) <= 1e-7F);
    }
    heap_free(out);
}

static void test_pictures(void **state)
{
    (void)state;
    struct weights *golden = open_golden(FOLDER "image.gguf");
    check_resize(get(golden, "image.0.rgb"), get(golden, "image.0.resized"));
    check_resize(get(golden, "image.1.rgb"), get(golden, "image.1.resized"));
    check_patches(get(golden, "image.0.resized"), get(golden, "image.0.patches"), 12);
    check_patches(get(golden, "image.1.resized"), get(golden, "image.1.patches"), 12);
    weights_close(golden);
}

static void test_more_resizing(void **state)
{
    (void)state;
    char path[512];
    const char *folder = getenv("MILLRACE_GOLDEN");
    (void)snprintf(path, sizeof path, "%s/resize.gguf", folder ? folder : "../shared/golden");
    if (access(path, R_OK) != 0) {
        print_message("skipped: no %s\n", path);
        skip();
        return;
    }
    struct weights *golden = open_golden(path);
    for (int i = 0; i < 4; i++) {
        char rgb[32], resized[32], patches[32];
        (void)snprintf(rgb, sizeof rgb, "%d.rgb", i);
        (void)snprintf(resized, sizeof resized, "%d.resized", i);
        (void)snprintf(patches, sizeof patches, "%d.patches_gguf", i);
        check_resize(get(golden, rgb), get(golden, resized));
        check_patches(get(golden, resized), get(golden, patches), 12);
    }
    weights_close(golden);
}

static void check_soft(const float *got, const struct tensor_view *expected)
{
    const size_t n = expected->dims[0] * expected->dims[1];
    for (size_t i = 0; i < n; i++) {
        float value;
        memcpy(&value, (const uint8_t *)expected->data + i * sizeof value, sizeof value);
        if (!(fabsf(got[i] - value) <= (float)SOFT_TOLERANCE))
            fail_msg("%s[%zu]: %g, expected %g", expected->name, i, (double)got[i], (double)value);
    }
}

/* Soft tokens as expected; and the same bits when the picture is embedded in uneven pieces. */
static void test_picture_embedding(void **state)
{
    (void)state;
    struct status st = {0};
    struct projector *p;
    struct weights *mmproj = open_golden(FOLDER "nano-mmproj-f32.gguf");
    struct weights *golden = open_golden(FOLDER "image.gguf");
    assert_true(projector_open(&p, mmproj, 64, &st));
    assert_int_equal(projector_shape(p)->patch_px, 12);
    static const char *const names[2][2] = {{"image.0.resized", "image.0.soft"},
                                            {"image.1.resized", "image.1.soft"}};
    for (int i = 0; i < 2; i++) {
        const struct tensor_view *rgb = get(golden, names[i][0]), *soft = get(golden, names[i][1]);
        const size_t h = rgb->dims[2], w = rgb->dims[1], n = soft->dims[1];
        float *whole = heap_array(float, n * 64), *pieces = heap_array(float, n * 64);
        assert_true(image_embed(p, whole, rgb->data, h, w, 0, n, &st));
        check_soft(whole, soft);
        for (size_t at = 0, count = 1; at < n; at += count, count = count % 5 + 1) {
            count = count < n - at ? count : n - at;
            assert_true(image_embed(p, pieces + at * 64, rgb->data, h, w, at, count, &st));
        }
        assert_memory_equal(whole, pieces, n * 64 * sizeof *whole);
        heap_free(whole);
        heap_free(pieces);
    }
    projector_close(p);
    weights_close(golden);
    weights_close(mmproj);
}

static void test_sound_embedding(void **state)
{
    (void)state;
    struct status st = {0};
    struct projector *p;
    struct weights *mmproj = open_golden(FOLDER "nano-mmproj-f32.gguf");
    struct weights *golden = open_golden(FOLDER "audio.gguf");
    assert_true(projector_open(&p, mmproj, 0, &st));
    const struct tensor_view *samples = get(golden, "audio.samples"),
                             *soft = get(golden, "audio.soft");
    const size_t n = samples->dims[0];
    static const size_t lengths[] = {1, 639, 640, 641};
    static const size_t tokens[] = {1, 1, 1, 2};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(audio_tokens(projector_shape(p), lengths[i]), tokens[i]);
    assert_int_equal(audio_tokens(projector_shape(p), n), soft->dims[1]);
    float *out = heap_array(float, soft->dims[1] * 64);
    float *in = heap_array(float, n);
    memcpy(in, samples->data, n * sizeof *in);
    audio_embed(p, out, in, n);
    check_soft(out, soft);
    heap_free(in);
    heap_free(out);
    projector_close(p);
    weights_close(golden);
    weights_close(mmproj);
}

static void test_refused_projector(void **state)
{
    (void)state;
    struct status st = {0};
    struct projector *p;
    struct weights *mmproj = open_golden(FOLDER "nano-mmproj-f32.gguf");
    assert_false(projector_open(&p, mmproj, 65, &st));
    assert_true(st.text[0] != 0);
    weights_close(mmproj);
    struct weights *other = open_golden("tests/golden/models/nano-q8_0.gguf");
    st = (struct status){0};
    assert_false(projector_open(&p, other, 0, &st));
    weights_close(other);
}

/* ---- video ---- */

#define CLIP_MAX 4000

/* Frames of an even rate; returns when the clip ends. */
static int64_t even_clip(int64_t *times_us, size_t n, int64_t rate, int64_t rate_base)
{
    for (size_t i = 0; i < n; i++)
        times_us[i] = (int64_t)i * 1000000 * rate_base / rate;
    return (int64_t)n * 1000000 * rate_base / rate;
}

static void test_frames_of_even_clips(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        int64_t rate, base;
        double fps;
        size_t frames_max, count;
    } rows[] = {
        {300, 30, 1, 1, 60, 10},    {300, 30, 1, 1, 4, 4},        {3000, 25, 1, 1, 60, 60},
        {30, 10, 1, 1, 60, 3},      {299, 30000, 1001, 1, 60, 9}, {720, 24000, 1001, 2, 60, 60},
        {100, 30, 1, 30, 240, 100}, {20, 30, 1, 1, 60, 1},        {3600, 60, 1, 0.5, 60, 30},
        {5, 1, 2, 1, 60, 5}, /* a frame every two seconds: each of them once */
    };
    int64_t times_us[CLIP_MAX];
    size_t chosen[CLIP_MAX];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int64_t end_us = even_clip(times_us, rows[i].n, rows[i].rate, rows[i].base);
        const size_t count =
            video_choose(chosen, times_us, rows[i].n, end_us, rows[i].fps, rows[i].frames_max);
        assert_int_equal(count, rows[i].count);
        for (size_t k = 0; k < count; k++)
            assert_int_equal(chosen[k], k * rows[i].n / count);
    }
}

/* Times as Matroska has them, and a clip that does not begin at 0: the same frames. */
static void test_frames_of_rounded_times(void **state)
{
    (void)state;
    int64_t times_us[CLIP_MAX];
    size_t chosen[CLIP_MAX];
    even_clip(times_us, 900, 30000, 1001);
    for (size_t i = 0; i < 900; i++)
        times_us[i] = (times_us[i] + 500) / 1000 * 1000 + 40000;
    const size_t count = video_choose(chosen, times_us, 900, 30030000 + 40000, 1, 60);
    assert_int_equal(count, 30);
    for (size_t k = 0; k < count; k++)
        assert_int_equal(chosen[k], k * 30);
}

/* Of each moment the frame that is seen then; one that stands still is shown once. */
static void test_frames_of_uneven_clips(void **state)
{
    (void)state;
    static const int64_t times_us[] = {0, 100000, 200000, 4000000, 4100000, 9900000};
    size_t chosen[60];
    size_t count = video_choose(chosen, times_us, 6, 10000000, 1, 60);
    static const size_t wanted[] = {0, 2, 3, 4}; /* of second 0, 1 to 3, 4, 5 to 9 */
    assert_int_equal(count, 4);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(chosen[i], wanted[i]);
    count = video_choose(chosen, times_us, 6, 10000000, 1, 1);
    assert_int_equal(count, 1);
    assert_int_equal(chosen[0], 0);
    /* One frame, no length, times that stand still: never more than there is. */
    assert_int_equal(video_choose(chosen, times_us, 1, 0, 1, 60), 1);
    static const int64_t still_us[] = {7, 7, 7};
    assert_int_equal(video_choose(chosen, still_us, 3, 7, 30, 60), 1);
}

static void test_video_times(void **state)
{
    (void)state;
    static const struct {
        int64_t us;
        const char *text;
    } rows[] = {{0, "00:00"},          {-5, "00:00"},          {999999, "00:00"},
                {1000000, "00:01"},    {59999999, "00:59"},    {60000000, "01:00"},
                {3660000000, "61:00"}, {6000000000, "100:00"}, {INT64_MAX, "153722867280:54"}};
    char out[VIDEO_TIME_SIZE];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        video_time(out, rows[i].us);
        assert_string_equal(out, rows[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_sizes),
        cmocka_unit_test(test_refused_projector),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_pictures),
        cmocka_unit_test(test_more_resizing),
        cmocka_unit_test(test_picture_embedding),
        cmocka_unit_test(test_sound_embedding),
        cmocka_unit_test(test_frames_of_even_clips),
        cmocka_unit_test(test_frames_of_rounded_times),
        cmocka_unit_test(test_frames_of_uneven_clips),
        cmocka_unit_test(test_video_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
