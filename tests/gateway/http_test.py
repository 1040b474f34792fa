"""The gateway over HTTP, with stages made of Python."""
import base64
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest

from fakes import Line, gateway_program

PATH = "/v1/chat/completions"
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
MEDIUM = base64.b64encode(b"\x89PNG not really").decode()


@pytest.fixture(scope="module")
def shared():
    line = Line("--body-bytes", "1000000")
    wait_until_ready(line)
    yield line
    line.close()


@pytest.fixture
def line(shared):
    shared.tokens, shared.delay_s, shared.fail, shared.fail_after = 5, 0.0, {}, None
    shared.jobs.clear()
    while not shared.cancels.empty():
        shared.cancels.get()
    return shared


def request(line, method, path, body=None, timeout=20):
    connection = http.client.HTTPConnection("127.0.0.1", line.port, timeout=timeout)
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    connection.request(method, path, data)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer, text


def wait_until_ready(line):
    end = time.monotonic() + 10
    while request(line, "GET", "/health/ready")[0].status != 200:
        assert time.monotonic() < end, line.log_text()
        time.sleep(0.02)


def post(line, body, **more):
    return request(line, "POST", PATH, body, **more)


def open_stream(line, body=None):
    """A socket on which a request was sent and nothing read."""
    data = json.dumps({**HELLO, "stream": True, **(body or {})}).encode()
    s = socket.create_connection(("127.0.0.1", line.port), timeout=20)
    s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), len(data)) + data)
    return s


def read_until(s, what):
    got = b""
    while what not in got:
        more = s.recv(65536)
        assert more, got
        got += more
    return got


def wait_for_job(line, stage, n=1):
    end = time.monotonic() + 10
    while len(line.jobs[stage]) < n:
        assert time.monotonic() < end
        time.sleep(0.002)


# ---- what is refused ----

PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + MEDIUM}}]
REFUSED = [
    (b"hello", 400, None, "not JSON: 'h' at byte 0"),
    (b'{"model":"chat"', 400, None, "not JSON: ends at byte 15"),
    (b'{"model":"ch\xffat"}', 400, None, "not UTF-8"),
    (b'{"model":"a","model":"b"}', 400, None, "duplicate"),
    (b"[]", 400, None, "must be an object"),
    (b"", 400, None, "empty"),
    ({**HELLO, "model": "gpt-4"}, 404, "model", "no model 'gpt-4'"),
    ({**HELLO, "modle": 1}, 400, "modle", "unknown field"),
    ({**HELLO, "messages": []}, 400, "messages", "empty"),
    ({**HELLO, "temperature": "hot"}, 400, "temperature", "number"),
    ({**HELLO, "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]}]},
     400, "messages[0].content[0].image_url.url", "not fetched"),
    ({**HELLO, "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,A-A="}}]}]},
     400, "messages[0].content[0].image_url.url", "not base64"),
    ({**HELLO, "messages": [{"role": "user", "content": PICTURE * 17}]},
     400, "messages[0].content[16].image_url.url", "more than 16"),
]


@pytest.mark.parametrize("body,status,param,words", REFUSED)
def test_refused(line, body, status, param, words):
    answer, text = post(line, body)
    error = json.loads(text)["error"]
    assert (answer.status, error["param"]) == (status, param)
    assert words in error["message"] and set(error) == {"message", "type", "param", "code"}
    assert post(line, HELLO)[0].status == 200


@pytest.mark.parametrize("at", ["nonsense", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:999999",
                                "[::1:8080", "192.0.2.1:8080"])
def test_where_nobody_can_listen(tmp_path, at):
    done = subprocess.run([gateway_program(), "--listen", at, "--bus", f"ipc://{tmp_path}/bus"],
                          capture_output=True, text=True, timeout=10)
    assert done.returncode == (1 if at.startswith("192") else 2) and at in done.stderr


