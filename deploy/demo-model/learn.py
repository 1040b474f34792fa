"""learn.py - how models learn: Muon for the matrices inside the layers, Adam for the rest; what is said meanwhile."""
import math
import time

import numpy as np
import torch

import fast


class Muon:
    """Momentum whose direction is made orthogonal (three Newton-Schulz steps), for the matrices inside the layers."""

    def __init__(self, model, momentum=0.95):
        self.groups = {}                                     # matrices of one shape are turned together
        for i, layer in enumerate(model.layers):
            for p in layer.parameters():
                if p.dim() == 2:
                    self.groups.setdefault((i <= model.hint_layer, *p.shape), []).append(p)
        self.momentum = momentum
        self.state = {key: torch.zeros(len(g), *key[1:]) for key, g in self.groups.items()}

    @torch.no_grad()
    def step(self, rate, decay):
        for key, group in self.groups.items():
            if group[0].grad is None:                        # the upper layers, when only hints are learned
                continue
            shape, gradient = key[1:], torch.stack([p.grad for p in group])
            m = self.state[key].lerp_(gradient, 1 - self.momentum)
            g = gradient.lerp(m, self.momentum)
            tall = shape[0] > shape[1]
            x = g.transpose(1, 2) if tall else g
            x = (x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).to(fast.NUMBERS)
            for _ in range(3):
                a = x @ x.transpose(1, 2)
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            x = (x.transpose(1, 2) if tall else x).float()
            size = rate * math.sqrt(max(1.0, shape[0] / shape[1]))
            for p, step in zip(group, x):
                p.mul_(1 - rate * decay).sub_(step, alpha=size)


def rate_at(step, progress):
    """Rises for 100 steps, stays, and falls to nothing over the second half of the time."""
    return min(1, (step + 1) / 100) * min(1, (1 - progress) / 0.5 + 1e-3)


class Learner:
    def __init__(self, model, rate, adam_rate, clip=None):
        self.model, self.rate, self.adam_rate, self.clip = model, rate, adam_rate, clip
        self.outside = [p for n, p in model.named_parameters() if not (n.startswith('layers') and p.dim() == 2)]
        self.muon = Muon(model)
        self.adam = torch.optim.Adam(self.outside, lr=adam_rate, betas=(0.9, 0.98), eps=1e-10)

    def step(self, step, progress):
        scale = rate_at(step, progress)
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.outside, self.clip)
        self.muon.step(self.rate * scale, 0.05)
        for group in self.adam.param_groups:
            group['lr'] = self.adam_rate * scale
        self.adam.step()
        self.model.zero_grad(set_to_none=True)


class Log:
    """The means of what was added since the last line; a line is due every 20 seconds."""

    def __init__(self):
        self.said, self.recent = time.time(), {}

    def add(self, kind, numbers):
        self.recent.setdefault(kind, []).append([x.item() for x in numbers])

    def due(self, now):
        return now - self.said > 20

    def say(self, *words):
        means = ' '.join(f'{kind} ' + ' '.join(f'{m:.3f}' for m in np.mean(v, 0)) for kind, v in
                         sorted(self.recent.items()))
        print(time.strftime('%H:%M:%S'), *words[:1], means, *words[1:], flush=True)
        self.said, self.recent = time.time(), {}
