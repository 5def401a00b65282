"""Damaged files in a run folder: what can be made again is, the rest is refused."""

import contextlib
import shutil

import pytest
import run_contents
import toy_world

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs.opened import open_run
from experiments import agent_skills, report

COMMAND = ["--config", "toy.yaml", "--resume"]


@pytest.fixture(scope="module")
def finished(toy_settings, tmp_path_factory):
    """The folder with the config of a finished run; its checkpoints are 4 and 6."""
    folder = tmp_path_factory.mktemp("finished")
    toy_world.write_config(folder / "toy.yaml", toy_settings)
    with contextlib.chdir(folder):
        assert agent_skills.main(COMMAND) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of the finished run, for damage."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "toy"


def cut(path):
    """Half of a file is lost."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """One bit in the middle is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def snapshot(run):
    """Everything that must not be touched where a run is refused."""
    return {
        name: path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file()
        and (name := str(path.relative_to(run))) not in {"lock", "timing.jsonl"}
    }


def assert_made_again(run, finished, capsys, *words):
    assert agent_skills.main(COMMAND) == 0
    out, error = capsys.readouterr()
    assert not error
    for word in words:
        assert word in out
    want = run_contents.contents(finished / "runs" / "toy")
    assert not run_contents.differences(run_contents.contents(run), want)


def test_what_can_be_made_again_is(run, finished, capsys):
    state = run / "state.json"  # still JSON, with another number
    state.write_text(state.read_text().replace('"bins": 5', '"bins": 4'))
    cut(run / "archives.parquet")
    flip(run / "results" / "experts-optimise.parquet")
    (run / "results" / "final-test.parquet").unlink()
    cut(run / "config.yaml")
    cut(run / "report" / "report.json")
    (run / "report" / "scores.png").unlink()
    cut(run / "times" / "batch-000001.parquet")
    assert_made_again(run, finished, capsys, "experts-optimise.parquet is damaged",
                      "it is made again")  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    ["config.yaml", "basis.json", "archives.parquet", "state.json", "SHA256SUMS"],
)
def test_a_changed_byte_in_a_finished_run_is_noticed_and_named(
    run, finished, capsys, pattern
):
    flip(run / pattern)
    assert_made_again(run, finished, capsys, "damaged", "made again")


def test_a_damaged_basis_of_a_finished_run_is_refused(run, capsys):
    flip(run / "basis.safetensors")
    assert agent_skills.main(COMMAND) == 2
    assert "basis.safetensors is not a basis file" in capsys.readouterr().err


def test_a_damaged_spare_checkpoint_is_told(run, capsys):
    cut(run / "checkpoints" / "4" / "bank.scores" / "0.0")
    assert agent_skills.main(COMMAND) == 0
    assert "checkpoint 4 is damaged (bank.scores/0.0" in capsys.readouterr().out


def test_fewer_children_than_there_are_is_refused(run, capsys):
    for more in ([], ["--dry-run"]):
        assert agent_skills.main([*COMMAND, "qd.num_generations=4", *more]) == 2
        error = capsys.readouterr().err
        assert "qd.num_generations is 4, but the run in runs/toy has 6" in error
    (run / "state.json").unlink()
    assert agent_skills.main([*COMMAND, "qd.num_generations=4"]) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.json", "run.json is a folder; expected a file"),
        ("config.yaml", "config.yaml is a folder; expected a file"),
        ("results/final-test.parquet", "final-test.parquet is a folder"),
        ("basis.safetensors", "basis.safetensors is a folder"),
        ("results", "results is a file; expected a folder"),
        ("checkpoints", "checkpoints is a file; expected a folder"),
        ("checkpoints/6", "checkpoints/6 is a file; expected a folder"),
    ],
)
def test_a_folder_for_a_file_and_a_file_for_a_folder(run, capsys, name, words):
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("in the way")
    else:
        path.unlink()
        path.mkdir()
    assert agent_skills.main(COMMAND) == 2
    assert report.main([str(run)]) == 2
    error = capsys.readouterr().err
    assert error.count(words) == 2 and error.count("\n") == 2


def test_readers_notice_a_changed_byte(run, tmp_path, capsys):
    """A byte of a column's name, which parquet's own checksums do not cover."""
    part = next((run / "results").glob("batch-*"))
    content = part.read_bytes()
    part.write_bytes(content.replace(b"individual", b"individuaL"))
    assert report.main([str(run)]) == 2
    with pytest.raises(BadInputError, match=rf"{part.name} is damaged.*--resume"):
        list(open_run(run).episodes("toy_a"))


def test_the_last_whole_checkpoint_is_used(run, finished, capsys):
    cut(run / "checkpoints" / "6" / "bank.coefficients" / "0.0")
    assert_made_again(
        run,
        finished,
        capsys,
        "checkpoint 6 is skipped, bank.coefficients/0.0 does not match; going on "
        "from checkpoint 4.",
        "child 6/6",
    )


def rename_a_column(path):
    """The same numbers under another name, which parquet has no checksum for."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"score/toy_a", b"score/toy_A"))


@pytest.mark.parametrize(
    ("part", "damage"),
    [("results", flip), ("metrics", rename_a_column)],
)
def test_a_damaged_batch_is_made_again_from_the_checkpoint_before(
    run, finished, capsys, part, damage
):
    damage(run / part / "batch-000005.parquet")
    assert_made_again(run, finished, capsys, "checkpoint 6 is skipped, the parts "
                      "batch-000005 are damaged", "going on from")  # fmt: skip


def lose_all_checkpoints(run):
    cut(run / "checkpoints" / "4" / "SHA256SUMS")
    shutil.rmtree(run / "checkpoints" / "6" / "bank.scores")


def lose_first_batch(run):
    cut(run / "results" / "batch-000001.parquet")


def lose_first_metrics(run):
    (run / "metrics" / "batch-000001.parquet").unlink()


def remove_checkpoints(run):
    shutil.rmtree(run / "checkpoints")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose_all_checkpoints, ["no checkpoint can be used", "run_dir=FOLDER"]),
        (lose_first_batch, ["no checkpoint can be used", "batch-000001"]),
        (lose_first_metrics, ["no checkpoint can be used", "batch-000001"]),
        (remove_checkpoints, ["results of children, but no checkpoint"]),
        (lambda run: cut(run / "run.json"), ["run.json is damaged", "a copy"]),
        (lambda run: flip(run / "run.json"), ["run.json is damaged", "a copy"]),
        (lambda run: flip(run / "basis.safetensors"), ["basis", "delete it"]),
    ],
)
def test_what_cannot_be_made_again_is_refused_and_left_alone(
    run, capsys, damage, words
):
    damage(run)
    (run / "state.json").unlink(missing_ok=True)
    before = snapshot(run)
    assert agent_skills.main(COMMAND) == 2
    error = capsys.readouterr().err
    assert error.startswith("Bad input: ") and error.count("\n") == 1
    for word in words:
        assert word in error
    after = snapshot(run)
    # The settings of this call and the facts of this machine are written first.
    for name in ("run.json", "config.yaml"):
        before.pop(name), after.pop(name)
    assert after == before