def test_addresses(line):
    answer, text = request(line, "GET", "/nowhere")
    assert answer.status == 404 and json.loads(text)["error"]["code"] == "not_found"
    answer, _ = request(line, "GET", PATH)
    assert answer.status == 405 and answer.getheader("Allow") == "POST"
    answer, _ = request(line, "POST", "/v1/models", b"x" * 100000)
    assert answer.status == 405 and answer.getheader("Allow") == "GET, HEAD"
    answer, text = request(line, "GET", "/v1/models")
    assert [m["id"] for m in json.loads(text)["data"]] == ["chat"]
    assert json.loads(request(line, "GET", "/v1/models/chat")[1]) == json.loads(text)["data"][0]
    for name in ("gpt-4", "chat/", "Chat", "%ff%00"):
        answer, text = request(line, "GET", "/v1/models/" + name)
        error = json.loads(text)["error"]
        assert (answer.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert json.loads(request(line, "GET", "/v1/models/")[1])["error"]["code"] == "not_found"
    assert request(line, "DELETE", "/v1/models/chat")[0].status == 405
    assert request(line, "GET", "/health/live")[0].status == 200


@pytest.mark.parametrize("path", ["/health/live", "/v1/models", "/v1/models/chat", "/v1/models/gpt-4", "/nowhere", PATH])
def test_head_is_get_without_a_body(line, path):
    get, text = request(line, "GET", path)
    head, nothing = request(line, "HEAD", path)
    assert (head.status, nothing) == (get.status, b"")
    assert head.getheader("Content-Length") == str(len(text))


def test_the_log_keeps_what_a_client_says_in_quotes(line):
    request(line, "GET", '/forged%20http=200%20x="y%20z=%5c"')
    end = time.monotonic() + 10
    while '/forged' not in line.log_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert r'path="/forged http=200 x=\"y z=\\\"" http=404' in line.log_text()


def test_body_over_the_limit(line):
    answer, text = post(line, b"x" * 1000001)
    assert answer.status == 413 and json.loads(text)["error"]["code"] == "request_too_large"
    # chunked, so that nobody says how much is to come
    connection = http.client.HTTPConnection("127.0.0.1", line.port, timeout=20)
    connection.request("POST", PATH, iter([b'{"user":"', *[b"x" * 100000] * 11]), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    # a client that asks first is told before it sends
    s = socket.create_connection(("127.0.0.1", line.port), timeout=5)
    s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n" % PATH.encode())
    assert b" 413 " in read_until(s, b"\r\n")
    s.close()
    assert post(line, HELLO)[0].status == 200


@pytest.mark.parametrize("failed,status,code", [
    ({"code": 1, "text": "messages[0].content[0]: no picture"}, 400, "invalid_value"),
    ({"code": 3, "text": "a kind that we do not know"}, 415, "unsupported_value"),
    ({"code": 5, "text": "prompt of 40000 tokens, context of 32768"}, 400, "context_length_exceeded"),
    ({"code": 14, "text": "30000x30000"}, 413, "request_too_large"),
])
def test_a_stage_refuses(line, failed, status, code):
    for stage in ("encode", "infer"):
        for stream in (False, True):
            line.fail = {stage: failed}
            answer, text = post(line, {**HELLO, "stream": stream})
            error = json.loads(text)["error"]
            assert (answer.status, error["code"]) == (status, code)
            assert error["param"] == ("messages[0].content[0]" if "messages" in failed["text"] else None)


# ---- what comes out ----

def test_streamed(line):
    line.delay_s = 0.01
    answer, text = post(line, {**HELLO, "stream": True})
    assert answer.status == 200 and answer.getheader("Content-Type") == "text/event-stream"
    events = text.decode().split("\n\n")
    assert events == [f'data: {{"token": {100 + i}}}' for i in range(5)] + ["data: [DONE]", ""]


def test_not_streamed(line):
    answer, text = post(line, HELLO)
    assert answer.status == 200 and answer.getheader("Content-Type") == "application/json"
    assert json.loads(text) == {"answer": 5} and answer.getheader("Content-Length") == str(len(text))


def test_many_on_one_connection(line):
    connection = http.client.HTTPConnection("127.0.0.1", line.port, timeout=20)
    for i in range(20):
        body = [json.dumps(HELLO), json.dumps({**HELLO, "stream": True}), "{"][i % 3]
        connection.request("POST", PATH, body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == (400 if i % 3 == 2 else 200)
    connection.close()


def test_media_travel_to_ingest(line):
    content = [{"type": "text", "text": "what?"}, *PICTURE, {"type": "input_audio", "input_audio":
               {"data": base64.b64encode(b"RIFF").decode(), "format": "wav"}}]
    answer, _ = post(line, {**HELLO, "messages": [{"role": "user", "content": content}], "seed": 4,
                            "temperature": 0.5, "max_tokens": 9, "stop": ["x"]})
    assert answer.status == 200
    assert line.jobs["ingest"][0].blobs == [("image", b"\x89PNG not really"), ("audio", b"RIFF")]
    fields = line.jobs["infer"][0].fields
    assert (fields["seed"], fields["temperature"], fields["max_tokens"], fields["stop"]) == (4, 0.5, 9, ["x"])
    assert [n for n, _ in line.jobs["encode"][0].blobs] == ["turns", "image.rgb", "audio.pcm"]


def test_a_body_in_drops(line):
    data = json.dumps({**HELLO, "messages": [{"role": "user", "content": PICTURE}]}).encode()
    s = socket.create_connection(("127.0.0.1", line.port), timeout=20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), len(data))
    for i in range(0, len(head + data), 3):
        s.send((head + data)[i:i + 3])
    assert b"200 OK" in read_until(s, b'{"answer": 5}')
    s.close()


def test_bodies_that_come_all_at_once(line):
    """More than is read in one turn, and each whole in its socket: no other byte will wake anybody."""
    text = "w\u00f6rter " * 5000
    data = json.dumps({"messages": [{"role": "user", "content": text}], "model": "nobody"}).encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), len(data))
    sockets = [socket.create_connection(("127.0.0.1", line.port), timeout=10) for _ in range(100)]
    assert request(line, "GET", "/health/live")[0].status == 200  # it has taken them
    line.process.send_signal(signal.SIGSTOP)
    for s in sockets:
        s.sendall(head + data)
    line.process.send_signal(signal.SIGCONT)
    for s in sockets:
        assert b" 404 " in read_until(s, b"\r\n")
        s.close()


