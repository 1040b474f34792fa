#define _GNU_SOURCE /* memmem */
/* Cases with a model: logits of every position, intermediate values, media, pieces, greedy runs. */
#include "engine/model/model.h"
#include "engine/base/heap.h"
#include "engine/media/media.h"
#include "engine/model/hparams.h"
#include "engine/ops/ops.h"
#include "engine/text/tokenizer.h"
#include "proto/media.h"
#include "services/millrace/conform/conform.h"
#include <stdio.h>
#include <string.h>

#define KV_BYTES ((size_t)256 << 20)
#define LEAD_TOLERANCE 2e-3

/* Token types of a case. */
enum { KIND_TEXT, KIND_IMAGE, KIND_VIDEO, KIND_AUDIO, KINDS };

/* A case with what it needs opened. */
struct bench {
    struct conform_case *c;
    struct weights *weights, *media;
    struct model *model;
    struct projector *projector; /* NULL: none named */
    struct forward *forward;
    const struct hparams *hp;
    size_t n;               /* tokens */
    const int32_t *tokens;  /* [n] */
    int32_t *block;         /* [n] */
    const float **soft_row; /* [n]; NULL: a token */
    float *soft[KINDS];     /* soft tokens of a kind, in order; owned */
    size_t n_soft[KINDS];
    float *logits; /* [n][vocabulary] */
};

/* ------------------------------------------------------------------ opening */

bool conform_open(struct conform_case *c, const char *key, struct weights **out)
{
    struct span name;
    struct status st = {0};
    char path[2 * CONFORM_PATH_MAX];

    if (!weights_string(c->file, key, &name, &st)) {
        conform_fail(c, "%s", st.text);
        return false;
    }
    (void)snprintf(path, sizeof path, "%s/%.*s", c->folder,
                   (int)(name.size < 512 ? name.size : 512), (const char *)name.data);
    if (!weights_open(out, path, &st)) {
        conform_fail(c, "%s", st.text);
        return false;
    }
    return true;
}

static bool open_model(struct bench *b, size_t rows)
{
    struct model_options options = {.exact = true, .context_max = 4096, .kv_bytes = KV_BYTES};
    struct status st = {0};

    if (!conform_open(b->c, "golden.model", &b->weights))
        return false;
    if (!model_open(&b->model, b->weights, NULL, &options, &st)) {
        conform_fail(b->c, "%s", st.text);
        return false;
    }
    b->hp = model_hparams(b->model);
    b->forward = forward_new(b->model, rows);
    if (!weights_has(b->c->file, "golden.mmproj"))
        return true;
    if (!conform_open(b->c, "golden.mmproj", &b->media))
        return false;
    if (!projector_open(&b->projector, b->media, b->hp->width, &st)) {
        conform_fail(b->c, "%s", st.text);
        return false;
    }
    return true;
}

static void close_all(struct bench *b)
{
    for (size_t i = 0; i < KINDS; i++)
        heap_free(b->soft[i]);
    heap_free(b->block);
    heap_free((void *)b->soft_row);
    heap_free(b->logits);
    forward_free(b->forward);
    projector_close(b->projector);
    model_close(b->model);
    weights_close(b->media);
    weights_close(b->weights);
}

/* ------------------------------------------------------------------ media of the case */

static float *more_soft(struct bench *b, int kind, size_t tokens)
{
    size_t width = b->hp->width;

    b->soft[kind] = heap_resize(b->soft[kind], (b->n_soft[kind] + tokens) * width, sizeof(float));
    float *rows = b->soft[kind] + b->n_soft[kind] * width;
    b->n_soft[kind] += tokens;
    return rows;
}

/* Picture `prefix`: resized, cut into patches, placed, embedded; each step from the case's own
 * input. */
