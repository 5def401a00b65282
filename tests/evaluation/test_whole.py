"""Experts as trained, and their basis, on a mesh of devices."""

import pathlib

import pytest
from eight_devices import on_eight_devices


@pytest.fixture(scope="module")
def mesh():
    return on_eight_devices(pathlib.Path(__file__).parent / "mesh_experts.py")


def test_trained_experts_are_divided_among_the_devices(mesh):
    assert set(mesh["devices"]) == {8}
    assert len(mesh["shares"]) == 2
    for name, shares in mesh["shares"].items():
        assert all(shares), f"a device holds more than a quarter of {name}"
    assert mesh["trained"] == 0.0


def test_the_basis_is_divided_once(mesh):
    """The engine uses the arrays of the placed basis; individuals are as elsewhere."""
    assert mesh["copied"] == []
    # Only these matrices are whole on the side of their outputs.
    layer = "model.layers.0"
    assert sorted(mesh["whole"]) == [
        f"{layer}.mlp.down_proj.weight",
        f"{layer}.self_attn.o_proj.weight",
    ]
    for residual in ("drop", "keep"):
        assert mesh["materialised"][residual] < 1e-6
