/* main.c - millrace-ingest: media bytes to frames. `--decode FD` is a decoder child. */
#include "services/ingest/decode.h"
#include "services/ingest/ingest.h"
#include "services/stage/stage.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One line "picture|sound IN OUT" of decode_files; the answer goes to standard output. */
static void decode_line(char *line, const struct decode_request *sizes)
{
    struct status st = {0};
    struct buffer file = {0};
    struct decoded decoded = {0};
    char *rest = NULL;
    const char *want = strtok_r(line, " \n", &rest), *in = strtok_r(NULL, " \n", &rest);
    const char *out = strtok_r(NULL, " \n", &rest);
    struct decode_request request = *sizes;
    request.want = want && strcmp(want, "picture") == 0 ? DECODE_PICTURE : DECODE_SOUND;
    if (!in || !out || !bytes_read_file(&file, in, MESSAGE_BYTES_MAX, &st) ||
        !decode_medium(&decoded, file.data, file.size, &request, &st)) {
        printf("failed %s %s\n", status_name(st.code), st.text);
    } else {
        FILE *to = fopen(out, "wb");
        const size_t n = to ? fwrite(decoded.bytes.data, 1, decoded.bytes.size, to) : 0;
        const bool ok = to && fclose(to) == 0 && n == decoded.bytes.size;
        printf("%s %zu %zu\n", ok ? "ok" : "failed write", decoded.height, decoded.width);
    }
    buffer_clear(&decoded.bytes);
    buffer_clear(&file);
}

/* millrace-ingest --decode-files [BUDGET TILE_PX]: files named on standard input, in this process
 * and without limits; for looking at what the decoders make of them. */
static int decode_files(int argc, char **argv)
{
    struct status st = {0};
    char line[1024];
    struct decode_request sizes = {0};
    if (argc == 4) {
        sizes.budget = (uint32_t)strtoul(argv[2], NULL, 10);
        sizes.tile_px = (uint32_t)strtoul(argv[3], NULL, 10);
    }
    if (sizes.budget > 0 && sizes.tile_px == 0)
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
