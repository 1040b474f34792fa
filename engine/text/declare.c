#include "engine/text/declare.h"
#include "engine/base/heap.h"
#include "engine/text/unicode.h"
#include <string.h>

static bool declare_properties(struct writer *w, const struct json_value *object, bool filtered,
                               struct status *st);

/* ---- values as Python's str() writes them ---- */

/* A text within a list: quoted as repr() does. Characters that are not printable are escaped only
 * among the controls. */
static void python_repr_text(struct span text, struct buffer *out)
{
    const bool single = text.size > 0 && memchr(text.data, '\'', text.size) != NULL;
    const bool both = single && memchr(text.data, '"', text.size) != NULL;
    const uint8_t quote = single && !both ? '"' : '\'';
    buffer_append_byte(out, quote);
    for (size_t i = 0; i < text.size; i++) {
        const uint8_t c = text.data[i];
        if (c == '\\' || c == quote)
            buffer_printf(out, "\\%c", c);
        else if (c == '\n' || c == '\r' || c == '\t')
            buffer_append_text(out, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
        else if (c < 0x20 || c == 0x7f)
            buffer_printf(out, "\\x%02x", (unsigned)c);
        else
            buffer_append_byte(out, c);
    }
    buffer_append_byte(out, quote);
}

static void python_str(const struct json_value *value, bool within, struct buffer *out)
{
    const bool object = value->kind == JSON_TEXT_OBJECT;
    switch (value->kind) {
    case JSON_TEXT_NULL:
        buffer_append_text(out, "None");
        return;
    case JSON_TEXT_FALSE:
        buffer_append_text(out, "False");
        return;
    case JSON_TEXT_TRUE:
        buffer_append_text(out, "True");
        return;
    case JSON_TEXT_NUMBER:
        json_text_number(value->text, out);
        return;
    case JSON_TEXT_STRING:
        if (within)
            python_repr_text(value->text, out);
        else
            buffer_append(out, value->text.data, value->text.size);
        return;
    case JSON_TEXT_ARRAY:
    case JSON_TEXT_OBJECT:
        break;
    }
    buffer_append_byte(out, object ? '{' : '[');
    for (const struct json_value *at = value->first; at != NULL; at = at->next) {
        if (object) {
            python_repr_text(at->name, out);
            buffer_append_text(out, ": ");
        }
        python_str(at, true, out);
        if (at->next != NULL)
            buffer_append_text(out, ", ");
    }
    buffer_append_byte(out, object ? '}' : ']');
}

static void write_str(struct writer *w, const struct json_value *value)
{
    struct buffer text = {0};
    python_str(value, false, &text);
    write_quoted(w, buffer_span(&text));
    buffer_clear(&text);
}

/* str(value).upper(); nothing for a member that is not there. */
static void upper_str(const struct json_value *value, struct buffer *out)
{
    struct buffer text = {0};
    if (value != NULL)
        python_str(value, false, &text);
    for (size_t at = 0; at < text.size;) {
        uint32_t code_point = 0;
        uint8_t bytes[4];
        at += utf8_decode(text.data + at, text.size - at, &code_point);
        buffer_append(out, bytes, utf8_encode(unicode_upper(code_point), bytes));
    }
    buffer_clear(&text);
}

static void write_upper(struct writer *w, const struct json_value *value)
{
    struct buffer text = {0};
    upper_str(value, &text);
    write_quoted(w, buffer_span(&text));
    buffer_clear(&text);
}

/* ---- declarations ---- */

static bool refuse(struct status *st, struct span name, const char *why)
{
    const int size = (int)(name.size < 60 ? name.size : 60);
    return status_fail(st, STATUS_INVALID, "%.*s: %s", size, (const char *)name.data, why);
}

static bool within(struct status *st, struct span name)
{
    const int size = (int)(name.size < 60 ? name.size : 60);
    return status_wrap(st, "%.*s", size, (const char *)name.data);
}

static void comma(struct writer *w, bool *any)
{
    if (*any)
        write_ours(w, ",");
    *any = true;
}

static bool declare_required(struct writer *w, const struct json_value *list, struct status *st)
{
    if (list->kind != JSON_TEXT_ARRAY)
        return refuse(st, list->name, "not a list");
    write_ours(w, "required:[");
    for (const struct json_value *at = list->first; at != NULL; at = at->next) {
        write_str(w, at);
        if (at->next != NULL)
            write_ours(w, ",");
    }
    write_ours(w, "]");
    return true;
}

static bool declare_item_type(struct writer *w, const struct json_value *type, struct status *st)
{
    write_ours(w, "type:");
    if (type->kind == JSON_TEXT_STRING) {
        write_upper(w, type);
        return true;
    }
    if (type->kind != JSON_TEXT_ARRAY)
        return refuse(st, type->name, "neither a text nor a list");
    write_ours(w, "[");
    for (const struct json_value *at = type->first; at != NULL; at = at->next) {
        write_upper(w, at);
        if (at->next != NULL)
            write_ours(w, ",");
    }
    write_ours(w, "]");
    return true;
}

static bool declare_item(struct writer *w, const struct json_value *member, struct status *st)
{
    if (span_is(member->name, "properties")) {
        write_ours(w, "properties:{");
        if (member->kind == JSON_TEXT_OBJECT && !declare_properties(w, member, false, st))
            return false;
        write_ours(w, "}");
        return true;
    }
    if (span_is(member->name, "required"))
        return declare_required(w, member, st);
    if (span_is(member->name, "type"))
        return declare_item_type(w, member, st);
    write_text(w, member->name);
    write_ours(w, ":");
    write_value(w, member, true);
    return true;
}

static bool declare_items(struct writer *w, const struct json_value *items, struct status *st)
{
    const struct json_value **sorted = heap_array(const struct json_value *, items->n);
    bool any = false;
    bool ok = true;
    json_text_sorted(items, sorted);
    write_ours(w, "items:{");
    for (size_t i = 0; i < items->n && ok; i++) {
        if (sorted[i]->kind == JSON_TEXT_NULL)
            continue;
        comma(w, &any);
        ok = declare_item(w, sorted[i], st);
    }
    write_ours(w, "}");
    heap_free(sorted);
    return ok || within(st, items->name);
}

static bool declare_object(struct writer *w, const struct json_value *value, bool *any,
                           struct status *st)
{
    const struct json_value *properties = json_text_get(value, "properties");
    const struct json_value *required = json_text_get(value, "required");
    comma(w, any);
    write_ours(w, "properties:{");
    if (properties != NULL && properties->kind == JSON_TEXT_OBJECT) {
        if (!declare_properties(w, properties, false, st))
            return false;
    } else if (!declare_properties(w, value, true, st)) {
        return false;
    }
    write_ours(w, "}");
    if (!json_text_truth(required))
        return true;
    comma(w, any);
    return declare_required(w, required, st);
}

/* One property. A value that is no object has none of the members, and so an empty type. */
static bool declare_property(struct writer *w, const struct json_value *value, struct status *st)
{
    const struct json_value *description = json_text_get(value, "description");
    const struct json_value *type = json_text_get(value, "type");
    const struct json_value *listed = json_text_get(value, "enum");
    const struct json_value *items = json_text_get(value, "items");
    struct buffer upper = {0};
    bool any = false;
    bool ok = true;
    upper_str(type, &upper);
    const struct span kind = buffer_span(&upper);
    write_text(w, value->name);
    write_ours(w, ":{");
    if (json_text_truth(description)) {
        comma(w, &any);
        write_ours(w, "description:");
        write_str(w, description);
    }
    if (span_is(kind, "STRING") && json_text_truth(listed)) {
        comma(w, &any);
        write_ours(w, "enum:");
        write_value(w, listed, true);
    }
    if (span_is(kind, "ARRAY") && json_text_truth(items) && items->kind == JSON_TEXT_OBJECT) {
        comma(w, &any);
        ok = declare_items(w, items, st);
    }
    if (json_text_truth(json_text_get(value, "nullable"))) {
        comma(w, &any);
        write_ours(w, "nullable:true");
    }
    if (ok && span_is(kind, "OBJECT"))
        ok = declare_object(w, value, &any, st);
    comma(w, &any);
    write_ours(w, "type:");
    write_quoted(w, kind);
    write_ours(w, "}");
    buffer_clear(&upper);
    return ok || within(st, value->name);
}

static bool is_standard(struct span name)
{
    return span_is(name, "description") || span_is(name, "type") || span_is(name, "properties") ||
           span_is(name, "required") || span_is(name, "nullable");
}

/* The members of an object, sorted; filtered: without those that describe the object itself. */
static bool declare_properties(struct writer *w, const struct json_value *object, bool filtered,
                               struct status *st)
{
    if (object->kind != JSON_TEXT_OBJECT)
        return refuse(st, object->name, "not an object");
    const struct json_value **sorted = heap_array(const struct json_value *, object->n);
    bool any = false;
    bool ok = true;
    json_text_sorted(object, sorted);
    for (size_t i = 0; i < object->n && ok; i++) {
        if (filtered && is_standard(sorted[i]->name))
            continue;
        comma(w, &any);
        ok = declare_property(w, sorted[i], st);
    }
    heap_free(sorted);
    return ok || filtered || within(st, object->name);
}

static bool declare_parameters(struct writer *w, const struct json_value *parameters,
                               struct status *st)
{
    const struct json_value *properties = json_text_get(parameters, "properties");
    const struct json_value *required = json_text_get(parameters, "required");
    const struct json_value *type = json_text_get(parameters, "type");
    if (!json_text_truth(parameters))
        return true;
    if (parameters->kind != JSON_TEXT_OBJECT)
        return refuse(st, parameters->name, "not an object");
    write_ours(w, ",parameters:{");
    if (json_text_truth(properties)) {
        write_ours(w, "properties:{");
        if (!declare_properties(w, properties, false, st))
            return within(st, parameters->name);
        write_ours(w, "},");
    }
    if (json_text_truth(required)) {
        if (!declare_required(w, required, st))
            return within(st, parameters->name);
        write_ours(w, ",");
    }
    /* The closing brace belongs to the type: so has the template it. */
    if (json_text_truth(type)) {
        write_ours(w, "type:");
        write_upper(w, type);
        write_ours(w, "}");
    }
    return true;
}

static void declare_response(struct writer *w, const struct json_value *response)
{
    const struct json_value *description = json_text_get(response, "description");
    struct buffer upper = {0};
    upper_str(json_text_get(response, "type"), &upper);
    write_ours(w, ",response:{");
    if (json_text_truth(description)) {
        write_ours(w, "description:");
        write_str(w, description);
        write_ours(w, ",");
    }
    if (span_is(buffer_span(&upper), "OBJECT")) {
        write_ours(w, "type:");
        write_quoted(w, buffer_span(&upper));
        write_ours(w, "}");
    }
    buffer_clear(&upper);
}

static bool declare_tool(struct writer *w, const struct json_value *tool, struct status *st)
{
    const struct json_value *function = json_text_get(tool, "function");
    const struct json_value *name = json_text_get(function, "name");
    const struct json_value *description = json_text_get(function, "description");
    const struct json_value *response = json_text_get(function, "response");
    if (function == NULL || function->kind != JSON_TEXT_OBJECT)
        return status_fail(st, STATUS_INVALID, "function: missing, or not an object");
    if (name == NULL || name->kind != JSON_TEXT_STRING || name->text.size == 0)
        return status_fail(st, STATUS_INVALID, "function: name: missing, or not a text");
    write_special(w, SPECIAL_TOOL);
    write_ours(w, "declaration:");
    write_text(w, name->text);
    write_ours(w, "{description:");
    if (description == NULL || description->kind == JSON_TEXT_NULL)
        write_quoted(w, span_of(NULL, 0));
    else
        write_str(w, description);
    if (!declare_parameters(w, json_text_get(function, "parameters"), st))
        return within(st, function->name);
    if (response != NULL)
        declare_response(w, response);
    write_ours(w, "}");
    write_special(w, SPECIAL_TOOL_END);
    return true;
}

bool declare_tools(struct writer *w, const struct json_value *tools, struct status *st)
{
    size_t n = 0;
    if (tools->kind != JSON_TEXT_ARRAY)
        return status_fail(st, STATUS_INVALID, "tools: not a list");
    for (const struct json_value *at = tools->first; at != NULL; at = at->next, n++)
        if (!declare_tool(w, at, st))
            return status_wrap(st, "tools[%zu]", n);
    return true;
}
