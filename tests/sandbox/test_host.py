"""What this machine offers: found, missing, too old, broken, or not permitted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cycleqd_jax
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox import host, permission
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox

ROOT = Path(cycleqd_jax.__file__).parents[1]
APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"


def fake_bwrap(folder: Path, content: str) -> str:
    """A PATH with this file as bwrap before all others."""
    file = folder / "bwrap"
    file.write_text(content)
    file.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def refusing(said: str) -> str:
    """A bwrap that builds no sandbox."""
    return f'#!/bin/sh\necho "{said}" >&2; exit 1'


def refusal(monkeypatch, path: str) -> str:
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(host, "is_root", lambda: False)
    with pytest.raises(BadInputError) as error:
        BubblewrapSandbox(workers=1)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing(tmp_path, monkeypatch):
    text = refusal(monkeypatch, str(tmp_path))
    assert "apt install bubblewrap" in text
    assert "unconfined" not in text


@pytest.mark.parametrize("tool", ["setpriv", "prlimit", "unshare", "nsenter"])
def test_a_tool_is_missing(tmp_path, monkeypatch, tool):
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, path=None: None if name == tool else which(name)
    )
    text = refusal(monkeypatch, fake_bwrap(tmp_path, refusing("no")))
    assert f"the command {tool} was not found" in text
    assert "apt install util-linux" in text


def test_too_old(tmp_path, monkeypatch):
    path = fake_bwrap(tmp_path, refusing("bwrap: Unknown option --disable-userns"))
    text = refusal(monkeypatch, path)
    assert "(bwrap: Unknown option --disable-userns); install bubblewrap 0.8.0" in text


def test_of_another_machine(tmp_path, monkeypatch):
    text = refusal(monkeypatch, fake_bwrap(tmp_path, "\x7fELF" + "\0" * 60))
    assert "Exec format error); install it again" in text


def test_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(permission, "START_S", 0.2)
    text = refusal(monkeypatch, fake_bwrap(tmp_path, "#!/bin/sh\nexec sleep 1000"))
    assert "did not end within 0.2 s" in text


@pytest.mark.parametrize(
    ("said", "switches", "container", "words"),
    [
        (
            "bwrap: setting up uid map: Permission denied",
            {APPARMOR: "1"},
            False,
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            "bwrap: No permissions to create a new namespace",
            {"kernel/unprivileged_userns_clone": "0", APPARMOR: "0"},
            False,
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "bwrap: Creating new namespace failed: No space left on device",
            {"user/max_user_namespaces": "0"},
            False,
            "sysctl -w user.max_user_namespaces",
        ),
        (
            "bwrap: Creating new namespace failed: No space left on device",
            {"user/max_user_namespaces": "0"},
            True,
            "max_user_namespaces=10000 on the machine that runs this container",
        ),
        (
            "bwrap: Creating new namespace failed: Operation not permitted",
            {},
            True,
            "the container's seccomp or AppArmor profile forbids it",
        ),
        (
            "bwrap: Creating new namespace failed: Operation not permitted",
            {},
            False,
            "allow unprivileged user namespaces",
        ),
        (
            "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
            {},
            True,
            "systempaths=unconfined (Docker)",
        ),
        ("", {}, True, "(exit status 1); the container's"),
    ],
)
def test_not_permitted(tmp_path, monkeypatch, said, switches, container, words):
    folder = tmp_path / "sys"
    for name, value in switches.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(value + "\n")
    known = {str(folder / name): permission.SWITCHES[name] for name in switches}
    monkeypatch.setattr(permission, "SWITCHES", known)
    signs = (str(tmp_path),) if container else ()
    monkeypatch.setattr(permission, "_CONTAINER_SIGNS", signs)
    text = refusal(monkeypatch, fake_bwrap(tmp_path, refusing(said)))
    assert words in text
    assert said in text
    assert "is installed but could not create a sandbox" in text
    assert "apt install" not in text
    own_machine = bool(switches) and not container
    assert ("sandbox.kind=none runs programs" in text) == (not own_machine)


def test_not_permitted_by_the_kernel():
    # In a user namespace of our own that allows no further ones.
    script = """if True:
        from pathlib import Path
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        from cycleqd_jax.errors import BadInputError
        from cycleqd_jax.sandbox import host
        from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
        host.is_root = lambda: False
        try:
            BubblewrapSandbox(1)
        except BadInputError as error:
            print(error)
    """
    done = subprocess.run(
        [*"unshare --user --map-root-user".split(), sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "sysctl -w user.max_user_namespaces" in done.stdout, done


def test_root_that_may_not_change_its_user():
    said = "setpriv: setresuid failed: Operation not permitted"
    assert "start as an ordinary user" in permission.remedy(said, 62_000)


def test_python_elsewhere(tmp_path):
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "bin").mkdir()
    python, path, mounts = host._system(tmp_path)
    prefix = os.path.realpath(sys.base_prefix)
    assert python == f"{prefix}/bin/python3"
    assert path.startswith(f"{prefix}/bin:")
    text = " ".join(mounts)
    assert f"--ro-bind {prefix} {prefix}" in text
    assert "--symlink usr/lib /lib" in text
    assert f"--ro-bind {tmp_path}/bin /bin" in text


@pytest.mark.parametrize(
    ("release", "as_root", "expected"),
    [("6.1.0-30-amd64", False, 1), ("5.14.0", True, 1), ("5.10.1", True, 2)],
)
def test_own_processes(monkeypatch, release, as_root, expected):
    monkeypatch.setattr("platform.release", lambda: release)
    assert host._own_processes(as_root) == expected


def test_old_kernel_as_an_ordinary_user(monkeypatch):
    monkeypatch.setattr("platform.release", lambda: "5.10.0")
    with pytest.raises(BadInputError, match=r"5\.14 or later"):
        host._own_processes(as_root=False)
