"""Options, splits, prompts, data errors, what ends an episode."""

import dataclasses
import json
import shlex
import shutil
import time

import pytest

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings
from cycleqd_jax.tasks.os_interaction import backend
from cycleqd_jax.tasks.os_interaction.actions import clean, extract_action, feedback
from cycleqd_jax.tasks.os_interaction.problems import read_problems
from cycleqd_jax.tasks.os_interaction.task import OSInteraction
from tests.support.benchmark_data import data_folder, needs_data
from tests.tasks.os_interaction.conftest import FINISH, answer, bash

SUDO = (52, 53, 55)  # problems
SIZES = {Split.OPTIMISE: 20, Split.VALIDATE: 20, Split.TEST: 100}


@needs_data
def test_reference_split(make_task, caplog, monkeypatch):
    """The reference's list of problems, five times if so asked."""
    ids = json.loads(
        (data_folder() / "os_interaction/cycleqd_task_ids.json").read_text()
    )
    task = make_task(split="reference")
    assert "Problem 52 of the list is left out: its check runs sudo" in caplog.text
    problems = task.problems(Split.OPTIMISE)
    judged = [f"os_interaction/{i}" for i in ids if i != 52]
    assert [p.id for p in problems] == judged
    assert not task.problems(Split.TEST)
    task = make_task(split="reference", repetitions=5)
    problems = task.problems(Split.OPTIMISE)
    assert len(problems) == len({p.id for p in problems}) == 545
    caplog.clear()
    monkeypatch.setattr(backend, "check_shells", lambda root: None)
    task = make_task(split="reference", backend="overlay", image="/x")
    assert [p.id for p in task.problems(Split.OPTIMISE)] == [
        f"os_interaction/{i}" for i in ids
    ]
    assert not caplog.text


@needs_data
@pytest.mark.parametrize("index", SUDO)
def test_sudo_without_an_image_is_refused(index, make_task, task, play, monkeypatch):
    """It is no wrong answer; with an image it is a problem like all others."""
    with pytest.raises(SandboxError, match=rf"/{index}: .*sudo.*give an image"):
        play(task, [(task.problem(index), [FINISH])])
    monkeypatch.setattr(backend, "check_shells", lambda root: None)
    sizes = {Split.TEST: 170}
    with_image = make_task(sizes, backend="overlay", image="/x")
    assert task.problem(index) in with_image.problems(Split.TEST)


@needs_data
def test_seeded_split(make_task):
    """Disjoint, fixed, without problems that nothing can solve here."""
    task, again = make_task(SIZES), make_task(SIZES)
    ids = {split: [p.id for p in task.problems(split)] for split in SIZES}
    assert ids == {split: [p.id for p in again.problems(split)] for split in SIZES}
    everything = [i for split in ids.values() for i in split]
    assert len(set(everything)) == len(everything) == 140
    with pytest.raises(BadInputError, match="only 167"):
        make_task({Split.TEST: 168})
    everything = {p.id for p in make_task({Split.TEST: 167}).problems(Split.TEST)}
    packages = {f"os_interaction/{i}" for i in SUDO}
    assert not everything & packages


@needs_data
def test_fingerprint(make_task):
    """Of what decides verdicts, and of nothing else."""
    prints = {
        make_task(**options).fingerprint
        for options in (
            {},
            {"rounds": 8},
            {"backend": "host"},
            {"terminal": "reference"},
            {"turn_s": 6.0},
            {"split": "reference"},
            {"repetitions": 2},
            {"max_new_tokens": 100},
        )
    }
    assert len(prints) == 8
    assert make_task(sessions=3).fingerprint == make_task(sessions=4).fingerprint


@needs_data
def test_reference(task):
    """The answer, or a script that finds it; nothing is made up where both lack."""
    given = [task.problem(key) for key in range(170)]
    for problem in given:
        *_, last = task.reference(problem)
        assert last == task.dialogue(problem)[-1] and last["role"] == "assistant"
        solution = problem.data["problem"].match
        assert (f"answer({solution})" if solution else "```bash") in last["content"]
    checked = next(p for p in given if p.data["problem"].match is None)
    bare = dataclasses.replace(checked.data["problem"], example=None)
    unknown = dataclasses.replace(checked, data={"problem": bare})
    assert task.reference(unknown) is None
    with pytest.raises(BadInputError, match="learn from, got neither"):
        task.dialogue(unknown)


