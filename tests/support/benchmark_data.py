"""Where the data of the public benchmarks are, for tests that need them."""

import os
import pathlib

import pytest

VARIABLE = "CYCLEQD_BENCHMARK_DATA"
needs_data = pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"{VARIABLE} is not set"
)


def data_folder() -> pathlib.Path:
    """The folder that the environment names."""
    return pathlib.Path(os.environ[VARIABLE])
