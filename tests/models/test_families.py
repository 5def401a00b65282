import dataclasses
import types

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models import families
from cycleqd_jax.models.families import config_from_hf, make_program


def test_other_families_are_refused_with_those_that_load():
    with pytest.raises(BadInputError, match=r"'gemma' is not supported.*: llama"):
        config_from_hf({"model_type": "gemma"}, "m/config.json")
    with pytest.raises(BadInputError, match=r"^m/config\.json: model_type None"):
        config_from_hf({}, "m/config.json")


@pytest.fixture
def llama(monkeypatch):
    """Puts a changed Llama in the place of all families."""

    def change(**parts):
        changed = dataclasses.replace(families.FAMILIES[0], **parts)
        monkeypatch.setattr(families, "FAMILIES", (changed,))

    return change


def test_a_family_with_a_missing_member_is_refused(llama, tiny_config):
    llama(config_from_hf=lambda data, source: types.SimpleNamespace(vocab_size=5))
    with pytest.raises(BadInputError, match=r"ModelConfig, but lacks .*model_copy"):
        config_from_hf({"model_type": "llama"})
    llama(program=lambda *args, **named: types.SimpleNamespace(holds_back=False))
    with pytest.raises(BadInputError, match=r"CausalLM, but lacks .*input_grams"):
        make_program(tiny_config)
