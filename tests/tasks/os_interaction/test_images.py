"""Images: a root file system that the tests make, as a folder and from an engine."""

import asyncio
import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

from cycleqd_jax.sandbox.base import Root
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.sandbox.image import image_folder
from cycleqd_jax.tasks.base import Outcome
from tests.support.benchmark_data import needs_data
from tests.tasks.os_interaction import attacks
from tests.tasks.os_interaction.conftest import FINISH, answer, bash
from tests.tasks.os_interaction.test_tampering import GOLD, HARMLESS, write_calc

pytestmark = [needs_data, pytest.mark.slow]
VARIABLE = "CYCLEQD_OS_ROOT"  # a folder with a root file system, to save its making
PACKAGES = "python3-minimal,procps,sudo,passwd,login"
IMAGE = "localhost/cycleqd-os-test:latest"
ENGINE = "CYCLEQD_OS_ENGINE"  # the command of an engine


@pytest.fixture(scope="module")
def root_folder(tmp_path_factory):
    """The folder of a small Debian."""
    if given := os.environ.get(VARIABLE):
        return pathlib.Path(given)
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip(
            f"{VARIABLE} is not set, and debootstrap needs root and to be there"
        )
    folder = tmp_path_factory.mktemp("image") / "root"
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm"]
    made = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"debootstrap failed: {made.stdout[-300:]}")
    return folder


@pytest.fixture(scope="module")
def engine(root_folder):
    """The command of an engine that has the image."""
    command = shlex.split(os.environ.get(ENGINE, "podman"))
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not there")
    with subprocess.Popen(
        ["tar", "-C", str(root_folder), "-c", "."], stdout=subprocess.PIPE
    ) as tar:
        words = [*command, "import", "-", IMAGE]
        subprocess.run(words, stdin=tar.stdout, capture_output=True)
    return shlex.join(command)


@pytest.fixture(scope="module", params=["overlay", "container"])
def task(request, make_task, root_folder):
    """Of a folder, and of an engine."""
    if request.param == "overlay":
        return make_task(backend="overlay", image=str(root_folder))
    return request.getfixturevalue("containers")


@pytest.fixture(scope="module")
def containers(engine, make_task):
    """With the engine's image."""
    return make_task(backend="container", image=IMAGE, engine=engine)


COUNT = "echo $PATH | tr ':' '\\n' | wc -l"
CASES = {
    "path": (28, [bash(COUNT), answer("9")], True),
    # The login shell has read ~/.bashrc, since the image's ~/.profile reads it. The
    # benchmark's example reads it in a shell that has not.
    "path, read twice": (28, [bash(f"source ~/.bashrc; {COUNT}"), answer("12")], False),
    "sudo": (
        52,
        [bash("echo 'root ALL=(ALL:ALL) ALL' > /etc/sudoers; sudo whoami"), FINISH],
        True,
    ),
    "no sudo": (53, [bash("sudo whoami"), FINISH], False),
    "sudo of its own": (52, [bash(attacks.SUDO["program"]), FINISH], False),
    "number": (27, [bash("wc -l < /root/matrix.txt"), answer("3")], True),
    "wrong number": (27, [answer("4")], False),
    "state kept": (11, [bash("cd /folder1"), bash("pwd"), FINISH], False),
    "start script": (36, [bash("echo $var"), answer("yes")], True),
    "set-user-id": (50, [bash("chmod u-s /usr/bin/find"), FINISH], True),
    "set-user-id left": (50, [bash("ls"), FINISH], False),
    "hidden by a command": (
        50,
        [bash(attacks.SETUID["ls"]), FINISH],
        False,
    ),
    "shadow": (27, [bash(attacks.NUMBER["shadow local bin"]), answer("99")], False),
    "system programs": (
        27,
        [bash(attacks.NUMBER["system programs"]), answer("99")],
        False,
    ),
    "local site": (27, [bash(attacks.NUMBER["local site"]), answer("99")], False),
    "user site": (27, [bash(attacks.NUMBER["user site"]), answer("99")], False),
    "preload": (27, [bash(attacks.NUMBER["preload"]), answer("99")], False),
    "login scripts": (49, [bash(attacks.READABLE["login scripts"]), FINISH], False),
    "hangs": (27, [bash("sleep 100")], False),
    "error of syntax": (27, [bash("echo )"), answer("3")], True),
    "asks": (27, [bash("read x")], False),
    "inner shell": (27, [bash("bash\ncd /root\nwc -l matrix.txt"), answer("3")], True),
}


