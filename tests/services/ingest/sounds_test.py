"""Decoded sounds: pitch, aliases, length and alignment."""
import shutil
import struct
import subprocess

import pytest
from conftest import numbers

np = pytest.importorskip('numpy')

RATE = 16000


def wav(x, rate, bits=16):
    """x: [n] or [n][channels] in [-1, 1]; bits 8, 16, 24, 32 (integers) or 'float'."""
    x = np.asarray(x, float)
    channels = 1 if x.ndim == 1 else x.shape[1]
    if bits == 'float':
        data, width, tag = x.astype('<f4').tobytes(), 4, 3
    elif bits == 8:
        data, width, tag = np.round(x * 127 + 128).astype(np.uint8).tobytes(), 1, 1
    else:
        width, tag = bits // 8, 1
        values = np.round(x * (2.0 ** (bits - 1) - 1)).astype('<i4').reshape(-1, 1)
        data = values.view(np.uint8)[:, :width].tobytes()
    frame = channels * width
    return (b'RIFF' + struct.pack('<I', 36 + len(data)) + b'WAVEfmt '
            + struct.pack('<IHHIIHH', 16, tag, channels, rate, rate * frame, frame, 8 * width)
            + b'data' + struct.pack('<I', len(data)) + data)


def tone(n, rate, hz, level=0.5):
    return level * np.sin(2 * np.pi * hz * np.arange(n) / rate)


def chirp(n, rate):
    """Never the same twice, so that an alignment is certain."""
    t = np.arange(n) / rate
    return 0.3 * np.sin(2 * np.pi * (300 * t + 800 * t * t)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))


def samples(answer):
    words, data = answer
    x = np.frombuffer(data, '<f4')
    assert len(x) == numbers(words)['samples']
    return x


def spectrum(x):
    """Hz and levels in dB below full scale of a sine."""
    x = x[400:-400]
    levels = np.abs(np.fft.rfft(x * np.hanning(len(x)))) * 4 / len(x)
    return np.arange(len(levels)) * RATE / len(x), 20 * np.log10(levels + 1e-12)


def lag_ms(x, expected):
    """How much later than expected, by the peak of the correlation in eighths of a sample."""
    n = min(len(x), len(expected))
    size = 1 << (2 * n).bit_length()
    both = np.fft.rfft(x[:n], size) * np.conj(np.fft.rfft(expected[:n], size))
    peak = int(np.argmax(np.fft.irfft(both, size * 8)))
    return (peak if peak < size * 4 else peak - size * 8) / 8 / RATE * 1000


def test_refused(decoder):
    short = wav(tone(8000, 16000, 440), 16000)
    items = {
        'text': (b'la la la', 'it is text'),
        'picture': (b'\x89PNG\r\n\x1a\n' + bytes(40), 'it is PNG'),
        'too long': (wav(np.zeros(16000 * 31), 16000), '31.0 seconds long; at most 30 seconds'),
        'cut off': (short[:-4000], 'cut off: 12000 of 16000 bytes'),
        'header only': (short[:30], 'cut off'),
        'no samples': (wav(np.zeros(0), 16000), 'no sound'),
        'no number': (wav(np.array([0.1, np.nan] * 500), 16000, 'float'), 'not a number'),
        'mu-law': (short.replace(b'\x10\0\0\0\x01\0', b'\x10\0\0\0\x07\0'), 'format tag 7'),
        'rate': (wav(tone(8000, 16000, 440), 500), '500 samples a second'),
        'cut ogg': (b'OggS' + bytes(20), 'cut off'),
        'mp4 of nothing': (b'\0\0\0\x10ftypM4A \0\0\0\0', 'no index'),
        'cut mp4': (b'\0\0\0\x10ftypM4A \0\0\0\0\0\0\xff\0moov', 'cut off'),
        'mp3 of nothing': (b'ID3\x04\0\0\0\0\0\0' + bytes(900), 'no frame'),
    }
    answers = decoder.run([('sound', data) for data, _ in items.values()])
    for (name, (_, words)), (line, _) in zip(items.items(), answers):
        assert line.startswith('failed ') and words in line, f'{name}: {line}'


