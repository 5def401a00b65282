"""The command that merges segmentation experts two by two."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import sam_world
import toy_world

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.study.segmentation import SegmentationConfig, make_groups
from experiments import segmentation

TESTS = pathlib.Path(__file__).parents[1]
CONFIGS = "experiments/configs/"
# What a run of images must not need; the engine's settings and counters are plain data.
DRIVER = """
import sys
from experiments import segmentation
code = segmentation.main(sys.argv[1:])
allowed = ("", ".settings", ".stats")
engine = [m for m in sys.modules if m.startswith("cycleqd_jax.inference")]
bad = [m for m in engine if m.removeprefix("cycleqd_jax.inference") not in allowed]
bad += [m for m in ("tokenizers", "transformers", "cycleqd_jax.evaluation.local",
                    "cycleqd_jax.sandbox.bubblewrap") if m in sys.modules]
print("TEXT", bad)
sys.exit(code or bool(bad))
"""


@pytest.fixture(scope="module", autouse=True)
def figures_as_dots():
    """Figures are looked at here."""


def write(folder: pathlib.Path, **changes) -> pathlib.Path:
    """A config of two random experts, and that of its base."""
    settings = sam_world.make_world(folder)
    settings["qd"] |= {"num_generations": 2}
    base = toy_world.write_config(folder / "base.yaml", settings)
    own = {"base": str(base), "folder": str(folder / "runs"), "resamples": 200}
    return toy_world.write_config(folder / "two.yaml", own | changes)


def test_a_pair_is_merged_without_anything_of_text(tmp_path):
    config = write(tmp_path)
    paths = [str(TESTS / "support"), str(TESTS.parent)]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, "--config", str(config)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    place = tmp_path / "runs" / "summary"
    summary = files.read_json(place / "summary.json")
    [(name, row)] = summary["runs"].items()
    assert name == "camouflage+polyps" and "similarity" not in summary
    for model in ("cycleqd", "uniform_merge", "scaled_merge", "conditioned", "base"):
        for share in row["kept"][model].values():
            assert share["low"] <= share["value"] <= share["high"]
    base = row["kept"]["base"]
    scores = json.loads(
        (tmp_path / "runs" / name / "search/report/report.json").read_text()
    )["models"]
    task = sam_world.TASKS[0]
    own = scores[f"expert/{task}"]["test"][task]
    assert base[task]["value"] == pytest.approx(scores["base"]["test"][task] / own)
    table = (place / "table.md").read_text()
    assert "| camouflage+polyps |" in table and "conditioned" in table
    assert (place / "masks.png").stat().st_size > 1000
    assert "data:image/png" in (place / "summary.html").read_text()
    # Again, it has nothing to do but the summary.
    before = (place / "summary.json").read_bytes()
    assert segmentation.main(["--config", str(config)]) == 0
    assert (place / "summary.json").read_bytes() == before


def test_groups_are_all_pairs_and_all():
    config = load_config(
        f"{CONFIGS}segmentation_quickstart.yaml", [], SegmentationConfig
    )
    groups = make_groups(config, "segmentation_quickstart")
    assert [len(g.search.tasks) for g in groups] == [2] * 6 + [4]
    assert groups[0].name == "camouflage+polyps" and groups[-1].name == "all"
    children = config.pairs["qd.num_generations"]
    assert {g.search.qd.num_generations for g in groups[:-1]} == {children}
    whole = load_config(config.base, [], RunConfig).qd.num_generations
    assert groups[-1].search.qd.num_generations == whole != children
    assert groups[0].closed_form.search == "merge"
    assert groups[0].closed_form.basis.conditioning == "data_free"
    assert set(groups[2].search.experts) == set(groups[2].search.tasks)


def test_the_papers_run_is_planned_without_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("COLUMNS", "400")
    arguments = ["--config", f"{CONFIGS}segmentation_paper.yaml", "--dry-run"]
    assert segmentation.main([*arguments, f"folder={tmp_path / 'runs'}"]) == 0
    out = capsys.readouterr().out
    for words in (
        "641,090,864",
        "The weights of facebook/sam-vit-huge are not here",
        "Not here: sam_experts/cod10k, sam_experts/kvasir_seg",
        "expected the folder of ISIC 2017; get it with: for f in",
        "So files were not checked",
        "14 runs",
    ):
        assert words in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": f"{CONFIGS}quickstart.yaml"}, "expected data sets of images"),
        ({"settings": {"experts.pocket_polyps": "none"}}, "expected one for each"),
        ({"pairs": {"qd.bins": 1}}, "bins"),
        ({"resamples": 1}, "resamples"),
    ],
)
def test_wrong_settings_get_one_sentence(tmp_path, capsys, changes, words):
    assert segmentation.main(["--config", str(write(tmp_path, **changes))]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
