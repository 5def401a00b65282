"""The problem file, what lies beside it, splits and conversations."""

import json
import pathlib

import benchmark_data
import pytest

from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.dbbench import data, protocol
from cycleqd_jax.tasks.dbbench.task import DBBench


def make(path, sizes=None, **options) -> DBBench:
    settings = TaskSettings(
        0, sizes or {}, options={"data": str(path), **options}, download=False
    )
    return DBBench(settings)


def test_a_problem_is_put_into_the_prompt(small_data):
    task = make(small_data({"description": "A {add_description} \\1?"}))
    (problem,) = [task.problem(0)]
    messages = task.dialogue(problem)
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[2]["content"] == (
        "A {add_description} \\1?\nThe table is People, its headers are Name, Age."
    )
    assert messages[3]["content"] == 'Action: Answer\nFinal Answer: ["Bob"]'


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": []}, "'type'"),
        ({"label": [1]}, "'label'"),
        ({"type": ["INSERT"]}, "'answer_md5' is missing"),
        ({"table": {"table_info": {}}}, "table.table_name"),
        ({"table": {"table_name": "t"}}, "table.table_info"),
        ({"table": {"table_name": "t", "table_info": {"columns": []}}}, "columns"),
        (
            {"table": {"table_name": "t", "table_info": {"columns": [{"type": "x"}]}}},
            "a column without a name",
        ),
        (
            {
                "table": {
                    "table_name": "t",
                    "table_info": {"columns": [{"name": "a"}], "rows": [[{}]]},
                }
            },
            "table.table_info.rows",
        ),
        ({"description": None}, "'description'"),
    ],
)
def test_what_is_wrong_in_a_line_is_told_with_its_place(small_data, change, words):
    path = small_data({}, change)
    with pytest.raises(BadInputError) as caught:
        make(path)
    assert f"{path}, line 2: " in str(caught.value)
    assert words in str(caught.value)


def test_a_download_that_was_cut_off_is_told(small_data):
    path = pathlib.Path(small_data({}, {}))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadInputError, match=r"line 2: .*cut off"):
        make(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "needs prompt.json in the folder .*curl "),
        ("{", "it is not JSON"),
        ("[]", "expected an object with messages"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "has no {description}"),
    ],
)
def test_a_prompt_that_is_missing_or_none(small_data, text, words):
    path = pathlib.Path(small_data())
    prompt = path.with_name("prompt.json")
    prompt.unlink() if text is None else prompt.write_text(text)
    with pytest.raises(
        MissingDataError if text is None else BadInputError, match=words
    ):
        make(path)


def test_without_data_the_command_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(BadInputError, match=r"curl .*standard_dev\.jsonl"):
        make(tmp_path)
    with pytest.raises(MissingDataError, match=r"curl .*agentbench_db\.py"):
        DBBench(TaskSettings(download=False))


def test_the_reference_s_own_files_will_do(tmp_path, small_data):
    path = pathlib.Path(small_data())
    folder = tmp_path / "fetched"
    folder.mkdir()
    path.rename(folder / "data_dbbench_standard_dev.jsonl")
    (folder / "agentbench_db.py").write_text(
        "import nothing_that_exists\n"
        "db_prompt_template = ('\\nRules' ' of it.\\n')\n"
        "class Task:\n    def __init__(self):\n        self._task_ids = [0]\n"
    )
    task = make(folder, split="reference")
    assert task.dialogue(task.problem(0))[0]["content"] == "\nRules of it.\n"
    assert [p.id for p in task.problems(Split.OPTIMISE)] == ["dbbench/0"]


def test_an_incomplete_download_is_not_kept(tmp_path, monkeypatch):
    import io

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda url, timeout: io.BytesIO(b"half of it")
    )
    with pytest.raises(MissingDataError, match="or was cut off"):
        DBBench(TaskSettings())
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("key", ["1", "x", -1, True, 1, 10**9])
def test_an_unknown_problem_is_told(small_data, key):
    task = make(small_data())
    with pytest.raises(BadInputError, match="dbbench has no problem"):
        task.problem(key)


