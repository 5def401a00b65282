import shutil
import statistics

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import run_contents

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports.run_data import read_run


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(finished_run, tmp_path / "run")


def edit(path, change):
    table = pq.read_table(path)
    pq.write_table(
        pa.Table.from_pylist([change(dict(r)) for r in table.to_pylist()]), path
    )
    run_contents.seal(path.parents[1])


def refusal(run) -> str:
    with pytest.raises(BadInputError) as caught:
        read_run(run)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


def test_reads_children_in_order(run):
    data = read_run(run)
    assert [child.generation for child in data.children] == list(range(1, 15))
    assert data.children[3].name == "child/4"
    assert data.tasks == ("skill_a", "skill_b", "skill_c")


def test_samples_are_one_solved_and_one_unsolved_per_task(run):
    samples = read_run(run).samples
    assert {s["split"] for s in samples} == {"test"}
    for task in ("skill_a", "skill_b", "skill_c"):
        outcomes = [s["outcome"] for s in samples if s["task"] == task]
        assert sorted(outcomes) == ["solved", "wrong"]


def test_a_folder_that_is_no_run(tmp_path):
    assert "is not a run folder" in refusal(tmp_path)
    assert "is not a run folder" in refusal(tmp_path / "missing")


def rewrite(run, **changes):
    """Changes entries of `state.json`, checksum included."""
    facts = files.read_sealed(run / "state.json") | changes
    files.write_sealed(run / "state.json", facts)


def test_an_unfinished_run_says_what_is_missing(run):
    (run / "state.json").unlink()
    assert "no finished run (state.json is missing)" in refusal(run)


@pytest.mark.parametrize("name", ["archives.parquet", "metrics", "results"])
def test_missing_files(run, name):
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "has not finished" in refusal(run) and name in refusal(run)


def test_a_model_without_test_scores(run):
    (run / "results" / "uniform_merge.parquet").unlink()
    assert "no score of uniform_merge on test of skill_a" in refusal(run)


def test_models_scored_on_different_problems(run):
    path = run / "results" / "aggregated.parquet"
    edit(path, lambda r: r | {"problem": r["problem"].replace("test/3", "test/99")})
    assert "aggregated was scored on other problems of test" in refusal(run)


@pytest.mark.parametrize("score", [2.0, -0.1, float("nan")])
def test_impossible_scores(run, score):
    path = run / "results" / "base.parquet"
    edit(path, lambda r: r | {"score": score})
    assert "base scores" in refusal(run) and "from 0 to 1" in refusal(run)


def test_of_two_evaluations_the_part_named_first_counts(run):
    before = read_run(run).scores["base"]
    later = run / "results" / "zzz.parquet"
    shutil.copy(run / "results" / "base.parquet", later)
    edit(later, lambda r: r | {"score": 1.0 - r["score"]})
    assert read_run(run).scores["base"] == before


def test_own_name_goes_before_the_name_of_selection(run):
    """Under its own name a model is scored as it will be exported."""
    before = read_run(run).scores["scaled_merge"]["optimise"]
    source = run / "results" / "scaled-0.4-optimise.parquet"
    own = run / "results" / "scaled-own.parquet"
    shutil.copy(source, own)
    edit(own, lambda r: r | {"individual": "scaled_merge", "score": 1.0 - r["score"]})
    after = read_run(run).scores["scaled_merge"]["optimise"]
    for task, problems in before.items():
        assert after[task] == {p: 1.0 - score for p, score in problems.items()}


def test_damaged_files(run):
    path = run / "archives.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    assert "archives.parquet is damaged: its checksum" in refusal(run)
    run_contents.seal(run)
    assert "archives.parquet: not readable as Parquet" in refusal(run)
    path = run / "state.json"
    path.write_text(path.read_text().replace("0.4", "0.5"))
    assert "state.json is damaged: its checksum" in refusal(run)
    path.write_text("{")
    assert "state.json is damaged: it is not JSON" in refusal(run)


@pytest.mark.parametrize(
    "name", ["config.yaml", "archives.parquet", "results/base.parquet", "metrics/*"]
)
def test_a_changed_byte_is_noticed_and_named(run, name):
    path = next(run.glob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert f"{path} is damaged: its checksum" in refusal(run)


def test_wrong_columns_and_entries(run):
    path = run / "archives.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["quality"]), path)
    run_contents.seal(run)
    assert "expected a column quality" in refusal(run)
    pq.write_table(table, path)
    run_contents.seal(run)
    rewrite(run, result=None)
    assert "another version (result: Input should be a valid string)" in refusal(run)


def test_times_never_stand_in_the_way(run):
    path = run / "timing.jsonl"
    path.write_text('{"phase": "a", "seconds": 2}\n{"phase": "b", "sec\n3\n\n')
    assert read_run(run).seconds == {"a": 2.0}
    (run / "timing.jsonl").unlink()
    assert read_run(run).seconds == {}


def test_means_of_what_tasks_say_beside_the_score(run):
    """In the made run `plus` is the score itself."""
    data = read_run(run)
    for model in ("base", "scaled_merge", "aggregated"):
        for task, problems in data.scores[model]["test"].items():
            mean = sum(problems.values()) / len(problems)
            assert data.metrics[model]["test"][task] == {"plus": pytest.approx(mean)}
            error = statistics.stdev(problems.values()) / len(problems) ** 0.5
            errors = data.metric_errors[model]["test"][task]
            assert errors == {"plus": pytest.approx(error)}
