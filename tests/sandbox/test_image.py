"""Files of images, from an engine that only pretends; real ones: test_images."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import time

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox import image
from cycleqd_jax.sandbox.host import is_root
from cycleqd_jax.sandbox.image import image_folder
from tests.sandbox import fake_engine


@pytest.fixture
def fake(tmp_path):
    """An engine that works."""
    return fake_engine.make(tmp_path / "bin")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the files go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/cycleqd_jax/images"


def test_files_of_an_image(fake, cache):
    """All but devices, with permissions and owners, for this user alone."""
    root = fake.folder / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/su").touch()
    (root / "bin").symlink_to("usr/bin")
    (root / "dev/null").touch()
    if is_root():
        os.chown(root / "usr/bin/su", 33, 4)
    (root / "usr/bin/su").chmod(0o4755)
    (root / "locked").mkdir(mode=0o500)
    found, place = image_folder("image", fake.command)
    assert found == fake_engine.ID
    assert sorted(os.listdir(place)) == ["bin", "dev", "etc", "locked", "usr"]
    assert os.listdir(place / "dev") == []
    assert (place / "etc/who").read_text() == "the image\n"
    assert os.readlink(place / "bin") == "usr/bin"
    status, expected = ((p / "usr/bin/su").stat() for p in (place, root))
    assert (status.st_mode, status.st_uid, status.st_gid) == (
        expected.st_mode,
        expected.st_uid,
        expected.st_gid,
    )
    assert (place / "locked").stat().st_mode & 0o777 == 0o500
    assert cache.stat().st_mode & 0o777 == 0o700
    assert fake.containers() == []


def test_kept(fake, cache):
    """The engine hands them out once, and again when the name is another image's."""
    _, place = image_folder("image", fake.command)
    fake.fails("create")
    assert image_folder("image", f"{fake.command} --host tcp://x")[1] == place
    assert fake.calls()[-1].startswith("--host tcp://x image inspect")
    fake.works("create")
    (fake.folder / "id").write_text("0" * 64)
    assert image_folder("image", fake.command)[1] != place
    assert len(os.listdir(cache)) == 2


@pytest.mark.parametrize(
    ("verb", "why"),
    [
        ("image", r"no engine has the image 'image': .*\(Error: it is broken\); pull"),
        ("create", r"could not be written to .*\(Error: it is broken\)"),
        ("export", r"could not be written to .*\(Error: it is broken\)"),
    ],
)
def test_engine_that_fails(fake, cache, verb, why):
    """One sentence with what it said; nothing is left of the try."""
    fake.fails(verb)
    with pytest.raises(BadInputError, match=why) as caught:
        image_folder("image", fake.command)
    assert "\n" not in str(caught.value)
    assert not cache.exists() or os.listdir(cache) == []
    assert fake.containers() == []
    fake.works(verb)
    assert image_folder("image", fake.command)[1].is_dir()


@pytest.mark.parametrize("verb", ["image", "create", "export"])
def test_engine_that_stalls(fake, cache, verb, monkeypatch):
    """It is given up on before anything is judged, and nothing is left."""
    fake.fails(verb, "", late_s=3600)
    monkeypatch.setattr(image, "ANSWER_S", 0.3)
    monkeypatch.setattr(image, "EXPORT_S", 0.3)
    with pytest.raises(BadInputError, match=r"timed out after|no answer within 0\.3"):
        image_folder("image", fake.command)
    assert not cache.exists() or os.listdir(cache) == []
    assert fake.containers() == []


def test_damaged_export(fake, cache):
    """No half of an image is ever used."""
    (fake.folder / "root/large").write_bytes(bytes(10**6))
    cut = fake.folder.parent / "cut"
    cut.write_text(f'#!/bin/sh\n{fake.command} "$@" | head -c 50000\n')
    cut.chmod(0o755)
    with pytest.raises(BadInputError, match="could not be written"):
        image_folder("image", str(cut))
    assert os.listdir(cache) == []


def test_two_runs_at_once(fake, cache):
    """Both get the files, and there is one folder."""
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        tries = [threads.submit(image_folder, "image", fake.command) for _ in range(4)]
        places = {done.result()[1] for done in tries}
    assert [path.name for path in places] == os.listdir(cache)
    assert fake.containers() == []


def test_which_engine(fake, tmp_path, cache, monkeypatch):
    """The given one, or the first of Podman and Docker that has the image."""
    docker = fake_engine.make(tmp_path / "other", "docker")
    system = "/usr/bin:/bin"
    monkeypatch.setenv("PATH", f"{fake.folder}:{docker.folder}:{system}")
    fake.fails("image", "no such image")
    image_folder("image", None)
    assert [call.split()[0] for call in docker.calls()] == [
        "image",
        "create",
        "export",
        "rm",
    ]
    monkeypatch.setenv("PATH", str(fake.folder))
    with pytest.raises(
        BadInputError, match=r"podman \(.*such.*, docker \(not on PATH\)"
    ):
        image_folder("image", None)
    with pytest.raises(BadInputError, match="like podman, or docker --host unix:///a"):
        image_folder("image", "unix:///a")
    with pytest.raises(BadInputError, match="expected a command, like podman"):
        image_folder("image", "podman 'x")


_RUN = """
import sys
from cycleqd_jax.sandbox.image import image_folder
image_folder("image", sys.argv[1])
"""


@pytest.mark.parametrize("verb", ["create", "export"])
def test_killed_run_leaves_nothing(fake, cache, verb):
    """No container and no half of an image: the export goes on to its end."""
    gate = fake.folder / "gate"
    os.mkfifo(gate)  # the engine waits until we read what it says
    fake.fails(verb, "")
    program = (fake.folder / "podman").read_text()
    (fake.folder / "podman").write_text(
        program.replace('sleep "$late"', f"echo here >{gate}; echo now >{gate}")
    )
    run = subprocess.Popen([sys.executable, "-c", _RUN, fake.command])
    with gate.open() as said:
        assert said.readline() == "here\n"
        run.send_signal(signal.SIGKILL)
        run.wait()
        said.read()
    until = time.monotonic() + 60
    while not any("rm --force" in call for call in fake.calls()) or fake.containers():
        assert time.monotonic() < until
        time.sleep(0.05)
    (made,) = os.listdir(cache)
    assert "." not in made
