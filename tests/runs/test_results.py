"""Parts of results and metrics: no changed byte is taken for what was written."""

import dataclasses

import pyarrow as pa
import pytest

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.base import Cost, Episode
from cycleqd_jax.runs.costs import write_costs
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.results import read_episodes, whole_batches, write_episodes


def episode(individual):
    return Episode(
        individual,
        split="optimise",
        task="toy",
        problem="toy/0",
        outcome="solved",
        score=1.0,
        answer="a",
        reply="r",
        explanation="Right.",
        turns=1,
        prompt_tokens=3,
        tokens=(1, 2),
        finish="stop",
        replies=("r",),
        metrics={"plus": 0.5},
        seconds=0.0,
    )


@pytest.fixture
def folder(tmp_path):
    """With two batches of one child each."""
    with RunFolder(tmp_path, resume=True) as folder:
        for t in (1, 2):
            write_costs(folder, f"batch-{t:06d}", [("evaluate", Cost(5, 0, 0.1))])
            write_episodes(folder, f"batch-{t:06d}", [episode(f"child/{t}")])
            rows = [{"generation": t, "score/toy": 1.0}]
            folder.write_part("metrics", f"batch-{t:06d}", pa.Table.from_pylist(rows))
        yield folder


def test_what_was_written_is_read(folder):
    assert read_episodes(folder, "batch-000002") == [episode("child/2")]
    assert read_episodes(folder, "batch-000003") is None
    assert whole_batches(folder)[0] == 2


def test_half_an_emoji_in_a_result_is_written_as_an_escape(folder):
    """Such a text comes of JSON in a reply; UTF-8, and so parquet, cannot hold it."""
    odd = dataclasses.replace(
        episode("child/3"), answer="\ud83d", explanation="x\udc80", replies=("\ud83d",)
    )
    write_episodes(folder, "batch-000003", [odd])
    [read] = read_episodes(folder, "batch-000003")
    assert (read.answer, read.explanation) == ("\\ud83d", "x\\udc80")
    assert read.replies == ("\\ud83d",)


@pytest.mark.parametrize("kind", ["results", "metrics"])
def test_every_flipped_byte_is_noticed(folder, kind):
    path = folder.part(kind, "batch-000002")
    content = path.read_bytes()
    for place in range(len(content)):
        flipped = bytes([content[place] ^ 1 << place % 8])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])
        with pytest.raises(BadInputError, match="is damaged"):
            folder.read_part(kind, "batch-000002")
    last, why = whole_batches(folder)
    assert last == 1 and "batch-000002 are damaged" in why


def test_a_damaged_checksum_is_noticed_and_written_anew(folder):
    sums = folder.path / "results" / files.SUMS
    before = sums.read_bytes()
    for changed in (before[:-9] + b"\xff" + before[-8:], before[:99], b""):
        sums.write_bytes(changed)
        assert whole_batches(folder)[0] < 2
    for t in (1, 2):
        write_episodes(folder, f"batch-{t:06d}", [episode(f"child/{t}")])
    assert sums.read_bytes() == before


def test_checksums_follow_the_parts_that_are_there(folder):
    folder.drop_batches_from(2)
    write_episodes(folder, "final-test", [episode("aggregated")])
    text = (folder.path / "results" / files.SUMS).read_text()
    names = [line.split("  ")[1] for line in text.splitlines()]
    assert names == ["batch-000001.parquet", "final-test.parquet"]
