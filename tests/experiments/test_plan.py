"""The dry run: with everything here, and with nothing but a config."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import toy_world

from cycleqd_jax.config import RunConfig
from cycleqd_jax.models.formats.hf_folder import export_model
from cycleqd_jax.models.formats.safetensors import open_file
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.runs.known_models import known_model
from cycleqd_jax.runs.memory import Machine
from cycleqd_jax.runs.plan import find_inputs
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
    monkeypatch.setattr("cycleqd_jax.runs.text.make_sandbox", forbidden)
    monkeypatch.setattr("cycleqd_jax.runs.text.prepare", forbidden)


def dry_run(capsys, name, *settings):
    arguments = ["--config", f"{CONFIGS}{name}.yaml", *settings, "--dry-run"]
    code = agent_skills.main(arguments)
    out, error = capsys.readouterr()
    return code, out, error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("paper", ["full rank", "12288 directions", "8.75 MB", "64.9 GB", "6 GB"]),
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
        "cycleqd_jax.runs.run.this_machine", lambda: Machine(10**12, 141 * 10**9)
    )
    for name in ("paper", "paper_lowrank"):
        assert "It would fit" in dry_run(capsys, name)[1]
    monkeypatch.setattr(
        "cycleqd_jax.runs.run.this_machine", lambda: Machine(10**12, 80 * 10**9)
    )
    out = dry_run(capsys, "paper")[1]
    assert "Does not fit here" in out and "accelerator has 80 GB" in out


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


RETAINED = ("retention={passages: 8, descriptor: true}",)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["base_model=nobody/nothing"], ["nobody/nothing", "sizes are not known"]),
        (["base_model=no/such/folder"], ["no/such/folder", "no such file"]),
        (["search=random", "search_settings={low: 2}"], ["search_settings.low is 2"]),
        (["engine.mode=factored", "qd.mutation=gaussian"], ["engine.mode", "dense"]),
        (["retention.descriptor=true"], ["retention", "passages is 0"]),
        ([*RETAINED, "search=random"], ["retention.descriptor", "search random"]),
        ([*RETAINED, "qd.bins=200"], ["24000000 cells", "retention.descriptor"]),
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
    assert agent_skills.main(arguments) == 2
    assert "Task mbpp needs mbpp_plus_v0.1.0.jsonl" in capsys.readouterr().err


@pytest.fixture
def both(toy_settings, tmp_path, capsys):
    """Runs and dry-runs the toy config with other settings."""

    def refused(**changes):
        """The one sentence that both refuse the settings with."""
        said = set()
        for flag in ([], ["--dry-run"]):
            changes = {"run_dir": str(tmp_path / "run")} | changes
            path = toy_world.write_config(tmp_path / "c.yaml", toy_settings | changes)
            assert agent_skills.main(["--config", str(path), *flag]) == 2
            error = capsys.readouterr().err.strip()
            assert len(error.splitlines()) == 1
            said.add(error)
        assert len(said) == 1
        return said.pop()

    return refused


def test_weights_that_are_here_must_fit(both, monkeypatch):
    monkeypatch.setattr("cycleqd_jax.runs.setup.load_model", None)
    for module in ("run", "setup"):
        monkeypatch.setattr(
            f"cycleqd_jax.runs.{module}.this_machine", lambda: Machine(10**6, None)
        )
    error = both()
    assert "needs" in error and "this machine has 1 MB" in error


@pytest.fixture
def expert(toy_settings, tmp_path):
    """A copy of an expert's folder, to be damaged, and the setting that names it."""
    experts = toy_settings["experts"]
    entry = next(iter(experts))
    folder = shutil.copytree(experts[entry], tmp_path / "expert")
    return folder, {"experts": experts | {entry: str(folder)}}


def keep_only(*names):
    """Removes everything else from a folder."""

    def change(folder):
        for path in folder.iterdir():
            if path.name not in names:
                path.unlink()

    return change


def move_all(inner):
    def change(folder):
        (folder / inner).mkdir()
        for path in folder.iterdir():
            if path.is_file():
                path.rename(folder / inner / path.name)

    return change


def rename(old, new):
    return lambda folder: (folder / old).rename(folder / new)


def cut(name):
    """Leaves the first half of a file."""

    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def settings(**changes):
    """Changes the settings of a model or adapter."""

    def change(folder):
        path = next(p for p in (folder / ADAPTER, folder / CONFIG) if p.exists())
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def lose_a_shard(folder):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    places = dict.fromkeys(open_file(folder / "one.safetensors"), "one.safetensors")
    places["model.norm.weight"] = "two.safetensors"
    write(f"{WEIGHTS}.index.json", json.dumps({"weight_map": places}))(folder)


