/* fast-bounds.json: how far the 8-bit path may be from exact arithmetic, in distributions of the
 * next token. In each row mean KL <= 1.2 x the recorded one; over all rows the mean share of equal
 * first choices >= the recorded one - 0.01. */
#include "engine/base/heap.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "engine/ops/ops.h"
#include "engine/text/json_text.h"
#include "services/millrace/conform/conform.h"
#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX ((size_t)4 << 20)
#define KL_FACTOR 1.2
#define TOP1_MARGIN 0.01
#define KV_BYTES ((size_t)256 << 20)
#define WIDE_SEEDS 3 /* prompt i of a "wide" row belongs to the model of seed 1 + i modulo 3 */

struct sums {
    double kl;
    size_t positions, same;
};

/* Logits of every position of a prompt, [n][vocabulary]; NULL and st on failure. */
static float *logits_of(const struct weights *w, bool exact, const int32_t *ids, size_t n,
                        size_t *out_vocabulary, const struct hparams **out_hp,
                        struct model **out_model, struct status *st)
{
    struct model_options options = {
        .exact = exact, .kv_type = "f32", .context_max = n, .kv_bytes = KV_BYTES};
    struct sequence *s = NULL;

    if (!model_open(out_model, w, NULL, &options, st) || !sequence_new(&s, *out_model, n, st))
        return NULL;
    *out_hp = model_hparams(*out_model);
    *out_vocabulary = (*out_hp)->vocabulary;
    float *logits = heap_array(float, n **out_vocabulary);
    struct model_input *inputs = heap_array(struct model_input, n);
    struct forward *f = forward_new(*out_model, n);
    for (size_t i = 0; i < n; i++)
        inputs[i] = (struct model_input){
            .sequence = s, .id = ids[i], .block = -1, .logits = logits + i * *out_vocabulary};
    forward_begin(f, inputs, n);
    while (!forward_advance(f, 1000000))
        continue;
    forward_free(f);
    sequence_free(s);
    heap_free(inputs);
    return logits;
}

/* log of the sum of exp over what is not suppressed (those are -infinity). */
static double log_sum(const float *z, size_t n)
{
    double top = z[ops_argmax(z, n)];
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += exp((double)z[i] - top);
    return top + log(sum);
}

static void add_position(struct sums *sums, const float *p, const float *q, size_t n)
{
    double norm_p = log_sum(p, n);
    double norm_q = log_sum(q, n);
    double kl = 0;

    for (size_t i = 0; i < n; i++) {
        double log_p = (double)p[i] - norm_p;
        if (isfinite(log_p))
            kl += exp(log_p) * (log_p - ((double)q[i] - norm_q));
    }
    sums->kl += kl;
    sums->positions++;
    sums->same += ops_argmax(p, n) == ops_argmax(q, n);
}

static bool add_prompt(struct sums *sums, const char *path, const int32_t *ids, size_t n,
                       struct status *st)
{
    struct weights *w = NULL;
    struct model *models[2] = {NULL, NULL};
    float *z[2] = {NULL, NULL};
    const struct hparams *hp;
    size_t vocabulary = 0;
    bool ok = weights_open(&w, path, st);

    for (int i = 0; ok && i < 2; i++) {
        z[i] = logits_of(w, i == 0, ids, n, &vocabulary, &hp, &models[i], st);
        ok = z[i] != NULL;
    }
    for (size_t t = 0; ok && t < n; t++)
        add_position(sums, z[0] + t * vocabulary, z[1] + t * vocabulary, vocabulary);
    for (int i = 0; i < 2; i++) {
        heap_free(z[i]);
        model_close(models[i]);
    }
    weights_close(w);
    return ok;
}

static double number(const struct json_value *object, const char *name)
{
    const struct json_value *value = json_text_get(object, name);
    char text[64];

    if (!value || value->kind != JSON_TEXT_NUMBER || value->text.size >= sizeof text)
        return NAN;
    memcpy(text, value->text.data, value->text.size);
    text[value->text.size] = 0;
    return strtod(text, NULL);
}

static bool is_text(const struct json_value *object, const char *name, char *out, size_t size)
{
    const struct json_value *value = json_text_get(object, name);

    if (!value || value->kind != JSON_TEXT_STRING || value->text.size >= size)
        return false;
    memcpy(out, value->text.data, value->text.size);
    out[value->text.size] = 0;
    return true;
}

/* A prompt's ids; the caller frees. */
static int32_t *read_ids(const struct json_value *array, size_t *out_n)
{
    int32_t *ids = heap_array(int32_t, array->n);

    *out_n = 0;
    for (const struct json_value *v = array->first; v; v = v->next) {
        char text[16] = "";
        if (v->kind == JSON_TEXT_NUMBER && v->text.size < sizeof text)
            memcpy(text, v->text.data, v->text.size);
        ids[(*out_n)++] = (int32_t)strtol(text, NULL, 10);
    }
    return ids;
}

