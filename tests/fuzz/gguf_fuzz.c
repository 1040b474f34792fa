/* A GGUF file: its container, its hyperparameters and its vocabulary. */
#include "tests/fuzz/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct weights *w = NULL;
    struct status st = {0};
    if (!weights_open(&w, fuzz_file(data, size), &st))
        return 0;
    fuzz_touch(w);
    fuzz_decoder(w);
    fuzz_tokenizer(w);
    weights_close(w);
    return 0;
}
