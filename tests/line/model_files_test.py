"""Model files: a published checkpoint's folder gives the same words as GGUF files of the same values; one cut short."""
import hashlib
import json
import os
import subprocess
import sys
import time

import pytest
import tiny_model
from line import BIN, ROOT, Line, chat_body, picture_part
from media import png

sys.path.insert(0, os.path.join(ROOT, 'tests', 'engine', 'weights'))
import checkpoint  # noqa: E402


def test_answers_as_from_gguf(tmp_path):
    answers = []
    folder, model, media = checkpoint.make(*tiny_model.make(str(tmp_path)), str(tmp_path), 'f32')
    question = [{'type': 'text', 'text': 'What is this?'}, picture_part(png(96, 64))]
    for options in ((model, media), (folder, None)):
        line = Line(*options, str(tmp_path))
        try:
            answer = line.chat(question, max_tokens=30)
            assert answer.status == 200
            answers.append((answer.text, answer.json['usage']['prompt_tokens']))
        finally:
            line.stop()
    assert answers[0] == answers[1] and answers[0][0]


def test_a_model_cut_short_is_said(tmp_path):
    model, media = tiny_model.make(str(tmp_path))
    line = Line(model, media, str(tmp_path))
    try:
        assert line.chat('hello', max_tokens=3).status == 200
        os.truncate(model, os.path.getsize(model) // 2)
        waiting = line.connect()                             # nobody is left who could answer it
        waiting.request('POST', '/v1/chat/completions', json.dumps(chat_body('hello')))
        end = time.monotonic() + 20
        while 'beyond the end of the file' not in line.logged():
            assert time.monotonic() < end, line.logged()
            time.sleep(0.05)
        assert 'a model file became shorter while it was in use' in line.logged()
        waiting.close()
    finally:
        line.stop()


def test_manifest(tmp_path):
    """Hashes as sha256sum writes them; the line starts when all agree, and says which file does not."""
    model, media = tiny_model.make(str(tmp_path))
    written = b''.join(subprocess.run([os.path.join(BIN, 'millrace'), 'inspect', path, '--hash'], check=True,
                                      stdout=subprocess.PIPE).stdout for path in (model, media))
    assert written.decode() == ''.join(f'{hashlib.sha256(open(p, "rb").read()).hexdigest()}  {os.path.basename(p)}\n'
                                       for p in (model, media))
    manifest = tmp_path / 'manifest'
    manifest.write_bytes(written)
    line = Line(model, media, str(tmp_path), '--manifest', str(manifest))
    try:
        assert line.chat('hello', max_tokens=3).status == 200
    finally:
        line.stop()
    for path in (model, media):
        with open(path, 'r+b') as f:
            f.seek(-1, os.SEEK_END)
            last = f.read(1)
            f.seek(-1, os.SEEK_END)
            f.write(bytes([last[0] ^ 1]))
        with pytest.raises(AssertionError) as refused:
            Line(model, media, str(tmp_path), '--manifest', str(manifest))
        assert f"'{path}' has SHA-256" in str(refused.value)
        with open(path, 'r+b') as f:
            f.seek(-1, os.SEEK_END)
            f.write(last)
