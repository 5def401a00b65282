"""The wheel has every file that commands need, and they find it without a clone."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from cycleqd_jax.files import shipped
from experiments import agent_skills

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("cycleqd_jax", "experiments")
BESIDE = ("LICENSE", "README.md", "pyproject.toml", "requirements.txt", "setup.cfg")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made of a copy: setuptools leaves files where it builds."""
    copy = tmp_path_factory.mktemp("clone")
    for name in PACKAGES:
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    for name in BESIDE:
        shutil.copy(ROOT / name, copy)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run(
        [sys.executable, "-c", build], cwd=copy, check=True, capture_output=True
    )
    [path] = (copy / "dist").glob("*.whl")
    return path


def test_the_wheel_has_every_file_of_both_packages(wheel):
    tree = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as opened:
        packed = {n for n in opened.namelist() if n.partition("/")[0] in PACKAGES}
    assert packed == tree
    for name in (
        "cycleqd_jax/reports/web/page.html",
        "experiments/configs/presets/best.yaml",
        "experiments/experts/pocket_db/adapter_model.safetensors",
        "experiments/experts/segmentation/base/model.safetensors",
    ):
        assert name in packed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "segmentation_four"])
def test_a_shipped_config_is_checked_from_an_empty_folder(wheel, tmp_path, name):
    place, empty = tmp_path / "installed", tmp_path / "empty"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(place)
    empty.mkdir()
    config = f"experiments/configs/{name}.yaml"
    words = ["-m", "experiments.agent_skills", "--config", config, "--dry-run"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=empty,
        env={"PYTHONPATH": str(place), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"runs/{name}" in done.stdout
    assert not any(empty.iterdir())


def test_what_is_here_wins_over_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "experiments/experts/pocket_db"
    assert shipped.find(name) == ROOT / name
    (tmp_path / name).mkdir(parents=True)
    assert shipped.find(name) == pathlib.Path(name)
    for other in ("experiments/no_such", "experts/pocket_db", str(tmp_path / "x")):
        assert shipped.find(other) == pathlib.Path(other)


def test_a_config_that_is_not_shipped_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = "experiments/configs/quikstart.yaml"
    assert agent_skills.main(["--config", path]) == 2
    assert f"{path}: there is no such config file." in capsys.readouterr().err
