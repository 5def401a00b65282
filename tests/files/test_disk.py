import errno
import os

import pyarrow as pa
import pytest

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, RunError


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "state.json"
    files.write_json(path, {"a": 1})

    def half(partial):
        partial.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"state\.json cannot be written .*make room"):
        files.write_atomically(path, half)
    assert files.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_full_disk_is_one_sentence(tmp_path):
    path = tmp_path / "timing.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"timing\.jsonl .*No space left.*make room"):
        files.append_line(path, "{}")


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}}', "[" * 100_000, "\udc80"])
def test_damaged_json_is_one_sentence(tmp_path, text):
    path = tmp_path / "state.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInputError, match=r"state\.json is damaged"):
        files.read_json(path)


def test_a_sealed_file_does_not_hide_a_changed_digit(tmp_path):
    path = tmp_path / "state.json"
    files.write_sealed(path, {"quality": 0.75, "tasks": ["a"]})
    assert files.read_sealed(path) == {"quality": 0.75, "tasks": ["a"]}
    text = path.read_text()
    for changed in (text.replace("0.75", "0.65"), "[1]", '{"quality": 1}'):
        path.write_text(changed)
        with pytest.raises(BadInputError, match="checksum"):
            files.read_sealed(path)


def test_no_flipped_bit_of_a_table_reads_as_another_table(tmp_path):
    """Page checksums guard the data; the footer has none, so a change there may pass.

    What passes must not change a value.
    """
    path = tmp_path / "part.parquet"
    table = pa.table({"score": [i / 7 for i in range(50)], "id": list("ab" * 25)})
    files.write_table(path, table)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 3):
        for bit in (0x01, 0x80):
            flipped = bytes([content[place] ^ bit])
            path.write_bytes(content[:place] + flipped + content[place + 1 :])
            try:
                read = files.read_table(path)
            except BadInputError:
                refused += 1
                continue
            if read.schema.equals(table.schema) and read.num_rows == 50:
                assert read.equals(table), place
    assert refused > len(content) / 3  # every second of two per place


def test_tables_cut_anywhere_are_refused(tmp_path):
    path = tmp_path / "part.parquet"
    files.write_table(path, pa.table({"score": [0.5, 1.0]}))
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(BadInputError, match="damaged"):
            files.read_table(path)
