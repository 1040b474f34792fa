"""Decoded videos: which frames, when, which way up, in which colours; their sound; what is refused."""
import shutil
import subprocess

import pytest
from conftest import numbers

np = pytest.importorskip('numpy')
pytestmark = pytest.mark.skipif(not shutil.which('ffmpeg'), reason='SKIP: no ffmpeg to make videos')

RATE, N = 10, 40                                             # of most clips: 4 s
HEIGHT, WIDTH, SIDE = 64, 128, 16
WHOLE = (0, 0)                                               # no resizing


def frame(k):
    """Its number in eight blocks of black and white; below it a corner, to see which way is up."""
    picture = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    for bit in range(8):
        picture[:SIDE, bit * SIDE:(bit + 1) * SIDE] = 255 * (k >> bit & 1)
    picture[2 * SIDE:, :2 * SIDE] = (220, 40, 40)
    return picture


def number_of(picture):
    means = picture[4:SIDE - 4].reshape(SIDE - 8, 8, SIDE, 3)[:, :, 4:-4].mean(axis=(0, 2, 3))
    assert (abs(means - 128) > 64).all(), means
    return sum(1 << bit for bit in range(8) if means[bit] > 128)


class Maker:
    """Runs ffmpeg; an encoder that it lacks skips what needs it."""

    def __init__(self, folder):
        self.folder, self.source, self.made = folder, folder / 'source.rgb', {}
        self.source.write_bytes(b''.join(frame(k).tobytes() for k in range(N)))

    def run(self, *words):
        done = subprocess.run(['ffmpeg', '-v', 'error', '-y', *map(str, words)], capture_output=True, text=True)
        if 'Unknown encoder' in done.stderr:
            pytest.skip('SKIP: ' + done.stderr.strip())
        assert done.returncode == 0, done.stderr

    def video(self, name, codec, *before, sound='', **more):
        """codec: words for the encoder; sound: those of a tone of 4 s, '' for none."""
        key = (name, codec, before, sound, *more.items())
        if key in self.made:
            return self.made[key]
        out = self.folder / f'{len(self.made)}.{name}'
        tone = ['-f', 'lavfi', '-i', f'sine=440:duration={more.get("seconds", 4)}'] if sound else []
        self.run('-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{WIDTH}x{HEIGHT}', '-r', RATE, '-i', self.source,
                 *tone, *before, *codec.split(), *sound.split(), '-threads', 2, out)
        self.made[key] = out.read_bytes()
        return self.made[key]


@pytest.fixture(scope='module')
def maker(tmp_path_factory):
    return Maker(tmp_path_factory.mktemp('videos'))


def taken(answer):
    """(frames [n][h][w][3], times in ms [n], samples, what was said)"""
    words, data = answer
    said = numbers(words)
    n, h, w = said['frames'], said['height'], said['width']
    pictures = np.frombuffer(data, np.uint8, n * h * w * 3).reshape(n, h, w, 3)
    times = np.frombuffer(data, '<i4', n, n * h * w * 3)
    samples = np.frombuffer(data, '<f4', offset=n * (h * w * 3 + 4))
    assert len(samples) == said['samples']
    return pictures, times, samples, said


H264 = '-c:v libx264 -preset ultrafast -pix_fmt yuv420p'
H264_B = '-c:v libx264 -preset veryfast -pix_fmt yuv420p -g 12 -bf 3 -x264-params open-gop=1:log-level=none'
HEVC = '-c:v libx265 -preset ultrafast -pix_fmt yuv420p -x265-params log-level=none:keyint=12:bframes=3:open-gop=1'
HEVC_10 = HEVC.replace('yuv420p', 'yuv420p10le')
VP8 = '-c:v libvpx -deadline realtime -cpu-used 8 -b:v 1M -g 12'
VP8_ALT = '-c:v libvpx -deadline good -cpu-used 4 -b:v 1M -auto-alt-ref 1 -lag-in-frames 16'
VP9 = '-c:v libvpx-vp9 -deadline good -cpu-used 8 -b:v 1M -g 12'
KINDS = {
    'H.264 in MP4': ('mp4', H264),
    'H.264 in MP4, B frames, open groups': ('mp4', H264_B),
    'H.264 in MP4, index first': ('mp4', H264_B + ' -movflags faststart'),
    'H.264 in MP4, fragments': ('mp4', H264_B + ' -movflags frag_keyframe+empty_moov'),
    'HEVC in MP4': ('mp4', HEVC + ' -tag:v hvc1'),
    'HEVC in MP4, hev1': ('mp4', HEVC + ' -tag:v hev1'),
    'HEVC in MP4, 10 bits': ('mp4', HEVC_10 + ' -tag:v hvc1'),
    'VP9 in MP4': ('mp4', VP9),
    'H.264 in MOV': ('mov', H264_B),
    'HEVC in MOV': ('mov', HEVC + ' -tag:v hvc1'),
    'VP8 in WebM': ('webm', VP8),
    'VP8 in WebM, hidden frames': ('webm', VP8_ALT),
    'VP8 in WebM, live': ('webm', VP8 + ' -live 1'),
    'VP9 in WebM': ('webm', VP9),
    'H.264 in MKV': ('mkv', H264_B),
    'HEVC in MKV': ('mkv', HEVC_10),
    'VP8 in MKV': ('mkv', VP8),
    'VP9 in MKV': ('mkv', VP9),
}


