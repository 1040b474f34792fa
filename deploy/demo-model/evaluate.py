#!/usr/bin/python3
"""evaluate.py - how often the demo model's greedy answer is exactly the right one, on examples that training never saw.

    ./evaluate.py --files .                                  # model.gguf and mmproj.gguf
    ./evaluate.py --checkpoint /tmp/demo-train/model.pt      # float weights

An answer counts when every token of it, the end token included, is the first choice after the right ones before: the same
as comparing the greedy answer, in one pass.  Seeds: training uses 1, 2, …; the default here is 990001.
"""
import argparse
import collections
import os

for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(name, '1')

import numpy as np                                           # noqa: E402
import torch                                                 # noqa: E402

import corpus                                                # noqa: E402
import drafter as drafter_module                             # noqa: E402
import export                                                # noqa: E402
import scenes                                                # noqa: E402
import sounds                                                # noqa: E402
import speech                                                # noqa: E402
import talk                                                  # noqa: E402
from model import Model, masks                               # noqa: E402
from vocabulary import SUPPRESSED, Vocabulary                # noqa: E402

# name, sample; each prints one line per kind of question
SETS = {
    'picture': lambda rng: scenes.sample(rng, variety=0.0, n_questions=7),
    'picture, any shape of file': lambda rng: scenes.sample(rng, variety=1.0, n_questions=7, as_file=True),
    'picture, thinking': lambda rng: scenes.sample(rng, thinking=True, n_questions=5),
    'two pictures': lambda rng: scenes.pair_sample(rng, variety=0.3, as_file=True),
    'video': lambda rng: scenes.video_sample(rng, variety=0.3, as_file=True),
    'sound': lambda rng: sounds.sample(rng),
    'sound, thinking': lambda rng: sounds.sample(rng, thinking=True),
    'speech': lambda rng: speech.sample(rng, held=True),
    'speech, thinking': lambda rng: speech.sample(rng, thinking=True, held=True),
    'speech, one breath': lambda rng: speech.sample(rng, held=True, fluent=True),
    'text': lambda rng: talk.sample(rng, branches=5),
    'text, thinking': lambda rng: talk.sample(rng, thinking=True, branches=4),
    'tools': lambda rng: talk.tool_sample(rng, branches=3),
    'tools, thinking': lambda rng: talk.tool_sample(rng, thinking=True, branches=3),
}


def load(files=None, checkpoint=None):
    """(model, vocabulary)"""
    if files:
        shape, weights, vocabulary = export.read(files)
        weights = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
    else:
        c = torch.load(checkpoint, map_location='cpu')
        shape, weights, vocabulary = c['shape'], c['model'], Vocabulary(c['merges'])
        weights = {k: v for k, v in weights.items() if '_head' not in k}
    model = Model(len(vocabulary), shape)
    model.load_state_dict(weights)
    return model.eval(), vocabulary


def rows_of(vocabulary, samples, length):
    """Trees as rows of one tree each."""
    rows = corpus.Rows(vocabulary, 0, 1, length)
    for sample in samples:
        tree = corpus.Tree(vocabulary, sample, length)
        if tree.used:
            rest = [tree]
            rows.length = len(tree.ids)
            yield tree, rows.fill(lambda room: rest.pop() if rest else None)


@torch.no_grad()
def first_choices(model, vocabulary, batch):
    b = {k: torch.from_numpy(v) for k, v in batch.items()}
    h, _ = model(model.embed(b), model.turns(b['positions']), masks(b, model.shape['window']))
    z = model.logits(h[0])
    z[:, [vocabulary.id[s] for s in SUPPRESSED]] = -np.inf
    return z.argmax(-1).numpy()


def rounds_of(right, at):
    """How many guesses each round of an answer keeps; right: of a round that starts at each token."""
    token, kept = at[0], []
    while token < at[-1]:
        kept.append(int(right[token]))
        token += right[token] + 1
    return kept