def test_wav(decoder):
    """Every rate and form: length, pitch, level."""
    cases = {}
    for rate in (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000):
        cases[rate, 16, 1] = wav(tone(rate + 77, rate, 1000), rate)
    for bits in (8, 16, 24, 32, 'float'):
        for channels in (1, 2):
            x = tone(44100, 44100, 1000)
            cases[44100, bits, channels] = wav(x if channels == 1 else np.stack([x, x], 1), 44100, bits)
    n = {key: (key[0] + 77 if key[1:] == (16, 1) and key[0] != 44100 else 44100) for key in cases}
    for key, answer in zip(cases, decoder.run([('sound', data) for data in cases.values()])):
        x = samples(answer)
        assert abs(len(x) - -(-n[key] * RATE // key[0])) <= 1, key
        hz, db = spectrum(x)
        peak = int(np.argmax(db))
        assert abs(hz[peak] - 1000) <= 10 and abs(db[peak] - 20 * np.log10(0.5)) < 1.5, (key, hz[peak], db[peak])
        others = db[np.abs(hz - 1000) > 40]
        assert others.max() < (-48 if key[1] == 8 else -60), (key, others.max())
        # In place, not only in pitch: a millisecond is a whole turn here, so a sample is seen.
        expected = tone(len(x), RATE, 1000)
        assert np.abs(x - expected)[400:-400].max() < 0.03, key


def test_mixes_stereo(decoder):
    left, right = tone(16000, 16000, 500, 0.4), tone(16000, 16000, 3000, 0.4)
    x = samples(decoder.run([('sound', wav(np.stack([left, right], 1), 16000))])[0])
    assert np.abs(x - (left + right) / 2).max() < 1e-3


def test_no_aliases(decoder):
    """Nothing above -60 dB from beyond the new Nyquist frequency."""
    cases = [(rate, hz) for rate in (22050, 44100, 48000, 96000) for hz in (8150, 9000, rate // 2 - 500)]
    items = [('sound', wav(tone(rate, rate, hz), rate, 'float')) for rate, hz in cases]
    for case, answer in zip(cases, decoder.run(items)):
        assert spectrum(samples(answer))[1].max() < -60 - 6, case


def test_exactly_30_seconds(decoder):
    assert len(samples(decoder.run([('sound', wav(np.zeros(16000 * 30), 16000))])[0])) == 480000


CODECS = {
    'flac': ('-c:a flac -f flac', 0),
    'mp3': ('-c:a libmp3lame -b:a 128k -f mp3', 1),
    'mp3 without a header that tells': ('-c:a libmp3lame -b:a 128k -write_xing 0 -f mp3', None),
    'opus': ('-c:a libopus -b:a 96k -f ogg', 1),
    'vorbis': ('-c:a libvorbis -q:a 6 -f ogg', 1),
    'aac in mp4': ('-c:a aac -b:a 128k -f mp4', 1),
    'aac in mp4, index first': ('-c:a aac -b:a 128k -movflags faststart -f mp4', 1),
    'opus in webm': ('-c:a libopus -b:a 96k -f webm', None),
    'vorbis in webm': ('-c:a libvorbis -q:a 6 -f webm', None),
    'aac in fragmented mp4': ('-c:a aac -b:a 128k -movflags frag_keyframe+empty_moov -f mp4', None),
}


@pytest.mark.parametrize('rate', (16000, 44100))
def test_compressed(decoder, rate, tmp_path):
    """Aligned within 1 ms of the original (Opus in WebM: 5 ms); the length too, where the format tells it (else None)."""
    if not shutil.which('ffmpeg'):
        pytest.skip('no ffmpeg to make compressed sound')
    n = 2 * rate + 333
    source = tmp_path / 'source.wav'
    source.write_bytes(wav(chirp(n, rate), rate, 'float'))
    items = {}
    for name, (words, _) in CODECS.items():
        path = tmp_path / 'out'
        done = subprocess.run(['ffmpeg', '-v', 'error', '-y', '-i', source, *words.split(), path],
                              capture_output=True, text=True)
        if 'Unknown encoder' in done.stderr:
            print(f'{name}: skipped, this ffmpeg lacks the encoder')
            continue
        assert done.returncode == 0, done.stderr
        items[name] = path.read_bytes()
    length = -(-n * RATE // rate)
    expected = chirp(length, RATE)
    for name, answer in zip(items, decoder.run([('sound', data) for data in items.values()])):
        x = samples(answer)
        # GStreamer leaves 4.4 ms of what an Opus encoder put in front, when a WebM has 16 kHz.
        assert abs(lag_ms(x, expected)) <= (5 if name == 'opus in webm' else 1), (name, lag_ms(x, expected))
        slack = CODECS[name][1]
        if slack is not None:
            assert abs(len(x) - length) <= 1 + slack, (name, len(x), length)
