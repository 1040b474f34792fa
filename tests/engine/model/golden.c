#include "tests/engine/model/golden.h"
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/model/hparams.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

bool golden_path(char out[GOLDEN_PATH_MAX], const char *name)
{
    const char *folders[] = {"tests/golden", getenv("MILLRACE_GOLDEN"), "../shared/golden"};

    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        if (!folders[i])
            continue;
        (void)snprintf(out, GOLDEN_PATH_MAX, "%s/%s", folders[i], name);
        if (access(out, R_OK) == 0)
            return true;
    }
    return false;
}

static struct weights *open_file(const char *name)
{
    struct weights *w = NULL;
    struct status st = {0};
    char path[GOLDEN_PATH_MAX];

    if (!golden_path(path, name)) {
        print_message("skipped: '%s' is in neither tests/golden, $MILLRACE_GOLDEN nor "
                      "../shared/golden\n",
                      name);
        skip();
    }
    if (!weights_open(&w, path, &st))
        fail_msg("%s", st.text);
    return w;
}

void golden_model_open(struct golden_model *m, const char *name, bool exact, size_t threads)
{
    struct status st = {0};
    const struct model_options options = {
        .exact = exact, .context_max = 4096, .kv_bytes = (size_t)64 << 20};

    *m = (struct golden_model){.weights = open_file(name)};
    m->pool = threads > 1 ? pool_new(threads) : NULL;
    if (!model_open(&m->model, m->weights, m->pool, &options, &st))
        fail_msg("%s", st.text);
}

void golden_model_close(struct golden_model *m)
{
    model_close(m->model);
    pool_free(m->pool);
    weights_close(m->weights);
    *m = (struct golden_model){0};
}

struct weights *golden_case_open(const char *name)
{
    char file[128];

    (void)snprintf(file, sizeof file, "%s.gguf", name);
    return open_file(file);
}

static const void *values(const struct weights *c, const char *name, enum dtype dtype,
                          size_t *out_n)
{
    const struct tensor_view *t = weights_find(c, name);

    *out_n = 0;
    if (!t || t->type->dtype != dtype) {
        fail_msg("%s: no tensor '%s' of type %s", weights_path(c), name, quant_name(dtype));
        return NULL;
    }
    *out_n = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
    return t->data;
}

const float *golden_f32(const struct weights *c, const char *name, size_t *out_n)
{
    return values(c, name, DTYPE_F32, out_n);
}

const int32_t *golden_i32(const struct weights *c, const char *name, size_t *out_n)
{
    return values(c, name, DTYPE_I32, out_n);
}

static size_t end_of_chunk(const struct golden_reading *r, size_t begin, size_t *chunk)
{
    size_t size = r->n;
    size_t end;

    if (*chunk < r->n_chunks && r->chunks[*chunk] > 0)
        size = (size_t)r->chunks[(*chunk)++];
    end = size < r->n - begin ? begin + size : r->n;
    while (end < r->n && r->inputs[end].block >= 0 &&
           r->inputs[end].block == r->inputs[end - 1].block)
        end++;
    return end;
}

void golden_read(struct model *m, const struct golden_reading *r, float *logits)
{
    size_t vocabulary = model_hparams(m)->vocabulary, chunk = 0;
    struct forward *f = forward_new(m, r->n);
    struct sequence *s = NULL;
    struct status st = {0};

    if (!sequence_new(&s, m, r->n, &st))
        fail_msg("%s", st.text);
    forward_trace(f, r->watch, r->watch_context);
    for (size_t i = 0; i < r->n; i++) {
        r->inputs[i].sequence = s;
        r->inputs[i].logits = logits + i * vocabulary;
    }
    for (size_t begin = 0; begin < r->n;) {
        size_t end = end_of_chunk(r, begin, &chunk);
        forward_begin(f, r->inputs + begin, end - begin);
        heap_guard_on("forward_advance");
        while (!forward_advance(f, r->budget_us))
            continue;
        heap_guard_off();
        begin = end;
    }
    assert_int_equal(sequence_length(s), r->n);
    forward_free(f);
    sequence_free(s);
}

double golden_distance(const float *a, const float *b, size_t n)
{
    double worst = 0;

    for (size_t i = 0; i < n; i++) {
        double d = isinf(a[i]) && a[i] == b[i] ? 0 : fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst))
            worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}
