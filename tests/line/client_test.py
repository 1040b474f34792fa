"""A real client: OpenAI's npm package streams a picture question."""
import json
import os
import shutil
import subprocess

import pytest

import media

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'client')


@pytest.fixture(scope='module')
def packages():
    """The pinned package; installed once beside the test."""
    if not shutil.which('npm') or not shutil.which('node'):
        pytest.skip('SKIP: node and npm are not installed')
    if not os.path.isdir(os.path.join(HERE, 'node_modules', 'openai')):
        got = subprocess.run(['npm', 'ci', '--no-audit', '--no-fund', '--omit=optional'], cwd=HERE,
                             capture_output=True, text=True, timeout=300)
        if got.returncode != 0:
            pytest.skip('SKIP: npm ci failed (no registry?): ' + got.stderr.strip()[-200:])


def test_openai_client(line, packages, tmp_path):
    picture = tmp_path / 'picture.png'
    picture.write_bytes(media.png(64, 48))
    got = subprocess.run(['node', 'ask.mjs', f'http://127.0.0.1:{line.port}/v1', str(picture)], cwd=HERE,
                         capture_output=True, text=True, timeout=120)
    assert got.returncode == 0, got.stderr
    out = json.loads(got.stdout)
    assert out['models'] == ['chat']
    assert out['chunks'] > 5 and out['streamed'] == out['whole'] and len(out['whole']) > 10
    assert out['usage']['completion_tokens'] > 0 and out['finish'] in ('stop', 'length')
    assert out['withTools'] == 'chat.completion'
    assert out['refused'] == {'bad': True, 'status': 400, 'param': 'temperature'}
    assert out['aborted']
