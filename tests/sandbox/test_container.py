"""Containers, with an engine that only pretends; real ones: test_container_engines."""

import asyncio
import dataclasses
import os
import re
import subprocess
import sys
import time

import pytest

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox import container_engine
from cycleqd_jax.sandbox.base import (
    DEFAULT_SHELL_LIMITS,
    KEPT_BYTES,
    PLAIN_LOOK,
    Look,
)
from cycleqd_jax.sandbox.container import Containers
from cycleqd_jax.sandbox.container_engine import Engine
from cycleqd_jax.sandbox.container_leftovers import own_mark, remove_leftovers
from cycleqd_jax.sandbox.container_scripts import LOOK
from tests.sandbox import fake_engine


@pytest.fixture
def fake(tmp_path):
    """An engine that works."""
    return fake_engine.make(tmp_path / "bin")


@pytest.fixture
def containers(fake, monkeypatch):
    """Containers of it, without the try at their start."""

    async def no_try(self):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(Containers, "_try", no_try)
        return Containers("image", 8, fake.command)


def episode(containers, steps):
    """Runs a function of an open shell."""

    async def main():
        async with containers.open() as shell:
            return await steps(shell)

    return asyncio.run(main())


def test_container_is_bounded(fake):
    """No network, explicit limits, no proxies, a label, and no image from elsewhere."""
    limits = DEFAULT_SHELL_LIMITS
    Containers("image", 1, fake.command)  # tries one
    runs = [call for call in fake.calls() if call[0] == "run"]
    assert {"--detach" in run for run in runs} == {True, False}
    for run in runs:
        assert {
            "--rm",
            "--pull=never",
            "--network=none",
            "--hostname=box",
            f"--pids-limit={limits.processes}",
            f"--memory={limits.memory_bytes}",
            f"--ulimit=nofile={limits.open_files}:{limits.open_files}",
            f"--ulimit=nproc={limits.processes}:{limits.processes}",
            f"--ulimit=fsize={limits.file_bytes}:{limits.file_bytes}",
            "--ulimit=core=0:0",
            f"--label=cycleqd.run={own_mark()}",
            "--env=https_proxy",
            f"--mount=type=devpts,destination=/dev/pts,max={limits.terminals}",
        } <= set(run)
        assert ("--cap-add=SYS_ADMIN" in run) == ("--interactive" in run)
    assert not fake.containers()