ADAPTER, CONFIG, WEIGHTS = "adapter_config.json", "config.json", "model.safetensors"
LORA_WEIGHTS = "adapter_model.safetensors"
ADAPTERS = [
    (keep_only(), f"has neither {ADAPTER} nor {CONFIG}"),
    (move_all("checkpoint-9"), "pass one of its folders: checkpoint-9"),
    (keep_only(ADAPTER), f"lacks {LORA_WEIGHTS}"),
    (rename(LORA_WEIGHTS, "adapter_model.bin"), "convert adapter_model.bin with"),
    (cut(LORA_WEIGHTS), "is not a whole safetensors file"),
    (write(ADAPTER, "{"), "it is not JSON"),
    (settings(r=3), "at rank 3, but has"),
    (settings(peft_type="IA3"), "peft_type 'IA3' is not supported"),
    (settings(init_lora_weights="pissa"), "changes the base weights"),
    (toy_world.poison, "holds values that are not finite"),
]
MODELS = [
    (keep_only(CONFIG, "tokenizer.json"), None),  # sizes are known without weights
    (rename(WEIGHTS, "pytorch_model.bin"), "convert pytorch_model.bin with"),
    (cut(WEIGHTS), "is not a whole safetensors file"),
    (lose_a_shard, "two.safetensors: no such file"),
    (rename(CONFIG, "params.json"), "has neither adapter_config.json nor config.json"),
    (settings(model_type="mamba"), "model_type 'mamba' is not supported"),
    (settings(quantization_config={"bits": 4}), "quantised weights are not read"),
    (settings(num_hidden_layers=1), "maps to nothing"),
    (write("tokenizer.json", "{}"), "its tokeniser cannot be read"),
    (toy_world.poison, "holds values that are not finite"),
]


@pytest.mark.parametrize(("change", "words"), ADAPTERS)
def test_an_odd_adapter(both, expert, change, words):
    folder, named = expert
    change(folder)
    error = both(**named)
    assert words in error and str(folder) in error


OF_ANOTHER = (settings(rms_norm_eps=0.5), "its rms_norm_eps is 0.5")


@pytest.mark.parametrize(("change", "words"), [*MODELS, OF_ANOTHER])
def test_an_odd_full_expert(both, expert, toy_settings, change, words):
    folder, named = expert
    shutil.rmtree(folder)
    shutil.copytree(toy_settings["base_model"], folder)
    change(folder)
    error = both(**named)
    assert (words or "has neither model.safetensors nor") in error
    assert str(folder) in error


@pytest.mark.parametrize(("change", "words"), MODELS[1:])
def test_an_odd_base_model(both, toy_settings, tmp_path, change, words):
    folder = shutil.copytree(toy_settings["base_model"], tmp_path / "base")
    change(folder)
    if not (folder / CONFIG).exists():
        words = "config.json cannot be read"
    error = both(base_model=str(folder))
    assert words in error and str(folder) in error


def test_an_expert_that_is_a_file_or_nowhere(both, expert):
    folder, named = expert
    entry = next(iter(named["experts"]))
    for path, words in (
        (folder / LORA_WEIGHTS, "is a file; expected the folder"),
        (folder / "nowhere", "no such folder"),
        (folder / ("n" * 300), "no such folder"),
    ):
        error = both(experts=named["experts"] | {entry: str(path)})
        assert f"expert {str(path)!r}: {words}" in error
    assert "no such file or folder" in both(base_model=str(folder / ("n" * 300)))


def test_more_tokens_than_rows_of_the_embedding(both, toy_settings, tmp_path):
    model = load_model(toy_settings["base_model"])
    rows = model.tokenizer.vocab_size - 1
    config, weights = toy_world.random_model(rows, np.random.default_rng(0))
    export_model(tmp_path / "base", config, weights, model.tokenizer, "# Short\n")
    error = both(base_model=str(tmp_path / "base"))
    assert f"{rows + 1} tokens, but its embedding has {rows} rows" in error


def changed(key, value):
    """The toy settings with another value of `section.name`."""

    def change(settings, folder):
        section, _, name = key.partition(".")
        given = value.format(folder) if isinstance(value, str) else value
        inner = {**settings.get(section, {}), name: given} if name else given
        return {section: inner}

    return change


