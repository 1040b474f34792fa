/* What is known about a request: named blobs, in order, and the memory they are accounted with. */
#include "gateway/ledger_private.h"
#include <assert.h>
#include <string.h>

static uint64_t accounted(const struct request *request)
{
    return request->bag_bytes > request->reserve_bytes ? request->bag_bytes
                                                       : request->reserve_bytes;
}

static void account(struct ledger *ledger, struct request *request, uint64_t bag_bytes)
{
    ledger->reserved_bytes -= accounted(request);
    request->bag_bytes = bag_bytes;
    ledger->reserved_bytes += accounted(request);
}

/* The inputs of a new request; its reservation counts from here on. */
bool bag_fill(struct ledger *ledger, struct request *request, const struct ledger_event *event)
{
    const struct head *head = event->head;
    uint64_t bytes = 0;

    assert(head->n_blobs <= LEDGER_BLOBS_MAX);
    for (size_t i = 0; i < head->n_blobs; i++) {
        request->bag[i] = (struct item){.desc = head->blobs[i], .blob = blob_keep(event->blobs[i])};
        bytes += blob_size(event->blobs[i]);
    }
    request->n_bag = head->n_blobs;
    request->reserve_bytes = event->reserve_bytes;
    request->bag_bytes = bytes;
    ledger->reserved_bytes += accounted(request);
    return ledger->reserved_bytes <= ledger->config.memory_max_bytes;
}

void bag_clear(struct ledger *ledger, struct request *request)
{
    for (size_t i = 0; i < request->n_bag; i++)
        blob_drop(request->bag[i].blob);
    request->n_bag = 0;
    ledger->reserved_bytes -= accounted(request);
    request->bag_bytes = request->reserve_bytes = 0;
}

bool bag_has(const struct request *request, const char *const *names)
{
    for (size_t i = 0; i < request->n_bag; i++)
        if (row_lists(names, request->bag[i].desc.name))
            return true;
    return false;
}

void bag_drop(struct ledger *ledger, struct request *request, const char *const *names)
{
    uint64_t bytes = request->bag_bytes;
    size_t kept = 0;

    if (!names[0])
        return;
    for (size_t i = 0; i < request->n_bag; i++) {
        struct item *item = &request->bag[i];
        if (!row_lists(names, item->desc.name)) {
            request->bag[kept++] = *item;
            continue;
        }
        bytes -= blob_size(item->blob);
        blob_drop(item->blob);
    }
    request->n_bag = kept;
    account(ledger, request, bytes);
}

/* --- results --- */

static size_t count_blobs(const struct head *head, size_t n, const char *name)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        if (strcmp(head->blobs[i].name, name) == 0)
            count++;
    return count;
}

/* Whether a blob is made from one called `from`: "image.rgb" from "image". */
static bool is_made_from(const char *name, const char *from)
{
    size_t length = strlen(from);

    return strncmp(name, from, length) == 0 && name[length] == '.';
}

/* The blob that each input of that name must have. */
static const char *main_blob(const struct stage_row *row, const char *from)
{
    for (size_t i = 0; i < ROW_NAMES_MAX && row->gives[i]; i++)
        if (is_made_from(row->gives[i], from))
            return row->gives[i];
    return "";
}

static bool check_pairs(const struct job *job, const struct head *head, struct status *st)
{
    const struct request *request = job->request;
    const struct stage_row *row = job->stage->row;
    size_t n = 0;

    for (size_t i = 0; i < request->n_bag; i++) {
        const char *name = request->bag[i].desc.name;
        const char *wanted = main_blob(row, name);

        if (!row_lists(row->takes, name))
            continue;
        if (n == head->n_blobs)
            return status_fail(st, STATUS_CORRUPT, "a result of %zu blobs for more inputs", n);
        if (strcmp(head->blobs[n].name, wanted) != 0)
            return status_fail(st, STATUS_CORRUPT,
                               "blob %zu of the result, '%s', is not made of "
                               "'%s'",
                               n, head->blobs[n].name, name);
        n++;
        while (n < head->n_blobs && is_made_from(head->blobs[n].name, name) &&
               strcmp(head->blobs[n].name, wanted) != 0)
            n++;
    }
    while (n < head->n_blobs && !strchr(head->blobs[n].name, '.'))
        n++;
    if (n != head->n_blobs)
        return status_fail(st, STATUS_CORRUPT, "blob %zu of the result, '%s', is made of nothing",
                           n, head->blobs[n].name);
    return true;
}

