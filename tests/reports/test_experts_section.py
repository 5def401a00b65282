"""The section on what the basis makes of the experts."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import run_contents

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports import build
from cycleqd_jax.reports.run_data import read_run
from cycleqd_jax.reports.tables import make_report

FACTS = {
    "similarity": [{"first": "skill_a", "second": "skill_b", "cosine": 0.875}],
    "energy_kept": {"skill_b": 0.5},
    "least_kept": {"skill_b": {"matrix": "layers.0.up", "kept": 0.25}},
    "residuals": False,
}


def test_without_facts_the_basis_is_exact(finished_run):
    report = make_report(read_run(finished_run))
    assert report["basis"] == {
        "conditioning": "none",
        "gram_tokens": 0,
        "similarity": [],
        "changed": {},
    }


def test_changed_experts_are_reported_with_both_scores(fabricate):
    run = fabricate(2, 4)
    (run / "basis.json").write_text(json.dumps(FACTS))
    expert = pq.read_table(run / "results" / "expert-skill_b-optimise.parquet")
    # As trained it solved everything.
    rows = [
        row
        | {"individual": "trained_expert/skill_b", "score": 1.0, "outcome": "solved"}
        for row in expert.to_pylist()
    ]
    table = pa.Table.from_pylist(rows, schema=expert.schema)
    pq.write_table(table, run / "results" / "trained-experts-optimise.parquet")
    run_contents.seal(run)
    report = build.write_report(run)["basis"]
    assert report["similarity"] == FACTS["similarity"]
    changed = report["changed"]["skill_b"]
    assert changed["energy_kept"] == 0.5
    assert changed["least_kept"] == {"matrix": "layers.0.up", "kept": 0.25}
    assert changed["as_trained"] == {"skill_a": 1.0, "skill_b": 1.0, "mean": 1.0}
    assert 0 < changed["as_genome"]["mean"] < 1
    page = (run / "report" / "report.html").read_text()
    assert "layers.0.up" in page and "0.875" in page


@pytest.mark.parametrize("text", ["{", "[]", '{"similarity": 3}', "\0"])
def test_damaged_facts_are_one_sentence(fabricate, text):
    run = fabricate(2, 1)
    (run / "basis.json").write_text(text)
    run_contents.seal(run)
    with pytest.raises(BadInputError, match=r"basis\.json: not the facts on a basis"):
        read_run(run)
