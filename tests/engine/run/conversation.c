#include "tests/engine/run/conversation.h"
#include "engine/base/heap.h"
#include "engine/model/kv.h"
#include "tests/random.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define OTHERS 3
#define OTHER_ROWS 90
#define PASS_ROWS 160 /* in company */

void conversation_make(struct conversation *c, const struct hparams *hp, size_t n, uint32_t seed)
{
    static const struct {
        size_t begin, end;
        int32_t block;
    } slots[] = {{20, 75, 0}, {79, 85, -1}, {88, 95, 1}, {470, 505, 2}};
    uint32_t state = seed;

    c->n = n;
    c->soft = heap_array(float, n * hp->width);
    for (size_t i = 0; i < n; i++) {
        c->inputs[i] = (struct model_input){.id = (int32_t)(next_random(&state) % hp->vocabulary),
                                            .block = -1};
        for (size_t s = 0; s < sizeof slots / sizeof *slots; s++) {
            if (i < slots[s].begin || i >= slots[s].end)
                continue;
            c->inputs[i].block = slots[s].block;
            c->inputs[i].soft = c->soft + i * hp->width;
            for (size_t k = 0; k < hp->width; k++)
                c->soft[i * hp->width + k] = (float)(next_random(&state) % 2001) / 500.0F - 2.0F;
        }
    }
}

/* Where a chunk of `chunk` tokens from `begin` on ends: never inside a picture. */
static size_t chunk_end(const struct conversation *c, size_t begin, size_t chunk)
{
    size_t end = chunk < c->n - begin ? begin + chunk : c->n;

    while (end < c->n && c->inputs[end].block >= 0 &&
           c->inputs[end].block == c->inputs[end - 1].block)
        end++;
    return end;
}

static void reader_begin(struct reader *r, struct model *m, float *logits)
{
    struct status st = {0};
    size_t vocabulary = model_hparams(m)->vocabulary;

    if (!sequence_new(&r->sequence, m, r->c.n, &st))
        fail_msg("%s", st.text);
    r->at = 0;
    for (size_t i = 0; i < r->c.n; i++) {
        r->c.inputs[i].sequence = r->sequence;
        r->c.inputs[i].logits = logits ? logits + i * vocabulary : NULL;
    }
}

static void reader_end(struct reader *r)
{
    sequence_free(r->sequence);
    r->sequence = NULL;
}

static size_t take(struct reader *r, struct model_input *out, size_t chunk)
{
    size_t end = chunk_end(&r->c, r->at, chunk), n = end - r->at;

    memcpy(out, r->c.inputs + r->at, n * sizeof *out);
    r->at = end;
    return n;
}

static void pass(struct forward *f, const struct model_input *inputs, size_t n)
{
    forward_begin(f, inputs, n);
    heap_guard_on("equality");
    while (!forward_advance(f, 0))
        continue;
    heap_guard_off();
}

void reader_alone(struct model *m, struct reader *r, size_t chunk, float *logits)
{
    struct model_input inputs[CONVERSATION_ROWS_MAX];
    struct forward *f = forward_new(m, CONVERSATION_ROWS_MAX);

    reader_begin(r, m, logits);
    while (r->at < r->c.n)
        pass(f, inputs, take(r, inputs, chunk ? chunk : r->c.n));
    reader_end(r);
    forward_free(f);
}

void reader_from_snapshots(struct model *m, struct reader *r, float *logits, uint32_t seed)
{
    const struct model_input *all = r->c.inputs;
    struct model_input inputs[CONVERSATION_ROWS_MAX];
    struct forward *f = forward_new(m, CONVERSATION_ROWS_MAX);
    struct status st = {0};

    reader_begin(r, m, logits);
    while (r->at < r->c.n) {
        size_t begin = r->at, n = take(r, inputs, 1 + next_random(&seed) % 90);
        size_t cut = begin + 1 + next_random(&seed) % n;
        struct kv_snapshot *snapshot = NULL;
        while (cut < r->at && all[cut].block >= 0 && all[cut].block == all[cut - 1].block)
            cut++;
        sequence_mark(r->sequence, cut);
        pass(f, inputs, n);
        if (cut == r->c.n)
            break;
        if (!sequence_snapshot(&snapshot, r->sequence, cut, &st))
            fail_msg("%s", st.text);
        reader_end(r);
        reader_begin(r, m, logits);
        sequence_share(r->sequence, snapshot);
        kv_snapshot_free(snapshot);
        r->at = cut;
    }
    reader_end(r);
    forward_free(f);
}

void reader_in_company(struct model *m, struct reader *r, float *logits, uint32_t seed)
{
    struct model_input inputs[PASS_ROWS + 100];
    struct reader others[OTHERS] = {0};
    struct forward *f = forward_new(m, PASS_ROWS + 100);
    size_t passes = 0, shared = 0;

    for (size_t i = 0; i < OTHERS; i++)
        conversation_make(&others[i].c, model_hparams(m), OTHER_ROWS, seed + 100 + (uint32_t)i);
    reader_begin(r, m, logits);
    while (r->at < r->c.n) {
        size_t n = 0, mine = next_random(&seed) % (OTHERS + 1);
        for (size_t i = 0; i <= OTHERS; i++) {
            struct reader *other = i < OTHERS ? &others[i] : NULL;
            if (i == mine)
                n += take(r, inputs + n, 1 + next_random(&seed) % 30);
            if (!other || n > PASS_ROWS - 64)
                continue;
            if (!other->sequence && next_random(&seed) % 2)
                reader_begin(other, m, NULL);
            else if (other->sequence && (other->at == other->c.n || next_random(&seed) % 8 == 0))
                reader_end(other);
            if (other->sequence)
                n += take(other, inputs + n, 1 + next_random(&seed) % 12);
        }
        pass(f, inputs, n);
        passes++;
        shared += inputs[0].sequence != inputs[n - 1].sequence;
    }
    assert_true(shared > passes / 3);
    reader_end(r);
    for (size_t i = 0; i < OTHERS; i++) {
        reader_end(&others[i]);
        heap_free(others[i].c.soft);
    }
    forward_free(f);
}
