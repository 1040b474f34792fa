/* Products of stored rows with rounded activations: the meaning.
 *
 * Every block gives a whole number, exactly; they are added in order of the blocks, each times
 * (scale of the block of weights times scale of the block of activations). Types whose values have
 * a base give a second one, added after the first: what the bases are multiplied with. */
#include "engine/kernels/sets.h"
#include "engine/quant/parts.h"

struct dot {
    float scale, base;
    int32_t whole, bases;
};

/* One block of weights with as many activations; sum: of their groups. */
typedef void block_dot(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum);

static void matmul_blocks(float *out, size_t stride, const struct weight_rows *w,
                          const struct act_rows *x, block_dot *dot, bool has_base)
{
    size_t blocks = w->width / x->block, each = ACT_STRIP / x->block; /* of a strip */
    for (size_t i = w->begin; i < w->end; i++) {
        for (size_t r = 0; r < x->rows; r++) {
            const uint8_t *block = (const uint8_t *)w->data + i * w->row_bytes;
            float sum = 0.0f;
            for (size_t b = 0; b < blocks; b++, block += w->type->block_bytes) {
                size_t at = (b / each * x->rows + r) * each + b % each;
                struct dot d = {0};
                dot(&d, block, x->q + at * x->block,
                    x->sum + at * (x->block / ACT_GROUP(x->block)));
                sum += (d.scale * x->scale[at]) * (float)d.whole;
                if (has_base)
                    sum += (d.base * x->scale[at]) * (float)d.bases;
            }
            out[r * stride + i] = sum;
        }
    }
}

