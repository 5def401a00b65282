"""A judge that lacks one rule is found out: an episode then gets a wrong verdict.

What cannot fail proves nothing. Each weakening takes one rule away and names an episode
that `test_hostile.py`, `test_tampering.py` or the controls below judge rightly.
"""

import dataclasses

import pytest

from cycleqd_jax.sandbox import holder, looking
from cycleqd_jax.tasks.base import Outcome
from cycleqd_jax.tasks.os_interaction import judge, kinds
from tests.support.benchmark_data import needs_data
from tests.tasks.os_interaction.conftest import FINISH, answer, bash
from tests.tasks.os_interaction.hostile import HOSTILE, RIGHT, WRONG, Hostile

pytestmark = needs_data
_FAKES = (
    "for t in {}; do printf '#!/bin/sh\\necho 99\\n' > /usr/local/bin/$t; "
    "chmod 755 /usr/local/bin/$t; done"
)
OWN = {
    "fake tools": Hostile(27, _FAKES.format("cat wc"), answer("99"), WRONG),
    "fake python": Hostile(
        27, "ln -s /bin/true /usr/local/bin/python3", answer("99"), WRONG
    ),
    "fake tools, executable": Hostile(
        7, _FAKES.format("find tr wc"), answer("99"), WRONG
    ),
    "no groups": Hostile(
        13, "printf 'group: evil\\n' > /etc/nsswitch.conf", answer("0"), WRONG
    ),
    "preload": Hostile(
        27, "cp /bin/true /x.so; echo /x.so > /etc/ld.so.preload", answer("3"), RIGHT
    ),
    "exit": Hostile(
        28, "printf 'echo 99\\nexit 0\\n' > ~/.bashrc", answer("99"), WRONG
    ),
    "bit is left": Hostile(50, "true", FINISH, WRONG),
    "condition": Hostile(
        37,
        "printf '#!/bin/sh\\necho \"0)<1) #\"\\n' > /usr/local/bin/calc; chmod 755 "
        "/usr/local/bin/calc",
        FINISH,
        WRONG,
    ),
}
KNOWN = HOSTILE | OWN


def in_own_world(monkeypatch):
    """Scripts that look run where the episode ran, as the benchmark has it."""

    async def look(self, code, arguments, how):
        argv = ["/bin/bash", "-c", code, "--", *arguments]
        environment = looking.ENVIRONMENT
        world = self._shell.world
        return await world.run(argv, environment, 20.0, alone=True)

    monkeypatch.setattr(looking.Looking, "look", look)


def compares_in_own_world(monkeypatch):
    """Comparisons run where the episode ran."""
    worlds = []

    async def compare(sandbox, script, parameters):
        words = [p.decode("utf-8", "surrogateescape") for p in parameters]
        argv = ["/usr/bin/env", "python3", "-c", script.code, *words]
        environment = looking.ENVIRONMENT
        return await worlds[-1].run(argv, environment, 20.0, alone=True)

    real = looking.Looking.__init__

    def noted(self, shell):
        worlds.append(shell.world)
        real(self, shell)

    monkeypatch.setattr(looking.Looking, "__init__", noted)
    monkeypatch.setattr(judge, "compare", compare)


def with_their_programs(monkeypatch):
    """Their programs can be executed, and come first on PATH."""
    real = kinds.look_of

    def look_of(script, *, checks):
        return dataclasses.replace(real(script, checks=checks), executable=True)

    monkeypatch.setattr(judge, "look_of", look_of)
    theirs_first(monkeypatch)


def theirs_first(monkeypatch):
    """Programs of the episode come first on PATH."""
    real = looking.Looking._in_wall

    async def in_wall(self, mounts, argv, environment, *rest, **more):
        path = f"{looking._THEIR_PATH}:{looking.PATH}"
        return await real(
            self, mounts, argv, environment | {"PATH": path}, *rest, **more
        )

    monkeypatch.setattr(looking.Looking, "_in_wall", in_wall)


def in_holder(line):
    """A weakening of the process that holds file systems."""

    def weaken(monkeypatch):
        code = holder._CODE.replace(
            "import json\n",
            f"import json\nfrom cycleqd_jax.sandbox import _slot\n{line}\n",
        )
        assert code != holder._CODE
        monkeypatch.setattr(holder, "_CODE", code)

    return weaken


def with_look(**fields):
    """Scripts that look get other things than they need."""

    def weaken(monkeypatch):
        real = kinds.look_of

        def look_of(script, *, checks):
            return dataclasses.replace(real(script, checks=checks), **fields)

        monkeypatch.setattr(judge, "look_of", look_of)

    return weaken


def without_patterns(monkeypatch):
    """Programs of the episode may print anything."""
    anything = dict.fromkeys(kinds._PROGRAMS, r"[\s\S]*")
    monkeypatch.setattr(kinds, "_PROGRAMS", anything)


def without_memory(monkeypatch):
    """Accounts that the episode took away are not known."""

    async def nothing(self):
        return None

    monkeypatch.setattr("cycleqd_jax.sandbox.shells.BubblewrapShell.remember", nothing)


WEAKENINGS = {
    "comparisons run in the episode's world": (compares_in_own_world, "fake python"),
    "looks run in the episode's world": (in_own_world, "fake tools"),
    "logins run in the episode's world": (in_own_world, "login: logout"),
    "programs of the episode are on PATH": (with_their_programs, "fake tools"),
    "programs of the episode come first": (theirs_first, "fake tools, executable"),
    "files that steer programs are there": (
        in_holder("_slot._STEERING = ()"),
        "preload",
    ),
    "name services are the episode's": (
        in_holder(
            "_slot.Slot._file = (lambda real: lambda self, path, text, mode: real("
            "self, path, 'group: evil' + chr(10) if 'trusted/etc/nss' in path else "
            "text, mode))(_slot.Slot._file)"
        ),
        "no groups",
    ),
    "~/.bashrc is read by the script": (with_look(bashrc=False), "exit"),
    "the system's files are seen": (with_look(changed=()), "bit is left"),
    "programs print anything": (without_patterns, "condition"),
    "accounts are not remembered": (without_memory, "login: no george"),
}


def verdict(task, play, case) -> bool:
    """Whether the answer is judged right."""
    (result,) = play(task, [(task.problem(case.index), [bash(case.code), case.last])])
    return result.outcome is Outcome.SOLVED


@pytest.mark.parametrize("name", OWN)
def test_the_judge_is_right(name, task, play):
    assert verdict(task, play, OWN[name]) == (OWN[name].expected == RIGHT)


@pytest.mark.parametrize("name", WEAKENINGS)
def test_a_weakened_judge_is_found_out(name, task, play, monkeypatch):
    weaken, episode = WEAKENINGS[name]
    weaken(monkeypatch)
    case = KNOWN[episode]
    assert verdict(task, play, case) != (case.expected == RIGHT)