def entry(name):
    """The toy settings with another first task."""

    def change(settings, folder):
        _, *others = settings["tasks"]
        first, *experts = settings["experts"].values()
        tasks = [name, *others]
        return {
            "tasks": tasks,
            "experts": dict(zip(tasks, [first, *experts], strict=False)),
        }

    return change


ODD = [
    (changed("run_dir", "/dev/null/run"), "run_dir: /dev/null/run cannot be written"),
    (changed("run_dir", "{}/world.py"), "File exists"),
    (changed("run_dir", "{}"), "is not empty; add --resume"),
    (changed("run_dir", "{}/" + 300 * "a"), "File name too long"),
    (changed("run_dir", "~nobody-here/run"), "home folder that does not exist"),
    (changed("run_dir", "a\0b"), "run_dir: String should match"),
    (changed("run_dir", "\ud800"), "run_dir: Input should be a valid string"),
    (changed("base_model", "{}/world.py"), "world.py"),
    (changed("base_model", "~nobody-here/x"), "home folder that does not exist"),
    (changed("base_model", "ä/日本"), "'ä/日本': no such file or folder"),
    (changed("date", "2024-02-30"), "date: "),
    (changed("date", 7.5), "date: "),
    (changed("engine.length", 96_000), "96000 tokens, but the base model was made"),
    (changed("engine.length", 2**31), "engine.length: "),
    (changed("engine.slots", 10**6), "memory: the run needs"),
    (changed("engine.decode_steps", 10**5), "decode_steps is 100000"),
    (changed("engine.prefill_chunk", 17), "prefill_chunk is 17"),
    (changed("engine.mesh", {"data": 64}), "64"),
    (changed("engine.attention", "cudnn"), "engine.attention"),
    (changed("qd.crossover_mean", 1e-300), "qd.crossover_mean: "),
    (changed("qd.crossover_mean", 1e308), "qd.crossover_mean: "),
    (changed("qd.alpha_low", 1e-320), "qd.alpha_low: "),
    (changed("qd.alpha_high", float("inf")), "qd.alpha_high: "),
    (changed("qd.w_max", float("nan")), "qd.w_max: "),
    (changed("qd.num_generations", 2**63), "qd.num_generations: "),
    (changed("qd.num_generations", -0.0), "qd.num_generations: "),
    (changed("qd.bins", 1000.0), "qd.bins: "),
    (changed("qd.crossover", "no.such:thing"), "no.such"),
    (changed("qd.mutation", "os:sep"), "os:sep"),
    (changed("qd.cell_range", {"toy_task:ToyA": [0, 1]}), "qd.cell_range"),
    (changed("baselines.scaled_merge_factors", [0.5, 0.5]), "0.5 is there twice"),
    (changed("search", "no.such:Search"), "no.such"),
    (changed("search_settings", {"x": 1}), "search_settings"),
    (changed("problems.validate", 0), "problems.validate is 0"),
    (changed("problems.optimise", 0), "problems.optimise: "),
    (changed("task_settings", {"mbpp": {}}), "'mbpp', which is not one of the tasks"),
    (changed("experts", {}), "experts has entries for nothing"),
    (changed("experts", []), "experts: "),
    (changed("logging.to", ["wandb", "wandb"]), "'wandb' is there twice"),
    (entry("pocket_dbb"), "'pocket_dbb' does not exist"),
    (entry("toy_task:ToyB"), "'toy_task:ToyB' is there twice"),
    (entry("odd_tasks:Dollar"), "has the name 'a$x^2$'; expected"),
    (entry("odd_tasks:Long"), "has the name 'aaa"),
    (entry("odd_tasks:Control"), "has the name 'a\\x1b[31m'"),
    (entry("odd_tasks:Slash"), "has the name 'a/../b'"),
    (entry("odd_tasks:Same"), "have the names toy_b, toy_b, toy_c"),
    (entry("odd_tasks:Twice"), "has the problem 'a/0' twice in the split optimise"),
    (entry("odd_tasks:Leak"), "has the problem 'a/0' in the splits optimise and val"),
    (entry("odd_tasks:Plain"), "its method run must be written as async def"),
    (entry("odd_tasks:Human"), "of system, user, assistant, tool, the last one"),
    (entry("odd_tasks:Half"), "Problem a/optimise/0: the user's text has '\\ud83d'"),
]
ODD_TASKS = """
import dataclasses
from toy_task import ToyA
class Dollar(ToyA): name = "a$x^2$"
class Long(ToyA): name = "a" * 65
class Control(ToyA): name = "a\\x1b[31m"
class Slash(ToyA): name = "a/../b"
class Same(ToyA): name = "toy_b"
class Twice(ToyA):
    name = "a"
    def problems(self, split):
        found = super().problems(split)
        return [dataclasses.replace(p, id="a/0") for p in found]
class Leak(ToyA):
    name = "a"
    def problems(self, split):
        found = enumerate(super().problems(split))
        return [dataclasses.replace(p, id=f"a/{i}") for i, p in found]
class Plain(ToyA):
    name = "a"
    def run(self, problem, chat, sandbox):
        return None
class Human(ToyA):
    name = "a"
    def dialogue(self, problem):
        return [m | {"role": "human"} for m in super().dialogue(problem)]
class Half(ToyA):
    name = "a"
    def problems(self, split):
        found = super().problems(split)
        return [dataclasses.replace(p, prompt=p.prompt + "\\ud83d") for p in found]
"""


