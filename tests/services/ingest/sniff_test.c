/* sniff_test.c - the header walkers on bytes that only begin like a file. */
#include "engine/base/heap.h"
#include "services/ingest/sniff.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SEED 20261124U
#define ROUNDS 40000
#define FILE_MAX 300

static uint32_t random_state = SEED;

static uint32_t draw(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    assert_true(below > 0);
    return below > 0 ? random_state % below : 0;
}

/* Words that walkers look for, so that random files get past the first step. */
static const struct {
    const char *bytes;
    size_t n;
} words[] = {
    {"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x05\0\0\0\x05\x08\x02", 26},
    {"\0\0\0\x04IDAT", 8},
    {"\0\0\0\0IEND\0\0\0\0", 12},
    {"\0\0\0\x12"
     "eXIf",
     8},
    {"\xff\xd8\xff\xe1\0\x20"
     "Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0",
     34},
    {"\xff\xc0\0\x0b\x08\0\x09\0\x07\x01\x01\x11\0", 13},
    {"\xff\xda\0\x02", 4},
    {"\xff\xd9", 2},
    {"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0", 20},
    {"VP8L\x05\0\0\0\x2f", 9},
    {"EXIF", 4},
    {"RIFF\x40\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0", 36},
    {"data\x10\0\0\0", 8},
    {"fLaC\0\0\0\x22", 8},
    {"ID3\x04\0\0\0\0\0\x05", 10},
    {"\xff\xfb\x90\x64", 4},
    {"Xing\0\0\0\x0f", 8},
    {"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x02", 38},
    {"\x01vorbis", 7},
    {"\0\0\0\x0c"
     "ftypM4A ",
     12},
    {"\0\0\0\x60moov", 8},
    {"\0\0\0\x1cmvhd", 8},
    {"\0\0\0\x50trak", 8},
    {"\0\0\0\x30mdia", 8},
    {"\0\0\0\x14hdlr\0\0\0\0\0\0\0\0soun", 20},
    {"\0\0\0\x1c"
     "elst\0\0\0\0\0\0\0\x01",
     16},
    {"\0\0\0\x24"
     "edts",
     8},
    {"\0\0\0\x01", 4},
};

/* The bytes stand at the very end of a block of their own, so that AddressSanitizer sees a step
 * beyond. */
static void walk(const uint8_t *file, size_t n)
{
    uint8_t *exact = heap_array(uint8_t, n);
    memcpy(exact, file, n);
    for (int picture = 0; picture < 2; picture++) {
        struct medium m = {0};
        struct status st = {0};
        if (!sniff(&m, span_of(exact, n), picture, &st)) {
            assert_int_not_equal(st.code, STATUS_OK);
            assert_true(st.text[0] != 0);
            continue;
        }
        assert_int_equal(medium_is_picture(m.kind), picture);
        if (picture) {
            assert_in_range(m.width_px, 1, PICTURE_SIDE_MAX);
            assert_in_range(m.height_px, 1, PICTURE_SIDE_MAX);
            assert_true(m.width_px * m.height_px <= PICTURE_PIXELS_MAX);
            assert_in_range(m.orientation, 1, 8);
        } else {
            assert_true(isfinite(m.start_s) && isfinite(m.length_s) && isfinite(m.expect_s));
            assert_true(m.edit_at == 0 || m.edit_at + (m.edit_version ? 16 : 8) <= n);
        }
    }
    heap_free(exact);
}

static void test_random_files(void **state)
{
    (void)state;
    print_message("seed %u\n", SEED);
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t file[FILE_MAX];
        size_t n = 0;
        for (uint32_t parts = 1 + draw(8); parts > 0; parts--) {
            const size_t w = draw(sizeof words / sizeof *words);
            if (n + words[w].n + 24 > FILE_MAX)
                break;
            memcpy(file + n, words[w].bytes, words[w].n);
            n += words[w].n;
            for (uint32_t extra = draw(24); extra > 0; extra--)
                file[n++] = draw(3) ? 0 : (uint8_t)draw(256);
        }
        for (uint32_t changes = draw(4); changes > 0; changes--)
            file[draw((uint32_t)n)] = (uint8_t)draw(256);
        walk(file, n);
    }
}

/* Every beginning of each word. */
static void test_beginnings(void **state)
{
    (void)state;
    for (size_t w = 0; w < sizeof words / sizeof *words; w++)
        for (size_t n = 0; n <= words[w].n; n++)
            walk((const uint8_t *)words[w].bytes, n);
}

/* An AAC track of 4096 samples of which an edit list takes 1000 from the 1024th on. */
static void test_edit_list(void **state)
{
    (void)state;
    static const char mp4[] = "\0\0\0\x0c"
                              "ftypM4A "
                              "\0\0\1\x08moov"
                              "\0\0\0\x1cmvhd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03\xe8\0\0\0\x3f"
                              "\0\0\0\xe4trak"
                              "\0\0\0\x24"
                              "edts"
                              "\0\0\0\x1c"
                              "elst\0\0\0\0\0\0\0\x01\0\0\0\x3e\0\0\x04\0\0\x01\0\0"
                              "\0\0\0\xb8mdia"
                              "\0\0\0\x1cmdhd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x3e\x80\0\0\x10\0"
                              "\0\0\0\x14hdlr\0\0\0\0\0\0\0\0soun"
                              "\0\0\0\x80minf"
                              "\0\0\0\x78stbl"
                              "\0\0\0\x18stsd\0\0\0\0\0\0\0\x01\0\0\0\x08mp4a"
                              "\0\0\0\x18stts\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\x04\0"
                              "\0\0\0\x40"
                              "free012345678901234567890123456789012345678901234567890123456";
    struct medium m = {0};
    struct status st = {0};
    if (!sniff(&m, span_of(mp4, 12 + 0x108), false, &st))
        fail_msg("%s", st.text);
    assert_int_equal(m.kind, MEDIUM_MP4_AAC);
    assert_true(fabs(m.length_s - 0.062) < 1e-9);
    assert_true(fabs(m.start_s) < 1e-9); /* the decoder swallows the packet that is in front */
    assert_memory_equal(mp4 + m.edit_at, "\0\0\0\x3e", 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_beginnings),
        cmocka_unit_test(test_random_files),
        cmocka_unit_test(test_edit_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
