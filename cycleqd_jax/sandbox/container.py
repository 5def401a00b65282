"""Sessions in containers of Docker or Podman, for exact images.

A container has no network and lives as long as its session. Its programs are its own:
what an episode changes in them cannot be taken back, so it is looked for instead. When
an answer is judged, the container is stopped, which ends all its processes, and what
differs from its image is listed; where programs, libraries or their configuration
differ in content, the answer does not count. The same is done once more after a check
that may run commands of the episode.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox.session import DEFAULT_LIMITS, SessionLimits
from cycleqd_jax.sandbox.session_connection import ENVIRONMENT, ScriptRun, Typed

_KEPT_BYTES = 2**16
_ENGINES = ("podman", "docker")
_ENGINE_S = 120.0  # for one command of the engine
_PROGRAMS = re.compile(r"/(usr/)?(bin|sbin|lib|lib32|lib64|libx32|libexec)(/|$)")
_LOADED = re.compile(r"/(usr/)?(local/)?lib(32|64|x32|exec)?(/|$)")
_COMMANDS = re.compile(r"/(usr/(local/)?)?s?bin/([^/]+)$")
_CONFIGURATION = re.compile(
    r"/etc/(ld\.so.*|alternatives|nsswitch\.conf|environment|profile|profile\.d|"
    r"bash\.bashrc|pam\.d|pam\.conf|security|login\.defs|python[^/]*|locale\.alias|"
    r"sudo\.conf)(/|$)"
)
_LOGIN_SCRIPTS = re.compile(r"/home/[^/]+/\.(bash_login|bash_profile|profile|bashrc)$")
_TRUSTED = {"PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}


class Containers:
    """Starts containers.

    Args:
      image: its name, as the engine knows it.
      slots: at most so many at once.
      engine: its command, like "podman" or "podman --runtime runc"; the first that is
        installed where it is None.
      limits: of each container; time of the processor is not limited.

    Raises:
      BadInputError: there is no such command.
    """

    def __init__(
        self,
        image: str,
        slots: int,
        engine: str | None = None,
        limits: SessionLimits = DEFAULT_LIMITS,
    ):
        words = engine.split() if engine else []
        if not words:
            words = [name for name in _ENGINES if shutil.which(name)][:1]
        if not words or shutil.which(words[0]) is None:
            raise BadInputError(
                f"sandbox: the backend container needs the command "
                f"{words[0] if words else 'podman or docker'}, which was not found on "
                "PATH; install it (Debian, Ubuntu: apt install podman), or choose the "
                "backend host"
            )
        self._engine = words
        self._image = image
        self._slots = slots
        self._limits = limits
        self._places: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._names: frozenset[str] | None = None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["ContainerSession"]:
        """Starts a container, and removes it at the end.

        Raises:
          SandboxError: it could not be started.
        """
        loop = asyncio.get_running_loop()
        places = self._places.setdefault(loop, asyncio.Semaphore(self._slots))
        async with places:
            name = f"cycleqd-{os.getpid()}-{secrets.token_hex(6)}"
            try:
                await self._start(name)
                session = ContainerSession(self, name)
                try:
                    yield session
                finally:
                    await session.close()
            finally:
                await self.ask("kill", name, check=False)  # else it is asked to end
                await self.ask("rm", "-f", "-v", name, check=False)

    async def _start(self, name: str) -> None:
        options = [*self._options(), "--name", name, "--entrypoint", "tail"]
        await self.ask("run", "-d", *options, self._image, "-f", "/dev/null")

    def _options(self) -> list[str]:
        limits = self._limits
        return [
            *("--network", "none", "--hostname", "box"),
            *("--pids-limit", str(limits.processes)),
            *("--memory", str(limits.memory_bytes)),
            *("--ulimit", f"nofile={limits.open_files}:{limits.open_files}"),
            *("--ulimit", f"nproc={limits.processes}:{limits.processes}"),
            *("--ulimit", f"fsize={limits.file_bytes}:{limits.file_bytes}"),
            *("--ulimit", "core=0:0"),
        ]

    async def commands(self) -> frozenset[str]:
        """Names of the image's own commands."""
        if self._names is None:
            folders = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
            listed = await self.ask(
                *("run", "--rm", *self._options(), "--entrypoint", "ls"),
                *(self._image, *folders),
            )
            self._names = frozenset(listed.decode(errors="replace").split())
        return self._names

    async def ask(self, *words: str, check: bool = True) -> bytes:
        """Runs a command of the engine to its end; what it printed.

        Raises:
          SandboxError: it failed, unless `check` is False.
        """
        status, output = await self.run(words, _ENGINE_S)
        if check and status != 0:
            said = output.decode(errors="replace").strip()[-500:]
            hint = ""
            if "OCI runtime" in said or "cgroup" in said:
                hint = "; another runtime may work, like engine: podman --runtime runc"
            raise SandboxError(
                f"{self._engine[0]} {words[0]} failed for the image {self._image} "
                f"({said}){hint}"
            )
        return output

    async def run(
        self, words: Sequence[str], limit_s: float
    ) -> tuple[int | None, bytes]:
        """(Exit status, both outputs) of a command; None where its time was up."""
        process = await self.spawn(words, asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(limit_s):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return None, b""
        except asyncio.CancelledError:
            # Half done, it would leave the engine's own state in disorder.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.communicate(), _ENGINE_S)
            raise
        return process.returncode, output

    async def spawn(
        self, words: Sequence[str], stdin: int
    ) -> asyncio.subprocess.Process:
        """Starts a command of the engine."""
        try:
            return await asyncio.create_subprocess_exec(
                *self._engine,
                *words,
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=2**20,
            )
        except OSError as error:
            raise SandboxError(
                f"{self._engine[0]} cannot be started: {error}"
            ) from error


class ContainerSession:
    """One container; the same members as `session.Session`.

    Args:
      containers: made it.
      name: of the container.
    """

    def __init__(self, containers: Containers, name: str):
        self._containers = containers
        self._name = name
        self._shell: asyncio.subprocess.Process | None = None
        self._before: dict[str, str] = {}  # path -> how it differs from the image
        self._contents: dict[str, bytes] = {}
        self._judged: dict[str, str] = {}

    async def script(
        self,
        language: str,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
        judging: bool = False,
        read_only: bool = False,
        alone: bool = False,
        extra: Mapping[str, str] = {},
    ) -> ScriptRun:
        """Runs a script on its own, in `/`; see `session.Session.script`.

        `read_only` does not keep a check from changing files; that it or what it ran
        did so to programs is found out, and then it has not passed.
        """
        words = {"bash": ["bash", "-c", code, "--"], "python": ["python3", "-c", code]}
        given = [os.fsdecode(a) if isinstance(a, bytes) else a for a in arguments]
        given = [
            a.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            for a in given
        ]
        variables = {**ENVIRONMENT, **(_TRUSTED if judging else {}), **extra}
        options = [w for n, v in variables.items() for w in ("-e", f"{n}={v}")]
        status, output = await self._containers.run(
            ("exec", "-w", "/", *options, self._name, *words[language], *given), limit_s
        )
        if status is None:
            await self._containers.ask("kill", self._name, check=False)
            return ScriptRun(-9, "limit", b"")
        if status == 125 or (status == 255 and b"container" in output):
            raise SandboxError(f"a container has ended: {output.decode()[-300:]}")
        if judging and read_only and await self._tampered(self._judged):
            return ScriptRun(1, "done", b"it changed the system")
        return ScriptRun(status, "done", output[:_KEPT_BYTES])

    async def start_shell(self, *, terminal: bool, limit_s: float) -> Typed:
        """Starts the login shell that stays.

        Raises:
          SandboxError: for a terminal, which there is none.
        """
        if terminal:
            raise SandboxError("the backend container has no terminal; choose another")
        variables = [w for n, v in ENVIRONMENT.items() for w in ("-e", f"{n}={v}")]
        variables += ["-e", "PYTHONDONTWRITEBYTECODE=1"]
        self._shell = await self._containers.spawn(
            ("exec", "-i", "-w", "/", *variables, self._name, "bash", "--login"),
            asyncio.subprocess.PIPE,
        )
        return await self.type("", limit_s=limit_s)

    async def type(self, code: str, *, limit_s: float) -> Typed:
        """Types into the shell, and waits until it is ready again or out of time.

        The time is that of the clock on the wall.
        """
        mark = secrets.token_hex(12)
        line = f"{{ eval \"printf '\\036%s\\036' {mark}; (exit $?)\"; }} 2>/dev/null"
        seen = f"\x1e{mark}\x1e".encode()
        output, ended = bytearray(), "done"
        try:
            self._shell.stdin.write(f"{code}\n{line}\n".encode("utf-8", "replace"))
            await self._shell.stdin.drain()
            async with asyncio.timeout(limit_s):
                while seen not in output[-(2**17) :]:
                    part = await self._shell.stdout.read(1 << 16)
                    if not part:
                        ended = "exited"
                        break
                    output += part
        except TimeoutError:
            ended = "limit"
        except (BrokenPipeError, ConnectionResetError):
            ended = "exited"
        data = bytes(output).partition(seen)[0]
        try:
            data.decode("utf-8")
            valid = True
        except UnicodeDecodeError:
            valid = ended == "limit"
        return Typed(ended, data[:_KEPT_BYTES], valid)

    async def remember(self) -> None:
        """Notes how the container differs from its image before the episode."""
        self._before = await self._differences()
        for path in self._before:
            if _trusted(path):
                self._contents[path] = await self._content(path)

    async def judge(self, *, freeze: bool = False) -> str | None:
        """Ends all processes of the container; `freeze` cannot keep them.

        Returns:
          What of its programs was changed, or None.
        """
        await self._end_shell()
        await self._containers.ask("kill", self._name, check=False)
        await self._containers.ask("wait", self._name)
        tampered = await self._tampered(None)
        if tampered is None:
            self._judged = await self._differences()
            await self._containers.ask("start", self._name)
        return tampered

    async def close(self) -> None:
        """Ends the shell; the container is removed by `Containers.open`."""
        await self._end_shell()

    async def _end_shell(self) -> None:
        shell, self._shell = self._shell, None
        if shell is None:
            return
        with contextlib.suppress(ProcessLookupError):
            shell.kill()
        shell.stdin.close()
        await shell.communicate()

    async def _differences(self) -> dict[str, str]:
        """Path -> A (added), C (changed) or D (deleted), compared with the image."""
        lines = (await self._containers.ask("diff", self._name)).decode(
            errors="replace"
        )
        pairs = [line.split(" ", 1) for line in lines.splitlines() if " " in line]
        found = {path: kind for kind, path in pairs}
        # A folder is said to be changed when something in it is.
        parents = {os.path.dirname(path) for path in found}
        return {p: k for p, k in found.items() if k != "C" or p not in parents}

    async def _tampered(self, since: Mapping[str, str] | None) -> str | None:
        """What was changed that judges: since the image, or strictly since `since`."""
        names = await self._containers.commands()
        for path, kind in (await self._differences()).items():
            if since is not None:
                if path not in since and _suspicious(path, kind, names):
                    return path
            elif _suspicious(path, kind, names) and not await self._unchanged(
                path, kind
            ):
                return f"{path} was {'removed' if kind == 'D' else 'changed'}"
        return None

    async def _unchanged(self, path: str, kind: str) -> bool:
        """Whether a file's content is that from before the episode."""
        if kind == "D":
            return self._before.get(path) == "D"
        now = await self._content(path)
        if path in self._contents:
            return self._contents[path] == now
        return kind == "C" and await self._image_content(path) == now

    async def _content(self, path: str) -> bytes:
        return _file_of(await self._containers.ask("cp", f"{self._name}:{path}", "-"))

    async def _image_content(self, path: str) -> bytes:
        fresh = f"{self._name}-image"
        containers = self._containers
        await containers.ask("create", "--name", fresh, containers._image, "true")
        try:
            return _file_of(await containers.ask("cp", f"{fresh}:{path}", "-"))
        finally:
            await containers.ask("rm", "-f", fresh, check=False)


def _trusted(path: str) -> bool:
    kinds = (_PROGRAMS, _LOADED, _CONFIGURATION, _LOGIN_SCRIPTS)
    return any(kind.match(path) for kind in kinds)


def _suspicious(path: str, kind: str, names: frozenset[str]) -> bool:
    """Whether a difference there could decide a verdict."""
    command = _COMMANDS.match(path)
    if command and kind == "A":
        return command[3] in names
    return _trusted(path)


def _file_of(archive: bytes) -> bytes:
    """Type, target and content of the one file in an archive, not its permissions."""
    header, content = archive[:512], archive[512:]
    size = int(header[124:135].strip(b"\0 ") or b"0", 8) if len(header) == 512 else 0
    return header[156:257] + content[:size]
