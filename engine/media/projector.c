/* projector.c - the matrices of a media file: pictures and sound to soft tokens (spec media.md
 * sections 3 and 4). */
#include "engine/base/heap.h"
#include "engine/media/media.h"
#include "engine/ops/dense.h"
#include "engine/weights/weights.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LAYER_NORM_EPSILON 1e-5 /* PyTorch's default, in all three */
#define RMS_EPSILON 1e-6

struct layer_norm {
    const float *weight, *bias;
};

struct projector {
    struct media_shape shape;
    size_t vision; /* width between the two picture matrices */
    struct layer_norm norm[3];
    const float *dense_bias; /* [vision] */
    const float *columns;    /* [positions][vision]: of x */
    const float *rows;       /* [positions][vision]: of y */
    float *dense;            /* [vision][3 * tile * tile] */
    float *picture;          /* [width][vision] */
    float *sound;            /* [width][samples_per_token] */
    float *positions;        /* owns columns and rows */
};

/* ------------------------------------------------------------------ opening */

/* A tensor of any storage type with these dims, as float32. The caller frees. */
static bool read_f32(const struct weights *w, const char *name, const size_t *dims, size_t n_dims,
                     float **out, struct status *st)
{
    const struct tensor_view *t;
    size_t n = 1;

    if (!weights_borrow(w, name, dims, n_dims, &t, st))
        return false;
    if (!t->type->to_f32)
        return status_fail(st, STATUS_CORRUPT, "%s: type %s holds no weights", name, t->type->name);
    for (size_t i = 0; i < n_dims; i++)
        n *= dims[i];
    *out = heap_array(float, n);
    t->type->to_f32(*out, t->data, n);
    return true;
}

static bool read_norms(struct projector *p, const struct weights *w, size_t values,
                       struct status *st)
{
    const size_t widths[3] = {values, p->vision, p->vision};
    char name[64];

    for (int i = 0; i < 3; i++) {
        (void)snprintf(name, sizeof name, "v.patch_norm.%d.weight", i + 1);
        if (!weights_borrow_f32(w, name, widths[i], &p->norm[i].weight, st))
            return false;
        (void)snprintf(name, sizeof name, "v.patch_norm.%d.bias", i + 1);
        if (!weights_borrow_f32(w, name, widths[i], &p->norm[i].bias, st))
            return false;
    }
    return true;
}

static bool read_all(struct projector *p, const struct weights *w, struct status *st)
{
    const struct media_shape *s = &p->shape;
    size_t values = 3 * s->patch_px * s->patch_px;
    const struct tensor_view *patch = weights_find(w, "v.patch_embd.weight");

    if (!patch || patch->n_dims != 2)
        return status_fail(st, STATUS_CORRUPT, "v.patch_embd.weight: missing, or no matrix");
    p->vision = patch->dims[1];
    if (!read_norms(p, w, values, st) ||
        !weights_borrow_f32(w, "v.patch_embd.bias", p->vision, &p->dense_bias, st) ||
        !read_f32(w, "v.patch_embd.weight", (size_t[]){values, p->vision}, 2, &p->dense, st) ||
        !read_f32(w, "v.position_embd.weight", (size_t[]){p->vision, s->positions, 2}, 3,
                  &p->positions, st) ||
        !read_f32(w, "mm.input_projection.weight", (size_t[]){p->vision, s->width}, 2, &p->picture,
                  st) ||
        !read_f32(w, "mm.a.input_projection.weight", (size_t[]){s->samples_per_token, s->width}, 2,
                  &p->sound, st))
        return false;
    p->columns = p->positions;
    p->rows = p->positions + s->positions * p->vision;
    return true;
}

bool projector_open(struct projector **out, const struct weights *w, size_t width,
                    struct status *st)
{
    struct projector *p = heap_new(1, sizeof *p);

    if (!media_shape_read(&p->shape, w, st))
        goto fail;
    if (width && p->shape.width != width) {
        (void)status_fail(st, STATUS_INVALID,
                          "its soft tokens are %zu wide, the decoder is %zu: a media file of "
                          "another model",
                          p->shape.width, width);
        goto fail;
    }
    if (!read_all(p, w, st))
        goto fail;
    *out = p;
    return true;
fail:
    projector_close(p);
    return false;
}

void projector_close(struct projector *p)
{
    if (!p)
        return;
    heap_free(p->dense);
    heap_free(p->picture);
    heap_free(p->sound);
    heap_free(p->positions);
    heap_free(p);
}