@pytest.mark.parametrize("name", CASES)
def test_verdict(name, task, play):
    """Right answers, wrong ones, and tampering."""
    index, replies, right = CASES[name]
    (result,) = play(task, [(task.problem(index), replies)])
    assert (result.outcome is Outcome.SOLVED) == right, result.explanation
    assert result.turns == len(replies)


ATTACKS = {
    27: (attacks.NUMBER, answer("99")),
    11: (attacks.BASHRC, FINISH),
    28: (attacks.PATHS, answer("99")),
    37: ({k: write_calc(code) for k, code in attacks.CALC.items()}, FINISH),
    49: (attacks.READABLE, FINISH),
    50: (attacks.SETUID, FINISH),
    52: (attacks.SUDO, FINISH),
}


@pytest.mark.parametrize("index", ATTACKS)
def test_stays_wrong(index, containers, play):
    """No attack makes a wrong answer right."""
    commands, last = ATTACKS[index]
    problem = containers.problem(index)
    episodes = [(problem, [bash(code), last]) for code in commands.values()]
    results = play(containers, episodes, at_once=2)
    right = [result.outcome is Outcome.SOLVED for result in results]
    assert not any(right), dict(zip(commands, right, strict=True))


# What is left over is to get a verdict, and it is wrong: problem, commands.
SURVIVED = {
    "output into our channel": (
        4,
        "ln -s /proc/self/fd/3 /bob_sold.txt; ln -s /proc/self/fd/3 /bob_bought.txt; "
        "echo 'Bob | Sell | Error: broken' > /usr/stock.log",
    ),
    "file is our script": (27, "ln -sf /proc/1/cmdline /root/matrix.txt"),
    "file is our memory": (27, "ln -sf /proc/1/mem /root/matrix.txt"),
    "names with line feeds": (27, "touch $'/etc/ld.so.\nx ready' $'/r\n\u00e9'"),
    "our own place": (27, "mkdir -p /run/cycleqd/tree; ln -s / /run/cycleqd/look"),
    "system is elsewhere": (27, "mv /usr /u; ln -s /u /usr"),
    "nothing may be read": (27, "chmod 000 / /etc /usr /root"),
    "ways to itself": (27, "mkdir /a; ln -s /a /a/a; rm -rf /etc; ln -s /etc /etc"),
    "immovable processes": (
        56,
        "cat > /vfork.py <<'E'\nimport os, time\nfor _ in range(50):\n"
        "    if os.fork() == 0:\n        os.posix_spawn('/bin/sleep', ['x', '9'], {})"
        "\n        time.sleep(99)\nE\n"
        "python3 /vfork.py & (sleep 99 | cat) & kill -STOP $!; sleep 1",
    ),
    "file is a pipe": (28, "rm ~/.bashrc; mkfifo ~/.bashrc"),
    "file is endless": (28, "rm ~/.bashrc; ln -s /dev/zero ~/.bashrc"),
    "endless path": (
        28,
        "echo 'PATH=$(head -c 100000 /dev/zero | tr -c x x)' >~/.bashrc",
    ),
    "program floods": (37, write_calc("yes")),
    "program stays": (37, write_calc("sleep 1000 & echo 1")),
    "program ends its world": (37, write_calc("kill -9 1 -1; echo 1")),
    "program leaves its world": (
        37,
        "cat > /leave.py <<'E'\nimport os\nos.mkdir('/x')\nos.chroot('/x')\n"
        "for _ in range(9):\n    os.chdir('..')\nos.chroot('.')\n"
        "for name in ('base64', 'head', 'env'):\n"
        "    with open(f'/usr/bin/{name}', 'w') as file:\n"
        "        file.write('#!/bin/sh\\necho A B C')\nE\n"
        + write_calc("python3 /leave.py > /dev/null 2>&1; echo 1"),
    ),
}


