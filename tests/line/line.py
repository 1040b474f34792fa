"""A line with the tiny model, for tests: started by `millrace up`, asked over HTTP, hurt by signals."""
import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get('MILLRACE_BIN', os.path.join(ROOT, 'build', 'release', 'bin'))


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Answer:
    """What came back for one request."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        """The chunks of a stream; [DONE] and comments left out."""
        lines = self.body.decode().split('\n')
        return [json.loads(x[6:]) for x in lines if x.startswith('data: ') and x != 'data: [DONE]']

    @property
    def done(self):
        return self.body.endswith(b'data: [DONE]\n\n')

    @property
    def text(self):
        """The answer's text, streamed or not."""
        if self.headers.get('content-type', '').startswith('text/event-stream'):
            deltas = [c['delta'] for e in self.events for c in e.get('choices', [])]
            return ''.join(d.get('content') or '' for d in deltas)
        return self.json['choices'][0]['message']['content']

    @property
    def error(self):
        return self.json['error']


class Line:
    def __init__(self, model, media, folder, *options, **environment):
        self.port = free_port()
        self.log = os.path.join(folder, f'line-{self.port}.log')
        command = [os.path.join(BIN, 'millrace'), 'up', '--model', model, *(['--media', media] if media else []),
                   '--listen', f'127.0.0.1:{self.port}', '--verbose', *options]
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            env={**os.environ, **environment})
        self.wait_ready()

    # ------------------------------------------------------------ state
    def ready(self):
        try:
            return self.request('GET', '/health/ready').status == 200
        except OSError:
            return False

    def wait_ready(self, seconds=30):
        end = time.monotonic() + seconds
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError('the line is not ready:\n' + self.logged())
            time.sleep(0.02)

    def logged(self):
        with open(self.log, errors='replace') as f:
            return f.read()

    def pid(self, stage, index=0):
        """Process of that stage, found by its seat; None when there is none at the moment."""
        for name in os.listdir('/proc'):
            if not name.isdigit():
                continue
            try:
                with open(f'/proc/{name}/cmdline', 'rb') as f:
                    arguments = f.read().decode().split('\0')
                with open(f'/proc/{name}/stat') as f:
                    parent = int(f.read().rsplit(')', 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            wanted = f'millrace-{stage}'
            if parent != self.process.pid or os.path.basename(arguments[0]) != wanted:
                continue
            if stage == 'gateway' or f'localhost/{stage}/{index}' in arguments:
                return int(name)
        return None

    def kill(self, stage, index=0, number=signal.SIGKILL):
        """Ends a stage's process; returns its pid."""
        pid = self.pid(stage, index)
        assert pid, f'{stage} is not running'
        os.kill(pid, number)
        return pid

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise

    # ------------------------------------------------------------ requests
    def connect(self, timeout=600):
        return http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None):
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, body):
        raw = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.request('POST', '/v1/chat/completions', raw, {'Content-Type': 'application/json'})

    def chat(self, content, **options):
        """One user message; greedy unless said otherwise."""
        return self.post(chat_body(content, **options))

    def open_stream(self, body):
        """Sends a streamed request; returns (connection, response) with the headers read."""
        connection = self.connect()
        connection.request('POST', '/v1/chat/completions', json.dumps(body), {'Content-Type': 'application/json'})
        return connection, connection.getresponse()


def chat_body(content, **options):
    body = {'model': 'chat', 'messages': [{'role': 'user', 'content': content}], 'temperature': 1, 'seed': 7,
            'max_tokens': 40}
    body.update(options)
    return body


def picture_part(raw, kind='image/png'):
    return {'type': 'image_url', 'image_url': {'url': f'data:{kind};base64,' + base64.b64encode(raw).decode()}}


def video_part(raw, kind='video/mp4'):
    return {'type': 'video_url', 'video_url': {'url': f'data:{kind};base64,' + base64.b64encode(raw).decode()}}


def sound_part(raw, kind='wav'):
    return {'type': 'input_audio', 'input_audio': {'data': base64.b64encode(raw).decode(), 'format': kind}}
