#include "engine/run/prefix.h"
#include "engine/base/heap.h"
#include "engine/model/kv.h"
#include "engine/model/model.h"
#include <assert.h>
#include <string.h>

/* In a hash, before the name of a run; ids are not negative. */
#define RUN_MARK (-1)

struct entry {
    struct kv_snapshot *snapshot;
    struct prefix_key key;
    uint64_t tenant;
    size_t length;
    bool newest; /* a newest turn that no later one has followed */
    size_t uses;
    double age;
};

struct prefix {
    struct prefix_key secret;
    struct entry entries[PREFIX_SNAPSHOTS_MAX]; /* by length, shortest first */
    size_t n;
    double age; /* value of what was forgotten last */
};

bool prefix_new(struct prefix **out, struct status *st)
{
    struct prefix_key secret;

    if (!prefix_secret_new(&secret, st))
        return false;
    *out = heap_new(1, sizeof **out);
    (*out)->secret = secret;
    return true;
}

void prefix_free(struct prefix *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n; i++)
        kv_snapshot_free(p->entries[i].snapshot);
    heap_free(p);
}

size_t prefix_snapshots(const struct prefix *p)
{
    return p->n;
}

/* ---- names */

struct prefix_key prefix_run_key(const struct prefix *p, const int32_t *spans, size_t n_spans,
                                 const float *soft, size_t width)
{
    struct prefix_hash h;

    prefix_hash_begin(&h, &p->secret);
    for (size_t i = 0; i < n_spans; i++) {
        size_t slots = (size_t)spans[3 * i + 1];
        prefix_hash_add(&h, spans + 3 * i + 1, 2 * sizeof *spans); /* count and kind */
        prefix_hash_add(&h, soft, slots * width * sizeof *soft);
        soft += slots * width;
    }
    return prefix_hash_key(&h);
}

/* Goes along a prompt and names its beginnings. */
struct walk {
    struct prefix_hash hash;
    const struct prefix_prompt *prompt;
    size_t at, run; /* tokens hashed; the next run */
};

static struct walk walk_begin(const struct prefix *p, const struct prefix_prompt *prompt)
{
    struct walk w = {.prompt = prompt};

    prefix_hash_begin(&w.hash, &p->secret);
    prefix_hash_add(&w.hash, &prompt->tenant, sizeof prompt->tenant);
    return w;
}

/* On to `to`; false when that is inside a run. Each id is 4 bytes, each run a mark and its name, so
 * that different beginnings give different bytes. */
static bool walk_to(struct walk *w, size_t to)
{
    const struct prefix_prompt *prompt = w->prompt;
    const int32_t mark = RUN_MARK;

    while (w->at < to) {
        const struct prefix_run *run = w->run < prompt->n_runs ? &prompt->runs[w->run] : NULL;
        size_t end = run && run->start < to ? run->start : to;
        prefix_hash_add(&w->hash, prompt->ids + w->at, (end - w->at) * sizeof *prompt->ids);
        w->at = end;
        if (end == to)
            break;
        if (run->end > to)
            return false;
        prefix_hash_add(&w->hash, &mark, sizeof mark);
        prefix_hash_add(&w->hash, run->key.bytes, sizeof run->key.bytes);
        w->at = run->end;
        w->run++;
    }
    return true;
}

void prefix_name(const struct prefix *p, struct prefix_prompt *prompt)
{
    struct walk w = walk_begin(p, prompt);

    for (size_t i = 0; i < prompt->n_cuts; i++) {
        bool outside = walk_to(&w, prompt->cuts[i].length);
        assert(outside);
        prompt->cuts[i].key = prefix_hash_key(&w.hash);
    }
}

/* ---- find */

static struct entry *entry_of(struct prefix *p, const struct prefix_key *key)
{
    for (size_t i = 0; i < p->n; i++)
        if (prefix_key_equal(&p->entries[i].key, key))
            return &p->entries[i];
    return NULL;
}

static void use(const struct prefix *p, struct entry *e)
{
    e->uses++;
    e->age = p->age;
}

