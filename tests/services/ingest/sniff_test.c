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
    {"\0\0\0\x14hdlr\0\0\0\0\0\0\0\0vide", 20},
    {"\0\0\0\x34stsd\0\0\0\0\0\0\0\x01\0\0\0\x24mp4v", 20},
    {"esds\0\0\0\0\x03\x80\x80\x19\0\0\0\x04\x11\x6c", 18},
    {"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", 17},
    {"\x16\x54\xae\x6b\xa0\xae\x95", 7},
    {"\x83\x81\x01\x86\x85V_VP8", 10},
    {"\x83\x81\x02\x86\x86"
     "A_OPUS",
     11},
    {"\xe0\x88\xb0\x81\x10\xba\x82\x02\x10", 9},
    {"\x76\x70\x87\x76\x75\x84\xc2\xb4\0\0", 10},
    {"\x1f\x43\xb6\x75\xff", 5},
};

/* The bytes stand at the very end of a block of their own, so that AddressSanitizer sees a step
 * beyond. */
static void walk(const uint8_t *file, size_t n)
{
    uint8_t *exact = heap_array(uint8_t, n);
    memcpy(exact, file, n);
    for (enum medium_want want = WANT_PICTURE; want < WANTS; want++) {
        struct medium m = {0};
        struct status st = {0};
        if (!sniff(&m, span_of(exact, n), want, &st)) {
            assert_int_not_equal(st.code, STATUS_OK);
            assert_true(st.text[0] != 0);
            continue;
        }
        assert_int_equal(m.kind <= MEDIUM_WEBP, want == WANT_PICTURE);
        assert_int_equal(m.kind >= MEDIUM_MP4_VIDEO, want == WANT_VIDEO);
        if (want == WANT_PICTURE) {
            assert_in_range(m.width_px, 1, PICTURE_SIDE_MAX);
            assert_in_range(m.height_px, 1, PICTURE_SIDE_MAX);
            assert_true(m.width_px * m.height_px <= PICTURE_PIXELS_MAX);
            assert_in_range(m.orientation, 1, 8);
        } else if (want == WANT_VIDEO) {
            assert_true(m.width_px > 0 && m.height_px > 0);
            assert_true(m.width_px * m.height_px <= VIDEO_PIXELS_MAX);
            assert_in_range(m.orientation, 1, 8);
            assert_true(m.codec < VIDEO_CODECS);
            assert_true(memchr(m.sound_name, 0, sizeof m.sound_name) != NULL);
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
    if (!sniff(&m, span_of(mp4, 12 + 0x108), WANT_SOUND, &st))
        fail_msg("%s", st.text);
    assert_int_equal(m.kind, MEDIUM_MP4_AAC);
    assert_true(fabs(m.length_s - 0.062) < 1e-9);
    assert_true(fabs(m.start_s) < 1e-9); /* the decoder swallows the packet that is in front */
    assert_memory_equal(mp4 + m.edit_at, "\0\0\0\x3e", 4);
}

/* ---- headers of videos, made here ---- */

static void put(struct buffer *b, size_t n, uint32_t value)
{
    while (n-- > 0)
        buffer_append_byte(b, (uint8_t)(value >> 8 * n));
}

static size_t box_begin(struct buffer *b, const char *name)
{
    put(b, 4, 0);
    buffer_append(b, name, 4);
    return b->size - 8;
}

static void box_end(struct buffer *b, size_t at)
{
    for (size_t i = 0; i < 4; i++)
        b->data[at + i] = (uint8_t)((b->size - at) >> 8 * (3 - i));
}

static void put_track(struct buffer *b, const char *handler, const char *codec, const int *matrix)
{
    const size_t trak = box_begin(b, "trak"), tkhd = box_begin(b, "tkhd");
    for (int i = 0; i < 10; i++)
        put(b, 4, 0);
    for (int i = 0; i < 9; i++)
        put(b, 4, i < 5 && i != 2 ? (uint32_t)matrix[i > 2 ? i - 1 : i] << 16 : 0);
    box_end(b, tkhd);
    const size_t mdia = box_begin(b, "mdia"), mdhd = box_begin(b, "mdhd");
    for (int i = 0; i < 5; i++)
        put(b, 4, 1000);
    box_end(b, mdhd);
    const size_t hdlr = box_begin(b, "hdlr");
    put(b, 4, 0);
    put(b, 4, 0);
    buffer_append(b, handler, 4);
    box_end(b, hdlr);
    const size_t minf = box_begin(b, "minf"), stbl = box_begin(b, "stbl"),
                 stsd = box_begin(b, "stsd");
    put(b, 4, 0);
    put(b, 4, 1);
    const size_t entry = box_begin(b, codec);
    for (int i = 0; i < 6; i++)
        put(b, 4, 0);
    put(b, 2, 320);
    put(b, 2, 240);
    box_end(b, entry);
    box_end(b, stsd);
    const size_t stts = box_begin(b, "stts");
    for (int i = 0; i < 4; i++)
        put(b, 4, 0);
    box_end(b, stts);
    box_end(b, stbl);
    box_end(b, minf);
    box_end(b, mdia);
    box_end(b, trak);
}

static const int upright[4] = {1, 0, 0, 1};

static struct buffer make_mp4(const char *video, const int *matrix, const char *sound)
{
    struct buffer b = {0};
    const size_t ftyp = box_begin(&b, "ftyp");
    buffer_append(&b, "isom", 4);
    box_end(&b, ftyp);
    const size_t moov = box_begin(&b, "moov"), mvhd = box_begin(&b, "mvhd");
    for (int i = 0; i < 5; i++)
        put(&b, 4, 1000);
    box_end(&b, mvhd);
    if (sound)
        put_track(&b, "soun", sound, upright);
    put_track(&b, "vide", video, matrix);
    box_end(&b, moov);
    return b;
}

/* An element whose size fits one byte. */
static void put_element(struct buffer *b, size_t id_size, uint32_t id, const void *data, size_t n)
{
    put(b, id_size, id);
    put(b, 1, 0x80 | (uint32_t)n);
    buffer_append(b, data, n);
}

static struct buffer make_webm(const char *video, const char *sound, uint32_t roll, bool live)
{
    struct buffer b = {0}, parts[2] = {{0}, {0}}, size = {0}, projection = {0}, angle = {0};
    put(&angle, 4, roll);
    put_element(&projection, 2, 0x7675, angle.data, 4);
    put_element(&size, 1, 0xb0, "\x01\x40", 2);
    put_element(&size, 1, 0xba, "\xf0", 1);
    put_element(&size, 2, 0x7670, projection.data, projection.size);
    put_element(&parts[0], 1, 0x83, "\x01", 1);
    put_element(&parts[0], 1, 0x86, video, strlen(video));
    put_element(&parts[0], 1, 0xe0, size.data, size.size);
    put_element(&parts[1], 1, 0x83, "\x02", 1);
    put_element(&parts[1], 1, 0x86, sound ? sound : "", sound ? strlen(sound) : 0);
    put_element(&b, 4, 0x1a45dfa3, "", 0);
    put(&b, 4, 0x18538067);
    const size_t n = parts[0].size + parts[1].size + 9 - (sound ? 0 : parts[1].size + 2) + 7;
    if (live)
        put(&b, 1, 0xff);
    else
        put(&b, 2, 0x4000 | (uint32_t)n);
    put(&b, 4, 0x1654ae6b);
    put(&b, 1, 0x80 | (uint32_t)(parts[0].size + 2 + (sound ? parts[1].size + 2 : 0)));
    for (int i = 0; i < (sound ? 2 : 1); i++)
        put_element(&b, 1, 0xae, parts[i].data, parts[i].size);
    put(&b, 4, 0x1f43b675);
    put(&b, 1, live ? 0xff : 0x82);
    buffer_append(&b, "\xa3\x80", 2); /* a block */
    for (int i = 0; i < 2; i++)
        buffer_clear(&parts[i]);
    buffer_clear(&size);
    buffer_clear(&projection);
    buffer_clear(&angle);
    return b;
}

static void refuse(struct buffer *file, enum status_code code, const char *why)
{
    struct medium m = {0};
    struct status st = {0};
    assert_false(sniff(&m, buffer_span(file), WANT_VIDEO, &st));
    if (st.code != code || !strstr(st.text, why))
        fail_msg("'%s' does not say '%s'", st.text, why);
    buffer_clear(file);
}

static void test_foreign_codecs(void **state)
{
    (void)state;
    static const char *const mp4[][2] = {{"av01", "MP4: the video in it is AV1;"},
                                         {"mp4v", "is MPEG-4 part 2"},
                                         {"apcn", "ProRes"},
                                         {"jpeg", "Motion JPEG"},
                                         {"dvh1", "Dolby Vision"},
                                         {"x\x01y ", "is x?y?;"}};
    for (size_t i = 0; i < sizeof mp4 / sizeof *mp4; i++) {
        struct buffer file = make_mp4(mp4[i][0], upright, NULL);
        refuse(&file, STATUS_UNSUPPORTED, mp4[i][1]);
    }
    static const char *const webm[][2] = {{"V_AV1", "WebM/MKV: the video in it is AV1;"},
                                          {"V_MPEG4/ISO/ASP", "MPEG-4 part 2"},
                                          {"V_NEW/\x02", "is V_NEW/?;"},
                                          {"", "an unknown codec"}};
    for (size_t i = 0; i < sizeof webm / sizeof *webm; i++) {
        struct buffer file = make_webm(webm[i][0], NULL, 0, false);
        refuse(&file, STATUS_UNSUPPORTED, webm[i][1]);
    }
    struct buffer only_sound = {0};
    buffer_append(&only_sound, "fLaC", 4);
    refuse(&only_sound, STATUS_UNSUPPORTED, "it is FLAC");
}

static struct medium take(struct buffer *file)
{
    struct medium m = {0};
    struct status st = {0};
    if (!sniff(&m, buffer_span(file), WANT_VIDEO, &st))
        fail_msg("%s", st.text);
    assert_int_equal(m.width_px, 320);
    assert_int_equal(m.height_px, 240);
    buffer_clear(file);
    return m;
}

static void test_tracks(void **state)
{
    (void)state;
    static const struct {
        int matrix[4];
        int orientation;
    } turns[] = {{{1, 0, 0, 1}, 1},   {{-1, 0, 0, 1}, 2}, {{-1, 0, 0, -1}, 3},
                 {{1, 0, 0, -1}, 4},  {{0, 1, 1, 0}, 5},  {{0, 1, -1, 0}, 6},
                 {{0, -1, -1, 0}, 7}, {{0, -1, 1, 0}, 8}, {{1, 1, 0, 1}, 1}};
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
        struct buffer file = make_mp4("hvc1", turns[i].matrix, "mp4a");
        const struct medium m = take(&file);
        assert_int_equal(m.codec, VIDEO_HEVC);
        assert_int_equal(m.orientation, turns[i].orientation);
        assert_string_equal(m.sound_name, "AAC");
        assert_true(m.has_sound);
    }
    struct buffer file = make_mp4("avc1", upright, "ac-3");
    struct medium m = take(&file);
    assert_string_equal(m.sound_name, "AC-3");
    assert_false(m.has_sound);
    file = make_mp4("vp09", upright, NULL);
    m = take(&file);
    assert_string_equal(m.sound_name, "");
    static const uint32_t rolls[][2] = {{0, 1}, {0x42b40000, 8}, {0xc2b40000, 6}, {0x43340000, 3}};
    for (size_t i = 0; i < 4; i++) {
        file = make_webm("V_VP9", "A_OPUS", rolls[i][0], i % 2);
        m = take(&file);
        assert_int_equal(m.codec, VIDEO_VP9);
        assert_int_equal(m.orientation, rolls[i][1]);
        assert_true(m.has_sound);
    }
    file = make_webm("V_MPEG4/ISO/AVC", "A_AC3", 0, true);
    m = take(&file);
    assert_string_equal(m.sound_name, "A_AC3");
    assert_false(m.has_sound);
}

/* Every beginning is refused, every changed byte survived. */
static void test_damaged_headers(void **state)
{
    (void)state;
    struct buffer files[] = {make_mp4("avc1", upright, "mp4a"), make_mp4("mp4v", upright, NULL),
                             make_webm("V_VP8", "A_VORBIS", 0, false)};
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        for (size_t n = 1; n < files[f].size; n++) {
            struct buffer part = {0};
            buffer_append(&part, files[f].data, n);
            walk(part.data, n);
            struct medium m = {0};
            struct status st = {0};
            assert_false(sniff(&m, buffer_span(&part), WANT_VIDEO, &st));
            buffer_clear(&part);
        }
        for (size_t i = 0; i < files[f].size; i++)
            for (int bit = 0; bit < 8; bit++) {
                files[f].data[i] ^= (uint8_t)(1 << bit);
                walk(files[f].data, files[f].size);
                files[f].data[i] ^= (uint8_t)(1 << bit);
            }
        buffer_clear(&files[f]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_beginnings), cmocka_unit_test(test_random_files),
        cmocka_unit_test(test_edit_list),  cmocka_unit_test(test_foreign_codecs),
        cmocka_unit_test(test_tracks),     cmocka_unit_test(test_damaged_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
