/* warm.c - one small item of each path, decoded before a child says that it is ready.
 *
 * The first run of a decoder costs 3 to 5 ms (threads, types, tables, pages); it is had here, and a
 * machine whose decoders do not work says so at start. The pictures are one black pixel, written by
 * Pillow; the sound is 32 silent samples. */
#include "services/ingest/decode.h"
#include <string.h>

static const struct {
    enum medium_want want;
    const char *hex;
} items[] = {
    {WANT_PICTURE,
     "ffd8ffe000104a46494600010100000100010000ffdb004300ffffffffffffffffffffffffffffffffffffffff"
     "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
     "c0000b080001000101011100ffc40014000100000000000000000000000000000003ffc4001410010000000000"
     "0000000000000000000000ffda0008010100003f0037ffd9"},
    {WANT_PICTURE,
     "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c6360"
     "6060000000040001f61738550000000049454e44ae426082"},
    {WANT_PICTURE, "524946461a000000574542505650384c0e0000002f00000000071011fd0f4444ff03"},
    {WANT_SOUND,
     "524946466400000057415645666d74201000000001000100803e0000007d000002001000646174614000000000"
     "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000000000000000000000000000000"},
};

#define ITEM_BYTES_MAX 256

static size_t from_hex(uint8_t out[ITEM_BYTES_MAX], const char *hex)
{
    static const char digits[] = "0123456789abcdef";
    const size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n && i < ITEM_BYTES_MAX; i++) {
        const size_t high = (size_t)(strchr(digits, hex[2 * i]) - digits);
        const size_t low = (size_t)(strchr(digits, hex[2 * i + 1]) - digits);
        out[i] = (uint8_t)(high << 4 | low);
    }
    return n;
}

bool decode_warm(struct status *st)
{
    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        uint8_t file[ITEM_BYTES_MAX];
        struct decoded decoded = {0};
        const size_t size = from_hex(file, items[i].hex);
        const struct decode_request request = {.want = items[i].want, .budget = 70, .tile_px = 8};
        if (!decode_medium(&decoded, file, size, &request, st))
            return status_wrap(st, "a decoder does not work here");
        buffer_clear(&decoded.bytes);
    }
    return true;
}