def measure(model, vocabulary, make, seed, n, show=0, drafter=None):
    """{kind: [right, all]} over n samples, and what the drafter's rounds kept in the answers that are right."""
    rng = np.random.default_rng(seed)
    score, kept = collections.defaultdict(lambda: [0, 0]), []
    for tree, batch in rows_of(vocabulary, (make(rng) for _ in range(n)), 512):
        chosen, wanted = first_choices(model, vocabulary, batch), batch['targets'][0]
        guessed = drafter_module.accepted(model, drafter, batch) if drafter else None
        for kind, span in tree.spans:
            at = span.start + np.flatnonzero(wanted[span] >= 0)
            runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)     # one per answer
            parts = [(kind, runs[-1])]
            if kind == 'call':
                parts = [(kind, runs[0])] + [('tool said', run) for run in runs[1:]]
            for part, at in parts:
                right = bool((chosen[at] == wanted[at]).all())
                score[part][0] += right
                score[part][1] += 1
                if right and drafter:
                    kept += rounds_of(guessed, at)
                if not right and show > 0:
                    show -= 1
                    print('   ', part, '|', vocabulary.decode(batch['ids'][0][span])[:150].replace('\n', '/'), '|',
                          vocabulary.decode(chosen[at])[:150].replace('\n', '/'))
    return score, kept


def written(model, vocabulary, sample, most=24):
    """The greedy answer to the sample's first question, token by token, and the right one."""
    parts = sample.branches[0][1]
    sample.branches = sample.branches[:1]
    sample.branches[0] = (sample.branches[0][0], parts[:-1])
    tree, ids, end = corpus.Tree(vocabulary, sample, 512), [], vocabulary.id['<turn|>']
    rows = corpus.Rows(vocabulary, 0, 1, 0)
    while len(ids) < most and end not in ids:
        rest, rows.length = [tree], len(tree.ids)
        ids.append(int(first_choices(model, vocabulary, rows.fill(lambda room: rest.pop() if rest else None))[-1]))
        tree.grow(ids[-1])
    return vocabulary.decode(ids).removesuffix('<turn|>'), parts[-1][0].removesuffix('<turn|>')


def transcribed(model, vocabulary, make, seed, n, show=0):
    """(right words, words) over n samples."""
    rng, right, words = np.random.default_rng(seed), 0, 0
    for _ in range(n):
        got, wanted = written(model, vocabulary, make(rng))
        right += speech.words_right(wanted, got)
        words += len(wanted.split())
        if got != wanted and show > 0:
            show -= 1
            print(f'    {wanted} | {got}')
    return right, words


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--files', help='folder with model.gguf and mmproj.gguf')
    ap.add_argument('--checkpoint')
    ap.add_argument('--samples', type=int, default=150, help='per set')
    ap.add_argument('--seed', type=int, default=990001)
    ap.add_argument('--only', help='sets whose name begins so')
    ap.add_argument('--show', type=int, default=0, help='so many mistakes per set')
    a = ap.parse_args()
    torch.set_num_threads(1)
    files = a.files or (None if a.checkpoint else '.')
    model, vocabulary = load(files, a.checkpoint)
    has_drafter = files and os.path.exists(os.path.join(files, drafter_module.FILE))
    drafter = drafter_module.read(files, model) if has_drafter else None
    for name, make in SETS.items():
        if a.only and not name.startswith(a.only):
            continue
        score, kept = measure(model, vocabulary, make, a.seed, a.samples, a.show, drafter)
        right, asked = np.sum(list(score.values()), axis=0)
        print(f'{name:28} {100 * right / asked:5.1f} % of {asked}:  '
              + ', '.join(f'{k} {100 * r / n:.1f} ({n})' for k, (r, n) in sorted(score.items()))
              + (f'; guesses kept {np.mean(kept):.2f} of 3' if kept else ''), flush=True)
        if name.startswith('speech') and 'thinking' not in name:
            right, words = transcribed(model, vocabulary, make, a.seed, a.samples, a.show)
            print(f'{"  written word by word":28} {100 * right / words:5.1f} % of {words} words', flush=True)


if __name__ == '__main__':
    main()
