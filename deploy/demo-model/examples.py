#!/usr/bin/python3
"""examples.py - writes the first thing that a visitor shows the demo model: example.png, example.wav, and
example-speech.wav.

They come from the generators, with a seed that training does not use, and print what is in them.
"""
import argparse
import os
import wave

import numpy as np

import scenes
import sounds
import speech

SEED = 880001


def picture(rng, side=480, n=3):
    things = scenes.arrange(rng, side, side, n)
    image, _ = scenes.paint(rng, things, side, side)
    return image, scenes.listing([t.name() for t in things])


def write_wave(path, samples):
    with wave.open(path, 'wb') as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(sounds.RATE)
        f.writeframes(np.round(samples * 32767).astype('<i2').tobytes())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--out', default=os.path.dirname(os.path.abspath(__file__)))
    a = ap.parse_args()
    rng = np.random.default_rng(SEED)
    image, text = picture(rng)
    image.save(os.path.join(a.out, 'example.png'), optimize=True)
    print('example.png:', text)
    samples, _, keys = sounds.keys_sound(rng, 4)
    write_wave(os.path.join(a.out, 'example.wav'), samples)
    print('example.wav:', keys)
    samples, _, words = speech.words_sound(rng, 4, held=True)
    write_wave(os.path.join(a.out, 'example-speech.wav'), samples)
    print('example-speech.wav:', ' '.join(words))


if __name__ == '__main__':
    main()
