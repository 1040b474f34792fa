"""Port a part of the golden text cases, with a vocabulary cut down to what they need.

    python3 tests/golden/text/make_cases.py ../shared/golden tests/golden/text

The cut-down vocabulary keeps the control tokens, the bytes, every piece that is part of a text here,
and every merge whose result is kept, all in their old order. A merge on one of these texts makes a
part of that text, so it makes the same pieces as the whole vocabulary does; the ids are renumbered."""
import json
import os
import re
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'line'))
from tiny_model import ARR, I32, STR, write_gguf  # noqa: E402

SPECIAL = ('<pad> <eos> <bos> <unk> <mask> <|tool> <tool|> <|tool_call> <tool_call|> <|tool_response> '
           '<tool_response|> <|"|> <|think|> <|channel> <channel|> <|turn> <turn|> <|image> <|audio> <|image|> '
           '<|audio|> <image|> <audio|> <|video|>').split()
LONGEST = 93        # bytes of the longest piece


def metadata(path):
    """The arrays of a GGUF file that a tokenizer needs."""
    data, at, found = open(path, 'rb').read(), 8, {}

    def take(form):
        nonlocal at
        got = struct.unpack_from('<' + form, data, at)
        at += struct.calcsize('<' + form)
        return got

    def text():
        nonlocal at
        n, = take('Q')
        at += n
        return data[at - n:at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            kind, n = take('IQ')
            return [text() for _ in range(n)] if kind == 8 else list(take(f'{n}' + 'BbHhIif?__QqdX'[kind]))
        return take('BbHhIif?__Qqd'[kind])[0]

    _, n_keys = take('QQ')
    for _ in range(n_keys):
        key = text()
        found[key], = [value(*take('I'))]
    return [found['tokenizer.ggml.' + k] for k in ('tokens', 'token_type', 'merges')]


def spread(lines, n):
    return [lines[i * len(lines) // n] for i in range(n)] if len(lines) > n else lines


def choose(source, name, n, keep, must=lambda case: False):
    lines = [line for line in open(f'{source}/{name}.jsonl', encoding='utf-8')]
    first = [line for line in lines if must(json.loads(line))]
    rest = [line for line in lines if line not in first and keep(json.loads(line))]
    return first + spread(rest, n - len(first))


def parts(text):
    """All pieces a text may consist of, as far as their length allows."""
    text = text.replace(' ', '\u2581')
    return {text[i:j] for i in range(len(text)) for j in range(i + 1, min(len(text), i + LONGEST) + 1)}


def main(source, target):
    pieces, types, merges = metadata(f'{source}/gemma-4-vocab.gguf')
    short = lambda case: len(case['text']) <= 60
    files = {
        'tokenizer': choose(source, 'tokenizer', 60, short),
        'tokenizer-special': choose(source, 'tokenizer-special', 24, lambda case: True),
        'detokenize': choose(source, 'detokenize', 30, lambda case: len(case['ids']) < 30,
                             lambda case: 'invalid' in case),
        'parse': choose(source, 'parse', 60, lambda case: len(case['ids']) < 80),
        'chat': choose(source, 'chat', 60, lambda case: len(case['prompt'] or '') < 900,
                       lambda case: 'error' in case),
    }
    texts, used = set(), set()
    for lines in files.values():
        for case in map(json.loads, lines):
            used.update(case.get('ids', []))
            for key in ('text', 'prompt'):
                texts |= parts(case.get(key) or '')
    for words in ('system user model developer tool', 'thought call response value declaration'):
        texts |= parts(words)
    kept = [i for i, p in enumerate(pieces)
            if i in used or p in texts or p in SPECIAL or types[i] == 6]
    number = {old: new for new, old in enumerate(kept)}
    have = {pieces[i] for i in kept}
    kept_merges = [m for m in merges if m.replace(' ', '') in have and set(m.split(' ')) <= have]
    write_gguf(f'{target}/vocabulary.gguf', [
        ('general.architecture', STR, 'gemma4'), ('tokenizer.ggml.model', STR, 'gemma4'),
        ('tokenizer.ggml.tokens', (ARR, STR), [pieces[i] for i in kept]),
        ('tokenizer.ggml.token_type', (ARR, I32), [types[i] for i in kept]),
        ('tokenizer.ggml.merges', (ARR, STR), kept_merges)], [])
    renumber = lambda m: '"ids": [' + ', '.join(str(number[int(i)]) for i in m[1].split(',') if i.strip()) + ']'
    for name, lines in files.items():
        with open(f'{target}/{name}.jsonl', 'w', encoding='utf-8') as out:
            for line in lines:
                if 'ids' in json.loads(line):
                    head, sep, tail = line.rpartition('"ids": [')
                    line = head + re.sub(r'^"ids": \[([0-9, ]*)\]', renumber, sep + tail, count=1)
                out.write(line)
    print(len(kept), 'pieces', len(kept_merges), 'merges', {k: len(v) for k, v in files.items()})


main(*sys.argv[1:3])
