"""A tiny random model of the Gemma 4 shape, for tests of the line: text file and media file.

    tiny_model.py OUT_DIR [SEED]      writes tiny.gguf and tiny-mmproj.gguf

It says nothing of sense, but the same nothing each time. Needs numpy.
"""
import os
import struct
import sys

import numpy as np

U32, I32, F32, BOOL, STR, ARR = 4, 5, 6, 7, 8, 9
TYPE_F32, TYPE_Q8_0 = 0, 8
ALIGN = 32

LAYERS, WIDTH, FF, HEADS, PERIOD, WINDOW = 4, 64, 128, 4, 4, 32
HEAD_SLIDING, HEAD_FULL, KV_SLIDING, KV_FULL = 16, 32, 2, 1
CONTEXT, TILE_PATCH, MERGE, POSITIONS, SAMPLES = 8192, 16, 3, 1120, 640

SPECIALS = ['<pad>', '<eos>', '<bos>', '<unk>', '<mask>', '<|tool>', '<tool|>', '<|tool_call>',
            '<tool_call|>', '<|tool_response>', '<tool_response|>', '<|"|>', '<|think|>', '<|channel>',
            '<channel|>', '<|turn>', '<turn|>', '<|image>', '<|audio>', '<|image|>', '<|audio|>',
            '<image|>', '<audio|>', '<|video|>']
# never chosen: an answer of the tiny model must not end or open a channel by accident
SILENT = [s for s in SPECIALS if s not in ('<turn|>',)]


# ---------------------------------------------------------------- GGUF, version 3
def text(s):
    raw = s.encode()
    return struct.pack('<Q', len(raw)) + raw


def value(kind, v):
    if isinstance(kind, tuple):
        return struct.pack('<IQ', kind[1], len(v)) + b''.join(value(kind[1], x) for x in v)
    if kind == STR:
        return text(v)
    return struct.pack({U32: '<I', I32: '<i', F32: '<f', BOOL: '<?'}[kind], v)


def write_gguf(path, metadata, tensors):
    """metadata: [(key, kind, value)]; tensors: [(name, dims, type, bytes)], dims contiguous first."""
    head = b'GGUF' + struct.pack('<IQQ', 3, len(tensors), len(metadata))
    for key, kind, v in metadata:
        head += text(key) + struct.pack('<I', ARR if isinstance(kind, tuple) else kind) + value(kind, v)
    at, body = 0, []
    for name, dims, kind, data in tensors:
        head += text(name) + struct.pack('<I', len(dims)) + struct.pack(f'<{len(dims)}Q', *dims)
        head += struct.pack('<IQ', kind, at)
        body.append(data + bytes(-len(data) % ALIGN))
        at += len(body[-1])
    with open(path, 'wb') as f:
        f.write(head + bytes(-len(head) % ALIGN) + b''.join(body))


def f32(x):
    return np.asarray(x, '<f4').tobytes()


