#!/usr/bin/python3
"""drafter.py - trains drafter.gguf: a small model that guesses the next three tokens of the finished demo model.

    ./drafter.py --files . --minutes 10 --out .

Four layers (sliding, sliding, sliding, full) without keys and values of their own: they look at those of the demo
model's last sliding and last full layer.  One step: the embedding of the last token and a hidden state go in, a guess
and the hidden state of the next step come out.  The position stays, and the cache does not grow, during a round.
The demo model is frozen; every token of an answer is the start of a round.
"""
import argparse
import math
import os
import time

for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(name, '1')

import numpy as np                                           # noqa: E402
import torch                                                 # noqa: E402
import torch.nn as nn                                        # noqa: E402
import torch.nn.functional as F                              # noqa: E402

import corpus                                                # noqa: E402
import export                                                # noqa: E402
import gguf                                                  # noqa: E402
import model as model_module                                 # noqa: E402
from model import Cache, Layer, Model, attend, rms_norm, rope         # noqa: E402
from gguf import U32                                         # noqa: E402

LAYERS, WIDTH, FF, STEPS = 'SSSF', 64, 128, 3
FILE = 'drafter.gguf'


class Borrower(Layer):
    """A layer whose keys and values are given; only tokens that start a round pass it."""

    def __init__(self, shape, sliding):
        super().__init__(shape, sliding)
        del self.k, self.k_norm
        if sliding:
            del self.v

    def attention(self, a, turn, mask, borrowed):
        k, v, at = borrowed
        rows, tokens = k.shape[:2]
        q = rope(rms_norm(F.linear(a, self.q).view(1, len(at), -1, self.d), self.q_norm), turn)
        q = a.new_zeros(rows * tokens, self.heads * self.d).index_copy(0, at, q.view(len(at), -1))
        look = model_module.FAST.Attend.apply if mask.dtype == torch.int32 else attend
        out = look(q.view(rows, tokens, -1, self.d), k, v, mask).reshape(rows * tokens, -1)
        return F.linear(out[at], self.o)[None]


class Drafter(nn.Module):
    def __init__(self, target):
        super().__init__()
        wide, shape = target.shape['width'], dict(target.shape, width=WIDTH, ff=FF)
        self.layers = nn.ModuleList(Borrower(shape, kind == 'S') for kind in LAYERS)
        self.hint_layer = len(LAYERS)                        # learn.Muon: all layers always learn
        self.pre = nn.Parameter(torch.randn(WIDTH, 2 * wide) / math.sqrt(2 * wide))
        self.post = nn.Parameter(torch.randn(wide, WIDTH) / math.sqrt(WIDTH))
        self.embedding = nn.Parameter(torch.randn(len(target.embedding), WIDTH) / math.sqrt(WIDTH))
        self.norm = nn.Parameter(torch.ones(WIDTH))

    def step(self, e, h, turns, masks, borrowed):
        """e, h [1][rounds][wide] -> what the head sees, and the next h; lists: of sliding, of full layers."""
        y = F.linear(torch.cat([e, h], -1), self.pre)
        for layer in self.layers:
            full = not layer.sliding
            y = layer(y, turns[full], masks[full], borrowed[full])
        y = rms_norm(y, self.norm)
        return y, F.linear(y, self.post)


def guesses(target, drafter, batch, masks):
    """Yields for each step what the head sees, [rounds][WIDTH], and what is right, int [rounds], -1 behind the end.

    A round that starts at a token knows it and all before it, and the token after it, which is chosen already; in
    step j it guesses the token j + 1 places on.  The tokens between are the right ones: only rounds whose guesses
    were right so far matter."""
    cache, at = Cache(), (wanted(batch['targets'], 1) >= 0).nonzero()[:, 0]
    with torch.no_grad():
        h, _ = target(target.embed(batch), target.turns(batch['positions']), masks, cache)
    borrowed = [(*next(cache.kept[x] for x in reversed(list(target.layers)) if x.sliding != full), at)
                for full in (False, True)]
    turns = target.turns(batch['positions'].view(1, -1)[:, at] + 1)
    if masks[0].dtype == torch.int32:
        masks = [only(mask, at) for mask in masks]
    h = h.view(1, -1, h.shape[-1])[:, at]
    for step in range(1, STEPS + 1):
        ids = torch.roll(batch['ids'], -step, 1).view(1, -1)[:, at]
        e = F.embedding(ids, target.embedding).detach() * math.sqrt(target.shape['width'])
        y, h = drafter.step(e, h, turns, masks, borrowed)
        yield y[0], wanted(batch['targets'], step)[at]


def only(see, at):
    """Tokens that start no round look at themselves alone, which costs next to nothing."""
    rows, tokens = see.shape[:2]
    out = torch.zeros_like(see)
    out[..., 2] = torch.arange(tokens, dtype=torch.int32)
    out[..., 3] = out[..., 2] + 1
    return out.view(-1, 4).index_copy(0, at, see.reshape(-1, 4)[at]).view(see.shape)


