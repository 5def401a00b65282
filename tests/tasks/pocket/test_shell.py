"""One command, judged by output or by the files it leaves."""

import re

import pytest

from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings
from cycleqd_jax.tasks.pocket.shell import PocketOs, PocketOsHard


@pytest.fixture(scope="module")
def shell():
    return PocketOs(TaskSettings(0, {Split.TEST: 128}))


def verdicts(shell, play, problem, commands):
    return [r.outcome for r in play(shell, [(problem, [c]) for c in commands])]


def expect(shell, play, problem, right=(), wrong=()):
    found = verdicts(shell, play, problem, [*right, *wrong])
    assert found == [Outcome.SOLVED] * len(right) + [Outcome.WRONG] * len(wrong)


def files_of(problem):
    """The files that a right command names, in its order."""
    words = problem.answer.replace("'", " ").split()
    return [w for w in words if w in problem.data["files"]]


def test_counts_may_name_their_file(shell, play, find_problem):
    problem = find_problem(shell, "count_lines")
    (f,) = files_of(problem)
    count = problem.data["expected"]
    expect(
        shell,
        play,
        problem,
        right=[f"wc -l {f}", f"cat {f} | wc -l", f"grep -c '' {f}", f"sed -n $= {f}"],
        wrong=[f"wc {f}", f"wc -w < {f}", f"echo {count}0", f"echo {count} and more"],
    )


def test_lines_count_in_order_without_trailing_blanks(shell, play, find_problem):
    problem = find_problem(shell, "sort")
    (f,) = files_of(problem)
    expect(
        shell,
        play,
        problem,
        right=[f"sort < {f}", f"sort {f} | sed 's/$/  /'; echo", f"sort {f}; exit 3"],
        wrong=[f"cat {f}", f"sort -r {f}", f"sort {f} | head -n 3", f"sort {f} >&2"],
    )


def test_sets_of_paths_come_in_any_order(shell, play, find_problem):
    problem = find_problem(shell, "find")
    backwards = problem.answer + " | sort -r"
    dotted = problem.answer.replace("find ", "find ./").replace(" ", " ./", 2)
    dotted = dotted.replace("././", "./").replace("./-name", "-name")
    twice = f"{problem.answer}; {problem.answer}"
    expect(shell, play, problem, right=[backwards, dotted], wrong=[twice, "find ."])


def test_effects_are_whole_folders(shell, play, find_problem):
    problem = find_problem(shell, "rename")
    f, h = problem.answer.split()[1:]
    expect(
        shell,
        play,
        problem,
        right=[f"mv -- ./{f} {h}", f"cp {f} {h} && rm {f}", f"mv {f} {h}; false"],
        wrong=[
            f"cp {f} {h}",
            f"ln -s {f} {h}",
            f"mv {f} {h}; touch more",
            f"mv {f} {h}; mkdir more",
            f"rm {f}; touch {h}",
            "true",
        ],
    )


def test_new_folders_must_be_empty(shell, play, find_problem):
    problem = find_problem(shell, "mkdir")
    folder = problem.answer.split()[1]
    expect(
        shell,
        play,
        problem,
        right=[f"mkdir -p {folder}"],
        wrong=[f"mkdir -p {folder}/x", f"touch {folder}", f"mkdir {folder}s"],
    )


HOSTILE = [
    "I would use the shell for that.",
    "while true; do :; done",
    "yes",
    "head -c 100000000 /dev/zero",
    ":(){ :|:& };:",
    "exit 0",
    "kill -9 $$",
    "kill -9 -1",
    "rm -rf / ~ . *",
    "printf '\\xff\\xfe' > $(printf 'a\\xffb')",
    "cat /proc/self/cmdline /proc/1/cmdline /proc/*/environ",
    "set; env; ls -la",
    "'unclosed",
    "\x07\x1b[2J",
]


@pytest.mark.parametrize("template", ["largest", "write"])
def test_hostile_commands_are_wrong_and_nothing_worse(
    shell, play, find_problem, template
):
    problem = find_problem(shell, template)
    results = play(shell, [(problem, [command]) for command in HOSTILE])
    for command, result in zip(HOSTILE, results, strict=True):
        assert result.outcome is Outcome.WRONG, command
        assert result.explanation and "\n" not in result.explanation
        result.explanation.encode()


def test_the_program_does_not_hold_the_expectation(shell, in_sandbox):
    class Watching:
        def __init__(self, inner):
            self.inner = inner

        async def run(self, program):
            assert dict(program.files).keys() == problem.data["files"].keys()
            assert program.argv == ("bash", "-c", "true") and program.stdin == b""
            return await self.inner.run(program)

    for problem in shell.problems(Split.TEST)[:5]:
        reason = in_sandbox(
            lambda sandbox, problem=problem: shell.judge(
                problem, "true", Watching(sandbox)
            )
        )
        assert reason


def test_no_expectation_is_met_by_doing_nothing(shell):
    for problem in shell.problems(Split.TEST):
        expected = problem.data["expected"]
        if problem.data["judged_by"] == "files":
            assert expected != problem.data["files"]
        else:
            assert expected.strip()


@pytest.fixture(scope="module")
def pipelines():
    return PocketOsHard(TaskSettings(0, {Split.TEST: 128}))


def without_a_stage(command):
    """Pipelines that lack one of the later commands, its redirection kept."""
    first, *stages = command.split(" | ")
    for i in range(len(stages)):
        rest = [first, *stages[:i], *stages[i + 1 :]]
        target = re.search(r" >>? \S+$", stages[i]) if i == len(stages) - 1 else None
        yield " | ".join(rest) + (target[0] if target else "")


def test_a_pipeline_without_one_of_its_commands_is_wrong(pipelines, play):
    cases = [
        (problem, [shorter])
        for problem in pipelines.problems(Split.TEST)
        for shorter in without_a_stage(problem.answer)
    ]
    assert len(cases) > 60
    results = play(pipelines, cases)
    assert sum(result.score for result in results) / len(cases) < 0.05


def test_other_right_pipelines_are_right(pipelines, play, find_problem):
    problem = find_problem(pipelines, "ranking")
    (f,) = files_of(problem)
    order = "-nr" if problem.answer.endswith("-nr") else "-n"
    expect(
        pipelines,
        play,
        problem,
        right=[
            f"cat {f} | sort | uniq -c | sort {order}",
            f"sort {f} | uniq -c | sort {order} | awk '{{print $1, $2}}'",
            f"awk '{{n[$0]++}} END {{for (w in n) print n[w], w}}' {f} | sort {order}",
        ],
        wrong=[f"sort {f} | uniq -c", f"sort {f} | uniq | sort {order}", f"cat {f}"],
    )


def test_loops_touch_every_file(pipelines, play, find_problem):
    problem = find_problem(pipelines, "loop_suffix")
    pattern, suffix = re.search(
        r"in (\S+); do mv \$p \$p\.(\w+);", problem.answer
    ).groups()
    expect(
        pipelines,
        play,
        problem,
        right=[
            f"for name in $(ls {pattern}); do mv $name $name.{suffix}; done",
            f"ls {pattern} | while read p; do mv $p $p.{suffix}; done",
        ],
        wrong=[
            f"for p in {pattern}; do cp $p $p.{suffix}; done",
            f"for p in *; do mv $p $p.{suffix}; done",
            f"mv $(ls {pattern} | head -n 1) x.{suffix}",
        ],
    )
