"""Weights that no model can run with are refused by the names of file and tensor."""

import contextlib
import json
import struct

import ml_dtypes
import numpy as np
import peft
import pytest
import safetensors.numpy

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats.gguf import read_gguf
from cycleqd_jax.models.loading import load_expert, load_model

UP = "model.layers.1.mlp.up_proj.weight"
EMBED = "model.embed_tokens.weight"


@pytest.fixture
def base(hf, tmp_path):
    return hf.save(tmp_path / "base", hf.model())


@pytest.fixture
def adapter(hf, tmp_path):
    """Has factors, a copy of the embedding and a norm that is replaced whole."""
    settings = peft.LoraConfig(
        r=2,
        target_modules=["up_proj", "embed_tokens"],
        modules_to_save=["norm"],
        task_type="CAUSAL_LM",
    )
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        peft.get_peft_model(hf.model(), settings).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def put(path, name, value):
    """Puts one value into one tensor of a file."""
    tensors = safetensors.numpy.load_file(path)
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[-1] = value
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})


@contextlib.contextmanager
def refused(*words):
    with pytest.raises(BadInputError) as caught:
        yield
    for word in words:
        assert str(word) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_base_model(base, value):
    put(base / "model.safetensors", UP, value)
    for dtype in ("float32", "bfloat16"):
        with refused("not finite", base / "model.safetensors", UP):
            load_model(base, dtype)


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_a_shard_of_fewer_bits(hf, tmp_path, stored):
    import torch

    model = hf.model().to(getattr(torch, stored))
    model.get_parameter(UP).data[0, 3] = float("nan")
    hf.save(tmp_path, model, max_shard_size="20KB")
    shard = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    file = shard["weight_map"][UP]
    with refused("not finite", tmp_path / file, UP):
        load_model(tmp_path)


def test_a_full_expert_before_any_work_with_it(hf, base, tmp_path):
    model = load_model(base)
    folder = hf.save(tmp_path / "expert", hf.model(seed=1))
    put(folder / "model.safetensors", UP, np.inf)
    expert = load_expert(folder, model)
    with refused("not finite", folder / "model.safetensors", UP):
        expert.fingerprint  # noqa: B018  (all is read for it)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.up_proj.lora_A.weight",
        "model.layers.1.mlp.up_proj.lora_B.weight",
        "model.embed_tokens.lora_embedding_A",
        "model.embed_tokens.base_layer.weight",
        "model.norm.weight",
    ],
)
def test_an_adapter(base, adapter, name):
    model, file = load_model(base), adapter / "adapter_model.safetensors"
    load_expert(adapter, model)
    put(file, f"base_model.model.{name}", np.nan)
    with refused("not finite", file, name):
        load_expert(adapter, model)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_gguf_file(hf, tmp_path, kind):
    weights = hf.weights(hf.model())
    weights["model.norm.weight"] = np.full(32, np.nan, np.float32)
    path = hf.write_gguf(tmp_path / "m.gguf", weights, kind=kind)
    with refused("not finite", path, "output_norm.weight"):
        read_gguf(path)
    with refused("not finite", path, "output_norm.weight"):
        load_model(path)


def test_a_scale_of_a_quantised_block(hf, tmp_path):
    from gguf.quants import quantize

    def damaged(weight, kind):
        blocks = quantize(weight, kind)
        blocks[0, :2] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
        return blocks

    weights = hf.weights(hf.model())
    path = hf.write_gguf(tmp_path / "m.gguf", weights, quantise=damaged)
    with refused("not finite", path, "token_embd.weight"):
        load_model(path)


def test_values_beyond_the_dtype_of_the_run(base):
    put(base / "model.safetensors", UP, 1e5)
    load_model(base, "bfloat16")
    with refused(UP, "1e+05", "beyond the range of"):
        load_model(base, "float16")


def write_raw(path, tensors):
    """Writes a file of given (dtype, shape, bytes): NumPy has not every dtype."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        at = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": at}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


NAMES = {np.dtype(np.float32): "F32"}


def quantise(path, dtype, name):
    """Stores one tensor in another dtype."""
    tensors = {
        n: (NAMES[array.dtype], list(array.shape), array.tobytes())
        for n, array in safetensors.numpy.load_file(path).items()
    }
    _, shape, content = tensors[name]
    few = np.frombuffer(content, np.float32).astype(ml_dtypes.float8_e4m3fn).tobytes()
    bits = {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "I32": 32, "BOOL": 8}
    tensors[name] = (dtype, shape, (few * 4)[: len(few) * bits[dtype] // 8])
    write_raw(path, tensors)


@pytest.mark.parametrize(
    "dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I32", "BOOL"]
)
def test_quantised_weights(hf, base, adapter, tmp_path, dtype):
    model = load_model(base)
    words = f"is {dtype}, not floating point", "as it was before quantisation"
    file = adapter / "adapter_model.safetensors"
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    quantise(file, dtype, name)
    with refused(*words, name, file):
        load_expert(adapter, model)
    folder = hf.save(tmp_path / "expert", hf.model(seed=1))
    for path in (folder, base):
        quantise(path / "model.safetensors", dtype, UP)
    with refused(*words, UP, folder):
        load_expert(folder, model)
    with refused(*words, UP, base):
        load_model(base)


def test_a_quantised_head_beside_tied_embeddings(hf, tmp_path):
    folder = hf.save(tmp_path, hf.model(tie_word_embeddings=True))
    file = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file(tensors | {"lm_head.weight": tensors[EMBED]}, file)
    load_model(folder)
    quantise(file, "F8_E4M3", "lm_head.weight")
    with refused("lm_head.weight", "is F8_E4M3"):
        load_model(folder)


@pytest.mark.parametrize("number", ["1e999", "NaN", "3.0", '"0"', "true", "null"])
@pytest.mark.parametrize("field", ["data_offsets", "shape"])
def test_sizes_and_places_that_are_no_whole_numbers(base, field, number):
    """JSON has floats, too large ones among them, and Python reads NaN."""
    path = base / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header[UP][field][0] = "HERE"
    text = json.dumps(header).replace('"HERE"', number).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with refused("model.safetensors"):
        load_model(base)


@pytest.mark.parametrize("text", [b'"abc"', b"[1]", b"3", b"null", b'{"x": "y"}'])
def test_a_header_that_is_no_object(base, text):
    path = base / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with refused("model.safetensors"):
        load_model(base)