@pytest.mark.parametrize(("change", "words"), ODD)
def test_odd_settings(both, toy_settings, tmp_path, monkeypatch, change, words):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "world.py").write_text("")
    (folder / "odd_tasks.py").write_text(ODD_TASKS)
    monkeypatch.syspath_prepend(folder)
    assert words in both(**change(toy_settings, folder))


TASKS = """
from toy_task import ToyA, ToyB
class Without(ToyB):
    split = None
    def problems(self, split):
        return () if split == self.split else super().problems(split)
class NoOptimise(Without): split = "optimise"
class NoValidate(Without): split = "validate"
class NoTest(Without): split = "test"
"""


@pytest.mark.parametrize("split", ["optimise", "validate", "test"])
def test_a_task_without_problems(both, toy_settings, tmp_path, monkeypatch, split):
    (tmp_path / "bare_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    tasks = ["toy_task:ToyA", f"bare_tasks:No{split.title()}"]
    experts = dict(zip(tasks, toy_settings["experts"].values(), strict=False))
    error = both(tasks=tasks, experts=experts)
    assert f"task toy_b: has no problems of the split {split}" in error


def test_a_folder_without_weights_still_tells_its_sizes(toy_settings, tmp_path, capsys):
    shutil.copy(f"{toy_settings['base_model']}/config.json", tmp_path)
    settings = toy_settings | {"base_model": str(tmp_path), "run_dir": "runs/none"}
    path = toy_world.write_config(tmp_path / "toy.yaml", settings)
    assert agent_skills.main(["--config", str(path), "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "are not here: sizes are those of" in out and "episodes: children" in out
    with_weights = find_inputs(RunConfig.model_validate(toy_settings))
    assert find_inputs(RunConfig.model_validate(settings)).model == with_weights.model
    assert not pathlib.Path("runs/none").exists()


def test_the_quickstart_model_is_not_dequantised(monkeypatch, toy_settings):
    monkeypatch.setattr("cycleqd_jax.models.formats.gguf.read_gguf", None)
    monkeypatch.setattr("cycleqd_jax.runs.plan.find_download", lambda _: None)
    experts = dict.fromkeys(toy_settings["tasks"], "org/expert")
    settings = toy_settings | {"base_model": toy_world.BASE, "experts": experts}
    inputs = find_inputs(RunConfig.model_validate(settings))
    assert inputs.model.hidden_size == 576 and inputs.sizes_of is None
    assert inputs.experts == (None,) * 3 and not inputs.are_here


def test_half_a_download_is_not_here_yet(toy_settings, tmp_path, monkeypatch):
    base = shutil.copytree(toy_settings["base_model"], tmp_path / "base")
    lose_a_shard(base)
    monkeypatch.setattr("cycleqd_jax.runs.plan.find_download", lambda _: base)
    experts = dict.fromkeys(toy_settings["tasks"], "org/expert")
    changes = {"base_model": "org/base", "experts": experts}
    inputs = find_inputs(RunConfig.model_validate(toy_settings | changes))
    assert inputs.sizes_of == str(base / CONFIG)
    assert inputs.experts == (None,) * 3 and not inputs.are_here


def test_known_models_by_any_of_their_names():
    meant = known_model("meta-llama/Meta-Llama-3-8B")
    assert meant.name == "meta-llama/Meta-Llama-3-8B"
    assert meant.config.rope_scaling is None
    assert known_model("NousResearch/Meta-Llama-3-8B-Instruct@main") == meant
    for other in ("SakanaAI/Llama-3-8B-Instruct-DB-Expert", "models/llama", "x"):
        assert known_model(other) is None
