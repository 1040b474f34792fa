"""speech.py - words that espeak-ng speaks, one after the other with short pauses, in noise, and questions about them.

Training hears some recordings (a voice, a speed and a pitch each); HELD are voices of their own, at speeds and pitches
that are drawn anew for each clip.  Needs the program espeak-ng.
"""
import functools
import io
import subprocess
import wave

import numpy as np

from chat import Sample, system, thought
from scenes import IGNORED, loosen, pick
from sounds import RATE, WORDS_FIRST, frames, hints, noisy

WORDS = ('zero one two three four five six seven eight nine yes no stop go up down left right on off open close start '
         'red green blue yellow purple orange circle square triangle hello light door window kitchen garden music water '
         'apple bread table horse today tomorrow').split()
WORDS_MAX = 6
ACCENTS = ['en-us', 'en-us', 'en-gb', 'en-gb', 'en-gb-x-rp', 'en-gb-scotland', 'en-gb-x-gbclan', 'en-029']
VOICES = ('m1 m2 m3 m5 m6 m8 f1 f3 f4 Alex Alicia Andy Annie Denis Diogo Gene Henrique Hugo Jacky Lee Marco Mario '
          'Michael Mike adam anika antonio aunty belinda benjamin boris ed edward grandma grandpa john marcelo max '
          'michel norbert pablo paul pedro quincy rob robert sandro shelby steph zac').split()
HELD = 'm4 m7 f2 f5 linda david Andrea travis miguel victor'.split()
RECORDINGS = 200
QUIET = 0.01                                                 # of the loudest sample: where a word begins and ends


def say(text, voice, speed, pitch):
    """int16 [n] at 16 kHz, as loud as can be, without silence around it."""
    spoken = subprocess.run(['espeak-ng', '-v', voice, '-s', str(speed), '-p', str(pitch), '--stdout', text],
                            capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(spoken)) as f:
        rate = f.getframerate()
    x = np.frombuffer(spoken[44:], '<i2').astype(np.float32)
    n = int(len(x) * RATE / rate)
    y = np.fft.irfft(np.fft.rfft(x)[:n // 2 + 1], n)         # the lower rate, without what it can't hold
    loud = np.abs(y) / np.abs(y).max()
    on = np.flatnonzero(loud > QUIET)
    return np.round(y[on[0]:on[-1] + 1] * (32767 / np.abs(y).max())).astype(np.int16)


say_again = functools.lru_cache(maxsize=20000)(say)          # for words, which training needs again and again


def recording(rng, voices, speeds):
    """(voice, words a minute, pitch)"""
    return f'{pick(rng, ACCENTS)}+{pick(rng, voices)}', pick(rng, speeds), int(rng.integers(25, 76))


@functools.lru_cache(maxsize=1)
def recordings():
    rng = np.random.default_rng(20)
    return [recording(rng, VOICES, range(110, 221, 10)) for _ in range(RECORDINGS)]


def words_sound(rng, n=None, held=False, fluent=False):
    """Samples, owner of each sample, and the words: one by one, or (fluent) all in one breath, where nobody knows
    which samples are whose."""
    words = [pick(rng, WORDS) for _ in range(n or int(rng.integers(1, WORDS_MAX + 1)))]
    who = recording(rng, HELD, range(115, 216, 10)) if held else pick(rng, recordings())
    parts, owner = [], []
    said = [say(' '.join(words), *who)] if fluent else [say_again(word, *who) for word in words]
    for i, spoken in enumerate(said):
        for pause, at in ((rng.uniform(0.05, 0.2), 0), (0, i + 1)):
            parts.append(spoken / np.float32(32767) if at else np.zeros(int(pause * RATE), np.float32))
            owner.append(np.full(len(parts[-1]), at))
    parts.append(np.zeros(int(rng.uniform(0, 0.15) * RATE), np.float32))
    owner.append(np.zeros(len(parts[-1]), int))
    return noisy(rng, np.concatenate(parts), quietest=20), np.concatenate(owner), words


def questions(rng, words):
    text = ' '.join(words)
    found = [(pick(rng, ['Which words do you hear?', 'Transcribe the speech.', 'Transcribe.', 'What is said?',
                         'Write down the words.', 'Which words are spoken?']), text, 'words'),
             (pick(rng, ['What do you hear?', 'What is this?', 'What is this sound?']), f'Words: {text}.',
              'hear words'),
             (pick(rng, ['How many words are there?', 'How many words do you hear?', 'Count the words.']),
              str(len(words)), 'count words')]
    which = pick(rng, ['first', 'last'])
    return found + [(f'Which word is the {which}?', words[0 if which == 'first' else -1], 'one word')]


def sample(rng, n=None, thinking=False, held=False, fluent=False):
    samples, owner, words = words_sound(rng, n, held, fluent)
    values = frames(samples)
    known = hints(owner, [WORDS_FIRST + WORDS.index(w) for w in words], len(values))
    s = Sample('speech', '<bos>' + system(thinking=thinking) + '<|turn>user\n',
               [dict(kind='audio', values=values, hints=np.full_like(known, IGNORED) if fluent else known)])
    s.samples = samples
    for q, a, name in questions(rng, words):
        s.ask(loosen(rng, q), thought('I hear words.') + a if thinking else a, thinking, name)
    return s


def words_right(wanted, got):
    """How many of the wanted words the text `got` has in their order; each word too many takes one off."""
    wanted, got = wanted.split(), got.split()
    row = list(range(len(got) + 1))                          # edit distances of the words so far
    for i, word in enumerate(wanted):
        above, row = row, [i + 1]
        for j, other in enumerate(got):
            row.append(min(above[j] + (word != other), above[j + 1] + 1, row[j] + 1))
    return max(0, len(wanted) - row[-1])
