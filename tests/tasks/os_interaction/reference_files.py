"""A small folder of the reference's files: samples of look-alike classes, pickled."""

import contextlib
import pathlib
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

from cycleqd_jax.tasks.base import TaskSettings
from cycleqd_jax.tasks.os_interaction.task import OSInteraction

MODULE = "fishfarm.tasks.os_interaction"
INTRO = "My problem is:\n\n"
PREFIX = [
    {"role": "user", "content": "Rules."},
    {"role": "assistant", "content": "Act: answer(220)"},
]
MATCH = ("python", "from sys import argv\nexit(argv[1] != argv[2])")
CONFIGS = [
    {"asked": "How many?", "check": [None, MATCH], "example_script": ("bash", "ls")},
    {
        "asked": "What is {description}?",
        "init_script": [("bash", "true"), MATCH],
        "start": ("bash", "cd /"),
        "match": {"answer": "no", "strip": False},
    },
]


class JudgeConfig:
    """What is None is only in the class."""

    __module__ = MODULE
    image = init_script = start = description = check = match = example_script = None

    def __init__(self, config):
        self.description = config["asked"]
        self.__dict__.update({k: v for k, v in config.items() if k != "asked"})


class OSInteractionSample:
    """A problem with its conversation."""

    __module__ = MODULE

    def __init__(self, index, config):
        self.problem = [*PREFIX, {"role": "user", "content": INTRO + config["asked"]}]
        self.index = index
        pair = {"file": "data/1/a.json", "config": JudgeConfig(config), "index": index}
        self.config = pair


def samples() -> list[OSInteractionSample]:
    """Two samples."""
    return [OSInteractionSample(i, config) for i, config in enumerate(CONFIGS)]


@contextlib.contextmanager
def classes_known() -> Iterator[None]:
    """Python's own pickle finds the classes."""
    names = MODULE.split(".")
    modules = {
        name: types.ModuleType(name)
        for name in (".".join(names[: i + 1]) for i in range(len(names)))
    }
    modules[MODULE].OSInteractionSample = OSInteractionSample
    modules[MODULE].JudgeConfig = JudgeConfig
    with mock.patch.dict(sys.modules, modules):
        yield


def write(tmp_path: pathlib.Path, content: Any, protocol: int = 4) -> pathlib.Path:
    """The folder, with samples, or bytes in their place, and the list of ids."""
    folder = tmp_path / "fetched"
    folder.mkdir(exist_ok=True)
    if not isinstance(content, bytes):
        with classes_known():
            content = pickle.dumps(content, protocol)
    (folder / "samples.pkl").write_bytes(content)
    (folder / "agentbench_os.py").write_text(
        "import nothing_that_exists\n"
        "class Task:\n    def __init__(self):\n        self._task_ids = [1, 0]\n"
    )
    return folder


def make(folder: pathlib.Path, **options) -> OSInteraction:
    """The task with such a folder."""
    return OSInteraction(TaskSettings(options={"data": str(folder), **options}))
