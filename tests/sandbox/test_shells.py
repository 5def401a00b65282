"""Shells: what one keeps, what ends a command, what is limited, what is left."""

import asyncio
import contextlib
import ctypes
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox import host
from cycleqd_jax.sandbox.base import PLAIN_ROOT, Look, Root, ShellLimits
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.sandbox.shells import check_shells

DRIVER = pathlib.Path(__file__).with_name("shell_driver.py")
ROOT = os.geteuid() == 0


def in_shell(use, root=PLAIN_ROOT, **limits):
    """Awaits `use(shell)` in a fresh machine."""

    async def main():
        sandbox = BubblewrapSandbox(2)
        try:
            async with sandbox.shell(root, ShellLimits(**limits)) as shell:
                return await use(shell)
        finally:
            await sandbox.close()

    return asyncio.run(main())


def typed(*commands, limit_s=5.0, terminal=False, **limits):
    """Types commands one after the other; what became of each."""

    async def use(shell):
        await shell.start_shell(terminal=terminal, limit_s=20)
        return [await shell.type(c, limit_s=limit_s) for c in commands]

    return in_shell(use, **limits)


def outputs(*commands, **options):
    """What each command printed."""
    results = typed(*commands, **options)
    assert [r.ended for r in results] == ["done"] * len(commands)
    return [r.output.decode() for r in results]


def test_state_is_kept():
    """Working directory, variables, functions, the last status."""
    assert outputs(
        "cd /tmp; x=3; f() { echo f$1; }", "pwd; echo $x; f 4", "false", "echo $?"
    ) == ["", "/tmp\n3\nf4\n", "", "1\n"]


def test_lines_and_documents():
    """Commands of several lines, long ones too."""
    many = "\n".join(f"echo {i}" for i in range(300))
    long = "echo " + "y" * 100_000 + " | wc -c"
    assert outputs(
        "cat <<END\na\nb\nEND\nfor i in 1 2\ndo echo $i\ndone", many, long
    ) == [
        "a\nb\n1\n2\n",
        "".join(f"{i}\n" for i in range(300)),
        "100001\n",
    ]


def test_tracing_shows_no_mark():
    """`set -x` shows commands, and nothing of ours."""
    assert outputs("set -x", "echo a", "set +x") == ["", "+ echo a\na\n", "+ set +x\n"]


@pytest.mark.parametrize("shell", ["bash", "sh", "bash --norc -i"])
def test_shell_in_the_shell(shell):
    """An inner shell takes what is typed until it ends."""
    results = typed("x=1", shell, "x=2; echo $x", "exit", "echo $x")
    assert [r.ended for r in results] == ["done"] * 5
    assert b"2\n" in results[2].output
    assert results[4].output == b"1\n"


@pytest.mark.parametrize(
    "code",
    [
        "echo )",
        "echo ${x:?no}",
        "exec nowhere",
        "kill $$",
        "set -e\n[ -f /no ] && echo yes",
        "set -e; ! true",
        "set -u; echo $no",
        "exec > /tmp/log",
        "printf() { :; }; eval() { :; }",
        "PS2=; trap 'x=1' ERR; false",
    ],
)
def test_what_does_not_end_the_shell(code):
    """It is interactive, like the benchmark's; its prompts and marks do not show."""
    alias, _, status, after = typed("alias q='echo q'", code, "q $?", "exec >&2; q")
    assert [alias.ended, status.ended, after.ended] == ["done"] * 3
    assert after.output == b"q\n"
    assert b"\x1e" not in status.output


def test_killed_commands_show_nothing():
    """Of what bash would do with its terminal then."""
    assert outputs("yes | head -1; sh -c 'kill -9 $$'; clear && echo b")[0] == (
        "y\n\x1b[H\x1b[2J\x1b[3Jb\n"
    )


@pytest.mark.parametrize(
    "code",
    [
        "sleep 100",
        "cat",
        'echo "a',
        "yes > /dev/null",
        "read x",
        "ls |",
        "ls &&",
        "ls \\",
    ],
)
def test_what_hangs_ends(code):
    """By the time that a turn has."""
    start = time.monotonic()
    (result,) = typed(code, limit_s=0.5)
    assert result.ended == "limit"
    assert time.monotonic() - start < 30


def test_the_shell_ends():
    """With what it printed before; nothing can be typed any more."""
    first, second = typed("echo a; exit 3", "echo b")
    assert (first.ended, first.output) == ("exited", b"a\nlogout\n")
    assert (second.ended, second.output) == ("exited", b"")


