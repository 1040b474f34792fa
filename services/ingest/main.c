/* main.c - millrace-ingest: media bytes to frames. `--decode FD` is a decoder child. */
#include "proto/media.h"
#include "services/ingest/decode.h"
#include "services/ingest/ingest.h"
#include "services/stage/stage.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One line "picture|sound|video IN OUT" of decode_files; the answer goes to standard output. */
static void decode_line(char *line, const struct decode_request *sizes)
{
    static const char *const words[WANTS] = {
        [WANT_PICTURE] = "picture", [WANT_SOUND] = "sound", [WANT_VIDEO] = "video"};
    struct status st = {0};
    struct buffer file = {0};
    struct decoded d = {0};
    char *rest = NULL;
    const char *want = strtok_r(line, " \n", &rest), *in = strtok_r(NULL, " \n", &rest);
    const char *out = strtok_r(NULL, " \n", &rest);
    struct decode_request request = *sizes;
    for (uint32_t i = 0; want && i < WANTS; i++)
        if (strcmp(want, words[i]) == 0)
            request.want = i;
    if (!in || !out || !bytes_read_file(&file, in, MESSAGE_BYTES_MAX, &st) ||
        !decode_medium(&d, file.data, file.size, &request, &st)) {
        printf("failed %s %s\n", status_name(st.code), st.text);
    } else {
        FILE *to = fopen(out, "wb");
        const size_t n = to ? fwrite(d.bytes.data, 1, d.bytes.size, to) : 0;
        const bool ok = to && fclose(to) == 0 && n == d.bytes.size;
        printf("%s height=%zu width=%zu frames=%zu samples=%zu frames_seen=%zu length_ms=%zu %s\n",
               ok ? "ok" : "failed write", d.height, d.width, d.frames, d.samples, d.frames_seen,
               d.length_ms, d.note);
    }
    buffer_clear(&d.bytes);
    buffer_clear(&file);
}

/* millrace-ingest --decode-files [BUDGET TILE_PX [FPS FRAMES SOUND_S]]: files named on standard
 * input, in this process and without limits; for looking at what the decoders make of them. */
static int decode_files(int argc, char **argv)
{
    struct status st = {0};
    char line[1024];
    struct decode_request sizes = {.fps = VIDEO_FPS_DEFAULT,
                                   .frames_max = VIDEO_FRAMES_DEFAULT,
                                   .sound_s = VIDEO_SOUND_S_DEFAULT};
    if (argc >= 4) {
        sizes.budget = (uint32_t)strtoul(argv[2], NULL, 10);
        sizes.tile_px = (uint32_t)strtoul(argv[3], NULL, 10);
    }
    if (argc >= 7) {
        sizes.fps = strtod(argv[4], NULL);
        sizes.frames_max = (uint32_t)strtoul(argv[5], NULL, 10);
        sizes.sound_s = (uint32_t)strtoul(argv[6], NULL, 10);
    }
    if ((sizes.budget > 0 && sizes.tile_px == 0) || !(sizes.fps > 0) || sizes.frames_max == 0 ||
        sizes.frames_max > VIDEO_FRAMES_MAX)
        return STAGE_EXIT_OPTIONS;
    if (!decode_open(&st)) {
        fprintf(stderr, "%s\n", st.text);
        return STAGE_EXIT_FAILED;
    }
    while (fgets(line, sizeof line, stdin))
        decode_line(line, &sizes);
    fflush(stdout);
    _Exit(0); /* GStreamer keeps what it loaded; leak checkers need not hear of it */
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--decode") == 0)
        return decode_child((int)strtol(argv[2], NULL, 10));
    if (argc > 1 && strcmp(argv[1], "--decode-files") == 0)
        return decode_files(argc, argv);
    return stage_main(&ingest_stage, argc, argv);
}
