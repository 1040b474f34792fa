"""gguf.py - writes and reads the GGUF files of the demo model: metadata, and tensors as F32, F16 or Q8_0."""
import struct

import numpy as np

ALIGNMENT = 32
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
FORMAT = {0: 'B', 1: 'b', 2: 'H', 3: 'h', U32: 'I', I32: 'i', F32: 'f', BOOL: '?', 10: 'Q', 11: 'q', 12: 'd'}
TENSOR_TYPES = {'f32': 0, 'f16': 1, 'q8_0': 8}


def to_q8_0(x):
    """float32 [..., n] with n a multiple of 32 -> bytes: per 32 values a half-float scale and 32 signed bytes."""
    blocks = x.astype(np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    out = np.zeros(len(blocks), np.dtype([('scale', '<f2'), ('q', 'i1', 32)]))
    out['scale'] = scale[:, 0]
    out['q'] = np.rint(blocks * inverse)
    return out.tobytes()


def from_q8_0(data, count):
    blocks = np.frombuffer(data, np.dtype([('scale', '<f2'), ('q', 'i1', 32)]), count // 32)
    return (blocks['scale'].astype(np.float32)[:, None] * blocks['q']).reshape(-1)


def encode(array, kind):
    if kind == 'q8_0':
        return to_q8_0(array)
    return np.ascontiguousarray(array, '<f4' if kind == 'f32' else '<f2').tobytes()


def string(text):
    raw = text.encode()
    return struct.pack('<Q', len(raw)) + raw


def metadata_value(kind, value):
    """kind: a value type, or (ARRAY, value type)."""
    if isinstance(kind, tuple):
        return struct.pack('<IQ', kind[1], len(value)) + b''.join(metadata_value(kind[1], v) for v in value)
    return string(value) if kind == STRING else struct.pack('<' + FORMAT[kind], value)


def write(path, metadata, tensors):
    """metadata: (key, kind, value); tensors: (name, array as numpy shapes it, 'f32' | 'f16' | 'q8_0')."""
    head = b'GGUF' + struct.pack('<IQQ', 3, len(tensors), len(metadata))
    for key, kind, value in metadata:
        head += string(key) + struct.pack('<I', kind[0] if isinstance(kind, tuple) else kind)
        head += metadata_value(kind, value)
    at, data = 0, []
    for name, array, kind in tensors:
        raw = encode(array, kind)
        dims = array.shape[::-1]                             # the contiguous one first
        head += string(name) + struct.pack(f'<I{len(dims)}QIQ', len(dims), *dims, TENSOR_TYPES[kind], at)
        raw += bytes(-len(raw) % ALIGNMENT)
        data.append(raw)
        at += len(raw)
    with open(path, 'wb') as f:
        f.write(head + bytes(-len(head) % ALIGNMENT) + b''.join(data))


class Reader:
    """metadata: dict; tensors: dict of float32 arrays."""

    def __init__(self, path):
        with open(path, 'rb') as f:
            self.raw = f.read()
        self.at = 4
        version, n_tensors, n_metadata = self._take('IQQ')
        if self.raw[:4] != b'GGUF' or version != 3:
            raise ValueError(f'{path}: not a GGUF file of version 3')
        self.metadata, self.tensors, places = {}, {}, []
        for _ in range(n_metadata):
            key = self._string()
            self.metadata[key] = self._value(self._take('I')[0])
        for _ in range(n_tensors):
            name, n = self._string(), self._take('I')[0]
            dims = self._take(f'{n}Q')
            places.append((name, dims[::-1], *self._take('IQ')))
        start = -(-self.at // ALIGNMENT) * ALIGNMENT
        for name, shape, kind, offset in places:
            self.tensors[name] = self._tensor(start + offset, shape, kind)

    def _take(self, form):
        values = struct.unpack_from('<' + form, self.raw, self.at)
        self.at += struct.calcsize('<' + form)
        return values

    def _string(self):
        n = self._take('Q')[0]
        self.at += n
        return self.raw[self.at - n:self.at].decode()

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            inner, n = self._take('IQ')
            return [self._value(inner) for _ in range(n)]
        return self._take(FORMAT[kind])[0]

    def _tensor(self, at, shape, kind):
        count = int(np.prod(shape))
        if kind == TENSOR_TYPES['q8_0']:
            values = from_q8_0(self.raw[at:at + count // 32 * 34], count)
        else:
            values = np.frombuffer(self.raw, {0: '<f4', 1: '<f2'}[kind], count, at).astype(np.float32)
        return values.reshape(shape)
