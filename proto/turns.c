#include "engine/base/heap.h"
#include "proto/check.h"
#include "proto/codec.h"
#include "proto/values.h"
#include <string.h>

/* role, list, parts, calls, three texts with their keys; parts of 3 nodes, calls of 4. */
#define TURNS_NODES_MAX (TURNS_MESSAGES_MAX * 16 + TURNS_PARTS_MAX * 7)

static const char *const role_names[] = {[TURN_SYSTEM] = "system",
                                         [TURN_USER] = "user",
                                         [TURN_ASSISTANT] = "assistant",
                                         [TURN_TOOL] = "tool"};
#define ROLES (sizeof role_names / sizeof *role_names)

static const char *const part_names[] = {
    [TURN_TEXT] = "text", [TURN_IMAGE] = "image", [TURN_VIDEO] = "video", [TURN_AUDIO] = "audio"};
#define PART_KINDS (sizeof part_names / sizeof *part_names)

static void put_turn(struct buffer *out, const struct turn *turn)
{
    const struct {
        const char *key;
        struct span text;
    } texts[] = {
        {"reasoning", turn->reasoning}, {"tool_call_id", turn->tool_call_id}, {"name", turn->name}};
    size_t n = 3 + (turn->n_calls > 0);

    for (size_t i = 0; i < 3; i++)
        n += texts[i].text.data != NULL;
    value_put_map(out, n);
    value_put_text(out, span_text("role"));
    value_put_text(out, span_text(role_names[turn->role]));
    value_put_text(out, span_text("list"));
    value_put_bool(out, turn->is_list);
    value_put_text(out, span_text("parts"));
    value_put_array(out, turn->n_parts);
    for (size_t i = 0; i < turn->n_parts; i++) {
        bool is_words = turn->parts[i].kind == TURN_TEXT;
        value_put_array(out, is_words ? 2 : 1);
        value_put_text(out, span_text(part_names[turn->parts[i].kind]));
        if (is_words)
            value_put_text(out, turn->parts[i].text);
    }
    if (turn->n_calls > 0) {
        value_put_text(out, span_text("calls"));
        value_put_array(out, turn->n_calls);
    }
    for (size_t i = 0; i < turn->n_calls; i++) {
        value_put_array(out, 3);
        value_put_text(out, turn->calls[i].id);
        value_put_text(out, turn->calls[i].name);
        value_put_text(out, turn->calls[i].arguments);
    }
    for (size_t i = 0; i < 3; i++) {
        if (!texts[i].text.data)
            continue;
        value_put_text(out, span_text(texts[i].key));
        value_put_text(out, texts[i].text);
    }
}

void turns_pack(const struct turns *turns, struct buffer *out)
{
    value_put_array(out, turns->n);
    for (size_t i = 0; i < turns->n; i++)
        put_turn(out, &turns->items[i]);
}

static bool take_part(struct turn_part *out, const struct value *value, struct status *st)
{
    size_t n = value->type == VALUE_ARRAY ? value->n : 0;

    if (n < 1 || n > 2)
        return status_fail(st, STATUS_INVALID, "not [kind] or [kind, text]");
    struct value name = value_item(value, 0);
    struct value text = n == 2 ? value_item(value, 1) : (struct value){.type = VALUE_NIL};
    size_t kind;
    if (!value_name(&kind, &name, part_names, PART_KINDS, st))
        return status_wrap(st, "kind");
    if (n != (kind == TURN_TEXT ? 2U : 1U) || (n == 2 && !value_is_text(&text)))
        return status_fail(st, STATUS_INVALID, "a text belongs to kind text, and only there");
    out->kind = (enum turn_part_kind)kind;
    out->text = text.bytes;
    return true;
}

static bool take_call(struct turn_call *out, const struct value *value, struct status *st)
{
    struct span *const texts[] = {&out->id, &out->name, &out->arguments};

    if (value->type != VALUE_ARRAY || value->n != 3)
        return status_fail(st, STATUS_INVALID, "not three texts");
    for (size_t i = 0; i < 3; i++) {
        struct value text = value_item(value, i);
        if (!value_is_text(&text))
            return status_fail(st, STATUS_INVALID, "not three texts");
        *texts[i] = text.bytes;
    }
    return true;
}

