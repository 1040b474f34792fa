"""corpus.py - the mixture of tasks, the text that the vocabulary is learned from, and rows of tokens for training.

A row holds several trees (chat.Sample).  For every token it says where it stands (position), which branch and which
tree it belongs to, and what may be seen: a token sees its own branch and the beginning of its tree, up to itself.
"""
import re

import numpy as np

import scenes
import sounds
import speech
import talk
from vocabulary import SPACE, Vocabulary, learn_merges

HINT_CLASSES = {'image': (5, 7, 3, 5, 10, 5, 6), 'audio': (1 + sounds.WORDS_FIRST + len(speech.WORDS), 7)}


def text_of(sample):
    return sample.start + ''.join(text for _, parts in sample.branches for text, *_ in parts)


def learn_vocabulary(seed=7, pieces_max=760):
    rng = np.random.default_rng(seed)
    parts = []
    for i in range(1500):
        thinking = i % 6 == 0
        parts += [text_of(talk.sample(rng, thinking)), text_of(talk.tool_sample(rng, thinking=thinking))]
    for i in range(600):
        things = scenes.arrange(rng, 384, 384, int(rng.integers(1, 5)))
        parts += [q + ' ' + a for q, a, *_ in scenes.questions(rng, things, (384, 384), 5)]
        parts.append(text_of(sounds.sample(rng, thinking=i % 6 == 0)))
    parts += ['video frame move moves moving direction second first picture pictures word words speech say said '
              'spoken hear which one has does it'] * 5     # for what later training adds
    return Vocabulary(learn_merges('\n'.join(parts), pieces_max, common_words()))


def common_words():
    """Words of questions and answers that are not copied from the prompt."""
    rng = np.random.default_rng(1)
    text = ' '.join(' '.join(q) + ' ' + a + ' ' + t for q, a, t in talk.FACTS)
    for _ in range(400):
        things = scenes.arrange(rng, 384, 384, int(rng.integers(1, 5)))
        text += ''.join(f' {q} {a}' for q, a, *_ in scenes.questions(rng, things, (384, 384), 4))
        text += ' ' + re.sub('<[^<>]*>', ' ', text_of(sounds.sample(rng, n=3)))
    text += ' video frame move moves direction second first word words with and to says'
    copied = {w for group in (talk.WORDS, talk.CITIES, talk.NAMES, talk.ROOMS, talk.KEYS, talk.VERBS, talk.NOUNS)
              for w in group}
    keep = set(scenes.COLOURS) | {'left', 'right', 'no', 'tell'}
    return sorted({w for w in re.findall('[A-Za-z]+', text) if w not in copied or w in keep})


def mixture(progress):
    """Shares of the kinds of samples, by the tokens they take; progress runs from 0 to 1."""
    return dict(picture=0.22, pair=0.13, video=0.05, sound=0.07, speech=0.19, text=0.12, tools=0.22)


def draw(rng, task, progress):
    thinking = rng.random() < 0.16
    if task == 'picture':
        return scenes.sample(rng, variety=0.0 if progress < 0.25 else 0.2, thinking=thinking,
                             n_questions=10)
    if task == 'pair':
        return scenes.pair_sample(rng, variety=0.3, n_questions=8, more=0.35)
    if task == 'video':
        return scenes.video_sample(rng, variety=0.3, n_questions=5, moves=0.5)
    if task == 'sound':
        return sounds.sample(rng, thinking=thinking, keys=0.55)
    if task == 'speech':
        return speech.sample(rng, thinking=thinking, fluent=rng.random() < 0.15)
    if task == 'text':
        return talk.sample(rng, thinking=rng.random() < 0.2, branches=int(rng.integers(1, 6)))
    return talk.tool_sample(rng, thinking=thinking, branches=6, others=0.75)


def draw_silent(rng, task, progress):
    """A picture, a sound or speech without questions, for the extra heads alone."""
    if task == 'picture':
        return scenes.sample(rng, variety=0.3, n_questions=0)
    sample = (sounds if task == 'sound' else speech).sample(rng)
    sample.branches = []
    return sample


