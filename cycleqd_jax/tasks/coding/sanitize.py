"""From a completion to the code that is judged."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading

from cycleqd_jax.errors import BadInputError, SandboxError

_WALL_S = 120.0  # the process stops by itself after 10 s of CPU time
_ATTEMPTS = 2
_START = (
    "import sys; sys.path[:] = {path!r}; "
    "from cycleqd_jax.tasks.coding._sanitizer import main; main({kind!r})"
)


def body_of(completion: str) -> str:
    """The completion up to its first fence, as in the published experiments."""
    return completion.partition("```")[0]


class SanitizerProcess:
    """EvalPlus's sanitisers, in a process of their own; see `_sanitizer`.

    The process starts when it is first needed, and ends with `close` or with us.

    Args:
      kind: "evalplus", "reference" or "bigcodebench".
    """

    def __init__(self, kind: str):
        self._kind = kind
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    async def sanitize(self, code: str, entry_point: str) -> str:
        """Returns the part of a text that the sanitiser keeps.

        A text on which it fails comes back as it is, without white space at its ends.

        Args:
          code: prompt and completion.
          entry_point: the function that the problem asks for.

        Raises:
          BadInputError: a library that it needs cannot be imported.
          SandboxError: the process cannot be started or does not answer.
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
        code = code.encode("utf-8", "replace").decode()  # without lone surrogates
        with self._lock:
            for _ in range(_ATTEMPTS):
                try:
                    if self._process is None:
                        self._begin()
                    reply = self._ask({"code": code, "entry_point": entry_point})
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
            hello = self._ask(None)
        except (OSError, EOFError) as err:
            self._end()
            raise SandboxError(f"The sanitiser could not be started: {err}.") from err
        if "missing" in hello:
            self._end()
            raise BadInputError(
                f"The sanitiser {self._kind} cannot be imported ({hello['missing']}); "
                "install the extra with pip install 'cycleqd-jax[coding]'."
            )

    def _ask(self, request: dict[str, str] | None) -> dict[str, str]:
        """Sends a request, if there is one, and reads one reply.

        Raises:
          EOFError: the process has ended.
          SandboxError: it does not answer.
        """
        process, late = self._process, threading.Event()
        timer = threading.Timer(_WALL_S, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            if request is not None:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = b""
        finally:
            timer.cancel()
        if late.is_set():
            self._end()
            raise SandboxError(
                f"The sanitiser {self._kind} has not answered for {_WALL_S:.0f} s."
            )
        if not line.endswith(b"\n"):
            raise EOFError("it has ended")
        return json.loads(line)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not sent yet
                    stream.close()
