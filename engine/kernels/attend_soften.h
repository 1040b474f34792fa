/* attend_soften.h - scores of a page to weights, one row after the other, for the sets that do not
 * take several rows at once; static, as math_avx2.h. The file that includes it has soften_row:
 * scores between low and high to their exponentials, all others 0. */
#pragma once
#include "engine/kernels/attend_rows.h"

static void round_weights(struct row *row, const float *scales)
{
    float weights[PAGE] = {0};
    for (size_t j = row->low; j < row->high; j++)
        weights[j] = row->score[j] * scales[j];
    row->step = round_to(row->rounded, weights, PAGE, 32767.0f);
}

static void soften(struct row *rows, size_t n, const struct page *page)
{
    for (size_t r = 0; r < n; r++) {
        rows[r].keep = 1.0f;
        memset(rows[r].rounded, 0, sizeof rows[r].rounded);
        if (rows[r].low >= rows[r].high)
            continue;
        soften_row(&rows[r]);
        if (page->type == DTYPE_I8)
            round_weights(&rows[r], scales_of(page->values, page->d));
    }
}
