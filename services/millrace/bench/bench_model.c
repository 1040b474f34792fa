/* What is measured on a model: prompts read and answers written through the batch, as infer does.
 */
#include "services/millrace/bench/bench_model.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/media/media.h"
#include "engine/model/drafter.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "engine/run/batch.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/weights.h"
#include "services/millrace/bench/bench.h"
#include <assert.h>
#include <string.h>

#define STREAMS_MAX 8
#define PROMPT_SHORT ((size_t)16)
#define ROOM_TOKENS 256 /* for answers, behind the longest prompt */
#define CHUNK_TOKENS 512
#define STEP_US 50000
#define SOUND_S 30
#define PICTURE_HEIGHT 480
#define PICTURE_WIDTH 640

static double seconds_since(int64_t begun_us)
{
    return (double)(clock_now_us() - begun_us) * 1e-6;
}

/* ------------------------------------------------------------------ open */

/* Keys and values for STREAMS_MAX answers, one of them behind the longest prompt. */
static size_t kv_bytes(size_t depth, const struct hparams *hp)
{
    size_t token = 0;

    for (size_t i = 0; i < hp->layers; i++)
        token += 2 * hp->layer[i].kv_heads * hp->layer[i].head_dim * sizeof(float);
    return token * (depth + STREAMS_MAX * (2 * hp->window + CHUNK_TOKENS + ROOM_TOKENS));
}

static bool open_batch(struct bench *b, const struct bench_setup *setup, struct status *st)
{
    struct hparams hp;
    size_t context = setup->depth_max + ROOM_TOKENS;

    if (!hparams_read(&hp, b->weights, "gemma4", st))
        return false;
    struct model_options model = {
        .exact = setup->exact, .context_max = context, .kv_bytes = kv_bytes(context, &hp)};
    struct batch_options batch = {.slots = STREAMS_MAX,
                                  .context_max = context,
                                  .chunk_tokens = CHUNK_TOKENS,
                                  .step_us = STEP_US};
    return model_open(&b->model, b->weights, b->pool, &model, st) &&
           batch_new(&b->batch, b->model, b->tokenizer, &batch, st);
}

/* The same words each time, none of them a control token. */
static void make_ids(struct bench *b)
{
    size_t vocabulary = model_hparams(b->model)->vocabulary;
    size_t low = vocabulary > 1024 ? 512 : vocabulary / 2;

    b->ids = heap_array(int32_t, b->depth_max + ROOM_TOKENS);
    for (size_t i = 0; i < b->depth_max + ROOM_TOKENS; i++)
        b->ids[i] = (int32_t)(low + i * 7919 % (vocabulary - low));
}