def test_environment_has_no_proxy(fake, monkeypatch):
    """An engine would pass it on."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@host")
    monkeypatch.setenv("DOCKER_HOST", "tcp://host")
    engine = Engine("image", fake.command, DEFAULT_SHELL_LIMITS)

    async def steps():
        command = engine.execute("name", ["env"], {})
        try:
            return await command.read(2**16)
        finally:
            command.close()

    (fake.folder / "podman").write_text("#!/bin/sh\nexec env\n")
    said = asyncio.run(steps())
    assert b"PWD=/proc\n" in said  # where Podman can leave no file
    assert b"DOCKER_HOST=tcp://host" in said
    assert b"secret" not in said


def test_script(containers):
    """Both outputs in their order, the status, and no more than is kept."""

    async def steps(shell):
        first = await shell.script(
            "bash", "echo $1; echo two >&2; echo three; exit 3", ["x y"], limit_s=9
        )
        second = await shell.script(
            "python", "import sys; print(sys.argv[1] * 10**6)", [b"\xff"], limit_s=9
        )
        third = await shell.script("bash", "echo early; sleep 9", limit_s=0.2)
        return first, second, third

    first, second, third = episode(containers, steps)
    assert (first.status, first.ended, first.output) == (
        3,
        "done",
        b"x y\ntwo\nthree\n",
    )
    assert second.output == ("\ufffd" * 10**6).encode()[:KEPT_BYTES]
    assert (third.ended, third.output) == ("limit", b"")


@pytest.mark.parametrize("terminal", [False, True], ids=["clean", "terminal"])
def test_shell(containers, terminal):
    """It keeps its state, and is ready when its mark or prompt is back."""

    async def steps(shell):
        typed = [await shell.start_shell(terminal=terminal, limit_s=9)]
        for code in ("cd /usr; x=5", "pwd; echo $x; tty", "exit 3"):
            typed.append(await shell.type(code, limit_s=9))
        return typed

    typed = episode(containers, steps)
    assert [t.ended for t in typed] == ["done", "done", "done", "exited"]
    printed = typed[2].output.decode()
    assert "/usr" in printed and "5" in printed
    assert ("/dev/pts/" if terminal else "not a tty") in printed


@pytest.mark.parametrize("terminal", [False, True], ids=["clean", "terminal"])
def test_limits_of_a_turn(containers, terminal):
    """Its time, and how much of its output is kept."""

    async def steps(shell):
        await shell.start_shell(terminal=terminal, limit_s=9)
        flood = await shell.type("yes | head -c 500000; printf '\\377'", limit_s=60)
        return flood, await shell.type("yes", limit_s=0.3)

    flood, slow = episode(containers, steps)
    assert (flood.ended, flood.valid, len(flood.output)) == ("done", False, KEPT_BYTES)
    assert slow.ended == "limit"


def test_inner_shell(containers):
    """It gets its own lines and no more; what asks for input hangs."""

    async def steps(shell):
        await shell.start_shell(terminal=False, limit_s=9)
        inner = await shell.type("sh\necho in\nexit\necho out", limit_s=9)
        return inner, await shell.type("read x", limit_s=0.3)

    inner, asks = episode(containers, steps)
    assert inner.output.split()[-2:] == [b"in", b"out"]
    assert asks.ended == "limit"


def test_terminals_at_once(containers):
    """Each episode has its own, and nothing of them is left open."""

    async def one(number):
        async with containers.open() as shell:
            await shell.start_shell(terminal=True, limit_s=60)
            await shell.type(f"x={number}", limit_s=60)
            typed = await shell.type("echo got-$x", limit_s=60)
            assert f"got-{number}".encode() in typed.output

    async def main():
        await asyncio.gather(*map(one, range(8)))

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("verb", "why"),
    [
        ("run", "podman failed for the image image .*it is broken"),
        ("exec", "podman failed for the image image .*it is broken"),
        ("inspect", "podman failed for the image image .*it is broken"),
    ],
)
def test_failure_is_no_verdict(fake, containers, verb, why):
    """It is an error with what the engine said."""
    fake.fails(verb)

    async def steps(shell):
        await shell.script("bash", "true", limit_s=9)
        await shell.end()

    with pytest.raises(SandboxError, match=why):
        episode(containers, steps)
    fake.works(verb)


def test_shell_that_does_not_start(fake, containers):
    """An error with what the engine said."""
    fake.fails("exec", "no python3 there")

    async def steps(shell):
        await shell.start_shell(terminal=False, limit_s=9)

    with pytest.raises(SandboxError, match=r"its shell has ended.*no python3 there"):
        episode(containers, steps)


def test_engine_that_ends_is_no_exit(fake, containers):
    """Of the shell: then the engine would answer."""

    async def steps(shell):
        await shell.start_shell(terminal=False, limit_s=9)
        fake.fails("ps")
        await shell.type("kill -9 $$ $PPID", limit_s=9)

    with pytest.raises(SandboxError, match="it is broken"):
        episode(containers, steps)


def test_no_answer(fake, containers, monkeypatch):
    """A call has a time limit."""
    fake.fails("run", late_s=5)
    monkeypatch.setattr(container_engine, "CALL_S", 0.2)
    with pytest.raises(SandboxError, match=r"not answered within 0\.2 s to run"):
        episode(containers, None)


def test_container_that_cannot_be_stopped(fake, containers):
    """That is the episode's fault as long as the engine works."""
    fake.fails("pause", "unable to freeze")

    async def steps(shell):
        return await shell.end()

    assert "cannot be stopped" in episode(containers, steps)
    fake.fails("ps")
    with pytest.raises(SandboxError, match="it is broken"):
        episode(containers, steps)


