"""Decoded pictures, compared with Pillow."""
import io
import struct
import zlib

import pytest
from conftest import numbers

np = pytest.importorskip('numpy')
Image = pytest.importorskip('PIL.Image')

SEED = 7
rng = np.random.default_rng(SEED)


def smooth(h, w, channels=3):
    """Gradients and soft blobs: what a photograph is to a codec."""
    y, x = np.mgrid[0:h, 0:w]
    planes = [127 + 80 * np.sin(x / (9 + c) + y / (13 - c)) + 40 * np.cos((x - y) / (17 + c)) for c in range(channels)]
    return np.clip(np.stack(planes, 2), 0, 255).astype(np.uint8)


def save(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def raw_png(width, height, depth, color, rows, interlace=0, extra=b''):
    """rows: the bytes after filter type 0, of each row of each pass."""
    body = b''.join(b'\0' + row for row in rows)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, interlace))
            + extra + chunk(b'IDAT', zlib.compress(body)) + chunk(b'IEND', b''))


def adam7(pixels):
    """Rows of the seven passes of an 8-bit picture."""
    h, w = pixels.shape[:2]
    for y0, x0, dy, dx in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)):
        part = pixels[y0::dy, x0::dx]
        if part.size:
            yield from (row.tobytes() for row in part)


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


def pixels(answer):
    words, data = answer
    said = numbers(words)
    return np.frombuffer(data, np.uint8).reshape(said['height'], said['width'], 3)


REFUSED = {
    'empty': (b'', 'empty'),
    'text': (b'a picture of a cat', 'it is text'),
    'noise': (b'\x07' + rng.bytes(500), 'no known kind'),
    'gif': (save(Image.new('RGB', (4, 4)), 'GIF'), 'a GIF'),
    'sound': (b'RIFF\x24\0\0\0WAVEfmt ', 'it is WAV'),
    'huge png of 69 bytes': (raw_png(30000, 30000, 8, 2, [])[:69].ljust(69, b'\0'), '30000 x 30000 px are too many'),
    'no pixels': (raw_png(0, 5, 8, 2, []), '0 x 5'),
    'cut png': (save(Image.fromarray(smooth(50, 60)), 'PNG')[:-40], 'cut off'),
    'png, damaged': (bytes(b ^ (0x55 if 90 < i < 130 else 0) for i, b in enumerate(save(Image.fromarray(smooth(50, 60)), 'PNG'))),
                     'PNG'),
    'png with bombs of text': (raw_png(1, 1, 8, 2, [b'rgb'], extra=chunk(b'zTXt', b'k\0\0' + b'x' * 600000) * 2),
                               'texts and profiles'),
    'png with a large profile': (raw_png(1, 1, 8, 2, [b'rgb'], extra=chunk(b'iCCP', b'k\0\0' + b'x' * 1100000)),
                                 'texts and profiles'),
    'png with a large packed text': (raw_png(1, 1, 8, 2, [b'rgb'], extra=chunk(b'iTXt', b'k\0\1\0' + b'x' * 1100000)),
                                     'texts and profiles'),
    'cut jpeg': (save(Image.fromarray(smooth(50, 60)), 'JPEG')[:-100], 'cut off'),
    'jpeg header only': (save(Image.fromarray(smooth(50, 60)), 'JPEG')[:100], 'cut off'),
    'cut webp': (save(Image.fromarray(smooth(50, 60)), 'WEBP')[:-20], 'cut off'),
    'huge jpeg': (save(Image.fromarray(smooth(16, 16)), 'JPEG').replace(b'\0\x11\x08\0\x10\0\x10', b'\0\x11\x08\xff\xff\xff\xff'),
                  'too many'),
}


def test_refused(decoder):
    answers = decoder.run([('picture', data) for data, _ in REFUSED.values()])
    for (name, (_, words)), (line, _) in zip(REFUSED.items(), answers):
        assert line.startswith('failed ') and words in line, f'{name}: {line}'


