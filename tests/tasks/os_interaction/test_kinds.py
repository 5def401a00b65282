"""What scripts need is read from their text; some problems are refused."""

import json

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.base import Look
from cycleqd_jax.tasks.base import TaskSettings
from cycleqd_jax.tasks.os_interaction.kinds import (
    counts_processes,
    look_of,
    needs_sudo,
    why_refused,
)
from cycleqd_jax.tasks.os_interaction.problems import OsProblem, Script
from cycleqd_jax.tasks.os_interaction.task import OSInteraction
from tests.support.benchmark_data import data_folder, needs_data

COMPARE = "from sys import argv\nexit(argv[1] != argv[2])"


def problem(*check, example="wc -l < /x"):
    """One with these checks; None is the example."""
    scripts = tuple(c and Script(*c) for c in check)
    return OsProblem(
        0, "own", "?", (), None, None, False, scripts, Script("bash", example)
    )


@needs_data
def test_published_problems(task):
    """Their kinds, by number."""
    kinds: dict[str, set[int]] = {}
    for index in range(170):
        given = task.problem(index).data["problem"]
        if counts_processes(given):
            kinds.setdefault("processes", set()).add(index)
        assert why_refused(given) is None
        if needs_sudo(given):
            kinds.setdefault("sudo", set()).add(index)
        for check, script in zip(given.check, given.scripts, strict=True):
            if script.language == "bash":
                look = look_of(script, checks=check is not None)
                for name in ("tree", "executable", "bashrc", "logins"):
                    if getattr(look, name) != getattr(Look(), name):
                        kinds.setdefault(name, set()).add(index)
                for name in ("programs", "changed"):
                    if getattr(look, name):
                        kinds.setdefault(name, set()).add(index)
    assert kinds == {
        "processes": {56, 57, 60, 74, 131},
        "sudo": {52, 53, 55},
        "tree": {37, 149, 150},
        "executable": {7, 8, 15, 16, 167},
        "bashrc": {11, 28, 29, 30, 31, 32, 33},
        "logins": {49},
        "programs": {11, 37, 38, 39, 149, 150},
        "changed": {50},
    }


@pytest.mark.parametrize(
    "given",
    [
        problem(None, ("python", COMPARE)),
        problem(("bash", "[ -f /root/done ]")),
        problem(("bash", "# runs python3\ngrep -q 'perl | sh' /root/x")),
        problem(("bash", "find /x -exec stat -c %a {} + | sort | uniq -c")),
        problem(None, ("python", COMPARE), example="awk '{print $1}' /x | sort"),
        problem(("bash", "x=(/x/*); (( ${#x[@]} == 3 )) && [ ${x[0]} = /x/a ]")),
        problem(("bash", "[[ -f /x ]] && [ $(wc -l < /x) -eq 3 ]")),
        problem(("bash", "x=$(cat /x); (( x == 3 )) && grep -v y /x")),
    ],
)
def test_judged(given):
    assert why_refused(given) is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (problem(("bash", "python3 /root/x.py")), "runs python3"),
        (problem(("bash", "cat /x | perl -ne 1")), "runs perl"),
        (problem(("bash", "[ $(git -C /r log | wc -l) = 3 ]")), "runs git"),
        (problem(("bash", "bash /root/x.sh")), "runs bash"),
        (problem(("bash", "if su jack -c id; then :; fi")), "runs su"),
        (problem(("bash", ". /root/x")), "runs .,"),
        (problem(("bash", "find /x -exec sh {} +")), "runs sh"),
        (problem(("bash", "ls | xargs -n1 env python3")), "runs python3"),
        (problem(("python", "import os\nos.stat('/x')")), "says import os"),
        (problem(("python", "print(open('/x').read())")), "says open("),
        (problem(("python", "exit(eval(argv[1]) != 3)")), "says eval("),
        (problem(None, example="sudo ls"), "example script runs sudo"),
        (problem(("bash", "sudo whoami; sudo /root/x")), "runs sudo"),
        (problem(("bash", "A=1 B=2 python3 /root/x.py")), "runs python3"),
        (problem(("bash", "timeout 9 python3 /root/x.py")), "runs python3"),
        (problem(("bash", "find /x -execdir sh {} +")), "runs sh"),
        (problem(("bash", "sort /x | awk -f /root/sum.awk")), "runs awk"),
        (problem(("bash", "[ $(($(cat /x) + 1)) = 3 ]")), "calculates by '(($('"),
        (problem(("bash", "[[ $(cat /x) -eq 3 ]]")), "calculates by"),
        (problem(("bash", "[[ 3 -eq $(cat /x) ]]")), "calculates by"),
        (problem(("bash", "f() { (( $1 > 2 )); }; f $(cat /x)")), "calculates by"),
        (problem(("bash", "x=$(cat /x) y=$((x))")), "calculates by"),
        (problem(("bash", "let x=$(cat /x)")), "calculates by 'let'"),
        (problem(("bash", "declare -i x; x=$(cat /x)")), "calculates by"),
        (problem(("bash", 'i=$(cat /x); [ "${list[$i]}" = y ]')), "calculates by"),
        (
            problem(("bash", "source ~/.bashrc; find ${PATH//:/ } -executable | nl")),
            "executable in the PATH of ~/.bashrc",
        ),
    ],
)
def test_refused(given, why):
    """What obeys files that the episode could have written."""
    assert why in why_refused(given)


@needs_data
def test_refused_when_read(tmp_path):
    """By the file and the number, before anything runs."""
    source = data_folder() / "os_interaction"
    for name in ("prompt.json", "cycleqd_task_ids.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    row = {
        "index": 1,
        "description": "Write a module.",
        "init_script": [],
        "start": None,
        "match": None,
        "check": [{"language": "bash", "code": "python3 -c 'import mine'"}],
        "example_script": None,
    }
    (tmp_path / "problems.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInputError, match=r"problems\.jsonl: problem 1 .*python3"):
        OSInteraction(TaskSettings(options={"data": str(tmp_path)}))
