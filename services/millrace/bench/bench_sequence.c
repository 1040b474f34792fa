/* Passes over one sequence, at any depth. */
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/base/pages.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "engine/run/batch.h"
#include "services/millrace/bench/bench.h"
#include "services/millrace/bench/bench_model.h"
#include <assert.h>

#define ROWS_MAX 8
#define SPARE_BYTES ((uint64_t)1 << 30) /* left to the rest of the machine */

struct bench_sequence {
    struct bench *b;
    struct sequence *sequence;
    struct forward *forward;
    struct model_input *inputs; /* [BATCH_CHUNK_TOKENS] */
    float *logits;              /* [ROWS_MAX][vocabulary] */
    size_t vocabulary;
};

struct bench_sequence *bench_sequence_new(struct bench *b, size_t depth)
{
    const struct hparams *hp = model_hparams(b->model);
    struct sequence *sequence = NULL;
    struct status st = {0};
    size_t tokens = depth + ROOM_TOKENS;

    if (tokens > hp->context ||
        model_sequence_bytes(b->model, tokens) + SPARE_BYTES > pages_available_bytes() ||
        !sequence_new(&sequence, b->model, tokens, &st))
        return NULL;
    sequence_pretend(sequence, depth);
    struct bench_sequence *s = heap_new(1, sizeof *s);
    *s = (struct bench_sequence){.b = b,
                                 .sequence = sequence,
                                 .forward = forward_new(b->model, BATCH_CHUNK_TOKENS),
                                 .inputs = heap_array(struct model_input, BATCH_CHUNK_TOKENS),
                                 .logits = heap_array(float, ROWS_MAX * hp->vocabulary),
                                 .vocabulary = hp->vocabulary};
    return s;
}

void bench_sequence_free(struct bench_sequence *s)
{
    if (!s)
        return;
    forward_free(s->forward);
    sequence_free(s->sequence);
    heap_free(s->inputs);
    heap_free(s->logits);
    heap_free(s);
}

/* The last `with_logits` of the rows ask for logits. */
static double pass_s(struct bench_sequence *s, size_t rows, size_t with_logits)
{
    for (size_t i = 0; i < rows; i++) {
        s->inputs[i] = (struct model_input){
            .sequence = s->sequence, .id = s->b->ids[i % s->b->prompt_max], .block = -1};
        if (i + with_logits >= rows)
            s->inputs[i].logits = s->logits + (i + with_logits - rows) * s->vocabulary;
    }
    int64_t begun_us = clock_now_us();
    forward_begin(s->forward, s->inputs, rows);
    while (!forward_advance(s->forward, BATCH_STEP_US))
        continue;
    return (double)(clock_now_us() - begun_us) * 1e-6;
}

double bench_rows_s(struct bench_sequence *s, size_t rows)
{
    size_t length = sequence_length(s->sequence);

    assert(rows <= ROWS_MAX);
    double took = pass_s(s, rows, rows);
    sequence_take_back(s->sequence, length + 1);
    return took;
}

double bench_piece_s(struct bench_sequence *s)
{
    return pass_s(s, BATCH_CHUNK_TOKENS, 1);
}