const struct media_shape *projector_shape(const struct projector *p)
{
    return &p->shape;
}

/* ------------------------------------------------------------------ norms, a row at a time */

/* Sums in double: their order then does not show in float32, and a row is norm-ed by itself. */
static void layer_norm(float *x, const struct layer_norm *norm, size_t n)
{
    double sum = 0;
    double squares = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)x[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    double scale = 1 / sqrt(squares / (double)n + LAYER_NORM_EPSILON);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(((double)x[i] - mean) * scale) * norm->weight[i] + norm->bias[i];
}

static void rms_norm(float *x, size_t n)
{
    double squares = 0;

    for (size_t i = 0; i < n; i++)
        squares += (double)x[i] * (double)x[i];
    double scale = 1 / sqrt(squares / (double)n + RMS_EPSILON);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((double)x[i] * scale);
}

/* ------------------------------------------------------------------ pictures */

/* Tokens of tiles first .. first + n in raster order; patches [n][values] are changed. */
static void embed_tiles(const struct projector *p, float *out, float *patches, size_t n,
                        size_t first, size_t columns)
{
    size_t values = 3 * p->shape.patch_px * p->shape.patch_px;
    float *v = heap_array(float, n * p->vision);

    for (size_t i = 0; i < n; i++)
        layer_norm(patches + i * values, &p->norm[0], values);
    dense_matmul(v, patches, p->dense, p->dense_bias, n, values, p->vision);
    for (size_t i = 0; i < n; i++) {
        float *row = v + i * p->vision;
        const float *x = p->columns + (first + i) % columns * p->vision;
        const float *y = p->rows + (first + i) / columns * p->vision;
        layer_norm(row, &p->norm[1], p->vision);
        for (size_t k = 0; k < p->vision; k++)
            row[k] = row[k] + x[k] + y[k];
        layer_norm(row, &p->norm[2], p->vision);
        rms_norm(row, p->vision);
    }
    dense_matmul(out, v, p->picture, NULL, n, p->vision, p->shape.width);
    heap_free(v);
}

/* As many tiles together as make a block of products, across the ends of rows. */
bool image_embed(const struct projector *p, float *out, const uint8_t *rgb, size_t height,
                 size_t width, size_t first, size_t count, struct status *st)
{
    size_t tile = p->shape.patch_px;
    size_t columns = width / tile;
    size_t rows = height / tile;
    size_t values = 3 * tile * tile, row_at = SIZE_MAX;

    assert(width % tile == 0 && height % tile == 0 && first + count <= rows * columns);
    if (columns > p->shape.positions || rows > p->shape.positions)
        return status_fail(st, STATUS_LIMIT,
                           "picture of %zux%zu tiles: the model has %zu positions", rows, columns,
                           p->shape.positions);
    float *row = heap_array(float, columns *values);
    float *patches = heap_array(float, DENSE_BLOCK_ROWS *values);
    for (size_t done = 0, n; done < count; done += n) {
        n = count - done < DENSE_BLOCK_ROWS ? count - done : DENSE_BLOCK_ROWS;
        for (size_t i = 0; i < n; i++) {
            size_t at = first + done + i;
            if (at / columns != row_at) {
                row_at = at / columns;
                image_patches(row, rgb + row_at * tile * width * 3, tile, width, tile);
            }
            memcpy(patches + i * values, row + at % columns * values, values * sizeof *patches);
        }
        embed_tiles(p, out + done * p->shape.width, patches, n, first + done, columns);
    }
    heap_free(patches);
    heap_free(row);
    return true;
}

/* ------------------------------------------------------------------ sound */

size_t audio_tokens(const struct media_shape *shape, size_t n_samples)
{
    return (n_samples + shape->samples_per_token - 1) / shape->samples_per_token;
}

void audio_embed(const struct projector *p, float *out, const float *samples, size_t n)
{
    size_t frame = p->shape.samples_per_token;
    size_t tokens = audio_tokens(&p->shape, n);
    float *frames = heap_array(float, tokens *frame);

    memcpy(frames, samples, n * sizeof *samples);
    for (size_t t = 0; t < tokens; t++)
        rms_norm(frames + t * frame, frame);
    dense_matmul(out, frames, p->sound, NULL, tokens, frame, p->shape.width);
    heap_free(frames);
}
