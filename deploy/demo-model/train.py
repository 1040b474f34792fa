#!/usr/bin/python3
"""train.py - trains the demo model on the CPU, from nothing or from a checkpoint.

    OPENBLAS_CORETYPE=HASWELL nice -n 19 ./train.py --minutes 90 --checkpoint /tmp/demo-train/model.pt
    ./train.py --minutes 10 --checkpoint again.pt --fresh

One thread, seeded; what the clock decides is only where the learning rate falls.  Answers are learned, prompts are not;
extra heads (kind, colour, size and rank of what a tile shows; key and number of what a frame lets hear) help the
lower layers along and are left out of the files.  Started again, it goes on from the checkpoint.
"""
import argparse
import os
import signal
import time

for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(name, '1')

import numpy as np                                           # noqa: E402
import torch                                                 # noqa: E402
import torch.nn.functional as F                              # noqa: E402

import corpus                                                # noqa: E402
import export                                                # noqa: E402
import fast                                                  # noqa: E402
import learn                                                 # noqa: E402
import model as model_module                                 # noqa: E402
from model import Model                                      # noqa: E402
from vocabulary import Vocabulary                            # noqa: E402


def known_only(scores, wanted):
    """Cross entropy where there is a label; 0 when there is none at all."""
    return F.cross_entropy(scores, wanted, reduction='sum') / max(1, int((wanted >= 0).sum()))


def loss_of(model, batch, hints_only=False):
    """Next-token loss of the answers, and the hint losses by kind."""
    b = {k: torch.from_numpy(v) for k, v in batch.items()}
    h, seen = model(model.embed(b), model.turns(b['positions']), [b['see_sliding'], b['see_full']],
                    hints_only=hints_only)
    targets, answers = b['targets'].reshape(-1), torch.zeros(())
    if not hints_only:
        at = (targets >= 0).nonzero()[:, 0]
        weights = b['weights'].reshape(-1)[at]
        each = F.cross_entropy(model.logits(h.view(len(targets), -1)[at]), targets[at], reduction='none')
        answers = (each * weights).sum() / weights.sum()
    hints, seen = {}, [x.view(len(targets), -1) for x in seen]
    for kind, sizes in model.hint_classes.items():
        if kind + '_values' in b:
            parts = model.hint_heads[kind](seen[model.hint_layer][b[kind + '_slots']]).split(list(sizes), -1)
            hints[kind] = [known_only(p, b[kind + '_hints'][:, i]) for i, p in enumerate(parts)]
    if 'named_slots' in b and not hints_only:
        found = [(head(x[b['named_slots']]).split(list(model.hint_classes['image']), -1))
                 for head, x in zip(model.named_heads, seen[model.hint_layer + 1:])]
        hints['named'] = [sum(known_only(p, b['named_hints'][:, i]) for i, p in enumerate(parts)) / len(parts)
                          for parts in found]
    if 'audio_values' in b:
        hints['heard'] = [known_only(model.heard_heads[str(i)](x[b['audio_slots']]), b['audio_hints'][:, 0])
                          for i, x in enumerate(seen) if str(i) in model.heard_heads]
    if 'image_values' in b:
        slots = b['image_slots']
        hints['cover'] = [F.binary_cross_entropy_with_logits(model.cover_head(seen[0][slots]), b['image_cover'])]
        hints['early'] = [F.cross_entropy(head(x[slots]), b['image_hints'][:, 0])
                          for head, x in zip(model.early_heads, seen)]
    return answers, hints


def load(model, weights):
    """Extra heads that are not there or have another shape start from nothing."""
    own = model.state_dict()
    model.load_state_dict({k: w for k, w in weights.items() if k in own and own[k].shape == w.shape}, strict=False)


def save(path, learner, vocabulary, step, seconds, tokens):
    torch.save(dict(model=learner.model.state_dict(), muon=learner.muon.state, adam=learner.adam.state_dict(),
                    shape=learner.model.shape, merges=vocabulary.merges, step=step, seconds=seconds, tokens=tokens,
                    outside=[p.shape for p in learner.outside]), path + '.new')
    os.replace(path + '.new', path)


