import sys
import types

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.registry import BUILT_IN, make_task

SETTINGS = TaskSettings(3, {Split.TEST: 2})


class Complete:
    def __init__(self, settings):
        self.settings = settings
        self.name, self.max_new_tokens, self.fingerprint = "own", 5, "abc"

    def problems(self, split):
        return ()

    def dialogue(self, problem):
        return ()

    async def run(self, problem, chat, sandbox):
        raise NotImplementedError


class WithoutRun:
    name, max_new_tokens, fingerprint = "own", 5, "abc"

    def __init__(self, settings):
        pass

    def problems(self, split):
        return ()

    dialogue = "a text"


class Nameless(Complete):
    def __init__(self, settings):
        super().__init__(settings)
        self.name = ""


class Speechless(Complete):
    def __init__(self, settings):
        super().__init__(settings)
        self.max_new_tokens = 0


class TakesNothing:
    pass


class Raising(Complete):
    def __init__(self, settings):
        raise KeyError("words")


class RunsAlone(Complete):
    async def run(self, problem):
        raise NotImplementedError


class WithoutValidate(Complete):
    def problems(self, split):
        return {"train": (), "optimise": (), "test": ()}[split]


class OfTexts(Complete):
    def problems(self, split):
        return ["Say it."]


class Hashless(Complete):
    def __init__(self, settings):
        super().__init__(settings)
        self.fingerprint = 5


MISTAKEN = (Raising, RunsAlone, WithoutValidate, OfTexts, Hashless)


@pytest.fixture(autouse=True)
def own_module(monkeypatch):
    module = types.ModuleType("own_tasks")
    whole = (Complete, WithoutRun, Nameless, Speechless, TakesNothing)
    for kind in (*whole, *MISTAKEN):
        setattr(module, kind.__name__, kind)
    module.number = 7
    monkeypatch.setitem(sys.modules, "own_tasks", module)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_by_name(name):
    task = make_task(name, SETTINGS)
    assert task.name == name
    assert len(task.problems(Split.TEST)) == 2
    assert task.problems(Split.TRAIN) == ()


def test_an_option_that_a_pocket_task_does_not_have():
    with pytest.raises(BadInputError, match=r"task_settings\.pocket_db\.x: Extra"):
        make_task("pocket_db", TaskSettings(options={"x": 1}))


def test_own_class_by_import_path():
    task = make_task("own_tasks:Complete", SETTINGS)
    assert task.name == "own" and task.settings is SETTINGS


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "pocket_poetry",
            "pocket_coding, pocket_coding_hard, pocket_db, pocket_db_hard",
        ),
        ("own_tasks:", "pocket_coding"),
        ("no_such_module_here:Task", "no_such_module_here"),
        ("own_tasks:Absent", "nothing called Absent"),
        ("own_tasks:number", "a int called number"),
        ("own_tasks:WithoutRun", "lacks dialogue \\(a method\\), run \\(a method\\)"),
        ("own_tasks:TakesNothing", "Class\\(settings\\)"),
        ("own_tasks:Nameless", "name"),
        ("own_tasks:Speechless", "max_new_tokens"),
        ("own_tasks:Raising", r"raised KeyError: 'words' \(test_registry\.py, line"),
        ("own_tasks:RunsAlone", r"a method run\(problem, chat, sandbox\)"),
        ("own_tasks:WithoutValidate", r"validate.*KeyError.*a split without any \(\)"),
        ("own_tasks:OfTexts", "base.Problem with texts as ids, but has 'Say it.'"),
        ("own_tasks:Hashless", "a string, but has 5"),
    ],
)
def test_what_cannot_be_made_is_bad_input(name, says):
    with pytest.raises(BadInputError, match=says):
        make_task(name, SETTINGS)


def test_broken_module_is_bad_input(tmp_path, monkeypatch):
    (tmp_path / "broken_task_module.py").write_text("class Task(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInputError, match="broken_task_module"):
        make_task("broken_task_module:Task", SETTINGS)
