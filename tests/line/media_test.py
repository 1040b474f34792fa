"""Pictures and sounds through the whole line."""
import concurrent.futures

import media
from line import chat_body, picture_part, sound_part


def text_part(text):
    return {'type': 'text', 'text': text}


def test_a_picture_becomes_soft_tokens(line):
    question = text_part('what is on this picture?')
    plain = line.chat([question])
    seen = line.chat([picture_part(media.png(64, 48)), question])
    assert seen.status == 200, seen.body
    extra = seen.json['usage']['prompt_tokens'] - plain.json['usage']['prompt_tokens']
    assert extra == 266 + 2                       # 480x640 and 48x64 have the same shape: 14 x 19 tiles
    assert seen.text != plain.text
    other = line.chat([picture_part(media.png(64, 48, lambda x, y: (x % 2 * 255, 0, y % 2 * 255))), question])
    assert other.text != seen.text


def test_the_budget_of_a_picture(line):
    parts = [picture_part(media.png(64, 48)), text_part('?')]
    tokens = [line.chat(parts, millrace={'image_budget': b}, max_tokens=2).json['usage']['prompt_tokens']
              for b in (70, 140)]
    assert tokens[1] - tokens[0] == 130 - 63


def test_a_sound_becomes_soft_tokens(line):
    question = text_part('what do you hear?')
    plain = line.chat([question]).json['usage']['prompt_tokens']
    heard = line.chat([question, sound_part(media.wav(2.0))])
    assert heard.status == 200, heard.body
    assert heard.json['usage']['prompt_tokens'] - plain == 50 + 2


def test_several_media_in_any_order(line):
    parts = [text_part('a'), picture_part(media.png(48, 48)), text_part('b'), sound_part(media.wav(0.5, 44100)),
             picture_part(media.png(96, 48)), text_part('c')]
    answer = line.chat(parts)
    assert answer.status == 200, answer.body
    assert line.chat(parts).text == answer.text
    assert line.chat([parts[i] for i in (0, 4, 2, 3, 1, 5)]).text != answer.text


def test_media_together_as_one_after_the_other(line):
    bodies = [chat_body([picture_part(media.png(48 + 16 * i, 48)), text_part('?')], seed=i) for i in range(3)]
    bodies += [chat_body([sound_part(media.wav(0.3 + 0.2 * i)), text_part('?')], seed=i) for i in range(3)]
    alone = [line.post(b).text for b in bodies]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert [a.text for a in pool.map(line.post, bodies)] == alone
