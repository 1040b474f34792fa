"""sounds.py - telephone keys (DTMF) and beeps, with noise, questions about them, and frames of 640 samples.

As in the line, each frame is brought to unit RMS (with 1e-6 as a floor), which is all that is done to a sound before
one matrix turns frames into embeddings.
"""
import numpy as np

from chat import Sample, system, thought
from scenes import IGNORED, loosen, pick

RATE, FRAME = 16000, 640
ROWS, COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
KEYS = '123A456B789C*0#D'
PITCHES = {'low': (250, 400), 'middle': (700, 1000), 'high': (1800, 2600)}
EVENTS_MAX = 6
WORDS_FIRST = len(KEYS) + len(PITCHES)                       # number of the first word among the classes of events


def tone(rng, frequencies, seconds):
    t = np.arange(int(seconds * RATE)) / RATE
    wave = sum(rng.uniform(0.8, 1.2) * np.sin(2 * np.pi * f * t + rng.uniform(0, 2 * np.pi)) for f in frequencies)
    ramp = np.minimum(1, np.minimum(np.arange(len(t)), np.arange(len(t))[::-1]) / 48)    # 3 ms, against clicks
    return wave / len(frequencies) * ramp


def sequence(rng, events, length, gap):
    """events: frequencies of each; length and gap: (shortest, longest) in seconds.  Samples and who sounds where."""
    parts, owner = [], []

    def add(samples, who):
        parts.append(samples)
        owner.append(np.full(len(samples), who))

    add(np.zeros(int(rng.uniform(0, 0.12) * RATE)), 0)
    for i, frequencies in enumerate(events):
        wave = tone(rng, frequencies, rng.uniform(*length))
        add(wave, i + 1)
        add(np.zeros(int(rng.uniform(*gap) * RATE)), 0)
    return np.concatenate(parts), np.concatenate(owner)


def noisy(rng, samples, quietest=12):
    """Some volume, and noise from 12 (or `quietest`) to 50 decibels below it; now and then none at all."""
    volume = rng.uniform(0.1, 0.7)
    noise = 0.0 if rng.random() < 0.15 else volume * 0.5 * 10 ** (-rng.uniform(quietest, 50) / 20)
    samples = samples * volume + noise * rng.standard_normal(len(samples))
    return (np.clip(np.round(samples * 32767), -32768, 32767) / 32768).astype(np.float32)


def frames(samples):
    """float32 [n] -> float32 [frames][640], each of unit RMS."""
    count = -(-len(samples) // FRAME)
    padded = np.zeros(count * FRAME, np.float32)
    padded[:len(samples)] = samples
    cut = padded.reshape(count, FRAME)
    return cut / np.sqrt(np.mean(cut * cut, axis=1, keepdims=True) + 1e-6)


def hints(owner, classes, n_frames):
    """For the training's extra heads, int [frames][2]: class of the event (0: none), and its number."""
    padded = np.zeros(n_frames * FRAME, int)
    padded[:len(owner)] = owner
    cut = padded.reshape(n_frames, FRAME)
    who, share = cut.max(1), (cut > 0).mean(1)               # one event at most: gaps are longer than a frame
    labels = np.array([(0, 0)] + [(1 + c, 1 + i) for i, c in enumerate(classes)])
    out = labels[np.where(share > 0.3, who, 0)]
    out[(share > 0.05) & (share <= 0.3)] = IGNORED
    return out


def keys_sound(rng, n=None):
    """Samples, owner of each sample, and the keys as text."""
    keys = ''.join(KEYS[int(rng.integers(16))] for _ in range(n or int(rng.integers(1, EVENTS_MAX + 1))))
    places = [KEYS.index(k) for k in keys]
    samples, owner = sequence(rng, [(ROWS[p // 4], COLUMNS[p % 4]) for p in places], (0.08, 0.16), (0.06, 0.12))
    return noisy(rng, samples), owner, keys


def beeps_sound(rng, n=None):
    names = [pick(rng, list(PITCHES)) for _ in range(n or int(rng.integers(1, EVENTS_MAX + 1)))]
    samples, owner = sequence(rng, [(rng.uniform(*PITCHES[p]),) for p in names], (0.1, 0.2), (0.07, 0.14))
    return noisy(rng, samples), owner, names


def key_questions(rng, keys):
    return [(pick(rng, ['Which keys are these?', 'Which keys were pressed?', 'Which keys do you hear?',
                        'What number was dialled?', 'Write down the keys.', 'Transcribe the keys.']), keys, 'keys'),
            (pick(rng, ['What do you hear?', 'What is this?', 'What is this sound?']),
             f'Telephone keys: {keys}.', 'hear keys'),
            (pick(rng, ['How many keys are there?', 'How many keys do you hear?', 'How many tones do you hear?',
                        'Count the keys.', 'How many sounds do you hear?']), str(len(keys)), 'count keys')]


def beep_questions(rng, names):
    text = ' '.join(names)
    return [(pick(rng, ['Which tones do you hear?', 'Which tones are these?', 'Are the tones low or high?',
                        'Write down the tones.']), text, 'tones'),
            (pick(rng, ['What do you hear?', 'What is this?', 'What is this sound?']), f'Beeps: {text}.', 'hear beeps'),
            (pick(rng, ['How many beeps are there?', 'How many beeps do you hear?', 'How many tones do you hear?',
                        'Count the beeps.', 'How many sounds do you hear?']), str(len(names)), 'count beeps')]


def sample(rng, n=None, thinking=False, keys=0.6):
    kind = 'keys' if rng.random() < keys else 'beeps'
    if kind == 'keys':
        samples, owner, text = keys_sound(rng, n)
        asked, classes = key_questions(rng, text), [KEYS.index(k) for k in text]
    else:
        samples, owner, names = beeps_sound(rng, n)
        asked, classes = beep_questions(rng, names), [len(KEYS) + list(PITCHES).index(p) for p in names]
    values = frames(samples)
    s = Sample('sound', '<bos>' + system(thinking=thinking) + '<|turn>user\n',
               [dict(kind='audio', values=values, hints=hints(owner, classes, len(values)))])
    s.samples = samples
    for q, a, name in asked:
        if thinking:
            a = thought('I hear ' + ('telephone keys.' if kind == 'keys' else 'beeps.')) + a
        s.ask(loosen(rng, q), a, thinking, name)
    return s
