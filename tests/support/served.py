"""An endpoint in this process, on a free port of the loopback."""

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.serving.app import make_app
from cycleqd_jax.serving.server import listen, make_server
from cycleqd_jax.serving.settings import ServeSettings

# Room for short conversations, few programs.
ENGINE = {
    "slots": 8,
    "length": 96,
    "prefill_rows": 4,
    "prefill_chunk": 16,
    "decode_steps": 4,
    "deterministic": True,
}


class Served(NamedTuple):
    """A running endpoint; `app` is its application, `url` has no slash at its end."""

    app: object
    url: str

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and body."""
        return self._open(urllib.request.Request(self.url + path, headers=headers))

    def post(self, path: str, body: object, **headers: str) -> tuple[int, dict]:
        """Status and body of a request whose body is JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | headers
        request = urllib.request.Request(self.url + path, data, headers)
        status, text = self._open(request)
        return status, json.loads(text)

    def metric(self, name: str) -> float:
        """One number of the metrics."""
        lines = self.get("/metrics")[1].splitlines()
        return float(
            next(one for one in lines if one.startswith(f"{name} ")).split()[1]
        )

    def wait_until(self, condition, seconds: float = 120.0) -> None:
        """Waits for something that follows soon."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come about"
            time.sleep(0.02)

    def _open(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as err:
            with err:
                return err.code, err.read().decode()


@contextlib.contextmanager
def serving(run, extra_routes=(), **settings) -> Iterator[Served]:
    """Serves a run folder as long as the body runs."""
    settings = {
        "port": 0,
        "max_waiting": 8,
        "engine": ENGINE,
        "warm_up": False,
    } | settings
    chosen = ServeSettings.model_validate(settings)
    app = make_app(open_run(run), chosen, extra_routes)
    with listen(chosen) as listener:
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Served(app, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join()
