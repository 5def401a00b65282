"""GGUF files that are written, read back by this package and by transformers."""

import os

import gguf as gguf_library
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats.gguf import read_gguf
from cycleqd_jax.models.formats.gguf_export import export_gguf
from cycleqd_jax.models.formats.gguf_header import header_of_file
from cycleqd_jax.models.loading import load_model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_other_weights_in_the_files_form(hf, tmp_path, kind, tied):
    from transformers import AutoModelForCausalLM

    old = hf.weights(hf.model(tie_word_embeddings=tied))
    base = hf.write_gguf(tmp_path / "base.gguf", old, kind="Q4_1")
    rng = np.random.default_rng(1)
    new = {
        n: w + 0.1 * rng.standard_normal(w.shape, np.float32) for n, w in old.items()
    }
    path = tmp_path / "new" / f"m-{kind}.gguf"
    export_gguf(path, header_of_file(base), new, kind)
    config, weights, metadata = read_gguf(path)
    before = read_gguf(base)
    assert config == before.config and weights.keys() == new.keys()
    for name, value in new.items():
        size = np.abs(value).max()
        room = 0 if value.ndim == 1 else size * (2**-11 if kind == "F16" else 2**-7)
        np.testing.assert_allclose(weights[name], value, rtol=0, atol=room)
    changed = {"general.file_type", "general.quantization_version"}
    fields = [
        {k: v for k, v in m.items() if k not in changed and not k.startswith("GGUF.")}
        for m in (before.metadata, metadata)
    ]
    assert fields[0] == fields[1]
    number = gguf_library.LlamaFileType[f"MOSTLY_{kind}"]
    assert metadata["general.file_type"] == number
    assert (
        load_model(path).tokenizer.fingerprint == load_model(base).tokenizer.fingerprint
    )
    folder, file_name = os.path.split(path)
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file_name)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy(), weights[name])


def test_what_is_refused_leaves_no_file(hf, tmp_path):
    weights = hf.weights(hf.model())
    base, path = hf.write_gguf(tmp_path / "base.gguf", weights), tmp_path / "new.gguf"
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(BadInputError, match=f"{name}: has the number 1e\\+06, .*F16"):
        export_gguf(
            path, header_of_file(base), weights | {name: weights[name] * 0 + 1e6}, "F16"
        )
    with pytest.raises(BadInputError, match="GGUF type 'Q4_0' is not written"):
        export_gguf(path, header_of_file(base), weights, "Q4_0")
    few = {n: w for n, w in weights.items() if n != name}
    with pytest.raises(BadInputError, match=f"others than those given: {name}"):
        export_gguf(path, header_of_file(base), few, "F16")
    assert [p.name for p in tmp_path.iterdir()] == ["base.gguf"]
