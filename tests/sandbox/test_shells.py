"""Shells: what one keeps, what ends a command, what is limited, what is kept out."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.shells import check_shells
from tests.support.shells import outputs, typed

DRIVER = pathlib.Path(__file__).with_name("shell_driver.py")
ROOT = os.geteuid() == 0


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


def test_listings_of_two_machines_are_the_same():
    """Of what is there at the start; what the shell writes has real times."""
    code = (
        "ls -la --time-style=full-iso /etc /var /root /home /tmp; ls -d --full-time /"
    )
    (first, new), (second, _) = (
        outputs(code, "touch /x; find /x -newer /etc") for _ in range(2)
    )
    assert first.count("2023-01-01 00:00:00") > 40
    assert first == second
    assert new == "/x\n"


def test_terminals_are_limited():
    """An episode has 64, whatever others have."""
    code = (
        "python3 -c 'import pty\nmade = []\ntry:\n    while True: "
        "made.append(pty.openpty())\nexcept OSError: print(len(made))'"
    )
    assert outputs(code, code) == ["64\n"] * 2


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


def test_not_permitted(monkeypatch):
    """Says what is wrong and what to do."""
    monkeypatch.setattr("cycleqd_jax.sandbox.holder._interpreter", lambda: "/nowhere/x")
    with pytest.raises(BadInputError, match="could not be started here"):
        check_shells()