def test_output_is_bounded():
    """Its beginning is kept; the rest is read and counts for being UTF-8."""
    good, bad = typed(
        "yes é | head -c 30000000", "yes | head -c 3000000; printf '\\377'"
    )
    assert good.ended == bad.ended == "done"
    assert len(good.output) == len(bad.output) == 2**16
    assert good.valid
    assert not bad.valid


def test_terminal():
    """An interactive shell on a terminal, with prompt and escape sequences."""
    tty, value = outputs("tty; x=5", "echo $x$x", terminal=True)
    assert "/dev/pts/0" in tty
    assert "55" in value
    assert "\x1b" in value
    assert "root@box:/# " in value


FORKS = """
import os, signal
children = []
try:
    while True:
        children.append(os.fork())
        if children[-1] == 0:
            signal.pause()
except BlockingIOError:
    print(len(children))
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""


def test_limits():
    """Memory, processes, size of files, of all files, number of files."""
    memory, processes, size, disk, entries, after = outputs(
        "python3 -c 'x = bytearray(2**29)' 2>&1 | tail -1",
        f"python3 -c '{FORKS}'",
        "dd if=/dev/zero of=/big bs=1M count=20 2> /dev/null; "
        "ls -s --block-size=1M /big; rm /big",
        "for i in {1..9}; do dd if=/dev/zero of=/f$i bs=1M count=4 2>&1; done | "
        "grep -c -m1 'No space'; rm /f*",
        "mkdir /m; touch /m/{1..3000} 2>&1 | grep -c -m1 'No space'; rm -r /m",
        "echo fine",
        memory_bytes=2**28,
        processes=32,
        file_bytes=2**23,
        scratch_bytes=2**24,
        scratch_entries=2000,
        limit_s=30,
    )
    assert memory == "MemoryError\n"
    assert 10 < int(processes) < 32
    assert [disk, entries, after] == ["1\n", "1\n", "fine\n"]
    assert size.endswith("8 /big\n")


def test_processor_time():
    """Of all processes together; what comes after it has none left."""
    burn = "for i in 1 2 3; do (while :; do :; done) & done; wait"
    first, second = typed(burn, "echo b", limit_s=60, cpu_s=1.0)
    assert first.ended == "cpu"
    assert second.ended == "cpu"


@pytest.mark.parametrize("user", ["-", pytest.param("12345", id="other")])
def test_kept_out(user, tmp_path):
    """No host file, process, variable or network; as root and as an ordinary user."""
    if user != "-" and not ROOT:
        pytest.skip("only root can become another user")
    secret = tmp_path / "secret"
    secret.write_text("0b5e55ed")
    lines = [
        f"cat {secret} {DRIVER} /etc/machine-id 2>&1; ls /work /builds 2>&1",
        "ps -A | wc -l; cat /proc/*/environ /proc/*/cmdline | tr '\\0' ' '",
        "(exec 3<>/dev/tcp/127.0.0.1/22) 2>&1; ls /sys/class/net 2>&1; "
        "cat /proc/net/dev | wc -l",
        "mount -t tmpfs x /mnt 2>&1; unshare -U true 2>&1; chroot / true 2>&1; "
        "echo x > /usr/bin/x 2>&1; mknod /x b 8 0 2>&1",
        "cat /proc/1/environ /proc/1/maps 2>&1; ls /proc/1/root/ /proc/1/cwd/ 2>&1; "
        "kill -9 1; echo x > /proc/1/mem",
        "cat /proc/keys /proc/kallsyms | wc -c; dmesg 2>&1 | head -1",
        "echo alive; id -u; touch /etc/x /root/x /x && echo writable",
    ]
    python = sys.executable if user == "-" else "/usr/bin/python3"
    done = subprocess.run(
        [python, str(DRIVER), user, "commands"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=120,
        env={"SECRET": "0b5e55ed", "PYTHONPATH": str(DRIVER.parents[2])},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [ended for ended, _ in said] == ["done"] * len(lines)
    text = [output for _, output in said]
    assert "0b5e55ed" not in done.stdout
    assert "Uses shells" not in done.stdout
    assert str(DRIVER.parents[2]) not in "".join(text[1:])
    assert int(text[1].split()[0]) < 8
    assert "Network is unreachable" in text[2] or "refused" in text[2]
    assert text[3].count("\n") >= 4
    assert "permission denied" in text[3].lower() or "not permitted" in text[3].lower()
    assert text[5].split()[0] == "0"
    assert text[6] == "alive\n0\nwritable\n"


SIGNS = (b"module.main(*map(", b"_holder.main(")
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(autouse=True)
def adopts():
    """What loses its parent becomes our child, and is seen."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def descendants():
    """(Id, command line) of all processes that we or our children started."""
    parents, found = {}, set()
    for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            parents[int(file.parent.name)] = int(fields[1])
    below = {os.getpid()}
    while new := {pid for pid, of in parents.items() if of in below} - below:
        below |= new
    for pid in below - {os.getpid()}:
        with contextlib.suppress(OSError):
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            found.add((str(pid), line))
    return {(pid, line) for pid, line in found if line}  # those that have not ended


