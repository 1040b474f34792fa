/* What a socket brings: a head, the turns of a chat, and values by their keys. The first byte says
 * which. What is accepted must come out the same when it is packed and read again. */
#include "proto/check.h"
#include "proto/codec.h"
#include "tests/fuzz/model.h"
#include <string.h>

static void try_head(struct span bytes)
{
    static struct head head, again;
    struct buffer packed = {0};
    struct status st = {0};
    int64_t number;
    double value;
    struct span text, texts[4];

    if (!head_unpack(&head, bytes, &st))
        return;
    head_pack(&head, &packed);
    fuzz_must(head_unpack(&again, buffer_span(&packed), &st));
    fuzz_must(again.kind == head.kind && again.n_blobs == head.n_blobs &&
              again.n_running == head.n_running);
    fuzz_must(again.fields.size == head.fields.size &&
              (head.fields.size == 0 ||
               memcmp(again.fields.data, head.fields.data, head.fields.size) == 0));
    if (head.fields.size > 0) {
        (void)field_int(head.fields, "max_tokens", &number);
        (void)field_float(head.fields, "temperature", &value);
        (void)field_text(head.fields, "model", &text);
        (void)field_texts(head.fields, "stop", texts, 4);
    }
    buffer_clear(&packed);
}

static void try_turns(struct span bytes)
{
    struct turns turns = {0}, again = {0};
    struct buffer packed = {0};
    struct status st = {0};

    if (!turns_unpack(&turns, bytes, &st))
        return;
    turns_pack(&turns, &packed);
    fuzz_must(turns_unpack(&again, buffer_span(&packed), &st));
    fuzz_must(again.n == turns.n);
    for (size_t i = 0; i < turns.n; i++)
        fuzz_must(again.items[i].n_parts == turns.items[i].n_parts &&
                  again.items[i].n_calls == turns.items[i].n_calls);
    turns_clear(&turns);
    turns_clear(&again);
    buffer_clear(&packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct status st = {0};

    if (size == 0)
        return 0;
    struct span rest = span_of(data + 1, size - 1);
    (void)check_msgpack(rest, CHECK_NODES_MAX, &st);
    if (data[0] % 2 == 0)
        try_head(rest);
    else
        try_turns(rest);
    return 0;
}
