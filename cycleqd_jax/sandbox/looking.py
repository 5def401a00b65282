"""Looks at what an episode has left, which is data.

A look is a bubblewrap of its own. It joins the episode's namespaces of users and of
processes, where nothing of the episode runs any more and process 1 is ours. Programs,
loader and what steers them come from where the episode could not change them; its own
files are below that, and cannot be executed (`_slot.Slot.look`). Programs of the
episode that a script must run, run elsewhere: in a fresh world made of what it left.
"""

import asyncio
import contextlib
import fcntl
import itertools
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox import guards
from cycleqd_jax.sandbox.accounts import find_account, only_permits
from cycleqd_jax.sandbox.base import (
    ENVIRONMENT,
    KEPT_BYTES,
    Look,
    ScriptRun,
    ShellLimits,
)
from cycleqd_jax.sandbox.descriptors import Descriptors
from cycleqd_jax.sandbox.process import PATH, kill_children, start, until_end
from cycleqd_jax.sandbox.walls import LOOKING, Mounts, Wall
from cycleqd_jax.sandbox.world import World, encode

_THEIR_PATH = "/usr/local/sbin:/usr/local/bin"  # behind the other, for who asks
_LOOK_ENVIRONMENT = {**ENVIRONMENT, "PATH": PATH, "TZ": "UTC"}
_READ_BASHRC = """exec 8>&1 </dev/null >/dev/null 2>&1
builtin source ~/.bashrc
status=$?
builtin printf '%s %s' "$status" "$PATH" >&8"""
_PATH = re.compile(rb"([0-9]{1,3}) (.*)", re.DOTALL)
_LONGEST_PATH = 4096
_CALL = 'PATH=$1; shift; "$@" 2>/dev/null'
_CALL_S = 10.0  # of what runs in a world of the episode, by the clock of that world
_CALL_BYTES = 2**14  # of what a program of the episode prints for a script
_NAME = re.compile(r"\brunuser -l ([a-z0-9_-]+) ")
KILLED = ScriptRun(-signal.SIGKILL, "limit", b"")


class Episode(Protocol):
    """The parts of a shell that a look needs; see `shells.BubblewrapShell`."""

    limits: ShellLimits
    wall: Wall
    world: World | None
    system: Sequence[Sequence[str]]
    pts: str
    accounts: list[str | None]
    pids: set[int]

    def start_world(self, mounts: Mounts) -> World:
        """Starts a fresh world."""

    async def ask(self, call: str, **words: object) -> Any:
        """Asks the holder for something of this episode."""

    async def clear(self) -> None:
        """Ends what a look has left running."""


