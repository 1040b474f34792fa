/* One file of a checkpoint's folder; the first byte says which. The others are good. */
#include "tests/fuzz/model.h"
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *opened;
} files[] = {
    {"model.safetensors", "model.safetensors"},
    {"config.json", "model-00001-of-00002.safetensors"},
    {"generation_config.json", "model-00001-of-00002.safetensors"},
    {"model.safetensors.index.json", "model.safetensors.index.json"},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char good[4][1 << 16];
    static size_t good_size[4];
    struct weights *w = NULL;
    struct status st = {0};
    char path[512];

    if (size == 0)
        return 0;
    size_t which = data[0] % 4;
    for (size_t i = 0; !good_size[which] && i < 1; i++) { /* kept to be put back */
        (void)snprintf(path, sizeof path, "%s/%s", fuzz_folder(), files[which].name);
        FILE *file = fopen(path, "rb");
        good_size[which] = file ? fread(good[which], 1, sizeof good[which], file) : 0;
        if (file)
            (void)fclose(file);
    }
    fuzz_put(files[which].name, data + 1, size - 1);
    (void)snprintf(path, sizeof path, "%s/%s", fuzz_folder(), files[which].opened);
    if (weights_open(&w, path, &st)) {
        fuzz_touch(w);
        fuzz_decoder(w);
        fuzz_projector(w);
    }
    weights_close(w);
    fuzz_put(files[which].name, (const uint8_t *)good[which], good_size[which]);
    return 0;
}
