/* Attention, cut into pieces for the pool.
 *
 * A unit is a block of queries that share their pages, and some heads of one kv head: its keys are
 * loaded once for all its rows. When there are too few units for all threads, their groups of keys
 * become pieces of their own, each with a slot for what it sees, and the slots are added afterwards
 * in ascending order: the same sums as in a unit that goes through its groups by itself. */
#include "engine/base/heap.h"
#include "engine/base/pool.h"
#include "engine/ops/parts.h"
#include <assert.h>

#define PIECES_MAX 1024
#define SLOT_ROWS ((size_t)1 << 13)
#define SLOT_VALUES ((size_t)1 << 21) /* 256 groups of 16 heads of 512: a token at 262,144 */
#define BALANCE                                                                                    \
    4 /* a thread should get this many pieces, so that all end at about the same time              \
       */

/* Memory is read fastest in pieces that are at least so large: kv heads of a page that lie side by
 * side are read together when their rows are few. */
#define RUN_BYTES ((size_t)128 << 10)

struct piece {
    const struct attend_query *queries; /* of a unit */
    size_t n_queries, head_begin, head_end;
    size_t group_begin, group_end;
    bool slotted;
    size_t slot_row, slot_value;
};

/* The pieces of a unit that have slots. */
struct unit {
    size_t begin, end;
};

/* Of a thread: what it has seen of a unit, and of one more group. */
struct scratch {
    float values[2][ATTEND_ROWS_MAX * ATTEND_HEAD_DIM_MAX];
    float largest[2][ATTEND_ROWS_MAX], sum[2][ATTEND_ROWS_MAX];
};

struct attend_memory {
    struct scratch *scratch; /* [threads] */
    float *values;           /* [SLOT_VALUES] */
    float *largest, *sum;    /* [SLOT_ROWS] */
    struct piece pieces[PIECES_MAX];
    struct unit units[PIECES_MAX];
};

struct attend_memory *attend_memory_new(size_t threads)
{
    struct attend_memory *m = heap_new(1, sizeof *m);
    m->scratch = heap_array(struct scratch, threads);
    m->values = heap_array(float, SLOT_VALUES);
    m->largest = heap_array(float, SLOT_ROWS);
    m->sum = heap_array(float, SLOT_ROWS);
    return m;
}

void attend_memory_free(struct attend_memory *m)
{
    if (!m)
        return;
    heap_free(m->scratch);
    heap_free(m->values);
    heap_free(m->largest);
    heap_free(m->sum);
    heap_free(m);
}

/* One call: how it is cut, and the pieces that wait to be done. */
struct job {
    const struct ops *ops;
    const struct attend_shape *shape;
    const struct attend_part
        *seen;          /* of the one query, from call to call; NULL: all in this call */
    size_t first_group; /* that the query sees: with `seen`, where it begins */
    bool last;          /* the query's last keys are in this call */
    size_t heads_each;  /* of a unit */
    bool split;         /* groups become pieces */
    size_t n_pieces, n_units, slot_row, slot_value;
    size_t work; /* multiplications of the pieces */
};

static size_t rows_of(const struct piece *p)
{
    return p->n_queries * (p->head_end - p->head_begin);
}

/* What earlier calls have seen, of a piece's heads. */
static struct attend_part seen_part(const struct job *job, const struct piece *p)
{
    return (struct attend_part){.values = job->seen->values + p->head_begin * job->shape->head_dim,
                                .largest = job->seen->largest + p->head_begin,
                                .sum = job->seen->sum + p->head_begin};
}

static struct attend_part slot_part(const struct attend_memory *m, const struct piece *p)
{
    return (struct attend_part){.values = m->values + p->slot_value,
                                .largest = m->largest + p->slot_row,
                                .sum = m->sum + p->slot_row};
}

static void see(const struct job *job, const struct piece *p, size_t group,
                const struct attend_part *out)
{
    struct attend_task task = {.shape = job->shape,
                               .queries = p->queries,
                               .n_queries = p->n_queries,
                               .head_begin = p->head_begin,
                               .head_end = p->head_end,
                               .group = group};
    job->ops->set->attend(&task, out);
}

static void finish(const struct job *job, const struct piece *p, const struct attend_part *total)
{
    size_t d = job->shape->head_dim, heads = p->head_end - p->head_begin;
    for (size_t r = 0; r < rows_of(p) && job->last; r++)
        job->ops->set->attend_finish(p->queries[r / heads].out + (p->head_begin + r % heads) * d,
                                     total->values + r * d, total->sum[r], d);
}

