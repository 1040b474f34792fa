/* Files of JSON lines: tokenizer, detokenizer and reader of the model's output, on the vocabulary
 * that lies beside them. */
#include "services/millrace/conform/lines.h"
#include "engine/base/clock.h"
#include "engine/base/heap.h"
#include "engine/text/json_text.h"
#include "engine/text/parse.h"
#include "engine/text/tokenizer.h"
#include "services/millrace/conform/conform.h"
#include <dirent.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX ((size_t)256 << 20)

/* ------------------------------------------------------------------ comparing */

bool line_ids(const struct json_value *list, struct ids *out)
{
    for (const struct json_value *v = list ? list->first : NULL; v; v = v->next) {
        char text[16] = "";
        if (v->kind != JSON_TEXT_NUMBER || v->text.size >= sizeof text)
            return false;
        memcpy(text, v->text.data, v->text.size);
        ids_push(out, (int32_t)strtol(text, NULL, 10));
    }
    return list != NULL;
}

bool line_same_ids(struct line_case *c, const struct ids *got)
{
    struct ids wanted = {0};
    bool ok = line_ids(json_text_get(c->root, "ids"), &wanted);
    size_t same = 0;

    while (ok && same < got->size && same < wanted.size && got->data[same] == wanted.data[same])
        same++;
    ok = ok && same == got->size && same == wanted.size;
    if (!ok)
        line_fail(c, "ids differ from number %zu on (%zu, expected %zu)", same, got->size,
                  wanted.size);
    ids_clear(&wanted);
    return ok;
}

bool line_same_text(struct line_case *c, const char *what, struct span got,
                    const struct json_value *wanted)
{
    if (!wanted || wanted->kind != JSON_TEXT_STRING)
        line_fail(c, "%s is missing", what);
    else if (!span_equal(got, wanted->text))
        line_fail(c, "%s is '%.*s', expected '%.*s'", what, (int)(got.size < 80 ? got.size : 80),
                  (const char *)got.data, (int)(wanted->text.size < 80 ? wanted->text.size : 80),
                  (const char *)wanted->text.data);
    else
        return true;
    return false;
}

static struct span text_of(const struct json_value *object, const char *name)
{
    const struct json_value *value = json_text_get(object, name);

    return value && value->kind == JSON_TEXT_STRING ? value->text : span_of(NULL, 0);
}

/* ------------------------------------------------------------------ kinds */

static void run_encode(struct line_case *c)
{
    struct ids got = {0};

    tokenizer_encode(c->tokenizer, text_of(c->root, "text"), c->specials, &got);
    (void)line_same_ids(c, &got);
    ids_clear(&got);
}

/* The ids of the line that the vocabulary has; any other is a failure. */
static void read_ids(struct line_case *c, struct ids *out)
{
    struct ids all = {0};

    if (!line_ids(json_text_get(c->root, "ids"), &all))
        line_fail(c, "ids are missing");
    for (size_t i = 0; i < all.size; i++)
        if (all.data[i] >= 0 && (size_t)all.data[i] < tokenizer_size(c->tokenizer))
            ids_push(out, all.data[i]);
        else
            line_fail(c, "id %d is not in the vocabulary", all.data[i]);
    ids_clear(&all);
}

static void detokenize(struct line_case *c, const struct ids *ids, bool show, const char *key,
                       const struct json_value *steps)
{
    struct detokenizer d = {0};
    struct buffer out = {0};
    const struct json_value *step = steps ? steps->first : NULL;

    for (size_t i = 0; i < ids->size; i++) {
        size_t before = out.size;
        detokenizer_push(&d, c->tokenizer, ids->data[i], show, &out);
        if (steps &&
            !line_same_text(c, "a step", span_of(out.data + before, out.size - before), step))
            break;
        step = step ? step->next : NULL;
    }
    if (step)
        line_fail(c, "more steps than ids");
    size_t before = out.size;
    detokenizer_end(&d, &out);
    if (steps && json_text_get(c->root, "tail"))
        (void)line_same_text(c, "tail", span_of(out.data + before, out.size - before),
                             json_text_get(c->root, "tail"));
    (void)line_same_text(c, key, buffer_span(&out), json_text_get(c->root, key));
    buffer_clear(&out);
}

