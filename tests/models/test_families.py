import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.families import config_from_hf


def test_other_families_are_refused_with_those_that_load():
    with pytest.raises(BadInputError, match=r"'gemma' is not supported.*: llama"):
        config_from_hf({"model_type": "gemma"}, "m/config.json")
    with pytest.raises(BadInputError, match=r"^m/config\.json: model_type None"):
        config_from_hf({}, "m/config.json")
