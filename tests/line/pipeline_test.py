"""A pipeline file with a stage of somebody else's, and two pipelines as two models."""
import os
import shutil

from line import chat_body

HERE = os.path.dirname(os.path.abspath(__file__))


def test_a_foreign_stage_in_its_own_pipeline(own_line, tmp_path):
    shutil.copy(os.path.join(HERE, 'shout.py'), tmp_path / 'shout.py')
    (tmp_path / 'pipeline.yaml').write_text('''
pipelines:
  chat: [ingest, encode, infer, format]
  loud: [ingest, shout, encode, infer, format]
stages:
  shout: { program: shout.py, replicas: 2 }
  encode: { replicas: 2 }
''')
    line = own_line(str(tmp_path / 'pipeline.yaml'))
    assert [m['id'] for m in line.request('GET', '/v1/models').json['data']] == ['chat', 'loud']
    plain = line.post(chat_body('make some noise'))
    loud = line.post(chat_body('make some noise', model='loud'))
    capitals = line.post(chat_body('MAKE SOME NOISE'))
    assert loud.status == 200, loud.body
    assert loud.text == capitals.text != plain.text
    assert line.post(chat_body('x', model='louder')).status == 404
