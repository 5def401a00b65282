"""Looking at what an episode has left."""

import asyncio
import os

import pytest

from cycleqd_jax.sandbox import host
from cycleqd_jax.sandbox.base import Look, Root
from tests.support.shells import in_shell

ROOT = os.geteuid() == 0


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7", b"8"),
        (" 7", b"8"),
        ("", b"1"),
        ("none", b"1"),
        ("a[$(echo 7)]", b""),
        ("PATH", b""),
        ("none+PATH", b""),
    ],
)
def test_no_text_is_calculated_with(text, said):
    """Bash executes commands in a number, wherever the script is then."""
    codes = (
        "x=$(cat /x); echo $((x + 1))",
        "while read -r x; do echo $(f() { echo $((x + 1)); }; f); done < /x",
        "for ((x = 0; x < 1; x++)); do :; done; read x < /x; ((x++, 1)) && echo $x",
    )

    async def use(shell):
        await shell.script("bash", f"echo '{text}' > /x", limit_s=20)
        await shell.end()
        return [await shell.look(code, limit_s=20) for code in codes]

    for run in in_shell(use):
        assert run.output.strip() == said


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("5", True),
        ("4", False),
        ("! 4", False),
        ("5 -eq 5 -o 4", False),
        ("-v x[$(touch /ran)] -o 4", False),
    ],
)
def test_no_text_adds_to_a_test(text, right):
    """Bash splits what has no quotes into words, which could be operators."""
    codes = (
        "[ $(cat /x) -eq 5 ]",
        "x=`cat /x`; test $x = 5",
        "test 1 -a $(cat /x) = 5",
    )

    async def use(shell):
        await shell.script("bash", f"echo '{text}' > /x", limit_s=20)
        await shell.end()
        runs = [await shell.look(code, limit_s=20) for code in codes]
        return [run.status == 0 for run in runs], await shell.look(
            "! ls /ran", limit_s=20
        )

    verdicts, ran = in_shell(use)
    assert verdicts == [right] * 3
    assert ran.status == 0


@pytest.mark.parametrize("keep", [False, True])
def test_a_look_leaves_no_process(keep):
    """A script's own processes do not run beside the next script."""

    async def use(shell):
        await shell.end(keep_processes=keep)
        await shell.look("setsid sleep 7654 > /dev/null 2>&1 &", limit_s=20)
        return await shell.look("ps -eo stat,args", limit_s=20)

    rows = in_shell(use).output.decode().splitlines()
    assert [row for row in rows if "7654" in row and row[0] != "Z"] == []


# Each leaves a process that could still do something, or that its parent would reap.
LEFT = {
    "plain": "sleep 1000 &",
    "own group": "setsid sleep 1000 &",
    "children are not waited for": "python3 -c 'import os, signal, time\n"
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.fork() and os.fork()\n"
    'open("/tmp/ready", "w"); time.sleep(1000)\' & '
    "while ! test -e /tmp/ready; do sleep 0.01; done",
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
        (
            "children are not waited for",
            "if parent not in living:",
            "if pid not in living.values():",  # children first
        ),
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