def test_refused(decoder, maker):
    good, webm = maker.video('mp4', H264), maker.video('webm', VP8)
    size = b'\0\x80\0\x40\0\x48'                             # 128 x 64, then 72 dots an inch
    assert good.count(size) == 1
    long = maker.video('mp4', H264, '-vf', 'setpts=N*1300/TB', '-fps_mode', 'vfr', '-frames:v', 2)
    items = {
        'text': (b'a film about a cat', 'unsupported', 'it is text'),
        'picture': (b'\x89PNG\r\n\x1a\n' + bytes(40), 'unsupported', 'it is PNG'),
        'AVI': (maker.video('avi', '-c:v mpeg4'), 'unsupported', 'it is an AVI video'),
        'FLV': (maker.video('flv', '-c:v flv'), 'unsupported', 'it is an FLV video'),
        'stream': (maker.video('ts', '-c:v mpeg2video'), 'unsupported', 'it is an MPEG transport stream'),
        'MPEG-4 part 2': (maker.video('mp4', '-c:v mpeg4'), 'unsupported', 'MP4: the video in it is MPEG-4 part 2'),
        'MPEG-2': (maker.video('mp4', '-c:v mpeg2video'), 'unsupported', 'MP4: the video in it is MPEG-2'),
        'Motion JPEG': (maker.video('mov', '-c:v mjpeg'), 'unsupported', 'MP4: the video in it is Motion JPEG'),
        'VFW': (maker.video('mkv', '-c:v ffv1'), 'unsupported', 'WebM/MKV: the video in it is V_MS/VFW/FOURCC'),
        'cut MP4': (good[:-100], 'corrupt', 'cut off'),
        'cut MP4, index first': (maker.video('mp4', H264 + ' -movflags faststart')[:-100], 'corrupt', 'cut off'),
        'cut WebM': (webm[:-100], 'corrupt', 'cut off'),
        'no index': (good[:good.index(b'moov') - 4], 'corrupt', 'no index'),
        'too large': (good.replace(size, b'\x20\0\x10\0\0\x48'), 'limit', '8192 x 4096 px are too many'),
        'too long': (long, 'limit', 'seconds long; at most 1200 are taken'),
        'zeros for frames': (good[:good.index(b'mdat') + 4] + bytes(good.index(b'moov') - good.index(b'mdat') - 8)
                             + good[good.index(b'moov') - 4:], 'corrupt', ''),
    }
    answers = decoder.run([('video', data) for data, _, _ in items.values()])
    for (name, (_, code, words)), (line, _) in zip(items.items(), answers):
        assert line.startswith(f'failed {code} ') and words in line, f'{name}: {line}'


def test_refused_av1(decoder, maker):
    for name, words in (('mp4', 'MP4: the video in it is AV1'), ('webm', 'WebM/MKV: the video in it is AV1')):
        data = maker.video(name, '-c:v libaom-av1 -cpu-used 8 -usage realtime', '-frames:v', 2)
        assert words in decoder.run([('video', data)])[0][0]


def test_sound_alone_is_no_video(decoder, maker):
    out = maker.folder / 'sound.mp4'
    maker.run('-f', 'lavfi', '-i', 'sine=440:duration=1', '-c:a', 'aac', out)
    line, _ = decoder.run([('video', out.read_bytes())])[0]
    assert line.startswith('failed unsupported') and 'no video track in it' in line


@pytest.mark.parametrize('fps, most, expected', ((1, 60, [0, 10, 20, 30]), (1, 3, [0, 13, 26]), (0.01, 60, [0]),
                                                 (RATE, 60, list(range(N)))))