class Looking:
    """Looks at what one episode left.

    Args:
      shell: of the episode; it has ended there.
    """

    def __init__(self, shell: Episode):
        self._shell = shell

    async def look(
        self, code: str, arguments: Sequence[str | bytes], how: Look
    ) -> ScriptRun:
        """Runs a script; see `base.Shell.look`.

        Raises:
          SandboxError: what is left could not be shown.
        """
        environment: dict[str, str | bytes] = dict(_LOOK_ENVIRONMENT)
        functions: dict[str, str] = {}
        path = ENVIRONMENT["PATH"].encode()
        if how.executable:
            environment["PATH"] = f"{PATH}:{_THEIR_PATH}"
        if how.sudo and not only_permits(*await self._shell.ask("sudoers")):
            return ScriptRun(1, "done", b"")
        if how.bashrc:
            found = await self._read_bashrc()
            if found is None:
                return ScriptRun(1, "done", b"")
            status, path = found
            environment["EPISODE_PATH"] = path
            functions["source"] = f"() {{ PATH=$EPISODE_PATH; return {status}; }}"
            functions |= guards.fixed_tools(code)
        if how.logins:
            functions["runuser"] = await self._login(code)
        mounts = await self._view(how)
        async with contextlib.AsyncExitStack() as stack:
            calls, passed = None, ()
            if how.programs:
                calls, passed, stubs = await self._calls(stack, path, how)
                functions |= stubs
            defined = "".join(f"{name}{text}\n" for name, text in functions.items())
            argv = self._bash(defined + guards.begin(code) + code, *arguments)
            run = await self._in_wall(mounts, argv, environment, passed)
            if calls is not None and calls.done():
                calls.result()  # raises what went wrong while it answered
        return run

    async def _view(self, how: Look) -> Mounts:
        """The mounts that a look shows."""
        if not how.tree:
            made = await self._shell.ask("bare")
            own = (self._shell.system, self._shell.pts)
            return Mounts(made["root"], None, *own, read_only=True)
        name = "execute" if how.executable else "look"
        made = await self._shell.ask("look", name=name, execute=how.executable)
        system = list(self._shell.system)
        for path in how.changed:
            stand_in = await self._shell.ask("stand_in", path=path)
            if stand_in is not None:
                system.append((stand_in, path))
        return Mounts(made["root"], made["usr"], system, self._shell.pts)

    def _bash(self, code: str, *arguments: str | bytes) -> list[bytes]:
        """Words that run a script within the limits of one process."""
        limits = self._shell.limits
        bounds = (
            f"ulimit -c 0 -t {int(limits.judging_s) + 1} "
            f"-v {limits.memory_bytes // 1024} -f {limits.file_bytes // 1024}\n"
        )
        words = ("/bin/bash", "-c", bounds + code, "--", *arguments)
        return [encode(word) for word in words]

    async def _in_wall(
        self,
        mounts: Mounts,
        argv: Sequence[bytes],
        environment: Mapping[str, str | bytes],
        passed: Sequence[int] = (),
    ) -> ScriptRun:
        """Runs a program among the episode's processes, which have all ended."""
        with Descriptors() as fds:
            joined = self._shell.world.namespaces(fds)
            status, out = fds.memory(b""), fds.memory(b"")
            # Several write to it, each behind the others; `_bash` limits its size.
            fcntl.fcntl(out, fcntl.F_SETFL, os.O_APPEND)
            options = ["--userns", str(joined[0]), "--pidns", str(joined[1])]
            words = self._shell.wall.words(
                mounts,
                fds,
                namespaces=[*options, "--json-status-fd", str(status)],
                capabilities=LOOKING,
                environment=environment,
            )
            process = start([*words, "--", *argv], (*fds.all, *passed), out)
            self._shell.pids.add(process.pid)
            try:
                await until_end(process, lambda: kill_children(process))
            finally:
                self._shell.pids.discard(process.pid)
            await self._shell.clear()
            said = os.pread(status, 4096, 0)
            output = os.pread(out, KEPT_BYTES + 1, 0)
        if len(output) > KEPT_BYTES:
            return KILLED
        if b'"exit-code"' not in said:
            text = output.decode(errors="replace").strip()[-500:]
            raise SandboxError(f"what an episode left could not be shown: {text}")
        return ScriptRun(process.returncode, "done", output)

    async def _read_bashrc(self) -> tuple[int, bytes] | None:
        """(Status, PATH) after a shell in a fresh world has read its ~/.bashrc."""
        argv = ["/bin/bash", "--noprofile", "--norc", "-c", _READ_BASHRC]
        # Not where the episode ran: it may have moved our programs and the loader.
        async with self._fresh_world("bashrc") as world:
            run = await world.run(argv, ENVIRONMENT, _CALL_S, alone=True)
        found = _PATH.fullmatch(run.output)
        if run.ended != "done" or found is None or b"\0" in found[2]:
            return None
        if len(found[2]) > _LONGEST_PATH or int(found[1]) > 255:
            return None
        return int(found[1]), found[2]

    @contextlib.asynccontextmanager
    async def _fresh_world(self, name: str) -> AsyncIterator[World]:
        """A world like the episode's, of what it left; its changes go nowhere."""
        shell = self._shell
        made = await shell.ask("look", name=name, execute=True)
        world = shell.start_world(
            Mounts(made["root"], made["usr"], shell.system, shell.pts)
        )
        try:
            await world.ready()
            yield world
        finally:
            await world.close()

    async def _login(self, code: str) -> str:
        """A function like `runuser -l NAME -c 'cat FILE'`, for names in a script."""
        now = await self._shell.ask("accounts")
        cases = []
        for name in sorted({*_NAME.findall(code)}):
            known = [t for t in (now, self._shell.accounts) if None not in t]
            found = [a for a in (find_account(*t, name) for t in known) if a]
            if found:
                groups = ",".join(map(str, found[0].groups))
                cases.append(
                    f"{name}) ids='--reuid={found[0].uid} --regid={found[0].gid} "
                    f"--groups={groups}';;"
                )
        return (
            f"() {{ local ids; case $2 in {' '.join(cases)} *) return 1;; esac; "
            '[ "$#$1$3" = 4-l-c ] && [[ $4 == "cat "/* ]] && '
            "/usr/bin/setpriv $ids --inh-caps=-all --ambient-caps=-all -- "
            '/usr/bin/cat "${4#cat }" 2>/dev/null; }'
        )

    async def _calls(
        self, stack: contextlib.AsyncExitStack, path: bytes, how: Look
    ) -> tuple[asyncio.Future, Sequence[int], dict[str, str]]:
        """Runs programs of the episode, each alone in a fresh world, for a script.

        Returns:
          (the work, descriptors for the script, its functions).
        """
        fds = stack.enter_context(Descriptors())
        asked_read, asked_write = fds.pipe()
        said_read, said_write = fds.pipe()
        reader = asyncio.StreamReader(limit=2**18)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader),
            os.fdopen(os.dup(asked_read), "rb"),
        )
        stack.callback(transport.close)

        async def word() -> bytes:
            return (await reader.readuntil(b"\0"))[:-1]

        async def answer() -> None:
            try:
                for number in itertools.count():
                    words = [await word() for _ in range(int(await word()))]
                    pattern = how.programs[words[0].decode()]
                    argv = ["/bin/bash", "-c", _CALL, "bash", path, *words]
                    async with self._fresh_world(f"call-{number}") as world:
                        run = await world.run(argv, ENVIRONMENT, _CALL_S, alone=True)
                    said = run.output.decode("utf-8", "replace").strip()
                    status, text = run.status & 255, run.output[:_CALL_BYTES]
                    if run.ended != "done" or not re.fullmatch(pattern, said):
                        status, text = 1, b""
                    os.write(
                        said_write, b"%d\n%s\0" % (status, text.replace(b"\0", b""))
                    )
            except (ValueError, LookupError, asyncio.LimitOverrunError):
                pass  # no function of ours said that
            finally:
                fds.close(said_write)  # the script does not wait for an answer then

        work = asyncio.ensure_future(answer())
        stack.push_async_callback(asyncio.wait, [work])
        stack.callback(work.cancel)
        functions = {
            name: guards.stub(name, asked_write, said_read) for name in how.programs
        }
        return work, (asked_write, said_read), functions
