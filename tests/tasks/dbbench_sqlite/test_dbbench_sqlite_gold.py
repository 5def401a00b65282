"""The benchmark's own statements on the embedded database."""

import pathlib
import sys

import benchmark_data
import mariadb
import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2] / "proofs"))
import compare_db_backends as compare

FILE = "dbbench/cycleqd_standard_dev.jsonl"
# Labels that do not give their own hash on any server in strict mode: 225 was changed
# after its hash was made, and the condition of the others meets text that is no number.
WITHOUT_THEIR_HASH = {"dbbench/225", "dbbench/278", "dbbench/295"}


@benchmark_data.needs_data
@pytest.mark.parametrize("flavour", ["mysql8", "mariadb"])
def test_labels_give_the_benchmarks_hashes(flavour):
    path = benchmark_data.data_folder() / FILE
    problems = compare.read_problems(path)
    answers = compare.embedded(compare.gold_cases(path), flavour)
    modifying = [p for p in problems if p.data["case"].modifies]
    assert len(modifying) == 240
    wrong = {
        problem.id
        for problem, answer in zip(problems, answers, strict=True)
        if problem in modifying and answer.state != problem.data["case"].target
    }
    assert wrong == WITHOUT_THEIR_HASH


@pytest.mark.slow
@benchmark_data.needs_data
def test_gold_statements_agree_with_a_server(tmp_path):
    cases = compare.gold_cases(benchmark_data.data_folder() / FILE)
    with mariadb.running(tmp_path) as server:
        expected = compare.on_server(server.url, cases)
    assert compare.disagreements(cases, expected, compare.embedded(cases)) == []