static void picture(struct bench *b, const char *prefix, int kind)
{
    static const char *const parts[] = {"rgb", "resized", "patches", "positions", "soft"};
    char name[5][48];
    struct conform_case *c = b->c;
    struct status st = {0};

    for (size_t i = 0; i < 5; i++)
        (void)snprintf(name[i], sizeof name[i], "%.30s.%s", prefix, parts[i]);
    const struct tensor_view *rgb = conform_tensor(c, name[0]);
    const struct tensor_view *resized = conform_tensor(c, name[1]);
    if (!rgb || !resized)
        return;
    size_t side = projector_shape(b->projector)->patch_px;
    size_t height = resized->dims[2];
    size_t width = resized->dims[1];
    size_t tokens = (height / side) * (width / side);
    uint8_t *small = heap_new(height * width * 3, 1);
    float *patches = heap_array(float, tokens * 3 * side * side);
    int32_t *positions = heap_array(int32_t, tokens * 2);
    image_resize(small, height, width, rgb->data, rgb->dims[2], rgb->dims[1]);
    conform_compare_u8(c, name[1], small, height * width * 3, 1);
    image_patches(patches, resized->data, height, width, side);
    conform_compare(c, name[2], patches, tokens * 3 * side * side, c->tolerance);
    for (size_t i = 0; i < tokens; i++) {
        positions[2 * i] = (int32_t)(i % (width / side));
        positions[2 * i + 1] = (int32_t)(i / (width / side));
    }
    conform_compare_i32(c, name[3], positions, tokens * 2);
    float *soft = more_soft(b, kind, tokens);
    if (image_embed(b->projector, soft, resized->data, height, width, 0, tokens, &st))
        conform_compare(c, name[4], soft, tokens * b->hp->width, c->tolerance);
    else
        conform_fail(c, "%s: %s", prefix, st.text);
    heap_free(small);
    heap_free(patches);
    heap_free(positions);
}

static void sound(struct bench *b)
{
    struct conform_case *c = b->c;
    const struct media_shape *shape = projector_shape(b->projector);
    size_t n;
    const float *samples = conform_f32(c, "audio.samples", &n);

    if (!samples)
        return;
    size_t tokens = audio_tokens(shape, n);
    float *frames = heap_array(float, tokens * shape->samples_per_token);
    memcpy(frames, samples, n * sizeof *samples);
    conform_compare(c, "audio.frames", frames, tokens * shape->samples_per_token, 0);
    float *soft = more_soft(b, KIND_AUDIO, tokens);
    audio_embed(b->projector, soft, samples, n);
    conform_compare(c, "audio.soft", soft, tokens * b->hp->width, c->tolerance);
    heap_free(frames);
}

#define CLIP_FRAMES_MAX 4096

/* Whether the prompt has a frame at this time; *rest is what is behind it. */
static bool find_time(struct span *rest, int64_t time_us)
{
    char time[VIDEO_TIME_SIZE];
    char words[VIDEO_TIME_SIZE + 12];

    video_time(time, time_us);
    (void)snprintf(words, sizeof words, "%s <|image>", time);
    const uint8_t *at = memmem(rest->data, rest->size, words, strlen(words));
    if (!at)
        return false;
    at += strlen(words);
    *rest = span_of(at, rest->size - (size_t)(at - rest->data));
    return true;
}

/* The case shows a frame a second of a clip of even rate, whose rate and length follow from the
 * indices: the same frames are chosen, and the prompt has their times in order. */
static void choose_frames(struct bench *b)
{
    struct conform_case *c = b->c;
    struct span rest;
    struct status st = {0};
    int64_t times_us[CLIP_FRAMES_MAX];
    size_t chosen[CLIP_FRAMES_MAX];
    int32_t got[CLIP_FRAMES_MAX];
    size_t n;
    const int32_t *indices = conform_i32(c, "frame_indices", &n);

    if (!indices)
        return;
    if (n < 2 || indices[1] < 1 || n * (size_t)indices[1] > CLIP_FRAMES_MAX) {
        conform_fail(c, "frame_indices: no clip has these");
        return;
    }
    if (!weights_string(c->file, "golden.prompt", &rest, &st)) {
        conform_fail(c, "%s", st.text);
        return;
    }
    const size_t rate_hz = (size_t)indices[1];
    for (size_t i = 0; i < n * rate_hz; i++)
        times_us[i] = (int64_t)(i * 1000000 / rate_hz);
    size_t count = video_choose(chosen, times_us, n * rate_hz, (int64_t)n * 1000000,
                                VIDEO_FPS_DEFAULT, CLIP_FRAMES_MAX);
    for (size_t i = 0; i < count; i++) {
        got[i] = (int32_t)chosen[i];
        if (!find_time(&rest, times_us[chosen[i]]))
            conform_fail(c, "golden.prompt: the time of frame %zu is not there", i);
    }
    conform_compare_i32(c, "frame_indices", got, count);
}

static void read_media(struct bench *b)
{
    static const struct {
        const char *prefix;
        int kind;
    } pictures[] = {{"image", KIND_IMAGE}, {"frame", KIND_VIDEO}};
    char name[48];

    for (size_t k = 0; k < 2; k++)
        for (int i = 0;; i++) {
            (void)snprintf(name, sizeof name, "%s.%d.rgb", pictures[k].prefix, i);
            if (!conform_has(b->c, name))
                break;
            (void)snprintf(name, sizeof name, "%s.%d", pictures[k].prefix, i);
            picture(b, name, pictures[k].kind);
        }
    if (conform_has(b->c, "audio.samples"))
        sound(b);
    if (conform_has(b->c, "frame_indices"))
        choose_frames(b);
}

