"""A finished run of a small random model, and its endpoint."""

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

import served
import toy_world

from experiments import agent_skills


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("serving")
    settings = toy_world.make_world(folder) | {"run_dir": str(folder / "run")}
    config = toy_world.write_config(folder / "toy.yaml", settings)
    assert agent_skills.main(["--config", str(config)]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def endpoint(toy_run):
    """Its endpoint."""
    with served.serving(toy_run) as running:
        yield running
