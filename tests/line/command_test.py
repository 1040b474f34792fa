"""The command people type, beside a line that runs."""
import os
import signal
import struct
import subprocess
import tempfile
import time
import urllib.request

import pytest

import tiny_model
from line import BIN, free_port

MILLRACE = os.path.join(BIN, 'millrace')


def ask(url, **more):
    return subprocess.run([MILLRACE, 'ask', 'hello', '--max-tokens', '5', '--seed', '1', '--url', url],
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=30, **more)


@pytest.mark.parametrize('end', ['', '/', '/v1', '/v1/'])
def test_ask_takes_the_addresses_that_people_copy(line, end):
    done = ask(f'http://127.0.0.1:{line.port}{end}', stdout=subprocess.PIPE)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_ask_fails_when_its_answer_cannot_be_written(line):
    with open('/dev/full', 'wb') as full:
        done = ask(f'http://127.0.0.1:{line.port}', stdout=full)
    assert done.returncode == 1 and b'the answer cannot be written: No space left on device' in done.stderr


@pytest.fixture
def run_folder():
    """Where folders of the bus are made: its name is long, but not too long for a socket in it."""
    with tempfile.TemporaryDirectory(prefix='r' * 40) as folder:
        yield folder


@pytest.fixture
def start_up(run_folder):
    """A function that starts `up` with that model."""
    started = []

    def start(model):
        started.append(subprocess.Popen([MILLRACE, 'up', '--model', model, '--listen', f'127.0.0.1:{free_port()}'],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env={**os.environ, 'XDG_RUNTIME_DIR': run_folder},
                                        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)))
        return started[-1]

    yield start
    for up in started:
        if up.poll() is None:
            up.kill()
        up.communicate()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_leaves_no_folder_behind(model, start_up, run_folder, number):
    """The signal comes again and again, as from a finger that is in a hurry."""
    up = start_up(model[0])
    assert up.stdout.readline().startswith(b'model ')
    assert len(os.listdir(run_folder)) == 1
    end = time.monotonic() + 15
    while up.poll() is None and time.monotonic() < end:
        up.send_signal(number)
        time.sleep(0.002)
    assert up.returncode == 0 and os.listdir(run_folder) == []


def test_up_is_stopped_before_it_started_anything(model, start_up, run_folder, tmp_path):
    """While it looks at the model, which has a key that takes long to walk through."""
    with open(model[0], 'rb') as f:
        raw = f.read()
    strings = 1 << 22  # empty ones: a length of 8 zero bytes each, a hole in the file
    head, keys = raw[:16], int.from_bytes(raw[16:24], 'little')
    name = b'test.big'  # with it the record is a multiple of 32 bytes, as places of tensors want it
    record = struct.pack('<Q', len(name)) + name + struct.pack('<IIQ', tiny_model.ARR, tiny_model.STR, strings)
    assert len(record) % 32 == 0
    path = tmp_path / 'long.gguf'
    with open(path, 'wb') as f:
        f.write(head + struct.pack('<Q', keys + 1) + record)
        f.seek(strings * 8, os.SEEK_CUR)
        f.write(raw[24:])
    up = start_up(str(path))
    end = time.monotonic() + 15
    while True:
        assert up.poll() is None and time.monotonic() < end
        with open(f'/proc/{up.pid}/maps', encoding='utf-8') as f:
            if str(path) in f.read():
                break
    up.send_signal(signal.SIGINT)
    _, said = up.communicate(timeout=15)
    assert (up.returncode, said) == (0, b'') and os.listdir(run_folder) == []


def test_up_goes_on_when_nobody_reads_along(model):
    """As in `millrace up ... | head -1`; its line and its folder are not left behind either."""
    port = free_port()
    up = subprocess.Popen([MILLRACE, 'up', '--model', model[0], '--listen', f'127.0.0.1:{port}'],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert up.stdout.readline().startswith(b'model ')
    up.stdout.close()
    end = time.monotonic() + 30
    try:
        while True:
            assert up.poll() is None and time.monotonic() < end
            try:
                with urllib.request.urlopen(f'http://127.0.0.1:{port}/health/ready') as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(0.05)
        time.sleep(0.3)  # by now it has printed that it is ready
        assert up.poll() is None
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(15) == 0
