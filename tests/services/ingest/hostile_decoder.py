#!/usr/bin/python3
"""A decoder child that has been taken over: the first byte of its item says what it does.

Structs: services/ingest/decode.h."""
import array
import os
import signal
import socket
import struct
import sys
import time

REQUEST, ANSWER = struct.Struct('<6Id'), struct.Struct('<i7I240s')


def main():
    s = socket.socket(fileno=int(sys.argv[2]))
    s.send(ANSWER.pack(*[0] * 8, b''))
    data, files, _, _ = s.recvmsg(REQUEST.size, socket.CMSG_SPACE(4))
    if not data:
        return
    want, budget, tile, frames_max, sound_s = REQUEST.unpack(data)[:5]
    words = os.pread(array.array('i', files[0][2][:4])[0], 99, 0)
    deed = words[:1]

    def answer(height, width, size, code=0, text=b'', frames=0, samples=0, seen=0, length=0, files=1):
        result = os.memfd_create('result')
        os.truncate(result, size)
        s.sendmsg([ANSWER.pack(code, height, width, frames, samples, seen, length, 0, text)],
                  [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [result] * files))])

    if deed == b'k':
        os.kill(os.getpid(), signal.SIGSEGV)
    elif deed == b'e':
        sys.exit(3)
    elif deed == b'h':
        time.sleep(60)
    elif deed == b'g':                                       # a good answer
        answer(tile, 2 * tile, tile * 2 * tile * 3)
    elif deed == b's':                                       # fewer bytes than claimed
        answer(tile, 2 * tile, tile * 2 * tile * 3 - 1)
    elif deed == b'b':                                       # more soft tokens than allowed
        answer(tile * (budget + 1), tile, tile * (budget + 1) * tile * 3)
    elif deed == b't':                                       # not whole tiles
        answer(tile + 1, tile, (tile + 1) * tile * 3)
    elif deed == b'o':                                       # sizes whose product overflows
        answer(0xffffffff, 0xffffffff, 0)
    elif deed == b'n':                                       # no file
        s.send(ANSWER.pack(0, tile, tile, *[0] * 5, b''))
    elif deed == b'w':                                       # two files
        answer(tile, 2 * tile, tile * 2 * tile * 3, files=2)
    elif deed == b'c':                                       # a code that is none, a text without end
        s.send(ANSWER.pack(-7, *[0] * 7, b'\x1b[31m' + b'x' * 235))
    elif deed == b'z':                                       # half an answer
        s.send(b'\0' * 10)
    elif deed == b'p':                                       # a sound where a picture was wanted
        answer(0, 0, 400, samples=100)
    elif deed == b'v':                                       # a video, and what is wrong with it
        lie = words[1:].decode()
        frames = {'4 frames': frames_max + 1, '0 frames': 0, 'picture': 0}.get(lie, frames_max)
        samples = 0 if lie == 'picture' else 16000 * sound_s + (lie == 'loud')
        size = max(frames, 1) * tile * 2 * tile * 3 + frames * 4 + samples * 4 + (lie == 'a byte more')
        answer(tile, 2 * tile, size, 0, b'left \nout', frames, samples, 10 ** 9 if lie == 'many in file' else 10,
               10 ** 9 if lie == 'long' else 3210)


main()