def shares_of(text):
    return {task: float(share) for task, share in (pair.split('=') for pair in text.split(','))} if text else None


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--checkpoint', default='model.pt')
    ap.add_argument('--minutes', type=float, default=10, help='of this run')
    ap.add_argument('--fresh', action='store_true', help='do not go on from the checkpoint')
    ap.add_argument('--warm', help='folder of model.gguf and mmproj.gguf whose weights to begin with')
    ap.add_argument('--from-progress', type=float, default=0.0, help='where in the schedule this run starts (0 to 1)')
    ap.add_argument('--until', type=float, default=1.0, help='where in the schedule this run ends')
    ap.add_argument('--seed', type=int, default=1)
    ap.add_argument('--rows', type=int, default=6)
    ap.add_argument('--length', type=int, default=320)
    ap.add_argument('--rate', type=float, default=0.02, help='of the matrices (Muon)')
    ap.add_argument('--adam-rate', type=float, default=3e-3, help='of all else')
    ap.add_argument('--hints', type=float, default=0.5, help='weight of the extra heads')
    ap.add_argument('--silent', type=int, default=0,
                    help='so many batches of pictures and sounds without questions before each other one: a fast start')
    ap.add_argument('--silent-only', default='picture=0.9,sound=0.05,speech=0.05', help='shares of their kinds')
    ap.add_argument('--only', help='task=share,task=share: a probe of these tasks')
    ap.add_argument('--layers')
    ap.add_argument('--width', type=int)
    ap.add_argument('--ff', type=int)
    a = ap.parse_args()
    torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
    model_module.FAST = fast
    torch.manual_seed(a.seed)
    old = torch.load(a.checkpoint) if os.path.exists(a.checkpoint) and not a.fresh else None
    if old:
        vocabulary, shape = Vocabulary(old['merges']), old['shape']
    elif a.warm:
        shape, weights, vocabulary = export.read(a.warm)
    else:
        vocabulary = corpus.learn_vocabulary()
        shape = {k: v for k, v in dict(layers=a.layers, width=a.width, ff=a.ff).items() if v}
    model = Model(len(vocabulary), shape, corpus.HINT_CLASSES)
    learner = learn.Learner(model, a.rate, a.adam_rate, clip=1.0)
    step, seconds_before, tokens_seen = 0, 0.0, 0
    if not old and a.warm:
        load(model, {k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
    if old:
        load(model, old['model'])
        learner.muon.state = old['muon']
        if [p.shape for p in learner.outside] == old.get('outside'):
            learner.adam.load_state_dict(old['adam'])
        step, seconds_before, tokens_seen = old['step'], old['seconds'], old['tokens']
    rows = corpus.Rows(vocabulary, [a.seed, step], a.rows, a.length, shares_of(a.only))
    silent = corpus.Rows(vocabulary, [a.seed, step, 1], 2 * a.rows, 146, shares_of(a.silent_only), corpus.draw_silent)
    print(f'{sum(p.numel() for p in model.parameters()):,} parameters, {len(vocabulary)} pieces, from step {step}',
          flush=True)
    stop = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    begin = saved = time.time()
    log, drawing, tokens_said = learn.Log(), 0.0, tokens_seen
    while True:
        now = time.time()
        part = min(1.0, (now - begin) / (60 * a.minutes))
        progress = a.from_progress + (a.until - a.from_progress) * part
        t = time.process_time()
        hints_only = step % (a.silent + 1) > 0
        batch = (silent if hints_only else rows).batch(progress)
        drawing += time.process_time() - t
        answers, hints = loss_of(model, batch, hints_only)
        extra = sum(sum(parts) / len(parts) for parts in hints.values())
        (answers + a.hints * extra).backward()
        learner.step(step, progress)
        step += 1
        tokens_seen += int((batch['tree'] >= 0).sum())
        for kind, parts in (hints if hints_only else dict(hints, loss=[answers])).items():
            log.add(f'{kind}{len(parts)}' if kind == 'heard' else kind, parts)
        if log.due(now) or part >= 1:
            rate, share = (tokens_seen - tokens_said) / (now - log.said), drawing / (now - log.said)
            log.say(f'step {step} progress {progress:.3f} tokens {tokens_seen / 1e6:.2f} M',
                    f'| {rate:.0f} tokens/s, drawing {100 * share:.0f}%')
            drawing, tokens_said = 0.0, tokens_seen
        if now - saved > 120 or part >= 1 or stop:
            save(a.checkpoint, learner, vocabulary, step, seconds_before + now - begin, tokens_seen)
            saved = now
        if part >= 1 or stop:
            print(f'stopped at progress {progress:.3f}')
            return


if __name__ == '__main__':
    main()
