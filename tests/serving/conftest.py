"""A finished run of a small random model, and its endpoint."""

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

import served


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory):
    """The folder of a finished run."""
    import pathlib

    return pathlib.Path("/tmp/serve_dev/run")


@pytest.fixture(scope="session")
def endpoint(toy_run):
    """Its endpoint."""
    with served.serving(toy_run) as running:
        yield running
