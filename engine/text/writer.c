#include "engine/text/writer.h"
#include "engine/base/heap.h"

void writer_init(struct writer *w, const struct tokenizer *t, const struct chat *chat,
                 struct prompt *prompt)
{
    *w = (struct writer){.tokenizer = t,
                         .prompt = prompt,
                         .n_media = chat->n_media,
                         .media = chat->media,
                         .missing = SPECIAL_COUNT};
}

void writer_clear(struct writer *w)
{
    buffer_clear(&w->pending);
    *w = (struct writer){0};
}

static void flush(struct writer *w)
{
    if (w->pending.size > 0)
        tokenizer_encode(w->tokenizer, buffer_span(&w->pending), false, &w->prompt->ids);
    buffer_reset(&w->pending);
    w->too_long = w->too_long || w->prompt->ids.size > TEMPLATE_TOKENS_MAX;
}

void write_special(struct writer *w, enum special which)
{
    const int32_t id = tokenizer_special(w->tokenizer, which);
    flush(w);
    if (id >= 0)
        ids_push(&w->prompt->ids, id);
    else if (w->missing == SPECIAL_COUNT)
        w->missing = which;
}

void write_text(struct writer *w, struct span text)
{
    buffer_append(&w->pending, text.data, text.size);
}

void write_ours(struct writer *w, const char *text)
{
    write_text(w, span_text(text));
}

void write_quoted(struct writer *w, struct span text)
{
    write_special(w, SPECIAL_QUOTE);
    write_text(w, text);
    write_special(w, SPECIAL_QUOTE);
}

void write_cut(struct writer *w)
{
    struct ids *cuts = &w->prompt->cuts;
    flush(w);
    const size_t at = w->prompt->ids.size;
    if (at <= TEMPLATE_TOKENS_MAX && (cuts->size == 0 || cuts->data[cuts->size - 1] < (int32_t)at))
        ids_push(cuts, (int32_t)at);
}

static const struct {
    enum special begin, slot, end;
} marks[] = {
    // clang-format off
    [MEDIA_IMAGE] = {SPECIAL_IMAGE_BEGIN, SPECIAL_IMAGE, SPECIAL_IMAGE_END},
    [MEDIA_VIDEO] = {SPECIAL_IMAGE_BEGIN, SPECIAL_VIDEO, SPECIAL_IMAGE_END},
    [MEDIA_AUDIO] = {SPECIAL_AUDIO_BEGIN, SPECIAL_AUDIO, SPECIAL_AUDIO_END},
    // clang-format on
};

/* One run of slots between its marks. */
static void write_slots(struct writer *w, enum media_kind kind, size_t slots, size_t medium)
{
    struct prompt *prompt = w->prompt;
    write_special(w, marks[kind].begin);
    w->too_long = w->too_long || slots > TEMPLATE_TOKENS_MAX;
    if (w->too_long)
        return;
    prompt->spans = heap_resize(prompt->spans, prompt->n_spans + 1, sizeof(prompt->spans[0]));
    prompt->spans[prompt->n_spans++] = (struct soft_span){prompt->ids.size, slots, kind, medium};
    for (size_t i = 0; i < slots && !w->too_long; i++)
        write_special(w, marks[kind].slot);
    write_special(w, marks[kind].end);
}

static bool write_video(struct writer *w, const struct chat_medium *video, size_t medium,
                        struct status *st)
{
    if (video->n_frames == 0)
        return status_fail(st, STATUS_INVALID, "medium %zu: a video without frames", medium);
    for (size_t i = 0; i < video->n_frames; i++) {
        if (i > 0)
            write_ours(w, " ");
        write_text(w, video->times[i]);
        write_ours(w, " ");
        write_slots(w, MEDIA_VIDEO, video->tokens, medium);
    }
    for (size_t i = 0; i < video->n_sounds; i++)
        write_slots(w, MEDIA_AUDIO, video->sounds[i], medium);
    return true;
}

bool write_medium(struct writer *w, enum media_kind kind, size_t medium, struct status *st)
{
    if (w->media != NULL && medium >= w->n_media)
        return status_fail(st, STATUS_INVALID, "medium %zu of %zu", medium, w->n_media);
    if (w->media == NULL || w->media[medium].tokens == 0) {
        write_special(w, marks[kind].slot);
        return true;
    }
    if (kind != MEDIA_VIDEO)
        write_slots(w, kind, w->media[medium].tokens, medium);
    else if (!write_video(w, &w->media[medium], medium, st))
        return false;
    write_cut(w);
    return true;
}

/* Every medium has its spans, in order: whoever fills the slots counts on it. */
static bool check_media(const struct writer *w, struct status *st)
{
    size_t n = 0;
    for (size_t i = 0; w->media != NULL && i < w->n_media; i++) {
        if (w->media[i].tokens == 0)
            continue;
        if (n == w->prompt->n_spans || w->prompt->spans[n].medium != i)
            return status_fail(st, STATUS_INVALID,
                               "messages: medium %zu is at a place that is not shown", i);
        while (n < w->prompt->n_spans && w->prompt->spans[n].medium == i)
            n++;
    }
    return true;
}

bool writer_end(struct writer *w, struct status *st)
{
    flush(w);
    if (w->missing != SPECIAL_COUNT)
        return status_fail(st, STATUS_UNSUPPORTED, "the vocabulary has not the control token %s",
                           tokenizer_special_name(w->missing));
    if (w->too_long)
        return status_fail(st, STATUS_LIMIT, "prompt of more than %zu tokens", TEMPLATE_TOKENS_MAX);
    return check_media(w, st);
}

void write_members(struct writer *w, const struct json_value *object, bool quoted_keys)
{
    const struct json_value **sorted = heap_array(const struct json_value *, object->n);
    json_text_sorted(object, sorted);
    for (size_t i = 0; i < object->n; i++) {
        if (i > 0)
            write_ours(w, ",");
        if (quoted_keys)
            write_quoted(w, sorted[i]->name);
        else
            write_text(w, sorted[i]->name);
        write_ours(w, ":");
        write_value(w, sorted[i], quoted_keys);
    }
    heap_free(sorted);
}

void write_value(struct writer *w, const struct json_value *value, bool quoted_keys)
{
    switch (value->kind) {
    case JSON_TEXT_NULL:
        write_ours(w, "null");
        return;
    case JSON_TEXT_FALSE:
        write_ours(w, "false");
        return;
    case JSON_TEXT_TRUE:
        write_ours(w, "true");
        return;
    case JSON_TEXT_NUMBER:
        json_text_number(value->text, &w->pending);
        return;
    case JSON_TEXT_STRING:
        write_quoted(w, value->text);
        return;
    case JSON_TEXT_OBJECT:
        write_ours(w, "{");
        write_members(w, value, quoted_keys);
        write_ours(w, "}");
        return;
    case JSON_TEXT_ARRAY:
        write_ours(w, "[");
        for (const struct json_value *at = value->first; at != NULL; at = at->next) {
            write_value(w, at, quoted_keys);
            if (at->next != NULL)
                write_ours(w, ",");
        }
        write_ours(w, "]");
        return;
    }
}