class Tree:
    """A sample as tokens."""

    def __init__(self, vocabulary, sample, room):
        ids, self.media = list(vocabulary.encode(sample.start)), []
        for medium in sample.media:
            kind, n = medium['kind'], len(medium['values'])
            ids += vocabulary.encode(medium.get('before', ''))
            self.media.append((len(ids) + 1, medium))        # its first slot
            slot = vocabulary.id[f'<|{medium.get("slot", kind)}|>']
            ids += [vocabulary.id[f'<|{kind}>']] + [slot] * n + [vocabulary.id[f'<{kind}|>']]
        self.ids, self.targets, self.weights = list(ids), [-1] * len(ids), [0.0] * len(ids)
        self.positions, self.branch = list(range(len(ids))), [0] * len(ids)
        start, used, self.spans, self.named = len(ids), 0, [], []
        for kind, parts in sample.branches:
            encoded = [(vocabulary.encode(text), ours) for text, ours, *_ in parts]
            branch = [i for piece, _ in encoded for i in piece]
            if len(self.ids) + len(branch) > room:
                continue
            used += 1
            self.spans.append((kind, slice(len(self.ids), len(self.ids) + len(branch))))
            ends = len(self.ids) + np.cumsum([len(piece) for piece, _ in encoded])
            self.named += [(end - 1, part[2]) for end, part in zip(ends, parts) if len(part) > 2]
            wanted = [i if ours else -1 for piece, ours in encoded for i in piece]
            self.ids += branch
            self.targets += wanted[1:] + [-1]                # at each token: the next one, where it is the model's
            ours = sum(w >= 0 for w in wanted)
            self.weights += [max(1, ours) ** -0.5] * len(branch)     # or short answers would hardly count
            self.positions += range(start, start + len(branch))
            self.branch += [used] * len(branch)
        self.used = used
        self.see = self._see(start)

    def grow(self, token):
        """One more token behind the last branch; for `see` of full rows it does not count."""
        self.ids.append(token)
        self.targets.append(-1)
        self.weights.append(0.0)
        self.positions.append(self.positions[-1] + 1)
        self.branch.append(self.branch[-1])
        self.see = np.concatenate([self.see, self.see[:, -1:]], 1)

    def _see(self, start):
        """int32 [2][tokens][4]: for sliding and full layers, the two ranges of tokens that each token sees."""
        t = np.arange(len(self.ids), dtype=np.int32)
        see = np.zeros((2, len(t), 4), np.int32)
        see[:, :, 3] = t + 1
        for _, span in self.spans:
            see[:, span, 1], see[:, span, 2] = start, span.start
        for first, medium in self.media:
            if medium['kind'] == 'image':
                see[0, first:first + len(medium['values']), 3] = first + len(medium['values'])
        return see


class Rows:
    """Batches of full rows.  Samples are drawn so that each task gets its share of the tokens."""

    def __init__(self, vocabulary, seed, rows, length, shares=None, draw=draw):
        self.vocabulary, self.rng, self.rows, self.length = vocabulary, np.random.default_rng(seed), rows, length
        self.given, self.shares, self.waiting, self.draw = {}, shares, [], draw

    def tree(self, progress):
        """A new tree, of the task that is furthest behind its share."""
        shares = self.shares or mixture(progress)
        total = sum(self.given.values()) or 1
        task = max(shares, key=lambda t: shares[t] - self.given.get(t, 0) / total)
        while True:
            tree = Tree(self.vocabulary, self.draw(self.rng, task, progress), self.length)
            if len(tree.ids) <= self.length and (tree.used or self.draw is draw_silent):
                break
        self.given[task] = self.given.get(task, 0) + len(tree.ids)
        return tree

    def fitting(self, room, progress):
        """The largest waiting tree that fits into the room; a few trees are always kept waiting."""
        while len(self.waiting) < 16:
            self.waiting.append(self.tree(progress))
        found = [t for t in self.waiting if len(t.ids) <= room]
        if not found:
            return None
        best = self.waiting[0] if room == self.length else max(found, key=lambda t: len(t.ids))
        self.waiting.remove(best)
        return best

    def batch(self, progress=0.0):
        return self.fill(lambda room: self.fitting(room, progress))

    def fill(self, next_tree):
        """next_tree(room): a tree of at most that many tokens, or None when the row is to end."""
        shape = self.rows, self.length
        out = dict(ids=np.zeros(shape, np.int64), targets=np.full(shape, -1), positions=np.zeros(shape, np.int64),
                   weights=np.zeros(shape, np.float32), tree=np.full(shape, -1), branch=np.full(shape, -1), image=np.full(shape, -1))
        places = np.arange(self.length, dtype=np.int32)
        see = np.zeros((2, *shape, 4), np.int32)             # padding sees itself
        see[..., 2], see[..., 3] = places, places + 1
        media, named = {'image': [], 'audio': []}, []
        trees = 0
        for row in range(self.rows):
            at = 0
            while True:
                t = next_tree(self.length - at)
                if t is None:
                    break
                span = slice(at, at + len(t.ids))
                out['ids'][row, span], out['targets'][row, span] = t.ids, t.targets
                out['positions'][row, span], out['branch'][row, span] = t.positions, t.branch
                out['tree'][row, span], out['weights'][row, span] = trees, t.weights
                see[:, row, span] = t.see + np.int32(at)
                for first, medium in t.media:
                    media[medium['kind']].append((row * self.length + at + first, medium))
                    if medium['kind'] == 'image':
                        out['image'][row, at + first:at + first + len(medium['values'])] = len(media['image'])
                named += [(row * self.length + at + place, labels) for place, labels in t.named]
                trees += 1
                at += len(t.ids)
        out['see_sliding'], out['see_full'] = see
        if named:
            out['named_slots'], out['named_hints'] = (np.array(v) for v in zip(*named))
        for kind, found in media.items():
            if found:
                out[kind + '_values'] = np.concatenate([m['values'] for _, m in found]).astype(np.float32)
                out[kind + '_slots'] = np.concatenate([at + np.arange(len(m['values'])) for at, m in found])
                out[kind + '_hints'] = np.concatenate([m['hints'] for _, m in found])
                if kind == 'image':
                    out['image_cover'] = np.concatenate([m['cover'] for _, m in found])
                    out['places'] = np.concatenate([m['places'] for _, m in found])
        return out
