"""infer with a gateway of our own: memory; what it remembers is its tenant's; cut points that lie."""
import os
import pathlib
import struct
import subprocess
import sys

import pytest

msgpack = pytest.importorskip('msgpack')
zmq = pytest.importorskip('zmq')

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get('MILLRACE_BIN', ROOT / 'build' / 'release' / 'bin')) / 'millrace-infer'
sys.path.insert(0, str(ROOT / 'tests' / 'line'))

import tiny_model  # noqa: E402


CONTEXT = 2048


def i32(name, values, *dims):
    return [name, 'i32', list(dims) or [len(values)]], struct.pack(f'<{len(values)}i', *values)


class Infer:
    """A worker and the socket it talks to."""

    def __init__(self, folder):
        os.chmod(folder, 0o700)
        address = f'ipc://{folder}/bus'
        self.bus = zmq.Context.instance().socket(zmq.ROUTER)
        self.bus.linger = 0
        self.bus.bind(address)
        self.log = folder / 'log'
        self.process = subprocess.Popen([BIN, '--bus', address, '--seat', 'here/infer/0', '--start', '7' * 16, '--model',
                                         tiny_model.make(str(folder))[0], '--context', str(CONTEXT), '--threads', '1'],
                                        stderr=open(self.log, 'wb'))
        self.rid = 0
        self.peer, head, _ = self.receive('hello')
        self.send('welcome', interval_ms=1000)
        self.receive('credit')

    def send(self, kind, *blobs, **head):
        self.bus.send_multipart([self.peer, msgpack.packb({'kind': kind, **head}), *blobs])

    def receive(self, *kinds):
        while True:
            assert self.bus.poll(60000), 'nothing came'
            peer, head, *blobs = self.bus.recv_multipart()
            head = msgpack.unpackb(head)
            if head['kind'] in kinds:
                return peer, head, blobs

    def ask(self, ids, cuts, tenant=None, **fields):
        """The last fields and all tokens of the answer; or the text of a failure."""
        self.rid += 1
        named = [i32('ids', ids), i32('cuts', cuts)]
        more = {} if tenant is None else {'tenant': tenant}
        self.send('job', *[b for _, b in named], rid=self.rid.to_bytes(16, 'big'), epoch=1, ms_left=60000,
                  fields={'max_tokens': 20, 'seed': 3, **fields}, blobs=[d for d, _ in named], **more)
        tokens = []
        while True:
            _, head, blobs = self.receive('result', 'failed')
            if head['kind'] == 'failed':
                assert head['fault'] == 'request'
                return head['text'], None
            for blob in blobs:
                tokens += struct.unpack(f'<{len(blob) // 4}i', blob)
            if head.get('last'):
                return head['fields'], tokens

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.bus.close()


@pytest.fixture(scope='module')
def infer(tmp_path_factory):
    if not BIN.exists():
        pytest.skip(f'SKIP: {BIN} is not built')
    started = Infer(tmp_path_factory.mktemp('infer'))
    yield started
    started.stop()


PROMPT = [2] + [300 + i % 200 for i in range(150)]


def test_start_says_the_memory(infer):
    """Spec model.md section 6.2: one full layer, three sliding ones, 2 bytes a value."""
    t = tiny_model
    full = 2 * t.KV_FULL * t.HEAD_FULL * 2
    sliding = 3 * 2 * t.KV_SLIDING * t.HEAD_SLIDING * 2
    assert (f'type=f16 full_token_bytes={full} sliding_token_bytes={sliding} window={t.WINDOW} '
            f'full_bytes={full * CONTEXT} sliding_bytes={sliding * t.WINDOW} ') in infer.log.read_text()


@pytest.mark.parametrize('cuts', [[0], [-1], [152], [30, 30], [50, 20], [2 ** 31 - 1]])
def test_refuses_cuts_that_lie(infer, cuts):
    text, tokens = infer.ask(PROMPT, cuts)
    assert tokens is None and f'cuts[{len(cuts) - 1}]' in text


def test_what_it_remembers_is_its_tenants(infer):
    cuts = [40, 145]
    first, tokens = infer.ask(PROMPT, cuts, tenant=1)
    assert first['cached_tokens'] == 0 and first['prompt_tokens'] == len(PROMPT)
    again, same = infer.ask(PROMPT, cuts, tenant=1)
    assert again['cached_tokens'] == 145 and same == tokens
    for tenant in (2, 2 ** 64 - 1, 0, None):
        other, same = infer.ask(PROMPT, cuts, tenant=tenant)
        assert other['cached_tokens'] == (0 if tenant is not None else 145), 'none is 0'
        assert same == tokens
    more = PROMPT[:145] + [290] * 30
    assert infer.ask(more, [40, 170], tenant=2)[0]['cached_tokens'] == 145
    assert infer.ask(PROMPT[:44] + [291] * 9, [40, 50], tenant=2)[0]['cached_tokens'] == 40
    assert infer.ask(more[:160], [], tenant=3)[0]['cached_tokens'] == 0
