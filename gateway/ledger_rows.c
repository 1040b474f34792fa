/* The table of stages, and what a pipeline may be. */
#include "gateway/ledger_private.h"
#include <stdio.h>
#include <string.h>

// clang-format off
static const struct stage_row rows[] = {
    { .name = "ingest", .flow = FLOW_WHOLE, .pairs = true,
      .takes = { "image", "audio", "video" },
      .gives = { "image.rgb", "audio.pcm", "video.rgb", "video.times", "video.pcm", "notes" },
      .drops = { "image", "audio", "video" },
      .only_with = { "image", "audio", "video" } },
    { .name = "encode", .flow = FLOW_WHOLE,
      .takes = { "turns", "tools", "image.rgb", "audio.pcm", "video.rgb", "video.times",
                 "video.pcm" },
      .gives = { "ids", "spans", "soft", "cuts", "start" },
      .needs = { "ids", "start" },
      .drops = { "image.rgb", "audio.pcm", "video.rgb", "video.times", "video.pcm" } },
    { .name = "infer", .flow = FLOW_TOKENS,
      .takes = { "ids", "spans", "soft", "cuts" },
      .gives = { "tokens" },
      .drops = { "ids", "spans", "soft", "cuts" } },
    { .name = "format", .flow = FLOW_BYTES,
      .takes = { "start", "notes" },
      .gives = { "bytes" } },
    { .name = NULL, .flow = FLOW_WHOLE },
};
// clang-format on

const struct stage_row *row_find(const char *name)
{
    const struct stage_row *row = rows;

    while (row->name && strcmp(row->name, name) != 0)
        row++;
    return row;
}

bool row_lists(const char *const *names, const char *name)
{
    if (!names[0])
        return true;
    for (size_t i = 0; i < ROW_NAMES_MAX && names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

struct ledger_config ledger_config_default(void)
{
    return (struct ledger_config){.requests_max = 256,
                                  .memory_max_bytes = 1U << 30,
                                  .beat_interval_us = 200000,
                                  .pause_max_us = 30000000,
                                  .unsent_max_bytes = 1U << 20,
                                  .attempts_max = 2,
                                  .poison_us = 600000000,
                                  .resume_wait_us = 10000000};
}

static bool check_name(const char *what, const char *name, struct status *st)
{
    if (name[0] == '\0')
        return status_fail(st, STATUS_INVALID, "%s: the name is empty", what);
    if (strlen(name) >= STAGE_NAME_MAX)
        return status_fail(st, STATUS_INVALID, "%s '%.40s...': longer than %d bytes", what, name,
                           STAGE_NAME_MAX - 1);
    return true;
}

static bool check_order(const char *const *stages, size_t n_stages, struct status *st)
{
    for (size_t i = 0; i < n_stages; i++) {
        enum flow flow = row_find(stages[i])->flow;
        enum flow before = i > 0 ? row_find(stages[i - 1])->flow : FLOW_WHOLE;

        if (!check_name("stage", stages[i], st))
            return false;
        if (strcmp(stages[i], LEDGER_SUPERVISOR) == 0)
            return status_fail(st, STATUS_INVALID, "'%s' is no stage", stages[i]);
        for (size_t k = 0; k < i; k++)
            if (strcmp(stages[k], stages[i]) == 0)
                return status_fail(st, STATUS_INVALID, "stage '%s' is there twice", stages[i]);
        if ((flow == FLOW_BYTES) != (before == FLOW_TOKENS))
            return status_fail(st, STATUS_INVALID,
                               "'%s' cannot follow '%s': format stands right behind infer, and "
                               "nothing else does",
                               stages[i], i > 0 ? stages[i - 1] : "the beginning");
        if (flow == FLOW_WHOLE && before == FLOW_BYTES)
            return status_fail(st, STATUS_INVALID,
                               "'%s' cannot follow '%s', which makes the answer", stages[i],
                               stages[i - 1]);
    }
    const struct stage_row *end = row_find(stages[n_stages - 1]);
    if (end->flow != FLOW_BYTES && end->name)
        return status_fail(st, STATUS_INVALID, "'%s' cannot be the last stage", end->name);
    return true;
}

bool ledger_config_pipeline(struct ledger_config *config, const char *name,
                            const char *const *stages, size_t n_stages, struct status *st)
{
    size_t n = config->n_pipelines;

    if (n == LEDGER_PIPELINES_MAX)
        return status_fail(st, STATUS_LIMIT, "more than %d pipelines", LEDGER_PIPELINES_MAX);
    if (!check_name("pipeline", name, st))
        return false;
    for (size_t i = 0; i < n; i++)
        if (strcmp(config->pipelines[i].name, name) == 0)
            return status_fail(st, STATUS_INVALID, "pipeline '%s' is there twice", name);
    if (n_stages == 0 || n_stages > LEDGER_PIPELINE_STAGES_MAX)
        return status_fail(st, STATUS_LIMIT, "pipeline '%s': %zu stages; 1 to %d are possible",
                           name, n_stages, LEDGER_PIPELINE_STAGES_MAX);
    if (!check_order(stages, n_stages, st))
        return status_wrap(st, "pipeline '%s'", name);

    size_t different = 0; /* of all pipelines, with this one */
    char seen[LEDGER_STAGES_MAX][STAGE_NAME_MAX];
    for (size_t p = 0; p <= n; p++) {
        size_t n_here = p < n ? config->pipelines[p].n_stages : n_stages;
        for (size_t i = 0; i < n_here; i++) {
            const char *stage = p < n ? config->pipelines[p].stages[i] : stages[i];
            size_t k = 0;
            while (k < different && strcmp(seen[k], stage) != 0)
                k++;
            if (k < different)
                continue;
            if (different == LEDGER_STAGES_MAX)
                return status_fail(st, STATUS_LIMIT, "pipeline '%s': more than %d stages in all",
                                   name, LEDGER_STAGES_MAX);
            (void)snprintf(seen[different++], STAGE_NAME_MAX, "%s", stage);
        }
    }
    (void)snprintf(config->pipelines[n].name, STAGE_NAME_MAX, "%s", name);
    for (size_t i = 0; i < n_stages; i++)
        (void)snprintf(config->pipelines[n].stages[i], STAGE_NAME_MAX, "%s", stages[i]);
    config->pipelines[n].n_stages = n_stages;
    config->n_pipelines = n + 1;
    return true;
}
