"""A run's copy in a bucket is whole at any moment; fsspec's memory is the bucket."""

import pathlib
import shutil

import fsspec
import pytest
import remote_world
import run_contents
import toy_world

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.files import remote
from cycleqd_jax.runs import sums
from cycleqd_jax.runs.checkpoints import newest_whole
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.mirror import Mirror, open_mirror
from cycleqd_jax.runs.opened import open_run

URL = "memory://runs/one"


class Killed(BaseException):
    """The process would be gone."""


@pytest.fixture(autouse=True)
def bucket():
    system = fsspec.filesystem("memory")
    yield system
    if system.exists("/runs"):
        system.rm("/runs", recursive=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 12 children, and the same after 8 of them."""
    root = tmp_path_factory.mktemp("runs")
    for name, stop in (("whole", 12), ("part", 8)):
        remote_world.run(root / name, remote_world.LoggingEvaluator(), stop=stop)
        seal(root / name)
    return root


def seal(run, **fingerprints):
    facts = {"fingerprints": {"base model": "a"} | fingerprints}
    files.write_sealed(run / "run.json", facts)


def copy(run, folder):
    shutil.copytree(run, folder)
    return folder


def opened(path, url=URL, resume=True, trial=False, wait=None):
    """Opens folder and copy; returns the copy and what was said."""
    with RunFolder(path, resume=resume, trial=trial) as folder:
        mirror = Mirror(url, folder, wait=wait or pytest.fail)
        return mirror, mirror.open(resume=resume, trial=trial)


def contents(run):
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_an_empty_machine_fetches_the_run_and_goes_on(finished, tmp_path):
    here = copy(finished / "part", tmp_path / "here")
    mirror, said = opened(here)
    assert said is None
    mirror.sync()
    there = tmp_path / "there"
    _, said = opened(there)
    assert said == f"the run was fetched from {URL}: 8 children are done."
    assert contents(there) == contents(here)
    assert any(name.endswith("/.zarray") for name in contents(there))
    remote_world.run(there, remote_world.LoggingEvaluator(), stop=12)
    want = contents(finished / "whole")
    assert not run_contents.differences(
        {n: c for n, c in contents(there).items() if n != "timing.jsonl"},
        {n: c for n, c in want.items() if n != "timing.jsonl"},
    )


def test_broken_off_at_any_write_the_copy_is_a_whole_run(
    finished, tmp_path, monkeypatch, bucket
):
    """A state is copied, then the next one, which stops at one write after another."""
    here = copy(finished / "part", tmp_path / "here")
    opened(here)[0].sync()
    shutil.rmtree(here)
    copy(finished / "whole", here)
    real, left = {}, 0

    def counted(name):
        def call(self, *given):
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            if name == "write" and len(given[0]) > 1:  # some of them only
                given = (dict(list(given[0].items())[: len(given[0]) // 2]),)
                real[name](self, *given)
                raise Killed
            return real[name](self, *given)

        return call

    for name in ("write", "upload", "remove"):
        real[name] = getattr(remote.RemoteFolder, name)
        monkeypatch.setattr(remote.RemoteFolder, name, counted(name))
    monkeypatch.setattr("cycleqd_jax.runs.mirror._SMALL", 2000)
    seen = []
    for steps in range(1, 400):
        left = steps
        try:
            mirror, _ = opened(here)
            mirror.sync()
            done = True
        except Killed:
            done = False
        left = -1
        fetched = tmp_path / f"fetched {steps}"
        opened(fetched)
        seen.append(newest_whole(fetched / "checkpoints").next_generation - 1)
        want = finished / ("part" if seen[-1] == 8 else "whole")
        assert contents(fetched) == contents(want)
        shutil.rmtree(fetched)
        if done:
            break
    assert done and set(seen) == {8, 12} and seen == sorted(seen)
    # What no manifest names is gone.
    digests = {files.digest_of(c)[:16] for c in contents(here).values()}
    digests |= {files.digest_of(c)[:16] for c in contents(finished / "part").values()}
    left_over = [n for n in bucket.find("/runs/one/files")]
    assert left_over and {n.rpartition(".")[2] for n in left_over} <= digests


def test_a_fetch_that_is_killed_is_not_taken_for_a_run(finished, tmp_path, monkeypatch):
    here = copy(finished / "part", tmp_path / "here")
    opened(here)[0].sync()
    real = remote.RemoteFolder.download
    count = 0

    def download(self, *given):
        nonlocal count
        count += 1
        if count == 5:
            raise Killed
        real(self, *given)

    monkeypatch.setattr(remote.RemoteFolder, "download", download)
    there = tmp_path / "there"
    with pytest.raises(Killed):
        opened(there)
    with RunFolder(there, resume=True) as folder:
        with pytest.raises(BadInputError, match="was not fetched whole from a mirror"):
            open_mirror(None, folder, resume=True, trial=False, note=print)
    (there / "results" / "batch-000099.parquet").parent.mkdir(exist_ok=True)
    (there / "results" / "batch-000099.parquet").write_bytes(b"of nobody")
    opened(there)
    assert contents(there) == contents(here)


def test_what_does_not_belong_together_is_refused(finished, tmp_path):
    whole = copy(finished / "whole", tmp_path / "whole")
    first, _ = opened(whole)
    first.sync()
    with pytest.raises(BadInputError, match=f"^mirror: {URL} holds a run; add --res"):
        opened(tmp_path / "new", resume=False)
    behind = copy(finished / "part", tmp_path / "behind")
    with pytest.raises(
        BadInputError, match=r"has 12 children, that in .* only 8; move"
    ):
        opened(behind)
    other = copy(finished / "whole", tmp_path / "other")
    seal(other, tasks="b")
    with pytest.raises(BadInputError, match=f"{URL} holds another run than"):
        opened(other)
    # Two machines at once: the second to write stops.
    second, _ = opened(whole)
    (whole / "timing.jsonl").write_text("one more\n")
    first.sync()
    with pytest.raises(RunError, match=f"another process writes a run to {URL}"):
        second.sync()


def test_a_bucket_that_is_lost_stops_the_run_and_keeps_the_folder(
    finished, tmp_path, monkeypatch
):
    here = copy(finished / "part", tmp_path / "here")
    waits = []
    mirror, _ = opened(here, wait=waits.append)
    before = contents(here)
    real, bad = remote.RemoteFolder.write, 3

    def write(self, *given):
        nonlocal bad
        bad -= 1
        if bad >= 0:
            with remote._reaching(self.url):
                raise ConnectionError("no route")
        return real(self, *given)

    monkeypatch.setattr(remote.RemoteFolder, "write", write)
    mirror.sync()
    assert waits == [1, 2, 4]
    (here / "timing.jsonl").write_text("one more\n")
    before, bad = contents(here), 10**6
    with pytest.raises(
        RunError, match=r"no route.*after 6 tries; the run in .* is whole"
    ):
        mirror.sync()
    assert contents(here) == before and sum(waits[3:]) == 31
    with pytest.raises(BadInputError, match=f"{URL}: cannot be reached .*no route"):
        opened(here)


def test_a_manifest_that_is_there_though_the_client_failed(
    finished, tmp_path, monkeypatch
):
    here, waits = copy(finished / "part", tmp_path / "here"), []
    mirror, _ = opened(here, wait=waits.append)
    mirror.sync()
    real, shares = remote.RemoteFolder.write, [0.5, 1.0]

    def write(self, given):
        if not (shares and any(name.startswith("manifest-") for name in given)):
            return real(self, given)
        share = shares.pop(0)
        real(self, {n: c[: int(share * len(c))] for n, c in given.items()})
        with remote._reaching(self.url):
            raise TimeoutError("no answer")

    monkeypatch.setattr(remote.RemoteFolder, "write", write)
    (here / "timing.jsonl").write_text("one more\n")
    mirror.sync()
    assert waits == [1, 2] and not shares
    opened(tmp_path / "there")
    assert contents(tmp_path / "there") == contents(here)


def test_a_dry_run_asks_and_changes_nothing_here(finished, tmp_path):
    here = copy(finished / "part", tmp_path / "here")
    opened(here)[0].sync()
    _, said = opened(tmp_path / "new", trial=True)
    assert said == f"the run in {URL} is fetched when it goes on."
    assert not (tmp_path / "new").exists()
    with pytest.raises(BadInputError, match=r"gs:// is not .* pip install gcsfs"):
        opened(here, url="gs://bucket/run", trial=True)


def test_a_folder_on_a_disk_and_a_damaged_manifest(finished, tmp_path):
    """A server that writes in place may hold half of the newest manifest."""
    here, url = copy(finished / "part", tmp_path / "here"), f"file://{tmp_path}/copy"
    opened(here, url)[0].sync()
    before = contents(here)
    (here / "timing.jsonl").write_text("one more\n")
    opened(here, url)[0].sync()
    newest = sorted(pathlib.Path(tmp_path, "copy").glob("manifest-*.json"))[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    opened(tmp_path / "there", url)
    assert contents(tmp_path / "there") == before
    # The next copy gets a number of its own.
    opened(here, url)[0].sync()
    opened(tmp_path / "again", url)
    assert contents(tmp_path / "again") == contents(here)


def test_readers_open_the_copy(finished, tmp_path, monkeypatch, toy_settings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = copy(finished / "part", tmp_path / "here")
    with pytest.raises(BadInputError, match=f"{URL}: there is no run's mirror"):
        open_run(URL)
    files.write_sealed(
        here / "run.json",
        files.read_sealed(here / "run.json") | {"tasks": list(remote_world.TASKS)},
    )
    sums.write(here / "config.yaml", toy_world.yaml.safe_dump(toy_settings).encode())
    opened(here)[0].sync()
    run = open_run(URL)
    assert run.bank.next_id == 3 + 8 and run.tasks == remote_world.TASKS
    assert list(run.episodes("a"))
    # A later state is fetched, and what is gone there is gone here.
    (here / "timing.jsonl").unlink()
    opened(here)[0].sync()
    assert contents(open_run(URL).path) == contents(here)
