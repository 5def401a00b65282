"""Wrong answers stay wrong whatever an episode does to the system; right ones right."""

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import ENVIRONMENT
from cycleqd_jax.tasks.base import Outcome
from tests.support.benchmark_data import needs_data
from tests.tasks.os_interaction import attacks
from tests.tasks.os_interaction.conftest import FINISH, answer, bash

pytestmark = needs_data
BACKENDS = ("host", "overlay")
CASES = [
    (27, attacks.NUMBER, answer("99")),
    (11, attacks.BASHRC, FINISH),
    (28, attacks.PATHS, answer("99")),
    (49, attacks.READABLE, FINISH),
]


@pytest.fixture(scope="module")
def tasks(make_task):
    """By backend."""
    return {name: make_task(backend=name) for name in BACKENDS}


def cases():
    """(Backend, problem, commands, last reply) of every attack."""
    for backend in BACKENDS:
        for index, commands, last in CASES:
            for name, code in commands.items():
                case = f"{backend}-{index}-{name}"
                yield pytest.param(backend, index, code, last, id=case)
        for name, code in attacks.CALC.items():
            yield pytest.param(
                backend, 37, write_calc(code), FINISH, id=f"{backend}-37-{name}"
            )
    for name, code in attacks.SETUID.items():
        yield pytest.param("overlay", 50, code, FINISH, id=f"overlay-50-{name}")


def write_calc(code: str) -> str:
    """Commands that make `code` the program calc."""
    lines = [
        "cp /bin/true /tmp/true",
        "cat > /usr/local/bin/calc <<'END'",
        "#!/bin/bash",
    ]
    return "\n".join([*lines, code, "END", "chmod 755 /usr/local/bin/calc"])


@pytest.fixture(scope="module")
def outcomes(tasks, play):
    """(Backend, problem, commands) -> outcome, played beside each other."""
    found = {}
    for backend, task in tasks.items():
        mine = [c.values for c in cases() if c.values[0] == backend]
        episodes = [
            (task.problem(index), [bash(code), last]) for _, index, code, last in mine
        ]
        for (_, index, code, _), result in zip(mine, play(task, episodes), strict=True):
            found[backend, index, code] = result.outcome
    return found


@pytest.mark.parametrize(("backend", "index", "code", "last"), tuple(cases()))
def test_stays_wrong(backend, index, code, last, outcomes):
    """No attack makes a wrong answer right."""
    del last
    assert outcomes[backend, index, code] is not Outcome.SOLVED


HARMLESS = {
    "fork bomb": "f() { f | f & }; f 2> /dev/null",
    "full disk": "dd if=/dev/zero of=/full bs=1M 2> /dev/null; echo x > /more",
    "many files": "mkdir /m; cd /m; for i in {1..200}; do touch {1..300}$i; done "
    "2> /dev/null",
    "background": "sleep 1000 & while :; do :; done &",
    "signals": "trap '' TERM HUP INT; kill -9 1; kill -STOP 1; sleep 1000 &",
    "shadows": attacks.NUMBER["shadow local bin"],
    "user site": attacks.NUMBER["user site"],
    "shell start files": attacks.NUMBER["shell start files"],
    "null": "rm -f /dev/null; rm -rf /dev/*; rm -rf /tmp /var; mkfifo /tmp",
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", HARMLESS)
def test_stays_right(backend, name, tasks, play):
    """What does not concern the answer does not change the verdict."""
    task = tasks[backend]
    replies = [bash(HARMLESS[name]), answer("3")]
    (result,) = play(task, [(task.problem(27), replies)])
    assert result.outcome is Outcome.SOLVED, result.explanation


GOLD = {
    37: bash(
        "cat > /usr/local/bin/calc <<'END'\n#!/bin/bash\n"
        "python3 -c \"print('%.6f' % ($*))\"\nEND\nchmod +x /usr/local/bin/calc"
    ),
    49: bash(
        "groupadd t; for u in jack bill tom; do usermod -a -G t $u; done; "
        "chgrp t /testfile; chmod 640 /testfile"
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("index", GOLD)
def test_right_way(backend, index, tasks, play):
    """The same problems, solved."""
    task = tasks[backend]
    (result,) = play(task, [(task.problem(index), [GOLD[index], FINISH])])
    assert result.outcome is Outcome.SOLVED, result.explanation


def test_setuid_right_way(tasks, play):
    """The program loses its bit, and is the system's again where it was replaced."""
    task = tasks["overlay"]
    replies = [bash("cp /bin/ls /usr/bin/find; chmod u-s /usr/bin/find"), FINISH]
    (result,) = play(task, [(task.problem(50), replies)])
    assert result.outcome is Outcome.SOLVED, result.explanation


async def weak_judge(shell, sandbox, problem, answered, limit_s):
    """As the benchmark does it: the scripts run in the episode's own system."""
    parameters = [str(answered)]
    for given in problem.check:
        script = given or problem.example
        try:
            start = {"bash": ["/bin/bash"], "python": ["/usr/bin/env", "python3"]}
            argv = [*start[script.language], "-c", script.code]
            argv += ["--"] if script.language == "bash" else []
            run = await shell.world.run(
                [*argv, *parameters], ENVIRONMENT, 2.0, alone=False
            )
        except SandboxError:
            return False, "It has no shell any more."
        if run.status != 0 or run.ended != "done":
            return False, run.output.decode()
        parameters.append(run.output)
    return True, ""


def test_weakened(monkeypatch, tasks, play):
    """Without the protection attacks succeed; those that cannot would prove nothing."""
    monkeypatch.setattr("cycleqd_jax.tasks.os_interaction.task.judge", weak_judge)
    task = tasks["overlay"]
    names, episodes = [], []
    for index, commands, last in (*CASES, (50, attacks.SETUID, FINISH)):
        for name in attacks.EFFECTIVE[index]:
            names.append(f"{index}-{name}")
            episodes.append((task.problem(index), [bash(commands[name]), last]))
    results = play(task, episodes)
    failed = [
        name
        for name, result in zip(names, results, strict=True)
        if result.outcome is not Outcome.SOLVED
    ]
    assert not failed
