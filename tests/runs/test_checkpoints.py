import subprocess

import jax
import numpy as np
import pytest

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.files import SUMS
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.archives import empty_archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.runs.checkpoints import (
    Checkpoints,
    Saved,
    damages,
    state_fingerprint,
)
from cycleqd_jax.search.base import State
from cycleqd_jax.search.cycleqd import Memory


def make_state(next_generation: int) -> State:
    """Two experts and as many children as were bred before `next_generation`."""
    rng = np.random.default_rng(0)
    archives, bank = empty_archives([(0.0, 1.0)] * 2, 3), Bank.empty(2)
    for individual in range(1 + next_generation):
        genome = Genome(rng.random(6, np.float32), rng.random(2, np.float32))
        scores = rng.random(2).tolist()
        if individual < 2:
            bank = bank.add_expert(genome, scores)
        else:
            bank = bank.add_child(
                genome, scores, parents=(0, 1), weights=(0.5, 0.5), active=0
            )
        archives, _ = archives.offer(individual, scores)
    return State(bank, next_generation, Memory(archives, np.zeros(2, np.int32)))


def same(got: Saved, want: State) -> bool:
    return (
        got.next_generation == want.next_generation
        and state_fingerprint(got) == state_fingerprint(want)
        and same_trees(got.into(make_state(1)), want)
    )


def same_trees(got: State, want: State) -> bool:
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return jax.tree.structure(got.memory) == jax.tree.structure(want.memory) and all(
        np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs
    )


def everything(folder) -> dict:
    return {p.relative_to(folder): p.read_bytes()
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of the generations 2 and 4."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for next_generation in (1, 3, 5):
            checkpoints.save(make_state(next_generation))
    return tmp_path / "checkpoints"


def test_the_two_newest_are_kept_and_read_back(folder):
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2, 4]
        assert same(checkpoints.restore(), make_state(5))
        assert same(checkpoints.restore(last=3, beyond="no"), make_state(3))


def test_equal_states_give_equal_bytes_that_sha256sum_checks(folder, tmp_path):
    with Checkpoints(tmp_path / "again") as checkpoints:
        for next_generation in (3, 5):
            checkpoints.save(make_state(next_generation))
    assert everything(tmp_path / "again") == everything(folder)
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=folder / "4",
                   check=True)  # fmt: skip


def damaged_forms(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 1]) if content else b"x"
    return {
        "truncated": content[:-1],
        "cut": content[:middle],
        "empty": b"",
        "flipped": content[:middle] + flipped + content[middle + 1 :],
        "longer": content + b"\n",
    }


def test_any_damage_to_any_file_leads_to_the_one_before(folder):
    paths = sorted(p for p in (folder / "4").rglob("*") if p.is_file())
    assert len(paths) > 20
    tried = 0
    with Checkpoints(folder) as checkpoints:
        for path in paths:
            content = path.read_bytes()
            for kind, damaged in {**damaged_forms(content), "missing": None}.items():
                if damaged is None:
                    path.unlink()
                else:
                    path.write_bytes(damaged)
                notes, name = [], (path, kind)
                assert list(damages(folder)) == [4], name
                tried += 1
                if kind != "truncated":  # restoring one costs ten looks at it
                    path.write_bytes(content)
                    continue
                state = checkpoints.restore(note=notes.append)
                assert same(state, make_state(3)), name
                assert len(notes) == 1 and "going on from checkpoint 2" in notes[0]
                path.write_bytes(content)
        assert same(checkpoints.restore(note=notes.append), make_state(5))
    assert tried > 120


def test_a_passed_over_checkpoint_is_replaced(folder):
    want = everything(folder)
    (folder / "4" / "_METADATA").write_bytes(b"{")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore().next_generation == 3
        assert (folder / "4").is_dir()  # reading changes nothing
        checkpoints.save(make_state(5))
    assert everything(folder) == want


def test_without_a_whole_one_nothing_is_changed(folder):
    for step in ("2", "4"):
        (folder / step / SUMS).unlink()
    before = everything(folder)
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(BadInputError, match="2 is skipped, SHA256SUMS is mis"):
            checkpoints.restore()
    assert everything(folder) == before


def test_no_checkpoint_at_all_is_a_beginning(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore() is None


def test_what_a_killed_process_left_is_cleared_away(folder):
    want = everything(folder)
    for name in (".6.partial", ".6.partial.orbax-checkpoint-tmp", ".0.removed"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("half")
    (folder / ".room.partial").write_text("")
    (folder / "2").rename(folder / "0")  # killed before the oldest was removed
    (folder / "0").rename(folder / "2")
    with Checkpoints(folder) as checkpoints:
        checkpoints.restore()
    assert everything(folder) == want


@pytest.mark.parametrize("where", ["room", "Orbax", "sums"])
def test_a_full_disk_is_one_sentence_and_keeps_what_is_there(
    folder, monkeypatch, where
):
    before = everything(folder)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def full_in_tensorstore(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: ...: No space left on device")

    with Checkpoints(folder) as checkpoints:
        if where == "room":
            monkeypatch.setattr(files.disk.os, "posix_fallocate", full)
        elif where == "Orbax":
            monkeypatch.setattr(checkpoints._checkpointer, "save", full_in_tensorstore)
        else:
            monkeypatch.setattr(files, "digest", full)
        with pytest.raises(RunError, match=r"checkpoints/6 .*No space.*make room"):
            checkpoints.save(make_state(7))
        monkeypatch.undo()
        assert everything(folder) == before
        checkpoints.save(make_state(7))
        assert checkpoints.steps() == [4, 6]
