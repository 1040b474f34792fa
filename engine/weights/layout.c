/* layout.c - tensors whose values a file holds in another type or order than they are lent in. */
#include "engine/base/heap.h"
#include "engine/weights/container.h"
#include <assert.h>
#include <string.h>

/* Rows of tile * tile * 3 values: from pixel by pixel to channel by channel. */
static void channels_first(uint8_t *out, const uint8_t *in, size_t rows, size_t values,
                           size_t value_bytes)
{
    size_t pixels = values / 3;
    for (size_t row = 0; row < rows; row++)
        for (size_t c = 0; c < 3; c++)
            for (size_t pixel = 0; pixel < pixels; pixel++)
                memcpy(out + (row * values + c * pixels + pixel) * value_bytes,
                       in + (row * values + pixel * 3 + c) * value_bytes, value_bytes);
}

/* in [n][m][row], out [m][n][row] */
static void swap_axes(uint8_t *out, const uint8_t *in, size_t n, size_t m, size_t row_bytes)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < m; k++)
            memcpy(out + (k * n + i) * row_bytes, in + (i * m + k) * row_bytes, row_bytes);
}

void layout_make(const struct layout *layout, const struct tensor_view *t, void *out)
{
    size_t values = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
    size_t value_bytes = t->type->block_bytes;
    const uint8_t *in = layout->source;
    float *wide = NULL;

    assert(t->type->block_values == 1);
    if (t->type != layout->type) {
        assert(t->type->dtype == DTYPE_F32 && layout->type->to_f32);
        wide = layout->change == LAYOUT_SAME ? out : heap_array(float, values);
        layout->type->to_f32(wide, in, values);
        in = (const uint8_t *)wide;
    }
    if (layout->change == LAYOUT_PATCH)
        channels_first(out, in, values / t->dims[0], t->dims[0], value_bytes);
    else if (layout->change == LAYOUT_AXES)
        swap_axes(out, in, t->dims[1], t->dims[2], t->dims[0] * value_bytes);
    else
        assert(wide);
    if (wide != out)
        heap_free(wide);
}
