/* A media file ("mmproj"): its sizes and its matrices. */
#include "tests/fuzz/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct weights *w = NULL;
    struct status st = {0};
    if (!weights_open(&w, fuzz_file(data, size), &st))
        return 0;
    fuzz_projector(w);
    weights_close(w);
    return 0;
}