static void run_detokenize(struct line_case *c)
{
    struct ids ids = {0};

    read_ids(c, &ids);
    if (json_text_get(c->root, "text"))
        detokenize(c, &ids, true, "text", NULL);
    detokenize(c, &ids, false, "text_without_special", json_text_get(c->root, "steps"));
    ids_clear(&ids);
}

/* All that a reader said; a call as its name, a tab, its arguments and a newline. What it says is
 * never empty and never half a character. */
struct heard {
    struct line_case *line;
    struct buffer content, reasoning, calls;
};

static void add_call(struct buffer *out, struct span name, struct span arguments)
{
    buffer_append(out, name.data, name.size);
    buffer_append_byte(out, '\t');
    buffer_append(out, arguments.data, arguments.size);
    buffer_append_byte(out, '\n');
}

static void hear(void *context, const struct parse_event *event)
{
    struct heard *heard = context;

    if (event->text.size == 0 ||
        utf8_valid_prefix(event->text.data, event->text.size) != event->text.size)
        line_fail(heard->line, "an event without text, or with half a character");
    if (event->kind == PARSE_CALL)
        add_call(&heard->calls, event->name, event->text);
    else
        buffer_append(event->kind == PARSE_CONTENT ? &heard->content : &heard->reasoning,
                      event->text.data, event->text.size);
}

/* Compared as text: numbers keep their spelling. */
static void same_calls(struct line_case *c, const struct buffer *got, size_t n,
                       const struct json_value *wanted)
{
    struct buffer all = {0};
    struct buffer arguments = {0};

    for (const struct json_value *v = wanted ? wanted->first : NULL; v; v = v->next) {
        buffer_reset(&arguments);
        if (json_text_get(v, "arguments"))
            json_text_write(json_text_get(v, "arguments"), &arguments);
        add_call(&all, text_of(v, "name"), buffer_span(&arguments));
    }
    if (!wanted || n != wanted->n)
        line_fail(c, "%zu tool calls, expected %zu", n, wanted ? wanted->n : 0);
    if (!span_equal(buffer_span(got), buffer_span(&all)))
        line_fail(c, "tool calls are '%.*s', expected '%.*s'", (int)got->size,
                  (const char *)got->data, (int)all.size, (const char *)all.data);
    buffer_clear(&all);
    buffer_clear(&arguments);
}

static void run_parse(struct line_case *c)
{
    const struct json_value *expect = json_text_get(c->root, "expect");
    struct ids ids = {0};
    struct heard heard = {.line = c};
    struct parse *p = parse_new(c->tokenizer, span_is(text_of(c->root, "start_state"), "THOUGHT"));

    read_ids(c, &ids);
    for (size_t i = 0; i < ids.size; i++)
        parse_push(p, ids.data[i], hear, &heard);
    parse_end(p, hear, &heard);
    (void)line_same_text(c, "content", buffer_span(&heard.content),
                         json_text_get(expect, "content"));
    (void)line_same_text(c, "reasoning", buffer_span(&heard.reasoning),
                         json_text_get(expect, "reasoning"));
    (void)line_same_text(c, "finish", span_text(parse_finish(p)), json_text_get(expect, "finish"));
    same_calls(c, &heard.calls, parse_calls(p), json_text_get(expect, "tool_calls"));
    parse_free(p);
    ids_clear(&ids);
    buffer_clear(&heard.content);
    buffer_clear(&heard.reasoning);
    buffer_clear(&heard.calls);
}

static const struct {
    const char *member; /* that only lines of this kind have */
    void (*run)(struct line_case *c);
} kinds[] = {
    {"messages", line_chat},
    {"start_state", run_parse},
    {"steps", run_detokenize},
    {"text", run_encode},
};