bool bench_open(struct bench **out, const struct bench_setup *setup, struct status *st)
{
    struct bench *b = heap_new(1, sizeof *b);
    int64_t begun_us = clock_now_us();

    b->depth_max = setup->depth_max;
    b->pool = pool_new(setup->threads);
    if (!weights_open(&b->weights, setup->model, st) ||
        !tokenizer_new(&b->tokenizer, b->weights, st) || !open_batch(b, setup, st))
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

double bench_token_products(const struct bench *b)
{
    double sum = 0;

    for (size_t i = 0; i < weights_tensors(b->weights); i++) {
        const struct tensor_view *t = weights_at(b->weights, i);
        if (is_matrix(t) && strcmp(t->name, "token_embd.weight") != 0)
            sum += (double)t->dims[0] * (double)t->dims[1] * (double)t->dims[2];
    }
    return sum;
}

static double keys_seen(const struct hparams *hp, size_t layer, size_t depth)
{
    bool cut = hp->layer[layer].sliding && depth > hp->window;
    return (double)(cut ? hp->window : depth);
}

double bench_kv_bytes(const struct bench *b, size_t depth)
{
    const struct hparams *hp = model_hparams(b->model);
    double sum = 0;

    for (size_t i = 0; i < hp->layers; i++)
        sum += 2 * keys_seen(hp, i, depth) *
               (double)(hp->layer[i].kv_heads * hp->layer[i].head_dim) * sizeof(uint16_t);
    return sum;
}

double bench_attend_products(const struct bench *b, size_t depth)
{
    const struct hparams *hp = model_hparams(b->model);
    double sum = 0;

    for (size_t i = 0; i < hp->layers; i++)
        sum += 2 * keys_seen(hp, i, depth) * (double)(hp->heads * hp->layer[i].head_dim);
    return sum;
}

/* ------------------------------------------------------------------ prompts and answers */

static size_t add(struct bench *b, size_t n_ids, size_t first, size_t tokens)
{
    struct batch_request request = {.ids = b->ids + first, .n_ids = n_ids, .tokens_max = tokens};
    struct status st = {0};
    size_t slot = 0;

    bool added = batch_add(b->batch, &request, &slot, &st);
    assert(added); /* room was made for it when the batch was */
    return slot;
}

/* What a step gave. */
struct given {
    size_t tokens, begun, ended; /* begun, ended: answers */
};

static struct given step(struct bench *b)
{
    struct batch_event events[STREAMS_MAX];
    struct given given = {0};
    size_t n = batch_step(b->batch, events);

    for (size_t i = 0; i < n; i++) {
        given.tokens += events[i].n_tokens;
        given.begun += events[i].index == 0 && events[i].n_tokens > 0;
        given.ended += events[i].finish != BATCH_RUNNING;
    }
    return given;
}

double bench_prefill_s(struct bench *b, size_t n)
{
    int64_t begun_us = clock_now_us();

    assert(n <= b->depth_max);
    (void)add(b, n, 0, 1);
    while (step(b).ended == 0)
        continue;
    return seconds_since(begun_us);
}

double bench_decode_s(struct bench *b, size_t streams, size_t depth, size_t steps)
{
    size_t slots[STREAMS_MAX];
    struct given given = {0};
    size_t done = 0;
    size_t prompt = depth ? depth : PROMPT_SHORT;

    assert(streams <= STREAMS_MAX && prompt <= b->depth_max && steps + 2 <= ROOM_TOKENS);
    for (size_t i = 0; i < streams; i++)
        slots[i] = add(b, prompt, i, ROOM_TOKENS);
    for (size_t begun = 0; begun < streams; begun += given.begun)
        given = step(b);
    /* The pass that is under way was begun without those that came last. */
    for (given.tokens = 0; given.tokens == 0;)
        given = step(b);
    int64_t begun_us = clock_now_us();
    for (; done < streams * steps && given.ended == 0; done += given.tokens)
        given = step(b); /* an answer of a real model may end */
    double s = seconds_since(begun_us);
    for (size_t i = 0; i < streams; i++)
        batch_remove(b->batch, slots[i]);
    return done ? s * (double)streams / (double)done : 0;
}

static double pass_s(struct forward *f, const struct model_input *inputs, size_t rows)
{
    int64_t begun_us = clock_now_us();

    forward_begin(f, inputs, rows);
    while (!forward_advance(f, STEP_US))
        continue;
    return seconds_since(begun_us);
}

double bench_verify_s(struct bench *b, size_t rows)
{
    struct model_input inputs[PROMPT_SHORT] = {0};
    size_t vocabulary = model_hparams(b->model)->vocabulary;
    struct sequence *s = NULL;
    struct status st = {0};

    assert(rows <= PROMPT_SHORT);
    bool made = sequence_new(&s, b->model, 3 * PROMPT_SHORT, &st);
    assert(made);
    float *logits = heap_array(float, rows *vocabulary);
    struct forward *f = forward_new(b->model, PROMPT_SHORT);
    for (size_t i = 0; i < PROMPT_SHORT; i++)
        inputs[i] = (struct model_input){.sequence = s, .id = b->ids[i], .block = -1};
    (void)pass_s(f, inputs, PROMPT_SHORT);
    for (size_t i = 0; i < rows; i++)
        inputs[i].logits = logits + i * vocabulary;
    (void)pass_s(f, inputs, rows); /* memory is touched for the first time */
    double took = pass_s(f, inputs, rows);
    forward_free(f);
    sequence_free(s);
    heap_free(logits);
    return took;
}

/* ------------------------------------------------------------------ media */

double bench_picture_s(struct bench *b, size_t *out_tokens)
{
    struct status st = {0};
    size_t height, width;

    if (!b->projector)
        return -1;
    const struct media_shape *shape = projector_shape(b->projector);
    if (!image_target_size(PICTURE_HEIGHT, PICTURE_WIDTH, MEDIA_BUDGET_DEFAULT, shape->patch_px,
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
