/* checkpoint.c - the files that lie beside the tensors of a checkpoint. */
#include "engine/weights/checkpoint.h"
#include <unistd.h>

#define SUPPRESSED_MAX 64

/* ---- generation_config.json: of interest are only the ids that are never drawn ---- */

struct suppressed {
    int32_t ids[SUPPRESSED_MAX];
    size_t n;
    bool given;
};

static bool read_ids(struct suppressed *out, struct json_scan *json, struct status *st)
{
    struct json_walk walk = {0};

    *out = (struct suppressed){.given = true};
    while (json_scan_next(json, '[', &walk, st)) {
        struct span number;
        uint64_t id;
        if (!json_scan_number(json, &number, st))
            return false;
        if (!span_number(number, 0, INT32_MAX, &id) || out->n == SUPPRESSED_MAX)
            return status_fail(st, STATUS_CORRUPT, "at most %d ids are wanted", SUPPRESSED_MAX);
        out->ids[out->n++] = (int32_t)id;
    }
    return walk.ended;
}

static bool read_generation(struct weights *w, struct span text, struct status *st)
{
    struct json_scan json = {.text = text};
    struct suppressed suppressed = {0};
    struct buffer name = {0};
    struct json_walk walk = {0};
    bool ok = true;

    while (ok && json_scan_member(&json, &walk, &name, st)) {
        if (span_is(buffer_span(&name), "suppress_tokens") && json_scan_peek(&json) == '[')
            ok = read_ids(&suppressed, &json, st) || status_wrap(st, "suppress_tokens");
        else
            ok = json_scan_skip(&json, st);
    }
    buffer_clear(&name);
    ok = ok && walk.ended && json_scan_end(&json, st);
    if (ok && suppressed.given)
        weights_add_array(w, "tokenizer.ggml.suppress_tokens", VALUE_I32, suppressed.n,
                          suppressed.ids, suppressed.n * sizeof *suppressed.ids);
    return ok;
}

/* ---- the files ---- */

static bool read_file(struct weights *w, const char *folder, const char *name, size_t bytes_max,
                      bool (*read)(struct weights *, struct span, struct status *),
                      struct status *st)
{
    struct buffer path = {0};
    buffer_printf(&path, "%s%s", folder, name);
    bool ok = weights_map(w, (const char *)path.data, st);
    buffer_clear(&path);
    if (!ok)
        return false;
    size_t piece = w->n_pieces - 1;
    struct span text = span_of(w->pieces[piece].data, w->pieces[piece].size);
    if (text.size > bytes_max)
        ok = status_fail(st, STATUS_LIMIT, "%zu bytes, allowed are %zu", text.size, bytes_max);
    else if (utf8_valid_prefix(text.data, text.size) != text.size)
        ok = status_fail(st, STATUS_CORRUPT, "not UTF-8");
    else
        ok = read(w, text, st);
    weights_unmap(w, piece);
    return ok || status_wrap(st, "%s", name);
}

static bool is_there(const char *folder, const char *name)
{
    struct buffer path = {0};
    buffer_printf(&path, "%s%s", folder, name);
    bool there = access((const char *)path.data, F_OK) == 0;
    buffer_clear(&path);
    return there;
}

bool checkpoint_read(struct weights *w, const char *folder, struct status *st)
{
    return checkpoint_names(w, st) &&
           read_file(w, folder, "config.json", CHECKPOINT_CONFIG_BYTES_MAX, checkpoint_config,
                     st) &&
           (!is_there(folder, "generation_config.json") ||
            read_file(w, folder, "generation_config.json", CHECKPOINT_CONFIG_BYTES_MAX,
                      read_generation, st)) &&
           (!is_there(folder, "tokenizer.json") ||
            read_file(w, folder, "tokenizer.json", CHECKPOINT_TOKENIZER_BYTES_MAX,
                      checkpoint_tokenizer, st));
}
