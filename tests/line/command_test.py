"""The command people type, beside a line that runs."""
import os
import signal
import subprocess
import time
import urllib.request

import pytest

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
