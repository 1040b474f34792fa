"""vocabulary.py - the demo model's own vocabulary: control tokens, bytes, characters, and pieces joined by merges.

Text becomes ids as for every Gemma 4 vocabulary: control tokens are cut out first, a space becomes U+2581, single
characters are joined by the merge of lowest rank (leftmost first), and a character without a piece becomes its UTF-8
bytes.  Merges are learned inside words only, so cutting the text into words first gives the same ids, and faster.
"""
import collections
import re

SPACE = '\u2581'
CONTROL = ['<pad>', '<eos>', '<bos>', '<unk>', '<mask>', '<|tool>', '<tool|>', '<|tool_call>', '<tool_call|>',
           '<|tool_response>', '<tool_response|>', '<|"|>', '<|think|>', '<|channel>', '<channel|>', '<|turn>',
           '<turn|>', '<|image>', '<|audio>', '<|image|>', '<|audio|>', '<image|>', '<audio|>', '<|video|>']
SHOWN = ['<|channel>', '<channel|>', '<|tool_call>', '<tool_call|>', '<|tool_response>', '<tool_response|>', '<|"|>']
SUPPRESSED = ['<audio|>', '<image|>']
CHARACTERS = ['\n', '\t', SPACE] + [chr(c) for c in range(33, 127)] + list('äöüßéèàçñåøÄÖÜÉ°€£…–—“”’×÷')
CONTROL_CUT = re.compile('(' + '|'.join(re.escape(c) for c in CONTROL) + ')')
WORD = re.compile(f'{SPACE}?[A-Za-z]+|[(){{}}\\[\\]:,"._-]+|.', re.S)    # digits, # and * stay single


def learn_merges(text, pieces_max, common):
    """Pairs in rank order, learned from the words of `text` by how often they stand side by side.

    A word has the same pieces with and without a space before it, so that copying it is copying tokens; only the words
    in `common`, which are seldom copied, take the space into their piece."""
    words = collections.Counter()
    for part in CONTROL_CUT.split(text):
        if part not in CONTROL:
            words.update(w.lstrip(SPACE) for w in WORD.findall(part.replace(' ', SPACE)))
    known = set(CHARACTERS)
    split = {w: list(w) for w in words if len(w) > 1 and all(c in known for c in w)}
    merges = []
    while len(merges) < pieces_max:
        pairs = collections.Counter()
        for word, parts in split.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        if not pairs:
            break
        best, count = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        if count < 4:
            break
        merges.append(best)
        for parts in split.values():
            join(parts, best)
    whole = {a + b for a, b in merges} | set(CHARACTERS)
    return merges + [(SPACE, word) for word in common if word in whole]


def join(parts, pair):
    """Joins every occurrence of the pair in the list of pieces, in place, from the left."""
    at = 0
    while at < len(parts) - 1:
        if parts[at] == pair[0] and parts[at + 1] == pair[1]:
            parts[at:at + 2] = [pair[0] + pair[1]]
        at += 1


class Vocabulary:
    def __init__(self, merges):
        self.merges = [tuple(m) for m in merges]
        self.pieces = CONTROL + [f'<0x{b:02X}>' for b in range(256)] + CHARACTERS
        self.pieces += list(dict.fromkeys(a + b for a, b in self.merges))
        self.id = {piece: i for i, piece in enumerate(self.pieces)}
        self.rank = {pair: i for i, pair in enumerate(self.merges)}
        self.first_byte = len(CONTROL)
        self.cache = {}

    def __len__(self):
        return len(self.pieces)

    def types(self):
        """1 normal, 2 unknown, 3 control, 4 user-defined (a control that shows), 6 byte."""
        kinds = [4 if c in SHOWN else 2 if c == '<unk>' else 3 for c in CONTROL]
        return kinds + [6] * 256 + [1] * (len(self.pieces) - len(CONTROL) - 256)

    def _merge(self, text):
        """Ids of a text in which spaces are already U+2581; the rule in full, without cutting into words."""
        parts = list(text)
        while len(parts) > 1:
            ranks = [self.rank.get(pair, len(self.rank)) for pair in zip(parts, parts[1:])]
            lowest = min(ranks)
            if lowest == len(self.rank):
                break
            at = ranks.index(lowest)
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        ids = []
        for part in parts:
            if part in self.id:
                ids.append(self.id[part])
            else:
                ids += [self.first_byte + b for b in part.encode()]
        return ids

    def encode_plain(self, text, cut=True):
        """Ids of a text without control tokens."""
        text, ids = text.replace(' ', SPACE), []
        for word in WORD.findall(text) if cut else [text]:
            if word not in self.cache:
                if len(self.cache) > 50000:
                    self.cache.clear()
                self.cache[word] = self._merge(word)
            ids += self.cache[word]
        return ids

    def encode(self, text):
        """Ids of a text in which the names of control tokens mean these tokens."""
        ids = []
        for part in CONTROL_CUT.split(text):
            ids += [self.id[part]] if part in CONTROL else self.encode_plain(part)
        return ids

    def decode(self, ids):
        """The text, control tokens by their names."""
        out = bytearray()
        for i in ids:
            if self.first_byte <= i < self.first_byte + 256:
                out.append(i - self.first_byte)
            else:
                out += self.pieces[i].replace(SPACE, ' ').encode()
        return out.decode(errors='replace')
