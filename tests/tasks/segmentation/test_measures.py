"""The measures against PySODMetrics: recorded values, and itself where it is here."""

import json
import pathlib

import measure_cases
import measure_golden
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.segmentation.measures import (
    MEASURES,
    jaccard_index,
    structure_measure,
)

CASES = measure_cases.cases()
GOLDEN = json.loads((pathlib.Path(__file__).parent / "measures.json").read_text())


def _ours(pair):
    return {name: measure(*pair) for name, measure in MEASURES.items()}


def test_recorded_values():
    """282 random and degenerate pairs, soft, uint8 and binary, to 1e-6."""
    assert GOLDEN.keys() == CASES.keys()
    for name, pair in CASES.items():
        ours, known = _ours(pair), GOLDEN[name]
        if known["structure"] is None:
            known = known | {"structure": ours["structure"]}
        assert ours == pytest.approx(known, abs=1e-6), name


def test_an_empty_rectangle_has_no_weight():
    """PySODMetrics has NaN where the centroid is in the last row or column."""
    undefined = [name for name, v in GOLDEN.items() if v["structure"] is None]
    assert all("corner" in name or "row" in name for name in undefined)
    assert len(undefined) == 80
    for name in undefined:
        found = structure_measure(*CASES[name])
        assert 0 <= found <= 1
        if name.endswith("same"):
            assert found == pytest.approx(1, abs=1e-6)


def test_the_library_itself():
    pytest.importorskip("py_sod_metrics")
    draw = np.random.RandomState(1)
    for _ in range(50):
        shape = tuple(draw.randint(2, 40, 2))
        mask, soft = draw.random_sample(shape) < draw.rand(), draw.random_sample(shape)
        for pair in ((soft, mask), ((soft * 255).astype(np.uint8), mask)):
            known = measure_golden.oracle(*pair)
            if not np.isnan(known["structure"]):
                assert _ours(pair) == pytest.approx(known, abs=1e-6)


def test_the_recorded_values_can_tell():
    """They differ between cases: a constant measure would not pass."""
    assert len({round(v["structure"] or 0, 6) for v in GOLDEN.values()}) > 100
    assert len({round(v["jaccard"], 6) for v in GOLDEN.values()}) > 30


def test_bool_and_uint8_masks_are_the_same_masks():
    mask = np.random.RandomState(2).random_sample((9, 8)) < 0.4
    found = np.roll(mask, 1)
    for measure in MEASURES.values():
        assert measure(found, mask) == measure(found.astype(float), mask)
        assert measure(found, mask) == measure(found, mask.astype(np.uint8) * 255)


def test_perfect_masks():
    mask = np.eye(6, dtype=bool)
    assert structure_measure(mask, mask) == pytest.approx(1, abs=1e-9)
    assert jaccard_index(mask, mask) == 1


@pytest.mark.parametrize("measure", MEASURES.values())
@pytest.mark.parametrize(
    ("prediction", "mask", "words"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), bool), r"\[2, 3\] and \[3, 2\]"),
        (np.zeros((0, 3)), np.zeros((0, 3), bool), r"\[0, 3\]"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "bool or uint8 but got float64"),
        (np.zeros((2, 2), int), np.zeros((2, 2), bool), "float but got int64"),
        (np.full((2, 2), 3.5), np.zeros((2, 2), bool), "3.5; apply a sigmoid"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), bool), "nan"),
    ],
)
def test_bad_masks(measure, prediction, mask, words):
    with pytest.raises(BadInputError, match=words):
        measure(prediction, mask)
