"""Looks at what an episode has left, which is data.

A look is a bubblewrap of its own. It joins the episode's namespaces of users and of
processes, where nothing of the episode runs any more and process 1 is ours. Programs,
loader and what steers them come from where the episode could not change them; its own
files are below that, and cannot be executed (`_holder._Slot.look`). Programs of the
episode that a script must run, run elsewhere: in a fresh world made of what it left.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.accounts import find_account
from cycleqd_jax.sandbox.base import (
    ENVIRONMENT,
    KEPT_BYTES,
    PLAIN_LOOK,
    Look,
    ScriptRun,
)
from cycleqd_jax.sandbox.descriptors import Descriptors
from cycleqd_jax.sandbox.process import kill_group, until_end
from cycleqd_jax.sandbox.shell_functions import fixed_tools, in_front, stub
from cycleqd_jax.sandbox.world import LOOKING, PATH, Mounts, World, encode

if TYPE_CHECKING:
    from cycleqd_jax.sandbox.shells import BubblewrapShell

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
_CAT = re.compile(rb"cat (/[\x21-\x7e]+)")
KILLED = ScriptRun(-signal.SIGKILL, "limit", b"")
_Handler = Callable[[list[bytes]], Awaitable[tuple[int, bytes]]]


class Looking:
    """Looks at what one episode left.

    Args:
      shell: of the episode; it has ended there.
    """

    def __init__(self, shell: "BubblewrapShell"):
        self._shell = shell
        self._fresh: World | None = None
        self._failed: SandboxError | None = None  # while it answered a script

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
        if how.bashrc:
            found = await self._read_bashrc()
            if found is None:
                return ScriptRun(1, "done", b"")
            status, path = found
            environment["EPISODE_PATH"] = path
            functions["source"] = f"() {{ PATH=$EPISODE_PATH; return {status}; }}"
            functions |= fixed_tools(code)
        mounts = await self._view(how)
        with Descriptors() as fds:
            passed: list[int] = []
            answering = None
            if how.programs or how.logins:
                handle = self._read_as_user if how.logins else self._calls(path, how)
                answering, passed, stubs = self._answer(fds, handle, how)
                functions |= stubs
            code = in_front(functions, code)
            argv = self._bash(code, *arguments)
            try:
                async with contextlib.AsyncExitStack() as stack:
                    if how.programs:
                        self._fresh = await self._fresh_world(stack)
                    run = await self._in_wall(mounts, argv, environment, passed)
            finally:
                if answering is not None:
                    answering.cancel()
                    await asyncio.wait([answering])
        if self._failed is not None:
            raise self._failed
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
            status = fds.memory(b"")
            out_read, out_write = fds.pipe()
            options = ["--userns", str(joined[0]), "--pidns", str(joined[1])]
            process = self._shell.wall.run(
                mounts,
                argv,
                namespaces=[*options, "--json-status-fd", str(status)],
                capabilities=LOOKING,
                environment=environment,
                passed=(*joined, *passed, status),
                out=out_write,
            )
            fds.close(out_write)
            self._shell.pids.add(process.pid)
            try:
                ended = await until_end(
                    process, (out_read,), KEPT_BYTES, lambda: kill_group(process)
                )
            finally:
                self._shell.pids.discard(process.pid)
            said = os.pread(status, 4096, 0)
        (output,) = ended.printed
        if ended.over:
            return KILLED
        if b'"exit-code"' not in said:
            text = output.decode(errors="replace").strip()[-500:]
            raise SandboxError(f"what an episode left could not be shown: {text}")
        return ScriptRun(process.returncode, "done", output)

    async def _read_bashrc(self) -> tuple[int, bytes] | None:
        """(Status, PATH) after the episode's own shell has read its ~/.bashrc."""
        argv = ["/bin/bash", "--noprofile", "--norc", "-c", _READ_BASHRC]
        run = await self._shell.world.run(argv, ENVIRONMENT, _CALL_S, alone=True)
        found = _PATH.fullmatch(run.output)
        if run.ended != "done" or found is None or b"\0" in found[2]:
            return None
        if len(found[2]) > _LONGEST_PATH or int(found[1]) > 255:
            return None
        return int(found[1]), found[2]

    async def _fresh_world(self, stack: contextlib.AsyncExitStack) -> World:
        """A world like the episode's, from what it left; its changes go nowhere."""
        made = await self._shell.ask("look", name="world", execute=True)
        world = self._shell.start_world(
            Mounts(made["root"], made["usr"], self._shell.system, self._shell.pts)
        )
        stack.push_async_callback(world.close)
        await world.ready()
        return world

    def _calls(self, path: bytes, how: Look) -> "_Handler":
        """Runs programs of the episode, each alone in a fresh world."""

        async def call(words: list[bytes]) -> tuple[int, bytes]:
            argv = ["/bin/bash", "-c", _CALL, "bash", path, *words]
            run = await self._fresh.run(argv, ENVIRONMENT, _CALL_S, alone=True)
            said = run.output.decode("utf-8", "replace")
            pattern = how.programs[words[0].decode()]
            if run.ended != "done" or not re.fullmatch(pattern, said.strip()):
                return 1, b""
            return run.status & 255, run.output[:_CALL_BYTES]

        return call

    async def _read_as_user(self, words: list[bytes]) -> tuple[int, bytes]:
        """The output of `runuser -l NAME -c 'cat FILE'`, got without a login."""
        if len(words) != 5 or words[1:4:2] != [b"-l", b"-c"]:
            return 1, b""
        name, file = words[2].decode("latin-1"), _CAT.fullmatch(words[4])
        account = None
        now = await self._shell.ask("accounts")
        for texts in (now, self._shell.accounts):
            if account is None and None not in texts:
                account = find_account(*texts, name)
        if account is None or file is None:
            return 1, b""
        ids = [
            f"--reuid={account.uid}",
            f"--regid={account.gid}",
            f"--groups={','.join(map(str, account.groups))}",
            "--inh-caps=-all",
            "--ambient-caps=-all",
            "--",
        ]
        argv = self._bash(
            'exec "$@" 2>/dev/null', "/usr/bin/setpriv", *ids, "/usr/bin/cat", file[1]
        )
        mounts = await self._view(PLAIN_LOOK)
        run = await self._in_wall(mounts, argv, _LOOK_ENVIRONMENT)
        return run.status & 255, run.output[:_CALL_BYTES]

    def _answer(
        self, fds: Descriptors, handle: "_Handler", how: Look
    ) -> tuple[asyncio.Future, list[int], dict[str, str]]:
        """Answers the functions of a script: (work, descriptors for it, functions)."""
        asked_read, asked_write = fds.pipe()
        said_read, said_write = fds.pipe()
        names = ("runuser",) if how.logins else tuple(how.programs)
        functions = {name: stub(name, asked_write, said_read) for name in names}

        async def answer(words: list[bytes]) -> tuple[int, bytes]:
            try:
                return await handle(words)
            except SandboxError as error:
                self._failed = error
                return 1, b""

        work = asyncio.ensure_future(_serve(asked_read, said_write, answer))
        return work, [asked_write, said_read], functions


async def _serve(asked_fd: int, said_fd: int, handle: _Handler) -> None:
    """Reads calls, as `shell_functions.stub` writes them, and answers them."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**18)
    pipe = os.fdopen(os.dup(asked_fd), "rb")
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        while True:
            count = int((await reader.readuntil(b"\0"))[:-1])
            words = [(await reader.readuntil(b"\0"))[:-1] for _ in range(count)]
            status, text = await handle(words)
            os.write(said_fd, b"%d\n%s\0" % (status, text.replace(b"\0", b"")))
    except asyncio.IncompleteReadError:
        pass
    finally:
        transport.close()
