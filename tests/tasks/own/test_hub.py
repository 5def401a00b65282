"""Tasks made from data sets: a folder in the hub's layout, and its client replaced."""

import datetime
import json
import pathlib
import re

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors

from cycleqd_jax.config import RunConfig, to_yaml
from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.runs import sums
from cycleqd_jax.runs.data_sets import with_commits
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.study.check import keep_commits
from cycleqd_jax.study.settings import CompareConfig, Study
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.own.options import named_tasks
from cycleqd_jax.tasks.own.task import OwnTask

OWN = {"prompt": "{q}?", "answer": "a", "scorer": "exact"}
ROWS = [{"q": f"q{i}", "a": f"a{i}"} for i in range(8)]
COMMITS = {"main": "a" * 40, "v2": "b" * 40}
SIZES = {Split.TEST: 2, Split.OPTIMISE: 3}


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")


@pytest.fixture
def folder(tmp_path):
    """A data set in the hub's layout: two configs, one with two splits."""
    place = tmp_path / "data set"
    write_jsonl(place / "plain" / "train.jsonl", [*ROWS[:6], ROWS[0]])
    write_jsonl(place / "plain" / "test.jsonl", ROWS[6:])
    write_jsonl(place / "other" / "all.jsonl", ROWS)
    (place / "README.md").write_text(
        "---\nconfigs:\n- config_name: plain\n  data_files:\n"
        "  - {split: train, path: plain/train.jsonl}\n"
        "  - {split: test, path: plain/test.jsonl}\n"
        "- config_name: other\n  data_files: other/all.jsonl\n---\n"
    )
    return place


def task(hub, sizes=SIZES, download=True, **more):
    options = {"hub": hub, **OWN, **more}
    settings = TaskSettings(sizes=sizes, options=options, download=download)
    return OwnTask("quiz", settings)


def prompts(made):
    return sorted(p.prompt for split in Split for p in made.problems(split))


def test_configs_and_splits_of_a_folder(folder):
    name = str(folder)
    whole = task({"name": name, "config": "other"}, {Split.TEST: 8})
    assert prompts(whole) == [f"{row['q']}?" for row in ROWS]
    assert whole.problems(Split.TEST)[0].answer.startswith("a")
    train = {"name": name, "config": "plain", "split": "train"}
    # The row that is there twice counts once.
    assert prompts(task(train, {Split.TEST: 6})) == [f"q{i}?" for i in range(6)]
    with pytest.raises(BadInputError, match=r"quiz .*has only 6"):
        task(train, {Split.TEST: 7})
    both = task(train | {"split": "train+test"}, {Split.TEST: 8})
    assert prompts(both) == prompts(whole)
    assert task(train).fingerprint == task(train).fingerprint != whole.fingerprint


def test_a_parquet_file_alone(tmp_path):
    """As the hub has most data sets: one config, a file for each split."""
    (tmp_path / "data").mkdir()
    more = {"opened": datetime.date(2024, 1, 31), "picture": b"\x89PNG"}
    table = pa.Table.from_pylist([row | more for row in ROWS])
    pq.write_table(table, tmp_path / "data" / "test-00000-of-00001.parquet")
    assert len(prompts(task(str(tmp_path), {Split.TEST: 8}))) == 8
    with pytest.raises(BadInputError, match=r"row 1: the field 'picture' is bytes"):
        task(str(tmp_path), prompt="{picture}")
    (tmp_path / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(BadInputError, match=r"hub: .* cannot be read \("):
        task(str(tmp_path))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"config": "plain"}, "the splits train, test, but none is given"),
        ({"config": "plain", "split": "dev"}, "train, test, but split is 'dev'"),
        ({"config": "plain", "split": "test+test"}, "but split is 'test\\+test'"),
        ({}, "config"),
        ({"config": "none"}, "none.*not found"),
    ],
)
def test_what_a_folder_lacks_is_refused(folder, more, said):
    with pytest.raises(BadInputError, match=said) as caught:
        task({"name": str(folder), **more})
    assert str(caught.value).startswith("task_settings.quiz.hub: ")


def test_a_row_is_named(folder):
    write_jsonl(folder / "plain" / "test.jsonl", [{"q": "x", "a": "y"}, {"q": "z"}])
    hub = {"name": str(folder), "config": "plain", "split": "test"}
    with pytest.raises(BadInputError, match=r"\(test\), row 2: .*null"):
        task(hub, prompt="{a}{q}")


class Hub:
    """Stands for the hub's client: commits of one data set."""

    def __init__(self, place: pathlib.Path):
        self.place, self.error, self.asked = place, None, []
        self.cached: dict[str, str] = {}

    def snapshot_download(
        self, name, *, repo_type, revision, allow_patterns, local_files_only
    ):
        assert name == "owner/quiz" and repo_type == "dataset" and allow_patterns
        self.asked.append((revision, local_files_only))
        if self.error is not None and not local_files_only:
            raise self.error
        known = self.cached if local_files_only else COMMITS
        commit = known.get(revision or "main", revision)
        if commit not in known.values():
            raise errors.LocalEntryNotFoundError("not here\nand more")
        self.cached[revision or "main"] = commit
        folder = self.place / commit
        write_jsonl(folder / "train.jsonl", ROWS)
        return str(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    stand_in = Hub(tmp_path / "snapshots")
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", stand_in.snapshot_download
    )
    return stand_in