static bool check_result(const struct job *job, const struct head *head, struct status *st)
{
    const struct stage_row *row = job->stage->row;

    for (size_t i = 0; i < head->n_blobs; i++)
        if (!row_lists(row->gives, head->blobs[i].name))
            return status_fail(st, STATUS_CORRUPT, "blob '%s' is none of this stage's",
                               head->blobs[i].name);
    for (size_t i = 0; i < ROW_NAMES_MAX && row->needs[i]; i++)
        if (count_blobs(head, head->n_blobs, row->needs[i]) != 1)
            return status_fail(st, STATUS_CORRUPT, "needs one blob '%s'", row->needs[i]);
    return !row->pairs || check_pairs(job, head, st);
}

/* The index of the nth blob of that name, or n_blobs. */
static size_t find_blob(const struct head *head, const char *name, size_t nth)
{
    for (size_t i = 0; i < head->n_blobs; i++)
        if (strcmp(head->blobs[i].name, name) == 0 && nth-- == 0)
            return i;
    return head->n_blobs;
}

/* The bag as it will be: what the stage drops is gone, the nth of a name is replaced in its place
 * (media keep their order), more than there were are added, fewer take the rest away. Nothing is
 * counted yet; next has room for all. */
static size_t bag_plan(const struct job *job, const struct ledger_event *event, struct item *next)
{
    const struct request *request = job->request;
    const struct head *head = event->head;
    const char *const *drops = job->stage->row->drops;
    bool placed[BLOBS_MAX] = {false};
    size_t n = 0;

    for (size_t i = 0; i < request->n_bag; i++) {
        const struct item *item = &request->bag[i];
        size_t nth = 0;
        for (size_t k = 0; k < i; k++)
            nth += strcmp(request->bag[k].desc.name, item->desc.name) == 0;
        size_t at = find_blob(head, item->desc.name, nth);

        if (at < head->n_blobs) {
            placed[at] = true;
            next[n++] = (struct item){.desc = head->blobs[at], .blob = event->blobs[at]};
        } else if (find_blob(head, item->desc.name, 0) == head->n_blobs &&
                   !(drops[0] && row_lists(drops, item->desc.name))) {
            next[n++] = *item;
        }
    }
    for (size_t i = 0; i < head->n_blobs; i++)
        if (!placed[i])
            next[n++] = (struct item){.desc = head->blobs[i], .blob = event->blobs[i]};
    return n;
}

bool bag_result(struct ledger *ledger, struct job *job, const struct ledger_event *event,
                struct status *st)
{
    struct request *request = job->request;
    struct item next[LEDGER_BLOBS_MAX + BLOBS_MAX];
    uint64_t bytes = 0;

    if (!check_result(job, event->head, st))
        return false;
    size_t n = bag_plan(job, event, next);
    if (n > LEDGER_BLOBS_MAX)
        return status_fail(st, STATUS_CORRUPT, "%zu blobs; a request has at most %d", n,
                           LEDGER_BLOBS_MAX);
    for (size_t i = 0; i < n; i++)
        bytes += blob_size(next[i].blob);
    if (bytes > accounted(request) &&
        ledger->reserved_bytes - accounted(request) + bytes > ledger->config.memory_max_bytes)
        return status_fail(st, STATUS_LIMIT, "%s: no room for a result that makes it %llu bytes",
                           job->stage->name, (unsigned long long)bytes);
    for (size_t i = 0; i < n; i++)
        (void)blob_keep(next[i].blob);
    for (size_t i = 0; i < request->n_bag; i++)
        blob_drop(request->bag[i].blob);
    memcpy(request->bag, next, n * sizeof next[0]);
    request->n_bag = n;
    account(ledger, request, bytes);
    return true;
}
