#include "services/millrace/fit.h"
#include "engine/base/heap.h"
#include "engine/base/pages.h"
#include "engine/kernels/cpu.h"
#include "engine/media/media.h"
#include "engine/model/drafter.h"
#include "engine/model/hparams.h"
#include "engine/model/kv.h"
#include "engine/run/batch.h"
#include "engine/weights/weights.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define CONTEXT_STEP 1024

static bool check_cpu(struct status *st)
{
#if defined(__x86_64__)
    if (!cpu_has(CPU_AVX2))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "this CPU lacks AVX2, FMA or F16C: the model would answer a few hundred "
                           "times slower; a machine from 2014 or later has them");
#elif defined(__aarch64__)
    if (!cpu_has(CPU_NEON))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "this CPU lacks NEON dot products: the model would answer many times "
                           "slower; an Armv8.4 core, or a Cortex-A76 or later, has them");
#endif
    (void)st;
    return true;
}

static struct fit_kv kv_of(const struct hparams *hp, uint64_t context, enum dtype type)
{
    struct kv *kv = kv_new(hp, type, 0);
    struct fit_kv out = {.full_token = kv_token_bytes(kv, KV_FULL),
                         .sliding_token = kv_token_bytes(kv, KV_SLIDING),
                         .window = hp->window,
                         .full = kv_held_bytes(kv, KV_FULL, (size_t)context),
                         .sliding = kv_held_bytes(kv, KV_SLIDING, (size_t)context),
                         .request = kv_line_bytes(kv, (size_t)context)};
    uint64_t rows = BATCH_CHUNK_TOKENS + BATCH_PICTURE_TOKENS;

    out.picture =
        (rows < context ? rows : context) / KV_PAGE_TOKENS * kv_page_bytes(kv, KV_SLIDING);

    kv_free(kv);
    return out;
}

static bool read_model(const struct weights *w, struct hparams *hp, struct fit *fit,
                       struct status *st)
{
    struct span arch;

    if (!weights_string(w, "general.architecture", &arch, st))
        return false;
    if (!span_is(arch, "gemma4"))
        return status_fail(st, STATUS_UNSUPPORTED,
                           "architecture '%.*s' is not run here; gemma4 is wanted%s",
                           (int)(arch.size < 40 ? arch.size : 40), (const char *)arch.data,
                           span_is(arch, "clip") ? " (this is a media file: --media)" : "");
    (void)snprintf(fit->arch, sizeof fit->arch, "gemma4");
    if (!hparams_read(hp, w, fit->arch, st))
        return false;
    fit->file_bytes = weights_size_bytes(w);
    fit->context = hp->context;
    fit->width = hp->width;
    fit->layers = hp->layers;
    return true;
}

static bool read_media(const char *model, const char *media, struct fit *fit, struct status *st)
{
    struct weights *w = NULL;
    struct projector *projector = NULL;

    if (!weights_open(&w, media, st))
        return status_wrap(st, "media file");
    bool ok = projector_open(&projector, w, fit->width, st);
    if (ok && strcmp(model, media) != 0) /* else it is counted already */
        fit->media_bytes = weights_size_bytes(w);
    projector_close(projector);
    weights_close(w);
    return ok || status_wrap(st, "media file '%s'", media);
}

bool fit_read(struct fit *out, const char *model, const char *media, uint64_t context,
              const char *kv_type, struct status *st)
{
    struct hparams *hp = heap_new(1, sizeof *hp);
    struct weights *w = NULL;
    struct fit fit = {.available_bytes = pages_available_bytes()};
    enum dtype kv;

    bool ok = check_cpu(st) && kv_type_read(&kv, kv_type, false, st) && weights_open(&w, model, st);
    if (ok && !read_model(w, hp, &fit, st))
        ok = status_wrap(st, "model '%s'", model);
    fit.wanted = context                             ? context
                 : fit.context < FIT_CONTEXT_DEFAULT ? fit.context
                                                     : FIT_CONTEXT_DEFAULT;
    if (ok && context > fit.context)
        ok = status_fail(st, STATUS_LIMIT,
                         "context %" PRIu64 ": the model was made for at most %" PRIu64, context,
                         fit.context);
    if (ok)
        fit.media_inside = media_shape_read(&(struct media_shape){0}, w, &(struct status){0});
    if (ok)
        fit.kv = kv_of(hp, fit.wanted, kv);
    if (ok && media[0])
        ok = read_media(model, media, &fit, st);
    if (ok)
        *out = fit;
    weights_close(w);
    heap_free(hp);
    return ok;
}

bool fit_drafter(struct fit *fit, const char *model, const char *drafter, struct status *st)
{
    struct hparams *hp = heap_new(1, sizeof *hp);
    struct weights *w = NULL, *d = NULL;
    bool ok = !drafter[0] || (weights_open(&w, model, st) && hparams_read(hp, w, fit->arch, st) &&
                              (weights_open(&d, drafter, st) || status_wrap(st, "drafter")) &&
                              drafter_check(d, hp, st));

    fit->drafter_bytes = ok && drafter[0] ? weights_size_bytes(d) : 0;
    weights_close(d);
    weights_close(w);
    heap_free(hp);
    return ok;
}

bool fit_memory(const struct fit *fit, uint64_t kv_bytes, uint64_t other_bytes, struct status *st)
{
    uint64_t files = fit->file_bytes + fit->media_bytes + fit->drafter_bytes;
    kv_bytes += fit->kv.picture;
    uint64_t wanted = files + kv_bytes + other_bytes;

    if (wanted <= fit->available_bytes)
        return true;
    return status_fail(
        st, STATUS_LIMIT,
        "too little memory: %s of weights, %s of keys and values and %s of work space "
        "are %s; %s are free. Smaller: --context, --slots, or a file of fewer bits",
        fit_bytes(files), fit_bytes(kv_bytes), fit_bytes(other_bytes), fit_bytes(wanted),
        fit_bytes(fit->available_bytes));
}

uint64_t fit_context(const char *model, const char *kv_type, uint64_t available)
{
    struct hparams *hp = heap_new(1, sizeof *hp);
    struct weights *w = NULL;
    struct status st = {0};
    struct fit fit = {0};
    uint64_t best = 0;
    enum dtype type;

    if (kv_type_read(&type, kv_type, false, &st) && weights_open(&w, model, &st) &&
        read_model(w, hp, &fit, &st)) {
        uint64_t rest = fit.file_bytes + FIT_WORK_BYTES + FIT_GATEWAY_BYTES;
        uint64_t low = 0;
        uint64_t high = fit.context / CONTEXT_STEP;
        while (low < high) {
            uint64_t middle = (low + high + 1) / 2;
            struct fit_kv kv = kv_of(hp, middle * CONTEXT_STEP, type);
            bool fits = rest + kv.request + kv.picture <= available;
            low = fits ? middle : low;
            high = fits ? high : middle - 1;
        }
        best = low * CONTEXT_STEP;
    }
    weights_close(w);
    heap_free(hp);
    return best;
}

const char *fit_bytes(uint64_t bytes)
{
    static const struct {
        uint64_t one;
        const char *unit;
    } units[] = {{1000000000, "GB"}, {1000000, "MB"}, {1000, "KB"}};
    static char texts[8][32];
    static size_t next;
    char *text = texts[next++ % 8];

    (void)snprintf(text, sizeof texts[0], "%" PRIu64 " bytes", bytes);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (bytes >= units[i].one) {
            (void)snprintf(text, sizeof texts[0], "%.2f %s", (double)bytes / (double)units[i].one,
                           units[i].unit);
            break;
        }
    return text;
}
