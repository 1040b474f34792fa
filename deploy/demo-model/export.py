#!/usr/bin/python3
"""export.py - checkpoint -> model.gguf and mmproj.gguf, with the names, shapes and metadata of a Gemma 4 12B.

    ./export.py --checkpoint /tmp/demo-train/model.pt --out .

Matrices are Q8_0 (--float: F32), the tile matrix F16, vectors and the position tables F32.
"""
import argparse
import os

import numpy as np
import torch

import gguf
from gguf import ARRAY, BOOL, F32, I32, STRING, U32
from vocabulary import SUPPRESSED, Vocabulary

CELL, TILE = 4, 48                                           # pixels; see scenes.py
FILE_TYPE = {'f32': 0, 'q8_0': 7}
# tensors of a layer: (name in the file, name in model.py, is it a matrix)
LAYER = [('attn_norm', 'attn_norm', False), ('attn_q', 'q', True), ('attn_k', 'k', True), ('attn_v', 'v', True),
         ('attn_output', 'o', True), ('attn_q_norm', 'q_norm', False), ('attn_k_norm', 'k_norm', False),
         ('post_attention_norm', 'post_attn_norm', False), ('ffn_norm', 'ffn_norm', False), ('ffn_gate', 'gate', True),
         ('ffn_up', 'up', True), ('ffn_down', 'down', True), ('post_ffw_norm', 'post_ffn_norm', False),
         ('layer_output_scale', 'scale', False)]
# tensors of the embedders that are stored as they are
PROJECTOR = [('v.patch_embd.bias', 'eye.dense_bias', False), ('v.patch_norm.2.weight', 'eye.norm2', False),
             ('v.patch_norm.2.bias', 'eye.bias2', False), ('v.patch_norm.3.weight', 'eye.norm3', False),
             ('v.patch_norm.3.bias', 'eye.bias3', False), ('v.position_embd.weight', 'eye.places', False),
             ('mm.input_projection.weight', 'eye.out', True), ('mm.a.input_projection.weight', 'ear', True)]


def general(architecture, kind, storage):
    return [('general.architecture', STRING, architecture), ('general.type', STRING, kind),
            ('general.name', STRING, 'Millrace demo'), ('general.license', STRING, 'apache-2.0'),
            ('general.file_type', U32, FILE_TYPE[storage]), ('general.quantization_version', U32, 2)]


def tokenizer(v):
    t = 'tokenizer.ggml.'
    named = [(t + key + '_token_id', U32, v.id[piece]) for key, piece in
             (('bos', '<bos>'), ('eos', '<eos>'), ('unknown', '<unk>'), ('padding', '<pad>'), ('mask', '<mask>'))]
    return [(t + 'model', STRING, 'gemma4'), (t + 'tokens', (ARRAY, STRING), v.pieces),
            (t + 'scores', (ARRAY, F32), [-1000.0] * len(v)), (t + 'token_type', (ARRAY, I32), v.types()),
            (t + 'merges', (ARRAY, STRING), [f'{a} {b}' for a, b in v.merges]), *named,
            (t + 'add_bos_token', BOOL, True), (t + 'add_space_prefix', BOOL, False),
            (t + 'suppress_tokens', (ARRAY, I32), [v.id[piece] for piece in SUPPRESSED])]


def decoder_metadata(s, storage, vocabulary, architecture='gemma4', more=()):
    sliding = [kind == 'S' for kind in s['layers']]
    small, large = s['head_dim']
    values = [('block_count', U32, len(sliding)), ('context_length', U32, s['context']),
              ('embedding_length', U32, s['width']), ('feed_forward_length', U32, s['ff']),
              ('attention.head_count', U32, s['heads']),
              ('attention.head_count_kv', (ARRAY, I32), [s['kv'][not x] for x in sliding]),
              ('attention.key_length', U32, large), ('attention.value_length', U32, large),
              ('attention.key_length_swa', U32, small), ('attention.value_length_swa', U32, small),
              ('attention.layer_norm_rms_epsilon', F32, s['eps']), ('attention.sliding_window', U32, s['window']),
              ('attention.sliding_window_pattern', (ARRAY, BOOL), sliding),
              ('attention.shared_kv_layers', U32, len(sliding) if more else 0),
              ('embedding_length_per_layer_input', U32, 0), ('rope.freq_base', F32, s['theta'][1]),
              ('rope.freq_base_swa', F32, s['theta'][0]), ('rope.dimension_count', U32, large),
              ('rope.dimension_count_swa', U32, small), *(more or [('final_logit_softcapping', F32, s['cap'])])]
    return (general(architecture, 'model', storage) + [(f'{architecture}.{key}', kind, v) for key, kind, v in values]
            + tokenizer(vocabulary))


