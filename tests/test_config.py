import pathlib

import pytest
import yaml
from pydantic import PositiveFloat

from cycleqd_jax.config import RunConfig, load_config, to_yaml, with_preset
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import Section, parse_section
from cycleqd_jax.files.yaml import read_mapping
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.training.settings import TrainConfig

CONFIGS = pathlib.Path(__file__).parent.parent / "experiments" / "configs"
MINIMAL = """
base_model: some/model
tasks: [skill_a, skill_b]
experts: {skill_a: a, skill_b: b}
"""


@pytest.fixture
def write(tmp_path):
    def _write(text: str, name: str = "mine.yaml") -> pathlib.Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return _write


def message(path, overrides=(), cls=RunConfig) -> str:
    with pytest.raises(BadInputError) as caught:
        load_config(path, list(overrides), cls)
    text = str(caught.value)
    assert "\n" not in text and text[-1] in ".?"
    return text


def test_defaults_are_the_papers(write):
    run = load_config(write(MINIMAL), [], RunConfig)
    assert run.qd.num_generations == 1200 and run.qd.bins == 15
    assert (run.qd.alpha_low, run.qd.alpha_high) == (0.5, 0.8)
    assert (run.qd.crossover_mean, run.qd.crossover_std) == (1.0, 0.03)
    assert run.qd.w_max == 0.3 and run.qd.flip_interval == 1
    assert run.sandbox.kind == "bubblewrap"
    assert run.expert_paths == ("a", "b")


def test_experts_follow_the_order_of_tasks(write):
    text = MINIMAL.replace("{skill_a: a, skill_b: b}", "{skill_b: b, skill_a: a}")
    assert load_config(write(text), [], RunConfig).expert_paths == ("a", "b")


def test_tasks_without_an_expert_and_experts_without_a_task(write):
    given = ["experts={more: c, skill_b: b, skill_a: none, last: d}"]
    run = load_config(write(MINIMAL), given, RunConfig)
    named = run.name_experts(["a_task", "b_task"])
    assert list(named.items()) == [("b_task", "b"), ("more", "c"), ("last", "d")]
    with pytest.raises(BadInputError, match="more is the name of a task"):
        run.name_experts(["a_task", "more"])


def test_run_folder_is_named_after_the_config(write):
    path = write(MINIMAL, name="my.study.yaml")
    assert load_config(path, [], RunConfig).run_dir == "runs/my.study"
    assert load_config(path, ["run_dir=elsewhere"], RunConfig).run_dir == "elsewhere"


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("quickstart.yaml", RunConfig),
        ("quickstart_experts.yaml", TrainConfig),
        ("quickstart_experts_rank16.yaml", TrainConfig),
        ("quickstart_mixture.yaml", TrainConfig),
        ("pocket_hard_experts.yaml", TrainConfig),
        ("quickstart_finetune_merged.yaml", TrainConfig),
        ("quickstart_accepted.yaml", TrainConfig),
    ],
)
def test_shipped_configs_load_and_survive_the_round_trip(name, cls, write):
    first = load_config(CONFIGS / name, [], cls)
    text = to_yaml(first)
    second = load_config(write(text, name=name), [], cls)
    assert second == first
    assert to_yaml(second) == text


def test_round_trip_of_awkward_texts(write):
    overrides = ["base_model='1e3'", "experts.skill_a='no'", "experts.skill_b='Ä: #x'"]
    overrides += ["qd.cell_range={skill_a: [0, 0.75], skill_b: [1e-3, 1]}"]
    overrides += ["basis.rank=4", "run_dir=x"]
    first = load_config(write(MINIMAL), overrides, RunConfig)
    assert first.base_model == "1e3" and first.qd.cell_range["skill_b"] == (0.001, 1.0)
    assert load_config(write(to_yaml(first)), [], RunConfig) == first


def test_overrides_are_yaml_and_the_last_wins(write):
    path = write(MINIMAL)
    overrides = ["qd.bins=3", "qd.bins=4", "baselines.scaled_merge_factors=[1, 2e-1]"]
    run = load_config(path, overrides, RunConfig)
    assert run.qd.bins == 4
    assert run.baselines.scaled_merge_factors == (1.0, 0.2)


def test_override_of_a_task_given_by_import_path(write):
    text = MINIMAL.replace("skill_b", "'my.tasks:Chess'")
    run = load_config(write(text), ["experts.my.tasks:Chess=other"], RunConfig)
    assert run.experts["my.tasks:Chess"] == "other"