/* ------------------------------------------------------------------ the prompt */

/* Blocks and rows of the soft slots, by the token types. */
static bool place(struct bench *b)
{
    size_t n_types = 0;
    size_t used[KINDS] = {0};
    int32_t number = -1;
    const int32_t *types = NULL;

    if (conform_has(b->c, "types"))
        types = conform_i32(b->c, "types", &n_types);
    for (size_t i = 0; i < b->n; i++) {
        b->block[i] = -1;
        if (!types || i >= n_types || types[i] <= 0)
            continue;
        int32_t kind = types[i];
        if (kind >= KINDS || used[kind] >= b->n_soft[kind]) {
            conform_fail(b->c, "types[%zu]: no soft token for kind %d", i, kind);
            return false;
        }
        b->soft_row[i] = b->soft[kind] + used[kind]++ * b->hp->width;
        if (kind == KIND_AUDIO)
            continue;
        if (i == 0 || b->block[i - 1] == -1)
            number++;
        b->block[i] = number;
    }
    return true;
}

/* The masks as the model applies them. */
static void compare_masks(struct bench *b)
{
    uint8_t *full = heap_new(b->n * b->n, 1);
    uint8_t *sliding = heap_new(b->n * b->n, 1);
    size_t window = b->hp->window;

    for (size_t q = 0; q < b->n; q++)
        for (size_t k = 0; k < b->n; k++) {
            bool same = b->block[q] != -1 && b->block[q] == b->block[k];
            full[q * b->n + k] = k <= q;
            sliding[q * b->n + k] = (k <= q || same) && k + window > q;
        }
    conform_compare_u8(b->c, "mask.full", full, b->n * b->n, 0);
    conform_compare_u8(b->c, "mask.sliding", sliding, b->n * b->n, 0);
    heap_free(full);
    heap_free(sliding);
}

static void compare_prompt(struct bench *b)
{
    struct span text;
    struct status st = {0};
    struct tokenizer *t = NULL;
    struct ids ids = {0};

    if (!weights_has(b->c->file, "golden.prompt"))
        return;
    if (!weights_string(b->c->file, "golden.prompt", &text, &st) ||
        !tokenizer_new(&t, b->weights, &st)) {
        conform_fail(b->c, "%s", st.text);
        return;
    }
    tokenizer_encode(t, text, true, &ids);
    conform_compare_i32(b->c, "tokens", ids.data, ids.size);
    ids_clear(&ids);
    tokenizer_free(t);
}

/* ------------------------------------------------------------------ passes */

static void compare_numbers(struct conform_case *c, const char *name, const float *values, size_t n)
{
    int32_t *numbers = heap_array(int32_t, n);

    for (size_t i = 0; i < n; i++)
        numbers[i] = (int32_t)values[i];
    conform_compare_i32(c, name, numbers, n);
    heap_free(numbers);
}

/* Intermediate values that the case holds. */
static void watch(void *context, size_t layer, const char *name, const float *values, size_t rows,
                  size_t width)
{
    struct bench *b = context;
    char tensor[64];

    if (strcmp(name, "embedding") == 0 || strcmp(name, "hidden") == 0)
        (void)snprintf(tensor, sizeof tensor, "%s", name);
    else
        (void)snprintf(tensor, sizeof tensor, "layer.%zu.%s", layer, name);
    if (!conform_has(b->c, tensor))
        return;
    if (strcmp(name, "experts") == 0)
        compare_numbers(b->c, tensor, values, rows * width);
    else
        conform_compare(b->c, tensor, values, rows * width, b->c->tolerance);
}

static void pass(struct bench *b, struct sequence *s, size_t begin, size_t end)
{
    struct model_input *inputs = heap_array(struct model_input, end - begin);

    for (size_t i = begin; i < end; i++)
        inputs[i - begin] = (struct model_input){.sequence = s,
                                                 .id = b->tokens[i],
                                                 .soft = b->soft_row[i],
                                                 .block = b->block[i],
                                                 .logits = b->logits + i * b->hp->vocabulary};
    forward_begin(b->forward, inputs, end - begin);
    while (!forward_advance(b->forward, 1000000))
        continue;
    heap_free(inputs);
}

/* Reads the prompt in pieces of these sizes (0 or the end of the list: all that is left); a piece
 * that would end inside a picture is made longer. */