def test_an_error_inside_a_stream_is_an_event(line):
    line.fail_after = 3
    line.may_fail.clear()
    s = open_stream(line)
    begun = read_until(s, b'"token": 102')  # these went out before infer failed
    line.may_fail.set()
    text = read_until(s, b"no more")
    if b"\n\n" not in text.partition(b"no more")[2]:
        text += read_until(s, b"\n\n")
    s.close()
    events = (begun + text).partition(b"\r\n\r\n")[2].split(b"data: ")
    assert b" 200 " in begun.split(b"\r\n")[0] and len(events) == 5
    assert json.loads(events[4].split(b"\n\n")[0])["error"]["message"] == "no more"
    assert b"[DONE]" not in begun + text
    answer, text = post(line, HELLO)  # nothing was sent yet: a proper status
    assert answer.status == 500 and json.loads(text)["error"]["message"] == "no more"


def test_a_quiet_stream_gets_comments(line):
    line.tokens, line.delay_s = 2, 1.3
    answer, text = post(line, {**HELLO, "stream": True})
    assert text.count(b": \n\n") >= 2 and text.endswith(b"data: [DONE]\n\n")


# ---- clients that leave ----

@pytest.mark.parametrize("how", ["close", "reset", "shutdown"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves(line, how, begun):
    line.tokens, line.delay_s = 2, 30
    if not begun:
        line._infer, kept = (lambda job: None), line._infer
    s = open_stream(line)
    if begun:
        read_until(s, b'"token": 100')
    else:
        wait_for_job(line, "infer")
    if how == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    left = time.monotonic()
    s.shutdown(socket.SHUT_WR) if how == "shutdown" else s.close()
    stages = set()
    while "infer" not in stages:
        stage, rid, when = line.cancels.get(timeout=2)
        stages.add(stage)
    assert rid == line.jobs["infer"][0].rid and when - left < 0.25
    s.close()
    if not begun:
        line._infer = kept
    line.delay_s = 0
    assert post(line, HELLO)[0].status == 200


def test_a_client_that_leaves_in_its_body(line):
    seen = line.log_text().count("http=0 ")
    for n in (0, 10, 100000):
        s = socket.create_connection(("127.0.0.1", line.port))
        s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" % PATH.encode() + b'{"user":"' + b"x" * n)
        s.close()
    end = time.monotonic() + 1
    while line.log_text().count("http=0 ") < seen + 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert post(line, HELLO)[0].status == 200


def test_a_slow_reader_holds_up_nobody(line):
    line.piece, kept = (lambda job, token: b"data: " + b"x" * 100000 + b"\n\n"), line.piece
    line.tokens = 100
    s = open_stream(line)
    wait_for_job(line, "format")
    time.sleep(0.1)
    line.piece = kept
    began = time.monotonic()
    assert post(line, HELLO)[0].status == 200 and time.monotonic() - began < 2
    s.close()


# ---- callers who keep others waiting ----

def idle_sockets(line, n, data=b""):
    sockets = []
    for i in range(n):
        s = socket.create_connection(("127.0.0.1", line.port), timeout=20)
        s.sendall(data)
        sockets.append(s)
    return sockets


@pytest.mark.parametrize("sent", [b"", b"POST %s HTTP/1.1\r\nHost: x\r\nX-Half: " % PATH.encode(),
                                  b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{" % PATH.encode()])
def test_callers_who_say_nothing_keep_nobody_out(line, sent):
    """Three times as many as there may be; a stream that runs meanwhile is not theirs to end."""
    line.tokens, line.delay_s = 30, 0.05
    stream = open_stream(line)
    got = read_until(stream, b'"token": 100')
    sockets = []
    for _ in range(3):
        sockets += idle_sockets(line, 256, sent)
        answer, _ = request(line, "GET", "/health/live", timeout=5)
        assert answer.status == 200
    got += read_until(stream, b"[DONE]")
    assert b'"token": 129' in got
    line.delay_s = 0
    assert post(line, HELLO, timeout=5)[0].status == 200
    for s in [stream, *sockets]:
        s.close()


def test_uploads_that_do_not_end_keep_nobody_out():
    """The room for bodies is taken by four that stop short of their end: the oldest gives way."""
    line = Line("--memory", str(4 << 20), "--body-bytes", str(1 << 20))
    wait_until_ready(line)
    half = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1048000\r\n\r\n" % PATH.encode() + b'{"user":"'
    sockets = idle_sockets(line, 4, half)
    for s in sockets:
        s.sendall(b"x" * 1040000)
        time.sleep(0.05)  # so that there is an oldest
    time.sleep(0.3)
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "AAAA" * 60000}}]
    answer, text = post(line, {"model": "nobody", "messages": [{"role": "user", "content": content}]})
    assert answer.status == 404, text  # it was read to its end
    for s, status in zip(sockets, [b" 503 ", b" 400 "]):
        s.sendall(b"x" * (1048000 - 1040000 - len(b'{"user":"')))
        assert status in read_until(s, b"\r\n")
    for s in sockets:
        s.close()
    line.close()


# ---- load, start and end ----

UPLOAD = """
import http.client, signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
body = sys.stdin.buffer.read()
signal.sigwait([signal.SIGUSR1])
began = time.monotonic()
c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
c.request("POST", sys.argv[2], body)
print(c.getresponse().status, "in %.2f s" % (time.monotonic() - began))
"""


def lateness(line, seconds):
    """How much later than format gave them the pieces of a stream came, in ms, sorted."""
    line.tokens, line.delay_s = int(seconds / 0.01), 0.01
    line.sent_at.clear()
    s = open_stream(line)
    got, arrived = b"", []
    while b"[DONE]" not in got:
        more = s.recv(65536)
        now = time.monotonic()
        assert more
        got += more
        arrived += [now] * more.count(b'"token"')
    s.close()
    return sorted((a - b) * 1000 for a, b in zip(arrived, line.sent_at))


def upload_beside_a_stream(body):
    """How late a stream's pieces are, in ms, before and while four clients send that body at once."""
    line = Line()
    wait_until_ready(line)
    # processes of their own: their work must not be taken for the gateway's
    clients = [subprocess.Popen([sys.executable, "-c", UPLOAD, str(line.port), PATH],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    for client in clients:
        client.stdin.write(body)
        client.stdin.close()
    calm = lateness(line, 0.5)
    for client in clients:
        client.send_signal(signal.SIGUSR1)
    late = lateness(line, 1.5)
    statuses = [client.stdout.read() for client in clients]
    for client in clients:
        client.wait()
    line.close()
    print(f"pieces late by ms: calm p99 {calm[len(calm) * 99 // 100]:.2f}, under load median "
          f"{late[len(late) // 2]:.2f} p99 {late[len(late) * 99 // 100]:.2f} max {late[-1]:.2f}; uploads {statuses}")
    assert all(s.startswith(b"200 ") for s in statuses)
    return calm, late


def test_uploads_do_not_hold_up_a_stream():
    """Four bodies of 8 MB at once: parsed as wholes they would stop the stream for 0.1 s and more,
    each. With MILLRACE_LATENCY_MS (release build, idle machine) they are 32 MB, and that is the
    bound of the 99th percentile."""
    strict = os.environ.get("MILLRACE_LATENCY_MS")
    size = (32 if strict else 8) << 20
    medium = base64.b64encode(os.urandom(size * 3 // 4)).decode()
    body = json.dumps({**HELLO, "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + medium}}]}]}).encode()
    if strict:
        _, late = upload_beside_a_stream(body)
        assert late[len(late) * 99 // 100] <= float(strict)
        return
    # A machine that is busy with other things is late by itself, all the time (calm) or for a while: a gateway that is
    # late because of the bodies is so each time.
    for _ in range(3):
        calm, late = upload_beside_a_stream(body)
        if late[len(late) * 9 // 10] <= max(100, 10 * calm[len(calm) * 9 // 10]):
            return
    pytest.fail("late in each of three rounds")


def test_more_peers_on_the_bus_than_files_at_first():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 300
    if hard != resource.RLIM_INFINITY and hard < 2 * wanted or soft < wanted + 100:
        pytest.skip(f"SKIP: only {soft} to {hard} open files are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted // 2, hard))
    try:
        line = Line()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_until_ready(line)
    peers, end = [], time.monotonic() + 20
    while len(peers) < wanted and line.process.poll() is None:
        assert time.monotonic() < end
        peer = socket.socket(socket.AF_UNIX)
        peer.setblocking(False)
        try:
            peer.connect(line.bus.removeprefix("ipc://"))
            peers.append(peer)
        except BlockingIOError:  # the queue of those who wait to be let in is full
            peer.close()
            time.sleep(0.002)
    assert post(line, HELLO)[0].status == 200
    for peer in peers:
        peer.close()
    line.close()


def test_ready_names_what_is_missing():
    line = Line(stages=("encode", "infer"))
    time.sleep(0.3)
    answer, text = request(line, "GET", "/health/ready")
    assert answer.status == 503 and json.loads(text)["missing"] == {"chat": "ingest"}
    line.close()


def test_a_stop_lets_streams_end():
    line = Line()
    wait_until_ready(line)
    line.tokens, line.delay_s = 20, 0.03
    s = open_stream(line)
    got = read_until(s, b'"token": 100')
    line.process.send_signal(signal.SIGTERM)
    got += read_until(s, b"[DONE]")
    assert b'"token": 119' in got
    s.close()
    assert line.process.wait(5) == 0
    line.close()


def test_a_stop_does_not_wait_for_ever():
    line = Line()
    wait_until_ready(line)
    line._infer = lambda job: None
    waiting, streaming = open_stream(line), open_stream(line, {"stream": False})
    wait_for_job(line, "infer", 2)
    began = time.monotonic()
    line.process.send_signal(signal.SIGTERM)
    with pytest.raises(OSError):
        while time.monotonic() < began + 2:
            socket.create_connection(("127.0.0.1", line.port)).close()
    line.process.send_signal(signal.SIGTERM)  # asked twice: at once
    for s in (waiting, streaming):
        answer = read_until(s, b"shutting down")
        assert b" 503 " in answer.split(b"\r\n")[0]
        s.close()
    assert line.process.wait(5) == 0 and time.monotonic() - began < 3
    line.close()