static void do_pieces(void *context, size_t begin, size_t end, size_t thread)
{
    const struct job *job = context;
    const struct attend_memory *m = job->ops->attend;
    struct scratch *s = &m->scratch[thread];
    const struct attend_part own = {s->values[0], s->largest[0], s->sum[0]};
    const struct attend_part more = {s->values[1], s->largest[1], s->sum[1]};

    for (size_t i = begin; i < end; i++) {
        const struct piece *p = &m->pieces[i];
        if (p->slotted) {
            const struct attend_part slot = job->seen && p->group_begin == job->first_group
                                                ? seen_part(job, p)
                                                : slot_part(m, p);
            see(job, p, p->group_begin, &slot);
            continue;
        }
        const struct attend_part total = job->seen ? seen_part(job, p) : own;
        size_t group = p->group_begin;
        if (!job->seen || group == job->first_group)
            see(job, p, group++, &total);
        for (; group < p->group_end; group++) {
            see(job, p, group, &more);
            job->ops->set->attend_add(&total, &more, rows_of(p), job->shape->head_dim);
        }
        finish(job, p, &total);
    }
}

static void add_slots(void *context, size_t begin, size_t end, size_t thread)
{
    const struct job *job = context;
    const struct attend_memory *m = job->ops->attend;
    (void)thread;
    for (size_t u = begin; u < end; u++) {
        const struct piece *first = &m->pieces[m->units[u].begin];
        size_t i = m->units[u].begin;
        const struct attend_part total = job->seen ? seen_part(job, first) : slot_part(m, first);
        if (!job->seen || first->group_begin == job->first_group)
            i++; /* total is where the first group went */
        for (; i < m->units[u].end; i++) {
            const struct attend_part more = slot_part(m, &m->pieces[i]);
            job->ops->set->attend_add(&total, &more, rows_of(first), job->shape->head_dim);
        }
        finish(job, first, &total);
    }
}

/* Do the pieces that wait. */
static void flush(struct job *job)
{
    if (job->n_pieces == 0)
        return;
    pool_run(job->ops->pool, job->n_pieces, WORK_GRAIN / (job->work / job->n_pieces + 1) + 1,
             do_pieces, job);
    pool_run(job->ops->pool, job->n_units, 1, add_slots, job);
    job->n_pieces = job->n_units = job->slot_row = job->slot_value = job->work = 0;
}

/* The next block of queries that share their pages: how many, and the groups that they see. */
static struct piece next_block(const struct job *job, const struct attend_query *queries, size_t n)
{
    struct piece p = {.queries = queries, .group_begin = SIZE_MAX};
    while (p.n_queries < n && p.n_queries < ATTEND_ROWS_MAX / job->heads_each &&
           queries[p.n_queries].keys == queries->keys) {
        const struct attend_query *q = &queries[p.n_queries++];
        size_t begin = q->first / ATTEND_GROUP_KEYS, end = (q->end - 1) / ATTEND_GROUP_KEYS + 1;
        p.group_begin = begin < p.group_begin ? begin : p.group_begin;
        p.group_end = end > p.group_end ? end : p.group_end;
    }
    return p;
}

/* What there is to do, in blocks of queries and in groups of keys. */
struct survey {
    size_t blocks, queries_most; /* of a block */
    size_t work, work_most;      /* queries times groups; of a block */
    size_t groups;
};

static struct survey survey(const struct job *job, const struct attend_query *queries, size_t n)
{
    struct survey s = {0};
    for (size_t i = 0; i < n;) {
        struct piece p = next_block(job, queries + i, n - i);
        size_t work = p.n_queries * (p.group_end - p.group_begin);
        s.blocks++;
        s.queries_most = p.n_queries > s.queries_most ? p.n_queries : s.queries_most;
        s.work += work;
        s.work_most = work > s.work_most ? work : s.work_most;
        s.groups += p.group_end - p.group_begin;
        i += p.n_queries;
    }
    return s;
}

/* Decide how the call is cut; no number hangs on it. */
static void plan(struct job *job, const struct attend_query *queries, size_t n)
{
    const struct attend_shape *shape = job->shape;
    size_t threads = pool_threads(job->ops->pool), heads = shape->heads / shape->kv_heads;
    size_t head_bytes = attend_head_bytes(shape->type, shape->head_dim), joined = 1, units;

    job->heads_each = heads < ATTEND_ROWS_MAX ? heads : ATTEND_ROWS_MAX;
    while (heads % job->heads_each) /* a unit must not reach into the next kv head */
        job->heads_each--;
    struct survey s = survey(job, queries, n);
    assert(threads > 0);
    /* Whole kv heads can be joined. */
    while (job->heads_each == heads * joined && joined * head_bytes < RUN_BYTES &&
           shape->kv_heads % (2 * joined) == 0 &&
           2 * job->heads_each * s.queries_most <= ATTEND_ROWS_MAX &&
           s.blocks * shape->kv_heads / (2 * joined) >= threads) {
        job->heads_each *= 2;
        joined *= 2;
    }
    units = shape->heads / job->heads_each;
    if (threads == 1 ||
        (joined > 1 && s.blocks * units % threads == 0 && s.work == s.blocks * s.work_most))
        return; /* all get the same */
    job->split = s.work * units < BALANCE * threads * s.work_most;
    while (job->split && s.groups * units < BALANCE * threads && job->heads_each % 8 == 0) {
        job->heads_each /= 2;
        units *= 2;
    }
}

