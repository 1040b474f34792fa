"""What the tests of ingest share: run the decoders on many files in one process."""
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(pathlib.Path(__file__).parent))


def program():
    found = pathlib.Path(os.environ.get('MILLRACE_BIN', ROOT / 'build' / 'release' / 'bin')) / 'millrace-ingest'
    if not found.exists():
        pytest.skip(f'SKIP: {found} is not built')
    return found


def numbers(words):
    """What an answer says of the result: height, width, frames, samples, frames_seen, length_ms."""
    assert words.startswith('ok '), words
    return {name: int(value) for name, value in re.findall(r'(\w+)=(\d+)', words)}


class Decoder:
    def __init__(self, folder):
        self.folder, self.n = folder, 0

    def path(self, data):
        self.n += 1
        path = self.folder / f'in{self.n}'
        path.write_bytes(data)
        return path

    def run(self, items, sizes=()):
        """items: [(picture|sound|video, bytes)] -> [(words, result bytes or None)]"""
        jobs = [(want, self.path(data)) for want, data in items]
        text = ''.join(f'{want} {path} {path}.out\n' for want, path in jobs)
        done = subprocess.run([program(), '--decode-files', *map(str, sizes)], input=text, text=True,
                              capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == len(jobs), done.stdout + done.stderr
        return [(line, pathlib.Path(f'{path}.out').read_bytes() if line.startswith('ok ') else None)
                for line, (_, path) in zip(lines, jobs)]


@pytest.fixture(scope='module')
def decoder(tmp_path_factory):
    return Decoder(tmp_path_factory.mktemp('media'))
