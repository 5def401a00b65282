"""The engine's client, with an engine that only pretends; a real one: test_images."""

import asyncio
import gc
import random
import socket
import sys

import pytest

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox import container_address, container_engine
from cycleqd_jax.sandbox.base import DEFAULT_SHELL_LIMITS as DEFAULT_LIMITS
from cycleqd_jax.sandbox.container import Containers
from cycleqd_jax.sandbox.container_address import addresses, connect
from cycleqd_jax.sandbox.container_engine import Engine
from cycleqd_jax.sandbox.container_stream import Frames
from tests.sandbox.fake_engine import fake_engine, frame

pytest.importorskip("docker", reason="the extra `container` is not installed")


@pytest.fixture
def fake(tmp_path):
    """An engine that answers at once."""
    with fake_engine(tmp_path / "engine.sock") as fake:
        yield fake


@pytest.fixture
def engine(fake):
    """A client for it."""
    return Engine("image", fake.address, DEFAULT_LIMITS)


def run(engine, limit_s=10.0):
    return asyncio.run(engine.run("name", ["true"], {"A": "x=y"}, limit_s))


PRINTED = [b"one", b"", b"2" * 300, b"\n\0\1\0\0\0\0\0\0\3no"]
SENT = b"".join(frame(part, kind) for kind, part in enumerate(PRINTED[:3]))
SENT += frame(PRINTED[3], 2)


@pytest.mark.parametrize("largest", [1, 2, 7, 9, 100, 1000])
def test_frames_however_they_are_cut(largest):
    """What was printed, as soon as it has come."""
    chosen, left, printed, frames = random.Random(largest), SENT, b"", Frames()
    while left:
        cut = chosen.randint(1, largest)
        printed += frames.feed(left[:cut])
        left = left[cut:]
        assert b"".join(PRINTED).startswith(printed)
    assert printed == b"".join(PRINTED)
    assert frames.complete


def test_frames_are_given_before_they_are_complete():
    """A frame may be long, and its command waits for nothing."""
    frames = Frames()
    assert frames.feed(frame(b"abcdef")[:-2]) == b"abcd"
    assert not frames.complete
    assert frames.feed(b"ef" + frame(b"g")[:3]) == b"ef"
    assert not frames.complete
    assert frames.feed(frame(b"g")[3:]) == b"g"


@pytest.mark.parametrize(
    "sent",
    [frame(b"the engine's own", 3), b"HTTP/1.1 500", b"\1\0\0\1\0\0\0\1a"],
    ids=["error", "text", "padding"],
)
def test_no_frames(sent):
    """What an engine does not send is no output."""
    with pytest.raises(SandboxError, match="no output of a command"):
        Frames().feed(frame(b"fine") + sent)


def test_output_and_status(fake, engine):
    """All of it, with what came in one piece with the headers, and a cut frame."""
    sent = frame(b"first ") + frame(b"second ", 2) + frame(b"third")
    fake.output = [sent[:20], sent[20:31], sent[31:]]
    fake.state = {"Running": False, "ExitCode": 7}
    assert run(engine) == (7, b"first second third")
    ((_, path, body),) = [a for a in fake.asked if a[1].endswith("/exec")]
    assert path == "/v1.41/containers/name/exec"
    assert body["Cmd"] == ["true"]
    assert body["Env"] == ["A=x=y"]
    assert body["WorkingDir"] == "/"
    assert not body["AttachStdin"]


def test_output_is_bounded(fake, engine, monkeypatch):
    """More is read, but not kept."""
    monkeypatch.setattr(container_engine, "_MAX_BYTES", 10)
    fake.output = [b"", *(frame(b"abcd") for _ in range(5))]
    assert run(engine) == (0, b"abcdabcdab")


def test_input(fake, engine):
    """A command that stays reads what it is sent."""
    fake.output = [b"", None, frame(b"got it")]

    async def main():
        channel = await engine.execute("name", ["cat"], {}, stdin=True)
        try:
            await channel.send(b"hello\n")
            return await channel.read(100)
        finally:
            channel.close()

    assert asyncio.run(main()) == b"got it"
    assert fake.typed == b"hello\n"


def test_time_is_up(fake, engine):
    """That is the command's fault."""
    fake.output = [frame(b"x"), None]
    assert run(engine, 0.05) == (None, b"")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"output": [frame(b"abc")[:-1]]}, "in the middle of an output"),
        ({"state": {"Running": True, "ExitCode": None}}, "still runs"),
        ({"failing": {"json": 404}}, "a container has stopped"),
        ({"state": {"Running": False, "ExitCode": 125}}, "a container has stopped"),
        ({"failing": {"exec": 409}}, r"image \(exec is not possible"),
        ({"failing": {"start": 500}}, "start is not possible"),
        ({"late_s": {"exec": 1.0}}, "does not answer"),
        ({"late_s": {"json": 1.0}}, "does not answer"),
    ],
    ids=["cut", "runs", "unknown", "125", "ended", "refused", "late", "late status"],
)
def test_failures_are_no_status(change, why, fake, engine, monkeypatch):
    """An error, whatever the command has printed."""
    monkeypatch.setattr(container_engine, "_END_S", 0.1)
    monkeypatch.setattr(engine._client, "timeout", 0.3)
    fake.output = [frame(b"out")]
    for name, value in change.items():
        setattr(fake, name, value)
    with pytest.raises(SandboxError, match=why):
        run(engine)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the SDK's own
