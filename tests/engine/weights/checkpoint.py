"""Checkpoint folders as they are published (safetensors, config.json, tokenizer.json), made from GGUF files, and
GGUF files of the very same values beside them.

    checkpoint.py OUT_DIR     from the models in tests/golden: f32, bf16 and f16, each a folder and a GGUF file,
                              and media-f32.gguf, media-bf16.gguf; experts-f32, experts-bf16, drafter-f32
    checkpoint.py MODEL.gguf MEDIA.gguf OUT_DIR TYPE     the same of other files: model.gguf, media.gguf, folder
    checkpoint.py --tokenizer VOCABULARY.gguf OUT_DIR    a folder with one tensor and that vocabulary

Needs numpy. The spellings differ on purpose: f32 is one file with merges as pairs; bf16 is three files, with the newer
names of the picture's part and merges as texts; f16 has no media and a flat config.json.
"""
import json
import os
import re
import struct
import sys

import numpy as np

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', '..')
sys.path[:0] = [os.path.join(ROOT, 'tests', 'line'), os.path.join(ROOT, 'deploy', 'demo-model')]

import gguf  # noqa: E402
import tiny_model  # noqa: E402

GOLDEN = os.path.join(ROOT, 'tests', 'golden')
TYPES = {'f32': (0, 'F32'), 'f16': (1, 'F16'), 'bf16': (30, 'BF16')}

GLOBALS = {'token_embd.weight': 'embed_tokens.weight', 'output_norm.weight': 'norm.weight',
           'nextn.pre_projection.weight': 'pre_projection.weight',
           'nextn.post_projection.weight': 'post_projection.weight'}
LAYER = {'attn_norm.weight': 'input_layernorm.weight', 'attn_q.weight': 'self_attn.q_proj.weight',
         'attn_k.weight': 'self_attn.k_proj.weight', 'attn_v.weight': 'self_attn.v_proj.weight',
         'attn_output.weight': 'self_attn.o_proj.weight', 'attn_q_norm.weight': 'self_attn.q_norm.weight',
         'attn_k_norm.weight': 'self_attn.k_norm.weight',
         'post_attention_norm.weight': 'post_attention_layernorm.weight',
         'ffn_norm.weight': 'pre_feedforward_layernorm.weight', 'ffn_gate.weight': 'mlp.gate_proj.weight',
         'ffn_up.weight': 'mlp.up_proj.weight', 'ffn_down.weight': 'mlp.down_proj.weight',
         'post_ffw_norm.weight': 'post_feedforward_layernorm.weight', 'layer_output_scale.weight': 'layer_scalar',
         'ffn_gate_inp.weight': 'router.proj.weight', 'ffn_gate_inp.scale': 'router.scale',
         'ffn_down_exps.scale': 'router.per_expert_scale', 'ffn_gate_up_exps.weight': 'experts.gate_up_proj',
         'ffn_down_exps.weight': 'experts.down_proj',
         'post_ffw_norm_1.weight': 'post_feedforward_layernorm_1.weight',
         'pre_ffw_norm_2.weight': 'pre_feedforward_layernorm_2.weight',
         'post_ffw_norm_2.weight': 'post_feedforward_layernorm_2.weight'}
MEDIA = {'v.patch_norm.1.weight': 'vision_embedder.patch_ln1.weight',
         'v.patch_norm.1.bias': 'vision_embedder.patch_ln1.bias',
         'v.patch_embd.weight': 'vision_embedder.patch_dense.weight',
         'v.patch_embd.bias': 'vision_embedder.patch_dense.bias',
         'v.patch_norm.2.weight': 'vision_embedder.patch_ln2.weight',
         'v.patch_norm.2.bias': 'vision_embedder.patch_ln2.bias',
         'v.position_embd.weight': 'vision_embedder.pos_embedding',
         'v.patch_norm.3.weight': 'vision_embedder.pos_norm.weight',
         'v.patch_norm.3.bias': 'vision_embedder.pos_norm.bias',
         'mm.input_projection.weight': 'embed_vision.embedding_projection.weight',
         'mm.a.input_projection.weight': 'embed_audio.embedding_projection.weight'}