def test_problem_sizes_by_split(write):
    run = load_config(write(MINIMAL), ["problems.validate=7"], RunConfig)
    sizes = {"train": 600, "optimise": 24, "validate": 7, "test": 64}
    assert run.problems.sizes == sizes


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        ([], 32),
        (["engine.slots=128"], 32),
        (["engine.slots=auto"], 32),
        (["engine.slots=5"], 5),
        (["engine.slots=1"], 1),
        (["engine.slots=5", "engine.prefill_rows=2"], 2),
    ],
)
def test_rows_that_nobody_gave_fit_in_the_slots(write, overrides, rows):
    run = load_config(write(MINIMAL), overrides, RunConfig)
    assert run.engine.prefill_rows == rows


def test_configs_cannot_be_changed(write):
    run = load_config(write(MINIMAL), [], RunConfig)
    with pytest.raises(ValueError, match="frozen"):
        run.seed = 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=-1", ["seed: Input", "equal to 0 (given: -1)"]),
        ("seed=1.5", ["seed: ", "integer (given: 1.5)"]),
        ("seed='1'", ["seed: ", "integer (given: '1')"]),
        ("seed=true", ["seed: ", "integer (given: true)"]),
        ("sed=1", ["sed: Extra inputs", "did you mean seed?"]),
        ("qd.bin=3", ["qd.bin: Extra", "did you mean bins?"]),
        ("problems.validate_=3", ["problems.validate_: Extra", "mean validate?"]),
        ("problems.turns=3", ["problems.turns: ", "or equal to 2 (given: 3)"]),
        ("qd.bins=1", ["qd.bins: ", "or equal to 2 (given: 1)"]),
        ("qd.w_max=.nan", ["qd.w_max: ", "finite number (given: nan)"]),
        ("qd.mutation=cma", ["qd.mutation: ", "'svd'", "an import path", "'cma'"]),
        ("qd=3", ["qd: ", "dictionary", "(given: 3)"]),
        ("qd.cell_range=wide", ["qd.cell_range: ", "'relative' or be", "'wide'"]),
        ("qd.cell_range={skill_a: [0, 1]}", ["qd.cell_range", "skill_b"]),
        ("qd.cell_range={skill_a: [1, 0], skill_b: [0, 1]}", ["skill_a", "below"]),
        ("qd.crossover_std=0.3", ["qd.crossover_std: ", "0.2 (given: 0.3)"]),
        ("qd.crossover_mean=0.1", ["qd: crossover_std is 0.03", "a fifth"]),
        ("qd.alpha_low=0.9", ["qd: alpha_low is 0.9", "alpha_high"]),
        ("basis.rank=0", ["basis.rank: ", "'full' or be greater", "1 (given: 0)"]),
        ("basis.rank=all", ["basis.rank: ", "'full' or be a valid integer"]),
        ("tasks=[skill_a]", ["tasks: ", "at least 2 items", "['skill_a']"]),
        ("tasks=[skill_a, skill_a]", ["tasks: 'skill_a' is there twice"]),
        ("tasks=[skill_a, a b]", ["tasks.1: ", "'a b'", "package.module:Class"]),
        ("tasks=[skill_a, 3]", ["tasks.1: ", "string (given: 3)"]),
        ("experts={skill_a: a}", ["experts has entries for skill_a;", "skill_b"]),
        ("experts={a: a, b: b}", ["experts", "a, b;", "or none for a task"]),
        ("experts.skill_c=none", ["experts.skill_c is none", "skill_a, skill_b"]),
        ("experts={skill_a: a, skill_b: b, c/d: c}", ["name 'c/d': ", "at most 64"]),
        ("experts={skill_a: none, skill_b: none}", ["none for every task", "merged"]),
        ("experts.skill_a=", ["experts.skill_a: ", "(given: empty)"]),
        ("experts={1: a}", ["experts.[key]: ", "string (given: 1)"]),
        ("problems.validate=0", ["problems.validate is 0", "candidates is 3"]),
        ("engine.slots=0", ["engine.slots: ", "'auto' or be", "1 (given: 0)"]),
        (
            "engine={slots: 16, prefill_rows: 32}",
            ["engine: prefill_rows is 32", "slots, which is 16"],
        ),
        ("engine.prefill_chunk=7", ["prefill_chunk is 7", "divisor", "192"]),
        ("engine.decode_steps=193", ["decode_steps is 193", "192"]),
        ("engine.mode=fast", ["engine.mode: ", "'factored'", "'fast'"]),
        ("sandbox.kind=docker", ["sandbox.kind: ", "'bubblewrap' or 'none'"]),
        ("baselines.scaled_merge_factors=[]", ["at least 1 item"]),
        ("baselines.scaled_merge_factors=[1, 0]", ["factors.1: ", "than 0 (given: 0)"]),
        ("baselines.scaled_merge_factors=[1, 1.0]", ["1.0 is there twice"]),
        ("aggregation.candidates=-1", ["candidates: ", "to 0 (given: -1)"]),
        ("dtype=float16", ["dtype: ", "'bfloat16'", "'float16'"]),
        ("run_dir=3", ["run_dir: ", "string (given: 3)"]),
        ("seed", ["'seed' is not a setting", "key=value"]),
        ("=1", ["'=1' is not a setting"]),
        ("qd.=1", ["'qd.=1' is not a setting"]),
        ("seed=[", ["value of seed", "not valid YAML"]),
        ("seed=2020-13-40", ["value of seed", "not valid YAML"]),
        ("seed.x=1", ["seed.x cannot be set", "not a section"]),
    ],
)
def test_each_wrong_setting_is_one_sentence(override, words, write):
    path = write("seed: 0\n" + MINIMAL)
    text = message(path, [override])
    for word in words:
        assert word in text
    assert "command line" in text
    assert "pydantic" not in text and "Value error" not in text


