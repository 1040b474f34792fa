"""Small pictures and sounds made here, so that no test needs a file."""
import io
import math
import os
import shutil
import struct
import subprocess
import tempfile
import wave
import zlib

import pytest


def png(width, height, pixel=lambda x, y: (255 * x // 64 % 256, 255 * y // 64 % 256, 128)):
    """RGB picture; pixel(x, y) -> (r, g, b)."""
    rows = b''.join(b'\0' + bytes(v for x in range(width) for v in pixel(x, y)) for y in range(height))

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def huge_png():
    """69 bytes that claim 30000 x 30000 pixels."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    head = struct.pack('>IIBBBBB', 30000, 30000, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


def wav(seconds, rate=16000, hertz=440):
    out = io.BytesIO()
    with wave.open(out, 'wb') as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(b''.join(struct.pack('<h', int(12000 * math.sin(2 * math.pi * hertz * i / rate)))
                               for i in range(int(seconds * rate))))
    return out.getvalue()


def video(seconds=3, kind='mp4', size='64x48', codec='libx264', sound='aac', rate=8):
    """A moving test picture with a tone (sound '': without), made by ffmpeg."""
    if not shutil.which('ffmpeg'):
        pytest.skip('SKIP: no ffmpeg to make videos')
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f'video.{kind}')
        tone = ['-f', 'lavfi', '-i', f'sine=440:duration={seconds}', '-c:a', sound] if sound else []
        done = subprocess.run(['ffmpeg', '-v', 'error', '-f', 'lavfi', '-i',
                               f'testsrc2=size={size}:rate={rate}:duration={seconds}', *tone, '-c:v', codec,
                               '-pix_fmt', 'yuv420p', path], capture_output=True, text=True)
        if 'Unknown encoder' in done.stderr:
            pytest.skip('SKIP: ' + done.stderr.strip())
        assert done.returncode == 0, done.stderr
        with open(path, 'rb') as f:
            return f.read()