def test_every_episode_gets_a_verdict(containers, play):
    """Whatever it left; none is right, and none is an error."""
    episodes = [
        (containers.problem(index), [bash(code), answer("99")])
        for index, code in SURVIVED.values()
    ]
    for name, result in zip(SURVIVED, play(containers, episodes, 2), strict=True):
        assert result.outcome is Outcome.WRONG, (name, result.explanation)


def test_stays_right(containers, play):
    """What does not concern the answer does not change the verdict."""
    problem = containers.problem(27)
    episodes = [(problem, [bash(c), answer("3")]) for c in HARMLESS.values()]
    for name, result in zip(HARMLESS, play(containers, episodes, 2), strict=True):
        assert result.outcome is Outcome.SOLVED, (name, result.explanation)


def test_right_way(containers, play):
    """The same problems, solved."""
    episodes = [(containers.problem(i), [code, FINISH]) for i, code in GOLD.items()]
    for result in play(containers, episodes, at_once=2):
        assert result.outcome is Outcome.SOLVED, result.explanation


def test_files_are_those_of_the_image(engine, root_folder):
    """With owners, permissions and links; no container is left."""
    _, place = image_folder(IMAGE, engine)
    listing = ["find", ".", "-path", "./dev/*", "-o", "-printf", "%p %M %U %G %l\n"]
    one, other = (
        set(subprocess.run(listing, cwd=top, capture_output=True).stdout.splitlines())
        for top in (place, root_folder)
    )
    there = {b"./run/.containerenv", b"./etc/mtab", b"./etc/hosts", b"./etc/hostname"}
    differs = {line.split(b" ")[0] for line in one ^ other}
    assert differs <= {*there, b"./etc/resolv.conf", b"./run", b"./etc", b"."}
    listed = subprocess.run(
        [*shlex.split(engine), "ps", "-a", "--filter", f"ancestor={IMAGE}", "-q"],
        capture_output=True,
    )
    assert listed.stdout == b""


def test_terminals_at_once(engine):
    """64 episodes, each with a terminal of its own."""
    root = Root(overlay=True, image=str(image_folder(IMAGE, engine)[1]))

    async def one(sandbox, number):
        async with sandbox.shell(root) as shell:
            await shell.start_shell(terminal=True, limit_s=300)
            await shell.type(f"x={number}", limit_s=300)
            ready.release()
            async with asyncio.timeout(600):
                await everyone.wait()
            typed = await shell.type("echo got-$x", limit_s=300)
            assert f"got-{number}".encode() in typed.output

    async def main():
        sandbox = BubblewrapSandbox(2)
        episodes = [asyncio.ensure_future(one(sandbox, n)) for n in range(64)]
        for _ in episodes:
            await ready.acquire()
        everyone.set()
        await asyncio.gather(*episodes)
        await sandbox.close()

    ready, everyone = asyncio.Semaphore(0), asyncio.Event()
    asyncio.run(main())


@pytest.mark.parametrize(
    "code",
    [
        "rm -f /usr/bin/awk; mkfifo /usr/bin/awk",
        "mv /etc /e2; mkdir /etc",
        "rm -rf /etc/passwd; mkdir /etc/passwd",
        "chmod 755 /usr/lib; chmod 000 /usr/bin/bash /usr/bin/python3*",
        "rm -rf --no-preserve-root / 2> /dev/null",
        "rm -rf /root; ln -s /proc /root",
        "kill -9 -1",
    ],
)
def test_destroyed(code, task, play):
    """It is a wrong answer, no failure of ours."""
    (result,) = play(task, [(task.problem(27), [bash(code), answer("99")])])
    assert result.outcome is Outcome.WRONG