def rope_divisors(s):
    pairs = s['head_dim'][1] // 2                            # a quarter of them turns
    return 'rope_freqs.weight', np.where(np.arange(pairs) < pairs // 4, 1, 1e30), 'f32'


def decoder_tensors(s, weights, storage):
    out = [('token_embd.weight', weights['embedding'], storage), ('output_norm.weight', weights['norm'], 'f32'),
           rope_divisors(s)]
    for i in range(len(s['layers'])):
        for name, key, matrix in LAYER:
            if f'layers.{i}.{key}' in weights:               # full layers have no v
                out.append((f'blk.{i}.{name}.weight', weights[f'layers.{i}.{key}'], storage if matrix else 'f32'))
    return out


def projector_metadata(s, storage):
    values = general('clip', 'mmproj', storage) + [
        ('clip.has_vision_encoder', BOOL, True), ('clip.has_audio_encoder', BOOL, True),
        ('clip.vision.projector_type', STRING, 'gemma4uv'), ('clip.audio.projector_type', STRING, 'gemma4ua'),
        ('clip.vision.image_size', U32, 224), ('clip.vision.patch_size', U32, TILE // 3),
        ('clip.vision.projector.scale_factor', U32, 3), ('clip.vision.image_mean', (ARRAY, F32), [0.0] * 3),
        ('clip.vision.image_std', (ARRAY, F32), [1.0] * 3), ('clip.audio.num_mel_bins', U32, 128),
        ('clip.use_gelu', BOOL, True)]
    for medium, width in (('vision', s['width']), ('audio', s['frame'])):
        c = f'clip.{medium}.'
        values += [(c + 'embedding_length', U32, width), (c + 'projection_dim', U32, s['width']),
                   (c + 'feed_forward_length', U32, 0), (c + 'block_count', U32, 0),
                   (c + 'attention.head_count', U32, 0), (c + 'attention.layer_norm_epsilon', F32, s['eps'])]
    return values


def over_pixels(dense):
    """[width][3 * 12 * 12] over means of 4 x 4 pixels -> [width][6912] over pixels, channel first."""
    side = TILE // CELL
    w = dense.reshape(-1, 3, side, 1, side, 1) / CELL ** 2
    return np.broadcast_to(w, (len(dense), 3, side, CELL, side, CELL)).reshape(len(dense), -1)


def over_cells(patch):
    """The way back: what over_pixels was given."""
    side = TILE // CELL
    return patch.reshape(-1, 3, side, CELL, side, CELL).sum((3, 5)).reshape(len(patch), -1)


def projector_tensors(weights, storage):
    n = 3 * TILE * TILE
    out = [('v.patch_embd.weight', over_pixels(weights['eye.dense']), 'f32' if storage == 'f32' else 'f16'),
           ('v.patch_norm.1.weight', np.ones(n), 'f32'), ('v.patch_norm.1.bias', np.zeros(n), 'f32')]
    return out + [(name, weights[key], storage if matrix else 'f32') for name, key, matrix in PROJECTOR]


def write(checkpoint, folder, storage='q8_0'):
    c = torch.load(checkpoint, map_location='cpu')
    weights = {name: t.numpy() for name, t in c['model'].items()}
    vocabulary = Vocabulary(c['merges'])
    os.makedirs(folder, exist_ok=True)
    gguf.write(os.path.join(folder, 'model.gguf'), decoder_metadata(c['shape'], storage, vocabulary),
               decoder_tensors(c['shape'], weights, storage))
    gguf.write(os.path.join(folder, 'mmproj.gguf'), projector_metadata(c['shape'], storage),
               projector_tensors(weights, storage))


def read(folder):
    """(shape, weights by the names of model.py, vocabulary) of two files."""
    text = gguf.Reader(os.path.join(folder, 'model.gguf'))
    media = gguf.Reader(os.path.join(folder, 'mmproj.gguf'))
    get = {k[len('gemma4.'):]: v for k, v in text.metadata.items() if k.startswith('gemma4.')}
    t = text.tensors
    weights = {'embedding': t['token_embd.weight'], 'norm': t['output_norm.weight']}
    for i in range(get['block_count']):
        for name, key, _ in LAYER:
            if f'blk.{i}.{name}.weight' in t:
                weights[f'layers.{i}.{key}'] = t[f'blk.{i}.{name}.weight']
    weights['eye.dense'] = over_cells(media.tensors['v.patch_embd.weight'])
    for name, key, _ in PROJECTOR:
        weights[key] = media.tensors[name]
    sliding, kv = get['attention.sliding_window_pattern'], get['attention.head_count_kv']
    shape = dict(layers=''.join('FS'[x] for x in sliding), width=get['embedding_length'],
                 ff=get['feed_forward_length'], heads=get['attention.head_count'],
                 kv=(kv[sliding.index(True)], kv[sliding.index(False)]),
                 head_dim=(get['attention.key_length_swa'], get['attention.key_length']),
                 window=get['attention.sliding_window'], context=get['context_length'],
                 places=weights['eye.places'].shape[1])
    merges = [tuple(m.split(' ')) for m in text.metadata['tokenizer.ggml.merges']]
    return shape, weights, Vocabulary(merges)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--checkpoint', default='model.pt')
    ap.add_argument('--out', default='.', help='folder')
    ap.add_argument('--float', action='store_true', help='F32 instead of Q8_0')
    a = ap.parse_args()
    write(a.checkpoint, a.out, 'f32' if a.float else 'q8_0')
    for name in ('model.gguf', 'mmproj.gguf'):
        print(name, os.path.getsize(os.path.join(a.out, name)), 'bytes')


if __name__ == '__main__':
    main()
