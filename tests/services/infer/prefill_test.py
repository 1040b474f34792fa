"""While a picture of 1,100 tokens is read: infer beats, obeys cancel, and gives others their tokens.

The gateway is made of Python here, the model is random and wide enough for the picture to take
seconds. Times are those that infer's main thread ran (it takes part in every product), so that other
work on the machine does not count.

    MILLRACE_FULL_MODEL=12b.gguf pytest -s -c tests/pytest.ini tests/services/infer     the same with a 12B
"""
import importlib.util
import os
import pathlib
import secrets
import statistics
import subprocess
import time

import pytest

msgpack = pytest.importorskip('msgpack', reason='SKIP: python3-msgpack is not installed')
zmq = pytest.importorskip('zmq', reason='SKIP: python3-zmq is not installed')
numpy = pytest.importorskip('numpy', reason='SKIP: python3-numpy is not installed')

ROOT = pathlib.Path(__file__).resolve().parents[3]
FULL_MODEL = os.environ.get('MILLRACE_FULL_MODEL')
WIDE = dict(LAYERS=8, WIDTH=1024, FF=4096, HEAD_SLIDING=64, HEAD_FULL=128)
PICTURE, AROUND = 1100, 8      # slots; tokens of text before and after them
VOCABULARY = 500               # ids that every model here has
IMAGE = 1                      # kind of a span: engine/text/template.h
ANSWER_MAX = 6000
LATE_S = 0.1                   # for a beat, and until a cancel is obeyed
TRIES = 4


