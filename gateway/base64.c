#include "gateway/base64.h"

// clang-format off
enum { XX = 0xFF /* not of the alphabet */, SK = 0xFE /* skipped */, PA = 0xFD /* padding */ };
static const uint8_t base64_value[256] = {
     XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  SK,  SK,  XX,  XX,  SK,  XX,  XX,
     XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,
     SK,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  62,  XX,  XX,  XX,  63,
     52,  53,  54,  55,  56,  57,  58,  59,  60,  61,  XX,  XX,  XX,  PA,  XX,  XX,
     XX,   0,   1,   2,   3,   4,   5,   6,   7,   8,   9,  10,  11,  12,  13,  14,
     15,  16,  17,  18,  19,  20,  21,  22,  23,  24,  25,  XX,  XX,  XX,  XX,  XX,
     XX,  26,  27,  28,  29,  30,  31,  32,  33,  34,  35,  36,  37,  38,  39,  40,
     41,  42,  43,  44,  45,  46,  47,  48,  49,  50,  51,  XX,  XX,  XX,  XX,  XX,
     XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,
     XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,
     XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,
     XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,
     XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,
     XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,
     XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,
     XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,  XX,
};
// clang-format on

/* One character that is not of a plain run of four. */
static bool add_slowly(struct base64 *state, uint8_t c, struct buffer *out)
{
    uint8_t value = base64_value[c];

    if (value == SK)
        return true;
    if (value == PA) {
        state->padding++;
        return state->quad_size >= 2 && state->padding + state->quad_size <= 4;
    }
    if (value == XX || state->padding > 0)
        return false;
    state->quad = state->quad << 6 | value;
    if (++state->quad_size < 4)
        return true;
    const uint8_t three[] = {(uint8_t)(state->quad >> 16), (uint8_t)(state->quad >> 8),
                             (uint8_t)state->quad};
    buffer_append(out, three, sizeof three);
    state->quad = 0;
    state->quad_size = 0;
    return true;
}

bool base64_add(struct base64 *state, const uint8_t *data, size_t size, struct buffer *out)
{
    size_t i = 0;

    buffer_reserve(out, out->size + size / 4 * 3 + 3);
    while (i < size) {
        while (state->quad_size == 0 && state->padding == 0 && size - i >= 4) {
            unsigned a = base64_value[data[i]];
            unsigned b = base64_value[data[i + 1]];
            unsigned c = base64_value[data[i + 2]];
            unsigned d = base64_value[data[i + 3]];
            if ((a | b | c | d) >= 64)
                break;
            uint8_t *to = out->data + out->size;
            to[0] = (uint8_t)(a << 2 | b >> 4);
            to[1] = (uint8_t)(b << 4 | c >> 2);
            to[2] = (uint8_t)(c << 6 | d);
            out->size += 3;
            i += 4;
        }
        if (i < size && !add_slowly(state, data[i++], out))
            return false;
    }
    return true;
}

bool base64_end(struct base64 *state, struct buffer *out)
{
    if (state->quad_size == 1 || (state->padding > 0 && state->quad_size + state->padding != 4))
        return false;
    if (state->quad_size >= 2) {
        uint32_t bits = state->quad << (6 * (4 - state->quad_size));
        const uint8_t two[] = {(uint8_t)(bits >> 16), (uint8_t)(bits >> 8)};
        buffer_append(out, two, state->quad_size - 1);
    }
    *state = (struct base64){0};
    return true;
}
