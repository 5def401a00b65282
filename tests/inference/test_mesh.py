"""The engine on eight simulated devices answers as on one."""

import json
import pathlib

import pytest
from eight_devices import on_eight_devices

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def meshes():
    return on_eight_devices(HERE / "mesh_driver.py")


@pytest.mark.parametrize("mesh", ["8x1", "2x4", "1x4"])
def test_eight_devices_give_the_tokens_of_one(meshes, mesh):
    one, many = meshes["1x1"], meshes[mesh]
    assert len(one) == 2
    for name, (*want, scored) in one.items():
        *got, rescored = many[name]
        assert got == want, name
        assert rescored == pytest.approx(scored, abs=2e-3)


@pytest.mark.parametrize("mesh", ["8x1", "2x4", "1x4"])
def test_no_weights_are_gathered(meshes, mesh):
    """What devices tell each other is smaller than any matrix of a layer."""
    tensor = int(mesh[-1])
    assert meshes[mesh]["weight"] == 160 * 32 * 4 // tensor
    assert meshes[mesh]["gather"] < 32 * 32 // 2


def test_sizes_that_cannot_be_divided_are_refused_in_one_sentence(meshes):
    heads, slots, devices = meshes["refused"]
    assert "tensor is 8" in heads and "heads is 4" in heads and "1, 2, 4" in heads
    assert "data is 8" in slots and "engine.slots is 12" in slots
    assert "needs 16 devices, but there are 8" in devices


@pytest.mark.slow
def test_individuals_are_evaluated_alike_on_a_mesh(toy_settings, tmp_path):
    settings = toy_settings | {"run_dir": str(tmp_path)}
    got = on_eight_devices(HERE / "mesh_evaluate.py", json.dumps(settings))
    want = got.pop("1 factored")
    assert len(want) >= 8 and len({tuple(tokens) for _, _, tokens, _ in want}) > 2
    for name, episodes in got.items():
        assert episodes == want, name
