"""Every stage killed before, during and after its job; streams that go on; one poisonous request."""
import concurrent.futures
import json
import threading
import time

import pytest

import media
from line import chat_body, picture_part

STAGES = ['ingest', 'encode', 'infer', 'format']


def long_body(seed, tokens=1500, **options):
    return chat_body('tell me a long story', seed=seed, max_tokens=tokens, **options)


def picture_body(seed):
    return chat_body([picture_part(media.png(64, 48)), {'type': 'text', 'text': '?'}], seed=seed, max_tokens=60)


def bytes_of(answer):
    """The answer without what tells one request from another."""
    return [(e['choices'], e.get('usage')) for e in answer.events]


def wait_back(line, stage, old, seconds=1.0):
    """The stage has another process within a second; then the line is ready again."""
    begun = time.monotonic()
    while True:
        now = line.pid(stage)
        if now and now != old:
            break
        assert time.monotonic() - begun < seconds, f'{stage} is not back after {seconds} s'
        time.sleep(0.01)
    line.wait_ready(5)


@pytest.mark.parametrize('stage', STAGES)
def test_killed_before_its_job(own_line, stage):
    line = own_line()
    expected = line.post(picture_body(5)).text
    old = line.kill(stage)
    answer = line.post(picture_body(5))
    assert answer.status == 200, answer.body
    assert answer.text == expected
    wait_back(line, stage, old)


@pytest.mark.parametrize('stage', STAGES)
def test_killed_while_requests_run(own_line, stage):
    """Killed at some moment of four requests: each completes as if nothing had been."""
    line = own_line()
    bodies = [picture_body(1), picture_body(2), long_body(3, 600), long_body(4, 600)]
    expected = [line.post(b).text for b in bodies]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        pending = [pool.submit(line.post, b) for b in bodies]
        time.sleep(0.05)
        old = line.kill(stage)
        answers = [p.result() for p in pending]
    for answer, text in zip(answers, expected):
        assert answer.status == 200, answer.body
        assert answer.text == text
    wait_back(line, stage, old)


@pytest.mark.parametrize('stage', STAGES)
def test_killed_after_its_job(own_line, stage):
    line = own_line()
    expected = line.post(picture_body(5)).text
    old = line.kill(stage)
    wait_back(line, stage, old)
    assert line.post(picture_body(5)).text == expected


@pytest.mark.parametrize('stage', ['infer', 'format'])
def test_a_stream_survives_a_death_in_the_middle(own_line, stage):
    """The client sees a pause, never a repeat and never a gap."""
    line = own_line()
    whole = line.post(long_body(9, stream=True))
    assert whole.done
    connection, response = line.open_stream(long_body(9, stream=True))
    got = response.read(len(whole.body) // 5)
    old = line.kill(stage)
    got += response.read()
    connection.close()
    texts = [''.join(c['delta'].get('content') or '' for e in events(b) for c in e['choices'])
             for b in (whole.body, got)]
    assert got.endswith(b'data: [DONE]\n\n'), got[-300:]
    assert texts[0] == texts[1]
    assert len(events(got)) == len(events(whole.body))
    wait_back(line, stage, old)


def events(body):
    return [json.loads(x[6:]) for x in body.decode().split('\n') if x.startswith('data: {')]


def test_a_poisonous_request_among_eight(own_line, model):
    """It crashes infer each time it runs; the seven others do not notice."""
    from tiny_model import vocabulary
    poison_id = vocabulary()[0].index('~')
    clean = own_line()
    bodies = [long_body(20 + i, 300) for i in range(7)]
    expected = [clean.post(b).text for b in bodies]
    line = own_line(MILLRACE_TEST_CRASH_ID=str(poison_id))
    answers = {}

    def ask(key, body):
        answers[key] = line.post(body)

    threads = [threading.Thread(target=ask, args=(i, b)) for i, b in enumerate(bodies)]
    threads.append(threading.Thread(target=ask, args=('poison', chat_body('~', seed=1, max_tokens=300))))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, text in enumerate(expected):
        assert answers[i].status == 200, answers[i].body
        assert answers[i].text == text
    assert answers['poison'].status == 422, answers['poison'].body
    assert answers['poison'].error['message']
    line.wait_ready(20)
    again = line.post(chat_body('~', seed=1, max_tokens=300))
    assert again.status == 422, 'the same input is refused at once'


def test_three_deaths_open_a_circuit(own_line):
    """A clear line, a rest, then the stage is back and what waited is answered."""
    line = own_line()
    for _ in range(3):
        old = line.kill('infer')
        end = time.monotonic() + 2
        while line.pid('infer') in (None, old) and time.monotonic() < end and 'circuit open' not in line.logged():
            time.sleep(0.01)
    assert 'infer was ended by signal 9' in line.logged()
    assert 'circuit open, next try in 5 s' in line.logged()
    assert line.pid('infer') is None
    assert line.request('GET', '/health/live').status == 200
    waiting = line.request('GET', '/health/ready')
    assert waiting.status == 503 and b'infer' in waiting.body
    assert line.chat('hello').status == 200
    assert line.pid('infer')
