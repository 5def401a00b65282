"""Weights in a bucket are read once; fsspec's memory stands for the bucket."""

import collections

import fsspec
import numpy as np
import pytest
import toy_world
from fsspec.implementations.memory import MemoryFileSystem

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import copied, disk
from cycleqd_jax.files.copied import CopiedFile, copy_all
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.factorise import factorise

ONE, TWO = "memory://files/one", "memory://files/two"
CONTENT = bytes(range(100))


class Asked(collections.defaultdict):
    """Path -> how often each byte of it was read from the bucket."""

    dies_after = None  # so many more readings

    def __missing__(self, path):
        size = fsspec.filesystem("memory").size(path)
        self[path] = np.zeros(size, int)
        return self[path]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked, read = Asked(), MemoryFileSystem.cat_file

    def noted(self, path, start=None, end=None, **more):
        if asked.dies_after is not None:
            asked.dies_after -= 1
            if asked.dies_after < 0:
                raise KeyboardInterrupt
        asked[self._strip_protocol(path)][start:end] += 1
        return read(self, path, start=start, end=end, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", noted)
    return asked


@pytest.fixture
def files(asked, monkeypatch):
    """Two files that are copied in parts."""
    monkeypatch.setattr(copied, "_PART", 30)
    memory = fsspec.filesystem("memory")
    for url in (ONE, TWO):
        memory.pipe(url, CONTENT)
    return memory


def left(tmp_path):
    """Names of copies and of what is left of them."""
    found = (tmp_path / "cache" / "cycleqd_jax" / "weights").glob("*/*")
    return [path.name for path in found if path.name != "lock"]


def test_the_weights_of_a_basis_are_read_once(asked, tmp_path):
    """Beyond their headers, which are read whenever a file is opened."""
    settings = toy_world.make_world(tmp_path, 2, full=("toy_a", "toy_b"))
    for path in tmp_path.glob("toy_*/tokenizer*"):
        path.unlink()  # to save time
    memory = fsspec.filesystem("memory")
    for bucket in ("first", "second"):
        memory.put(str(tmp_path), f"/{bucket}", recursive=True)
    text = toy_world.write_config(tmp_path / "run.yaml", settings).read_text()

    def made(bucket):
        """Counts the readings of the bytes of tensors in a bucket."""
        moved = text.replace(str(tmp_path), f"memory://{bucket}")
        (tmp_path / "moved.yaml").write_text(moved)
        asked.clear()
        config = load_config(tmp_path / "moved.yaml", ["basis.keep=true"], RunConfig)
        is_new = factorise(config, Observer()).is_new
        times = set()
        for folder in ("base", "toy_a", "toy_b"):
            path = f"/{bucket}/{folder}/model.safetensors"
            here = (tmp_path / folder / "model.safetensors").read_bytes()
            head = 8 + int.from_bytes(here[:8], "little")
            times |= set(asked[path][head:].tolist())
        return is_new, times

    assert made("first") == (True, {1})
    assert made("first") == (False, {0})
    assert made("second") == (False, {1})  # the same by its content


def test_a_killed_copy_is_made_again_and_others_stay(files, asked, tmp_path):
    asked.dies_after = 6  # of four readings per file
    with pytest.raises(KeyboardInterrupt):
        copy_all([CopiedFile(ONE), CopiedFile(TWO)])
    assert sorted(name.endswith(disk.PARTIAL) for name in left(tmp_path)) == [0, 1]
    asked.dies_after = None
    asked.clear()
    again = [CopiedFile(ONE), CopiedFile(TWO)]
    copy_all(again)
    assert list(asked) == ["/files/two"] and set(asked["/files/two"]) == {1}
    assert [file.read(3, 90) for file in again] == [CONTENT[3:90]] * 2
    assert list(asked) == ["/files/two"] and set(asked["/files/two"]) == {1}
    assert len(left(tmp_path)) == 2 and not any(".partial" in n for n in left(tmp_path))


def test_a_file_that_changed_is_copied_anew(files, tmp_path):
    before = CopiedFile(ONE)
    before.copy()
    files.pipe(ONE, CONTENT[::-1])
    after = CopiedFile(ONE)
    assert after.lacks_copy and after.read(0, 100) == CONTENT[::-1]
    after.copy()
    assert CopiedFile(ONE).read(0, 100) == CONTENT[::-1] and len(left(tmp_path)) == 1
    assert before.read(0, 100) == CONTENT and before.identity != after.identity


def test_a_file_that_changes_meanwhile_is_refused(files, tmp_path):
    file = CopiedFile(ONE)
    files.pipe(ONE, CONTENT[::-1])
    with pytest.raises(BadInputError, match=r"^memory://files/one: was changed while"):
        file.copy()
    assert not left(tmp_path)


def test_without_room_the_bucket_is_read(files, tmp_path, monkeypatch, caplog):
    pair = [CopiedFile(ONE), CopiedFile(TWO)]
    monkeypatch.setattr(disk, "free_bytes", lambda: 799)  # of 4 x 200
    copy_all(pair)
    assert not left(tmp_path)
    monkeypatch.setattr(disk, "free_bytes", lambda: 800)
    (tmp_path / "cache").write_bytes(b"in the way")
    copy_all(pair)
    assert "memory://files/two is not copied: " in caplog.text
    assert [file.read(3, 90) for file in pair] == [CONTENT[3:90]] * 2


def test_a_damaged_copy_is_made_again(files, tmp_path):
    CopiedFile(ONE).copy()
    (copy,) = (tmp_path / "cache").rglob("*.safetensors")
    copy.write_bytes(CONTENT[:50])
    file = CopiedFile(ONE)
    assert file.read(0, 100) == CONTENT
    file.copy()
    assert copy.read_bytes() == CONTENT and not file.lacks_copy
