/* tokenizer.json of a checkpoint's folder. */
#include "tests/fuzz/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct weights *w = NULL;
    struct status st = {0};
    fuzz_put("tokenizer.json", data, size);
    if (weights_open(&w, fuzz_folder(), &st))
        fuzz_tokenizer(w);
    weights_close(w);
    return 0;
}
