"""The demo model on examples that training never saw, through the whole line: exact answers only.

    pytest -s -c tests/pytest.ini tests/line/demo_model_test.py        # a fast slice, on a fixed seed
    DEMO_EXAMPLES=200 DEMO_SEED=5 pytest -s …                          # more of them, on a seed of yours

Fails when a task falls below its figure in deploy/demo-model/figures.json by more than MARGIN (the
slice is small: two standard errors of 40 questions at 95 % are 0.07).  Of speech the words count: those
that the answer has in their order, less those that it has too many; the other tasks count exact answers.
"""
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import types
import wave

import pytest

import line as line_module

DEMO = os.path.join(line_module.ROOT, 'deploy', 'demo-model')
FILES = [os.path.join(DEMO, f) for f in ('model.gguf', 'mmproj.gguf')]
EXAMPLES = int(os.environ.get('DEMO_EXAMPLES', '8'))   # pictures, sounds and tool sets of each task
SEED = int(os.environ.get('DEMO_SEED', '770001'))       # training uses small numbers
MARGIN = 0.08

pytestmark = pytest.mark.skipif(not all(map(os.path.exists, FILES)), reason='SKIP: no demo model ships')


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    started = line_module.Line(*FILES, str(tmp_path_factory.mktemp('demo')), '--image-budget', '70', '--context', '1024',
                               '--drafter', os.path.join(DEMO, 'drafter.gguf'))
    yield started
    started.stop()


@pytest.fixture(scope='module')
def generators():
    sys.path.insert(0, DEMO)
    import numpy
    import scenes
    import sounds
    import speech
    import talk
    sys.path.remove(DEMO)
    return numpy.random.default_rng(SEED), types.SimpleNamespace(scenes=scenes, sounds=sounds, speech=speech, talk=talk)


def image_part(picture, kind):
    out = io.BytesIO()
    picture.save(out, kind, quality=90)
    return line_module.picture_part(out.getvalue(), f'image/{kind.lower()}')


def film_part(pictures, rate):
    """H.264 in MP4."""
    with tempfile.TemporaryDirectory() as folder:
        for i, picture in enumerate(pictures):
            picture.save(os.path.join(folder, f'{i:03d}.png'))
        out = os.path.join(folder, 'film.mp4')
        subprocess.run(['ffmpeg', '-v', 'error', '-framerate', str(rate), '-i', os.path.join(folder, '%03d.png'),
                        '-vf', 'scale=trunc(iw/2)*2:trunc(ih/2)*2', '-c:v', 'libx264', '-pix_fmt', 'yuv420p', out],
                       check=True)
        with open(out, 'rb') as f:
            return line_module.video_part(f.read())


def sound(samples):
    out = io.BytesIO()
    with wave.open(out, 'wb') as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(16000)
        f.writeframes((samples * 32767).round().astype('<i2').tobytes())
    return line_module.sound_part(out.getvalue())


def branches(sample):
    """(question, answer) of a generator's sample; conversations of several turns are left out."""
    for _, parts in sample.branches:
        answers = [text for text, ours, *_ in parts if ours]
        if len(answers) == 1:
            question = ''.join(text for text, ours, *_ in parts if not ours)
            yield question.split('<turn|>')[0], answers[0].removesuffix('<turn|>')


def ask(line, content, **options):
    answer = line.chat(content, temperature=0, max_tokens=90, **options)
    assert answer.status == 200, answer.body
    return answer.json['choices'][0]['message']


def questions(line, media, sample):
    for question, wanted in branches(sample):
        got = ask(line, [*media, {'type': 'text', 'text': question}])['content']
        yield got == wanted, f'{question} -> {got!r}, not {wanted!r}'


def pictures(line, rng, make):
    for i in range(EXAMPLES):
        sample = make.scenes.sample(rng, variety=float(i % 2), n_questions=5, as_file=True)
        yield from questions(line, [image_part(sample.pictures[0], ('PNG', 'JPEG')[i % 2])], sample)


def pairs(line, rng, make):
    for i in range(EXAMPLES):
        sample = make.scenes.pair_sample(rng, variety=0.3, n_questions=5, as_file=True)
        media = [image_part(picture, ('PNG', 'JPEG')[i % 2]) for picture in sample.pictures]
        yield from questions(line, media, sample)


def videos(line, rng, make):
    if not shutil.which('ffmpeg'):
        pytest.skip('SKIP: no ffmpeg to make videos')
    for _ in range(EXAMPLES):
        sample = make.scenes.video_sample(rng, variety=0.3, as_file=True, rate=5)
        yield from questions(line, [film_part(sample.film, 5)], sample)


def tones(line, rng, make):
    for _ in range(EXAMPLES):
        sample = make.sounds.sample(rng)
        yield from questions(line, [sound(sample.samples)], sample)


def speech(line, rng, make):
    """One result a word."""
    if not shutil.which('espeak-ng'):
        pytest.skip('SKIP: no espeak-ng to speak')
    for _ in range(2 * EXAMPLES):
        sample = make.speech.sample(rng, held=True)
        question, wanted = next(branches(sample))
        got = ask(line, [sound(sample.samples), {'type': 'text', 'text': question}])['content']
        for i in range(len(wanted.split())):
            yield i < make.speech.words_right(wanted, got), f'{question} -> {got!r}, not {wanted!r}'


def text(line, rng, make):
    for _ in range(EXAMPLES):
        sample = make.talk.sample(rng, branches=5)
        if '<|turn>system' not in sample.start:
            yield from questions(line, [], sample)


def declared(tool):
    properties = {}
    for name, p in tool['parameters'].items():
        properties[name] = {k: v.lower() if k == 'type' else v for k, v in p.items()}
    parameters = {'type': 'object', 'properties': properties, 'required': tool['required']} if properties else None
    return {'type': 'function', 'function': {'name': tool['name'], 'description': tool['description'],
                                             **({'parameters': parameters} if parameters else {})}}


def tools(line, rng, make):
    for i in range(EXAMPLES):
        made = make.talk.some_tools(rng, 1 + i % 3)
        for tool, question in made:
            words, arguments = question()
            message = ask(line, words, tools=[declared(t) for t, _ in made])
            calls = [(c['function']['name'], json.loads(c['function']['arguments']))
                     for c in message.get('tool_calls') or []]
            yield calls == [(tool['name'], arguments)], f'{words} -> {calls}, not {arguments}'


@pytest.mark.parametrize('got, right', [('one two three', 3), ('one three', 2), ('one two two three', 2), ('', 0),
                                        ('three two one', 1), ('one four three', 2), ('no no no no no no no', 0)])
def test_words_right(generators, got, right):
    assert generators[1].speech.words_right('one two three', got) == right


@pytest.mark.parametrize('task', [pictures, pairs, videos, tones, speech, text, tools], ids=lambda t: t.__name__)
def test_demo_model(demo, generators, task):
    with open(os.path.join(DEMO, 'figures.json')) as f:
        figure = json.load(f)[task.__name__]
    results = list(task(demo, *generators))
    wrong = [why for ok, why in results if not ok]
    share = 1 - len(wrong) / len(results)
    print(f'{task.__name__}: {share:.3f} of {len(results)} exact (seed {SEED}; the card says {figure})')
    for why in list(dict.fromkeys(wrong))[:8]:
        print('  ', why)
    assert share >= figure - MARGIN