def test_the_commit_is_kept(hub):
    made = task("owner/quiz")
    assert made.options.hub.revision == COMMITS["main"]
    other = task({"name": "owner/quiz", "revision": "v2"})
    assert other.options.hub.revision == COMMITS["v2"]
    # Without downloads the cache of the client is enough.
    assert prompts(task("owner/quiz", download=False)) == prompts(made)
    assert hub.asked[-1] == (None, True)


def http_error(kind):
    error = kind.__new__(kind)
    Exception.__init__(error, "404 Client Error.\nMore on the next line.")
    return error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (http_error(errors.RepositoryNotFoundError), BadInputError, "no data set"),
        (http_error(errors.RevisionNotFoundError), BadInputError, "no revision 'v2'"),
        (ConnectionError("no\nroute"), MissingDataError, "no route.*hf download"),
        (errors.OfflineModeIsEnabled("offline"), MissingDataError, "FOLDER"),
    ],
)
def test_errors_of_the_hub_become_one_sentence(hub, error, kind, said):
    hub.error = error
    with pytest.raises(kind, match=said) as caught:
        task({"name": "owner/quiz", "revision": "v2"})
    text = str(caught.value)
    assert text.startswith("task_settings.quiz.hub: ") and "\n" not in text


def test_no_name_of_the_hub_and_no_folder(tmp_path):
    with pytest.raises(BadInputError, match="no folder of this machine and no name"):
        task(str(tmp_path / "nothing" / "here"))


def config_of(**hub):
    entry = {"name": "quiz", "hub": {"name": "owner/quiz", **hub}, **OWN}
    return RunConfig.model_validate(
        {"base_model": "m", "tasks": [entry, "pocket_db"],
         "experts": {"quiz": "x", "pocket_db": "y"},
         "problems": {"train": 0, "optimise": 3, "validate": 1, "test": 2}}
    )  # fmt: skip


def commit_of(config):
    return config.task_settings["quiz"]["hub"].get("revision")


def test_a_resumed_run_has_the_commit_it_was_begun_with(hub, tmp_path, monkeypatch):
    """Even though the branch has moved on, and where there is no network any more."""
    begun = with_commits(config_of(), tmp_path)
    assert commit_of(begun) == COMMITS["main"]
    sums.write(tmp_path / "config.yaml", to_yaml(begun).encode())
    monkeypatch.setitem(COMMITS, "main", "c" * 40)
    assert commit_of(with_commits(config_of(), tmp_path)) == "a" * 40
    hub.error = ConnectionError("no route")
    resumed = with_commits(config_of(revision="main"), tmp_path)
    assert commit_of(resumed) == "a" * 40
    # Another commit is what was asked for, and an unknown one the task's to refuse.
    assert commit_of(with_commits(config_of(revision="d" * 40), tmp_path)) == "d" * 40
    (tmp_path / "config.yaml").unlink()
    assert commit_of(with_commits(config_of(), tmp_path)) is None
    with pytest.raises(MissingDataError, match="no route"):
        own = config_of()
        make_tasks(["quiz"], own.problems, own.task_settings)


def test_all_runs_of_a_comparison_have_one_commit(hub, tmp_path, monkeypatch):
    settings = CompareConfig(
        base="x", seeds=[0, 1], reference="a", methods={"a": {}, "b": {}}
    )
    study = Study(settings, tmp_path, {"a": config_of(), "b": config_of()})
    first, *_, last = [keep_commits(study).run_config(*cell) for cell in study.cells()]
    assert commit_of(first) == commit_of(last) == "a" * 40
    run = pathlib.Path(first.run_dir)
    run.mkdir(parents=True)
    sums.write(run / "config.yaml", to_yaml(first).encode())
    monkeypatch.setitem(COMMITS, "main", "c" * 40)
    again = keep_commits(study)
    assert {commit_of(config) for config in again.searches.values()} == {"a" * 40}
    hub.error = http_error(errors.RepositoryNotFoundError)
    with pytest.raises(
        BadInputError, match=r"task_settings\.quiz\.hub: the hub has no"
    ):
        keep_commits(study._replace(folder=tmp_path / "new"))


def test_names_of_the_short_form():
    entries = [{"hub": "owner/quiz"}, {"hub": {"name": "o/other"}}]
    found = named_tasks({"tasks": entries})
    assert found["tasks"] == ["quiz", "other"]
    with pytest.raises(ValueError, match="or hub, the data set"):
        named_tasks({"tasks": [{"hub": {"split": "train"}}]})
    with pytest.raises(ValueError, match=re.escape("owner/my-data has no name")):
        named_tasks({"tasks": [{"hub": "owner/my-data"}]})
