"""Data files of benchmarks, line by line."""

import json

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.data import read_jsonl


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00 x", "\\ud83d\\ud83d"])
def test_half_an_emoji_is_an_error_with_file_and_line(tmp_path, half):
    path = tmp_path / "data.jsonl"
    whole = json.dumps({"text": "whole \U0001f600 \\ud83d"})
    path.write_text(f'{whole}\n{{"text": ["{half}"]}}\n')
    with pytest.raises(BadInputError, match=r"data\.jsonl, line 2: .*half of a char"):
        read_jsonl(path, {})
    rows = read_jsonl(path, {}, halves=True)  # recorded replies may have it
    assert rows[0]["text"] == "whole \U0001f600 \\ud83d" and len(rows) == 2