def equal_cases():
    rgb, rgba = smooth(37, 53), smooth(37, 53, 4)
    grey16 = (smooth(9, 11, 1)[:, :, 0].astype(np.uint16) * 257) ^ 0x5a
    rgb16 = rng.integers(0, 65536, (9, 11, 3), dtype=np.uint16)
    palette = Image.fromarray(rgb).quantize(31)
    cases = {
        'png rgb': save(Image.fromarray(rgb), 'PNG'),
        'png grey': save(Image.fromarray(rgb[:, :, 0]), 'PNG'),
        'png bilevel': save(Image.fromarray(rgb[:, :, 0] > 127), 'PNG'),
        'png alpha': save(Image.fromarray(rgba), 'PNG'),
        'png grey alpha': save(Image.fromarray(rgba[:, :, :2], 'LA'), 'PNG'),
        'png palette': save(palette, 'PNG'),
        'png palette of 2 bits': save(Image.fromarray(rgb).quantize(4), 'PNG', bits=2),
        'png palette, transparent': save(palette, 'PNG', transparency=3),
        'png rgb16': raw_png(11, 9, 16, 2, [row.astype('>u2').tobytes() for row in rgb16]),
        'png interlaced': raw_png(53, 37, 8, 2, list(adam7(rgb)), interlace=1),
        'png grey interlaced': raw_png(53, 37, 8, 0, list(adam7(rgb[:, :, 0])), interlace=1),
        'png with a long text': raw_png(1, 1, 8, 2, [b'rgb'], extra=chunk(b'iTXt', b'k\0\0\0\0\0' + b'x' * 1100000)),
        'png of one pixel': save(Image.fromarray(rgb[:1, :1]), 'PNG'),
        'webp lossless': save(Image.fromarray(rgb), 'WEBP', lossless=True),
        'webp lossless alpha': save(Image.fromarray(rgba), 'WEBP', lossless=True, exact=True),
    }
    expected = {name: pillow(data) for name, data in cases.items()}
    # Pillow clips 16-bit grey to 255; the high byte is what every viewer shows.
    cases['png grey16'] = raw_png(11, 9, 16, 0, [row.astype('>u2').tobytes() for row in grey16])
    expected['png grey16'] = np.repeat((grey16 >> 8).astype(np.uint8)[:, :, None], 3, 2)
    return cases, expected


def test_equal_to_pillow(decoder):
    cases, expected = equal_cases()
    for name, answer in zip(cases, decoder.run([('picture', data) for data in cases.values()])):
        got = pixels(answer)
        assert got.shape == expected[name].shape, name
        assert (got == expected[name]).all(), f'{name}: up to {abs(got.astype(int) - expected[name]).max()} apart'


def test_lossy_close_to_pillow(decoder):
    rgb = Image.fromarray(smooth(75, 93))
    cases = {
        'jpeg 4:4:4': save(rgb, 'JPEG', subsampling=0),
        'jpeg 4:2:2': save(rgb, 'JPEG', subsampling=1),
        'jpeg 4:2:0': save(rgb, 'JPEG', subsampling=2),
        'jpeg grey': save(rgb.convert('L'), 'JPEG'),
        'jpeg progressive': save(rgb, 'JPEG', progressive=True),
        'jpeg, something behind it': save(rgb, 'JPEG') + b'appended by a camera',
        'jpeg cmyk': save(rgb.convert('CMYK'), 'JPEG'),
        'webp': save(rgb, 'WEBP', quality=80),
    }
    for name, answer in zip(cases, decoder.run([('picture', data) for data in cases.values()])):
        off = abs(pixels(answer).astype(int) - pillow(cases[name]))
        assert off.mean() <= 1 and off.max() <= 16, f'{name}: mean {off.mean():.2f}, largest {off.max()}'


def test_orientation(decoder):
    from PIL import ImageOps
    upright = Image.fromarray(smooth(40, 64))
    items = []
    for kind, options in (('JPEG', {'subsampling': 0}), ('PNG', {}), ('WEBP', {'lossless': True})):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            items.append((kind, orientation, save(upright, kind, exif=exif.tobytes(), **options)))
    for (kind, orientation, data), answer in zip(items, decoder.run([('picture', item[2]) for item in items])):
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB'))
        got = pixels(answer)
        assert got.shape == expected.shape, (kind, orientation)
        off = abs(got.astype(int) - expected)
        assert off.mean() <= 1 and off.max() <= 16, (kind, orientation, off.max())


def test_resized(decoder):
    """The model's size, by Pillow's own bicubic up to one level (its weights are rounded)."""
    source = Image.fromarray(smooth(200, 500))
    for budget, tile, size in ((280, 48, (1248, 480)), (70, 12, (156, 60)), (70, 48, (624, 240))):
        got = pixels(decoder.run([('picture', save(source, 'PNG'))], (budget, tile))[0])
        assert got.shape[:2] == (size[1], size[0])
        expected = np.asarray(source.resize(size, Image.BICUBIC))
        assert abs(got.astype(int) - expected).max() <= 1