def test_cancelled_start_is_removed(fake, containers):
    """The container that is being made when it is cancelled, too."""
    fake.waits("run", 0.4)

    async def main():
        task = asyncio.ensure_future(containers.open().__aenter__())
        calls = len(fake.calls())
        while len(fake.calls()) == calls:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [call[0] for call in fake.calls()[-2:]] == ["run", "rm"]
    assert not fake.containers()


def look(containers, code, arguments=(), *, how=PLAIN_LOOK, limit_s=20.0, keep=False):
    """Looks at what is left in the fake's tree."""

    async def steps(shell):
        assert await shell.end(keep_processes=keep) is None
        return await shell.look(code, arguments, limit_s=limit_s, how=how)

    return episode(containers, steps)


def test_look(fake, containers):
    """A script's status and outputs, in a container that shows the tree."""
    code = "echo $1 $0 $PATH >&2; exit 7"
    run = look(containers, code, ["a b", b"\xff"])
    path = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
    assert (run.status, run.ended) == (7, "done")
    assert run.output.decode() == f"a b -- {path}\n"
    (call,) = [call for call in fake.calls() if code in " ".join(call)]
    tree = f"{fake.folder}/tree"
    assert f"--mount=type=bind,src={tree},dst=/run/cycleqd/tree,readonly" in call
    assert (
        "--mount=type=bind,src=/etc/hosts,dst=/run/cycleqd/etc/hosts,readonly" in call
    )
    assert not any(word.startswith("--pid=") for word in call)
    assert not fake.containers()


def test_world_of_a_look(fake, containers):
    """The tree without programs, and the image's own over it, before anything runs."""
    run = look(containers, "echo ran", how=Look(changed=("/etc/passwd",)))
    (fake.folder / "mounts").unlink()
    (fake.folder / "tree/etc/passwd").touch()
    tree, view = f"{fake.folder}/tree", f"{fake.folder}/look"
    assert run.output == b"/etc/passwd was removed"
    look(containers, "true", how=Look(changed=("/etc/passwd",)))
    mounts = (fake.folder / "mounts").read_text().splitlines()
    layer = f"{fake.folder}/layer"
    folders = f"lowerdir={tree},upperdir={layer}/upper,workdir={layer}/work"
    assert mounts[0] == f"-o remount,bind,ro,nosuid,nodev,noexec {tree}"
    assert mounts[1] == f"-t overlay -o nosuid,nodev,noexec,{folders} overlay {view}"
    assert f"--bind /usr/bin {view}/usr/bin" in mounts
    assert f"--bind /etc/nsswitch.conf {view}/etc/nsswitch.conf" in mounts
    assert mounts[-4:] == [
        f"--bind {tree}/etc/passwd {view}/etc/passwd",
        *(f"--rbind /{name} {view}/{name}" for name in ("proc", "dev", "sys")),
    ]


def test_executable_and_processes(fake, containers):
    """Only where they are asked for."""
    look(containers, "echo here", how=Look(executable=True), keep=True)
    (call,) = [call for call in fake.calls() if "echo here" in " ".join(call)]
    name = next(w for w in call if w.startswith("--name=")).removeprefix("--name=")
    assert f"--pid=container:{name.rpartition('-')[0]}" in call
    mounts = (fake.folder / "mounts").read_text()
    assert "noexec" not in mounts


def remove(path):
    """Makes it disappear."""
    path.rename(path.with_name("elsewhere"))


def relink(path):
    """Makes it a link to what the episode likes."""
    remove(path)
    path.symlink_to("/evil")


