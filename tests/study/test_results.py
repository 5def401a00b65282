"""The tokens of trained adapters."""

import json

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.study.results import adapter_tokens
from cycleqd_jax.study.settings import AdapterMethod


def test_an_adapter_has_the_tokens_of_its_training_unless_told_otherwise(tmp_path):
    method = AdapterMethod(adapter=str(tmp_path))
    assert adapter_tokens(method) is None
    written = {"tokens_forward": 70, "tokens_backward": 15, "seconds": 1.0}
    (tmp_path / "cost.json").write_text(json.dumps(written))
    assert adapter_tokens(method) == 100  # a backward token counts as two
    assert adapter_tokens(AdapterMethod(adapter=str(tmp_path), tokens=7)) == 7


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"tokens_forward": null}'])
def test_a_damaged_cost_is_named(tmp_path, text):
    (tmp_path / "cost.json").write_text(text)
    with pytest.raises(BadInputError, match=r"cost\.json is damaged"):
        adapter_tokens(AdapterMethod(adapter=str(tmp_path)))