def wanted(targets, step):
    """Flat [rows * tokens]: what step `step` of a round that starts at each token should guess; -1: no such round."""
    out, alive = torch.full_like(targets, -1), targets >= 0
    for j in range(1, step + 1):
        later = torch.full_like(targets, -1)
        later[:, :-j] = targets[:, j:]
        alive = alive & (later >= 0)
        out = later
    return torch.where(alive, out, torch.full_like(out, -1)).view(-1)


def loss_of(target, drafter, batch):
    b = {k: torch.from_numpy(v) for k, v in batch.items()}
    losses = []
    for y, right in guesses(target, drafter, b, [b['see_sliding'], b['see_full']]):
        at = (right >= 0).nonzero()[:, 0]
        losses.append(F.cross_entropy(F.linear(y[at], drafter.embedding), right[at]))
    return losses


@torch.no_grad()
def accepted(target, drafter, batch):
    """int [rows * tokens]: how many guesses of a round that starts at each token are right."""
    b = {k: torch.from_numpy(v) for k, v in batch.items()}
    at = (wanted(b['targets'], 1) >= 0).nonzero()[:, 0]
    alive, count = torch.ones(len(at), dtype=torch.bool), torch.zeros(b['ids'].numel(), dtype=torch.long)
    for y, right in guesses(target, drafter, b, model_module.masks(b, target.shape['window'])):
        alive &= F.linear(y, drafter.embedding).argmax(-1) == right
        count[at] += alive
    return count.numpy()


# ---------------------------------------------------------------- the file
def names():
    """(name in the file, name here, is it a matrix)"""
    out = [('token_embd', 'embedding', True), ('output_norm', 'norm', False), ('nextn.pre_projection', 'pre', True),
           ('nextn.post_projection', 'post', True)]
    for i in range(len(LAYERS)):
        out += [(f'blk.{i}.{name}', f'layers.{i}.{key}', matrix) for name, key, matrix in export.LAYER
                if key not in ('k', 'v', 'k_norm')]
    return [(name + '.weight', key, matrix) for name, key, matrix in out]


def write(drafter, target, vocabulary, folder, storage='q8_0'):
    s = dict(target.shape, layers=LAYERS, width=WIDTH, ff=FF)
    weights = {k: t.numpy() for k, t in drafter.state_dict().items()}
    metadata = export.decoder_metadata(s, storage, vocabulary, 'gemma4-assistant', [
        ('embedding_length_out', U32, target.shape['width']), ('nextn_predict_layers', U32, len(LAYERS))])
    tensors = [(name, weights[key], storage if matrix else 'f32') for name, key, matrix in names()]
    gguf.write(os.path.join(folder, FILE), metadata, tensors + [export.rope_divisors(s)])


def read(folder, target):
    t = gguf.Reader(os.path.join(folder, FILE)).tensors
    drafter = Drafter(target)
    drafter.load_state_dict({key: torch.from_numpy(np.array(t[name])) for name, key, _ in names()})
    return drafter.eval()


def main():
    import fast
    import learn
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--files', default='.', help='folder with model.gguf and mmproj.gguf')
    ap.add_argument('--out', default='.', help='folder')
    ap.add_argument('--warm', help='folder of the drafter.gguf whose weights to begin with')
    ap.add_argument('--minutes', type=float, default=10)
    ap.add_argument('--seed', type=int, default=3)
    ap.add_argument('--rate', type=float, default=0.02, help='of the matrices (Muon)')
    ap.add_argument('--adam-rate', type=float, default=5e-3, help='of all else')
    a = ap.parse_args()
    torch.set_num_threads(1)
    model_module.FAST = fast
    torch.manual_seed(a.seed)
    shape, weights, vocabulary = export.read(a.files)
    target = Model(len(vocabulary), shape).eval()
    target.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
    drafter = read(a.warm, target).train() if a.warm else Drafter(target)
    learner = learn.Learner(drafter, a.rate, a.adam_rate)
    rows = corpus.Rows(vocabulary, [a.seed, 7], 6, 320)
    print(f'{sum(p.numel() for p in drafter.parameters()):,} parameters', flush=True)
    begin, step, log = time.time(), 0, learn.Log()
    while True:
        now = time.time()
        part = min(1.0, (now - begin) / (60 * a.minutes))
        losses = loss_of(target, drafter, rows.batch(0.5))
        sum(losses).backward()
        learner.step(step, part)
        step += 1
        log.add('guesses', losses)
        if log.due(now) or part >= 1:
            log.say(f'step {step}')
        if part >= 1:
            write(drafter, target, vocabulary, a.out)
            return


if __name__ == '__main__':
    main()