def test_engine_dies(tmp_path):
    """An error, and no end of the shell by itself."""
    path = tmp_path / "engine.sock"
    with fake_engine(path) as fake:
        engine = Engine("image", fake.address, DEFAULT_LIMITS)
    path.unlink()
    for call in (engine.start("a"), engine.remove("a"), engine.differences("a")):
        with pytest.raises(SandboxError, match="does not answer"):
            asyncio.run(call)
    gc.collect()


def test_container_is_bounded(fake, engine):
    """No network, and explicit limits."""
    asyncio.run(engine.start("name"))
    ((_, _, body),) = [a for a in fake.asked if a[1].endswith("/create")]
    assert (body["Entrypoint"], body["Cmd"]) == (["tail"], ["-f", "/dev/null"])
    assert (body["Hostname"], body["Image"]) == ("box", "image")
    settings, limits = body["HostConfig"], DEFAULT_LIMITS
    assert settings["NetworkMode"] == "none"
    assert settings["PidsLimit"] == limits.processes
    assert settings["Memory"] == limits.memory_bytes
    assert {u["Name"]: (u["Soft"], u["Hard"]) for u in settings["Ulimits"]} == {
        "nofile": (limits.open_files,) * 2,
        "nproc": (limits.processes,) * 2,
        "fsize": (limits.file_bytes,) * 2,
        "core": (0, 0),
    }


def test_cancelled_start_is_removed(fake):
    """The container that is being made when it is cancelled, too."""
    containers = Containers("image", 1, fake.address)
    fake.late_s = {"create": 0.3}

    async def main():
        async def episode():
            async with containers.open():
                raise AssertionError("it was cancelled before")

        task = asyncio.ensure_future(episode())
        while "POST create" not in fake.calls():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    name = fake.asked[-1][1].split("/")[-1]
    assert name.startswith("cycleqd-")
    last = ["POST create", "POST start", "POST kill", f"DELETE {name}"]
    assert fake.calls()[-4:] == last


def listen(path):
    """A socket at which nobody answers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return f"unix://{path}"


def test_addresses(tmp_path, monkeypatch):
    """The given one, that of the environment, or those of sockets, each once."""
    system, user = tmp_path / "system.sock", tmp_path / "podman/podman.sock"
    link, file = tmp_path / "link.sock", tmp_path / "file.sock"
    monkeypatch.setattr(
        container_address, "SOCKETS", [str(p) for p in (file, system, link)]
    )
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with pytest.raises(BadInputError, match=r"system\.sock.*podman system service"):
        addresses(None, environment)
    file.write_text("")
    link.symlink_to(system)
    found = [listen(system), listen(user)]
    assert addresses(None, environment) == found
    assert addresses(None, {}) == found[:1]
    environment["DOCKER_HOST"] = "tcp://localhost:1"
    assert addresses(None, environment) == ["tcp://localhost:1"]
    assert addresses("unix:///a", environment) == ["unix:///a"]


@pytest.mark.parametrize(
    "address",
    ["podman", "/run/podman.sock", "ssh://host", "unix://a", "tcp://", "http://host:1"],
)
def test_no_address(address):
    """The error says whose it is, and what one looks like."""
    with pytest.raises(BadInputError, match=f"engine is '{address}', expected .*unix:"):
        addresses(address, {})
    with pytest.raises(BadInputError, match=f"DOCKER_HOST is '{address}', expected"):
        addresses(None, {"DOCKER_HOST": address})


def test_first_that_answers(fake, tmp_path, monkeypatch):
    """Sockets whose engine is gone are passed over."""
    dead = tmp_path / "dead.sock"
    listen(dead)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    ours = fake.address.removeprefix("unix://")
    monkeypatch.setattr(container_address, "SOCKETS", [str(dead), ours])
    address, client = connect(None)
    client.close()
    assert address == fake.address
    monkeypatch.setattr(container_address, "SOCKETS", [str(dead)])
    with pytest.raises(
        BadInputError, match=r"no engine answers at .*dead\.sock.*start"
    ):
        connect(None)
    with pytest.raises(
        BadInputError, match=r"no engine answers at tcp://127\.0\.0\.1:1"
    ):
        connect("tcp://127.0.0.1:1")


def test_missing_extra(fake, monkeypatch):
    """The error names it."""
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(BadInputError, match=r"cycleqd-jax\[container\]"):
        connect(fake.address)