/* ------------------------------------------------------------------ a file */

/* The vocabulary beside the lines: a GGUF file of a model's architecture without tensors. */
static bool find_vocabulary(const char *folder, struct tokenizer **out, struct status *st)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    bool found = false;

    while (dir && !found && (entry = readdir(dir))) {
        char path[2 * CONFORM_PATH_MAX];
        struct weights *w = NULL;
        size_t n = strlen(entry->d_name);
        if (n < 5 || strcmp(entry->d_name + n - 5, ".gguf") != 0)
            continue;
        (void)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (!weights_open(&w, path, st))
            continue;
        if (weights_tensors(w) == 0 && weights_has(w, "tokenizer.ggml.tokens"))
            found = tokenizer_new(out, w, st);
        weights_close(w);
    }
    if (dir)
        (void)closedir(dir);
    return found || status_fail(st, STATUS_NOT_FOUND,
                                "no vocabulary (a GGUF file without tensors) beside the lines");
}

static void run_line(struct line_case *c, struct span line)
{
    struct json_text json = {0};
    struct status st = {0};

    if (!json_text_init(&json, line, &st)) {
        line_fail(c, "%s", st.text);
        return;
    }
    c->root = json.root;
    size_t i = 0;
    while (i < sizeof kinds / sizeof *kinds && !json_text_get(json.root, kinds[i].member))
        i++;
    if (i < sizeof kinds / sizeof *kinds)
        kinds[i].run(c);
    else
        line_fail(c, "unknown kind of case");
    json_text_clear(&json);
}

static void run_all(struct conform_case *c, const struct buffer *text, struct line_case *line)
{
    size_t failed = 0;
    size_t number = 0;

    for (size_t at = 0; at < text->size;) {
        const uint8_t *end = memchr(text->data + at, '\n', text->size - at);
        size_t size = end ? (size_t)(end - text->data) - at : text->size - at;
        line->why[0] = 0;
        number++;
        run_line(line, span_of(text->data + at, size));
        failed += line->why[0] != 0;
        if (line->why[0])
            conform_fail(c, "line %zu: %s", number, line->why);
        at += size + 1;
    }
    if (number == 0)
        conform_fail(c, "no lines");
    (void)snprintf(c->where, sizeof c->where, "%zu lines", number);
    if (failed > 1) {
        char first[sizeof c->why];
        memcpy(first, c->why, sizeof first);
        (void)snprintf(c->why, sizeof c->why, "%zu of %zu lines; %.180s", failed, number, first);
    }
}

void conform_lines(struct conform *run, const char *path)
{
    struct conform_case *c = heap_new(1, sizeof *c);
    struct line_case line = {0};
    struct buffer text = {0};
    struct status st = {0};
    struct tokenizer *tokenizer = NULL;
    char copy[CONFORM_PATH_MAX];
    int64_t begun_us = clock_now_us();

    c->run = run;
    (void)snprintf(copy, sizeof copy, "%s", path);
    (void)snprintf(c->name, sizeof c->name, "%.*s",
                   (int)(strlen(basename(copy)) - strlen(".jsonl")), basename(copy));
    if (conform_skips(run, c->name)) {
        run->skipped++;
        (void)printf("skipped %s\n", c->name);
        heap_free(c);
        return;
    }
    (void)snprintf(copy, sizeof copy, "%s", path);
    if (find_vocabulary(dirname(copy), &tokenizer, &st) &&
        bytes_read_file(&text, path, FILE_BYTES_MAX, &st)) {
        line.tokenizer = tokenizer;
        line.specials = strstr(c->name, "special") != NULL;
        run_all(c, &text, &line);
    } else {
        conform_fail(c, "%s", st.text);
    }
    conform_report(c, (double)(clock_now_us() - begun_us) / 1000);
    buffer_clear(&text);
    tokenizer_free(tokenizer);
    heap_free(c);
}
