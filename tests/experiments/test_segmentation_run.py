"""A run over a random Segment Anything model, from the command line."""

import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import run_contents
import sam_world
import toy_world

from cycleqd_jax import files
from cycleqd_jax.evaluation.images import probabilities
from cycleqd_jax.runs import reading
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.tasks.segmentation import mask_text
from cycleqd_jax.tasks.segmentation.images import fit_image
from experiments import agent_skills, export, report

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def figures_as_dots():
    """Figures are looked at here."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Settings of a run; the second expert is a full fine-tune."""
    folder = tmp_path_factory.mktemp("sam")
    return sam_world.make_world(folder, full=(sam_world.TASKS[1],))


def write(folder, settings):
    folder.mkdir(exist_ok=True)
    settings = settings | {"run_dir": str(folder / "run")}
    return str(toy_world.write_config(folder / "sam.yaml", settings))


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert agent_skills.main(["--config", write(folder, world)]) == 0
    return folder / "run"


def test_killed_and_resumed_it_ends_the_same(world, run, tmp_path):
    config = write(tmp_path, world | {"run_dir": str(tmp_path / "run")})
    paths = [str(TESTS / "support"), str(TESTS.parent)]
    arguments = ["--config", config, "--resume"]
    killed = subprocess.run(
        [
            sys.executable,
            str(TESTS / "support" / "kill_driver.py"),
            "results written",
            "1",
            *arguments,
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert agent_skills.main(arguments) == 0
    got, want = (
        {
            name: content.replace(bytes(folder.parent), b"")
            for name, content in run_contents.contents(folder).items()
            if name not in ("config.yaml", "SHA256SUMS")  # have the folder's name
        }
        for folder in (tmp_path / "run", run)
    )
    assert not run_contents.differences(got, want)


def test_scores_are_shares_and_the_result_keeps_its_mask(run):
    opened = open_run(run, finished=True)
    scores = reading.read_scores(run, ["aggregated", "base"])
    tested = scores["aggregated"]["test"]
    values = [s for task in tested.values() for s in task.values()]
    assert len(values) == 8 and any(0 < s < 1 for s in values)
    rows = [
        row
        for task in opened.tasks
        for row in opened.episodes(task)
        if row["split"] == "test"
    ]
    assert {mask_text.from_text(row["answer"]).shape for row in rows} == {(32, 32)}


def test_the_report_has_masks_and_no_words_on_text(run, capsys):
    assert report.main([str(run)]) == 0
    assert "images" in capsys.readouterr().out
    page = (run / "report" / "report.html").read_text()
    assert (run / "report" / "masks.png").stat().st_size > 1000
    assert 'alt="figure: masks"' in page
    words = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL).lower()
    assert "the model that the search found scores" in words
    for word in ("tokens through the model", "solve", "wilson"):
        assert word not in words


def test_the_report_without_the_data(run, tmp_path, monkeypatch):
    """What data are on this machine does not stop it."""
    from cycleqd_jax.errors import MissingDataError
    from cycleqd_jax.reports import masks

    def gone(*_):
        raise MissingDataError("not here")

    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr(masks, "make_tasks", gone)
    assert report.main([str(tmp_path / "run")]) == 0
    with_images = (run / "report" / "masks.png").read_bytes()
    assert (tmp_path / "run" / "report" / "masks.png").read_bytes() != with_images


def test_an_export_gives_the_same_masks_in_transformers(run, tmp_path, capsys):
    import torch
    import transformers

    arguments = ["--individual", "uniform_merge", "--to", str(tmp_path / "m")]
    assert export.main([str(run), *arguments]) == 0
    assert "kernels and tables" in capsys.readouterr().out  # of the full fine-tune
    model = transformers.SamModel.from_pretrained(tmp_path / "m").eval()
    opened = open_run(run, finished=True)
    config, wrong = opened.config, 0
    found = {
        row["problem"]: row
        for task in opened.tasks
        for row in opened.episodes(task)
        if (row["individual"], row["split"]) == ("uniform_merge", "test")
    }
    tasks = make_tasks(config.tasks, config.problems, config.task_settings)
    shares = []
    for task in tasks:
        for problem in task.problems("test"):
            example = task.example(problem)
            pixels = torch.tensor(fit_image(example.image, 32)[None])
            with torch.no_grad():
                out = model(pixel_values=pixels, multimask_output=False)
            soft = probabilities(out.pred_masks[0, 0, 0].numpy(), (32, 32), 32)
            row = found[problem.id]
            assert row["score"] == pytest.approx(
                task.score(soft, example.mask), abs=1e-5
            )
            mask = mask_text.from_text(row["answer"])
            wrong += np.count_nonzero(mask != (soft > 0.5))
            shares.append(mask.mean())
    assert wrong <= 2  # pixels that are at .5
    assert 0 < np.mean(shares) < 1


def test_a_lora_expert_is_exported_as_an_adapter(run, tmp_path):
    arguments = ["--individual", f"expert/{sam_world.TASKS[0]}"]
    assert export.main([str(run), *arguments, "--to", str(tmp_path / "m")]) == 0
    settings = files.read_json(tmp_path / "m" / "adapter" / "adapter_config.json")
    assert settings["r"] == 2


def refused(capsys, world, folder, **changes):
    """The one sentence of a dry run with other settings; a run says the same."""
    config = write(folder, world | changes)
    assert agent_skills.main(["--config", config, "--dry-run"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and error.startswith("Bad input: ")
    return error


def test_a_dry_run_plans(world, tmp_path, capsys):
    assert agent_skills.main(["--config", write(tmp_path, world), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "the images of a call" in out and "KV cache" not in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"basis": {"conditioning": "regmean"}}, "regmean: is for language models"),
        ({"racing": {"rungs": 1}}, "racing.rungs: is for language models"),
        ({"fitness": {"smooth": True}}, "fitness.smooth"),
        ({"evaluator": "ray"}, "evaluator: ray"),
        ({"search": "gradient"}, "with answers or gradients"),
    ],
)
def test_settings_of_language_models_are_refused(
    world, tmp_path, capsys, changes, words
):
    assert words in refused(capsys, world, tmp_path, **changes)


def test_models_and_tasks_of_two_kinds(world, tmp_path, capsys):
    error = refused(
        capsys,
        world,
        tmp_path,
        tasks=["pocket_polyps", "pocket_db"],
        experts={"pocket_polyps": "x", "pocket_db": "y"},
        task_settings={},
    )
    assert "pocket_db is a task of language models" in error
    text = toy_world.make_world(tmp_path)
    error = refused(capsys, world, tmp_path, base_model=text["base_model"])
    assert "language model (model_type llama)" in error
    error = refused(capsys, text, tmp_path, base_model=world["base_model"])
    assert "segmentation model (model_type sam)" in error
    first = world["tasks"][0]
    for bad in (tmp_path / "toy_a", tmp_path / "base"):  # an adapter, a model
        experts = world["experts"] | {first: str(bad)}
        assert str(bad) in refused(capsys, world, tmp_path, experts=experts)
    experts = text["experts"] | {text["tasks"][0]: world["experts"][first]}
    assert world["experts"][first] in refused(capsys, text, tmp_path, experts=experts)


def folder_of_images(folder):
    """A data set in the layout of Kvasir-SEG, with images of several sizes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(12):
        size = (40 + i, 30)
        pixels = rng.integers(0, 255, (30, 40 + i, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        mask = Image.new("L", size)
        mask.paste(255, (5, 5, 20, 20))
        mask.save(folder / "masks" / f"{i}.png")
    return folder


def test_damaged_data_are_refused_before_anything_is_evaluated(world, tmp_path, capsys):
    from PIL import Image

    data = folder_of_images(tmp_path / "kvasir")
    tasks = ["kvasir_seg", "pocket_polyps"]
    settings = world | {
        "tasks": tasks,
        "experts": dict(zip(tasks, world["experts"].values(), strict=True)),
        "task_settings": {"kvasir_seg": {"data": str(data)}},
        "problems": {"train": 0, "optimise": 4, "validate": 4, "test": 4},
    }
    refuse = functools.partial(refused, capsys, settings, tmp_path)
    whole = (data / "images" / "3.png").read_bytes()
    (data / "images" / "3.png").write_bytes(whole[:60])
    assert "3.png cannot be read as an image" in refuse()
    (data / "images" / "3.png").write_bytes(whole)
    Image.new("L", (9, 9)).save(data / "masks" / "5.png")
    assert "a mask must have the size of its image" in refuse()
    (data / "masks" / "5.png").unlink()
    assert "5.png has no mask" in refuse()
    (data / "images" / "5.png").unlink()
    assert "kvasir_seg" in refuse()  # fewer images than asked for