def q8_0(x):
    blocks = np.asarray(x, np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    q = np.rint(blocks / np.where(scale == 0, 1, scale)).astype(np.int8)
    return np.concatenate([scale.astype('<f2').view(np.uint8), q.view(np.uint8)], axis=1).tobytes()


# ---------------------------------------------------------------- vocabulary
def vocabulary():
    """Specials, bytes, printable characters, and pairs of letters that common words need."""
    pieces = list(SPECIALS) + [f'<0x{b:02X}>' for b in range(256)]
    kinds = [3] * len(SPECIALS) + [6] * 256
    letters = [chr(c) for c in range(97, 123)]
    characters = ['\n', '\u2581'] + [chr(c) for c in range(33, 127)]
    pairs = [a + b for a in letters for b in 'aeiounrst']
    merges = [f'{p[0]} {p[1]}' for p in pairs]
    pieces += characters + pairs
    kinds += [1] * (len(characters) + len(pairs))
    return pieces, kinds, merges


def tokenizer_metadata(pieces, kinds, merges):
    t = 'tokenizer.ggml.'
    ids = {p: i for i, p in enumerate(pieces)}
    return [(t + 'model', STR, 'gemma4'), (t + 'tokens', (ARR, STR), pieces),
            (t + 'scores', (ARR, F32), [-1000.0] * len(pieces)), (t + 'token_type', (ARR, I32), kinds),
            (t + 'merges', (ARR, STR), merges), (t + 'bos_token_id', U32, ids['<bos>']),
            (t + 'eos_token_id', U32, ids['<eos>']), (t + 'unknown_token_id', U32, ids['<unk>']),
            (t + 'padding_token_id', U32, ids['<pad>']), (t + 'add_bos_token', BOOL, True),
            (t + 'suppress_tokens', (ARR, I32), [ids[s] for s in SILENT])]


# ---------------------------------------------------------------- the two files
def attention(a, full):
    """Metadata under the prefix a; full: of each layer, whether it sees all."""
    return [(a + 'attention.head_count', U32, HEADS),
            (a + 'attention.head_count_kv', (ARR, I32), [KV_FULL if f else KV_SLIDING for f in full]),
            (a + 'attention.key_length', U32, HEAD_FULL), (a + 'attention.value_length', U32, HEAD_FULL),
            (a + 'attention.key_length_swa', U32, HEAD_SLIDING), (a + 'attention.value_length_swa', U32, HEAD_SLIDING),
            (a + 'attention.layer_norm_rms_epsilon', F32, 1e-6), (a + 'attention.sliding_window', U32, WINDOW),
            (a + 'attention.sliding_window_pattern', (ARR, BOOL), [not f for f in full])]


def text_file(path, rng):
    pieces, kinds, merges = vocabulary()
    full = [(i + 1) % PERIOD == 0 for i in range(LAYERS)]
    a = 'gemma4.'
    metadata = [('general.architecture', STR, 'gemma4'), ('general.name', STR, 'tiny random model'),
                (a + 'block_count', U32, LAYERS), (a + 'context_length', U32, CONTEXT),
                (a + 'embedding_length', U32, WIDTH), (a + 'feed_forward_length', U32, FF),
                *attention(a, full),
                (a + 'attention.shared_kv_layers', U32, 0), (a + 'embedding_length_per_layer_input', U32, 0),
                (a + 'rope.freq_base', F32, 1e6), (a + 'rope.freq_base_swa', F32, 1e4),
                (a + 'rope.dimension_count', U32, HEAD_FULL), (a + 'rope.dimension_count_swa', U32, HEAD_SLIDING),
                (a + 'final_logit_softcapping', F32, 30.0)] + tokenizer_metadata(pieces, kinds, merges)
    tensors = []

    def matrix(name, n_in, n_out):
        tensors.append((name, (n_in, n_out), TYPE_Q8_0, q8_0(rng.standard_normal((n_out, n_in)) / n_in ** 0.5)))

    def vector(name, n, mean, spread=0.1):
        tensors.append((name, (n,), TYPE_F32, f32(mean * (1 + spread * rng.standard_normal(n)))))

    # Short rows are seldom chosen: bytes (they make unreadable answers) and specials (they end them).
    length = np.array([1.0 if k == 1 else 0.2 for k in kinds])[:, None]
    rows = rng.standard_normal((len(pieces), WIDTH)) / WIDTH ** 0.5 * length
    tensors.append(('token_embd.weight', (WIDTH, len(pieces)), TYPE_Q8_0, q8_0(rows)))
    vector('output_norm.weight', WIDTH, 6)
    turning = np.where(np.arange(HEAD_FULL // 2) < HEAD_FULL // 8, 1.0, 1e30)
    tensors.append(('rope_freqs.weight', (HEAD_FULL // 2,), TYPE_F32, f32(turning)))
    for i in range(LAYERS):
        d, kv, p = (HEAD_FULL, KV_FULL, f'blk.{i}.') if full[i] else (HEAD_SLIDING, KV_SLIDING, f'blk.{i}.')
        vector(p + 'attn_norm.weight', WIDTH, 1)
        matrix(p + 'attn_q.weight', WIDTH, HEADS * d)
        matrix(p + 'attn_k.weight', WIDTH, kv * d)
        if not full[i]:
            matrix(p + 'attn_v.weight', WIDTH, kv * d)
        matrix(p + 'attn_output.weight', HEADS * d, WIDTH)
        vector(p + 'attn_q_norm.weight', d, (2 / d ** 0.5) ** 0.5)
        vector(p + 'attn_k_norm.weight', d, (2 / d ** 0.5) ** 0.5)
        vector(p + 'post_attention_norm.weight', WIDTH, 2)
        vector(p + 'ffn_norm.weight', WIDTH, 1)
        matrix(p + 'ffn_gate.weight', WIDTH, FF)
        matrix(p + 'ffn_up.weight', WIDTH, FF)
        matrix(p + 'ffn_down.weight', FF, WIDTH)
        vector(p + 'post_ffw_norm.weight', WIDTH, 2)
        vector(p + 'layer_output_scale.weight', 1, 1, 0)
    write_gguf(path, metadata, tensors)


def media_file(path, rng):
    tile = TILE_PATCH * MERGE
    values = 3 * tile * tile
    metadata = [('general.architecture', STR, 'clip'), ('general.type', STR, 'mmproj'),
                ('clip.has_vision_encoder', BOOL, True), ('clip.has_audio_encoder', BOOL, True),
                ('clip.vision.projector_type', STR, 'gemma4uv'), ('clip.audio.projector_type', STR, 'gemma4ua'),
                ('clip.vision.image_size', U32, 224), ('clip.vision.patch_size', U32, TILE_PATCH),
                ('clip.vision.projector.scale_factor', U32, MERGE),
                ('clip.vision.embedding_length', U32, WIDTH), ('clip.vision.projection_dim', U32, WIDTH),
                ('clip.vision.attention.layer_norm_epsilon', F32, 1e-6),
                ('clip.audio.embedding_length', U32, SAMPLES), ('clip.audio.projection_dim', U32, WIDTH),
                ('clip.audio.attention.layer_norm_epsilon', F32, 1e-6)]
    tensors = []

    def add(name, dims, array):
        tensors.append((name, dims, TYPE_F32, f32(array)))

    def norm(number, n):
        add(f'v.patch_norm.{number}.weight', (n,), 1 + 0.1 * rng.standard_normal(n))
        add(f'v.patch_norm.{number}.bias', (n,), 0.1 * rng.standard_normal(n))

    add('v.patch_embd.weight', (values, WIDTH), rng.standard_normal((WIDTH, values)) / values ** 0.5)
    add('v.patch_embd.bias', (WIDTH,), 0.1 * rng.standard_normal(WIDTH))
    norm(1, values)
    norm(2, WIDTH)
    norm(3, WIDTH)
    add('v.position_embd.weight', (WIDTH, POSITIONS, 2), 0.5 * rng.standard_normal((2, POSITIONS, WIDTH)))
    add('mm.input_projection.weight', (WIDTH, WIDTH), rng.standard_normal((WIDTH, WIDTH)) / WIDTH ** 0.5)
    add('mm.a.input_projection.weight', (SAMPLES, WIDTH), rng.standard_normal((WIDTH, SAMPLES)) / SAMPLES ** 0.5)
    write_gguf(path, metadata, tensors)


def drafter_file(path, seed=1):
    """A drafter for the text file. Its guesses are seldom right."""
    rng = np.random.Generator(np.random.PCG64(seed))
    pieces, kinds, merges = vocabulary()
    width, full, a = 32, [False, True], 'gemma4-assistant.'
    metadata = [('general.architecture', STR, 'gemma4-assistant'), (a + 'block_count', U32, 2),
                (a + 'context_length', U32, CONTEXT), (a + 'embedding_length', U32, width),
                (a + 'embedding_length_out', U32, WIDTH), (a + 'feed_forward_length', U32, FF),
                *attention(a, full),
                (a + 'attention.shared_kv_layers', U32, 2),
                (a + 'rope.freq_base', F32, 1e6), (a + 'rope.freq_base_swa', F32, 1e4)]
    tensors = []

    def matrix(name, n_in, n_out):
        tensors.append((name, (n_in, n_out), TYPE_Q8_0, q8_0(rng.standard_normal((n_out, n_in)) / n_in ** 0.5)))

    def vector(name, n):
        tensors.append((name, (n,), TYPE_F32, f32(np.ones(n))))

    matrix('token_embd.weight', width, len(pieces))
    vector('output_norm.weight', width)
    matrix('nextn.pre_projection.weight', 2 * WIDTH, width)
    matrix('nextn.post_projection.weight', width, WIDTH)
    for i, f in enumerate(full):
        d, p = HEAD_FULL if f else HEAD_SLIDING, f'blk.{i}.'
        for name, n in (('attn_norm', width), ('attn_q_norm', d), ('post_attention_norm', width),
                        ('ffn_norm', width), ('post_ffw_norm', width), ('layer_output_scale', 1)):
            vector(f'{p}{name}.weight', n)
        for name, n_in, n_out in (('attn_q', width, HEADS * d), ('attn_output', HEADS * d, width),
                                  ('ffn_gate', width, FF), ('ffn_up', width, FF), ('ffn_down', FF, width)):
            matrix(f'{p}{name}.weight', n_in, n_out)
    write_gguf(path, metadata + tokenizer_metadata(pieces, kinds, merges), tensors)
    return path


def make(folder, seed=1):
    """Writes both files; returns their paths."""
    rng = np.random.Generator(np.random.PCG64(seed))
    paths = os.path.join(folder, 'tiny.gguf'), os.path.join(folder, 'tiny-mmproj.gguf')
    text_file(paths[0], rng)
    media_file(paths[1], rng)
    return paths


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(*make(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1))