@needs_data
def test_keys(task):
    """A problem by its index; others are named in the error."""
    assert task.problem(22).id == "os_interaction/22"
    for key in (170, -1, "22", None, True):
        with pytest.raises(BadInputError, match="os_interaction"):
            task.problem(key)
    with pytest.raises(BadInputError, match="outputs"):
        task.transcript({"problem_index": 3})


@needs_data
@pytest.mark.parametrize("index", [22, 27, 51])
def test_dialogue(index, task):
    """The benchmark's prompt, then an action that is read as one."""
    messages = task.dialogue(task.problem(index))
    prompt = json.loads((data_folder() / "os_interaction/prompt.json").read_text())
    assert list(messages[:6]) == prompt["prefix_messages"]
    assert messages[6]["content"].startswith("Now, I will start a new problem in a new")
    assert messages[7]["role"] == "assistant"
    assert extract_action(messages[7]["content"]).kind is not None


@needs_data
def test_rounds(make_task, play):
    """A state that is right counts although no answer came; else it does not."""
    task = make_task(rounds=2)
    chmod = "find ~/videos -type f -exec chmod 660 {} +\nfind ~/videos -type d -exec "
    done, none, number = play(
        task,
        [
            (task.problem(51), [bash(chmod + "chmod 750 {} +"), bash("ls")]),
            (task.problem(51), [bash("ls"), bash("ls")]),
            (task.problem(27), [bash("wc -l < /root/matrix.txt")] * 2),
        ],
    )
    assert (done.outcome, done.turns) == (Outcome.SOLVED, 2)
    assert (none.outcome, none.turns) == (Outcome.ROUND_LIMIT, 2)
    assert (number.outcome, number.prediction) == (Outcome.ROUND_LIMIT, "")
    assert number.feedback == ("The output of the OS:\n\n3\n",) * 2


@needs_data
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("sleep 100", "in time"),
        ("cat", "in time"),
        ("printf '\\377'", "UTF-8"),
        ("(sleep 100 &) ; exit\nls", ""),
    ],
)
def test_turn_that_ends_the_problem(code, why, make_task, play):
    """With an empty answer, and without another reply."""
    task = make_task(turn_s=0.5)
    replies = [bash(code), bash("ls")] if not why else [bash(code)]
    (result,) = play(task, [(task.problem(27), replies)])
    assert (result.outcome, result.prediction) == (Outcome.WRONG, "")
    assert why in result.explanation
    assert result.turns == len(replies)


@needs_data
def test_terminal_noise(make_task, play):
    """Only what is asked for has prompts and escape sequences."""
    code = "printf '\\033[31mred\\033[0m\\n'; cd /tmp"
    texts = []
    for terminal in ("clean", "reference"):
        task = make_task(terminal=terminal)
        (result,) = play(task, [(task.problem(27), [bash(code), answer("3")])])
        assert result.outcome is Outcome.SOLVED
        texts += result.feedback
    assert texts[0] == "The output of the OS:\n\nred\n"
    assert "\x1b[31mred" in texts[1]
    assert "root@box:/tmp# " in texts[1]


def test_clean():
    """Escape sequences of all kinds."""
    noise = (
        "\x1b]0;root@box: /\x07a\x1b[1;31mb\x1b[0m\r\nc\x1b(B\x1b[?2004hd\x08\x00\te"
    )
    assert clean(noise) == "ab\ncd\te"
    assert clean("a\x1bPq#1\x1b\\b\x1b_x\x1b\\c\x1bPd") == "abcd"
    assert feedback(b"\x1b[0m") == "The output of the OS is empty."


@pytest.mark.parametrize("sequence", ["\x1bP", "\x1b]", "\x1b[", "\x1b"])
def test_clean_is_fast(sequence):
    """Sequences without an end do not keep other episodes waiting."""
    start = time.process_time()
    clean(sequence * 2**15)
    assert time.process_time() - start < 1.0


@needs_data
def test_hostile_answers(task, play):
    """Answers that no argument can be."""
    texts = ["a\0b", "\ud800", "-", "--help", "$(exit 0)", "9" * 200_000, "3; exit 0"]
    episodes = [(task.problem(27), [answer(text)]) for text in texts]
    assert all(r.outcome is Outcome.WRONG for r in play(task, episodes))


