"""The dry run: with everything here, and with nothing but a config."""

import pytest
import toy_world

from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.runs.memory import Machine
from experiments import agent_skills

CONFIGS = "experiments/configs/"
LLAMA = "meta-llama/Meta-Llama-3-8B"
FIVE = ["mbpp", "dbbench", "os_interaction", "pocket_db", "pocket_os"]


@pytest.fixture
def empty_machine(tmp_path, monkeypatch):
    """No weights, no network, no sandbox; nothing large may be loaded or computed."""

    def forbidden(*_, **__):
        raise AssertionError("a dry run without weights must not come here")

    monkeypatch.setenv("COLUMNS", "400")  # no line breaks in what is asked for
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", forbidden)
    monkeypatch.setattr("socket.socket.connect", forbidden)
    monkeypatch.setattr("cycleqd_jax.runs.plan.open_sandbox", forbidden)
    monkeypatch.setattr("cycleqd_jax.runs.plan.prepare", forbidden)


def dry_run(capsys, name, *settings):
    arguments = ["--config", f"{CONFIGS}{name}.yaml", *settings, "--dry-run"]
    code = agent_skills.main(arguments)
    out, error = capsys.readouterr()
    return code, out, error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("paper", ["full rank", "12288 directions", "8.75 MB", "130 GB", "6 GB"]),
        ("paper_lowrank", ["rank 128", "384 directions", "347 kB", "factored mode"]),
        ("reference", ["materialised mode", "8.75 MB", "1200, 1 at a time"]),
    ],
)
def test_presets_are_planned_without_weights(empty_machine, capsys, name, words):
    code, out, error = dry_run(capsys, name)
    assert (code, error) == (0, "")
    for word in (*words, "8,030,261,248", "KV cache", "this machine", "16.1 GB"):
        assert word in out
    assert f"Instruct are not here: sizes are those of {LLAMA}" in out
    assert "SakanaAI/Llama-3-8B-Instruct-DB-Expert" in out
    assert "Task dbbench needs" in out and "get it with: curl" in out
    assert "So their problems were not counted." in out
    assert "estimated time" not in out


def test_says_whether_it_would_fit(empty_machine, capsys, monkeypatch):
    monkeypatch.setattr(
        "cycleqd_jax.runs.plan.this_machine", lambda: Machine(10**12, 141 * 10**9)
    )
    assert "It would fit" in dry_run(capsys, "paper_lowrank")[1]
    out = dry_run(capsys, "paper")[1]
    assert "Does not fit here" in out and "accelerator has 141 GB" in out


def test_the_published_ablation(empty_machine, capsys):
    settings = ["qd.mutation=gaussian", "qd.selection=random"]
    code, out, _ = dry_run(capsys, "reference", *settings)
    assert code == 0 and "Gaussian noise is dense" in out


def test_five_tasks_at_the_papers_bins_are_advised_against(empty_machine, capsys):
    experts = ", ".join(f"{task}: org/{task}" for task in FIVE)
    settings = [f"tasks=[{', '.join(FIVE)}]", f"experts={{{experts}}}"]
    code, out, _ = dry_run(capsys, "paper", *settings)
    assert code == 0 and "253125 cells" in out and "fewer bins" in out
    code, _, error = dry_run(capsys, "paper", *settings, "qd.bins=1000")
    assert code == 2 and "5000000000000 cells" in error and "fewer bins" in error


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["base_model=nobody/nothing"], ["nobody/nothing", "sizes are not known"]),
        (["base_model=no/such/folder"], ["no/such/folder", "no such file"]),
        (["engine.mode=factored", "qd.mutation=gaussian"], ["engine.mode", "dense"]),
    ],
)
def test_wrong_input_is_still_refused(empty_machine, capsys, settings, words):
    code, _, error = dry_run(capsys, "reference", *settings)
    assert code == 2
    assert all(word in error for word in words)


def test_a_misspelt_task_is_not_taken_for_one_to_come(empty_machine, capsys):
    settings = ["tasks=[mbp, dbbench]", "experts={mbp: a/b, dbbench: c/d}"]
    settings.append("task_settings={}")
    code, _, error = dry_run(capsys, "paper", *settings, "base_model=" + LLAMA)
    assert code == 2 and "'mbp' does not exist" in error


def test_a_real_run_of_a_preset_says_what_is_missing(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", None)
    arguments = ["--config", f"{CONFIGS}paper.yaml", f"run_dir={tmp_path / 'run'}"]
    assert agent_skills.main([*arguments, "sandbox.kind=none"]) == 2
    assert "Task mbpp needs mbpp_plus_v0.1.0.jsonl" in capsys.readouterr().err


def test_weights_that_are_here_must_fit(toy_settings, tmp_path, capsys, monkeypatch):
    settings = toy_settings | {"run_dir": str(tmp_path / "run")}
    config = str(toy_world.write_config(tmp_path / "toy.yaml", settings))
    monkeypatch.setattr(LlamaProgram, "__init__", None)  # refused before it is loaded
    for module in ("plan", "run_memory"):
        monkeypatch.setattr(
            f"cycleqd_jax.{module}.this_machine", lambda: Machine(10**6, None)
        )
    for flag in ([], ["--dry-run"]):
        assert agent_skills.main(["--config", config, *flag]) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1
        assert "needs" in error and "this machine has 1 MB" in error
