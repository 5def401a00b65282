"""A comparison in small through the command line, and what it refuses."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
import run_contents
import toy_world
import yaml

from cycleqd_jax import files
from cycleqd_jax.config import load_config
from cycleqd_jax.runs import reading
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.study.settings import CompareConfig, open_study
from cycleqd_jax.study.sharing import shared_with
from experiments import agent_skills, compare

TESTS = pathlib.Path(__file__).parents[1]
# Wall times, and files about the machine or whose lock it was.
UNPROMISED = ("times.json", "curves_seconds.png", "lock")
METHODS = {
    "cycleqd": {},
    "no_mutation": {"qd": {"mutation": "none"}},
    "random": {"search": "random"},
    "cma_es": {"search": "cma_es", "qd.children_per_batch": 3},
}


@pytest.fixture(scope="module")
def world(toy_settings, tmp_path_factory):
    """A folder with a base config; returns a writer of comparison configs."""
    folder = tmp_path_factory.mktemp("compare")
    base = toy_settings | {"qd": {"num_generations": 3, "children_per_batch": 3}}
    toy_world.write_config(folder / "base.yaml", base)

    def write(name="study.yaml", **changes):
        settings = {
            "base": str(folder / "base.yaml"),
            "seeds": [0, 1],
            "methods": {name: METHODS[name] for name in ("cycleqd", "random")},
            "folder": str(folder / "study"),
            "resamples": 200,
        }
        return str(toy_world.write_config(folder / name, settings | changes))

    return write


@pytest.fixture(scope="module")
def adapter(toy_settings):
    return next(iter(toy_settings["experts"].values()))


@pytest.fixture(scope="module")
def finished(world, adapter):
    """The folder of a finished comparison, with every kind of method."""
    methods = {
        "cycleqd": {},
        "random": METHODS["random"],
        "sum": {"search": "merge", "qd.num_generations": 2},
        "trained": {"adapter": adapter, "tokens": 1000},
        "scaled": {"model": "scaled_merge"},
        "experts": {"model": "own_experts", "of": "random"},
    }
    config = world("all.yaml", methods=methods, population=2)
    assert compare.main(["--config", config]) == 0
    return pathlib.Path(config), pathlib.Path(config).parent / "study"


def read(folder):
    return json.loads((folder / "summary" / "summary.json").read_text())


def test_the_summary_has_every_method(finished):
    _, folder = finished
    summary = read(folder)
    assert summary["seeds"] == [0, 1] and summary["reference"] == "cycleqd"
    methods = summary["methods"]
    assert list(methods) == sorted(
        ["cycleqd", "random", "sum", "trained", "scaled", "experts"]
    )
    for name, entry in methods.items():
        low, high = entry["interval"]
        assert 0 <= low <= entry["mean"] <= high <= 1
        means = [entry["tasks"][task]["mean"] for task in summary["tasks"]]
        assert entry["mean"] == pytest.approx(sum(means) / 3)
        own = methods["cycleqd"]["mean"]
        assert entry["difference"] == pytest.approx(entry["mean"] - own)
        assert 0 <= entry["p_value"] <= 1 and set(entry["seeds"]) == {"0", "1"}
        searched = name in ("cycleqd", "random", "sum")
        assert (entry["hypervolume"] is not None) == searched
        assert (entry["coverage"] is not None) == searched
    assert methods["cycleqd"]["p_value"] == 1 and methods["trained"]["tokens"] == 1000
    assert methods["cycleqd"]["tokens"] > methods["scaled"]["tokens"] > 0


def test_scores_are_those_of_the_run_folders(finished):
    _, folder = finished
    summary = read(folder)
    for name, model in [("cycleqd", None), ("scaled", "scaled_merge")]:
        means = []
        for seed in (0, 1):
            path = folder / "cycleqd" / f"seed-{seed}" / "report" / "report.json"
            report = json.loads(path.read_text())
            means.append(report["models"][model or report["result"]]["test"]["mean"])
            own = summary["methods"][name]["seeds"][str(seed)]["mean"]
            assert own == pytest.approx(means[-1])
        assert summary["methods"][name]["mean"] == pytest.approx(sum(means) / 2)


def test_every_expert_plays_its_own_task(finished):
    _, folder = finished
    found = read(folder)["methods"]["experts"]
    run = open_run(folder / "random" / "seed-0")
    names = [f"expert/{task}" for task in run.tasks]
    scores = reading.read_scores(run.path, names)
    for task, name in zip(run.tasks, names, strict=True):
        own = list(scores[name]["test"][task].values())
        mean = found["tasks"][task]["mean"]
        assert mean == pytest.approx(sum(own) / len(own))
    assert found["tokens"] == 0


def test_curves_grow_with_tokens_up_to_those_of_the_search(finished):
    _, folder = finished
    for entry in read(folder)["methods"].values():
        for seed in entry["seeds"].values():
            curve = seed["curve"]
            assert [p["tokens"] for p in curve] == sorted(p["tokens"] for p in curve)
            assert [p["best"] for p in curve] == sorted(p["best"] for p in curve)
            if curve:
                assert curve[-1]["tokens"] <= seed["tokens"]
                assert curve[-1]["children"] == entry["children"]


def test_a_run_that_shares_parts_is_as_it_would_be_alone(finished, toy_settings):
    _, folder = finished
    shared = folder / "random" / "seed-1"
    alone = folder.parent / "alone"
    settings = yaml.safe_load((shared / "config.yaml").read_text())
    config = toy_world.write_config(
        folder.parent / "alone.yaml", settings | {"run_dir": str(alone)}
    )
    assert agent_skills.main(["--config", str(config)]) == 0
    for kind in ("results", "costs", "metrics"):
        names = {path.name for path in (alone / kind).iterdir()}
        own = {n for n in names if "diverse" not in n and "sample" not in n}
        for name in own - {"SHA256SUMS"}:
            want = (alone / kind / name).read_bytes()
            assert (shared / kind / name).read_bytes() == want, name
    donor = folder / "cycleqd" / "seed-0" / "times" / "baselines-test.parquet"
    copy = shared / "times" / "baselines-test.parquet"
    assert copy.read_bytes() == donor.read_bytes()  # it was not evaluated again
    assert reading.read_seconds(shared)["experts"] > 0


def test_runs_that_are_not_made_here_share_nothing(finished):
    study = open_study(load_config(finished[0], [], CompareConfig), "all")
    here = [("random", 1), ("cycleqd", 1)]
    assert shared_with(study, "random", 1) == ("cycleqd", 0)
    assert shared_with(study, "random", 1, here) is None
    assert shared_with(study, "cycleqd", 1, here) == ("random", 1)


def test_runs_of_another_basis_share_nothing(world, tmp_path):
    methods = {"cycleqd": {}, "rank": {"basis.rank": 1}, "other": {"qd.bins": 7}}
    config = world("basis.yaml", methods=methods, seeds=[0, 1])
    study = open_study(load_config(config, [], CompareConfig), "basis")
    donors = {(n, s): shared_with(study, n, s) for n, s in study.cells()}
    assert donors == {
        ("cycleqd", 0): None,
        ("rank", 0): None,
        ("other", 0): ("cycleqd", 0),
        ("cycleqd", 1): ("cycleqd", 0),
        ("rank", 1): ("rank", 0),
        ("other", 1): ("cycleqd", 0),
    }


def test_a_closed_form_runs_with_one_seed_but_dare_with_all(finished, world):
    _, folder = finished
    assert [p.name for p in (folder / "sum").iterdir()] == ["seed-0"]
    entry = read(folder)["methods"]["sum"]
    assert entry["seeds"]["0"] == entry["seeds"]["1"]
    dare = {"search": "merge", "search_settings.method": "dare"}
    config = world("dare.yaml", methods={"cycleqd": {}, "dare": dare})
    study = open_study(load_config(config, [], CompareConfig), "dare")
    assert ("dare", 1) in study.cells()


def test_tables_and_figures_are_there(finished):
    _, folder = finished
    text = (folder / "summary" / "table.md").read_text()
    for word in ("| random |", "p (Holm)", "| method | toy_a | toy_b | toy_c | mean |"):
        assert word in text
    assert "coverage at 2" in text
    for name in ("curves_tokens.png", "curves_seconds.png"):
        assert (folder / "summary" / name).read_bytes().startswith(b"\x89PNG")
    times = json.loads((folder / "summary" / "times.json").read_text())
    assert times["random"]["seconds"] > 0


def test_a_published_result_has_its_numbers_and_where_they_are_from(finished, tmp_path):
    config, folder = finished
    assert compare.main(["--config", str(config), "--publish", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        "study.json", "study.md", "study.png"
    }  # fmt: skip
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["seeds"] == [0, 1] and found["versions"]["jax"] and found["machine"]
    assert found["config"]["methods"]["random"] == METHODS["random"]
    for name, entry in read(folder)["methods"].items():
        own = found["methods"][name]
        for key in ("mean", "difference", "p_value"):
            assert own[key] == pytest.approx(entry[key], abs=1e-4)
        assert own["interval"] == pytest.approx(entry["interval"], abs=1e-4)
        assert own["tokens"] == pytest.approx(entry["tokens"])
        assert own["seconds"] >= 0 and set(own["seeds"]) == {"0", "1"}
    assert (tmp_path / "study.md").read_text().startswith("# Comparison")


def test_a_finished_comparison_is_not_run_again(finished, capsys):
    config, folder = finished
    before = contents(folder)
    timing = (folder / "random" / "seed-1" / "timing.jsonl").read_bytes()
    assert compare.main(["--config", str(config)]) == 0
    assert "difference" in capsys.readouterr().out
    assert contents(folder) == before
    assert (folder / "random" / "seed-1" / "timing.jsonl").read_bytes() == timing


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [0, 2]}, "other seeds: seeds was [0, 1], now is [0, 2]"),
        (
            {"methods": {"cycleqd": {}}},
            "other methods: they were of cycleqd, experts, random",
        ),
        ({"settings": {"problems.test": 5}}, "methods.cycleqd.problems.test was 4"),
        ({"settings": {"problems.seed": 5}}, "methods.cycleqd.problems.seed was 0"),
    ],
)
def test_it_is_not_resumed_with_other_methods_seeds_or_problems(
    finished, world, adapter, capsys, changes, words
):
    settings = yaml.safe_load(finished[0].read_text()) | changes
    config = world("other.yaml", **settings)
    assert compare.main(["--config", config]) == 2
    assert words in one_sentence(capsys)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference": "cyc"}, "reference is 'cyc'"),
        ({"seeds": [1, 1]}, "1 is there twice"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml: there is no such config file"),
        ({"methods": {"cycleqd": {}, "x": {"search": "nsga3"}}}, "methods.x: search"),
        (
            {"methods": {"cycleqd": {}, "x": {"qd.mutatoin": 1}}},
            "did you mean mutation",
        ),
        ({"methods": {"cycleqd": {}, "x": {"seed": 4}}}, "methods.x: sets seed"),
        (
            {"methods": {"cycleqd": {}, "x": {"evaluator": "ray"}}},
            "methods.x: evaluator is ray",
        ),
        (
            {"methods": {"cycleqd": {}, "x": {"model": "best"}}},
            "model 'best' is unknown",
        ),
        (
            {"methods": {"cycleqd": {}, "x": {"model": "base", "of": "x"}}},
            "methods.x: of is 'x'; expected a method with a search: cycleqd",
        ),
        (
            {
                "settings": {"basis.conditioning": "data_free"},
                "methods": {"cycleqd": {}, "x": {"model": "own_experts"}},
            },
            "methods.x: the runs of cycleqd have conditioned experts",
        ),
        (
            {"methods": {"cycleqd": {}, "x": {"adapter": "nowhere"}}},
            "methods.x: expert 'nowhere': no such folder",
        ),
        (
            {"methods": {"cycleqd": {}, "x": {"experts.toy_task:ToyB": "nowhere"}}},
            "methods.x: expert 'nowhere': no such folder",
        ),
        (
            {"methods": {"cycleqd": {}, "x": {"problems": {"seed": 9, "test": 3}}}},
            "methods.x: its test problems are others than those of cycleqd",
        ),
        ({"settings": {"problems.test": 1}}, "has 1 test problems"),
        (
            {"methods": {"cycleqd": {}, "x": {"preset": "nowhere.yaml"}}},
            "nowhere.yaml: there is no such config file",
        ),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_computed(
    world, tmp_path, capsys, changes, words
):
    config = world("bad.yaml", **changes, folder=str(tmp_path / "study"))
    for more in ([], ["--dry-run"]):
        assert compare.main(["--config", config, *more]) == 2
        assert words in one_sentence(capsys)
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} <= {"lock"}


def one_sentence(capsys):
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    return error


def test_dry_run_prints_the_plan_and_writes_nothing(world, tmp_path, capsys):
    config = world("plan.yaml", folder=str(tmp_path / "study"))
    assert compare.main(["--config", config, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "cycleqd, random" in plan and "runs" in plan and "4" in plan
    assert not (tmp_path / "study").exists()


def test_a_preset_comes_before_a_methods_own_settings(world, tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("qd: { bins: 7, w_max: 0.1 }\nqd.mutation: none\n")
    own = {"preset": str(preset), "qd.bins": 9}
    config = world("preset.yaml", methods={"cycleqd": {}, "other": own})
    study = open_study(load_config(config, [], CompareConfig), "preset")
    qd = study.run_config("other", 1).qd
    assert (qd.bins, qd.w_max, qd.mutation) == (9, 0.1, "none")
    assert study.run_config("other", 1).seed == 1
    assert study.reference.qd.bins == 15 and qd.num_generations == 3


@pytest.mark.slow
def test_a_budget_gives_every_search_as_many_tokens(world, tmp_path, capsys):
    gradient = {"seeds": [1.0, 0.5], "mutation": "gradient", "ascent_steps": 2}
    methods = {
        "cycleqd": {},
        "sparse": {"search": "random", "problems.optimise": 2},
        # Two of the first three children are merges, without gradients.
        "seeded": {"qd": gradient | {"children_per_batch": 3}},
    }
    budget = 30_000
    config = world(
        "budget.yaml",
        methods=methods,
        seeds=[0],
        budget=budget,
        settings={"qd.num_generations": 200},
        folder=str(tmp_path / "study"),
    )
    assert compare.main(["--config", config]) == 0
    said = capsys.readouterr()
    results_on_test = re.findall(r"best_of_\w+,.* on test", said.out + said.err)
    assert len(results_on_test) == len(methods)  # none of those that show a cost
    summary = read(tmp_path / "study")
    for entry in summary["methods"].values():
        assert budget * 0.85 < entry["tokens"] < budget * 1.15
    children = {n: entry["children"] for n, entry in summary["methods"].items()}
    assert children["sparse"] > 1.5 * children["cycleqd"] > 6
    assert 6 < children["seeded"] < children["cycleqd"]
    before = contents(tmp_path / "study")
    assert compare.main(["--config", config]) == 0
    assert contents(tmp_path / "study") == before


def contents(folder):
    """Every promised file of a comparison by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and path.name.startswith("seed-"):
            place = path.relative_to(folder)
            found |= {f"{place}/{n}": b for n, b in run_contents.contents(path).items()}
    for path in (folder / "study.json", *sorted((folder / "summary").iterdir())):
        if path.name not in UNPROMISED:
            found[path.name] = path.read_bytes()
    return found


