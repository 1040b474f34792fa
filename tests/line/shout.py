#!/usr/bin/python3
"""A stage of somebody else's, for tests: puts the texts of a chat into capitals. proto/README.md."""
import sys
import time

import msgpack
import zmq

SLOTS = 4


def capitals(turns):
    for turn in msgpack.unpackb(turns):
        turn['parts'] = [[p[0], p[1].upper()] if p[0] == 'text' else p for p in turn['parts']]
        yield turn


def main(bus_address, seat, start):
    bus = zmq.Context().socket(zmq.DEALER)
    bus.linger, bus.immediate = 0, 1
    bus.connect(bus_address)
    interval, said, work = 0.0, -1.0, 0

    def send(kind, *blobs, **head):
        bus.send_multipart([msgpack.packb({'kind': kind, **head}), *blobs])

    while True:
        if time.monotonic() - said >= (interval or 1.0):
            said = time.monotonic()
            if interval:
                send('beat', work=work, held=0, memory_bytes=0)
            else:
                send('hello', wire_min=1, wire_max=1, stage='shout', seat=seat, start=start, slots=SLOTS)
        if not bus.poll(50):
            continue
        frames = bus.recv_multipart()
        head = msgpack.unpackb(frames[0])
        if head['kind'] == 'welcome':
            if not interval:
                send('credit', n=SLOTS)
            interval = head['interval_ms'] / 1000
        elif head['kind'] in ('refuse', 'bye'):
            interval, said = 0.0, -1.0
        elif head['kind'] == 'job':
            at = [b[0] for b in head['blobs']].index('turns')
            turns = msgpack.packb(list(capitals(frames[1 + at])))
            send('result', turns, rid=head['rid'], epoch=head['epoch'], seq=0, last=True,
                 blobs=[['turns', 'msgpack', [len(turns)]]])
            send('credit', n=1)
            work += 1


if __name__ == '__main__':
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    main(options['--bus'], options['--seat'], int(options['--start'], 16))
