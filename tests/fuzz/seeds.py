"""Small good files that the fuzzers start from, and the folders that two of them work in.

    seeds.py OUT_DIR    writes OUT_DIR/corpus/TARGET/* and OUT_DIR/folder/TARGET/*

Needs numpy.
"""
import json
import os
import shutil
import subprocess
import sys

import numpy as np

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
sys.path.insert(0, os.path.join(ROOT, 'tests', 'engine', 'weights'))

import checkpoint  # noqa: E402
import gguf  # noqa: E402

LAYERS, WIDTH, FF, HEADS, HEAD, WINDOW = 2, 8, 8, 2, 8, 4


class Parts:
    """What gguf.Reader gives, made here."""

    def __init__(self, metadata, tensors):
        self.metadata, self.tensors = metadata, tensors


def decoder():
    """Two layers, one of each kind, with the vocabulary of the nano models."""
    rng = np.random.Generator(np.random.PCG64(1))
    nano = gguf.Reader(os.path.join(checkpoint.GOLDEN, 'models', 'nano-q8_0.gguf'))
    a = 'gemma4.'
    metadata = {'general.architecture': 'gemma4', a + 'block_count': LAYERS, a + 'context_length': 64,
                a + 'embedding_length': WIDTH, a + 'feed_forward_length': FF, a + 'attention.head_count': HEADS,
                a + 'attention.head_count_kv': [1] * LAYERS, a + 'attention.key_length': HEAD,
                a + 'attention.value_length': HEAD, a + 'attention.key_length_swa': HEAD,
                a + 'attention.value_length_swa': HEAD, a + 'attention.layer_norm_rms_epsilon': 1e-6,
                a + 'attention.sliding_window': WINDOW, a + 'attention.sliding_window_pattern': [True, False],
                a + 'rope.freq_base': 1e6, a + 'rope.freq_base_swa': 1e4, a + 'final_logit_softcapping': 30.0}
    metadata.update({k: v for k, v in nano.metadata.items() if k.startswith('tokenizer.')})
    tensors = {'token_embd.weight': (512, WIDTH), 'output_norm.weight': (WIDTH,), 'rope_freqs.weight': (HEAD // 2,)}
    for i in range(LAYERS):
        p = f'blk.{i}.'
        tensors.update({p + 'attn_q.weight': (HEADS * HEAD, WIDTH), p + 'attn_k.weight': (HEAD, WIDTH),
                        p + 'attn_output.weight': (WIDTH, HEADS * HEAD), p + 'ffn_gate.weight': (FF, WIDTH),
                        p + 'ffn_up.weight': (FF, WIDTH), p + 'ffn_down.weight': (WIDTH, FF),
                        p + 'attn_q_norm.weight': (HEAD,), p + 'attn_k_norm.weight': (HEAD,),
                        p + 'layer_output_scale.weight': (1,)})
        tensors.update({p + f'{n}.weight': (WIDTH,) for n in
                        ('attn_norm', 'post_attention_norm', 'ffn_norm', 'post_ffw_norm')})
        if i == 0:
            tensors[p + 'attn_v.weight'] = (HEAD, WIDTH)
    return Parts(metadata, {k: 1 + rng.random(v) for k, v in tensors.items()})


def media():
    rng = np.random.Generator(np.random.PCG64(2))
    metadata = {'general.architecture': 'clip', 'clip.vision.projector_type': 'gemma4uv',
                'clip.audio.projector_type': 'gemma4ua', 'clip.vision.patch_size': 2,
                'clip.vision.projector.scale_factor': 1}
    tensors = {'v.patch_embd.weight': (8, 12), 'v.patch_embd.bias': (8,), 'v.position_embd.weight': (2, 4, 8),
               'mm.input_projection.weight': (WIDTH, 8), 'mm.a.input_projection.weight': (WIDTH, 4)}
    for i, n in ((1, 12), (2, 8), (3, 8)):
        tensors.update({f'v.patch_norm.{i}.weight': (n,), f'v.patch_norm.{i}.bias': (n,)})
    return Parts(metadata, {k: rng.random(v) for k, v in tensors.items()})


WIRE, TEXT = (os.path.join(ROOT, 'tests', 'golden', name) for name in ('wire', 'text'))


def lines(name):
    with open(os.path.join(TEXT, name)) as f:
        return [json.loads(line) for line in f]


def messages():
    """Good frames; the first byte says what they are (message_fuzz.c)."""
    for name in sorted(os.listdir(WIRE)):
        if name.endswith('.hex'):
            with open(os.path.join(WIRE, name)) as f:
                yield bytes([name == 'turns.hex']) + bytes.fromhex(f.read())


def bodies():
    """Chat requests; the first byte is the size of their pieces (body_fuzz.c)."""
    picture = {'type': 'image_url', 'image_url': {'url': 'data:image/png;base64,iVBORw0KGgo='}}
    sound = {'type': 'input_audio', 'input_audio': {'data': 'UklGRg==', 'format': 'wav'}}
    film = {'type': 'video_url', 'video_url': {'url': 'data:video/mp4;base64,AAAA'}}
    text = {'type': 'text', 'text': 'What is \u00e9 on it? ' * 5}
    more = {'stream': True, 'stream_options': {'include_usage': True}, 'temperature': 0.5, 'top_p': 0.9, 'max_tokens': 9,
            'seed': 1, 'stop': ['a', 'b'], 'millrace': {'image_budget': 70, 'video_fps': 1, 'thinking': True},
            'tools': [{'type': 'function', 'function': {'name': 'f', 'parameters': {'type': 'object'}}}]}
    for case in lines('chat.jsonl'):
        yield b'\x07' + json.dumps({'model': 'chat', 'messages': case['messages']}).encode()
    yield b'\x00' + json.dumps({'model': 'chat', 'messages': [{'role': 'user', 'content': [text, picture, sound, film]}],
                                **more}).encode()


def answers():
    """Ids of two bytes; the first byte says whether a thought is open (answer_fuzz.c)."""
    for case in lines('parse.jsonl'):
        yield bytes([case['start_state'] != 'CONTENT']) + b''.join(i.to_bytes(2, 'big') for i in case['ids'])


def media_files(folder):
    """Files of each kind, each wanted as a picture, a sound and a video (medium_fuzz.c); none without ffmpeg."""
    film = '-f lavfi -i testsrc=size=16x16:rate=4:duration=1 '
    sound = '-f lavfi -i sine=duration=0.1:sample_rate=16000 '
    kinds = {'png': film + '-frames:v 1', 'jpg': film + '-frames:v 1', 'webp': film + '-frames:v 1', 'wav': sound,
             'flac': sound, 'mp3': sound, 'm4a': sound, 'opus': sound + '-ar 48000', 'ogg': sound + '-c:a libvorbis',
             'opus.webm': sound + '-ar 48000 -c:a libopus', 'vorbis.webm': sound + '-c:a libvorbis',
             'vp8.webm': film + '-c:v libvpx', 'vp9.webm': film + '-c:v libvpx-vp9', 'h264.mp4': film + '-c:v libx264',
             'both.mp4': film + sound + '-c:v libx264 -c:a aac',
             'fragments.mp4': film + sound + '-c:v libx264 -c:a aac -movflags frag_keyframe+empty_moov'}
    for kind, words in kinds.items() if shutil.which('ffmpeg') else ():
        path = os.path.join(folder, 'x.' + kind)
        made = subprocess.run(['ffmpeg', '-v', 'quiet', '-y', *words.split(), path], check=False)
        for want in range(3) if made.returncode == 0 else ():
            yield bytes([want]) + read(path)


def read(path):
    with open(path, 'rb') as f:
        return f.read()


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as f:
        f.write(data)


def main(out):
    text, pictures = decoder(), media()
    corpus, folder = os.path.join(out, 'corpus'), os.path.join(out, 'folder')
    for target in ('gguf', 'mmproj', 'safetensors', 'tokenizer'):
        os.makedirs(os.path.join(corpus, target), exist_ok=True)
    for kind in ('f32', 'bf16'):
        checkpoint.write_gguf(os.path.join(corpus, 'gguf', kind), text, kind)
        checkpoint.write_gguf(os.path.join(corpus, 'mmproj', kind), pictures, kind)
        whole = checkpoint.write_folder(os.path.join(folder, kind), text, pictures, kind, pairs=kind == 'f32')
        split = checkpoint.write_folder(os.path.join(folder, kind + '-split'), text, pictures, kind, shards=2, newer=True)
        # The first byte says which file of the folder the rest is (safetensors_fuzz.c).
        for which, path in enumerate((f'{whole}/model.safetensors', f'{whole}/config.json',
                                      f'{whole}/generation_config.json', f'{split}/model.safetensors.index.json')):
            write(os.path.join(corpus, 'safetensors', f'{kind}-{which}'), bytes([which]) + read(path))
        write(os.path.join(corpus, 'tokenizer', kind), read(f'{whole}/tokenizer.json'))
    for target, seeds in (('message', messages()), ('body', bodies()), ('answer', answers()),
                          ('medium', media_files(folder))):
        os.makedirs(os.path.join(corpus, target), exist_ok=True)
        for i, seed in enumerate(seeds):
            write(os.path.join(corpus, target, str(i)), seed)
    for target in ('safetensors', 'tokenizer'):
        shutil.copytree(os.path.join(folder, 'f32'), os.path.join(folder, target), dirs_exist_ok=True)
    shutil.copytree(os.path.join(folder, 'f32-split'), os.path.join(folder, 'safetensors'), dirs_exist_ok=True)
    os.remove(os.path.join(folder, 'safetensors', 'tokenizer.json'))      # has a target of its own


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