@needs_data
def test_deep_folders(task, play):
    """What cannot be put right is the episode's own fault, and no error of ours."""
    code = (
        "python3 - <<'END'\nimport os\nos.chdir('/etc/pam.d')\n"
        "for _ in range(5000):\n    os.mkdir('a')\n    os.chdir('a')\nEND\n"
        "rm -rf /etc/profile.d; ln -s /etc/pam.d /etc/profile.d"
    )
    (result,) = play(task, [(task.problem(27), [bash(code), answer("99")])])
    assert result.outcome is Outcome.WRONG


def copy_data(tmp_path, change):
    """A data folder with a changed problem file."""
    for name in ("problems.jsonl", "prompt.json", "cycleqd_task_ids.json"):
        shutil.copy(data_folder() / "os_interaction" / name, tmp_path / name)
        (tmp_path / name).chmod(0o644)
    file = tmp_path / "problems.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    change(rows)
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n", "utf-8")
    return file


@needs_data
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows[2].pop("check"), "line 3: the field 'check' is missing"),
        (lambda rows: rows[2].update(check=None), "line 3: expected either"),
        (lambda rows: rows[2].update(index=1), "line 3: the index 1 is there twice"),
        (lambda rows: rows[2].update(example_script=None), "line 3: 'check' has null"),
        (
            lambda rows: rows[2].update(init_script=[{"language": "perl", "code": ""}]),
            "line 3: expected a script",
        ),
    ],
)
def test_bad_data(change, why, tmp_path):
    """The error names file and line."""
    file = copy_data(tmp_path, change)
    with pytest.raises(BadInputError, match=why) as caught:
        read_problems(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"rounds": 0}, "rounds"),
        ({"backend": "qemu"}, "backend"),
        ({"image": "/x"}, "image is '/x'"),
        ({"backend": "container"}, "expected the name of an image"),
        ({"round": 3}, "round"),
    ],
)
def test_bad_options(options, why):
    """One sentence with the key."""
    with pytest.raises(BadInputError, match=why):
        OSInteraction(TaskSettings(options=options))


@needs_data
def test_engine_is_missing(make_task):
    """The error says what was tried, and what to do."""
    with pytest.raises(BadInputError, match=r"/nowhere/podman \(not .*install podman"):
        make_task(backend="container", image="x", engine="/nowhere/podman")


@needs_data
def test_shell_that_fails_is_no_verdict(make_task, monkeypatch, play):
    """An error with the problem's id."""
    task = make_task()

    async def broken(*arguments, **rest):
        raise SandboxError("no space left on device")

    monkeypatch.setattr("cycleqd_jax.tasks.os_interaction.task.judge", broken)
    with pytest.raises(SandboxError, match="os_interaction/27: no space left"):
        play(task, [(task.problem(27), [answer("3")])])


# What the benchmark's own example cannot answer here, and why.
EXCEPTIONS = {
    38: "the check counts all files below /lib in the shell, for minutes",
    42: "by its own rule where the size of /usr is printed with a decimal point",
    64: "all files are counted, those of /proc too, whose number changes",
    65: "the example prints errors where /usr has broken links or binary text files",
    85: "all files are counted, those of /proc too, whose number changes",
    153: "4.0K is no integer, which its own rule wants",
}


def gold(problem):
    """Replies that do what the example does."""

    def reply(messages):
        given = problem.data["problem"]
        if given.match is not None:
            return answer(given.match)
        if len(messages) == 7:
            return bash(f"bash -c {shlex.quote(given.example.code)}")
        if None not in given.check and given.check[0].language == "bash":
            return FINISH
        said = messages[-1]["content"].removeprefix("The output of the OS:\n\n")
        return answer(said.strip())

    return reply


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("backend_name", ["auto", "overlay"])
def test_gold(backend_name, make_task, play):
    """Every problem's own example is right; no answer is wrong."""
    task = make_task(backend=backend_name)
    skipped = {38, *SUDO}
    problems = [task.problem(index) for index in range(170) if index not in skipped]
    right = play(task, [(p, gold(p)) for p in problems])
    wrong = {
        p.id
        for p, r in zip(problems, right, strict=True)
        if r.outcome is not Outcome.SOLVED
    }
    assert wrong <= {f"os_interaction/{i}" for i in EXCEPTIONS}
    empty = play(task, [(p, [""]) for p in problems])
    assert not [p.id for p, r in zip(problems, empty, strict=True) if r.score]