struct row {
    char model[32], type[32];
    double kl_mean, top1;
};

static bool measure(const char *folder, const struct row *row, const struct json_value *prompts,
                    struct sums *sums, struct status *st)
{
    bool wide = strcmp(row->model, "wide") == 0;
    const struct json_value *list = json_text_get(prompts, wide ? "2048" : "512");
    size_t i = 0;

    if (!list)
        return status_fail(st, STATUS_CORRUPT, "no prompts for %s", row->model);
    for (const struct json_value *p = list->first; p; p = p->next, i++) {
        char path[CONFORM_PATH_MAX + 128];
        size_t n;
        if (wide)
            (void)snprintf(path, sizeof path, "%s/models/wide-%s-seed%zu.gguf", folder, row->type,
                           1 + i % WIDE_SEEDS);
        else
            (void)snprintf(path, sizeof path, "%s/models/%s-%s.gguf", folder, row->model,
                           row->type);
        int32_t *ids = read_ids(p, &n);
        bool ok = add_prompt(sums, path, ids, n, st);
        heap_free(ids);
        if (!ok)
            return false;
    }
    return true;
}

/* All rows together. */
struct total {
    double ours, theirs;
    size_t rows;
};

static void run_row(struct conform *run, const char *folder, const struct row *row,
                    const struct json_value *prompts, struct total *total)
{
    struct sums sums = {0};
    struct status st = {0};
    char name[80];

    (void)snprintf(name, sizeof name, "fast-%s-%s", row->model, row->type);
    if (conform_skips(run, name)) {
        run->skipped++;
        (void)printf("skipped %s\n", name);
        return;
    }
    if (!measure(folder, row, prompts, &sums, &st)) {
        run->failed++;
        (void)printf("FAILED  %-26s %s\n", name, st.text);
        return;
    }
    double kl = sums.kl / (double)sums.positions;
    double top1 = (double)sums.same / (double)sums.positions;
    double ratio = kl / (KL_FACTOR * row->kl_mean);
    bool ok = ratio <= 1;
    total->ours += top1;
    total->theirs += row->top1;
    total->rows++;
    run->passed += ok;
    run->failed += !ok;
    run->worst = ratio > run->worst ? ratio : run->worst;
    (void)printf(
        "%s %-26s mean KL %-9.3g allowed %-9.3g equal first choices %.3f (recorded %.3f)\n",
        ok ? "ok     " : "FAILED ", name, kl, KL_FACTOR * row->kl_mean, top1, row->top1);
    (void)fflush(stdout);
}

static void run_total(struct conform *run, const struct total *total)
{
    if (total->rows == 0)
        return;
    double ours = total->ours / (double)total->rows;
    double theirs = total->theirs / (double)total->rows;
    bool ok = ours >= theirs - TOP1_MARGIN;

    run->passed += ok;
    run->failed += !ok;
    (void)printf("%s %-26s equal first choices %.4f, wanted at least %.4f\n",
                 ok ? "ok     " : "FAILED ", "fast-all-rows", ours, theirs - TOP1_MARGIN);
}

void conform_bounds(struct conform *run, const char *path)
{
    struct buffer text = {0};
    struct json_text json = {0};
    struct status st = {0};
    struct total total = {0};
    char copy[CONFORM_PATH_MAX];

    (void)snprintf(copy, sizeof copy, "%s", path);
    const char *folder = dirname(copy);
    if (!bytes_read_file(&text, path, FILE_BYTES_MAX, &st) ||
        !json_text_init(&json, buffer_span(&text), &st)) {
        run->failed++;
        (void)printf("FAILED  %s: %s\n", path, st.text);
        buffer_clear(&text);
        return;
    }
    const struct json_value *rows = json_text_get(json.root, "rows");
    const struct json_value *prompts = json_text_get(json.root, "prompts");
    for (const struct json_value *v = rows ? rows->first : NULL; v; v = v->next) {
        struct row row = {.kl_mean = number(v, "kl_mean"), .top1 = number(v, "top1")};
        if (!is_text(v, "model", row.model, sizeof row.model) ||
            !is_text(v, "type", row.type, sizeof row.type) || !(row.kl_mean > 0)) {
            run->failed++;
            (void)printf("FAILED  %s: a row without model, type or kl_mean\n", path);
            continue;
        }
        run_row(run, folder, &row, prompts, &total);
    }
    run_total(run, &total);
    json_text_clear(&json);
    buffer_clear(&text);
}
