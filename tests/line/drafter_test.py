"""The line with a drafter: the same answers, and how many of its guesses were right."""
import concurrent.futures

import tiny_model
from line import chat_body

QUESTION = 'what is a millrace?'


def test_the_same_answers(line, own_line, tmp_path):
    drafted = own_line('--drafter', tiny_model.drafter_file(str(tmp_path / 'drafter.gguf')), '--draft-tokens', '2')
    bodies = [chat_body(f'{QUESTION} {i}', seed=i, temperature=i % 3, max_tokens=60) for i in range(6)]
    plain = [line.post(b) for b in bodies]
    alone = drafted.post(bodies[0])
    assert alone.status == 200, alone.body
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        together = list(pool.map(drafted.post, bodies))
    assert [a.text for a in together] == [a.text for a in plain]
    assert alone.text == plain[0].text and len(alone.text) > 20
    # Tried at first, whatever comes of it.
    timings = alone.json['millrace']
    assert timings['drafted'] >= 8 and 0 <= timings['accepted'] <= timings['drafted']
    assert plain[0].json['millrace']['drafted'] == 0


def test_a_death_in_between(line, own_line, tmp_path):
    """A stream that is cut goes on with the very next token; the drafter begins anew."""
    drafted = own_line('--drafter', tiny_model.drafter_file(str(tmp_path / 'drafter.gguf')))
    body = chat_body(QUESTION, max_tokens=400, stream=True)
    connection, response = drafted.open_stream(body)
    begun = response.read(2000)
    drafted.kill('infer')
    rest = response.read()
    connection.close()
    whole = line.post(body)
    assert (begun + rest).endswith(b'data: [DONE]\n\n')
    cut = type(whole)(200, whole.headers, begun + rest)
    assert cut.text == whole.text