/* The kernel of a type. */
#define MATMUL(type, has_base)                                                                     \
    void matmul_##type##_c(float *out, size_t stride, const struct weight_rows *w,                 \
                           const struct act_rows *x)                                               \
    {                                                                                              \
        matmul_blocks(out, stride, w, x, dot_##type, has_base);                                    \
    }

/* ---- blocks of 32 values */

static void dot_q8_0(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    (void)sum;
    for (size_t j = 0; j < 32; j++)
        out->whole += (int8_t)block[2 + j] * q[j];
    out->scale = part_half(block);
}
MATMUL(q8_0, false)

/* Nibbles b[16], low ones first, less an offset; h: bit j is the fifth one of value j. */
static int32_t dot_nibbles(const uint8_t *b, uint32_t h, int offset, const int8_t *q)
{
    int32_t sum = 0;
    for (size_t j = 0; j < 16; j++) {
        int low = (b[j] & 15) | (int)((h >> j) & 1) << 4;
        int high = (b[j] >> 4) | (int)((h >> (j + 16)) & 1) << 4;
        sum += (low - offset) * q[j] + (high - offset) * q[j + 16];
    }
    return sum;
}

static uint32_t fifth_bits(const uint8_t *from)
{
    uint32_t h;
    memcpy(&h, from, sizeof h);
    return h;
}

static void dot_q4_0(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    (void)sum;
    *out = (struct dot){.scale = part_half(block), .whole = dot_nibbles(block + 2, 0, 8, q)};
}
MATMUL(q4_0, false)

static void dot_q4_1(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    *out = (struct dot){.scale = part_half(block),
                        .base = part_half(block + 2),
                        .whole = dot_nibbles(block + 4, 0, 0, q),
                        .bases = *sum};
}
MATMUL(q4_1, true)

static void dot_q5_0(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    (void)sum;
    *out = (struct dot){.scale = part_half(block),
                        .whole = dot_nibbles(block + 6, fifth_bits(block + 2), 16, q)};
}
MATMUL(q5_0, false)

static void dot_q5_1(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    *out = (struct dot){.scale = part_half(block),
                        .base = part_half(block + 2),
                        .whole = dot_nibbles(block + 8, fifth_bits(block + 4), 0, q),
                        .bases = *sum};
}
MATMUL(q5_1, true)

static int32_t dot_levels(const uint8_t *nibbles, const int8_t *q, const int8_t *levels)
{
    int32_t sum = 0;
    for (size_t j = 0; j < 16; j++)
        sum += levels[nibbles[j] & 15] * q[j] + levels[nibbles[j] >> 4] * q[j + 16];
    return sum;
}

static void dot_iq4_nl(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    (void)sum;
    *out =
        (struct dot){.scale = part_half(block), .whole = dot_levels(block + 2, q, part_iq4_levels)};
}
MATMUL(iq4_nl, false)

static void dot_mxfp4(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    (void)sum;
    *out = (struct dot){.scale = part_half_power(block[0]),
                        .whole = dot_levels(block + 1, q, part_mxfp4_levels)};
}
MATMUL(mxfp4, false)

/* ---- blocks of 256 values: groups have whole scales, and some whole mins, of their own */

static void dot_q6_k(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    const int8_t *scales = (const int8_t *)(block + 192);
    int32_t whole = 0;
    (void)sum;
    for (size_t half = 0; half < 2; half++, q += 128, scales += 8) {
        const uint8_t *ql = block + 64 * half, *qh = block + 128 + 32 * half;
        for (size_t l = 0; l < 32; l++) {
            size_t e = l / 16;
            whole += scales[e] * (((ql[l] & 15) | (qh[l] & 3) << 4) - 32) * q[l];
            whole +=
                scales[e + 2] * (((ql[l + 32] & 15) | ((qh[l] >> 2) & 3) << 4) - 32) * q[l + 32];
            whole += scales[e + 4] * (((ql[l] >> 4) | ((qh[l] >> 4) & 3) << 4) - 32) * q[l + 64];
            whole += scales[e + 6] * (((ql[l + 32] >> 4) | (qh[l] >> 6) << 4) - 32) * q[l + 96];
        }
    }
    *out = (struct dot){.scale = part_half(block + 208), .whole = whole};
}
MATMUL(q6_k, false)

/* h: fifth bits of the values, or NULL. */
static void dot_k(struct dot *out, const uint8_t *block, const uint8_t *h, const uint8_t *nibbles,
                  const int8_t *q, const int32_t *sum)
{
    *out = (struct dot){.scale = part_half(block), .base = -part_half(block + 2)};
    for (size_t group = 0; group < 8; group++, q += 32) {
        const uint8_t *b = nibbles + 32 * (group / 2);
        int scale, min;
        int32_t whole = 0;
        part_scale_min(&scale, &min, block + 4, group);
        for (size_t l = 0; l < 32; l++) {
            int fifth = h ? (h[l] >> group) & 1 : 0;
            whole += ((group % 2 ? b[l] >> 4 : b[l] & 15) | fifth << 4) * q[l];
        }
        out->whole += scale * whole;
        out->bases += min * (sum[2 * group] + sum[2 * group + 1]);
    }
}

static void dot_q4_k(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    dot_k(out, block, NULL, block + 16, q, sum);
}
MATMUL(q4_k, true)

static void dot_q5_k(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    dot_k(out, block, block + 16, block + 48, q, sum);
}
MATMUL(q5_k, true)

static void dot_q2_k(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    *out = (struct dot){.scale = part_half(block + 80), .base = -part_half(block + 82)};
    for (size_t j = 0; j < 256; j++) {
        int bits = (block[16 + j / 128 * 32 + j % 32] >> j % 128 / 32 * 2) & 3;
        out->whole += (block[j / 16] & 15) * bits * q[j];
    }
    for (size_t group = 0; group < 16; group++)
        out->bases += (block[group] >> 4) * sum[group];
}
MATMUL(q2_k, true)

static void dot_q3_k(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    (void)sum;
    *out = (struct dot){.scale = part_half(block + 108)};
    for (size_t j = 0; j < 256; j++) {
        int bits = (block[32 + j / 128 * 32 + j % 32] >> j % 128 / 32 * 2) & 3;
        int third = (block[j % 32] >> j / 32) & 1;
        out->whole += part_q3_k_scale(block + 96, j / 16) * (bits - (third ? 0 : 4)) * q[j];
    }
}
MATMUL(q3_k, false)

static void dot_iq4_xs(struct dot *out, const uint8_t *block, const int8_t *q, const int32_t *sum)
{
    (void)sum;
    *out = (struct dot){.scale = part_half(block)};
    for (size_t group = 0; group < 8; group++)
        out->whole += part_iq4_xs_scale(block, group) *
                      dot_levels(block + 8 + 16 * group, q + 32 * group, part_iq4_levels);
}
MATMUL(iq4_xs, false)
