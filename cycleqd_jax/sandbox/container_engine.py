"""Runs containers in Docker or Podman through the docker SDK."""

import asyncio
import contextlib
import hashlib
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import ShellLimits
from cycleqd_jax.sandbox.container_address import CALL_S, connect
from cycleqd_jax.sandbox.container_stream import Channel

_MAX_BYTES = 2**24  # of a command's output; more is read but not kept
_FOLDERS = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
_KINDS = {0: "C", 1: "A", 2: "D"}
_END_S = 5.0  # between the end of a command's output and its exit status, at most
_POLL_S = 0.02


class Engine:
    """Runs containers of one image.

    Args:
      image: name of the image.
      address: of the engine's API, see `container_address.addresses`.
      limits: of each container; CPU time and total size of files are not limited.

    Raises:
      BadInputError: no engine answers there, or the SDK is not installed.
    """

    def __init__(self, image: str, address: str | None, limits: ShellLimits):
        self._address, self._client = connect(address)
        self._image = image
        self._limits = limits

    async def start(self, name: str) -> None:
        """Starts a container that runs nothing yet."""
        await self._ask(self._start, name)

    def _start(self, name: str) -> None:
        self._create(name, ["tail"], ["-f", "/dev/null"])
        self._client.start(name)

    def _create(self, name: str, entrypoint: list[str], words: list[str]) -> None:
        from docker.types import Ulimit

        limits = self._limits
        ulimits = {
            "nofile": limits.open_files,
            "nproc": limits.processes,
            "fsize": limits.file_bytes,
            "core": 0,
        }
        settings = self._client.create_host_config(
            network_mode="none",
            pids_limit=limits.processes,
            mem_limit=limits.memory_bytes,
            ulimits=[Ulimit(name=n, soft=v, hard=v) for n, v in ulimits.items()],
        )
        self._client.create_container(
            self._image,
            words,
            entrypoint=entrypoint,
            hostname="box",
            name=name,
            host_config=settings,
            use_config_proxy=False,
        )

    async def start_again(self, name: str) -> None:
        """Starts a stopped container again."""
        await self._ask(self._client.start, name)

    async def end(self, name: str) -> None:
        """Kills all processes of a container, in any state."""
        await self._ask(self._client.kill, name, check=False)

    async def wait(self, name: str) -> None:
        """Waits until a container has stopped."""
        await self._ask(self._client.wait, name, timeout=CALL_S)

    async def remove(self, name: str) -> None:
        """Kills and removes a container, in any state."""
        await self.end(name)  # otherwise the engine sends SIGTERM and waits
        await self._remove(name)

    async def _remove(self, name: str) -> None:
        await self._ask(
            self._client.remove_container, name, v=True, force=True, check=False
        )

    async def commands(self, name: str) -> frozenset[str]:
        """Names of the image's own commands, listed in a fresh container."""
        status, output = await self.run(name, ("ls", *_FOLDERS), {}, None)
        listed = output.decode(errors="replace")
        if status != 0:
            raise SandboxError(
                f"the image {self._image} cannot list its commands (status {status}: "
                f"{listed.strip()[-300:]}); it needs ls and {', '.join(_FOLDERS)}"
            )
        return frozenset(listed.split())

    async def differences(self, name: str) -> dict[str, str]:
        """Path -> A (added), C (changed) or D (deleted), compared with the image."""
        listed = await self._ask(self._client.diff, name) or ()
        found = {change["Path"]: _KINDS[change["Kind"]] for change in listed}
        # The engine lists a folder as changed if something in it is.
        parents = {os.path.dirname(path) for path in found}
        return {p: k for p, k in found.items() if k != "C" or p not in parents}

    async def content(self, name: str, path: str) -> bytes | None:
        """Hash of a file's type, link target and content; None if there is no file."""
        return await self._ask(self._content, name, path, check=False)

    def _content(self, name: str, path: str) -> bytes | None:
        parts, _ = self._client.get_archive(name, path)
        try:
            with tarfile.open(fileobj=_Archive(parts), mode="r|") as archive:
                member = archive.next()
                if member is None:
                    return None
                found = hashlib.sha256(member.type + b"\0")
                found.update(member.linkname.encode("utf-8", "surrogateescape"))
                if member.isreg():
                    found.update(b"\0")
                    file = archive.extractfile(member)
                    while part := file.read(2**16):
                        found.update(part)
                return found.digest()
        except tarfile.TarError:
            return None
        finally:
            for _ in parts:  # the archive of a folder goes on with its files
                pass

    async def image_content(self, path: str, name: str) -> bytes | None:
        """`content` in the image, from a container `name` that never runs."""
        try:
            await self._ask(self._create, name, ["true"], [])
            return await self.content(name, path)
        finally:
            await self._remove(name)

    async def run(
        self,
        name: str,
        words: Sequence[str],
        variables: dict[str, str],
        limit_s: float | None,
    ) -> tuple[int | None, bytes]:
        """Runs a command: (exit status, or None after `limit_s`; both outputs).

        Raises:
          SandboxError: it could not be started, or the container has stopped.
        """
        channel = await self.execute(name, words, variables)
        try:
            async with asyncio.timeout(limit_s):
                output = await channel.read(_MAX_BYTES)
        except TimeoutError:
            return None, b""
        finally:
            channel.close()
        status = await self.status(channel)
        if status in (None, 125):  # 125 is the engine's own
            said = output.decode(errors="replace")[-300:]
            raise SandboxError(f"a container has stopped: {said}")
        return status, output

    async def execute(
        self,
        name: str,
        words: Sequence[str],
        variables: dict[str, str],
        *,
        stdin: bool = False,
    ) -> Channel:
        """Starts a command in a container, in `/`; the caller closes its channel.

        Raises:
          SandboxError: it could not be started.
        """
        channel = Channel()
        arguments = (self._client, name, list(words), variables, stdin)
        try:
            await self._ask(channel.open, *arguments)
        except BaseException:
            channel.close()
            raise
        return channel

    async def status(self, channel: Channel) -> int | None:
        """Exit status of an ended command; None if its container stopped.

        Raises:
          SandboxError: it still runs, so the engine must have failed.
        """
        until = time.monotonic() + _END_S
        while True:
            found = await self._ask(self._client.exec_inspect, channel.id, check=False)
            if found is None:
                return None
            if not found["Running"] and found["ExitCode"] is not None:
                return found["ExitCode"]
            if time.monotonic() > until:
                raise SandboxError(
                    f"the container engine at {self._address} closed the connection "
                    "to a command that still runs; check whether it was restarted"
                )
            await asyncio.sleep(_POLL_S)

    async def _ask(self, call: Callable, *arguments, check: bool = True, **rest) -> Any:
        """Calls the SDK in a thread; a cancelled caller waits for the end too.

        Raises:
          SandboxError: the call failed. If `check` is False and the engine refused it,
            the result is None instead.
        """
        running = asyncio.ensure_future(
            asyncio.to_thread(self._call, check, call, *arguments, **rest)
        )
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # An abandoned call could start a container after its removal.
            with contextlib.suppress(SandboxError):
                await running
            raise

    def _call(self, check: bool, call: Callable, *arguments, **rest) -> Any:
        from docker import errors

        try:
            return call(*arguments, **rest)
        except errors.APIError as error:
            if not check:
                return None
            said, hint = str(error.explanation or error).strip()[-500:], ""
            if isinstance(error, errors.ImageNotFound):
                hint = "; pull or import it first"
            elif "OCI runtime" in said or "cgroup" in said:
                hint = (
                    "; another runtime may work, like podman --runtime runc system "
                    "service --time=0 unix:///tmp/podman.sock"
                )
            raise SandboxError(
                f"the container engine at {self._address} failed for the image "
                f"{self._image} ({said}){hint}"
            ) from error
        except (errors.DockerException, OSError) as error:
            raise SandboxError(
                f"the container engine at {self._address} does not answer "
                f"({str(error)[-300:]}); check whether it is running"
            ) from error


class _Archive:
    """A readable file made of the parts that the SDK yields."""

    def __init__(self, parts: Iterator[bytes]):
        self._parts = parts
        self._rest = b""

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        while len(self._rest) < size and (part := next(self._parts, b"")):
            self._rest += part
        found, self._rest = self._rest[:size], self._rest[size:]
        return found