/* Parts and calls together count against TURNS_PARTS_MAX: *left. */
static bool take_items(struct turn *out, bool calls, const struct value *value, size_t *left,
                       struct status *st)
{
    if (value->type != VALUE_ARRAY)
        return status_fail(st, STATUS_INVALID, "not an array");
    size_t n = value->n;
    if (n > *left)
        return status_fail(st, STATUS_LIMIT, "more than %d parts and calls", TURNS_PARTS_MAX);
    *left -= n;
    if (calls) {
        out->calls = heap_array(struct turn_call, n);
        out->n_calls = n;
    } else {
        out->parts = heap_array(struct turn_part, n);
        out->n_parts = n;
    }
    for (size_t i = 0; i < n; i++) {
        struct value item = value_item(value, i);
        if (!(calls ? take_call(&out->calls[i], &item, st) : take_part(&out->parts[i], &item, st)))
            return status_wrap(st, "item %zu", i);
    }
    return true;
}

static bool take_turn_entry(struct turn *out, struct span key, const struct value *value,
                            size_t *left, struct status *st)
{
    struct span *text = NULL;

    if (span_is(key, "role")) {
        size_t role;
        if (!value_name(&role, value, role_names, ROLES, st))
            return false;
        out->role = (enum turn_role)role;
        return true;
    }
    if (span_is(key, "list")) {
        if (value->type != VALUE_BOOL)
            return status_fail(st, STATUS_INVALID, "not a boolean");
        out->is_list = value->yes;
        return true;
    }
    if (span_is(key, "parts") || span_is(key, "calls"))
        return take_items(out, key.data[0] == 'c', value, left, st);
    if (span_is(key, "reasoning"))
        text = &out->reasoning;
    else if (span_is(key, "tool_call_id"))
        text = &out->tool_call_id;
    else if (span_is(key, "name"))
        text = &out->name;
    else
        return status_fail(st, STATUS_INVALID, "unknown key");
    if (!value_is_text(value))
        return status_fail(st, STATUS_INVALID, "not a text");
    *text = value->bytes;
    return true;
}

static bool read_turn(struct turn *out, struct reader *reader, size_t *left, struct status *st)
{
    bool has_role = false;
    size_t n;

    if (!reader_open_map(reader, &n))
        return status_fail(st, STATUS_INVALID, "not a map");
    for (size_t i = 0; i < n; i++) {
        struct value name = reader_next(reader);
        struct value value = reader_next(reader);
        struct span key = name.bytes;
        if (!take_turn_entry(out, key, &value, left, st))
            return status_wrap(st, "%.*s", (int)key.size, (const char *)key.data);
        has_role = has_role || span_is(key, "role");
    }
    if (!has_role)
        return status_fail(st, STATUS_INVALID, "'role' is missing");
    return true;
}

bool turns_unpack(struct turns *out, struct span bytes, struct status *st)
{
    struct turns turns = {0};
    struct reader reader;
    size_t left = TURNS_PARTS_MAX;
    size_t n = 0;

    if (!check_msgpack(bytes, TURNS_NODES_MAX, st))
        return status_wrap(st, "turns");
    reader_init(&reader, bytes);
    if (!reader_open_array(&reader, &n) || n > TURNS_MESSAGES_MAX) {
        (void)status_fail(st, STATUS_LIMIT, "not an array of at most %d", TURNS_MESSAGES_MAX);
        goto fail;
    }
    turns.items = heap_array(struct turn, n);
    turns.n = n;
    for (size_t i = 0; i < n; i++) {
        if (!read_turn(&turns.items[i], &reader, &left, st)) {
            (void)status_wrap(st, "message %zu", i);
            goto fail;
        }
        reader_forget(&reader);
    }
    reader_clear(&reader);
    *out = turns;
    return true;
fail:
    reader_clear(&reader);
    turns_clear(&turns);
    return status_wrap(st, "turns");
}

void turns_clear(struct turns *turns)
{
    for (size_t i = 0; i < turns->n; i++) {
        heap_free(turns->items[i].parts);
        heap_free(turns->items[i].calls);
    }
    heap_free(turns->items);
    *turns = (struct turns){0};
}
