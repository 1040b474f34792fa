/* What is measured on a model: how it is opened, what it has to do, prompts, media. */
#include "services/millrace/bench/bench_model.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/media/media.h"
#include "engine/model/drafter.h"
#include "engine/model/hparams.h"
#include "engine/model/kv.h"
#include "engine/model/model.h"
#include "engine/run/batch.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/weights.h"
#include "proto/media.h"
#include "services/millrace/bench/bench.h"
#include "services/stage/warm.h"
#include <assert.h>
#include <string.h>

#define SOUND_S 30
#define PICTURE_HEIGHT 480
#define PICTURE_WIDTH 640

static double seconds_since(int64_t begun_us)
{
    return (double)(clock_now_us() - begun_us) * 1e-6;
}

/* ------------------------------------------------------------------ open */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void note_laid_out(void *context, size_t done_bytes, size_t all_bytes)
{
    struct bench *b = context;
    (void)done_bytes;
    b->lay_out_bytes = (double)all_bytes;
}

static bool open_model(struct bench *b, const struct bench_setup *setup, struct status *st)
{
    size_t positions = larger(setup->prompt_max, setup->depth_max) + ROOM_TOKENS;
    struct hparams hp;
    struct model_options model = {.exact = setup->exact,
                                  .kv_type = setup->kv_type,
                                  .context_max = positions,
                                  .kv_bytes = SIZE_MAX / 4, /* the parts look at what is free */
                                  .progress = note_laid_out,
                                  .progress_context = b};
    struct batch_options batch = {.slots = 1,
                                  .context_max = setup->prompt_max + 1,
                                  .chunk_tokens = BATCH_CHUNK_TOKENS,
                                  .step_us = BATCH_STEP_US};
    int64_t begun_us = clock_now_us();

    if (!hparams_read(&hp, b->weights, "gemma4", st))
        return false;
    if (hp.context <= setup->prompt_max)
        return status_fail(st, STATUS_LIMIT, "context: %zu positions, prompts of %zu are measured",
                           hp.context, setup->prompt_max);
    if (positions > hp.context)
        model.context_max = hp.context;
    if (!model_open(&b->model, b->weights, b->pool, &model, st))
        return false;
    b->lay_out_s = seconds_since(begun_us);
    return batch_new(&b->batch, b->model, b->tokenizer, &batch, st);
}

/* The same words each time, none of them a control token. */
static void make_ids(struct bench *b)
{
    size_t vocabulary = model_hparams(b->model)->vocabulary;
    size_t low = vocabulary > 1024 ? 512 : vocabulary / 2;

    b->ids = heap_array(int32_t, b->prompt_max);
    for (size_t i = 0; i < b->prompt_max; i++)
        b->ids[i] = (int32_t)(low + i * 7919 % (vocabulary - low));
}

bool bench_open(struct bench **out, const struct bench_setup *setup, struct status *st)
{
    struct bench *b = heap_new(1, sizeof *b);

    b->prompt_max = setup->prompt_max;
    b->pool = pool_new(setup->threads);
    if (!weights_open(&b->weights, setup->model, st))
        goto fail;
    for (size_t i = 0; i < weights_files(b->weights); i++)
        if (!warm_read(weights_file(b->weights, i), NULL, st))
            goto fail;
    int64_t begun_us = clock_now_us();
    if (!tokenizer_new(&b->tokenizer, b->weights, st) || !open_model(b, setup, st))
        goto fail;
    b->start_s = seconds_since(begun_us);
    if (*setup->media &&
        (!weights_open(&b->media, setup->media, st) ||
         !projector_open(&b->projector, b->media, model_hparams(b->model)->width, st)))
        goto fail;
    if (*setup->drafter && (!weights_open(&b->drafter_file, setup->drafter, st) ||
                            !drafter_open(&b->drafter, b->drafter_file, b->model, 1, st)))
        goto fail;
    make_ids(b);
    *out = b;
    return true;
fail:
    bench_close(b);
    return false;
}

void bench_close(struct bench *b)
{
    if (!b)
        return;
    batch_free(b->batch);
    for (size_t i = 0; i < COMPANIES; i++)
        batch_free(b->company[i].batch);
    drafter_close(b->drafter);
    weights_close(b->drafter_file);
    model_close(b->model);
    projector_close(b->projector);
    tokenizer_free(b->tokenizer);
    weights_close(b->media);
    weights_close(b->weights);
    pool_free(b->pool);
    heap_free(b->ids);
    heap_free(b);
}

double bench_start_s(const struct bench *b)
{
    return b->start_s;
}

double bench_lay_out_s(const struct bench *b)
{
    return b->lay_out_s;
}

