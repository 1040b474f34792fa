"""model.py - the Gemma 4 12B architecture in torch, small: what is trained, and what evaluate.py runs.

Decoder: sliding and full layers, values equal to keys on full layers, norms around both branches, a scale per layer,
tied embeddings, a soft cap.  Embedders: tiles of a picture and frames of a sound go through norms and one or two
matrices.  The tile matrix acts on means of 4 x 4 pixels here; export.py writes it over all pixels.
"""
import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

SHAPE = dict(layers='SSFSSF', width=192, ff=384, heads=6, kv=(2, 1), head_dim=(32, 64), window=256, theta=(1e4, 1e6),
             context=2048, places=128, tile_values=432, frame=640, cap=30.0, eps=1e-6)


FAST = None                                                  # the module fast, when training asks for it


class RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        r = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps))
        n = x * r
        ctx.save_for_backward(n, r, weight)
        return n if weight is None else n * weight

    @staticmethod
    def backward(ctx, g):
        n, r, weight = ctx.saved_tensors
        gw = None
        if weight is not None:
            gw = (g * n).reshape(-1, n.shape[-1]).sum(0)
            g = g * weight
        mean = (g * n).mean(-1, keepdim=True)
        return (g - n * mean) * r, gw, None


def rms_norm(x, weight=None, eps=1e-6):
    return (FAST.Norm if FAST else RmsNorm).apply(x, weight, eps)


def linear(x, matrix):
    return FAST.Linear.apply(x, matrix) if FAST else F.linear(x, matrix)


class GeluGate(torch.autograd.Function):
    """gelu_tanh(gate) * up for the two halves of x, with one tanh for both directions."""
    @staticmethod
    def forward(ctx, x):
        gate, up = x.chunk(2, -1)
        sq = gate * gate
        t = torch.tanh_(gate * sq.mul(0.044715 * 0.7978845608).add_(0.7978845608))
        ctx.save_for_backward(x, t, sq)
        return (t + 1).mul_(gate).mul_(0.5).mul_(up)

    @staticmethod
    def backward(ctx, g):
        x, t, sq = ctx.saved_tensors
        gate, up = x.chunk(2, -1)
        act = (t + 1).mul_(0.5)
        slope = (1 - t * t).mul_(gate).mul_(sq.mul(3 * 0.044715 * 0.7978845608).add_(0.7978845608)).mul_(0.5)
        slope.add_(act)
        out = torch.empty_like(x)
        dgate, dup = out.chunk(2, -1)
        torch.mul(slope.mul_(up), g, out=dgate)
        torch.mul(act.mul_(gate), g, out=dup)
        return out


def rotation(positions, head_dim, theta, turning):
    """cos and sin [rows][tokens][1][head_dim / 2]; only the first `turning` pairs turn."""
    f = theta ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    f[turning:] = 0
    angle = positions.float()[..., None, None] * f
    return torch.cos(angle), torch.sin(angle)


