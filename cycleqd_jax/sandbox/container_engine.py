"""Podman or Docker, through their command line.

Every call is a list of words, never a line for a shell; it has a time limit, and what
it prints is bounded. Both programs take the same words and answer with the same JSON
here, but for `info`.
"""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox.base import ShellLimits
from cycleqd_jax.sandbox.container_command import Command
from cycleqd_jax.sandbox.container_leftovers import LABEL, environment, own_mark

PROGRAMS = ("podman", "docker")
CALL_S = 120.0  # of one call, on a busy machine; it takes tenths of a second
_FIRST_S = 20.0  # of a call that looks whether the engine answers
_MAX_BYTES = 2**20  # of what a call prints
_DRIVERS = ("overlay", "overlay2")
_CONTAINERD = "containerd.snapshotter"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


class Engine:
    """Runs containers of one image.

    Args:
      image: name of the image, which is here already.
      command: the program and its first arguments, like "podman --runtime runc"; None
        for the first of Podman and Docker that answers.
      limits: of each container; processor time and total size of files are not limited.

    Raises:
      BadInputError: there is none, it does not answer, it lacks the image, or it cannot
        do what is needed; in one sentence that says what to do.
    """

    def __init__(self, image: str, command: str | None, limits: ShellLimits):
        found, info = _find(command)
        self.name = " ".join(found)
        program = os.path.abspath(shutil.which(found[0]) or found[0])
        self.words = [program, *found[1:], "--log-level=error"]  # no mere warnings
        podman = "host" in info
        _check_engine(self.name, info["host"] | info["store"] if podman else info)
        _check_image(found, image)
        self._image = image
        self._flags = _flags(limits, podman)

    def _run(self, name: str, flags: Sequence[str], words: Sequence[str]) -> list[str]:
        program, *rest = words
        run = ["run", "--rm", f"--name={name}", *self._flags, *flags]
        return [*self.words, *run, f"--entrypoint={program}", self._image, *rest]

    async def start(self, name: str) -> None:
        """Starts a container that does nothing until `execute` comes.

        Raises:
          SandboxError: it does not start.
        """
        await self._ask(self._run(name, ["--detach"], ["tail", "-f", "/dev/null"]))

    def attached(
        self,
        name: str,
        flags: Sequence[str],
        words: Sequence[str],
    ) -> Command:
        """A command that is a container of its own, as root; see `Command`."""
        root = ["--interactive", "--user=0:0"]
        return Command(self._run(name, [*root, *flags], words))

    def execute(
        self,
        name: str,
        words: Sequence[str],
        variables: dict[str, str],
        *,
        terminal: bool = False,
    ) -> Command:
        """A command in a container that runs, in `/`; see `Command`."""
        flags = ["--interactive", "--workdir=/"]
        # A sequence that nobody types by chance; by default it is two keys.
        keys = "--detach-keys=ctrl-^,ctrl-],ctrl-^,ctrl-],ctrl-^"
        flags += ["--tty", keys] if terminal else []
        flags += [f"--env={key}={value}" for key, value in variables.items()]
        return Command([*self.words, "exec", *flags, name, *words], terminal)

    async def freeze(self, name: str) -> dict[str, Any] | None:
        """Stops all processes of a container, for good.

        Returns:
          What the engine knows of it; None if it has ended, or cannot be stopped.

        Raises:
          SandboxError: the engine does not work.
        """
        paused = await self._ask([*self.words, "pause", name], check=False)
        if paused is None:
            await self.remove(name)
            await self.check_answers()
            return None
        return json.loads(await self._ask([*self.words, "inspect", name]))[0]

    async def remove(self, name: str) -> None:
        """Kills and removes a container, in any state, if it is there.

        One that the engine cannot remove in time is left to `container_leftovers`.
        """
        words = [*self.words, "rm", "--force", "--volumes", name]
        with contextlib.suppress(SandboxError):
            await self._ask(words, check=False)

    async def check_answers(self) -> None:
        """Looks whether the engine works.

        Raises:
          SandboxError: it does not.
        """
        await self._ask([*self.words, "ps", "--quiet"])

    async def _ask(self, words: Sequence[str], *, check: bool = True) -> str | None:
        """Runs a call to its end, also if the caller is cancelled.

        Returns:
          What it printed; None if it failed and `check` is False.

        Raises:
          SandboxError: it failed.
        """
        # An abandoned call could start a container after its removal.
        running = asyncio.ensure_future(self._call(words, check))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            with contextlib.suppress(SandboxError):
                await running
            raise

    async def _call(self, words: Sequence[str], check: bool) -> str | None:
        call = Command(words)
        try:
            async with asyncio.timeout(CALL_S):
                printed = await call.read(_MAX_BYTES)
                status = await call.ended()
            said = call.errors()
        except TimeoutError as error:
            raise SandboxError(
                f"{self.name} has not answered within {CALL_S:g} s to "
                f"{words[len(self.words)]}; check whether it works"
            ) from error
        finally:
            call.close()
        if status == 0:
            return printed.decode(errors="replace")
        if not check:
            return None
        raise SandboxError(self.failure(said))

    def failure(self, said: str) -> str:
        """A sentence about a failure of the engine."""
        hint = ""
        if "OCI" in said or "cgroup" in said or "crun" in said:
            hint = "; another runtime may work, like engine: podman --runtime runc"
        said = said or "it said nothing"
        return f"{self.name} failed for the image {self._image} ({said}){hint}"