def gone(what, patience_s=20.0):
    """Whether `what()` is empty soon."""
    end = time.monotonic() + patience_s
    while what() and time.monotonic() < end:
        time.sleep(0.05)
    return not what()


@pytest.mark.parametrize("user", ["-", pytest.param("12345", id="other")])
def test_dies_with_its_user(user):
    """A process that is killed leaves nothing of its shells."""
    if user != "-" and not ROOT:
        pytest.skip("only root can become another user")
    before = set(descendants())
    python = sys.executable if user == "-" else "/usr/bin/python3"
    process = subprocess.Popen(
        [python, str(DRIVER), user, "hang"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={"PYTHONPATH": str(DRIVER.parents[2])},
    )
    with process:
        assert process.stdout.readline() == b"it runs\n"
        assert len(set(descendants()) - before) >= 4
        process.send_signal(signal.SIGKILL)
    assert gone(lambda: set(descendants()) - before)


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("user", ["-", pytest.param("12345", id="other")])
def test_killed_at_any_moment(user, rounds):
    """Nothing is left of shells that start, run, end or are looked at just then."""
    if user != "-" and not ROOT:
        pytest.skip("only root can become another user")
    python = sys.executable if user == "-" else "/usr/bin/python3"
    draw = random.Random(7)
    there = everything()
    for _ in range(rounds):
        before = set(descendants())
        process = subprocess.Popen(
            [python, str(DRIVER), user, "churn"],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={"PYTHONPATH": str(DRIVER.parents[2])},
        )
        with process:
            assert process.stdout.readline() == b"it runs\n"
            time.sleep(draw.uniform(0.0, 2.0))
            process.send_signal(signal.SIGKILL)
        assert gone(lambda before=before: set(descendants()) - before)
    assert everything() == there


def everything():
    """What a shell could leave: mounts, files, descriptors."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "mounts": [line for line in mounts if "/containers/" not in line],
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": sorted(os.listdir("/mnt") + os.listdir("/dev/shm")),
    }


def test_nothing_is_left():
    """After many shells: no process, mount, file, descriptor."""
    before, there = set(descendants()), everything()

    async def main():
        sandbox = BubblewrapSandbox(3)

        async def one():
            async with sandbox.shell() as shell:
                await shell.start_shell(terminal=False, limit_s=20)
                await shell.type("sleep 1000 & echo > /tmp/x", limit_s=20)
                await shell.end(keep_processes=True)
                await shell.look("cat /tmp/x", limit_s=20)

        await asyncio.gather(*(one() for _ in range(12)))
        await sandbox.close()

    asyncio.run(main())
    assert gone(lambda: set(descendants()) - before)
    assert everything() == there


def test_cancelled():
    """A shell whose user is cancelled ends, and its place is free again."""
    before = set(descendants())

    async def main():
        sandbox = BubblewrapSandbox(1)

        async def hang():
            async with sandbox.shell() as shell:
                await shell.start_shell(terminal=False, limit_s=20)
                await shell.type("sleep 1000", limit_s=1000)

        task = asyncio.ensure_future(hang())
        while not any(b"sleep" in line for _, line in set(descendants()) - before):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with sandbox.shell() as shell:
            run = await shell.script("bash", "echo a", limit_s=20)
        await sandbox.close()
        return run.output

    assert asyncio.run(main()) == b"a\n"
    assert gone(lambda: set(descendants()) - before)


@pytest.mark.parametrize("what", SIGNS[:2])
def test_killed_from_outside(what):
    """Our fault, hence an error, and the next shell works."""
    before = set(descendants())

    async def main():
        sandbox = BubblewrapSandbox(1)
        async with sandbox.shell() as shell:
            new = set(descendants()) - before
            mine = [int(pid) for pid, line in new if what in line]
            os.kill(max(mine), signal.SIGKILL)
            with pytest.raises(SandboxError):
                await shell.script("bash", "sleep 0.1", limit_s=20)
                await shell.end()
                await shell.look("echo a", limit_s=20)
        async with sandbox.shell() as shell:
            assert (await shell.script("bash", "echo a", limit_s=20)).status == 0
        await sandbox.close()
        with pytest.raises(SandboxError, match="closed"):
            async with sandbox.shell():
                pass

    asyncio.run(main())
    assert gone(lambda: set(descendants()) - before)


def test_bashrc_is_read_once():
    """A look sees the PATH of a login shell that has read the file, as Debian's does.

    Whoever reads it there again has its folders twice, and so a wrong answer to a
    question about PATH.
    """
    count = "echo $PATH | tr ':' '\\n' | wc -l"

    async def use(shell):
        code = "echo 'PATH=$PATH:/k:/l' > ~/.bashrc; echo '. ~/.bashrc' > ~/.profile"
        await shell.script("bash", code, limit_s=20)
        await shell.start_shell(terminal=False, limit_s=20)
        once = await shell.type(count, limit_s=20)
        twice = await shell.type(f"source ~/.bashrc; {count}", limit_s=20)
        await shell.end()
        code = f"source ~/.bashrc; {count}"
        run = await shell.look(code, limit_s=20, how=Look(bashrc=True))
        return once.output, twice.output, run.output

    once, twice, seen = in_shell(use)
    assert seen == once
    assert int(twice) == int(once) + 2


@pytest.mark.parametrize("said", ["x", "-1", "2\\0no", "1\\0other"])
def test_a_call_that_is_none(said):
    """What something makes a script write to us is no error of ours."""
    code = (
        f"for n in {{3..99}}; do {{ printf -- '{said}\\0' >&$n; }} 2>/dev/null; done; "
        "printf 'calc %s' \"$(calc 1 || echo fails)\""
    )

    async def use(shell):
        await shell.script("bash", "echo 'echo $1' > /usr/local/bin/calc", limit_s=20)
        await shell.script("bash", "chmod 755 /usr/local/bin/calc", limit_s=20)
        await shell.end()
        how = Look(programs={"calc": "[0-9]"})
        right = await shell.look("calc 1", limit_s=20, how=how)
        return right.output, await shell.look(code, limit_s=20, how=how)

    right, run = in_shell(use)
    assert right == b"1\n"
    assert (run.ended, run.status) == ("done", 0)
    assert run.output.endswith(b"calc fails")


def test_check_text_is_never_seen():
    """What an episode leaves running sees no script that judges it."""

    async def use(shell):
        await shell.start_shell(terminal=False, limit_s=20)
        watch = "while :; do cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; done"
        code = f"(setsid bash -c '{watch}' > /root/seen 2>/dev/null &)"
        await shell.type(code, limit_s=20)
        await shell.type("while ! test -s /root/seen; do :; done", limit_s=20)
        await shell.end()
        await shell.look(": 0b5e55ed; sleep 0.2", limit_s=20)
        find = "grep -c 0b5e55e[d] /root/seen; wc -c < /root/seen; ps -A | wc -l"
        return await shell.look(find, limit_s=20)

    count, size, processes = in_shell(use).output.split()
    assert int(count) == 0
    assert int(size) > 0
    assert int(processes) < 7


# Each leaves a process that could still do something, or that its parent would reap.
LEFT = {
    "plain": "sleep 1000 &",
    "own group": "setsid sleep 1000 &",
    "children are not waited for": "(trap '' CHLD; sleep 1000 & sleep 1000) &",
    "wakes itself": "python3 -c 'import signal, time\n"
    'signal.signal(signal.SIGCONT, lambda *_: open("/root/woken", "a").write("x"))\n'
    "import ctypes; libc = ctypes.CDLL(None)\n"
    "event = (ctypes.c_int * 16)(0, 0, 18); timer = ctypes.c_void_p()\n"
    "libc.timer_create(0, event, ctypes.byref(timer))\n"
    "libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 1000000, 0, 1000000), 0)\n"
    "while True: time.sleep(1000)' &",
    "waits for its child": "python3 -c 'import os, time\n"
    'os.vfork() if hasattr(os, "vfork") else os.fork() or time.sleep(1000)\n'
    "os.wait()' &",
    "first thread has ended": "python3 -c 'import _thread, ctypes, time\n"
    "_thread.start_new_thread(time.sleep, (1000,)); time.sleep(0.1)\n"
    "ctypes.CDLL(None).syscall(60, 0)' &",
}


@pytest.mark.parametrize("name", LEFT)
def test_what_has_ended_can_be_seen(name):
    """It keeps its id, user and name in `ps`, and does nothing any more."""
    see_what_has_ended(name)


@pytest.mark.parametrize(
    ("name", "rule", "instead"),
    [
        ("children are not waited for", "if parent not in living:", "if True:"),
        (
            "wakes itself",
            "posix.kill(pid, _signal.SIGKILL)",
            "living = {}; return True",
        ),
        ("plain", "self._reaps = False", "pass"),
    ],
)
def test_a_weakened_end_is_found_out(name, rule, instead, monkeypatch):
    """Without one of its rules, the test above fails."""
    real = host._sources

    def sources(names):
        made = [(part, source.decode()) for part, source in real(names)]
        assert any(rule in source for _, source in made)
        return [(part, s.replace(rule, instead).encode()) for part, s in made]

    monkeypatch.setattr(host, "_sources", sources)
    with pytest.raises(AssertionError):
        see_what_has_ended(name)


def see_what_has_ended(name):
    """Looks at what it left, twice."""

    async def use(shell):
        await shell.start_shell(terminal=False, limit_s=20)
        await shell.type(f"{LEFT[name]}\nsleep 0.3", limit_s=20)
        seen = await shell.type("ps -eo pid,user,comm --no-headers", limit_s=20)
        await shell.end(keep_processes=True)
        look = "ps -eo pid,user,comm --no-headers; cat /proc/[0-9]*/stat"
        left = await shell.look(look, limit_s=20)
        woken = await shell.look("cat /root/woken", limit_s=20)
        await asyncio.sleep(0.3)
        again = await shell.look("cat /root/woken", limit_s=20)
        assert woken.output == again.output
        return seen.output.decode(), left.output.decode()

    seen, left = in_shell(use)
    for line in seen.splitlines():
        pid, user, name = line.split()[:3]
        if name != "ps":
            assert [pid, user, name] in [row.split()[:3] for row in left.splitlines()]
    states = {
        row.split()[0]: row.rpartition(")")[2].split()[0]
        for row in left.splitlines()
        if ") " in row
    }
    ended = [row.split()[0] for row in seen.splitlines() if row.split()[2] != "ps"]
    assert {states[pid] for pid in ended if pid != "1"} == {"Z"}


def test_overlay_is_for_the_shell_only():
    """Programs of the system can be changed, and are as before in the next one."""
    if not ROOT:
        pytest.skip("needs a start as root, or an image")

    async def use(shell):
        code = "echo x > /usr/bin/new; chmod u+s /usr/bin/find; ls -l /usr/bin/find"
        run = await shell.script("bash", code, limit_s=20)
        await shell.end()
        how = Look(changed=("/usr/bin/find",))
        look = "ls -l /usr/bin/find; ls /usr/bin/new"
        seen = await shell.look(look, limit_s=20, how=how)
        return run.output, seen.output

    made, seen = in_shell(use, Root(overlay=True))
    assert made.startswith(b"-rwsr-xr-x")
    assert seen.startswith(b"-rwsr-xr-x")
    assert b"cannot access '/usr/bin/new'" in seen
    assert not os.path.exists("/usr/bin/new")
    assert not os.stat("/usr/bin/find").st_mode & 0o4000


def test_terminals_are_limited():
    """An episode has 64, whatever others have."""
    code = (
        "python3 -c 'import pty\nmade = []\ntry:\n    while True: "
        "made.append(pty.openpty())\nexcept OSError: print(len(made))'"
    )
    assert outputs(code, code) == ["64\n"] * 2


def test_a_tool_is_missing(monkeypatch, tmp_path):
    """Says which, and how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInputError, match=r"command unshare.*util-linux"):
        check_shells()


def test_not_permitted(monkeypatch):
    """Says what is wrong and what to do."""
    monkeypatch.setattr("cycleqd_jax.sandbox.holder._interpreter", lambda: "/nowhere/x")
    with pytest.raises(BadInputError, match="could not be started here"):
        check_shells()
