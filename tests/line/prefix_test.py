"""What was read before is not read again: a chat of six turns, a picture, a death in between."""
import pytest

import media
from line import picture_part

ANSWERS = [1500, 40, 700, 1500, 250, 60]    # tokens
QUESTIONS = ['what is a millrace?', 'and where does the water go when nobody needs it? ' * 8, 'why?',
             'tell me more of the wheel', 'who pays for all this? ' * 20, 'thanks']
SUFFIX_MAX = 16                             # tokens behind the newest turn


def ask(line, messages, **options):
    body = {'model': 'chat', 'messages': messages, 'temperature': 1, 'seed': 7, **options}
    answer = line.post(body)
    assert answer.status == 200, answer.body
    return answer


def cached(answer):
    return answer.json['usage']['prompt_tokens_details']['cached_tokens']


def prompt_tokens(answer):
    return answer.json['usage']['prompt_tokens']


@pytest.mark.parametrize('effort', ['none', 'medium'])
def test_a_chat_of_six_turns(own_line, effort):
    line = own_line()
    messages, turns = [{'role': 'system', 'content': f'you are a miller, thinking {effort}'}], []
    for question, tokens in zip(QUESTIONS, ANSWERS):
        messages.append({'role': 'user', 'content': question})
        answer = ask(line, messages, max_tokens=tokens, reasoning_effort=effort)
        turns.append((list(messages), tokens, answer))
        messages.append({'role': 'assistant', 'content': answer.text, 'reasoning_content': 'forgotten when it is old'})
    before = 0
    for _, _, answer in turns:
        read = prompt_tokens(answer) - cached(answer)
        new = prompt_tokens(answer) - before    # the answer before, and the user's turn
        print(f'{prompt_tokens(answer)} tokens, {read} read, {new} new')
        assert read <= new + SUFFIX_MAX
        before = prompt_tokens(answer)
    assert before > 2500
    assert sum(prompt_tokens(a) - cached(a) for _, _, a in turns) <= before + 5 * SUFFIX_MAX
    # Cold, the answer is the same; and then the chat is known again.
    for i in (5, 3):
        messages, tokens, expected = turns[i]
        line.kill('infer')
        again = ask(line, messages, max_tokens=tokens, reasoning_effort=effort)
        assert cached(again) == 0
        assert again.text == expected.text
    streamed = ask(line, messages, max_tokens=tokens, reasoning_effort=effort, stream=True,
                   stream_options={'include_usage': True})
    assert streamed.text == expected.text
    usage = streamed.events[-1]['usage']
    assert usage['prompt_tokens'] - SUFFIX_MAX <= usage['prompt_tokens_details']['cached_tokens'] < usage['prompt_tokens']


def test_a_picture_is_read_once(line):
    def about(raw, question):
        return ask(line, [{'role': 'user', 'content': [picture_part(raw), {'type': 'text', 'text': question}]}],
                   max_tokens=20, millrace={'image_budget': 70})
    picture, other = media.png(64, 48), media.png(64, 48, lambda x, y: (y % 256, 9, x % 256))
    first = about(picture, 'what is this?')
    assert cached(first) == 0
    second = about(picture, 'how large is it?')
    assert cached(second) > 40, 'the picture is known, the question is not'
    assert about(picture, 'how large is it?').text == second.text
    assert cached(about(other, 'what is this?')) < 10, 'another picture'


def test_a_common_system_turn(line):
    system = {'role': 'system', 'content': 'the rules of the house are long. ' * 20}
    first = ask(line, [system, {'role': 'user', 'content': 'hello'}], max_tokens=5)
    second = ask(line, [system, {'role': 'user', 'content': 'good morning'}], max_tokens=5)
    assert cached(first) == 0
    assert cached(second) > 200
    assert prompt_tokens(second) - cached(second) < 40


def test_tools_are_read_once(line):
    """A chain of calls goes on behind the tool's answer, without a suffix."""
    tool = {'type': 'function', 'function': {'name': 'look', 'description': 'looks', 'parameters': {
        'type': 'object', 'properties': {'where': {'type': 'string'}}}}}

    def call(n):
        return {'role': 'assistant', 'content': None, 'tool_calls': [
            {'id': f'c{n}', 'type': 'function', 'function': {'name': 'look', 'arguments': '{"where": "there"}'}}]}

    messages, before = [{'role': 'user', 'content': 'look around'}], 0
    for n in range(4):
        answer = ask(line, messages, tools=[tool], max_tokens=5, seed=1)
        assert prompt_tokens(answer) - cached(answer) <= prompt_tokens(answer) - before + SUFFIX_MAX
        before = prompt_tokens(answer)
        messages += [call(n), {'role': 'tool', 'tool_call_id': f'c{n}', 'content': f'nothing but {n} trees ' * 20}]