def _flags(limits: ShellLimits, podman: bool) -> list[str]:
    """Flags of every container: no network, explicit limits, and whose it is."""
    same = {
        "nofile": limits.open_files,
        "nproc": limits.processes,
        "fsize": limits.file_bytes,
        "core": 0,
    }
    flags = [
        "--pull=never",
        "--network=none",
        "--hostname=box",
        "--workdir=/",
        "--stop-signal=KILL",
        f"--label={LABEL}={own_mark()}",
        f"--pids-limit={limits.processes}",
        f"--memory={limits.memory_bytes}",
        *(f"--ulimit={name}={value}:{value}" for name, value in same.items()),
    ]
    # A name without a value is not set, whatever the engine is configured to pass on.
    flags += [f"--env={n}" for low in _PROXIES for n in (low, low.upper())]
    if podman:  # all containers of Docker share the machine's terminals
        flags.append(f"--mount=type=devpts,destination=/dev/pts,max={limits.terminals}")
    return flags


def _find(command: str | None) -> tuple[list[str], dict[str, Any]]:
    """The first engine that answers, and what it says of itself.

    Raises:
      BadInputError: none does.
    """
    given = None
    if command is not None:
        try:
            given = shlex.split(command)
        except ValueError:  # a quote without its other
            given = []
        if not given or "://" in given[0]:
            address = given[0] if given else "ADDRESS"
            raise BadInputError(
                f"sandbox: engine is {command!r}, expected a command, like podman, or "
                f"docker --host {address}"
            )
    failures = []
    for words in [given] if given else [[program] for program in PROGRAMS]:
        try:
            return words, _ask_first([*words, "info", "--format={{json .}}"])
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            failures.append(f"{words[0]} ({_reason(error)})")
    raise BadInputError(
        "sandbox: the backend container needs Podman or Docker, but none answers: "
        f"{', '.join(failures)}; install podman, or start the service of Docker, or "
        "choose the backend host"
    )


def _ask_first(words: Sequence[str]) -> Any:
    """The output of a call, read as JSON.

    Raises:
      OSError, ValueError, subprocess.SubprocessError: it fails.
    """
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=_FIRST_S,
        env=environment(),
    )
    return json.loads(done.stdout)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "not on PATH"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {_FIRST_S:g} s"
    said = getattr(error, "stderr", None) or str(error).encode()
    return said.decode(errors="replace").strip()[-300:]


def _check_engine(name: str, info: dict[str, Any]) -> None:
    """Checks that it can stop a container and show its files.

    Raises:
      BadInputError: it cannot.
    """
    driver = info.get("graphDriverName", info.get("Driver"))
    status = str(info.get("DriverStatus", ""))
    if driver not in _DRIVERS or _CONTAINERD in status:
        raise BadInputError(
            f"sandbox: {name} keeps its images with {driver!r}, expected the storage "
            "driver overlay; use Podman, or switch Docker's containerd-snapshotter off"
        )
    rootless = info.get("security", {}).get("rootless", False)
    rootless = rootless or "rootless" in str(info.get("SecurityOptions", ""))
    version = str(info.get("cgroupVersion", info.get("CgroupVersion")))
    if rootless and version.removeprefix("v") == "1":
        raise BadInputError(
            f"sandbox: {name} is rootless on cgroups version 1, expected version 2, "
            "since it cannot limit or stop containers here; start as root"
        )


def _check_image(words: Sequence[str], image: str) -> None:
    """Checks that the image is here and that its containers have one file system.

    Raises:
      BadInputError: it is not, or they have more.
    """
    try:
        (found,) = _ask_first([*words, "image", "inspect", image])
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise BadInputError(
            f"sandbox: {' '.join(words)} has no image {image!r} ({_reason(error)}); "
            "pull or import it first"
        ) from error
    if volumes := (found.get("Config") or {}).get("Volumes"):
        raise BadInputError(
            f"sandbox: the image {image!r} declares volumes ({', '.join(volumes)}), "
            "expected none, since files in them could not be judged"
        )
