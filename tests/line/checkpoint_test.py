"""A published checkpoint's folder through the line: the same words as from GGUF files of the same values."""
import os
import sys

import tiny_model
from line import ROOT, Line, picture_part
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