def test_errors_in_the_file_name_the_file(write):
    path = write(MINIMAL + "qd: {bins: 1}\n")
    assert message(path, ["seed=1"]) == (
        f"{path}: qd.bins: Input should be greater than or equal to 2 (given: 1)."
    )
    assert "tasks: Field required" in message(write("base_model: x"))


def test_unknown_keys_without_a_near_one_are_told_the_known_ones(write):
    text = message(write(MINIMAL + "xyz: {}\n"))
    assert "xyz: Extra inputs are not permitted; known are seed, run_dir" in text
    text = message(write(MINIMAL + "engine: {mesh: {xyz: 1}}\n"))
    assert text.endswith("engine.mesh.xyz: Extra inputs are not permitted; known are "
                         "data, tensor.")  # fmt: skip


def test_the_home_folder_is_meant_wherever_a_path_is_read(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    text = MINIMAL.replace("{skill_a: a", "{skill_a: ~/a") + "run_dir: ~/runs/x\n"
    run = load_config(write(text), ["base_model=~/base"], RunConfig)
    assert run.run_dir == "/home/ada/runs/x" and run.base_model == "/home/ada/base"
    assert run.expert_paths == ("/home/ada/a", "b")
    text = "base_model: ~/m\noutput: ~/o\nexperts: {x: {~/d.jsonl: 1}}\n"
    train = load_config(write(text), [], TrainConfig)
    assert (train.base_model, train.output) == ("/home/ada/m", "/home/ada/o")
    assert train.experts == {"x": {"/home/ada/d.jsonl": 1.0}}
    assert "home folder" in message(write(MINIMAL), ["run_dir=~no_such_user/x"])


def test_a_search_is_named_or_imported(write):
    path = write(MINIMAL)
    run = load_config(path, [], RunConfig)
    assert run.search == "cycleqd" and run.search_settings == {}
    given = ["search=my.lab:Annealing", "search_settings.cooling=0.9"]
    run = load_config(path, given, RunConfig)
    assert run.search == "my.lab:Annealing" and run.search_settings["cooling"] == 0.9
    text = message(path, ["search=hillclimb"])
    assert "search: Input should be 'cycleqd'" in text and "an import path" in text


class Cooling(Section):
    """What a search of a user takes."""

    rate: PositiveFloat = 1.0


def test_settings_of_one_search_are_parsed_by_the_search():
    assert parse_section("search_settings", {"rate": 2.0}, Cooling).rate == 2.0
    with pytest.raises(BadInputError, match=r"^search_settings\.rate: Input should be"):
        parse_section("search_settings", {"rate": 0}, Cooling)
    with pytest.raises(BadInputError, match=r"^search_settings\.rat: .*mean rate\?$"):
        parse_section("search_settings", {"rat": 0}, Cooling)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["base_model: Field required"]),
        ("- a\n- b", ["is a mapping of keys to values", "['a', 'b']"]),
        ("seed: 1\nseed: 2", ["'seed' is given twice", "line 2"]),
        ("qd: {bins: 3, bins: 4}", ["'bins' is given twice"]),
        ("seed: [1", ["not valid YAML", "line"]),
        ("seed: 1\n---\nseed: 2", ["not valid YAML"]),
        ("? [a]\n: b", ["not valid YAML"]),
        ("seed: !!python/object/apply:os.getcwd []", ["not valid YAML"]),
        ("[" * 5000, ["not valid YAML"]),
        (b"seed: \xff", ["UTF-8"]),
        (b"seed: \x00", ["not valid YAML"]),
        ("seed: " + "9" * 5000, ["not valid YAML"]),
    ],
)
def test_each_wrong_file_is_one_sentence(text, words, write):
    path = write(text)
    got = message(path)
    assert got.startswith(f"{path}: ")
    for word in words:
        assert word in got