void prefix_begin(struct prefix *p, struct prefix_prompt *prompt, struct sequence *s, size_t limit)
{
    struct walk w = walk_begin(p, prompt);
    struct entry *best = NULL;

    for (size_t i = 0; i < p->n; i++) {
        struct entry *e = &p->entries[i];
        if (e->tenant != prompt->tenant)
            continue;
        if (e->length >= limit || e->length > prompt->n_ids)
            break;
        if (!walk_to(&w, e->length))
            continue;
        struct prefix_key key = prefix_hash_key(&w.hash);
        if (prefix_key_equal(&key, &e->key))
            best = e;
    }
    if (!best)
        return;
    use(p, best);
    sequence_share(s, best->snapshot);
    prompt->found_tokens = best->length;
    prompt->found = best->key;
    while (prompt->cut < prompt->n_cuts && prompt->cuts[prompt->cut].length <= best->length)
        prompt->cut++;
}

/* ---- forget */

static double value_of(const struct entry *e, size_t bytes)
{
    return e->age + (double)e->uses * (double)e->length / ((double)bytes + 1);
}

static void drop(struct prefix *p, size_t i)
{
    kv_snapshot_free(p->entries[i].snapshot);
    p->n--;
    memmove(p->entries + i, p->entries + i + 1, (p->n - i) * sizeof *p->entries);
}

/* The least valuable; n when there is none. */
static size_t least(const struct prefix *p, double *out_value)
{
    size_t best = p->n;

    for (size_t i = 0; i < p->n; i++) {
        double value = value_of(&p->entries[i], kv_snapshot_bytes(p->entries[i].snapshot));
        if (best < p->n && value >= *out_value)
            continue;
        best = i;
        *out_value = value;
    }
    return best;
}

bool prefix_forget(struct prefix *p)
{
    double value = 0;
    size_t i = least(p, &value);

    if (i == p->n)
        return false;
    p->age = value > p->age ? value : p->age;
    drop(p, i);
    return true;
}

/* ---- keep */

void prefix_mark(const struct prefix_prompt *prompt, struct sequence *s, size_t end)
{
    if (prompt->cut < prompt->n_cuts && prompt->cuts[prompt->cut].length <= end)
        sequence_mark(s, prompt->cuts[prompt->cut].length);
}

static void insert(struct prefix *p, const struct entry *e)
{
    size_t i = p->n;

    while (i > 0 && p->entries[i - 1].length > e->length)
        i--;
    memmove(p->entries + i + 1, p->entries + i, (p->n - i) * sizeof *p->entries);
    p->entries[i] = *e;
    p->n++;
}

/* A chat has gone on: where its turn before ended is asked for no more, as far as this chat goes.
 * Only those finds count that come beside it. */
static void make_stale(struct prefix *p, const struct prefix_prompt *prompt)
{
    struct entry *e = prompt->found_tokens > 0 ? entry_of(p, &prompt->found) : NULL;

    if (!e || !e->newest)
        return;
    e->newest = false;
    e->uses -= e->uses < 2 ? e->uses : 2; /* it was made, and found */
}

/* Room for as many bytes as the newcomer wants, if what must go for it is worth less. */
static bool make_room(struct prefix *p, const struct entry *newcomer, struct sequence *s)
{
    double own = value_of(newcomer, sequence_snapshot_need(s, newcomer->length)), value = 0;
    size_t i = least(p, &value);

    return i < p->n && value <= own && prefix_forget(p);
}

static void keep_cut(struct prefix *p, const struct prefix_prompt *prompt,
                     const struct prefix_cut *cut, struct sequence *s)
{
    struct entry e = {
        .key = cut->key, .tenant = prompt->tenant, .length = cut->length, .newest = cut->newest};
    struct entry *known = entry_of(p, &cut->key);
    struct status busy = {0};

    if (known) { /* of one who read the same at the same time */
        use(p, known);
        return;
    }
    use(p, &e);
    if (cut->newest)
        make_stale(p, prompt);
    if (p->n == PREFIX_SNAPSHOTS_MAX && !make_room(p, &e, s))
        return;
    while (!sequence_snapshot(&e.snapshot, s, cut->length, &busy))
        if (!make_room(p, &e, s))
            return;
    insert(p, &e);
}

void prefix_keep(struct prefix *p, struct prefix_prompt *prompt, struct sequence *s)
{
    size_t first = prompt->cut;

    while (prompt->cut < prompt->n_cuts && prompt->cuts[prompt->cut].length <= sequence_length(s))
        keep_cut(p, prompt, &prompt->cuts[prompt->cut++], s);
    if (prompt->cut > first)
        sequence_unmark(s);
}
