/* What a model writes, ids that the bytes stand for (two each; above 0x8000 a control token), to
 * thought, answer and calls; then the same bytes as a text to ids and back. What is given out must
 * be UTF-8, and a call's arguments JSON. */
#include "engine/text/json_text.h"
#include "engine/text/parse.h"
#include "engine/weights/weights.h"
#include "tests/fuzz/model.h"
#include <stdio.h>
#include <stdlib.h>

static const struct tokenizer *vocabulary(void)
{
    static struct tokenizer *t;
    struct weights *w = NULL;
    struct status st = {0};

    if (t)
        return t;
    if (!weights_open(&w, "tests/golden/text/vocabulary.gguf", &st) || !tokenizer_new(&t, w, &st)) {
        (void)fprintf(stderr, "%s\n", st.text);
        exit(2);
    }
    weights_close(w);
    return t;
}

static void sink(void *context, const struct parse_event *event)
{
    size_t *calls = context;

    fuzz_must(utf8_valid_prefix(event->text.data, event->text.size) == event->text.size);
    if (event->kind != PARSE_CALL)
        return;
    struct json_text json = {0};
    struct status st = {0};
    fuzz_must(utf8_valid_prefix(event->name.data, event->name.size) == event->name.size);
    fuzz_must(json_text_init(&json, event->text, &st));
    fuzz_must(json.root->kind == JSON_TEXT_OBJECT);
    json_text_clear(&json);
    ++*calls;
}

static int32_t id_of(const struct tokenizer *t, unsigned number)
{
    if (number < 0x8000)
        return (int32_t)(number % tokenizer_size(t));
    return tokenizer_special(t, (enum special)(number % SPECIAL_COUNT));
}

static void read_answer(const struct tokenizer *t, const uint8_t *data, size_t size)
{
    struct parse *p = parse_new(t, data[0] & 1);
    size_t calls = 0;

    for (size_t i = 1; i + 2 <= size; i += 2) {
        int32_t id = id_of(t, (unsigned)data[i] << 8 | data[i + 1]);
        if (id >= 0)
            parse_push(p, id, sink, &calls);
    }
    parse_end(p, sink, &calls);
    fuzz_must(parse_calls(p) == calls && parse_finish(p)[0] != '\0');
    parse_free(p);
}

static void there_and_back(const struct tokenizer *t, struct span text, bool specials)
{
    struct ids ids = {0};
    struct detokenizer d = {0};
    struct buffer out = {0};

    tokenizer_encode(t, text, specials, &ids);
    fuzz_must(ids.size <= text.size);
    for (size_t i = 0; i < ids.size; i++)
        detokenizer_push(&d, t, ids.data[i], true, &out);
    detokenizer_end(&d, &out);
    fuzz_must(utf8_valid_prefix(out.data, out.size) == out.size);
    ids_clear(&ids);
    buffer_clear(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct tokenizer *t = vocabulary();

    if (size == 0)
        return 0;
    read_answer(t, data, size);
    there_and_back(t, span_of(data + 1, size - 1), data[0] & 2);
    return 0;
}