def wide_model(folder):
    """A file of the tiny model's kind with other sizes."""
    spec = importlib.util.spec_from_file_location('wide_model', ROOT / 'tests' / 'line' / 'tiny_model.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in WIDE.items():
        assert hasattr(module, name)
        setattr(module, name, value)
    path = str(folder / 'wide.gguf')
    module.text_file(path, numpy.random.Generator(numpy.random.PCG64(1)))
    return path, module.WIDTH


class Infer:
    """One infer process, and the gateway that it talks to."""

    def __init__(self, folder):
        program = pathlib.Path(os.environ.get('MILLRACE_BIN', ROOT / 'build' / 'release' / 'bin')) / 'millrace-infer'
        if not program.exists():
            pytest.skip(f'SKIP: {program} is not built')
        model, self.width = (FULL_MODEL, 3840) if FULL_MODEL else wide_model(folder)
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(f'ipc://{folder}/bus')
        self.log = open(folder / 'log', 'wb')
        self.process = subprocess.Popen(
            [program, '--bus', f'ipc://{folder}/bus', '--seat', 'localhost/infer/0', '--model', model,
             '--threads', '1', '--context', '8192'], stderr=self.log)
        self.peer = None
        self.events = []       # (when, main thread's time, head)
        self.until(lambda head: head['kind'] == 'credit', 300)
        rng = numpy.random.Generator(numpy.random.PCG64(2))
        self.soft = rng.standard_normal((PICTURE, self.width)).astype('<f4').tobytes()

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.socket.close(0)
        self.context.term()
        self.log.close()

    def ran_s(self):
        """Seconds that the main thread had a CPU."""
        return self.thread_ran_s(self.process.pid)

    def all_ran_s(self):
        """The same of all its threads."""
        return sum(self.thread_ran_s(thread) for thread in os.listdir(f'/proc/{self.process.pid}/task'))

    def thread_ran_s(self, thread):
        with open(f'/proc/{self.process.pid}/task/{thread}/schedstat') as f:
            return int(f.read().split()[0]) / 1e9

    # ------------------------------------------------------------ messages
    def send(self, head, *blobs):
        self.socket.send_multipart([self.peer, msgpack.packb(head), *blobs])

    def until(self, wanted, seconds=3600 if FULL_MODEL else 120):
        """Takes messages until one is `wanted`; returns the events since the call, that one last."""
        first, end = len(self.events), time.monotonic() + seconds
        while True:
            assert time.monotonic() < end and self.process.poll() is None, [h for *_, h in self.events[-3:]]
            if not self.socket.poll(100):
                continue
            peer, head, *blobs = self.socket.recv_multipart()
            head = msgpack.unpackb(head)
            self.events.append((time.monotonic(), self.ran_s(), head))
            assert head['kind'] != 'failed', head
            if head['kind'] == 'hello':
                self.peer = peer
                self.send({'kind': 'welcome', 'interval_ms': 200})
            if wanted(head):
                return self.events[first:]

    def job(self, tokens, picture=False, max_tokens=1):
        """A prompt of so many tokens of text, or the picture with text around it."""
        n = PICTURE + 2 * AROUND if picture else tokens
        ids = numpy.arange(300, 300 + n) % VOCABULARY
        blobs = [['ids', 'i32', [n]]]
        frames = [ids.astype('<i4').tobytes()]
        if picture:
            blobs += [['spans', 'i32', [1, 3]], ['soft', 'f32', [PICTURE, self.width]]]
            frames += [numpy.array([AROUND, PICTURE, IMAGE], '<i4').tobytes(), self.soft]
        rid = secrets.token_bytes(16)
        self.send({'kind': 'job', 'rid': rid, 'epoch': 1, 'ms_left': 600000, 'blobs': blobs,
                   'fields': {'temperature': 0.0, 'max_tokens': max_tokens}}, *frames)
        return rid

    def over(self, rid):
        """Returns the events until a job is over, which gives its credit back."""
        events = self.until(lambda head: head['kind'] == 'result' and head['rid'] == rid and head.get('last', False))
        self.until(lambda head: head['kind'] == 'credit')
        return events

    def cancel(self, rid):
        """Returns the events until it is obeyed: that gives the credit back too."""
        self.send({'kind': 'cancel', 'rid': rid, 'epoch': 1})
        return self.until(lambda head: head['kind'] == 'credit')


@pytest.fixture(scope='module')
def infer(tmp_path_factory):
    it = Infer(tmp_path_factory.mktemp('infer'))
    yield it
    it.close()


def check(attempt, enough, what):
    """What a noisy machine may spoil once is tried again."""
    seen = []
    for _ in range(TRIES):
        seen.append(attempt())
        if enough(seen[-1]):
            break
    print(f'{what}: {seen}')
    assert enough(seen[-1]), f'{what}: {seen}'


def beats(events):
    """(when, main thread's time, work counted) of each."""
    return [(when, ran, head['work']) for when, ran, head in events if head['kind'] == 'beat']


def largest(values):
    return max(b - a for a, b in zip(values, values[1:]))


def test_beats_while_a_picture_is_read(infer):
    def attempt():
        when, ran, work = zip(*beats(infer.over(infer.job(0, picture=True)))[1:])
        print(f'{len(ran)} beats, at most {largest(when):.3f} s by the clock and {largest(work)} steps apart')
        assert len(ran) > 5
        return largest(ran), largest(work)

    check(attempt, lambda late: late[0] <= LATE_S and late[1] <= 2, 'beats apart: seconds, steps')


def test_cancel_in_the_middle_of_a_picture(infer):
    def attempt():
        found = []
        for n in (1, 4, 2, 6, 3):
            rid = infer.job(0, picture=True)
            for _ in range(n):
                infer.until(lambda head: head['kind'] == 'beat' and head['held'] > 0)
            time.sleep(0.02)  # a beat comes between steps: into the middle of the next one
            when, before = time.monotonic(), infer.ran_s()
            assert not any(head.get('rid') == rid for *_, head in infer.cancel(rid))
            found.append((infer.ran_s() - before, time.monotonic() - when))
        print('by the clock', [round(clock, 3) for _, clock in found])
        return statistics.median(ran for ran, _ in found)

    check(attempt, lambda late: late <= LATE_S, 'seconds until a cancel is obeyed')


def test_another_stream_goes_on(infer):
    """Its tokens by the time that the process gets, of those it makes alone."""
    def rate(events, begun):
        tokens = sum(head.get('rid') == stream for *_, head in events)
        return tokens / (infer.all_ran_s() - begun)

    def lone():
        begun, n = infer.all_ran_s(), iter(range(20))
        return rate(infer.until(lambda head: head.get('rid') == stream and next(n, None) is None), begun)

    def attempt():
        nonlocal stream
        stream = infer.job(AROUND, max_tokens=ANSWER_MAX)
        infer.until(lambda head: head.get('rid') == stream)
        before, begun = lone(), infer.all_ran_s()
        when = time.monotonic()
        during = rate(infer.over(infer.job(0, picture=True)), begun)
        print(f'the picture took {time.monotonic() - when:.1f} s by the clock')
        after = lone()
        infer.cancel(stream)
        return during / statistics.mean((before, after))

    stream = None
    check(attempt, lambda ratio: ratio >= 0.4, 'rate of another answer, of its lone rate')


def test_nobody_waits_for_nobody(infer):
    """A picture is read as fast when another prompt waits behind it."""
    def attempt():
        begun = infer.all_ran_s()
        infer.over(infer.job(0, picture=True))
        alone, begun = infer.all_ran_s() - begun, infer.all_ran_s()
        first, behind = infer.job(0, picture=True), infer.job(64)
        infer.over(first)
        beside = infer.all_ran_s() - begun
        infer.over(behind)
        return alone / beside

    check(attempt, lambda ratio: ratio >= 0.9, 'speed of a picture before a waiting prompt, of its lone speed')