def test_unreadable_files(tmp_path):
    assert "no such config file" in message(tmp_path / "none.yaml")
    assert "cannot be read" in message(tmp_path)
    assert "cannot be read" in message("a\x00b")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lora.targets=[q_proj, q_proj]", ["'q_proj' is there twice"]),
        ("lora.rank=0", ["lora.rank: ", "(given: 0)"]),
        (
            "optimiser.warmup_steps=181",
            ["optimiser: warmup_steps is 181", "steps"],
        ),
        ("problems.train=4", ["problems.train is 4", "batch_size", "8"]),
        ("optimiser.learning_rate=0", ["learning_rate: ", "than 0 (given: 0)"]),
        ("optimizer.steps=3", ["optimizer: Extra inputs", "optimiser?"]),
        ("output=", ["output: ", "(given: empty)"]),
        ("tasks=[]", ["tasks is missing", "either tasks", "or experts"]),
        ("experts.x={pocket_db: 1}", ["tasks and experts are both given"]),
        ("method=qlora", ["method: ", "'lora' or 'full'"]),
        ("packing=1", ["packing: ", "boolean (given: 1)"]),
        ("too_long=cut", ["too_long: ", "'drop'", "'cut'"]),
        ("optimiser.accumulate_steps=3", ["accumulate_steps is 3", "divisor", "8"]),
        ("optimiser.checkpoint_every=0", ["checkpoint_every: ", "to 1 (given: 0)"]),
        ("validate_on=[a b]", ["'a b'", "package.module:Class"]),
    ],
)
def test_wrong_training_settings(override, words, write):
    text = message(CONFIGS / "quickstart_experts.yaml", [override], TrainConfig)
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("experts", "words"),
    [
        ("{x: {}}", ["experts.x: ", "at least 1 item"]),
        ("{x: 3}", ["experts.x: ", "dictionary (given: 3)"]),
        ("{x: {pocket_db: 0}}", ["experts.x.pocket_db: ", "than 0 (given: 0)"]),
        ("{x: {pocket_db: .inf}}", ["experts.x.pocket_db: ", "(given: inf)"]),
        ("{x: {chat.json: 1}}", ["'chat.json'", ".jsonl"]),
        ("{a/b: {pocket_db: 1}}", ["'a/b'", "letters, digits"]),
        ("{.x: {pocket_db: 1}}", ["'.x'", "letters, digits"]),
    ],
)
def test_wrong_mixtures(experts, words, write):
    text = f"base_model: m\noutput: o\nexperts: {experts}\n"
    got = message(write(text), cls=TrainConfig)
    for word in words:
        assert word in got


def test_mixtures_survive_the_round_trip(write):
    text = "base_model: m\noutput: o\nexperts: {x: {a: 1, 'b.c:D': .5, d/e.jsonl: 2}}"
    first = load_config(write(text), [], TrainConfig)
    assert first.experts["x"] == {"a": 1.0, "b.c:D": 0.5, "d/e.jsonl": 2.0}
    assert first.task_sources == ("a", "b.c:D")
    assert load_config(write(to_yaml(first)), [], TrainConfig) == first


def test_exponents_without_a_point_are_numbers(write):
    """PyYAML alone reads 1e-3 as text."""
    overrides = ["optimiser.learning_rate=1e-3"]
    path = CONFIGS / "quickstart_experts.yaml"
    assert load_config(path, overrides, TrainConfig).optimiser.learning_rate == 0.001
    assert yaml.safe_load("1e-3") == "1e-3"