def test_every_kind(decoder, maker, fps, most, expected):
    """The right frames at the right times: one a second, three in 4 s, one of all, all there are."""
    answers = decoder.run([('video', maker.video(*kind)) for kind in KINDS.values()], (*WHOLE, fps, most, 60))
    for name, answer in zip(KINDS, answers):
        assert answer[0].startswith('ok '), (name, answer[0])
        pictures, times, samples, said = taken(answer)
        assert [number_of(p) for p in pictures] == expected, name
        assert np.abs(times - np.array(expected) * 1000 // RATE).max() <= 1, name
        assert said['frames_seen'] == N and abs(said['length_ms'] - 1000 * N // RATE) <= 2, (name, said)
        assert len(samples) == 0, name


# The colours are named: unnamed ones are drawn anew each time, whatever the seed.
COLOURS = 'gradients=s=160x96:d=0.1:seed=3:r=10:n=4:c0=red:c1=0x2040ff:c2=0x10f020:c3=0xe0e0a0'


def larger(chroma, shape, left):
    """Linearly to the size of the brightness; samples lie between two columns of it, or on the left one."""
    def places(n, of, offset):
        at = np.clip((np.arange(n) - offset) * of / n, 0, of - 1)
        below = at.astype(int)
        return below, np.minimum(below + 1, of - 1), at - below
    if chroma.shape == shape:
        return chroma
    (y0, y1, fy), (x0, x1, fx) = places(shape[0], chroma.shape[0], 0.5), places(shape[1], chroma.shape[1], 0 if left else 0.5)
    rows = chroma[y0] * (1 - fy[:, None]) + chroma[y1] * fy[:, None]
    return rows[:, x0] * (1 - fx) + rows[:, x1] * fx


@pytest.mark.parametrize('name, options, half, depth, red, blue, left', (
    ('mp4', '-c:v libx264 -pix_fmt yuv420p', True, 8, 0.299, 0.114, False),
    ('mp4', '-c:v libx264 -pix_fmt yuv420p -colorspace bt709 -color_range tv', True, 8, 0.2126, 0.0722, True),
    ('webm', '-c:v libvpx-vp9 -pix_fmt yuv444p -cpu-used 8 -deadline realtime', False, 8, 0.299, 0.114, False),
    ('mkv', '-c:v libx265 -x265-params log-level=none -pix_fmt yuv420p10le', True, 10, 0.299, 0.114, False)))
def test_colours(decoder, maker, name, options, half, depth, red, blue, left):
    """By the formulas of BT.601 and BT.709 from what ffmpeg decodes; chroma lies left where the stream says what it is."""
    out, raw = maker.folder / f'colours.{name}', maker.folder / 'colours.yuv'
    maker.run('-f', 'lavfi', '-i', COLOURS, *options.split(), '-frames:v', 1, out)
    maker.run('-i', out, '-f', 'rawvideo', raw)
    values = np.frombuffer(raw.read_bytes(), np.uint8 if depth == 8 else '<u2') / 2 ** (depth - 8)
    small = (48, 80) if half else (96, 160)
    luma, u, v = np.split(values, np.cumsum([96 * 160, small[0] * small[1]]))
    y = (luma.reshape(96, 160) - 16) / 219
    u, v = ((larger(c.reshape(small), (96, 160), left) - 128) / 224 for c in (u, v))
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    expected = np.clip(255 * np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], axis=-1), 0, 255)
    got = taken(decoder.run([('video', out.read_bytes())], (*WHOLE, 1, 1, 0))[0])[0][0]
    off = np.abs(got - expected)
    print(off.mean(), off.max())
    assert off.mean() <= 1 and off.max() <= 6


