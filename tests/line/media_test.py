"""Pictures, sounds and videos through the whole line."""
import concurrent.futures
import os
import subprocess

import line as line_module
import media
from line import chat_body, picture_part, sound_part, video_part


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
    plain = line.chat(parts[1:], max_tokens=2).json['usage']['prompt_tokens']
    for budget, tokens in ((70, 63), (140, 130), (280, 266), (560, 540), (1120, 1064)):
        answer = line.chat(parts, millrace={'image_budget': budget}, max_tokens=2)
        assert answer.json['usage']['prompt_tokens'] - plain == tokens + 2, budget


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


FRAME = 63 + 2                                    # 7 x 9 tiles and their marks
STAMP = 3, 8                                      # tokens of "00:00 ", and of what joins frames


def test_a_video_becomes_frames_with_their_times_and_sound(line):
    question = text_part('what happens?')
    plain = line.chat([question]).json['usage']['prompt_tokens']
    answer = line.chat([video_part(media.video()), question])
    assert answer.status == 200, answer.body
    assert answer.json['millrace']['media'] == [{'kind': 'video', 'number': 1, 'length_ms': 3000, 'frames': 3,
                                                 'frames_in_file': 24, 'sound_ms': 3000}]
    words = answer.json['usage']['prompt_tokens'] - plain - 3 * FRAME - (75 + 2)
    assert 3 * STAMP[0] <= words <= 3 * STAMP[1]
    deaf = line.chat([video_part(media.video(sound='')), question])
    assert deaf.json['millrace']['media'][0]['sound_ms'] == 0 and deaf.text != answer.text


def test_the_options_of_a_video(line):
    def tokens(**options):
        answer = line.chat([video_part(clip)], millrace=options, max_tokens=2)
        assert answer.status == 200, answer.body
        return answer.json['usage']['prompt_tokens'], answer.json['millrace']['media'][0]

    clip = media.video(4, sound='')
    four, said = tokens()
    assert said['frames'] == 4
    two, said = tokens(video_frames_max=2)
    assert said['frames'] == 2 and 2 * (FRAME + STAMP[0]) <= four - two <= 2 * (FRAME + STAMP[1])
    assert tokens(video_fps=2)[1]['frames'] == 8
    large, said = tokens(video_budget=140)
    assert said['frames'] == 4 and large - four == 4 * (130 - 63)
    clip = media.video(4)
    some, said = tokens(video_sound_s=1)
    assert some - four == 25 + 2 and said['sound_ms'] == 1000
    assert said['left_out'] == 'of its sound the first 1 seconds are heard'
    none, said = tokens(video_sound_s=0)
    assert none == four and said['left_out'] == 'its sound was not wanted'


def test_what_is_left_out_of_a_video_is_said_in_a_stream(line):
    answer = line.chat([video_part(media.video(sound='ac3'))], stream=True)
    assert answer.done and answer.events[0]['millrace']['media'][0]['left_out'] == 'its sound (AC-3) is not read'
    assert sum('media' in e.get('millrace', {}) for e in answer.events) == 1


def test_asking_about_a_video_in_a_terminal(line, tmp_path):
    (tmp_path / 'clip.webm').write_bytes(media.video(2, 'webm', codec='libvpx', sound='libopus'))
    done = subprocess.run([os.path.join(line_module.BIN, 'millrace'), 'ask', 'what happens?', '--max-tokens', '4',
                           '--video', tmp_path / 'clip.webm', '--url', f'http://127.0.0.1:{line.port}'],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout, done.stderr
    assert 'ask: video 1 of 2.0 s: 2 of 16 frames, 2.0 s of sound' in done.stderr


def test_refused_videos(line):
    cases = ((media.video(codec='mpeg4'), 415, 'video: MP4: the video in it is MPEG-4 part 2'),
             (media.video(kind='avi', codec='mpeg4', sound=''), 415, 'it is an AVI video'),
             (media.png(8, 8), 415, 'it is PNG'), (media.video()[:-99], 400, 'cut off'))
    for raw, status, words in cases:
        answer = line.chat([video_part(raw)])
        assert answer.status == status and words in answer.error['message'], answer.body
    five = line.chat([video_part(media.video(1, sound=''))] * 5)
    assert five.status == 400 and 'more than 4 videos' in five.error['message']
    for options, param in (({'video_fps': 0}, 'video_fps'), ({'video_frames_max': 241}, 'video_frames_max'),
                           ({'video_budget': 71}, 'video_budget'), ({'video_sound_s': 301}, 'video_sound_s'),
                           ({'video_budget': 560}, 'video_frames_max')):
        answer = line.chat('x', millrace=options)
        assert answer.status == 400 and answer.error['param'] == f'millrace.{param}', answer.body


def test_many_media_in_any_order_alone_and_together(line):
    """Pictures that are larger than a chunk of the prefill, videos and sounds: the same answer when others run."""
    clip, tone = video_part(media.video(2)), sound_part(media.wav(0.5))
    large, small = picture_part(media.png(64, 48)), picture_part(media.png(48, 96))
    bodies = [chat_body(parts, seed=i, millrace={'image_budget': budget, 'video_budget': 280, 'video_frames_max': 4})
              for i, (budget, parts) in enumerate(((1120, [text_part('a'), large, clip, text_part('b'), tone]),
                                                   (560, [clip, tone, small, large]),
                                                   (70, [tone, small, clip, clip, text_part('c')]),
                                                   (280, [small, small, text_part('d'), clip])))]
    alone = [line.post(b) for b in bodies]
    assert all(a.status == 200 for a in alone), [a.body for a in alone]
    assert len({a.text for a in alone}) == len(bodies)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert [a.text for a in pool.map(line.post, bodies)] == [a.text for a in alone]