def start(folder, *command):
    paths = [str(TESTS / "support"), str(TESTS.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.mark.slow
def test_four_methods_and_two_seeds_killed_twice_end_the_same(
    world, tmp_path, monkeypatch
):
    """Killed in the middle of a method's search, and while a summary is written."""
    # A run's config names its folder, so both have the same relative one.
    config = world("four.yaml", methods=METHODS, folder="study")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    monkeypatch.chdir(whole)
    assert compare.main(["--config", config]) == 0
    driver = str(TESTS / "support" / "kill_compare.py")
    for moment, count in [("checkpoint written", 7), ("summary half written", 1)]:
        killed = start(parts, driver, moment, str(count), "--config", config)
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
    done = start(parts, "-m", "experiments.compare", "--config", config)
    assert done.returncode == 0, done.stderr
    got, want = contents(parts / "study"), contents(whole / "study")
    assert not run_contents.differences(got, want)


def test_machines_share_a_comparison_by_records(finished, tmp_path, capsys):
    config, folder = finished
    records = tmp_path / "records"

    def run(place, *seeds):
        more = [f"folder={tmp_path / place}", f"seeds=[{','.join(seeds)}]"]
        return compare.main(["--config", str(config), "--records", str(records), *more])

    assert compare.main(["--config", str(config), "--records", str(records)]) == 0
    assert run("one", "1") == 0 and run("third", "0", "1") == 0
    for place in ("one", "third"):
        assert not list((tmp_path / place).glob("*/seed-*"))  # nothing is run again
    assert read(tmp_path / "one")["seeds"] == [1]
    for name in ("summary.json", "table.md", "curves_tokens.png"):
        want = (folder / "summary" / name).read_bytes()
        assert (tmp_path / "third" / "summary" / name).read_bytes() == want, name
    capsys.readouterr()
    other = ["--records", str(records), "settings.qd.bins=7"]
    place = f"folder={tmp_path / 'other'}"
    assert compare.main(["--config", str(config), *other, place]) == 2
    assert "a record of other settings" in one_sentence(capsys)
    path = records / "random-seed-1.json"
    content = path.read_text()
    path.write_text(content.replace("0", "1", 1))
    assert run("third", "0", "1") == 2
    assert path.name in one_sentence(capsys)
    data = files.unsealed(json.loads(content), path)
    files.write_sealed(path, data | {"models": "another"})
    assert run("third", "0", "1") == 2
    assert "different models" in one_sentence(capsys)
