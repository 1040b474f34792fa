"""What the line adds to infer's own time: measured with an infer that does not compute, as a ratio to an echo of one
message between two processes on this machine at this moment.

    MILLRACE_OVERHEAD_MS=1 pytest -s -c tests/pytest.ini tests/line/overhead_test.py

also holds it to milliseconds: 0.5 for a token, 3 for a text prompt, 8 for a picture's (idle machine, release build).
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

import media
from line import chat_body, picture_part

HERE = os.path.dirname(os.path.abspath(__file__))
REQUESTS = 15
STRICT = os.environ.get('MILLRACE_OVERHEAD_MS')

ECHO = '''
import sys, zmq
s = zmq.Context().socket(zmq.DEALER)
s.connect(sys.argv[1])
s.send(b"here")
while True:
    s.send(s.recv())
'''


def median(values):
    return sorted(values)[len(values) // 2]


def echo_ms(folder, n=300):
    """Median of a message's way to another process and back: two hops."""
    zmq = pytest.importorskip('zmq')
    address = f'ipc://{folder}/echo'
    router = zmq.Context.instance().socket(zmq.ROUTER)
    router.bind(address)
    child = subprocess.Popen([sys.executable, '-c', ECHO, address])
    try:
        peer = router.recv_multipart()[0]
        took = []
        for _ in range(n):
            begun = time.monotonic()
            router.send_multipart([peer, b'x' * 100])
            router.recv_multipart()
            took.append((time.monotonic() - begun) * 1000)
        return median(took)
    finally:
        child.kill()
        child.wait()
        router.close(0)


@pytest.fixture
def hollow(own_line, tmp_path, monkeypatch):
    """A line whose infer does not compute, and the file of its times."""
    pytest.importorskip('msgpack')
    shutil.copy(os.path.join(HERE, 'fake_infer.py'), tmp_path / 'fake_infer.py')
    (tmp_path / 'pipeline.yaml').write_text('stages: { infer: { program: fake_infer.py } }\n')
    log = tmp_path / 'fake.log'
    return own_line(str(tmp_path / 'pipeline.yaml'), FAKE_INFER_LOG=str(log)), log


def ask(line, log, content):
    """One streamed request on a fresh connection: ms before infer's job plus to the first token's bytes, and of each
    token's way."""
    body = json.dumps(chat_body(content, stream=True)).encode()
    raw = (b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
           b'Content-Length: %d\r\n\r\n' % len(body)) + body
    known = len(log.read_text().splitlines()) if log.exists() else 0
    with socket.create_connection(('127.0.0.1', line.port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(raw)
        asked, got, came = time.monotonic(), b'', []
        while b'[DONE]' not in got:
            got += s.recv(65536)
            now = time.monotonic()
            while len(came) < got.count(b'"content":'):
                came.append(now)
    end = time.monotonic() + 5
    while len(log.read_text().splitlines() if log.exists() else []) <= known:
        assert time.monotonic() < end, 'infer has not noted its times'
        time.sleep(0.01)
    noted = json.loads(log.read_text().splitlines()[known])
    contents = [e for e in came]
    shift = len(contents) - (len(noted['sent']) - 1)   # a first chunk may carry the role alone
    assert shift in (0, 1), got[:300]
    way = [(c - s) * 1000 for c, s in zip(contents[shift:], noted['sent'])]
    return (noted['came'] - asked) * 1000 + way[0], way[1:]


def test_what_the_line_adds(hollow, tmp_path):
    line, log = hollow
    picture = [picture_part(media.png(640, 480)), {'type': 'text', 'text': 'What is this?'}]
    echo = echo_ms(tmp_path)
    ask(line, log, 'warm'), ask(line, log, picture)
    text, seen, ways = [], [], []
    for _ in range(REQUESTS):
        first, way = ask(line, log, 'How are you today?')
        text.append(first)
        ways += way
        seen.append(ask(line, log, picture)[0])
    token, prompt, picture_prompt = median(ways), median(text), median(seen)
    print(f'\necho {echo:.3f} ms; a token {token:.2f} ms, first token of a text {prompt:.2f} ms, of a picture '
          f'{picture_prompt:.2f} ms (projection by a tiny model included)')
    assert token < 12 * echo and prompt < 80 * echo, (echo, token, prompt)
    if STRICT:
        assert token <= 0.5 and prompt <= 3 and picture_prompt <= 8
