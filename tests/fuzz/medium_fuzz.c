/* The bytes of a picture, sound or video, as a sender gives them; the first one says as what they
 * are wanted. What is accepted has sizes and times that a decoder can be asked for. */
#include "services/ingest/sniff.h"
#include "tests/fuzz/model.h"
#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct medium m = {0};
    struct status st = {0};

    if (size == 0)
        return 0;
    enum medium_want want = (enum medium_want)(data[0] % WANTS);
    if (!sniff(&m, span_of(data + 1, size - 1), want, &st)) {
        fuzz_must(st.code != STATUS_OK && st.text[0] != '\0' &&
                  utf8_valid_prefix((const uint8_t *)st.text, strlen(st.text)) == strlen(st.text));
        return 0;
    }
    fuzz_must(m.kind < MEDIUM_KINDS && isfinite(m.start_s) && isfinite(m.length_s) &&
              isfinite(m.expect_s));
    fuzz_must(memchr(m.sound_name, 0, sizeof m.sound_name) != NULL);
    if (want == WANT_SOUND)
        return 0;
    fuzz_must(m.width_px > 0 && m.height_px > 0 && m.orientation >= 1 && m.orientation <= 8);
    fuzz_must(m.width_px * m.height_px <=
              (want == WANT_VIDEO ? VIDEO_PIXELS_MAX : PICTURE_PIXELS_MAX));
    return 0;
}
