"""A whole run in small through the command line, and what it refuses."""

import json

import pytest
import toy_world

from cycleqd_jax import files
from experiments import agent_skills, export, report


@pytest.fixture(scope="module")
def config(toy_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = toy_settings | {"run_dir": str(folder / "run")}
    return toy_world.write_config(folder / "toy.yaml", settings)


@pytest.fixture(scope="module")
def run(config):
    """The folder of a finished run."""
    assert agent_skills.main(["--config", str(config)]) == 0
    return config.parent / "run"


def test_report_has_every_model_on_every_split(run):
    data = json.loads((run / "report" / "report.json").read_text())
    names = {"base", "uniform_merge", "scaled_merge", "best_of_archive", "aggregated"}
    names |= {f"expert/{task}" for task in toy_world.TASKS[:3]}
    assert names <= data["models"].keys()
    for name in names:
        for split, problems in {"optimise": 15, "test": 12}.items():
            row = data["models"][name][split]
            scores = [row[task] for task in toy_world.TASKS[:3]]
            assert row["mean"] == pytest.approx(sum(scores) / 3)
            assert row["problems"] == problems
    assert data["evaluated_children"] == 6
    assert len(data["state_fingerprint"]) == 64
    assert (run / "report" / "report.html").stat().st_size > 10_000


def test_every_episode_is_logged(run):
    tables = [files.read_table(p) for p in sorted((run / "results").glob("*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    children = {r["individual"] for r in rows if r["individual"].startswith("child/")}
    assert {f"child/{t}" for t in range(1, 7)} <= children
    assert all(row["tokens"] and row["reply"] is not None for row in rows)
    metrics = sorted((run / "metrics").glob("*.parquet"))
    assert [p.stem for p in metrics] == ["batch-000001", "batch-000003", "batch-000005"]
    actives = [
        r["active_task"] for p in metrics for r in files.read_table(p).to_pylist()
    ]
    cycle = ["toy_b", "toy_c", "toy_a"]  # generation 1 belongs to the second archive
    assert actives == cycle * 2


def test_a_finished_run_is_reported_again_and_not_run_again(run, config, capsys):
    before = (run / "timing.jsonl").read_bytes()
    assert agent_skills.main(["--config", str(config), "--resume"]) == 0
    assert "aggregated" in capsys.readouterr().out
    assert (run / "timing.jsonl").read_bytes() == before
    assert report.main([str(run)]) == 0


def test_a_used_folder_is_refused_without_resume(run, config, capsys):
    assert agent_skills.main(["--config", str(config)]) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("seed=4", "settings: seed was 3, now is 4"),
        ("qd.w_max=0.4", "settings: qd.w_max was 0.3, now is 0.4"),
        ("problems.test=5", "settings: problems.test was 4, now is 5"),
        ("dtype=bfloat16", "settings: dtype was 'float32', now is 'bfloat16'"),
        ("basis.rank=1", "settings: basis.rank was 'full', now is 1"),
    ],
)
def test_a_run_is_not_resumed_with_other_inputs(run, config, capsys, change, word):
    for more in ([], ["qd.num_generations=8"], ["--dry-run"]):
        arguments = ["--config", str(config), "--resume", change, *more]
        assert agent_skills.main(arguments) == 2
        error = capsys.readouterr().err
        assert f"begun with other {word}" in error
        assert len(error.strip().splitlines()) == 1


def test_more_generations_go_on_from_the_last(toy_settings, tmp_path):
    settings = toy_settings | {"run_dir": str(tmp_path / "run")}
    config = str(toy_world.write_config(tmp_path / "toy.yaml", settings))
    short = ["--config", config, "--resume", "qd.num_generations=2", "problems.test=0"]
    longer = [*short[:3], "qd.num_generations=4", "problems.test=0"]
    assert agent_skills.main(short) == 0
    first = (tmp_path / "run" / "results" / "batch-000001.parquet").read_bytes()
    assert agent_skills.main(longer) == 0
    assert (tmp_path / "run/results/batch-000001.parquet").read_bytes() == first
    data = json.loads((tmp_path / "run/report/report.json").read_text())
    assert data["evaluated_children"] == 4


def test_dry_run_prints_the_plan_and_writes_nothing(config, tmp_path, capsys):
    target = tmp_path / "not-made"
    arguments = ["--config", str(config), "--dry-run", f"run_dir={target}"]
    assert agent_skills.main(arguments) == 0
    plan = capsys.readouterr().out
    for word in ("weights", "KV cache", "children", "problems", "estimated time"):
        assert word in plan
    assert not target.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["base_model=nowhere.gguf"], ["nowhere.gguf"]),
        (["qd.bins=1"], ["qd.bins", "1"]),
        (["engine.length=16", "engine.decode_steps=4"], ["engine.length", "16"]),
        (["qd.mutatoin=svd"], ["qd.mutatoin", "did you mean mutation"]),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    config, tmp_path, capsys, settings, words
):
    run_dir = f"run_dir={tmp_path / 'run'}"
    assert agent_skills.main(["--config", str(config), run_dir, *settings]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert all(word in error for word in words)
    # Nothing was begun, so the corrected command is not refused for a used folder.
    assert {p.name for p in tmp_path.glob("run/*")} <= {"lock"}


def test_export_of_an_unknown_individual_names_the_known(run, tmp_path, capsys):
    arguments = [str(run), "--individual", "child/99", "--to", str(tmp_path / "x")]
    assert export.main(arguments) == 2
    assert "aggregated" in capsys.readouterr().err


def test_exports_answer_alike_in_transformers_and_peft(run, tmp_path):
    import peft
    import torch
    import transformers

    target = tmp_path / "model"
    assert export.main([str(run), "--to", str(target)]) == 0
    merged = transformers.AutoModelForCausalLM.from_pretrained(target)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        json.loads((target / "adapter/adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
    )
    adapted = peft.PeftModel.from_pretrained(base, target / "adapter")
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    chat = [{"role": "user", "content": "toy_a test 0"}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    settings = {"max_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        want, got = (m.generate(ids, **settings)[0].tolist() for m in (merged, adapted))
    assert got == want
    rows = files.read_table(run / "results" / "final-test.parquet").to_pylist()
    ours = next(r for r in rows if r["individual"] == "aggregated"
                and r["problem"] == "toy_a/test/0")  # fmt: skip
    assert want[ids.shape[1] :] == ours["tokens"]
