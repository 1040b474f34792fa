#include "tests/fuzz/model.h"
#include "engine/base/heap.h"
#include "engine/media/media.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "engine/text/tokenizer.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void fuzz_must(bool good)
{
    if (!good)
        abort();
}

static void need(bool good, const char *what)
{
    if (good)
        return;
    perror(what);
    exit(2);
}

static void write_all(int fd, const uint8_t *data, size_t size)
{
    need(ftruncate(fd, 0) == 0, "ftruncate");
    need(pwrite(fd, data, size, 0) == (ssize_t)size, "pwrite");
}

const char *fuzz_file(const uint8_t *data, size_t size)
{
    static char path[64];
    static int fd = -1;

    if (fd < 0) {
        char name[] = "/dev/shm/millrace-fuzz-XXXXXX";
        fd = mkstemp(name);
        need(fd >= 0, "mkstemp");
        (void)unlink(name);
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    write_all(fd, data, size);
    return path;
}

const char *fuzz_folder(void)
{
    const char *folder = getenv("MILLRACE_FUZZ_FOLDER");
    need(folder != NULL, "MILLRACE_FUZZ_FOLDER is not set");
    return folder;
}

void fuzz_put(const char *name, const uint8_t *data, size_t size)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    need(fd >= 0, path);
    write_all(fd, data, size);
    (void)close(fd);
}

void fuzz_remove(const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    (void)unlink(path);
}

void fuzz_touch(const struct weights *w)
{
    volatile uint8_t sum = 0;
    char value[40];
    const char *key;

    for (size_t i = 0; i < weights_tensors(w); i++) {
        const struct tensor_view *t = weights_at(w, i);
        struct status st = {0};
        if (weights_borrow(w, t->name, t->dims, WEIGHTS_DIMS_MAX, &t, &st))
            sum = (uint8_t)(sum + ((const uint8_t *)t->data)[0] +
                            ((const uint8_t *)t->data)[t->size_bytes - 1]);
    }
    for (size_t i = 0; i < weights_keys(w); i++) {
        weights_show_key(w, i, &key, value, sizeof value);
        sum = (uint8_t)(sum + key[0]);
    }
}

void fuzz_decoder(const struct weights *w)
{
    const struct model_options options = {.context_max = 16, .kv_bytes = 1 << 16};
    static struct hparams hp;
    struct model *m = NULL;
    struct status st = {0};
    /* the numbers always; the model, which takes 9 MB, for one size in eight */
    if (hparams_read(&hp, w, "gemma4", &st) && weights_size_bytes(w) % 8 == 0 &&
        model_open(&m, w, NULL, &options, &st))
        model_close(m);
}

void fuzz_tokenizer(const struct weights *w)
{
    static const char text[] = "<|turn>user\nHELLO, h\xc3\xa9!  <turn|>\xff";
    struct tokenizer *t = NULL;
    struct status st = {0};
    struct ids ids = {0};
    struct detokenizer d = {0};
    struct buffer out = {0};

    if (!tokenizer_new(&t, w, &st))
        return;
    tokenizer_encode(t, span_of(text, sizeof text - 1), true, &ids);
    for (size_t i = 0; i < ids.size; i++)
        detokenizer_push(&d, t, ids.data[i], true, &out);
    detokenizer_end(&d, &out);
    ids_clear(&ids);
    buffer_clear(&out);
    tokenizer_free(t);
}

#define TILE_MAX 16
#define WIDTH_MAX 64

void fuzz_projector(const struct weights *w)
{
    static uint8_t rgb[TILE_MAX * TILE_MAX * 3];
    static float soft[WIDTH_MAX];
    static const float samples[4] = {0.5F, -0.5F, 0.25F, 0};
    struct projector *p = NULL;
    struct status st = {0};

    if (!projector_open(&p, w, 0, &st))
        return;
    const struct media_shape *s = projector_shape(p);
    if (s->patch_px <= TILE_MAX && s->width <= WIDTH_MAX) {
        if (image_embed(p, soft, rgb, s->patch_px, s->patch_px, 0, 1, &st) &&
            audio_tokens(s, 4) == 1)
            audio_embed(p, soft, samples, 4);
    }
    projector_close(p);
}
