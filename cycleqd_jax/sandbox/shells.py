"""Shells behind bubblewrap: a machine for one episode, and a look at what it left.

`Shells` starts them. The episode's own world (`world.World`) has its own namespaces, a
root file system in memory that it can write to, and our process 1. Once it has ended,
other walls show what it left, as data: the programs in there, the loader and what
steers them come from where the episode could not change them, its own files are
read-only and cannot be executed, and process 1 counts and kills what runs.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox import permission
from cycleqd_jax.sandbox.accounts import find_account
from cycleqd_jax.sandbox.base import (
    DEFAULT_SHELL_LIMITS,
    ENVIRONMENT,
    KEPT_BYTES,
    PLAIN_LOOK,
    PLAIN_ROOT,
    SHELL_ENVIRONMENT,
    Look,
    Root,
    ScriptRun,
    ShellLimits,
    Typed,
)
from cycleqd_jax.sandbox.capture import Capture
from cycleqd_jax.sandbox.descriptors import Descriptors
from cycleqd_jax.sandbox.gate import Gate
from cycleqd_jax.sandbox.holder import FIRST_UID, Holder, is_root, python_place
from cycleqd_jax.sandbox.host import (
    Host,
    compiled_episode,
    inspect_host,
    plain_episode,
)
from cycleqd_jax.sandbox.process import wait_for_exit
from cycleqd_jax.sandbox.shell_functions import fixed_tools, in_front, stub
from cycleqd_jax.sandbox.world import (
    EPISODE,
    LOOKING,
    START_S,
    SWITCHING,
    Mounts,
    World,
    episode_settings,
    wall,
)

_LOOK_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_THEIR_PATH = "/usr/local/sbin:/usr/local/bin"  # behind the other, for who asks
_LOOK_ENVIRONMENT = {**ENVIRONMENT, "PATH": _LOOK_PATH, "TZ": "UTC"}
_READ_BASHRC = """exec 8>&1 </dev/null >/dev/null 2>&1
builtin source ~/.bashrc
status=$?
builtin printf '%s %s' "$status" "$PATH" >&8"""
_PATH = re.compile(rb"([0-9]{1,3}) (.*)", re.DOTALL)
_LONGEST_PATH = 4096
_CALL = 'PATH=$1; shift; "$@" 2>/dev/null'
_CALL_BYTES = 2**14  # of what a program of the episode prints for a script
_CAT = re.compile(rb"cat (/[\x21-\x7e]+)")
_KILLED = ScriptRun(-signal.SIGKILL, "limit", b"")


class Shells:
    """Starts shells.

    Args:
      host: facts of this machine.
      gate: bounds what runs at once; a shell that waits takes no place.
    """

    def __init__(self, host: Host, gate: Gate):
        self._host = host
        self._gate = gate
        self._holder = Holder(host.as_root, python_place(host.python))
        self._used: set[int] = set()
        self._codes: dict[bool, bytes] = {}

    @contextlib.asynccontextmanager
    async def open(
        self, root: Root = PLAIN_ROOT, limits: ShellLimits = DEFAULT_SHELL_LIMITS
    ) -> AsyncIterator["BubblewrapShell"]:
        """Starts a shell's machine, and ends it with all that is in it.

        Raises:
          SandboxError: it could not be started.
        """
        slot = next(n for n in range(len(self._used) + 1) if n not in self._used)
        self._used.add(slot)
        code = self._code(root.image is not None)
        parts = (self._host, self._gate, self._holder, code)
        shell = BubblewrapShell(*parts, slot, limits)
        try:
            await shell.open(root)
            yield shell
        finally:
            try:
                await asyncio.shield(asyncio.ensure_future(shell.close()))
            finally:
                self._used.discard(slot)

    def _code(self, image: bool) -> bytes:
        """What process 1 executes."""
        if image not in self._codes:
            made = plain_episode() if image else compiled_episode(self._host)
            self._codes[image] = made
        return self._codes[image]

    def close(self) -> None:
        """Ends what holds the file systems; the next shell starts it again."""
        self._holder.close()


def check_shells(root: Root = PLAIN_ROOT) -> None:
    """Starts a shell's machine, looks whether it comes up, and ends it.

    Raises:
      BadInputError: it does not; says why and what to do.
    """
    if root.overlay and root.image is None and not is_root():
        raise BadInputError(
            "sandbox: the machine's own programs can only be changed for an episode "
            f"where it is started as root; {_remedy('overlay', root)}"
        )
    shells = Shells(inspect_host(1), Gate(1))

    async def look() -> None:
        async with shells.open(root) as shell:
            await shell.end()
            run = await shell.look("true", limit_s=START_S)
            if run.status != 0:
                raise SandboxError(f"a script ended with status {run.status}")

    try:
        # In a thread, since whoever asks may have a loop that runs.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, look()).result()
    except (SandboxError, OSError) as error:
        raise BadInputError(
            f"sandbox: a shell could not be started here ({error}); "
            f"{_remedy(str(error), root)}"
        ) from error
    finally:
        shells.close()


def _remedy(said: str, root: Root) -> str:
    """What to do where a shell does not come up."""
    if root.overlay and ("overlay" in said or "cannot be mapped" in said):
        return (
            "choose the backend host, or start as root on Linux 5.19 or later with "
            "/usr on a file system like ext4, xfs or btrfs, or give as image a folder "
            "whose files belong to the user who starts it"
        )
    return permission.remedy(said, FIRST_UID)


class BubblewrapShell:
    """One shell; made by `Shells.open`. See `base.Shell`."""

    def __init__(
        self,
        host: Host,
        gate: Gate,
        holder: Holder,
        code: bytes,
        slot: int,
        limits: ShellLimits,
    ):
        self._code = code
        self._host = host
        self._gate = gate
        self._holder = holder
        self._slot = slot
        self._limits = limits
        self._world: World | None = None
        self._until: float | None = None  # when judging must be over
        self._accounts: list[str | None] = [None, None]
        place = python_place(host.python)
        self._python = f"{place[1]}/bin/python3" if place else host.python

    async def open(self, root: Root) -> None:
        """Starts it."""
        async with self._gate.enter():
            most = 2 * self._limits.processes
            self._userns = self._holder.user_namespace(self._slot, most)
            made = await self._holder.ask(
                "open",
                userns=self._userns,
                slot=self._slot,
                owner=self._holder.owner(self._slot),
                image=root.image,
                overlay=root.overlay,
                limits={
                    "scratch_bytes": self._limits.scratch_bytes,
                    "scratch_entries": self._limits.scratch_entries,
                    "terminals": self._limits.terminals,
                },
            )
            self._pts, system = made["pts"], made["system"]
            self._system = system
            if root.image is not None:
                self._python = "/usr/bin/python3"
            replaced = root.overlay or root.image is not None
            own = Mounts(
                made["tree"], made["usr"], () if replaced else system, self._pts
            )
            self._world = self._start_world(own)
            await self._world.ready()

    def _start_world(self, mounts: Mounts) -> World:
        if self._userns is None:
            new = ["--unshare-user"]
        else:
            new = ["--userns", str(self._userns)]
        start = [*self._start(), *new, "--unshare-pid", "--as-pid-1"]
        return World.start(
            wall(start, EPISODE, {"PATH": _LOOK_PATH}),
            mounts,
            episode_settings(self._limits, self._host.setpriv),
            self._code,
            self._host.seccomp,
            () if self._userns is None else (self._userns,),
            self._python,
        )

    def _start(self) -> list[str]:
        return [*self._holder.enter(self._slot), self._host.bwrap]

    async def script(
        self,
        language: str,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
    ) -> ScriptRun:
        """Runs a script that prepares the machine, in `/`."""
        words = {
            "bash": ("/bin/bash", "-c", code, "--"),
            "python": ("/usr/bin/env", "python3", "-c", code),
        }
        argv = [_encode(word) for word in (*words[language], *arguments)]
        async with self._gate.enter():
            return await self._run(self._world, argv, ENVIRONMENT, limit_s, alone=False)

    async def _run(
        self,
        world: World,
        argv: Sequence[bytes | str],
        environment: Mapping[str, str],
        limit_s: float,
        alone: bool,
    ) -> ScriptRun:
        ended, status, _, output = await world.ask(
            limit_s,
            do="run",
            argv=list(argv),
            env=dict(environment),
            limit_s=limit_s,
            alone=alone,
        )
        return ScriptRun(status, ended, output)

    async def start_shell(self, *, terminal: bool, limit_s: float) -> Typed:
        """Starts the login shell."""
        return await self._typed(
            limit_s, do="shell", env=dict(SHELL_ENVIRONMENT), terminal=terminal
        )

    async def type(self, code: str, *, limit_s: float) -> Typed:
        """Types into the shell, and waits until it is ready again or out of time."""
        return await self._typed(limit_s, do="type", code=_encode(code))

    async def _typed(self, limit_s: float, **message: object) -> Typed:
        async with self._gate.enter():
            ended, _, valid, output = await self._world.ask(
                limit_s, limit_s=limit_s, **message
            )
        return Typed(ended, output, valid)

    async def remember(self) -> None:
        """Notes the accounts, for those that the episode takes away."""
        self._accounts = await self._accounts_now()

    async def end(self, *, keep_processes: bool = False) -> str | None:
        """Ends the episode: no process of it runs any more."""
        async with self._gate.enter():
            await self._world.ask(0.0, do="end", keep=keep_processes)
        self._until = time.monotonic() + self._limits.judging_s
        return None

    async def look(
        self,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
        how: Look = PLAIN_LOOK,
    ) -> ScriptRun:
        """Runs a bash script that looks at what the episode left, in `/`."""
        async with self._gate.enter():
            left_s = min(limit_s, self._until - time.monotonic())
            if left_s <= 0:
                return _KILLED
            try:
                async with asyncio.timeout(left_s):
                    return await self._look(code, arguments, how)
            except TimeoutError:
                return _KILLED

    async def _look(
        self, code: str, arguments: Sequence[str | bytes], how: Look
    ) -> ScriptRun:
        environment: dict[str, str | bytes] = dict(_LOOK_ENVIRONMENT)
        functions: dict[str, str] = {}
        path = ENVIRONMENT["PATH"].encode()
        if how.executable:
            environment["PATH"] = f"{_LOOK_PATH}:{_THEIR_PATH}"
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
                    return await self._in_wall(mounts, argv, environment, passed)
            finally:
                if answering is not None:
                    answering.cancel()
                    await asyncio.wait([answering])

    async def _view(self, how: Look) -> Mounts:
        """What a look shows."""
        if not how.tree:
            made = await self._holder.ask_slot(self._slot, "bare")
            return Mounts(made["root"], None, self._system, self._pts, read_only=True)
        name = "execute" if how.executable else "look"
        made = await self._holder.ask_slot(
            self._slot, "look", name=name, execute=how.executable
        )
        system = list(self._system)
        for path in how.changed:
            stand_in = await self._holder.ask_slot(self._slot, "stand_in", path=path)
            if stand_in is not None:
                system.append((stand_in, path))
        return Mounts(made["root"], made["usr"], system, self._pts)

    def _bash(self, code: str, *arguments: str | bytes) -> list[bytes]:
        """Words that run a script within the limits of one process."""
        limits = self._limits
        bounds = (
            f"ulimit -c 0 -t {int(limits.judging_s) + 1} "
            f"-v {limits.memory_bytes // 1024} -f {limits.file_bytes // 1024}\n"
        )
        words = ("/bin/bash", "-c", bounds + code, "--", *arguments)
        return [_encode(word) for word in words]

    async def _in_wall(
        self,
        mounts: Mounts,
        argv: Sequence[bytes],
        environment: Mapping[str, str | bytes],
        passed: Sequence[int] = (),
        capabilities: Sequence[str] = LOOKING,
    ) -> ScriptRun:
        """Runs a program among the episode's processes, which have all ended."""
        with Descriptors() as fds:
            namespaces = self._world.namespaces(fds)
            words, named = mounts.words(fds)
            if self._host.seccomp:
                named.append(fds.memory(self._host.seccomp))
                words += ["--seccomp", str(named[-1])]
            joined = ["--userns", str(namespaces[0]), "--pidns", str(namespaces[1])]
            command = wall([*self._start(), *joined], capabilities, environment)
            status_read, status_write = fds.pipe()
            out_read, out_write = fds.pipe()
            command += [*words, "--json-status-fd", str(status_write), "--", *argv]
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out_write,
                stderr=out_write,
                pass_fds=(*namespaces, *named, *passed, status_write),
                env={"PATH": _LOOK_PATH},
                cwd="/",
                start_new_session=True,
            )
            fds.close(out_write, status_write)
            over = asyncio.Event()
            with Capture(out_read, KEPT_BYTES, over) as captured:
                ended = asyncio.ensure_future(wait_for_exit(process))
                flooded = asyncio.ensure_future(over.wait())
                try:
                    await asyncio.wait(
                        (ended, flooded), return_when=asyncio.FIRST_COMPLETED
                    )
                finally:  # also when the time is up
                    flooded.cancel()
                    if process.poll() is None:
                        _kill(process)
                    await asyncio.wait((ended,))
                captured.drain()
            said = os.read(status_read, 4096)
        if b'"exit-code"' not in said and not captured.over:
            text = captured.data.decode(errors="replace").strip()[-500:]
            raise SandboxError(f"what an episode left could not be shown: {text}")
        if captured.over:
            return _KILLED
        return ScriptRun(process.returncode, "done", captured.data)

    async def _read_bashrc(self) -> tuple[int, bytes] | None:
        """(Status, PATH) after the episode's own shell has read its ~/.bashrc."""
        argv = ["/bin/bash", "--noprofile", "--norc", "-c", _READ_BASHRC]
        limit_s = self._limits.judging_s
        run = await self._run(self._world, argv, ENVIRONMENT, limit_s, alone=True)
        found = _PATH.fullmatch(run.output)
        if run.ended != "done" or found is None or b"\0" in found[2]:
            return None
        if len(found[2]) > _LONGEST_PATH or int(found[1]) > 255:
            return None
        return int(found[1]), found[2]

    async def _fresh_world(self, stack: contextlib.AsyncExitStack) -> World:
        """A world like the episode's, from what it left; its changes go nowhere."""
        made = await self._holder.ask_slot(
            self._slot, "look", name="world", execute=True
        )
        world = self._start_world(
            Mounts(made["root"], made["usr"], self._system, self._pts)
        )
        stack.push_async_callback(world.close)
        await world.ready()
        return world

    def _calls(self, path: bytes, how: Look) -> "_Handler":
        """Runs programs of the episode, each alone in a fresh world."""

        async def call(words: list[bytes]) -> tuple[int, bytes]:
            argv = ["/bin/bash", "-c", _CALL, "bash", path, *words]
            limit_s = self._limits.judging_s
            run = await self._run(self._fresh, argv, ENVIRONMENT, limit_s, alone=True)
            said = run.output.decode("utf-8", "replace")
            pattern = how.programs[words[0].decode()]
            if run.ended != "done" or not re.fullmatch(pattern, said.strip()):
                return 1, b""
            return run.status & 255, run.output[:_CALL_BYTES]

        return call

    async def _read_as_user(self, words: list[bytes]) -> tuple[int, bytes]:
        """What `runuser -l NAME -c 'cat FILE'` prints, without a login."""
        if len(words) != 5 or words[1:4:2] != [b"-l", b"-c"]:
            return 1, b""
        name, file = words[2].decode("latin-1"), _CAT.fullmatch(words[4])
        account = None
        for texts in (await self._accounts_now(), self._accounts):
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
        run = await self._in_wall(
            mounts, argv, _LOOK_ENVIRONMENT, capabilities=SWITCHING
        )
        return run.status & 255, run.output[:_CALL_BYTES]

    async def _accounts_now(self) -> list[str | None]:
        return await self._holder.ask_slot(self._slot, "accounts")

    def _answer(
        self, fds: Descriptors, handle: "_Handler", how: Look
    ) -> tuple[asyncio.Future, list[int], dict[str, str]]:
        """Answers the functions of a script: (work, descriptors for it, functions)."""
        asked_read, asked_write = fds.pipe()
        said_read, said_write = fds.pipe()
        names = ("runuser",) if how.logins else tuple(how.programs)
        functions = {name: stub(name, asked_write, said_read) for name in names}
        work = asyncio.ensure_future(_serve(asked_read, said_write, handle))
        return work, [asked_write, said_read], functions

    async def close(self) -> None:
        """Ends all that runs, and unmounts all that is mounted."""
        try:
            if self._world is not None:
                await self._world.close()
        finally:
            await self._holder.forget(self._slot)


_Handler = Callable[[list[bytes]], Awaitable[tuple[int, bytes]]]


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


def _kill(process: subprocess.Popen) -> None:
    """Kills bubblewrap and the program, whose process group it shares."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _encode(word: str | bytes) -> bytes:
    return word if isinstance(word, bytes) else word.encode("utf-8", "replace")
