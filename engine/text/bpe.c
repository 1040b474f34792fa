#include "engine/text/bpe.h"
#include "engine/base/heap.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"
#include <assert.h>
#include <string.h>

#define SPACE_MARK 0x2581 /* what stands for U+0020 in pieces */
#define PAGE 256          /* code points to a page of the table of characters */
#define PAGES (0x110000 / PAGE)
#define CUT_BITS 22
#define NONE UINT32_MAX

struct merge {
    uint64_t pair; /* left id, right id; PAIR_FREE: no entry */
    uint32_t rank;
    int32_t result;
};
#define PAIR_FREE UINT64_MAX

struct bpe {
    int32_t *pages[PAGES]; /* [PAGE] code point to id, -1: not a piece; NULL: none in this page */
    int32_t bytes[256];
    struct merge *merges; /* open addressing */
    unsigned merge_shift;
    size_t merge_mask;
    uint64_t *joins; /* bit set: some merge may join these two code points. Others never do */
};

/* ---- tables ---- */

static uint64_t spread(uint64_t value)
{
    return value * UINT64_C(0x9e3779b97f4a7c15);
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static struct merge *find_merge(const struct bpe *b, uint64_t pair)
{
    size_t slot = (size_t)(spread(pair) >> b->merge_shift);
    while (b->merges[slot].pair != pair && b->merges[slot].pair != PAIR_FREE)
        slot = (slot + 1) & b->merge_mask;
    return &b->merges[slot];
}

static size_t join_bit(uint32_t left, uint32_t right)
{
    return (size_t)(spread((uint64_t)left << 32 | right) >> (64 - CUT_BITS));
}

/* A false yes (two pairs sharing a bit) only makes a part longer, never a result different. */
static bool may_join(const struct bpe *b, uint32_t left, uint32_t right)
{
    const size_t bit = join_bit(left, right);
    return (b->joins[bit / 64] >> (bit % 64) & 1) != 0;
}

static void add_character(struct bpe *b, uint32_t code_point, int32_t id)
{
    int32_t **page = &b->pages[code_point / PAGE];
    if (*page == NULL) {
        *page = heap_array(int32_t, PAGE);
        memset(*page, 0xff, PAGE * sizeof(int32_t));
    }
    (*page)[code_point % PAGE] = id;
}

static int32_t character(const struct bpe *b, uint32_t code_point)
{
    const int32_t *page = b->pages[code_point / PAGE];
    return page == NULL ? -1 : page[code_point % PAGE];
}

static uint32_t first_code_point(struct span text)
{
    uint32_t code_point = 0;
    utf8_decode(text.data, text.size, &code_point);
    return code_point;
}

static uint32_t last_code_point(struct span text)
{
    size_t at = text.size - 1;
    while (at > 0 && (text.data[at] & 0xc0) == 0x80)
        at--;
    return first_code_point(span_of(text.data + at, text.size - at));
}

static bool is_joined(const struct vocabulary *v, int32_t id, struct span left, struct span right)
{
    const struct span piece = v->pieces[id];
    return piece.size == left.size + right.size && memcmp(piece.data, left.data, left.size) == 0 &&
           memcmp(piece.data + left.size, right.data, right.size) == 0;
}

/* *last_result: of the merge before, which often has the same (half of them, in the real file). */
static bool add_merge(struct bpe *b, const struct vocabulary_index *index, const uint8_t *fixed,
                      size_t rank, int32_t *last_result, struct status *st)
{
    const struct span text = index->vocabulary->merges[rank];
    const uint8_t *space = text.size > 0 ? memchr(text.data, ' ', text.size) : NULL;
    const size_t size = space == NULL ? 0 : (size_t)(space - text.data);
    if (size == 0 || size + 1 == text.size || memchr(space + 1, ' ', text.size - size - 1) != NULL)
        return status_fail(st, STATUS_CORRUPT,
                           "tokenizer.ggml.merges[%zu]: not two pieces with one space between",
                           rank);
    const struct span left = span_of(text.data, size);
    const struct span right = span_of(space + 1, text.size - size - 1);
    const int32_t left_id = vocabulary_find(index, left, span_of(NULL, 0));
    const int32_t right_id = vocabulary_find(index, right, span_of(NULL, 0));
    const int32_t result = is_joined(index->vocabulary, *last_result, left, right)
                               ? *last_result
                               : vocabulary_find(index, left, right);
    if (left_id < 0 || right_id < 0 || result < 0)
        return status_fail(st, STATUS_CORRUPT,
                           "tokenizer.ggml.merges[%zu]: %s is not in the vocabulary", rank,
                           left_id < 0    ? "its left part"
                           : right_id < 0 ? "its right part"
                                          : "its result");
    if (fixed[left_id] || fixed[right_id] || fixed[result])
        return status_fail(st, STATUS_CORRUPT,
                           "tokenizer.ggml.merges[%zu]: has a byte or control token in it", rank);
    *last_result = result;
    struct merge *merge = find_merge(b, pair_of(left_id, right_id));
    if (merge->pair != PAIR_FREE)
        return status_fail(st, STATUS_CORRUPT, "tokenizer.ggml.merges[%zu]: same as [%u]", rank,
                           merge->rank);
    *merge = (struct merge){pair_of(left_id, right_id), (uint32_t)rank, result};
    const size_t bit = join_bit(last_code_point(left), first_code_point(right));
    b->joins[bit / 64] |= (uint64_t)1 << (bit % 64);
    return true;
}

bool bpe_new(struct bpe **out, const struct vocabulary_index *index, const int32_t bytes[256],
             const uint8_t *fixed, struct status *st)
{
    const struct vocabulary *v = index->vocabulary;
    struct bpe *b = heap_new(1, sizeof(*b));
    memcpy(b->bytes, bytes, sizeof(b->bytes));
    for (size_t i = 0; i < v->n_pieces; i++) {
        uint32_t code_point;
        const struct span piece = v->pieces[i];
        if (!fixed[i] && utf8_decode(piece.data, piece.size, &code_point) == piece.size)
            add_character(b, code_point, (int32_t)i);
    }
    unsigned bits = 4;
    while (((size_t)1 << bits) < 2 * v->n_merges)
        bits++;
    b->merge_shift = 64 - bits;
    b->merge_mask = ((size_t)1 << bits) - 1;
    b->merges = heap_array(struct merge, (size_t)1 << bits);
    memset(b->merges, 0xff, sizeof(b->merges[0]) << bits);
    b->joins = heap_array(uint64_t, ((size_t)1 << CUT_BITS) / 64);
    int32_t last_result = 0;
    for (size_t rank = 0; rank < v->n_merges; rank++)
        if (!add_merge(b, index, fixed, rank, &last_result, st)) {
            bpe_free(b);
            return false;
        }
    *out = b;
    return true;
}

void bpe_free(struct bpe *b)
{
    if (b == NULL)
        return;
    for (size_t i = 0; i < PAGES; i++)
        heap_free(b->pages[i]);
    heap_free(b->merges);
    heap_free(b->joins);
    heap_free(b);
}

/* ---- one part ---- */

/* A symbol of the part that is being merged, in a list by place. */
struct symbol {
    int32_t id;
    uint32_t rank; /* of the merge with its right neighbour; NONE: there is none */
    uint32_t previous, next;
    int32_t result; /* of that merge */
};

/* Pairs that wait, lowest rank first and then leftmost: a heap of runs, a run being pairs of one
 * rank at ascending places. Long regular text has few runs, so that it costs no more than words do,
 * which a heap of single pairs did (1 MiB of one letter: 0.34 s, now 0.09 s). */
struct waiting {
    uint32_t place;
    uint32_t next; /* in its run, NONE: last */
};

struct run {
    uint32_t rank; /* NONE: used up */
    uint32_t last; /* index of its last pair */
};

struct head {
    uint64_t key; /* rank << 32 | place of the first pair of the run */
    uint32_t run;
    uint32_t first; /* index of that pair */
};

#define OPEN_RUNS 64 /* power of two */

struct part {
    struct symbol *symbols;
    struct waiting *waiting;
    struct run *runs;
    struct head *heap; /* smallest key first; may hold pairs that are no more */
    size_t n, n_waiting, n_runs, n_heap;
    size_t capacity, waiting_capacity, runs_capacity;
    uint32_t
        open[OPEN_RUNS]; /* by rank: the run that may be continued, if it is still of that rank */
    uint32_t last;       /* code point of the last symbol */
};

static size_t grown(size_t capacity)
{
    return capacity == 0 ? 64 : 2 * capacity;
}

static void heap_rise(struct part *part, struct head head)
{
    size_t at = part->n_heap++;
    for (; at > 0 && part->heap[(at - 1) / 2].key > head.key; at = (at - 1) / 2)
        part->heap[at] = part->heap[(at - 1) / 2];
    part->heap[at] = head;
}

/* Put `head` in the place of the smallest and let it sink. */
static void heap_sink(struct part *part, struct head head)
{
    struct head *heap = part->heap;
    const size_t n = part->n_heap;
    size_t at = 0;
    for (size_t child = 1; child < n; child = 2 * at + 1) {
        child += child + 1 < n && heap[child + 1].key < heap[child].key;
        if (heap[child].key >= head.key)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = head;
}

static void queue_push(struct part *part, uint32_t rank, uint32_t place)
{
    if (part->n_waiting == part->waiting_capacity) {
        part->waiting_capacity = grown(part->waiting_capacity);
        part->waiting =
            heap_resize(part->waiting, part->waiting_capacity, sizeof(part->waiting[0]));
    }
    const uint32_t index = (uint32_t)part->n_waiting++;
    part->waiting[index] = (struct waiting){place, NONE};
    uint32_t *open = &part->open[rank % OPEN_RUNS];
    if (*open < part->n_runs && part->runs[*open].rank == rank) {
        struct waiting *last = &part->waiting[part->runs[*open].last];
        if (last->place < place) {
            last->next = index;
            part->runs[*open].last = index;
            return;
        }
    }
    if (part->n_runs == part->runs_capacity) {
        part->runs_capacity = grown(part->runs_capacity);
        part->runs = heap_resize(part->runs, part->runs_capacity, sizeof(part->runs[0]));
        part->heap = heap_resize(part->heap, part->runs_capacity, sizeof(part->heap[0]));
    }
    *open = (uint32_t)part->n_runs++;
    part->runs[*open] = (struct run){rank, index};
    heap_rise(part, (struct head){(uint64_t)rank << 32 | place, *open, index});
}

static uint64_t queue_pop(struct part *part)
{
    const struct head best = part->heap[0];
    const uint32_t next = part->waiting[best.first].next;
    if (next != NONE) {
        const uint64_t key = best.key >> 32 << 32 | part->waiting[next].place;
        heap_sink(part, (struct head){key, best.run, next});
        return best.key;
    }
    part->runs[best.run].rank = NONE;
    if (--part->n_heap > 0)
        heap_sink(part, part->heap[part->n_heap]);
    return best.key;
}

/* Look up the pair that begins at a symbol, and queue it. */
static void offer_pair(const struct bpe *b, struct part *part, uint32_t at)
{
    struct symbol *left = &part->symbols[at];
    left->rank = NONE;
    if (left->next == NONE)
        return;
    const struct merge *merge = find_merge(b, pair_of(left->id, part->symbols[left->next].id));
    if (merge->pair == PAIR_FREE)
        return;
    left->rank = merge->rank;
    left->result = merge->result;
    queue_push(part, merge->rank, at);
}

static void part_end(const struct bpe *b, struct part *part, struct ids *out)
{
    struct symbol *symbols = part->symbols;
    const uint32_t n = (uint32_t)part->n;
    for (uint32_t i = 0; i < n; i++) {
        symbols[i].previous = i == 0 ? NONE : i - 1;
        symbols[i].next = i + 1 == n ? NONE : i + 1;
    }
    part->n_waiting = part->n_runs = part->n_heap = 0;
    for (uint32_t i = 0; i < n; i++)
        offer_pair(b, part, i);
    while (part->n_heap > 0) {
        const uint64_t best = queue_pop(part);
        const uint32_t at = (uint32_t)best;
        struct symbol *left = &symbols[at];
        if (left->rank != (uint32_t)(best >> 32))
            continue; /* outdated: a neighbour was merged since */
        struct symbol *right = &symbols[left->next];
        left->id = left->result;
        left->next = right->next;
        right->rank = NONE;
        if (right->next != NONE)
            symbols[right->next].previous = at;
        offer_pair(b, part, at);
        if (left->previous != NONE)
            offer_pair(b, part, left->previous);
    }
    for (uint32_t i = 0; i < n; i = symbols[i].next) {
        ids_push(out, symbols[i].id);
        if (symbols[i].next == NONE)
            break;
    }
    part->n = 0;
}

static void part_add(struct part *part, int32_t id, uint32_t code_point)
{
    if (part->n == part->capacity) {
        part->capacity = grown(part->capacity);
        part->symbols = heap_resize(part->symbols, part->capacity, sizeof(part->symbols[0]));
    }
    part->symbols[part->n++].id = id;
    part->last = code_point;
}

void bpe_encode(const struct bpe *b, struct span text, struct ids *out)
{
    assert(text.size < NONE);
    struct part part = {0};
    for (size_t at = 0; at < text.size;) {
        uint32_t code_point = 0;
        const size_t size = utf8_decode(text.data + at, text.size - at, &code_point);
        if (size == 1 && code_point == ' ')
            code_point = SPACE_MARK;
        const int32_t id = size == 0 ? -1 : character(b, code_point);
        if (part.n > 0 && (id < 0 || !may_join(b, part.last, code_point)))
            part_end(b, &part, out);
        const size_t step = size == 0 ? 1 : size; /* an ill-formed byte stands for itself */
        if (id >= 0)
            part_add(&part, id, code_point);
        else
            for (size_t i = 0; i < step; i++)
                ids_push(out, b->bytes[text.data[at + i]]);
        at += step;
    }
    if (part.n > 0)
        part_end(b, &part, out);
    heap_free(part.symbols);
    heap_free(part.waiting);
    heap_free(part.runs);
    heap_free(part.heap);
}