def test_settings_of_one_task_on_the_command_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "base_model: m\ntasks: [a, 'b.c:D']\nexperts: {a: x, 'b.c:D': y}\n"
        "task_settings: {a: {data: one, rounds: 3}}\n"
    )
    given = [
        "task_settings.a.data=two",
        "task_settings.b.c:D={data: three}",
        "task_settings.b.c:D.rounds=4",
    ]
    config = load_config(path, given, RunConfig)
    assert config.task_settings == {
        "a": {"data": "two", "rounds": 3},
        "b.c:D": {"data": "three", "rounds": 4},
    }
    with pytest.raises(BadInputError, match="section 'c', which is not one of"):
        load_config(path, ["task_settings.c.data=x"], RunConfig)
    with pytest.raises(
        BadInputError, match=r"task_settings\.a is 'x' and not a section"
    ):
        load_config(path, ["task_settings.a=x", "task_settings.a.data=y"], RunConfig)


def test_a_shell_without_a_wall_is_refused(write):
    text = "seed: 0\n" + MINIMAL.replace("skill_a", "os_interaction")
    path = write(text)
    assert "which has no shells" in message(path, ["sandbox.kind=none"])
    backend = "task_settings={os_interaction: {backend: container, image: x}}"
    assert "which has no shells" in message(path, ["sandbox.kind=none", backend])
    assert load_config(path, [backend], RunConfig).sandbox.kind == "bubblewrap"


def test_a_preset_lies_below_the_runs_own_settings(write, tmp_path):
    preset = write("qd: {bins: 7, mutation: none}\nbasis.rank: 4\n", "preset.yaml")
    path = write(f"preset: {preset}\nqd: {{bins: 9}}\n{MINIMAL}")
    run = load_config(path, [], RunConfig)
    assert (run.qd.bins, run.qd.mutation, run.basis.rank) == (9, "none", 4)
    other = write("qd: {mutation: svd_all}\n", "other.yaml")
    run = load_config(path, [f"preset={other}", "qd.bins=8"], RunConfig)
    assert (run.qd.bins, run.qd.mutation) == (8, "svd_all")
    run = load_config(path, ["preset=null"], RunConfig)
    assert (run.qd.bins, run.qd.mutation) == (9, "svd")
    again = write(to_yaml(load_config(path, [], RunConfig)), "again.yaml")
    assert load_config(again, [], RunConfig).qd.mutation == "none"


def test_a_preset_is_found_from_where_one_is_or_beside_the_config(
    write, tmp_path, monkeypatch
):
    (tmp_path / "presets").mkdir()
    write("qd: {bins: 7}\n", "presets/mine.yaml")
    path = write(f"preset: presets/mine.yaml\n{MINIMAL}")
    assert load_config(path, [], RunConfig).qd.bins == 7
    here = tmp_path / "here"
    (here / "presets").mkdir(parents=True)
    monkeypatch.chdir(here)
    assert load_config(path, [], RunConfig).qd.bins == 7
    write("qd: {bins: 8}\n", "here/presets/mine.yaml")
    assert load_config(path, [], RunConfig).qd.bins == 8
    said = message(path, ["preset=presets/other.yaml"])
    assert said == "presets/other.yaml: there is no such config file."


def test_wrong_presets(write):
    preset = write("qd: {bins: 1}\n", "preset.yaml")
    path = write(f"preset: {preset}\n{MINIMAL}")
    assert message(path).startswith(f"{preset}: qd.bins: ")
    assert message(path, ["qd.bins=0"]).startswith("command line: qd.bins: ")
    assert "preset is 3; expected a file" in message(path, ["preset=3"])
    assert "there is no such config file" in message(path, ["preset=/not/there"])
    assert "has a preset itself" in message(path, [f"preset={path}"])
    assert message(write(MINIMAL), ["qd.bins=0"]).startswith("command line: qd.bins")


def test_presets_set_the_same_keys():
    # so that one replaces another without a rest of it
    only_of_gradients = ("steps", "problems", "rate", "sigma")

    def keys(path: pathlib.Path) -> set[tuple[str, str]]:
        sections = read_mapping(path).items()
        found = {(name, key) for name, inner in sections for key in inner}
        return found - {("qd", f"ascent_{key}") for key in only_of_gradients}

    paths = sorted((CONFIGS / "presets").glob("*.yaml"))
    assert {path.stem for path in paths} == {"best", "paper"}
    assert len({frozenset(keys(path)) for path in paths}) == 1


def test_the_papers_preset_is_the_default_search():
    preset = with_preset({"preset": "presets/paper.yaml"}, f"{CONFIGS}/x.yaml")
    for name, section in {"qd": QDSettings, "basis": BasisSettings}.items():
        assert section.model_validate(preset[name]) == section()
    wanted = {"candidates": 0, "choose_by": "quality", "result": "average"}
    assert preset["aggregation"] == wanted