@pytest.mark.parametrize('degrees', (90, 270))
def test_rotation(decoder, maker, degrees):
    plain, out, raw = (maker.folder / name for name in ('plain.mp4', 'turned.mp4', 'turned.rgb'))
    plain.write_bytes(maker.video('mp4', H264))
    maker.run('-i', plain, '-c', 'copy', '-metadata:s:v', f'rotate={degrees}', out)
    maker.run('-i', out, '-frames:v', 1, '-f', 'rawvideo', '-pix_fmt', 'rgb24', raw)  # ffmpeg turns by itself
    got = taken(decoder.run([('video', out.read_bytes())], (*WHOLE, 1, 1, 0))[0])[0][0]
    assert got.shape == ((WIDTH, HEIGHT, 3) if degrees % 180 else (HEIGHT, WIDTH, 3))
    expected = np.frombuffer(raw.read_bytes(), np.uint8).reshape(got.shape)
    assert np.abs(got.astype(int) - expected).mean() < 3
    # Turned the other way round it is what it was: that the corner is where it should be.
    assert np.abs(np.rot90(got, -degrees // 90).astype(int) - frame(0)).mean() < 6


@pytest.mark.parametrize('name, codec', (('mp4', H264_B), ('webm', VP8), ('mkv', HEVC), ('mov', H264)))
def test_variable_rate(decoder, maker, name, codec):
    """Frame k appears at 0.02 k² s: of each second the one that is seen then, with its own time."""
    data = maker.video(name, codec, '-vf', 'settb=1/1000,setpts=N*N*20', '-fps_mode', 'vfr',
                       '-enc_time_base', '1:1000', '-frames:v', 20)
    pictures, times, _, said = taken(decoder.run([('video', data)], (*WHOLE, 1, 60, 0))[0])
    seen = [int((20 * k * k)) for k in range(20)]            # ms
    count = said['length_ms'] // 1000
    due = [i * said['length_ms'] / count for i in range(count)]
    expected = sorted({max(k for k in range(20) if seen[k] <= t + 1) for t in due})
    assert [number_of(p) for p in pictures] == expected
    assert np.abs(times - np.array([seen[k] for k in expected])).max() <= 2
    assert said['frames_seen'] == 20 and len(expected) < count + 1


def test_trimmed_by_an_edit_list(decoder, maker):
    """What lies before the beginning of an edit list is decoded but not shown."""
    plain, out = maker.folder / 'plain.mp4', maker.folder / 'trimmed.mp4'
    plain.write_bytes(maker.video('mp4', H264_B))
    maker.run('-ss', '1.5', '-i', plain, '-c', 'copy', out)  # from the key frame before, and an edit list
    pictures, times, _, _ = taken(decoder.run([('video', out.read_bytes())], (*WHOLE, 1, 60, 0))[0])
    assert [number_of(p) for p in pictures] == [15, 27]      # 2.5 s: two frames
    assert np.abs(times - [0, 1200]).max() <= 60


def test_resized(decoder, maker):
    """By the rule of pictures with the budget of a frame: 64 x 128 of at most 70 tokens of 48 px."""
    said = taken(decoder.run([('video', maker.video('mp4', H264))], (70, 48, 1, 60, 0))[0])[3]
    assert (said['height'], said['width']) == (240, 528)


def pitch(x):
    return np.argmax(np.abs(np.fft.rfft(x * np.hanning(len(x))))) * 16000 / len(x)


SOUNDS = {'AAC in MP4': ('mp4', H264, '-c:a aac'), 'AAC in MOV': ('mov', H264_B, '-c:a aac'),
          'Opus in WebM': ('webm', VP8, '-c:a libopus'), 'Vorbis in WebM': ('webm', VP9, '-c:a libvorbis'),
          'Opus in MKV': ('mkv', H264, '-c:a libopus')}


def test_sound(decoder, maker):
    """All of it, the first two seconds, none; and as a sound when it is sent as one."""
    files = [maker.video(container, codec, sound=sound) for container, codec, sound in SOUNDS.values()]
    videos = [('video', data) for data in files]
    runs = [decoder.run(videos, (*WHOLE, 1, 60, seconds)) for seconds in (60, 2, 0)]
    for name, whole, some, none, (words, _) in zip(SOUNDS, *runs, decoder.run([('sound', data) for data in files])):
        _, _, samples, _ = taken(whole)
        assert abs(len(samples) - 4 * 16000) < 1600 and abs(pitch(samples) - 440) < 2, name
        assert len(taken(some)[2]) == 2 * 16000 and 'of its sound the first 2 seconds are heard' in some[0], name
        assert len(taken(none)[2]) == 0 and 'its sound was not wanted' in none[0], name
        assert abs(numbers(words)['samples'] - 4 * 16000) < 1600, name


def test_sound_that_is_not_read(decoder, maker):
    cases = (('mp4', H264, '-c:a ac3', 'AC-3'), ('mp4', H264, '-c:a libmp3lame', 'MP3'),
             ('mov', H264, '-c:a pcm_s16le', 'PCM'), ('mkv', VP8, '-c:a flac', 'A_FLAC'))
    files = [maker.video(name, codec, sound=sound) for name, codec, sound, _ in cases]
    for answer, (*_, words) in zip(decoder.run([('video', data) for data in files]), cases):
        assert f'its sound ({words}) is not read' in answer[0] and taken(answer)[3]['frames'] == 4


def test_damaged(decoder, maker):
    """Refused or decoded, never a crash: bytes changed all over, every cut."""
    rng = np.random.default_rng(7)
    items = []
    for name, codec in (('mp4', H264_B), ('webm', VP9), ('mkv', HEVC), ('webm', VP8)):
        data = maker.video(name, codec, sound='-c:a libopus' if name != 'mp4' else '-c:a aac')
        items += [data[:int(n)] for n in rng.integers(1, len(data), 6)]
        for _ in range(12):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 40):
                damaged[at] ^= 1 << rng.integers(8)
            items.append(bytes(damaged))
    answers = decoder.run([('video', data) for data in items], (0, 0, 2, 8, 60))
    assert all(line.startswith(('ok ', 'failed ')) for line, _ in answers)
    assert sum(line.startswith('failed ') for line, _ in answers) > len(items) // 3
