"""Images: a root file system that the tests make, as an overlay and as a container."""

import asyncio
import gc
import os
import pathlib
import shutil
import subprocess
import threading
import time

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.tasks.base import Outcome
from tests.support.benchmark_data import needs_data
from tests.tasks.os_interaction import attacks
from tests.tasks.os_interaction.conftest import FINISH, Script, answer, bash

pytestmark = [needs_data, pytest.mark.slow]
VARIABLE = "CYCLEQD_OS_ROOT"  # a folder with a root file system, to save its making
PACKAGES = "python3-minimal,procps,sudo,passwd,login"
IMAGE = "localhost/cycleqd-os-test:latest"
PODMAN = ["podman", *(["--runtime", "runc"] if shutil.which("runc") else [])]


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


class Service:
    """Podman's API on a socket of its own.

    Attributes:
      address: where it answers.
    """

    def __init__(self, folder: pathlib.Path):
        self.address = f"unix://{folder}/podman.sock"
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*PODMAN, "system", "service", "--time=0", self.address],
                cwd=folder,  # where it notes that a container's memory was full
                stderr=log,
            )
        until = time.monotonic() + 30
        while not (folder / "podman.sock").exists():
            assert self._process.poll() is None and time.monotonic() < until, (
                folder / "log"
            ).read_text()
            time.sleep(0.02)

    def end(self):
        """Ends it at once, as a crash would."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def service(tmp_path, engine):
    """One that a test may end."""
    service = Service(tmp_path)
    yield service
    service.end()


@pytest.fixture(scope="module")
def engine(root_folder, tmp_path_factory):
    """The address of an engine that can start containers of the image."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not there")
    with subprocess.Popen(
        ["tar", "-C", str(root_folder), "-c", "."], stdout=subprocess.PIPE
    ) as tar:
        command = ["podman", "import", "-", IMAGE]
        subprocess.run(command, stdin=tar.stdout, capture_output=True)
    limits = ["--ulimit", "nofile=256:256", "--ulimit", "nproc=128:128"]
    command = [*PODMAN, "run", "--rm", "--network", "none", *limits, IMAGE, "true"]
    tried = subprocess.run(command, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"podman starts no container: {tried.stderr[-200:]}")
    service = Service(tmp_path_factory.mktemp("service"))
    yield service.address
    service.end()


@pytest.fixture(scope="module", params=["overlay", "container"])
def task(request, make_task, root_folder):
    """With either backend."""
    if request.param == "overlay":
        return make_task(backend="overlay", image=str(root_folder))
    address = request.getfixturevalue("engine")
    return make_task(backend="container", image=IMAGE, engine=address)


CASES = {
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


def test_unknown_image(engine, make_task, play):
    """No verdict, but an error with the problem and the image."""
    task = make_task(backend="container", image="localhost/nowhere", engine=engine)
    with pytest.raises(SandboxError, match=r"os_interaction/27.*localhost/nowhere"):
        play(task, [(task.problem(27), [answer("3")])])


def containers():
    """Names of those that are there, running or not."""
    listed = subprocess.run(
        ["podman", "ps", "-a", "--format", "{{.Names}}"],
        capture_output=True,
        text=True,
    )
    return {name for name in listed.stdout.split() if name.startswith("cycleqd-")}


def test_no_container_is_left(engine, make_task, play):
    """After episodes that end well, badly, and by being cancelled."""
    before = containers()
    task = make_task(backend="container", image=IMAGE, engine=engine, turn_s=1.0)
    play(task, [(task.problem(27), [bash("sleep 100")]), (task.problem(27), [""])])

    async def cancel(after_s):
        episode = asyncio.ensure_future(
            task.run(task.problem(27), Script([bash("sleep 100")]), None)
        )
        await asyncio.sleep(after_s)
        episode.cancel()
        await asyncio.wait([episode])

    async def main():
        await asyncio.gather(*(cancel(0.03 * i) for i in range(12)))

    asyncio.run(main())
    assert not containers() - before


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the SDK's own
@pytest.mark.parametrize("turn", [1, 2])
def test_engine_dies(turn, service, make_task, play):
    """No verdict, whether a command runs meanwhile or the next one is to be typed."""
    task = make_task(backend="container", image=IMAGE, engine=service.address)
    before, timers = containers(), []

    def reply(messages):
        if len(timers) == turn - 1:
            timers.append(threading.Timer(0.5 if turn == 1 else 0, service.end))
            timers[-1].start()
            if turn == 2:
                timers[-1].join()
        else:
            timers.append(None)
        return bash("sleep 3") if turn == 1 else bash("true")

    try:
        with pytest.raises(SandboxError, match=r"os_interaction/27.*engine"):
            play(task, [(task.problem(27), reply)])
        gc.collect()
    finally:
        for name in containers() - before:
            subprocess.run(["podman", "rm", "-f", name], capture_output=True)


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
