"""Files of problems: what is read, how it is cut into splits, what is refused."""

import json

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.own.task import OwnTask

PLAIN = {"prompt": "{q}?", "answer": "a", "scorer": "exact"}


def as_jsonl(rows) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def make(folder, content, sizes=None, *, seed=0, **options):
    """A task of a file with this text, or with these rows."""
    kind = "csv" if "csv" in options else "jsonl"
    options.pop("csv", None)
    path = folder / f"data.{kind}"
    text = content if isinstance(content, str | bytes) else as_jsonl(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    given = {kind: str(path), **PLAIN, **options}
    return OwnTask("mine", TaskSettings(seed, sizes or {}, options=given))


ROWS = [{"q": f"q{i}", "a": f"a{i}"} for i in range(10)]
SIZES = {Split.TRAIN: 4, Split.OPTIMISE: 2, Split.VALIDATE: 1, Split.TEST: 3}


def ids(task):
    return {split: [p.id for p in task.problems(split)] for split in Split}


def test_splits_by_seed(tmp_path):
    task = make(tmp_path, ROWS, SIZES)
    everything = [one for part in ids(task).values() for one in part]
    assert sorted(everything) == sorted(f"mine/{i}" for i in range(1, 11))
    assert {s: len(part) for s, part in ids(task).items()} == SIZES
    assert ids(make(tmp_path, ROWS, SIZES)) == ids(task)
    assert ids(make(tmp_path, ROWS, SIZES, seed=1)) != ids(task)
    few = make(tmp_path, ROWS, SIZES, train=1)
    assert len(few.problems(Split.TRAIN)) == 1
    assert ids(few)[Split.TEST] == ids(task)[Split.TEST]


def test_splits_by_a_column(tmp_path):
    names = ["train", "train", "test", "optimise", "validate"]
    rows = [{**row, "part": part} for row, part in zip(ROWS, names, strict=False)]
    task = make(tmp_path, rows, SIZES, split="part")
    assert ids(task)[Split.TRAIN] == ["mine/1", "mine/2"]
    assert ids(task)[Split.VALIDATE] == ["mine/5"]


def test_csv_has_the_same_problems(tmp_path):
    table = "\ufeffq,a\n" + "".join(f'"{r["q"]}",{r["a"]}\n' for r in ROWS)
    one, two = make(tmp_path, table, {Split.TEST: 10}, csv=True), ROWS
    two = make(tmp_path, two, {Split.TEST: 10})
    found = [{p.prompt: p.answer for p in t.problems(Split.TEST)} for t in (one, two)]
    assert found[0] == found[1] == {f"q{i}?": f"a{i}" for i in range(10)}


def test_texts_of_fields(tmp_path):
    row = {"a b": 3, "x.y": True, "z": 0.5, "id": 7}
    task = make(
        tmp_path,
        [row],
        {Split.TEST: 1},
        prompt="{{{a b}}} {x.y} {z}",
        answer="{a b} of {z}",
        id="id",
        system="Be brief.",
    )
    (problem,) = task.problems(Split.TEST)
    assert (problem.id, problem.prompt, problem.answer) == (
        "mine/7",
        "{3} true 0.5",
        "3 of 0.5",
    )
    assert [m["content"] for m in task.dialogue(problem)] == [
        "Be brief.",
        problem.prompt,
        problem.answer,
    ]


def test_the_fingerprint_is_that_of_the_problems_and_the_rules(tmp_path):
    def print_of(rows=ROWS, **options):
        return make(tmp_path, rows, SIZES, **options).fingerprint

    changed = [{**ROWS[0], "a": "else"}, *ROWS[1:]]
    prints = {
        print_of(),
        print_of(changed),
        print_of(scorer="contains"),
        print_of(ignore_case=True),
        print_of(reply="{a}."),
        print_of(system="Be brief."),
    }
    assert len(prints) == 6 and print_of() in prints


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"q": "1", "a": "2"}\n{"q": \n', r"data\.jsonl, line 2: not JSON"),
        ("", "has no line"),
        ("[1]\n", "line 1: expected an object"),
        (b'{"q": "\xff"}\n', "line 1: not JSON"),
        ([{"q": "1", "a": "2"}, {"q": "1"}], "line 2: the field 'a', which answer"),
        ([{"x": "1", "a": "2"}], "line 1: the field 'q', which .*prompt names"),
        ([{"q": "1", "a": " . "}], "line 1: the answer is empty"),
        ([{"q": "1", "a": []}], "line 1: the answer is empty"),
        ([{"q": "1", "a": None}], "line 1: the answer is null"),
        ([{"q": ["1"], "a": "2"}], "line 1: the field 'q' is list"),
        ([ROWS[0], ROWS[0]], "line 2: has the same prompt as line 1"),
        ([{"q": "a\ud800", "a": "b"}], "line 1: not JSON .*half of a character"),
    ],
)
def test_files_that_are_refused(tmp_path, content, says):
    with pytest.raises(BadInputError, match=says):
        make(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("q,a\n1,2\n3\n", r"data\.csv, line 3: has 1 cells, but .* 2 columns"),
        ("q,q\n1,2\n", "line 1: expected a name for every column"),
        ("q,a\n", "has no row"),
        ('q,a\n"1,2\n', "line 2: is not CSV"),
        (b"q,a\n\xff,2\n", "is not UTF-8"),
        ('q,a\n"one\ntwo",x\n3\n', "line 4: has 1 cells"),
    ],
)
def test_tables_that_are_refused(tmp_path, content, says):
    with pytest.raises(BadInputError, match=says):
        make(tmp_path, content, csv=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"id": "n"}, "line 2: has the same id as line 1"),
        ({"id": "long"}, "line 1: the id is"),
        ({"split": "part"}, "line 2: the field 'part' is 'dev'; expected one of train"),
        ({"reply": "{a} it is"}, "line 1: the reply 'a it is' is wrong by the scorer"),
        ({"prompt": " {blank}"}, "line 1: the prompt is empty"),
    ],
)
def test_rows_that_are_refused(tmp_path, options, says):
    row = {"n": 1, "long": "x" * 201, "a": "a", "blank": "", "part": "train"}
    rows = [{**row, "q": "1"}, {**row, "q": "2", "part": "dev"}]
    with pytest.raises(BadInputError, match=says):
        make(tmp_path, rows, **options)


def test_too_few_rows_and_no_file(tmp_path):
    with pytest.raises(
        BadInputError, match=r"make 11, but mine \(.*jsonl\) has only 10"
    ):
        make(tmp_path, ROWS, {Split.TEST: 11})
    options = {**PLAIN, "jsonl": str(tmp_path / "none.jsonl")}
    with pytest.raises(BadInputError, match=r"none\.jsonl: cannot be read"):
        OwnTask("mine", TaskSettings(options=options))
