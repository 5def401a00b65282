"""Docker or Podman, by their commands: how a container is started and asked."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Sequence

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox.session import SessionLimits

_ENGINES = ("podman", "docker")
_ENGINE_S = 120.0  # for one command of the engine
_MAX_BYTES = 2**24  # of what one prints; more is read, but not kept
_BLOCK = 512  # bytes of a header in an archive


class Engine:
    """Runs the engine's commands for one image.

    Args:
      image: its name, as the engine knows it.
      command: like "podman" or "podman --runtime runc"; the first that is installed
        where it is None.
      limits: of each container; time of the processor and size of all files are not
        limited.

    Raises:
      BadInputError: there is no such command.
    """

    def __init__(self, image: str, command: str | None, limits: SessionLimits):
        words = command.split() if command else []
        if not words:
            words = [name for name in _ENGINES if shutil.which(name)][:1]
        if not words or shutil.which(words[0]) is None:
            raise BadInputError(
                f"sandbox: the backend container needs the command "
                f"{words[0] if words else 'podman or docker'}, which was not found on "
                "PATH; install it (Debian, Ubuntu: apt install podman), or choose the "
                "backend host"
            )
        self._words = words
        self._image = image
        self._limits = limits

    async def start(self, name: str) -> None:
        """Starts a container in which nothing runs yet."""
        options = [*self._options(), "--name", name, "--entrypoint", "tail"]
        await self.ask("run", "-d", *options, self._image, "-f", "/dev/null")

    async def remove(self, name: str) -> None:
        """Ends a container, whatever its state."""
        await self.ask("kill", name, check=False)  # else it is asked to end
        await self.ask("rm", "-f", "-v", name, check=False)

    async def commands(self) -> frozenset[str]:
        """Names of the image's own commands."""
        folders = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
        listed = await self.ask(
            *("run", "--rm", *self._options(), "--entrypoint", "ls"),
            *(self._image, *folders),
        )
        return frozenset(listed.decode(errors="replace").split())

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

    async def differences(self, name: str) -> dict[str, str]:
        """Path -> A (added), C (changed) or D (deleted), compared with the image."""
        lines = (await self.ask("diff", name)).decode(errors="replace").splitlines()
        pairs = [line.split(" ", 1) for line in lines if " " in line]
        found = {path: kind for kind, path in pairs}
        # A folder is said to be changed when something in it is.
        parents = {os.path.dirname(path) for path in found}
        return {p: k for p, k in found.items() if k != "C" or p not in parents}

    async def content(self, name: str, path: str) -> bytes | None:
        """Type, link target and content of a file, or None if it cannot be read."""
        process = await self.spawn(("cp", f"{name}:{path}", "-"), errors=False)
        try:
            async with asyncio.timeout(_ENGINE_S):
                header = await process.stdout.readexactly(_BLOCK)
                size = int(header[124:135].strip(b"\0 ") or b"0", 8)
                found = header[156:257] + await process.stdout.readexactly(size)
                await _read(process)  # of a folder all files follow
                return found
        except (asyncio.IncompleteReadError, TimeoutError, ValueError):
            return None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()

    async def image_content(self, path: str, name: str) -> bytes | None:
        """`content` of the image itself, by a container `name` that never runs."""
        await self.ask("create", "--name", name, self._image, "true")
        try:
            return await self.content(name, path)
        finally:
            await self.ask("rm", "-f", name, check=False)

    async def ask(self, *words: str, check: bool = True) -> bytes:
        """Runs a command of the engine to its end; what it printed.

        Raises:
          SandboxError: it failed, unless `check` is False.
        """
        status, output = await self.run(words, _ENGINE_S)
        if check and status != 0:
            said = output.decode(errors="replace").strip()[-500:]
            if status is None:
                said = f"it has not ended within {_ENGINE_S:g} s"
            hint = ""
            if "OCI runtime" in said or "cgroup" in said:
                hint = "; another runtime may work, like engine: podman --runtime runc"
            raise SandboxError(
                f"{self._words[0]} {words[0]} failed for the image {self._image} "
                f"({said}){hint}"
            )
        return output

    async def run(
        self, words: Sequence[str], limit_s: float
    ) -> tuple[int | None, bytes]:
        """(Exit status, both outputs) of a command; None where its time was up."""
        running = asyncio.ensure_future(self._run(words, limit_s))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # Half done, it would leave containers and the engine's state in disorder.
            with contextlib.suppress(SandboxError):
                await running
            raise

    async def _run(
        self, words: Sequence[str], limit_s: float
    ) -> tuple[int | None, bytes]:
        process = await self.spawn(words)
        try:
            async with asyncio.timeout(limit_s):
                output = await _read(process)
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            return None, b""
        return process.returncode, output

    async def spawn(
        self,
        words: Sequence[str],
        *,
        stdin: int = asyncio.subprocess.DEVNULL,
        errors: bool = True,
    ) -> asyncio.subprocess.Process:
        """Starts a command of the engine, its error output with the other or nowhere.

        Raises:
          SandboxError: it cannot be started.
        """
        to = asyncio.subprocess.STDOUT if errors else asyncio.subprocess.DEVNULL
        try:
            return await asyncio.create_subprocess_exec(
                *self._words,
                *words,
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE,
                stderr=to,
                limit=2**20,
            )
        except OSError as error:
            raise SandboxError(
                f"{self._words[0]} cannot be started: {error}"
            ) from error


async def _read(process: asyncio.subprocess.Process) -> bytes:
    """All that a process prints, the first `_MAX_BYTES` of it."""
    output = bytearray()
    while part := await process.stdout.read(1 << 16):
        output += part[: _MAX_BYTES - len(output)]
    return bytes(output)
