"""`.ci/system` says what the system lacks: a Python that runs, is new, or has venv."""

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / ".ci" / "system"
SHIM = 'echo >&2; echo "pyenv: version \\`3.12.1\' is not installed" >&2; exit 1'
OLD = 'case "$*" in -V) echo Python 3.9.2;; *version_info*) exit 1;; esac'
NO_VENV = f"""case "$2" in
  *ensurepip*) exit 1;;
  *base_prefix*) echo {{prefix}} python3.12;;
  *) exec '{sys.executable}' "$@";;
esac"""


@pytest.fixture
def check(tmp_path):
    """Runs the script with a `python3` and an apt that this user may not use."""

    def run(python: str, *arguments: str) -> subprocess.CompletedProcess:
        for name, text in {
            "python3": python,
            "apt-get": "exit 9",
            "sudo": "exit 9",
            "id": "echo 1000",
            "bwrap": "",
        }.items():
            file = tmp_path / name
            file.write_text(f"#!/bin/sh\n{text}\n")
            file.chmod(0o755)
        return subprocess.run(
            [str(SCRIPT), *arguments],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    ("python", "words"),
    [
        (SHIM, "/python3 does not run (pyenv: version `3.12.1' is not installed)"),
        ("exit 3", "/python3 does not run (it says nothing)"),
        (OLD, "python3 is Python 3.9.2, but 3.11 or newer is needed"),
        (NO_VENV.format(prefix="/usr"), "sudo apt-get install -y python3.12-venv"),
        (NO_VENV.format(prefix="/opt/x"), "python3 lacks the modules venv and ensure"),
    ],
)
def test_a_python_that_does_not_do_is_told_from_one_without_venv(check, python, words):
    done = check(python)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_python_in_a_folder_with_a_space_will_do(check, tmp_path):
    folder = tmp_path / "my python"
    folder.mkdir()
    (folder / "python3").symlink_to(sys.executable)
    done = check(SHIM, str(folder / "python3"))
    assert done.returncode == 0, done.stderr
    assert "no python9" in check(SHIM, "python9").stderr


@pytest.mark.parametrize("has_uv", [True, False])
def test_make_installs_by_uv_where_it_is_there(tmp_path, has_uv):
    uv = tmp_path / "uv"
    if has_uv:
        uv.write_text("#!/bin/sh\n")
        uv.chmod(0o755)
    done = subprocess.run(
        ["make", "-n", "setup", f"VENV={tmp_path}/venv", *(() if has_uv else ["UV="])],
        cwd=SCRIPT.parents[1],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if " install " in line]
    assert len(lines) == 3
    command = f'"{uv}" pip install --python {tmp_path}/venv/bin/python '
    pip = f"{tmp_path}/venv/bin/python -m pip install "
    assert all(line.startswith(command if has_uv else pip) for line in lines)
    assert (f'"{uv}" venv --seed' in done.stdout) == has_uv