@pytest.mark.parametrize(
    "row", [{}, {"problem_index": 0}, {"problem_index": 0, "outputs": "text"}]
)
def test_a_transcript_without_its_fields_is_told(small_data, row):
    with pytest.raises(BadInputError, match="problem_index and outputs"):
        make(small_data()).transcript(row)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "mysql://a@b"}, "backend is private; expected backend: server"),
        ({"backend": "sqlite"}, "'private' or 'server'"),
        ({"rounds": 0}, "rounds"),
        ({"bakend": "server"}, "did you mean"),
        ({"split": "reference"}, "needs cycleqd_task_ids.json"),
        ({"chat_template": "reference"}, "needs chat_templates.json"),
    ],
)
def test_wrong_options_are_told(small_data, options, words):
    with pytest.raises(BadInputError, match=words):
        make(small_data(), **options)


def test_the_fingerprint_is_of_what_decides_verdicts(small_data):
    path = small_data({}, {})
    first = make(path).fingerprint
    assert make(path).fingerprint == first
    assert make(path, rounds=4).fingerprint != first
    assert make(path, {Split.TEST: 1}).fingerprint != first
    prompt = pathlib.Path(path).with_name("prompt.json")
    prompt.write_text(prompt.read_text().replace("Rules", "Other rules"))
    assert make(path).fingerprint != first


def test_names_of_columns_pass_through_the_reference_s_escaping(small_data):
    columns = [{"name": "Men's"}, {"name": "a\\nb"}]
    table_info = {"columns": columns, "rows": [["1", "2"]]}
    table = {"table_name": "t", "table_info": table_info}
    (problem,) = data.read_problems(pathlib.Path(small_data({"table": table})))
    assert problem.data["case"].table.columns == ("Men\\'s", "a\\\\nb")


def test_one_row_of_another_length_costs_all_rows(small_data):
    table_info = {"columns": [{"name": "a"}], "rows": [["1"], []]}
    table = {"table_name": "t", "table_info": table_info}
    (problem,) = data.read_problems(pathlib.Path(small_data({"table": table})))
    assert problem.data["case"].table.rows == ()


@benchmark_data.needs_data
def test_seeded_splits_are_disjoint_and_mixed_alike(make_task):
    sizes = {Split.TEST: 60, Split.OPTIMISE: 120, Split.VALIDATE: 60}
    task = make_task(sizes)
    cut = {split: task.problems(split) for split in sizes}
    ids = [p.id for problems in cut.values() for p in problems]
    assert len(set(ids)) == 240
    for split, size in sizes.items():
        inserts = [p for p in cut[split] if p.data["case"].category == "INSERT"]
        assert abs(len(inserts) - size / 3) <= 1
    with pytest.raises(BadInputError, match="only 360 problems"):
        make_task({Split.OPTIMISE: 361})


@benchmark_data.needs_data
def test_the_reference_s_list_is_what_it_optimises_on(make_task):
    sizes = {Split.TEST: 9, Split.OPTIMISE: 5, Split.VALIDATE: 10}
    task = make_task(sizes, split="reference")
    folder = benchmark_data.data_folder() / "dbbench"
    ids = json.loads((folder / "cycleqd_task_ids.json").read_text())
    optimise = [p.id for p in task.problems(Split.OPTIMISE)]
    assert optimise == [f"dbbench/{i}" for i in ids]
    rest = [
        p.id for split in (Split.TEST, Split.VALIDATE) for p in task.problems(split)
    ]
    assert len(rest) == 19 and not set(rest) & set(optimise)


@benchmark_data.needs_data
@pytest.mark.parametrize("name", ["agentbench_standard", "agentbench_dev"])
def test_agentbench_s_own_files_are_read(name, make_task):
    path = benchmark_data.data_folder() / "dbbench" / f"{name}.jsonl"
    task = make_task(data=str(path))
    assert task.problem(0).id == "dbbench/0"


@benchmark_data.needs_data
def test_the_reference_s_chat_template(make_task):
    folder = benchmark_data.data_folder()
    template = protocol.read_template(folder / "dbbench" / "cycleqd_standard_dev.jsonl")
    assert "<|start_header_id|>" in template
    assert make_task(chat_template="reference").fingerprint != make_task().fingerprint
