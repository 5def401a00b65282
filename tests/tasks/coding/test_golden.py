"""The recorded cases, with both sanitisers and both versions' rules."""

import json
import os

import pytest

from cycleqd_jax.tasks.base import TaskSettings
from cycleqd_jax.tasks.coding.task import Mbpp
from tests.support.benchmark_data import VARIABLE, data_folder, needs_data

pytestmark = needs_data

# field of the case -> (sanitiser, rules, data files with the same verdicts)
FILES = {"v0.1.0": "mbpp_plus_v0.1.0.jsonl", "v0.2.0": "mbpp_plus.jsonl"}
KINDS = {
    "expected": ("reference", "evalplus", ("v0.1.0", "v0.2.0")),
    "expected_reference": ("reference", "reference", ("v0.1.0",)),
    "expected_evalplus_sanitizer": ("evalplus", "evalplus", ("v0.1.0", "v0.2.0")),
}
SETUPS = [
    (field, version)
    for field, (_, _, versions) in KINDS.items()
    for version in versions
]


def cases():
    if not os.environ.get(VARIABLE):
        return [pytest.param(None, id="no data")]
    lines = (data_folder() / "golden" / "mbpp.jsonl").read_text().splitlines()
    return [pytest.param(row, id=row["id"]) for row in map(json.loads, lines)]


@pytest.fixture(scope="module")
def verdicts(answers):
    """(field, version) -> id -> result of every case; equal programs run once."""
    rows = [param.values[0] for param in cases()]
    tasks = []
    for field, version in SETUPS:
        sanitizer, rules, _ = KINDS[field]
        data = str(data_folder() / FILES[version])
        options = {"data": data, "sanitizer": sanitizer, "rules": rules}
        task = Mbpp(TaskSettings(options=options))
        played = [task.transcript(row) for row in rows]
        tasks.append((task, [(p.id, replies) for p, replies in played]))
    return {
        setup: {row["id"]: one for row, one in zip(rows, results, strict=True)}
        for setup, results in zip(SETUPS, answers(tasks, memoise=True), strict=True)
    }


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize(("field", "version"), SETUPS)
def test_the_recorded_verdict(verdicts, case, field, version):
    result = verdicts[field, version][case["id"]]
    got = {name: bool(value) for name, value in result.metrics.items()}
    assert got == case[field], result.explanation
    assert result.turns == 1
    assert result.score == case[field]["base"]
    if KINDS[field][0] == "reference":
        assert result.prediction == case["sanitized"]
