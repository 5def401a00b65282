"""A run is resumed with what it was begun with."""

import importlib
import shutil
import sys

import pytest

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs import source_hashes
from cycleqd_jax.runs.fingerprints import (
    FREE,
    OF_SEGMENTATION,
    check_same_inputs,
    code_hashes,
    compared_settings,
    stored_fingerprints,
)
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.setup import prepare
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.tasks.base import ProblemsSettings, TaskSettings
from cycleqd_jax.tasks.pocket.db import PocketDb

OWN_TASK = """
import toy_task

class Mine(toy_task.ToyA):
    name = "mine"
    free_options = ("data",)
"""


def changed(settings, sections):
    """Settings with other values in some sections."""
    return settings | {
        name: {**settings.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in sections.items()
    }


def settings_of(settings):
    config = RunConfig.model_validate(settings)
    tasks = make_tasks(config.tasks, config.problems, config.task_settings)
    return {"settings": compared_settings(config, 64, tasks)}


def prepared(settings, folder=None):
    return prepare(RunConfig.model_validate(settings), folder, Observer())


def begin(path, fingerprints):
    path.mkdir(exist_ok=True)
    files.write_sealed(path / "run.json", {"fingerprints": fingerprints})


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    """The file of a task of one's own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    path = tmp_path / "mine.py"
    path.write_text(OWN_TASK)
    importlib.invalidate_caches()
    yield path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"qd": {"w_max": 0.1}}, "qd.w_max was 0.3, now is 0.1"),
        ({"seed": 4}, "seed was 3, now is 4"),
        ({"date": "2020-01-02"}, "date was '2024-07-26', now is '2020-01-02'"),
        ({"dtype": "bfloat16"}, "dtype was 'float32', now is 'bfloat16'"),
        ({"qd": {"children_per_batch": 3}}, "qd.children_per_batch was 2, now is 3"),
        (
            {"aggregation": {"choose_by": "quality"}},
            "aggregation.choose_by was 'mean', now",
        ),
        ({"baselines": {"scaled_merge_factors": [0.5]}}, "baselines.scaled"),
        ({"basis": {"rank": 1}}, "basis.rank was 'full', now is 1"),
        (
            {"basis": {"conditioning_tasks": {"second": "toy_a"}}},
            "basis.conditioning_tasks.second was not set, now is 'toy_a'",
        ),
        ({"problems": {"test": 3}}, "problems.test was 4, now is 3"),
        (
            {"engine": {"deterministic": False}},
            "engine.deterministic was true, now is false",
        ),
        ({"sandbox": {"kind": "none"}}, "sandbox.kind was 'bubblewrap', now is 'none'"),
        ({"search": "random"}, "search was 'cycleqd', now is 'random'"),
        ({"search_settings": {"low": 0.1}}, "search_settings.low was not set, now is"),
    ],
)
def test_another_setting_is_refused_with_both_values(
    toy_settings, tmp_path, sections, words
):
    before = settings_of(toy_settings)
    begin(tmp_path, before | {"base model": "0"})
    check_same_inputs(tmp_path, before)
    with pytest.raises(BadInputError) as refused:
        check_same_inputs(tmp_path, settings_of(changed(toy_settings, sections)))
    assert f"other settings: {words}" in str(refused.value)
    assert str(refused.value).count("now is") == 1


def test_a_new_setting_is_compared_unless_it_is_named(toy_settings):
    """All settings but those in `FREE` are there, and `FREE` names real ones.

    Those of the other kind of models are not read, so they are free too.

    A mapping has an entry per key of its own, so an empty one has none.
    """
    dumped = RunConfig.model_validate(toy_settings).model_dump(mode="json")
    compared = settings_of(toy_settings)["settings"]
    for section, value in dumped.items():
        inner = isinstance(value, dict)
        keys = [key for key in value if value[key] != {}] if inner else []
        for name in [f"{section}.{key}" for key in keys] if inner else [section]:
            free = name in FREE or section in (*FREE, *OF_SEGMENTATION)
            assert (name in compared) != free or name == "engine.length", name
    for name in FREE:
        section, _, key = name.partition(".")
        assert section in dumped and (not key or key in dumped[section])


def test_more_generations_other_places_and_another_engine_are_the_same_run(
    toy_settings, tmp_path
):
    experts = {}
    for entry, path in toy_settings["experts"].items():
        experts[entry] = str(tmp_path / entry.partition(":")[2])
        shutil.copytree(path, experts[entry])
    more = {
        "run_dir": str(tmp_path / "run"),
        "experts": experts,
        "qd": {"num_generations": 50},
        "engine": {"slots": 4, "prefill_chunk": 32, "decode_steps": 2},
        "sandbox": {"workers": 1, "memoise": False},
        "logging": {"project": "other"},
    }
    before = prepared(toy_settings).fingerprints
    assert prepared(changed(toy_settings, more)).fingerprints == before


def test_a_longer_conversation_and_another_mode_are_other_runs(toy_settings, tmp_path):
    before = prepared(toy_settings)
    with RunFolder(tmp_path / "run", resume=True) as folder:
        begin(folder.path, before.fingerprints)
        there = sorted(folder.path.rglob("*"))
        for engine, words in [
            ({"length": 80}, "other settings: engine.length was 64, now is 80"),
            (
                {"mode": "materialised"},
                "engine.mode was 'factored', now is 'materialised'",
            ),
        ]:
            with pytest.raises(BadInputError, match=words):
                prepared(changed(toy_settings, {"engine": engine}), folder)
        auto = {"engine": {"mode": "auto"}}
        if prepared(changed(toy_settings, auto)).mode.mode == "factored":
            prepared(changed(toy_settings, auto), folder)  # how it is chosen is free
        assert sorted(folder.path.rglob("*")) == there


def test_a_judge_of_the_package_counts_wherever_the_package_lies(tmp_path, monkeypatch):
    here = source_hashes.task_judges(PocketDb), source_hashes.shared_judges()
    assert {"tasks/pocket/db.py", "tasks/pocket/episode.py"} <= set(here[0])
    assert {"tasks/base.py", "sandbox/bubblewrap.py"} <= set(here[1])
    assert not [name for found in here for name in found if "pycache" in name]
    for part in ("tasks", "sandbox"):
        shutil.copytree(source_hashes._PACKAGE / part, tmp_path / part)
    monkeypatch.setattr(source_hashes, "_PACKAGE", tmp_path)
    assert (source_hashes.task_judges(PocketDb), source_hashes.shared_judges()) == here
    with open(tmp_path / "tasks" / "pocket" / "db.py", "a") as file:
        file.write("\n# Judges otherwise.\n")
    run, now = tmp_path / "run", source_hashes.task_judges(PocketDb)
    begin(run, {"base model": "0", "code": {"task pocket_db": here[0]}})
    words = r"with other code of task pocket_db \(tasks/pocket/db\.py\); resume it"
    with pytest.raises(BadInputError, match=words):
        check_same_inputs(run, {"code": {"task pocket_db": now}})


def test_a_task_of_ones_own_counts_with_its_source_and_its_options(
    toy_settings, own_task, tmp_path
):
    def both(**options):
        other = toy_settings["tasks"][1]
        expert = toy_settings["experts"][other]
        config = RunConfig.model_validate(
            toy_settings
            | {
                "tasks": ["mine:Mine", other],
                "experts": {"mine:Mine": expert, other: expert},
                "task_settings": {"mine:Mine": options},
            }
        )
        tasks = make_tasks(config.tasks, config.problems, config.task_settings)
        return {
            "settings": compared_settings(config, 64, tasks),
            "code": code_hashes(config, tasks),
        }

    run = tmp_path / "run"
    before = both(data="here", strict=True)
    begin(run, before | {"base model": "0"})
    assert set(before["code"]["task mine"]) == {"mine", "toy_task"}
    check_same_inputs(run, both(data="there", strict=True))
    with pytest.raises(BadInputError, match=r"mine:Mine\.strict was true, now is not"):
        check_same_inputs(run, both(data="here"))
    own_task.write_text(OWN_TASK + "# Judges otherwise.\n")
    with pytest.raises(BadInputError, match=r"other code of task mine \(mine\); "):
        check_same_inputs(run, both(data="here", strict=True))


OWN_OPTIONS = """
import toy_task
from cycleqd_jax.files import Section, parse_section

class Options(Section):
    rounds: int = 5
    workers: int = 1

class Mine(toy_task.ToyA):
    name = "mine"
    free_options = ("workers",)

    def __init__(self, settings):
        super().__init__(settings)
        self.options = parse_section("mine", settings.options, Options)
"""


def test_options_of_a_task_are_compared_by_name(toy_settings, own_task, tmp_path):
    """As all built-in tasks have them: a default that is left out is the same."""
    own_task.write_text(OWN_OPTIONS)
    other = toy_settings["tasks"][1]
    expert = toy_settings["experts"][other]

    def settings(**options):
        return settings_of(
            toy_settings
            | {
                "tasks": ["mine:Mine", other],
                "experts": {"mine:Mine": expert, other: expert},
                "task_settings": {"mine:Mine": options},
            }
        )

    begin(tmp_path, settings() | {"base model": "0"})
    check_same_inputs(tmp_path, settings(rounds=5, workers=9))
    with pytest.raises(BadInputError, match=r"mine:Mine\.rounds was 5, now is 6; "):
        check_same_inputs(tmp_path, settings(rounds=6))


def test_another_chat_template_is_another_run(toy_settings, tmp_path):
    before = prepared(toy_settings).fingerprints
    base = shutil.copytree(toy_settings["base_model"], tmp_path / "base")
    moved = toy_settings | {"base_model": str(base)}
    assert prepared(moved).fingerprints == before
    path = base / "chat_template.jinja"
    path.write_text(path.read_text() + "{# #}")
    begin(tmp_path, before)
    with pytest.raises(BadInputError, match="begun with other tokeniser; resume"):
        check_same_inputs(tmp_path, prepared(moved).fingerprints)


def test_a_search_of_ones_own_counts_with_its_source(
    toy_settings, tmp_path, monkeypatch
):
    source = (
        "from cycleqd_jax.search.random import RandomSearch\n"
        "class Mine(RandomSearch):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_search.py").write_text(source)
    importlib.invalidate_caches()
    own = {"search": "own_search:Mine"}
    config = RunConfig.model_validate(changed(toy_settings, own))
    before = code_hashes(config, [])["search"]
    assert set(before) == {"own_search"}
    (tmp_path / "own_search.py").write_text(source + "# Searches otherwise.\n")
    assert code_hashes(config, [])["search"] != before
    built_in = RunConfig.model_validate(toy_settings)
    assert code_hashes(built_in, [])["search"] == {}
    sys.modules.pop("own_search", None)


def test_what_another_version_or_a_damaged_disk_left_is_one_sentence(tmp_path):
    check_same_inputs(tmp_path, {"settings": {}})  # no run yet
    begin(tmp_path, {"base model": "0", "search settings": "1"})
    with pytest.raises(BadInputError, match="another version, which kept no settings"):
        check_same_inputs(tmp_path, {"settings": {}})
    begin(tmp_path, {"base model": "0", "settings": {"seed": 3}})
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace('"seed": 3', '"seed": 4'))
    with pytest.raises(BadInputError, match=r"run\.json is damaged"):
        stored_fingerprints(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"run\.json is damaged"):
        stored_fingerprints(tmp_path)


def test_a_message_names_three_differences_and_counts_the_others(tmp_path):
    begin(tmp_path, {"base model": "0", "experts": dict.fromkeys("abcde", "1")})
    with pytest.raises(BadInputError, match=r"other experts \(a, b, c and 2 more\)"):
        check_same_inputs(tmp_path, {"experts": dict.fromkeys("abcde", "2")})


def test_problems_have_one_default():
    problems = ProblemsSettings()
    made = problems.task_settings({"a": 1}, download=False)
    assert made == TaskSettings(
        problems.seed, problems.sizes, problems.turns, {"a": 1}, False
    )
    assert (TaskSettings().seed, TaskSettings().turns) == (made.seed, made.turns)
