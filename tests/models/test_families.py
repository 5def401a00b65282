import math

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.families import config_from_hf, known_checkpoint

# The totals that the hub shows for these checkpoints (tied heads counted once).
TOTALS = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-chat-hf": 13_015_864_320,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1_711_376_384,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
}


@pytest.mark.parametrize(("name", "total"), TOTALS.items())
def test_parameters_are_those_of_the_checkpoint(name, total):
    config = known_checkpoint(name).config
    assert sum(math.prod(s) for s in config.weight_shapes().values()) == total
    assert config_from_hf(config.to_hf()) == config


def test_mirrors_revisions_and_other_names():
    meant = known_checkpoint("meta-llama/Meta-Llama-3-8B")
    assert meant.name == "meta-llama/Meta-Llama-3-8B"
    assert known_checkpoint("meta-llama/Meta-Llama-3.1-8B-Instruct").name == (
        "meta-llama/Llama-3.1-8B"
    )
    assert known_checkpoint("NousResearch/Meta-Llama-3-8B-Instruct@main") == meant
    for other in ("SakanaAI/Llama-3-8B-Instruct-DB-Expert", "models/llama", "x"):
        assert known_checkpoint(other) is None


def test_llama_3_1_scales_its_rope_and_llama_3_does_not():
    assert known_checkpoint("meta-llama/Meta-Llama-3-8B").config.rope_scaling is None
    scaling = known_checkpoint("meta-llama/Llama-3.2-1B").config.rope_scaling
    assert (scaling.rope_type, scaling.factor) == ("llama3", 32.0)


def test_other_families_are_refused_with_those_that_load():
    with pytest.raises(BadInputError, match=r"'mistral' is not supported.*: llama"):
        config_from_hf({"model_type": "mistral"}, "m/config.json")
    with pytest.raises(BadInputError, match=r"^m/config\.json: model_type None"):
        config_from_hf({}, "m/config.json")