def write(path):
    """Writes a file there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("home = /evil\n")


@pytest.mark.parametrize(
    ("path", "change", "why"),
    [
        ("etc/nsswitch.conf", remove, "removed"),
        ("etc/nsswitch.conf", relink, "changed|removed"),
        ("etc/ld.so.preload", write, "added"),
        ("etc/python9", write, "added"),
        ("proc", remove, "removed"),
        ("dev", relink, "removed"),
        ("usr/bin", relink, "changed|removed"),
        ("usr/lib", remove, "removed"),
        ("usr/local/bin", relink, "changed|removed"),
        ("usr/pyvenv.cfg", write, "added"),
        ("lib64", relink, "changed|removed"),
        ("usr/local/pyvenv.cfg", write, "added"),
        ("usr/local/bin/pyvenv.cfg", write, "added"),
    ],
)
def test_tampered_system(fake, path, change, why):
    """Nothing runs then, and it is no failure of ours."""
    change(fake.folder / "tree" / path)
    said = fake.set_up(LOOK, "noexec", "--", "bash", "-c", "echo ran >&2")
    assert re.fullmatch(f"word /{path}(/[^/]*)? was ({why})\n", said)


def test_system_as_it_was(fake):
    """Whatever else the episode changed, the script runs."""
    (fake.folder / "tree/etc/hosts").write_text("mine")
    (fake.folder / "tree/usr/mine").mkdir()
    said = fake.set_up(LOOK, "noexec", "--", "bash", "-c", "echo ran >&3")
    assert said == "word ready\nran\n"


def test_bashrc_and_programs(fake, containers):
    """They run in the other world; a path, and output of the right form, come back."""
    (fake.folder / ".bashrc").write_text("PATH=$PATH:/mine; echo said; return 4\n")
    code = "source ~/.bashrc; echo $? $PATH | cut -c1-; expr 1 + 2; expr a : 'a.*'"
    run = look(containers, code, how=Look(bashrc=True, programs={"expr": "[0-9]"}))
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/mine"
    assert run.output.decode() == f"4 {path}\n3\n1\n"
    asked = [call for call in fake.calls() if "mapfile" in " ".join(call)]
    assert asked and not any(code in " ".join(call) for call in asked)
    code = "head -c 30000 /dev/zero | wc -c; printf xy || echo $?; false-x; echo $?"
    programs = {"head": r"[\s\S]*", "printf": "x*", "false-x": ".*"}
    run = look(containers, code, how=Look(programs=programs))
    assert run.output.splitlines()[0] == b"16384"
    assert run.output.splitlines()[1:] == [b"1", b"127"]


def test_script_without_the_tree(fake, containers):
    """It sees the image alone."""
    programs = {"expr": "[0-9]"}
    run = look(containers, "expr 1 + 1", how=Look(tree=False, programs=programs))
    assert run.output == b"2\n"
    (fake.folder / "mounts").unlink()
    look(containers, "true", how=Look(tree=False))
    assert not (fake.folder / "mounts").exists()


@pytest.mark.parametrize("text", ["exit 0", "PATH=$'a\\nb'", "kill -9 $$", "sleep 99"])
def test_bashrc_that_says_nothing(fake, containers, text):
    """The script ends there."""
    (fake.folder / ".bashrc").write_text(text)
    code = "source ~/.bashrc; echo ran"
    run = look(containers, code, how=Look(bashrc=True), limit_s=1)
    assert (run.status, run.output) in [(1, b""), (-9, b"")]


def test_look_has_limits(fake, containers):
    """Of time, of output, and of time for all looks together; nothing is left."""
    assert look(containers, "sleep 9", limit_s=0.2).ended == "limit"
    flood = look(containers, "yes | head -c 5000000")
    assert (flood.ended, len(flood.output)) == ("done", KEPT_BYTES)
    short = dataclasses.replace(DEFAULT_SHELL_LIMITS, judging_s=0.5)
    containers = Containers("image", 1, fake.command, short)
    assert look(containers, "sleep 9").ended == "limit"
    assert not fake.containers()


def test_engine_that_ends_is_no_status(containers):
    """It complains, and no script can."""
    assert look(containers, "echo Error: mine >&2; exit 125").status == 125
    assert look(containers, "echo Error: mine >&3; exit 125").status == 125
    assert look(containers, "kill -9 $$").status == 137
    programs = {"x": "x"}  # for which there is a way to us
    with pytest.raises(SandboxError, match=r"image \(Error: no connection"):
        code = "echo Error: no connection >&3; exit 1"
        look(containers, code, how=Look(programs=programs))


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"Driver": "vfs", "ServerVersion": "28"}, "'vfs', expected .*overlay"),
        (
            {
                "Driver": "overlayfs",
                "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
            },
            "containerd-snapshotter",
        ),
        (
            {
                "Driver": "overlay2",
                "CgroupVersion": "1",
                "SecurityOptions": ["name=rootless"],
            },
            "rootless on cgroups version 1",
        ),
        (
            {
                "host": {"cgroupVersion": "v1", "security": {"rootless": True}},
                "store": {"graphDriverName": "overlay"},
            },
            "rootless on cgroups version 1",
        ),
    ],
    ids=["vfs", "containerd", "rootless docker", "rootless podman"],
)
def test_engine_that_cannot(fake, info, why):
    """One sentence, before anything runs."""
    fake.says("info", info)
    with pytest.raises(BadInputError, match=why):
        Engine("image", fake.command, DEFAULT_SHELL_LIMITS)


def test_image(fake):
    """It has to be there, and in one piece."""
    fake.says("image", [{"Config": {"Volumes": {"/var/lib/mysql": {}}}}])
    with pytest.raises(BadInputError, match=r"declares volumes .*mysql"):
        Engine("image", fake.command, DEFAULT_SHELL_LIMITS)
    fake.fails("image", "no such image")
    with pytest.raises(BadInputError, match=r"no image 'image' \(Error: no such image"):
        Engine("image", fake.command, DEFAULT_SHELL_LIMITS)


def test_which_engine(fake, tmp_path, monkeypatch):
    """The given one, or the first of Podman and Docker that answers."""
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    assert Engine("image", None, DEFAULT_SHELL_LIMITS).name == "podman"
    docker = fake_engine.make(tmp_path / "other", "docker")
    monkeypatch.setenv("PATH", f"{fake.folder}:{docker.folder}:/usr/bin:/bin")
    fake.fails("info", "no service")
    assert Engine("image", None, DEFAULT_SHELL_LIMITS).name == "docker"
    monkeypatch.setenv("PATH", str(fake.folder))
    with pytest.raises(BadInputError, match=r"podman \(.*\), docker \(not on PATH\)"):
        Engine("image", None, DEFAULT_SHELL_LIMITS)
    given = f"{docker.command} --host tcp://there"
    assert Engine("image", given, DEFAULT_SHELL_LIMITS).words[1:3] == given.split()[1:]
    with pytest.raises(BadInputError, match="like podman, or docker --host unix:///a"):
        Engine("image", "unix:///a", DEFAULT_SHELL_LIMITS)
    with pytest.raises(BadInputError, match="expected a command, like podman"):
        Engine("image", "podman 'x", DEFAULT_SHELL_LIMITS)


def test_engine_that_starts_nothing(fake):
    """It is found out before the run."""
    fake.fails("run", "OCI runtime: not permitted")
    with pytest.raises(BadInputError, match=r"not permitted.*--runtime runc"):
        Containers("image", 1, fake.command)


def test_leftovers(fake):
    """Those of runs that have ended here go; others stay."""
    boot, space, pid, start = own_mark().split(".")
    fake.add("mine", own_mark())
    fake.add("dead", f"{boot}.{space}.{pid}.{int(start) - 1}")
    fake.add("gone", f"{boot}.{space}.999999999.5")
    fake.add("other-machine", f"another.{space}.999999999.5")
    fake.add("other-space", f"{boot}.1.999999999.5")
    assert remove_leftovers([fake.command]) == 2
    assert fake.containers() == {"mine", "other-machine", "other-space"}


_RUN = """
import asyncio, sys, time
from cycleqd_jax.sandbox.container import Containers
async def main():
    async with Containers("image", 1, sys.argv[1]).open() as shell:
        await shell.start_shell(terminal=False, limit_s=60)
        await shell.end()
        print("ready", flush=True)
        await shell.look("sleep 60", limit_s=60)
asyncio.run(main())
"""


def test_killed_run_leaves_nothing(fake):
    """Not a container, even if nobody starts another run."""
    run = subprocess.Popen(
        [sys.executable, "-c", _RUN, fake.command], stdout=subprocess.PIPE
    )
    assert run.stdout.readline() == b"ready\n"
    while len(fake.containers()) < 2:
        time.sleep(0.02)
    run.kill()
    run.wait()
    run.stdout.close()
    until = time.monotonic() + 20
    while fake.containers():
        assert time.monotonic() < until
        time.sleep(0.05)
