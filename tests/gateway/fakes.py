"""A gateway process with stages made of Python: what the tests of the HTTP side stand on."""
import collections
import heapq
import os
import pathlib
import queue
import re
import secrets
import signal
import subprocess
import tempfile
import threading
import time

import pytest

msgpack = pytest.importorskip("msgpack", reason="python3-msgpack is not installed")
zmq = pytest.importorskip("zmq", reason="python3-zmq is not installed")

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAGES = ("ingest", "encode", "infer", "format")


def gateway_program():
    program = pathlib.Path(os.environ.get("MILLRACE_BIN", ROOT / "build" / "release" / "bin")) / "millrace-gateway"
    if not program.exists():
        pytest.skip(f"SKIP: {program} is not built")
    return program


def ids(blob):
    return [int.from_bytes(blob[i:i + 4], "little") for i in range(0, len(blob), 4)]


class Job:
    def __init__(self, head, blobs):
        self.rid, self.epoch = head["rid"], head["epoch"]
        self.head, self.fields = head, head.get("fields", {})
        self.frames = [(d[0], b) for d, b in zip(head.get("blobs", []), blobs)]
        self.seq = 0

    @property
    def blobs(self):
        return [(n, b.bytes) for n, b in self.frames]


class Line:
    """One gateway; its stages run in one thread here. `tokens` x `delay_s` is what infer gives."""

    def __init__(self, *options, stages=STAGES):
        self.folder = tempfile.TemporaryDirectory(prefix="millrace-http-")
        self.bus = f"ipc://{self.folder.name}/run/bus"
        self.log = open(f"{self.folder.name}/log", "w+b")
        self.process = subprocess.Popen(
            [gateway_program(), "--listen", "127.0.0.1:0", "--bus", self.bus, *options],
            stderr=self.log)
        self.port = self._wait_for_port()
        self.tokens, self.delay_s = 5, 0.0
        self.fail = {}          # stage -> fields of a `failed`
        self.fail_after = None  # infer fails after so many tokens, once it may
        self.may_fail = threading.Event()
        self.may_fail.set()
        self.jobs = collections.defaultdict(list)
        self.cancels = queue.Queue()  # (stage, rid, when)
        self.sent_at = []             # when format gave its pieces
        self._timers, self._n, self._running = [], 0, True
        self._live, self._context = {}, zmq.Context()
        self._sockets = {}
        for stage in stages:
            self._connect(stage)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _wait_for_port(self):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            text = pathlib.Path(self.log.name).read_text(errors="replace")
            found = re.search(r"listening http=127\.0\.0\.1:(\d+)", text)
            if found:
                return int(found[1])
            if self.process.poll() is not None:
                raise RuntimeError(text)
            time.sleep(0.01)
        raise RuntimeError("the gateway does not listen")

    def log_text(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def close(self):
        self._running = False
        self._thread.join()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = "killed"
        for socket in self._sockets.values():
            socket.close(0)
        self._context.term()
        text = self.log_text()
        self.log.close()
        self.folder.cleanup()
        assert code == 0, text

    # ---- the wire ----

    def _send(self, stage, head, blobs=()):
        self._sockets[stage].send_multipart([msgpack.packb(head), *blobs], zmq.DONTWAIT)

    def _connect(self, stage):
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(self.bus)
        self._sockets[stage] = socket
        self._send(stage, {
            "kind": "hello", "wire_min": 1, "wire_max": 1, "stage": stage,
            "seat": f"test/{stage}/0", "start": secrets.randbits(63), "model": 0 if stage == "ingest" else 7,
            "slots": 16, **({"numerics": "test"} if stage == "infer" else {})})

    def later(self, delay_s, call):
        self._n += 1
        heapq.heappush(self._timers, (time.monotonic() + delay_s, self._n, call))

    def _beat(self, stage):
        held = sum(1 for s, _ in self._live if s == stage)
        self._n += 1
        self._send(stage, {"kind": "beat", "work": self._n, "held": held, "memory_bytes": 1})
        self.later(0.2, lambda: self._beat(stage))

    def result(self, stage, job, blobs=(), last=False, **more):
        """blobs: (name, type, dims, bytes)"""
        if (stage, job.rid) not in self._live:
            return
        self._send(stage, {"kind": "result", "rid": job.rid, "epoch": job.epoch, "seq": job.seq,
                           "last": last, "blobs": [[n, t, d] for n, t, d, _ in blobs], **more},
                   [b for *_, b in blobs])
        job.seq += 1
        if last:
            self._end(stage, job)

    def failed(self, stage, job, **fields):
        self._send(stage, {"kind": "failed", "rid": job.rid, "epoch": job.epoch, "code": 10,
                           "fault": "request", "text": "failed", **fields})
        self._end(stage, job)

    def _end(self, stage, job):
        self._live.pop((stage, job.rid), None)
        self._send(stage, {"kind": "credit", "n": 1})

    def _run(self):
        poller = zmq.Poller()
        for socket in self._sockets.values():
            poller.register(socket, zmq.POLLIN)
        while self._running:
            wait = self._timers[0][0] - time.monotonic() if self._timers else 0.05
            ready = dict(poller.poll(max(0, min(wait, 0.05)) * 1000))
            for stage, socket in self._sockets.items():
                while socket in ready and self._running:
                    try:
                        frames = socket.recv_multipart(zmq.DONTWAIT, copy=False)
                    except zmq.Again:
                        break
                    self._take(stage, msgpack.unpackb(frames[0].bytes), frames[1:])
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()

    def _take(self, stage, head, blobs):
        kind = head["kind"]
        if kind == "welcome":
            self._send(stage, {"kind": "credit", "n": 16})
            self._beat(stage)
        elif kind == "job":
            job = Job(head, blobs)
            self.jobs[stage].append(job)
            self._live[(stage, job.rid)] = job
            if stage in self.fail:
                self.failed(stage, job, **self.fail[stage])
            else:
                getattr(self, "_" + stage)(job)
        elif kind == "more":
            job = self._live.get((stage, head["rid"]))
            if job:
                self._more(job, head, blobs)
        elif kind == "cancel":
            self._live.pop((stage, head["rid"]), None)
            self.cancels.put((stage, head["rid"], time.monotonic()))
            self._send(stage, {"kind": "credit", "n": 1})
        else:
            raise AssertionError(head)

    # ---- what the stages do ----

    def _ingest(self, job):
        out = [("image.rgb", "u8", [1, 1, 3], b"rgb") if name == "image" else
               ("audio.pcm", "f32", [1], b"\0\0\0\0") for name, _ in job.frames]
        self.result("ingest", job, out, last=True)

    def _encode(self, job):
        self.result("encode", job, [("ids", "i32", [1], b"\2\0\0\0"), ("cuts", "i32", [1], b"\0\0\0\0"),
                                    ("start", "u8", [1], b"\0")],
                    last=True, fields={"prompt_tokens": 1, "media_tokens": 0})

    def _infer(self, job):
        self._token(job, 0, time.monotonic())

    def _token(self, job, index, began):
        if ("infer", job.rid) not in self._live:
            return
        if index == self.fail_after and not self.may_fail.is_set():
            self.later(0.005, lambda: self._token(job, index, began))
            return
        if index == self.fail_after:
            self.failed("infer", job, code=10, fault="request", text="no more")
            return
        if index == self.tokens:
            self.result("infer", job, last=True, index=index,
                        fields={"finish": "stop", "prompt_tokens": 1, "completion_tokens": index,
                                "cached_tokens": 0, "prefill_ms": 1.0, "decode_ms": 1.0})
            return
        self.result("infer", job, [("tokens", "i32", [1], (100 + index).to_bytes(4, "little"))],
                    index=index)
        due = began + (index + 1) * self.delay_s
        self.later(due - time.monotonic(), lambda: self._token(job, index + 1, began))

    def _format(self, job):
        job.upto = 0
        already = [ids(b.bytes) for n, b in job.frames if n == "tokens"]
        if already:
            self._write(job, already[0], job.head.get("skip", 0), False)

    def _more(self, job, head, blobs):
        self._write(job, ids(blobs[0].bytes) if blobs else [], 0, head.get("last", False))

    def _write(self, job, tokens, skip, last):
        job.upto += len(tokens)
        text = b"".join(self.piece(job, i) for i in tokens[skip:])
        if last and job.fields["stream"]:
            text += b"data: [DONE]\n\n"
        if last and not job.fields["stream"]:
            text = b'{"answer": %d}' % job.upto
        if job.fields["stream"]:
            self.sent_at += [time.monotonic()] * len(tokens[skip:])
        self.result("format", job, [("bytes", "u8", [len(text)], text)] if text else [],
                    last=last, upto=job.upto)

    def piece(self, job, token):
        if not job.fields["stream"]:
            return b""
        return b"data: {\"token\": %d}\n\n" % token