NEWER = {'vision_embedder.': 'embed_vision.', 'embed_vision.embedding': 'embed_vision.multimodal_embedder.embedding'}


# ---------------------------------------------------------------- values
def to_bytes(x, kind):
    """Rounded to nearest even; the bytes."""
    x = np.ascontiguousarray(x, '<f4')
    if kind == 'f32':
        return x.tobytes()
    if kind == 'f16':
        return x.astype('<f2').tobytes()
    bits = x.view('<u4').astype(np.uint64)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype('<u2').tobytes()


def rounded(x, kind):
    raw = to_bytes(x, kind)
    if kind == 'f32':
        return np.frombuffer(raw, '<f4').reshape(x.shape)
    if kind == 'f16':
        return np.frombuffer(raw, '<f2').astype(np.float32).reshape(x.shape)
    return (np.frombuffer(raw, '<u2').astype(np.uint32) << 16).view(np.float32).reshape(x.shape)


def channel_last(x):
    """Rows of a tile, from c * p * p + y * p + x to (y * p + x) * 3 + c."""
    side = int((x.shape[-1] // 3) ** 0.5)
    return np.moveaxis(x.reshape(*x.shape[:-1], 3, side, side), -3, -1).reshape(x.shape)


def to_published(name, x):
    """The tensor as the checkpoint holds it: name without prefix, array."""
    if name in ('v.patch_norm.1.weight', 'v.patch_norm.1.bias', 'v.patch_embd.weight'):
        x = channel_last(x)
    if name == 'v.position_embd.weight':
        x = np.swapaxes(x, 0, 1)
    layer = re.fullmatch(r'blk\.(\d+)\.(.*)', name)
    if layer:
        return f'layers.{layer[1]}.{LAYER[layer[2]]}', x
    return (GLOBALS.get(name) or MEDIA[name]), x


# ---------------------------------------------------------------- GGUF
class Reader(gguf.Reader):
    """Reads Q4_0 too: half-float scale, then 16 bytes of two values each."""

    def _tensor(self, at, shape, kind):
        if kind != 2:
            return super()._tensor(at, shape, kind)
        count = int(np.prod(shape))
        blocks = np.frombuffer(self.raw, np.dtype([('scale', '<f2'), ('q', 'u1', 16)]), count // 32, at)
        values = np.concatenate([blocks['q'] & 15, blocks['q'] >> 4], axis=1).astype(np.float32) - 8
        return (blocks['scale'].astype(np.float32)[:, None] * values).reshape(shape)


def kind_of(value):
    if isinstance(value, list):
        kind = kind_of(value[0]) if value else tiny_model.I32
        return tiny_model.ARR, tiny_model.I32 if kind == tiny_model.U32 else kind
    return {bool: tiny_model.BOOL, int: tiny_model.U32, float: tiny_model.F32, str: tiny_model.STR}[type(value)]


def write_gguf(path, source, kind):
    """The file with matrices of that type, and vectors of values that it can hold."""
    metadata = [(k, kind_of(v), [3 if t == 2 else t for t in v] if k.endswith('token_type') else v)
                for k, v in source.metadata.items()]         # <unk> is a control token in real files
    tensors = []
    for name, x in source.tensors.items():
        if name == 'rope_freqs.weight' or (x.ndim > 1 and kind != 'f32' and 'gate_inp' not in name):
            stored = 'f32' if name == 'rope_freqs.weight' else kind
            tensors.append((name, x.shape[::-1], TYPES[stored][0], to_bytes(x, stored)))
        else:
            tensors.append((name, x.shape[::-1], 0, to_bytes(rounded(x, kind), 'f32')))
    tiny_model.write_gguf(path, metadata, tensors)


# ---------------------------------------------------------------- safetensors
def safetensors(tensors, kind):
    """The bytes of a file; tensors: [(name, array)]."""
    head, body, at = {'__metadata__': {'format': 'pt'}}, [], 0
    for name, x in tensors:
        raw = to_bytes(x, kind)
        head[name] = {'dtype': TYPES[kind][1], 'shape': list(x.shape), 'data_offsets': [at, at + len(raw)]}
        body.append(raw)
        at += len(raw)
    text = json.dumps(head, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    return struct.pack('<Q', len(text)) + text + b''.join(body)


def write_tensors(folder, tensors, kind, shards):
    if shards == 1:
        with open(os.path.join(folder, 'model.safetensors'), 'wb') as f:
            f.write(safetensors(tensors, kind))
        return
    weight_map = {}
    for i in range(shards):
        name = f'model-{i + 1:05}-of-{shards:05}.safetensors'
        part = tensors[i::shards]
        weight_map.update({tensor: name for tensor, _ in part})
        with open(os.path.join(folder, name), 'wb') as f:
            f.write(safetensors(part, kind))
    write_json(folder, 'model.safetensors.index.json', {'metadata': {'total_size': 0}, 'weight_map': weight_map})


def write_json(folder, name, value):
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as f:
        json.dump(value, f, ensure_ascii=False, indent=2)


# ---------------------------------------------------------------- config.json, tokenizer.json
def text_config(kv):
    a = kv['general.architecture'] + '.'
    sliding = kv[a + 'attention.sliding_window_pattern']
    heads = kv[a + 'attention.head_count_kv']
    experts = kv.get(a + 'expert_count')
    return {
        'model_type': 'gemma4_unified_text', 'num_hidden_layers': kv[a + 'block_count'],
        'layer_types': ['sliding_attention' if s else 'full_attention' for s in sliding],
        'hidden_size': kv[a + 'embedding_length'], 'intermediate_size': kv[a + 'feed_forward_length'],
        'num_attention_heads': kv[a + 'attention.head_count'],
        'num_key_value_heads': next(h for h, s in zip(heads, sliding) if s),
        'num_global_key_value_heads': next(h for h, s in zip(heads, sliding) if not s),
        'head_dim': kv[a + 'attention.key_length_swa'], 'global_head_dim': kv[a + 'attention.key_length'],
        'attention_k_eq_v': True, 'num_kv_shared_layers': kv.get(a + 'attention.shared_kv_layers', 0),
        'hidden_size_per_layer_input': 0,
        'sliding_window': kv[a + 'attention.sliding_window'], 'attention_bias': False, 'use_double_wide_mlp': False,
        'rope_parameters': {
            'sliding_attention': {'rope_theta': kv[a + 'rope.freq_base_swa'], 'rope_type': 'default'},
            'full_attention': {'rope_theta': kv[a + 'rope.freq_base'], 'rope_type': 'proportional',
                               'partial_rotary_factor': 0.25}},
        'max_position_embeddings': kv[a + 'context_length'], 'rms_norm_eps': 1e-6,
        'hidden_activation': 'gelu_pytorch_tanh', 'final_logit_softcapping': kv.get(a + 'final_logit_softcapping'),
        'enable_moe_block': experts is not None, 'num_experts': experts,
        'top_k_experts': kv.get(a + 'expert_used_count'),
        'moe_intermediate_size': kv.get(a + 'expert_feed_forward_length'),
        'vocab_size': len(kv['tokenizer.ggml.tokens']), 'tie_word_embeddings': True}


def write_tokenizer(folder, kv, pairs):
    t = 'tokenizer.ggml.'
    pieces, types = kv[t + 'tokens'], kv[t + 'token_type']
    merges = kv[t + 'merges']
    if pairs:                                                # cut at the first space behind the first character
        merges = [[m[:m.index(' ', 1)], m[m.index(' ', 1) + 1:]] for m in merges]
    write_json(folder, 'tokenizer.json', {
        'version': '1.0', 'truncation': None, 'padding': None,
        'added_tokens': [{'id': i, 'content': p, 'single_word': False, 'special': True}
                         for i, p in enumerate(pieces) if types[i] in (2, 3, 4)],
        'normalizer': {'type': 'Replace', 'pattern': {'String': ' '}, 'content': '▁'},
        'model': {'type': 'BPE', 'dropout': None, 'unk_token': '<unk>', 'fuse_unk': True, 'byte_fallback': True,
                  'ignore_merges': False, 'vocab': {p: i for i, p in enumerate(pieces)}, 'merges': merges}})


def write_folder(folder, model, media, kind, shards=1, newer=False, flat=False, pairs=True):
    """model, media: gguf.Reader; media None: a folder without. Returns the folder."""
    os.makedirs(folder, exist_ok=True)
    tensors = []
    for name, x in list(model.tensors.items()) + list(media.tensors.items() if media else []):
        if name == 'rope_freqs.weight':
            continue
        published, x = to_published(name, x)
        if newer:
            published = next((published.replace(old, new, 1) for old, new in NEWER.items()
                              if published.startswith(old)), published)
        text = published.startswith(('layers.', 'embed_tokens.', 'norm.'))
        tensors.append(('model.' + ('language_model.' if text and not flat else '') + published, x))
    write_tensors(folder, tensors, kind, shards)
    config = text_config(model.metadata)
    if model.metadata['general.architecture'] == 'gemma4-assistant':
        config = {'model_type': 'gemma4_unified_assistant', 'text_config': config,
                  'backbone_hidden_size': model.metadata['gemma4-assistant.embedding_length_out']}
    elif not flat:
        config = {'architectures': ['Gemma4UnifiedForConditionalGeneration'], 'model_type': 'gemma4_unified',
                  'text_config': config, 'tie_word_embeddings': True}
    if media:
        config['vision_config'] = {'model_type': 'gemma4_unified_vision',
                                   'patch_size': media.metadata['clip.vision.patch_size'],
                                   'pooling_kernel_size': media.metadata['clip.vision.projector.scale_factor'],
                                   'hidden_size': 1}
    write_json(folder, 'config.json', config)
    write_tokenizer(folder, model.metadata, pairs)
    write_json(folder, 'generation_config.json', {
        'eos_token_id': [1, 106, 50], 'do_sample': True, 'temperature': 1.0,
        'suppress_tokens': model.metadata.get('tokenizer.ggml.suppress_tokens', [])})
    return folder


def make(model_path, media_path, out, kind):
    """Of other files: (folder, model.gguf, media.gguf) with the same values."""
    model, media = Reader(model_path), Reader(media_path)
    paths = os.path.join(out, 'model.gguf'), os.path.join(out, 'media.gguf')
    write_gguf(paths[0], model, kind)
    write_gguf(paths[1], media, kind)
    return (write_folder(os.path.join(out, 'folder'), model, media, kind), *paths)


def main(arguments):
    if arguments[0] == '--tokenizer':
        kv = Reader(arguments[1]).metadata
        os.makedirs(arguments[2], exist_ok=True)
        write_tensors(arguments[2], [('norm.weight', np.ones(8))], 'f32', 1)
        write_json(arguments[2], 'config.json', text_config(kv))
        write_tokenizer(arguments[2], kv, True)
        return
    if len(arguments) == 4:
        print(*make(*arguments))
        return
    out = arguments[0]
    model = Reader(os.path.join(GOLDEN, 'models', 'nano-q8_0.gguf'))
    media = Reader(os.path.join(GOLDEN, 'media', 'nano-mmproj-f32.gguf'))
    for kind in TYPES:
        write_gguf(os.path.join(out, f'{kind}.gguf'), model, kind)
    for kind in ('f32', 'bf16'):
        write_gguf(os.path.join(out, f'media-{kind}.gguf'), media, kind)
    write_folder(os.path.join(out, 'f32'), model, media, 'f32')
    write_folder(os.path.join(out, 'bf16'), model, media, 'bf16', shards=3, newer=True, pairs=False)
    write_folder(os.path.join(out, 'f16'), model, None, 'f16', flat=True)
    for name, file in (('experts', 'nano-moe-q4_0.gguf'), ('drafter', 'nano-drafter-f32.gguf')):
        model = Reader(os.path.join(GOLDEN, 'models', file))
        for kind in ('f32', 'bf16') if name == 'experts' else ('f32',):
            write_gguf(os.path.join(out, f'{name}-{kind}.gguf'), model, kind)
            write_folder(os.path.join(out, f'{name}-{kind}'), model, None, kind, shards=2)


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
