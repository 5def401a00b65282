"""From a completion to the code that is judged."""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import select
import subprocess
import sys
import threading
import time
from typing import Literal

from cycleqd_jax.errors import BadInputError, SandboxError

Sanitizer = Literal["evalplus", "reference"]
_EXTRA = "pip install 'cycleqd-jax[coding]'"
_MODULES = ("evalplus", "tree_sitter", "tree_sitter_python")
_WALL_S = 120.0  # the process itself stops a text after 10 s of CPU time
_ATTEMPTS = 2
_START = (
    "import sys; sys.path[:] = {path!r}; "
    "from cycleqd_jax.tasks.code._sanitizer import main; main({kind!r})"
)


def body_of(completion: str) -> str:
    """The completion up to its first fence, as the published experiments took it."""
    return completion.partition("```")[0]


def sanitizer_version(kind: Sanitizer) -> str:
    """Which sanitiser it is, for fingerprints.

    Raises:
      BadInputError: its library is not installed.
    """
    if kind == "reference":
        return "legacy/1"
    missing = [m for m in _MODULES if importlib.util.find_spec(m) is None]
    if missing:
        raise BadInputError(
            f"The sanitiser evalplus needs the Python package {missing[0]}; install "
            f"the extra with {_EXTRA}, or choose sanitizer: reference."
        )
    return f"evalplus {importlib.metadata.version('evalplus')}"


class SanitizerProcess:
    """Sanitises texts in a process of its own; see `_sanitizer`.

    The process is started when it is first needed and ends with `close`, or when we do.
    """

    def __init__(self, kind: Sanitizer):
        self._kind = kind
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    async def sanitize(self, code: str, entry_point: str) -> str:
        """What the sanitiser leaves of a text.

        A text on which it fails is returned as it is, without white space around it.

        Args:
          code: prompt and completion.
          entry_point: the function that is asked for.

        Raises:
          BadInputError: its library is not installed.
          SandboxError: the process could not be started or does not answer.
        """
        return await asyncio.to_thread(self._sanitize, code, entry_point)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def __del__(self):
        with contextlib.suppress(OSError, AttributeError):
            self._end()

    def _sanitize(self, code: str, entry_point: str) -> str:
        # A lone surrogate has no bytes, and no parser takes it.
        code = code.encode("utf-8", "replace").decode()
        request = {"code": code, "entry_point": entry_point}
        with self._lock:
            for _ in range(_ATTEMPTS):
                try:
                    if self._process is None:
                        self._begin()
                    reply = self._ask(request)
                    return reply.get("code", code.strip())
                except EOFError:  # the text crashed it, or somebody killed it
                    self._end()
        return code.strip()

    def _begin(self) -> None:
        source = _START.format(path=sys.path, kind=self._kind)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", source],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us alone
            )
        except OSError as err:
            raise SandboxError(f"The sanitiser could not be started: {err}.") from err
        try:
            hello = self._read_line()
        except EOFError as err:
            self._end()
            raise SandboxError(
                f"The sanitiser {self._kind} ended at its start."
            ) from err
        if "missing" in hello:
            self._end()
            raise BadInputError(
                f"The sanitiser evalplus cannot be imported ({hello['missing']}); "
                f"install the extra with {_EXTRA}, or choose sanitizer: reference."
            )

    def _ask(self, request: dict[str, str]) -> dict[str, str]:
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as err:
            raise EOFError from err
        return self._read_line()

    def _read_line(self) -> dict:
        """One reply.

        Raises:
          EOFError: the process has ended.
          SandboxError: it does not answer.
        """
        stream, line = self._process.stdout, b""
        deadline = time.monotonic() + _WALL_S
        while not line.endswith(b"\n"):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([stream], [], [], left_s)[0]:
                self._end()
                raise SandboxError(
                    f"The sanitiser {self._kind} has not answered for {_WALL_S:.0f} s."
                )
            part = stream.read1(2**16)
            if not part:
                raise EOFError
            line += part
        return json.loads(line)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not sent yet
                    stream.close()