double bench_lay_out_bytes(const struct bench *b)
{
    return b->lay_out_bytes;
}

const char *bench_numerics(const struct bench *b)
{
    return model_numerics(b->model);
}

/* ------------------------------------------------------------------ arithmetic */

static bool is_matrix(const struct tensor_view *t)
{
    return t->n_dims >= 2;
}

double bench_step_bytes(const struct bench *b)
{
    double sum = 0;

    for (size_t i = 0; i < weights_tensors(b->weights); i++)
        sum += (double)weights_at(b->weights, i)->size_bytes;
    return sum; /* the embedding is read whole as the head */
}

static double products_of(const struct bench *b, bool head)
{
    double sum = 0;

    for (size_t i = 0; i < weights_tensors(b->weights); i++) {
        const struct tensor_view *t = weights_at(b->weights, i);
        if (is_matrix(t) && (head || strcmp(t->name, "token_embd.weight") != 0))
            sum += (double)t->dims[0] * (double)t->dims[1] * (double)t->dims[2];
    }
    return sum;
}

double bench_token_products(const struct bench *b)
{
    return products_of(b, false);
}

double bench_step_products(const struct bench *b)
{
    return products_of(b, true);
}

double bench_kv_bytes(const struct bench *b, size_t depth)
{
    const struct kv *kv = model_kv(b->model);
    return (double)kv_held_bytes(kv, KV_FULL, depth) + (double)kv_held_bytes(kv, KV_SLIDING, depth);
}

static double keys_seen(const struct hparams *hp, size_t layer, size_t depth)
{
    bool cut = hp->layer[layer].sliding && depth > hp->window;
    return (double)(cut ? hp->window : depth);
}

double bench_attend_products(const struct bench *b, size_t depth)
{
    const struct hparams *hp = model_hparams(b->model);
    double sum = 0;

    for (size_t i = 0; i < hp->layers; i++)
        sum += 2 * keys_seen(hp, i, depth) * (double)(hp->heads * hp->layer[i].head_dim);
    return sum;
}

bool bench_attends_in_integers(const struct bench *b)
{
    return kv_type(model_kv(b->model)) == DTYPE_I8;
}

/* ------------------------------------------------------------------ prompts */

double bench_prefill_s(struct bench *b, size_t n)
{
    struct batch_request request = {.ids = b->ids, .n_ids = n, .tokens_max = 1};
    struct batch_event event = {0};
    struct status st = {0};
    size_t slot;
    int64_t begun_us = clock_now_us();

    assert(n <= b->prompt_max);
    bool added = batch_add(b->batch, &request, &slot, &st);
    assert(added); /* the one slot is free */
    while (batch_step(b->batch, &event) == 0 || event.finish == BATCH_RUNNING)
        continue;
    return seconds_since(begun_us);
}

/* ------------------------------------------------------------------ media */

double bench_picture_s(struct bench *b, size_t *out_tokens)
{
    struct status st = {0};
    size_t height, width;

    if (!b->projector)
        return -1;
    const struct media_shape *shape = projector_shape(b->projector);
    if (!image_target_size(PICTURE_HEIGHT, PICTURE_WIDTH, IMAGE_BUDGET_DEFAULT, shape->patch_px,
                           &height, &width, &st))
        return -1;
    *out_tokens = height / shape->patch_px * (width / shape->patch_px);
    uint8_t *rgb = heap_array(uint8_t, height * width * 3);
    float *soft = heap_array(float, *out_tokens * shape->width);
    for (size_t i = 0; i < height * width * 3; i++)
        rgb[i] = (uint8_t)(i * 7919 >> 3);
    int64_t begun_us = clock_now_us();
    bool ok = image_embed(b->projector, soft, rgb, height, width, 0, *out_tokens, &st);
    double s = seconds_since(begun_us);
    heap_free(soft);
    heap_free(rgb);
    return ok ? s : -1;
}

double bench_sound_s(struct bench *b, size_t *out_tokens)
{
    size_t n = (size_t)SOUND_S * MEDIA_AUDIO_RATE_HZ;

    if (!b->projector)
        return -1;
    const struct media_shape *shape = projector_shape(b->projector);
    *out_tokens = audio_tokens(shape, n);
    float *samples = heap_array(float, n);
    float *soft = heap_array(float, *out_tokens * shape->width);
    for (size_t i = 0; i < n; i++)
        samples[i] = (float)(i * 7919 % 2048) / 1024.0f - 1.0f;
    int64_t begun_us = clock_now_us();
    audio_embed(b->projector, soft, samples, n);
    double s = seconds_since(begun_us);
    heap_free(soft);
    heap_free(samples);
    return s;
}