static void add_piece(struct job *job, const struct piece *p)
{
    struct attend_memory *m = job->ops->attend;
    m->pieces[job->n_pieces++] = *p;
    job->work +=
        2 * rows_of(p) * (p->group_end - p->group_begin) * ATTEND_GROUP_KEYS * job->shape->head_dim;
}

/* A unit as one piece, or as one for each group. */
static void add_unit(struct job *job, struct piece p)
{
    size_t n = p.group_end - p.group_begin, rows = n * rows_of(&p);
    bool slotted = job->split && n > 1 && n <= PIECES_MAX && rows <= SLOT_ROWS &&
                   rows * job->shape->head_dim <= SLOT_VALUES;

    if (job->n_pieces + (slotted ? n : 1) > PIECES_MAX ||
        (slotted && (job->slot_row + rows > SLOT_ROWS ||
                     job->slot_value + rows * job->shape->head_dim > SLOT_VALUES)))
        flush(job);
    if (!slotted) {
        add_piece(job, &p);
        return;
    }
    job->ops->attend->units[job->n_units++] =
        (struct unit){.begin = job->n_pieces, .end = job->n_pieces + n};
    p.slotted = true;
    for (size_t end = p.group_end; p.group_begin < end; p.group_begin++) {
        p.group_end = p.group_begin + 1;
        p.slot_row = job->slot_row;
        p.slot_value = job->slot_value;
        add_piece(job, &p);
        job->slot_row += rows_of(&p);
        job->slot_value += rows_of(&p) * job->shape->head_dim;
    }
}

static void attend(struct job *job, const struct attend_query *queries, size_t n)
{
    const struct attend_shape *shape = job->shape;

    assert(shape->kv_heads > 0 && shape->heads % shape->kv_heads == 0);
    assert(shape->head_dim % 8 == 0 && shape->head_dim <= ATTEND_HEAD_DIM_MAX);
    assert(shape->type == DTYPE_F16 || shape->type == DTYPE_F32 || shape->type == DTYPE_I8);
    for (size_t i = 0; i < n; i++)
        assert(queries[i].first < queries[i].end);
    plan(job, queries, n);
    for (size_t i = 0; i < n;) {
        struct piece p = next_block(job, queries + i, n - i);
        for (size_t head = 0; head < shape->heads; head += job->heads_each) {
            p.head_begin = head;
            p.head_end = head + job->heads_each;
            add_unit(job, p);
        }
        i += p.n_queries;
    }
    flush(job);
}

void ops_attend(const struct ops *ops, const struct attend_shape *shape,
                const struct attend_query *queries, size_t n)
{
    struct job job = {.ops = ops, .shape = shape, .last = true};

    attend(&job, queries, n);
}

void ops_attend_some(const struct ops *ops, const struct attend_shape *shape,
                     const struct attend_query *query, const struct attend_part *seen, size_t begin,
                     size_t end)
{
    struct attend_query part = *query;
    struct job job = {.ops = ops,
                      .shape = shape,
                      .seen = seen,
                      .first_group = query->first / ATTEND_GROUP_KEYS,
                      .last = end >= query->end};

    assert(begin <= query->first || begin % ATTEND_GROUP_KEYS == 0);
    assert(end >= query->end || end % ATTEND_GROUP_KEYS == 0);
    part.first = begin > query->first ? begin : query->first;
    part.end = end < query->end ? end : query->end;
    attend(&job, &part, 1);
}

/* ---- keys and values into pages */

/* Some 5 us: what a thread is worth waking for. */
#define STORE_GRAIN 4

struct store_job {
    const struct kernel_set *set;
    const struct attend_shape *shape;
    const struct attend_place *places;
    const float *keys, *values;
};

/* kv heads of all rows, one row after the other. */
static void store_heads(void *context, size_t begin, size_t end, size_t thread)
{
    const struct store_job *job = context;
    struct attend_shape one = *job->shape;
    size_t d = one.head_dim, kv_heads = one.kv_heads, bytes = attend_head_bytes(one.type, d);

    (void)thread;
    one.kv_heads = 1;
    for (size_t i = begin; i < end; i++) {
        const struct attend_place *place = &job->places[i / kv_heads];
        size_t head = i % kv_heads * bytes;
        job->set->attend_store(&one, (uint8_t *)place->keys + head, (uint8_t *)place->values + head,
                               place->at, job->keys + i * d, job->values + i * d);
    }
}

void ops_store(const struct ops *ops, const struct attend_shape *shape,
               const struct attend_place *places, size_t rows, const float *keys,
               const float *values)
{
    struct store_job job = {
        .set = ops->set, .shape = shape, .places = places, .keys = keys, .values = values};

    pool_run(ops->pool, rows * shape->kv_heads, STORE_GRAIN, store_heads, &job);
}
