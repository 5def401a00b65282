"""A container engine that only pretends, on a socket of its own."""

import contextlib
import http.server
import json
import pathlib
import socketserver
import threading
import time


def frame(data: bytes, kind: int = 1) -> bytes:
    """What an engine sends of a command's output."""
    return bytes([kind, 0, 0, 0]) + len(data).to_bytes(4) + data


class FakeEngine:
    """What it does, and what it was asked.

    Attributes:
      asked: (method, path without the version, body) of each request.
      output: parts that a command sends; the first comes with the answer's headers.
      state: what it says of a command that has sent them.
      failing: path's last word -> status of the error it answers.
      late_s: last word -> seconds that the answer takes.
    """

    def __init__(self, address: str):
        self.address = address
        self.asked = []
        self.output = [b""]
        self.state = {"Running": False, "ExitCode": 0}
        self.failing = {}
        self.late_s = {}
        self.typed = b""

    def calls(self) -> list[str]:
        """The last words of what it was asked to do."""
        return [f"{method} {path.split('/')[-1]}" for method, path, _ in self.asked]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def address_string(self):
        return "a test"

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def do_DELETE(self):
        self._answer()

    def _answer(self):
        fake = self.server.fake
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        path = self.path.partition("?")[0]
        last = path.split("/")[-1]
        fake.asked.append((self.command, path, body))
        time.sleep(fake.late_s.get(last, 0))
        if last in fake.failing:
            self._say(fake.failing[last], {"message": f"{last} is not possible"})
        elif last == "start" and path.split("/")[-3] == "exec":
            self._run(fake)
        elif last == "json":
            self._say(200, fake.state)
        else:
            self._say(200, {"ApiVersion": "1.41", "Id": "e1", "StatusCode": 0})

    def _say(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _run(self, fake):
        headers = (
            b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
        first, *rest = fake.output
        self.connection.sendall(headers + first)
        for part in rest:
            if part is None:  # until something is typed
                fake.typed += self.connection.recv(2**16)
                continue
            time.sleep(0.02)
            self.connection.sendall(part)
        self.close_connection = True


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        pass  # a client that did not wait for its answer


@contextlib.contextmanager
def fake_engine(path: pathlib.Path):
    """One that listens there."""
    with _Server(str(path), _Handler) as server:
        server.fake = FakeEngine(f"unix://{path}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.fake
        finally:
            server.shutdown()
            thread.join()
