#!/usr/bin/python3
"""A stage that looks like infer and does not compute: a token every 4 ms, and when each was sent, for tests of what
the rest of the line costs. FAKE_INFER_LOG names the file that gets a JSON line a job."""
import json
import os
import struct
import sys
import time

import msgpack
import zmq

TOKENS, EVERY_S, SLOTS = 40, 0.004, 4
LETTER = 24 + 256 + 2 + 64   # the tiny vocabulary: controls, bytes, newline and blank, then '!' and what follows


def main(bus_address, seat, start):
    bus = zmq.Context().socket(zmq.DEALER)
    bus.linger, bus.immediate = 0, 1
    bus.connect(bus_address)
    interval, said, work, jobs = 0.0, -1.0, 0, []

    def send(kind, *blobs, **head):
        bus.send_multipart([msgpack.packb({'kind': kind, **head}), *blobs])

    def give(job):
        i = len(job['sent'])
        last = i == TOKENS
        blob = struct.pack('<i', LETTER + i % 26) if not last else b''
        fields = dict(finish='length', prompt_tokens=job['prompt'], completion_tokens=TOKENS, cached_tokens=0,
                      prefill_ms=0.0, decode_ms=0.0) if last else {}
        blobs = [] if last else [['tokens', 'i32', [1]]]
        job['sent'].append(time.monotonic())
        send('result', *([] if last else [blob]), rid=job['rid'], epoch=job['epoch'], seq=i, last=last, index=i,
             fields=fields, blobs=blobs)

    while True:
        if time.monotonic() - said >= (interval or 1.0):
            said = time.monotonic()
            if interval:
                send('beat', work=work, held=len(jobs), memory_bytes=0)
            else:
                send('hello', wire_min=1, wire_max=1, stage='infer', seat=seat, start=start, slots=SLOTS,
                     numerics='fake')
        due = min((j['due'] for j in jobs), default=time.monotonic() + 0.05)
        if bus.poll(max(0.0, (due - time.monotonic()) * 1000)):
            frames = bus.recv_multipart()
            head = msgpack.unpackb(frames[0])
            if head['kind'] == 'welcome':
                if not interval:
                    send('credit', n=SLOTS)
                interval = head['interval_ms'] / 1000
            elif head['kind'] in ('refuse', 'bye'):
                interval, said, jobs = 0.0, -1.0, []
            elif head['kind'] == 'job':
                ids = [b[2][0] for b in head['blobs'] if b[0] == 'ids'][0]
                jobs.append(dict(rid=head['rid'], epoch=head['epoch'], prompt=ids, sent=[], came=time.monotonic(),
                                 due=time.monotonic()))
        for job in [j for j in jobs if j['due'] <= time.monotonic()]:
            give(job)
            work += 1
            job['due'] = job['sent'][0] + len(job['sent']) * EVERY_S
            if len(job['sent']) > TOKENS:
                jobs.remove(job)
                send('credit', n=1)
                with open(os.environ['FAKE_INFER_LOG'], 'a') as log:
                    log.write(json.dumps(dict(came=job['came'], sent=job['sent'])) + '\n')


if __name__ == '__main__':
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    main(options['--bus'], options['--seat'], int(options['--start'], 16))
