"""A full-size file through the whole line: memory, start, a picture question.

Needs files that are too large to make here; any Gemma 4 12B, also one of random weights:
    MILLRACE_FULL_MODEL=12b.gguf MILLRACE_FULL_MEDIA=12b-mmproj.gguf pytest -c tests/pytest.ini tests/line/full_size_test.py
"""
import os
import time

import pytest

import line as line_module
import media

MODEL, MEDIA = os.environ.get('MILLRACE_FULL_MODEL'), os.environ.get('MILLRACE_FULL_MEDIA')
STAGES = ['gateway', 'ingest', 'encode', 'infer', 'format']
EXTRA_BYTES = 1.5e9          # beside the file, at 8192 tokens of context
READY_S = float(os.environ.get('MILLRACE_READY_S', 5))  # second start, when file and layout fit into memory


def resident(pid):
    """Bytes of a process and its children."""
    total = 0
    for name in os.listdir('/proc'):
        if not name.isdigit():
            continue
        try:
            with open(f'/proc/{name}/status') as f:
                fields = dict(x.split(':', 1) for x in f.read().splitlines() if ':' in x)
        except OSError:
            continue
        if int(name) == pid or int(fields['PPid']) == pid:
            total += int(fields.get('VmRSS', '0 kB').split()[0]) * 1024
    return total


@pytest.mark.skipif(not MODEL or not MEDIA, reason='SKIP: MILLRACE_FULL_MODEL and MILLRACE_FULL_MEDIA name no files')
def test_full_size(tmp_path):
    first = line_module.Line(MODEL, MEDIA, str(tmp_path))
    first.wait_ready(300)
    first.stop()
    begun = time.monotonic()
    line = line_module.Line(MODEL, MEDIA, str(tmp_path))
    took = time.monotonic() - begun
    try:
        assert took < READY_S, f'ready after {took:.1f} s'
        parts = [line_module.picture_part(media.png(64, 48)), {'type': 'text', 'text': 'what is on this picture?'}]
        body = line_module.chat_body(parts, stream=True, max_tokens=8, stream_options={'include_usage': True})
        answer = line.post(body)
        assert answer.status == 200 and answer.done, answer.body
        usage = [e['usage'] for e in answer.events if e.get('usage')][0]
        assert usage['prompt_tokens'] > 266 and usage['completion_tokens'] > 0
        used = sum(resident(line.pid(s)) for s in STAGES)
        print(f'ready after {took:.1f} s, {used / 1e9:.2f} GB resident, file {os.path.getsize(MODEL) / 1e9:.2f} GB')
        assert used <= os.path.getsize(MODEL) + EXTRA_BYTES
    finally:
        line.stop()
