"""Tasks made from files in a config: the short form, the long one, what is refused."""

import pytest

from cycleqd_jax.config import RunConfig, load_config, to_yaml
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.own.options import named_tasks
from cycleqd_jax.training.settings import TrainConfig

LONG = """
tasks: [capitals, pocket_db]
task_settings:
  capitals: { jsonl: FILE, prompt: "{q}?", answer: a, scorer: exact }
"""
SHORT = """
tasks:
  - { name: capitals, jsonl: FILE, prompt: "{q}?", answer: a, scorer: exact }
  - pocket_db
"""
REST = """
base_model: m
experts: { capitals: one, pocket_db: two }
problems: { train: 1, optimise: 2, validate: 1, test: 1 }
"""


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "capitals.jsonl"
    path.write_text("".join(f'{{"q": "q{i}", "a": "a{i}"}}\n' for i in range(6)))
    return path


def load(folder, text, overrides=(), cls=RunConfig):
    path = folder / "run.yaml"
    path.write_text(text.replace("FILE", str(folder / "capitals.jsonl")))
    return load_config(path, overrides, cls)


def test_the_short_form_is_the_long_one(tmp_path, rows):
    short, long = (load(tmp_path, text + REST) for text in (SHORT, LONG))
    assert short == long
    assert load(tmp_path, to_yaml(short)) == short
    tasks = make_tasks(short.tasks, short.problems, short.task_settings)
    assert [task.name for task in tasks] == ["capitals", "pocket_db"]
    assert len(tasks[0].problems(Split.OPTIMISE)) == 2
    assert short.name_experts([t.name for t in tasks])["capitals"] == "one"


def test_the_file_s_name_is_the_task_s_and_a_command_line_may_override(tmp_path, rows):
    text = SHORT.replace("name: capitals, ", "") + REST
    config = load(tmp_path, text, ["task_settings.capitals.max_new_tokens=9"])
    (task, _) = make_tasks(config.tasks, config.problems, config.task_settings)
    assert (task.name, task.max_new_tokens) == ("capitals", 9)


def test_experts_are_trained_on_them(tmp_path, rows):
    text = SHORT.replace("tasks:", "validate_on:") + (
        "base_model: m\noutput: o\nexperts: { one: { capitals: 1 } }\n"
        "problems: { train: 8 }"
    )
    config = load(tmp_path, text, cls=TrainConfig)
    assert config.validation_tasks == ("capitals", "pocket_db")
    assert config.task_settings["capitals"]["scorer"] == "exact"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([{"prompt": "x"}], "with jsonl or csv"),
        ([{"jsonl": "my-data.jsonl"}], "has no name"),
        ([{"jsonl": "a.jsonl", "name": "my skill"}], "the name 'my skill'"),
        ([{"csv": "a.csv"}, {"jsonl": "a.jsonl"}], "two tasks .* name 'a'"),
    ],
)
def test_mappings_that_are_no_tasks(entries, says):
    with pytest.raises(ValueError, match=says):
        named_tasks({"tasks": entries})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scorer": "rouge"}, r"capitals\.scorer: Input should be 'exact'.*'rouge'"),
        ({"csv": "x.csv"}, "one of jsonl, csv, hub, but jsonl and csv are"),
        ({"scorer": "choice"}, "choices is missing"),
        ({"tolerance": 0.1}, "tolerance belongs to the scorers number"),
        ({"split": "s", "test": 3}, "leave test out"),
        ({"promt": "x"}, "did you mean prompt"),
        ({"prompt": "{q"}, r"capitals\.prompt: .*write \{field\}"),
        ({"prompt": "{q:>99}"}, "is no field"),
        ({"prompt": "{}"}, "is no field"),
    ],
)
def test_settings_that_are_refused(tmp_path, rows, change, says):
    config = load(tmp_path, SHORT + REST)
    own = {**config.task_settings["capitals"], **change}
    with pytest.raises(BadInputError, match=says):
        make_tasks(["capitals"], config.problems, {"capitals": own})


def test_a_built_in_task_keeps_its_name(tmp_path, rows):
    config = load(tmp_path, SHORT + REST)
    own = config.task_settings["capitals"]
    with pytest.raises(BadInputError, match="pocket_os is a built-in task"):
        make_tasks(["pocket_os"], config.problems, {"pocket_os": own})