def rope(x, turn):
    cos, sin = turn
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q, k, v, mask):
    """q [rows][tokens][heads][d], k and v [rows][keys][kv][d], mask [rows][1][tokens][keys] -> like q."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    rows, heads, tokens, d = q.shape
    kv, keys = k.shape[1:3]
    q = q.reshape(rows, kv, heads // kv * tokens, d)
    scores = (q @ k.transpose(2, 3)).view(rows, heads, tokens, keys)
    weights = torch.softmax(scores.add_(mask), -1).view(rows, kv, heads // kv * tokens, keys)
    return (weights @ v).view(rows, heads, tokens, d).transpose(1, 2)


class Layer(nn.Module):
    def __init__(self, shape, sliding):
        super().__init__()
        self.sliding, width = sliding, shape['width']
        self.heads, self.kv, self.d = shape['heads'], shape['kv'][not sliding], shape['head_dim'][not sliding]
        self.eps = shape['eps']

        def matrix(n_out, n_in):
            return nn.Parameter(torch.randn(n_out, n_in) / math.sqrt(n_in))

        self.q = matrix(self.heads * self.d, width)
        self.k = matrix(self.kv * self.d, width)
        if sliding:
            self.v = matrix(self.kv * self.d, width)
        self.o = matrix(width, self.heads * self.d)
        self.gate, self.up = matrix(shape['ff'], width), matrix(shape['ff'], width)
        self.down = matrix(width, shape['ff'])
        for name in ('attn_norm', 'ffn_norm'):
            setattr(self, name, nn.Parameter(torch.ones(width)))
        for name in ('post_attn_norm', 'post_ffn_norm'):
            setattr(self, name, nn.Parameter(torch.full((width,), 0.4)))
        self.q_norm = nn.Parameter(torch.full((self.d,), 1.3 * self.d ** -0.25))
        self.k_norm = nn.Parameter(torch.full((self.d,), 1.3 * self.d ** -0.25))
        self.scale = nn.Parameter(torch.ones(1))

    def attention(self, a, turn, mask, cache):
        rows, tokens, _ = a.shape
        if self.sliding:
            w = torch.cat([self.q, self.k, self.v])
        else:
            w = torch.cat([self.q, self.k])
        parts = linear(a, w).view(rows, tokens, -1, self.d)
        q = rope(rms_norm(parts[:, :, :self.heads], self.q_norm), turn)
        raw = parts[:, :, self.heads:self.heads + self.kv]
        k = rope(rms_norm(raw, self.k_norm), turn)
        v = rms_norm(parts[:, :, self.heads + self.kv:] if self.sliding else raw)
        if cache is not None:
            k, v = cache.add(self, k, v)
        look = FAST.Attend.apply if mask.dtype == torch.int32 else attend
        return linear(look(q, k, v, mask).reshape(rows, tokens, -1), self.o)

    def forward(self, x, turn, mask, cache=None):
        a = self.attention(rms_norm(x, self.attn_norm), turn, mask, cache)
        x = x + rms_norm(a, self.post_attn_norm)
        m = (FAST.Gate if FAST else GeluGate).apply(linear(rms_norm(x, self.ffn_norm), torch.cat([self.gate, self.up])))
        return (x + rms_norm(linear(m, self.down), self.post_ffn_norm)) * self.scale


class Eye(nn.Module):
    """Tiles to embeddings."""

    def __init__(self, shape):
        super().__init__()
        width, n = shape['width'], shape['tile_values']
        self.dense = nn.Parameter(first_look(width, n))
        self.dense_bias = nn.Parameter(torch.zeros(width))
        self.norm2, self.bias2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.norm3, self.bias3 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        places = torch.zeros(2, shape['places'], width)
        places[:, :16] = torch.randn(2, 16, width) * 0.5
        self.places = nn.Parameter(places)
        self.out = nn.Parameter(torch.randn(width, width) / math.sqrt(width))

    def forward(self, tiles, places):
        width = self.norm2.shape[0]
        v = F.layer_norm(F.linear(tiles, self.dense, self.dense_bias), (width,), self.norm2, self.bias2, 1e-5)
        v = v + self.places[0][places[:, 0]] + self.places[1][places[:, 1]]
        v = F.layer_norm(v, (width,), self.norm3, self.bias3, 1e-5)
        return F.linear(rms_norm(v), self.out)


def first_look(width, n):
    """Where the tile matrix starts: means over 8 x 8 pixels for as many outputs as there are, noise for the rest."""
    w = torch.randn(width, n) * 0.05
    side = int(math.sqrt(n // 3))                            # 12
    at = 0
    for c in range(3):
        for y in range(side // 2):
            for x in range(side // 2):
                if at < width:
                    box = torch.zeros(3, side, side)
                    box[c, 2 * y:2 * y + 2, 2 * x:2 * x + 2] = 0.25
                    w[at] = box.reshape(-1)
                    at += 1
    return w


def first_listen(width, n):
    """Where the frame matrix starts: sine and cosine of rising frequency."""
    f = np.geomspace(220, 3200, width // 2)
    angle = 2 * np.pi * f[:, None] * np.arange(n) / 16000
    window = np.hanning(n + 2)[1:-1]
    w = np.concatenate([np.cos(angle) * window, np.sin(angle) * window])
    return torch.tensor(w / np.sqrt(np.mean(w * w)) / math.sqrt(n), dtype=torch.float32)


class Model(nn.Module):
    def __init__(self, vocabulary_size, shape=None, hint_classes=None):
        super().__init__()
        s = self.shape = dict(SHAPE, **(shape or {}))
        width = s['width']
        self.embedding = nn.Parameter(torch.randn(vocabulary_size, width) / math.sqrt(width))
        self.layers = nn.ModuleList(Layer(s, kind == 'S') for kind in s['layers'])
        self.norm = nn.Parameter(torch.ones(width))
        self.eye = Eye(s)
        self.ear = nn.Parameter(first_listen(width, s['frame']))
        self.hint_layer = s['layers'].index('F')
        self.hint_heads = nn.ModuleDict({kind: nn.Linear(width, sum(n)) for kind, n in (hint_classes or {}).items()})
        self.hint_classes = hint_classes or {}
        self.cover_head = nn.Linear(width, 36) if hint_classes else None
        self.named_heads = nn.ModuleList(nn.Linear(width, sum(hint_classes['image']))
                                         for _ in s['layers'][self.hint_layer + 1:-1]) if hint_classes else None
        self.early_heads = nn.ModuleList(nn.Linear(width, n) for n in hint_classes['image'][:1] * self.hint_layer
                                         ) if hint_classes else None

        self.heard_heads = nn.ModuleDict({str(i): nn.Linear(width, hint_classes['audio'][0]) for i in range(
            len(s['layers']) - 1) if i != self.hint_layer}) if hint_classes else None

    def embed(self, batch):
        rows, tokens = batch['ids'].shape
        x = F.embedding(batch['ids'], self.embedding) * math.sqrt(self.shape['width'])
        x = x.view(rows * tokens, -1)
        if 'image_values' in batch:
            x = x.index_copy(0, batch['image_slots'], self.eye(batch['image_values'], batch['places']))
        if 'audio_values' in batch:
            x = x.index_copy(0, batch['audio_slots'], F.linear(batch['audio_values'], self.ear))
        return x.view(rows, tokens, -1)

    def turns(self, positions):
        """Rotations for sliding and full layers."""
        s = self.shape
        return [rotation(positions, s['head_dim'][f], s['theta'][f],
                         s['head_dim'][f] // (8 if f else 2)) for f in (0, 1)]

    def forward(self, x, turns, masks, cache=None, hints_only=False):
        """Embeddings -> normed output (or None), and the stream after each layer, for the extra heads."""
        seen = []
        for i, layer in enumerate(self.layers):
            full = not layer.sliding
            x = layer(x, turns[full], masks[full], cache)
            seen.append(x)
            if i == self.hint_layer and hints_only:
                return None, seen
        return rms_norm(x, self.norm), seen

    def logits(self, h):
        return self.shape['cap'] * torch.tanh(F.linear(h, self.embedding) / self.shape['cap'])


def masks(batch, window):
    """0 where a token may look, a large negative number elsewhere; for sliding and for full layers."""
    tree, branch, positions, image = (batch[n] for n in ('tree', 'branch', 'positions', 'image'))
    q, k = positions[:, :, None], positions[:, None, :]
    same = (tree[:, :, None] == tree[:, None, :]) & (tree[:, None, :] >= 0)
    same &= (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    full = same & (k <= q)
    block = (image[:, :, None] == image[:, None, :]) & (image[:, None, :] >= 0)
    sliding = (full | block) & (q - k < window)
    lone = torch.eye(tree.shape[1], dtype=torch.bool)        # padding looks at itself
    out = []
    for m in (sliding, full):
        m = m | (lone & (tree < 0)[:, :, None])
        out.append(torch.zeros(m.shape).masked_fill_(~m, -1e9)[:, None])
    return out


class Cache:
    """Keys and values seen so far, for generation and for the drafter."""

    def __init__(self):
        self.kept = {}

    def add(self, layer, k, v):
        if layer in self.kept:
            k, v = (torch.cat([old, new], 1) for old, new in zip(self.kept[layer], (k, v)))
        self.kept[layer] = k, v
        return k, v