static void prefill(struct bench *b, const int32_t *sizes, size_t n_sizes)
{
    struct sequence *s = NULL;
    struct status st = {0};
    size_t at = 0;

    if (!sequence_new(&s, b->model, b->n, &st)) {
        conform_fail(b->c, "%s", st.text);
        return;
    }
    for (size_t i = 0; at < b->n; i++) {
        size_t end = i < n_sizes && sizes[i] > 0 ? at + (size_t)sizes[i] : b->n;
        if (end > b->n)
            end = b->n;
        while (end < b->n && b->block[end] != -1 && b->block[end] == b->block[end - 1])
            end++;
        pass(b, s, at, end);
        at = end;
    }
    sequence_free(s);
    conform_compare(b->c, "logits", b->logits, b->n * b->hp->vocabulary, b->c->tolerance);
}

static void run_chunks(struct bench *b)
{
    const struct tensor_view *chunks = conform_tensor(b->c, "chunks");
    size_t n;
    const int32_t *sizes = conform_i32(b->c, "chunks", &n);

    if (!chunks || !sizes)
        return;
    size_t row = chunks->dims[0];
    for (size_t at = 0; at + row <= n; at += row)
        prefill(b, sizes + at, row);
}

bool conform_is_model(const struct conform_case *c)
{
    return conform_has(c, "tokens") && conform_has(c, "logits") &&
           !weights_has(c->file, "golden.drafter");
}

void conform_model(struct conform_case *c)
{
    struct bench b = {.c = c};

    b.tokens = conform_i32(c, "tokens", &b.n);
    if (b.tokens && b.n > 0 && open_model(&b, b.n)) {
        b.block = heap_array(int32_t, b.n);
        b.soft_row = (const float **)heap_new(b.n, sizeof(float *));
        b.logits = heap_array(float, b.n *b.hp->vocabulary);
        if (b.projector)
            read_media(&b);
        if (place(&b)) {
            compare_prompt(&b);
            if (conform_has(c, "block"))
                conform_compare_i32(c, "block", b.block, b.n);
            if (conform_has(c, "mask.full"))
                compare_masks(&b);
            forward_trace(b.forward, watch, &b);
            prefill(&b, NULL, 0);
            forward_trace(b.forward, NULL, NULL);
            if (conform_has(c, "chunks"))
                run_chunks(&b);
        }
    }
    close_all(&b);
}

/* ------------------------------------------------------------------ greedy */

bool conform_is_greedy(const struct conform_case *c)
{
    return conform_has(c, "prompt") && conform_has(c, "lead");
}

static float lead_of(const float *logits, size_t n, size_t first)
{
    float second = -3e38F;

    for (size_t i = 0; i < n; i++)
        if (i != first && logits[i] > second)
            second = logits[i];
    return logits[first] - second;
}

static void continue_greedily(struct bench *b, struct sequence *s, size_t steps)
{
    float *lead = heap_array(float, steps);
    int32_t *ids = heap_array(int32_t, steps);
    float *row = b->logits + (b->n - 1) * b->hp->vocabulary;

    for (size_t i = 0; i < steps; i++) {
        ids[i] = (int32_t)ops_argmax(row, b->hp->vocabulary);
        lead[i] = lead_of(row, b->hp->vocabulary, (size_t)ids[i]);
        struct model_input input = {.sequence = s, .id = ids[i], .block = -1, .logits = row};
        forward_begin(b->forward, &input, 1);
        while (!forward_advance(b->forward, 1000000))
            continue;
    }
    conform_compare_i32(b->c, "ids", ids, steps);
    conform_compare(b->c, "lead", lead, steps, LEAD_TOLERANCE);
    /* Ids decide; the leads are compared with a bound of their own. */
    if (!b->c->why[0])
        b->c->largest = 0;
    heap_free(lead);
    heap_free(ids);
}

void conform_greedy(struct conform_case *c)
{
    struct bench b = {.c = c};
    struct sequence *s = NULL;
    struct status st = {0};
    size_t steps;

    b.tokens = conform_i32(c, "prompt", &b.n);
    (void)conform_i32(c, "ids", &steps);
    if (b.tokens && b.n > 0 && open_model(&b, b.n)) {
        b.block = heap_array(int32_t, b.n);
        memset(b.block, -1, b.n * sizeof *b.block);
        b.soft_row = (const float **)heap_new(b.n, sizeof(float *));
        b.logits = heap_array(float, b.n *b.hp->vocabulary);
        if (sequence_new(&s, b.model, b.n + steps, &st)) {
            pass(&b, s, 0, b.n);
            continue_greedily(&b, s, steps);
        } else {
            conform_fail(c, "%s", st.text);
        }
        sequence_free(s);
    }
    close_all(&b);
}
