"""fast.py - fast.c, compiled for this machine at first use, as torch functions.  Training only."""
import ctypes
import os
import subprocess
import tempfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))


def build():
    out = os.path.join(tempfile.mkdtemp(prefix='demo-fast-'), 'fast.so')
    subprocess.run([os.environ.get('CC', 'cc'), '-O3', '-march=native', '-ffast-math', '-fno-finite-math-only', '-shared',
                    '-fPIC', os.path.join(HERE, 'fast.c'), '-o', out, '-lm'], check=True)
    return ctypes.CDLL(out)


def numbers():
    with open('/proc/cpuinfo') as f:
        return torch.bfloat16 if 'avx512_bf16' in f.read() else torch.float32


LIBRARY, NUMBERS = build(), numbers()


def call(name, *values):
    """Tensors as pointers, None as NULL, whole numbers as int64, fractions as float."""
    given = []
    for v in values:
        if v is None or isinstance(v, torch.Tensor):
            assert v is None or v.is_contiguous()
            given.append(ctypes.c_void_p(v.data_ptr() if v is not None else None))
        else:
            given.append(ctypes.c_int64(v) if isinstance(v, int) else ctypes.c_float(v))
    getattr(LIBRARY, name)(*given)


class Attend(torch.autograd.Function):
    """q [rows][tokens][heads][d], k and v [rows][tokens][kv][d], see int32 [rows][tokens][4] -> like q."""
    @staticmethod
    def forward(ctx, q, k, v, see):
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, total = torch.empty_like(q), torch.empty(q.shape[:3])
        ctx.sizes = q.shape[0], q.shape[1], q.shape[2], k.shape[2], q.shape[3]
        call('attend_forward', out, total, q, k, v, see, *ctx.sizes)
        ctx.save_for_backward(q, k, v, see, out, total)
        return out

    @staticmethod
    def backward(ctx, g):
        q, k, v, see, out, total = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        call('attend_backward', dq, dk, dv, g.contiguous(), out, total, q, k, v, see, *ctx.sizes)
        return dq, dk, dv, None


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        x, n = x.contiguous(), x.shape[-1]
        y, r = torch.empty_like(x), torch.empty(x.numel() // n)
        call('norm_forward', y, r, x, weight, x.numel() // n, n, eps)
        ctx.save_for_backward(x, r, weight)
        return y

    @staticmethod
    def backward(ctx, g):
        x, r, weight = ctx.saved_tensors
        n, dx = x.shape[-1], torch.empty_like(x)
        dw = None if weight is None else torch.zeros_like(weight)
        call('norm_backward', dx, dw, g.contiguous(), x, r, weight, x.numel() // n, n)
        return dx, dw, None


class Linear(torch.autograd.Function):
    """x [...][n] times matrix [m][n], all in bfloat16: about twice as fast where the CPU has instructions for it."""
    @staticmethod
    def forward(ctx, x, matrix):
        flat, matrix = x.reshape(-1, x.shape[-1]).to(NUMBERS), matrix.to(NUMBERS)
        ctx.save_for_backward(flat, matrix)
        return (flat @ matrix.t()).float().view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, g):
        flat, matrix = ctx.saved_tensors
        g2 = g.reshape(-1, g.shape[-1]).to(NUMBERS)
        return (g2 @ matrix).float().view(*g.shape[:-1], -1), (g2.t() @ flat).float()


class Gate(torch.autograd.Function):
    """[..., 2 n] (gate, up) -> gelu_tanh(gate) * up"""
    @staticmethod
    def forward(ctx, x):
        x, n = x.contiguous(), x.shape[-1] // 2
        y = torch.empty(*x.shape[:-1], n)
        call('gate_forward', y, x, y.numel() // n, n)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, g):
        x, = ctx.saved_tensors
        dx, n = torch.empty_like(x), x.shape[-1] // 2
        call('gate_backward', dx, g.contiguous(), x, g.numel() // n, n)
        return dx
