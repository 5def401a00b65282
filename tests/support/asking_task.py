"""Tasks whose questions try to be more than a text, for runs that are made up."""

import hashlib

import yaml
from named_task import NamedTask

from cycleqd_jax import files
from cycleqd_jax.tasks.base import Problem, ProblemsSettings, Split

HOSTILE = "What is <img src=x onerror=\"document.title='owned'\">\x1b[2J\u202e 2 + 2?"
SHOWN = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")


class SkillA(NamedTask):
    name = "skill_a"

    def __init__(self, settings):
        self._problems = {
            split: [
                Problem(f"{self.name}/{split}/{i}", f"{i}: {HOSTILE}", "4")
                for i in range(settings.sizes.get(split, 0))
            ]
            for split in Split
        }
        content = repr((self.name, self._problems)).encode()
        self.fingerprint = hashlib.sha256(content).hexdigest()

    async def run(self, problem, chat, sandbox):
        raise NotImplementedError


class SkillB(SkillA):
    name = "skill_b"


class SkillC(SkillA):
    name = "skill_c"


ENTRIES = {
    kind.name: f"asking_task:{kind.__name__}" for kind in (SkillA, SkillB, SkillC)
}


def give_questions(run, other=()):
    """A made-up run of three skills gets these tasks; those of `other` are changed."""
    config = run / "config.yaml"
    content = config.read_text()
    for name, entry in ENTRIES.items():
        content = content.replace(f"'{name}'", f"'{entry}'")
        content = content.replace(f'"{name}"', f'"{entry}"')
    config.write_text(content)
    problems = ProblemsSettings.model_validate(yaml.safe_load(content)["problems"])
    settings = problems.task_settings({})
    fingerprints = {
        kind.name: "0" if kind.name in other else kind(settings).fingerprint
        for kind in (SkillA, SkillB, SkillC)
    }
    facts = {"base model": "0", "tasks": fingerprints}
    files.write_sealed(
        run / "run.json", {"tasks": list(ENTRIES), "fingerprints": facts}
    )
