"""chat.py - the prompts of the demo model, spelled as the Gemma 4 chat template spells them (thinking off or on).

A sample is a tree: one beginning (a picture, a sound, tool declarations) and several questions about it, each of which
sees the beginning and itself only.  So a picture is paid for once and asked about several times.
"""
QUOTE = '<|"|>'
NO_THOUGHT = '<|channel>thought\n<channel|>'


def system(text='', thinking=False, tools=()):
    """The system turn, or nothing when there is nothing to say in it."""
    if not (text or thinking or tools):
        return ''
    body = ('<|think|>\n' if thinking else '') + text + ''.join(declaration(t) for t in tools)
    return f'<|turn>system\n{body}<turn|>\n'


def open_model(thinking):
    return '<turn|>\n<|turn>model\n' + ('' if thinking else NO_THOUGHT)


def thought(text):
    return f'<|channel>thought\n{text}\n<channel|>'


def string(text):
    return f'{QUOTE}{text}{QUOTE}'


def declaration(tool):
    """tool: dict(name, description, parameters = {name: dict(type, description?, enum?)}, required = [...])."""
    out = f'<|tool>declaration:{tool["name"]}{{description:{string(tool["description"])}'
    if tool['parameters']:
        properties = []
        for name in sorted(tool['parameters'], key=str.lower):
            p = tool['parameters'][name]
            fields = []
            if p.get('description'):
                fields.append('description:' + string(p['description']))
            if p.get('enum') and p['type'] == 'STRING':
                fields.append('enum:[' + ','.join(string(v) for v in p['enum']) + ']')
            fields.append('type:' + string(p['type']))
            properties.append(name + ':{' + ','.join(fields) + '}')
        out += ',parameters:{properties:{' + ','.join(properties) + '},'
        if tool['required']:
            out += 'required:[' + ','.join(string(r) for r in tool['required']) + '],'
        out += f'type:{string("OBJECT")}}}'
    return out + '}<tool|>'


def value(v):
    if isinstance(v, str):
        return string(v)
    return {True: 'true', False: 'false'}[v] if isinstance(v, bool) else repr(v)


def call(name, arguments):
    pairs = ','.join(f'{key}:{value(arguments[key])}' for key in sorted(arguments, key=str.lower))
    return f'<|tool_call>call:{name}{{{pairs}}}<tool_call|>'


def response(name, text):
    return f'<|tool_response>response:{name}{{value:{string(text)}}}<tool_response|>'


class Sample:
    """start: text; after it the media, if there are any; then branches, each (kind, list of (text, is it the model's)).

    A text may be followed by what the extra heads are to know at its last token."""

    def __init__(self, task, start, media=()):
        self.task, self.start, self.media, self.branches = task, start, list(media), []

    def ask(self, question, answer, thinking=False, kind='', earlier=(), named=None):
        """earlier: (question, answer) pairs of the same conversation; named: (words of the question, what the extra
        heads are to know where these words end)."""
        parts = []
        for q, a in earlier:
            parts += [(q + '<turn|>\n<|turn>model\n', False), (a + '<turn|>', True), ('\n<|turn>user\n', False)]
        rest = question + open_model(thinking)
        if named:
            end = rest.rindex(named[0]) + len(named[0])
            parts.append((rest[:end], False, named[1]))
            rest = rest[end:]
        parts += [(rest, False), (answer + '<turn|>', True)]
        self.branches.append((kind or self.task, parts))
