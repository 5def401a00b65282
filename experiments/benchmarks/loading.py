"""Memory of this process while a base model and three full fine-tunes are read.

The files have the sizes of the real ones. They are sparse, so that they take no room on
the disk; each expert differs from the base in one number of each tensor.
"""

import pathlib
import resource
import tempfile
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import write_json
from cycleqd_jax.merging.task_vectors import iterate_task_vectors
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.experts import FullExpert
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.formats.tensor_file import lay_out
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.runs.known_models import known_model
from experiments.benchmarks import frame

_EXPERTS = 3
_SHARD = 5 * 10**9  # bytes
_MOST = 10.0  # GB of the host


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Reads a model and its experts once, tensor by tensor, onto the device.

    Raises:
      BadInputError: the model's sizes are not known.
    """
    known = known_model(frame.SHORT_NAMES.get(options.model.lower(), options.model))
    if known is None:
        raise BadInputError(
            "--model: this suite needs only sizes; give one that presets name, like "
            "llama-3-8b."
        )
    with tempfile.TemporaryDirectory(prefix="cycleqd_loading_") as folder:
        root = pathlib.Path(folder)
        models = []
        for i in range(_EXPERTS + 1):
            say(f"writing sparse files {i + 1} of {_EXPERTS + 1}")
            write_model(root / str(i), known.config, first=float(i))
            models.append(safetensors.open_folder(root / str(i)))
        size = sum(model.nbytes for model in models) / 1e9
        before = peak_gigabytes()
        say("reading the base")
        largest = 0
        for name in models[0]:  # each array is dropped when it is on the device
            one = put_on_device(models[0].only([name]))[name]
            largest = max(largest, one.nbytes)
        base = peak_gigabytes()
        say("subtracting it from the experts")
        experts = [FullExpert(model).digesting() for model in models[1:]]
        for row in iterate_task_vectors(models[0], experts, host_below=1024):
            for delta in row.deltas:
                del delta  # before the next one is made
        say("their hashes, from the same reading")
        for expert in experts:
            expert.fingerprint  # noqa: B018 - it is kept
        peak = peak_gigabytes()
    note = f"{size:.0f} GB of files; largest tensor {largest / 1e9:.2f} GB"
    return [
        frame.limit("peak memory, base onto the device", base, _MOST, "GB", note=note),
        frame.limit(
            "peak memory, base and three full fine-tunes",
            peak,
            _MOST,
            "GB",
            note=f"{note}; {before:.2f} GB of it before anything was read; on a CPU "
            "the device's arrays are in it",
        ),
    ]


def peak_gigabytes() -> float:
    """The most memory that this process has held, as `/usr/bin/time -v` counts it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def write_model(folder: pathlib.Path, config: ModelConfig, *, first: float) -> None:
    """Sparse bfloat16 weights in shards with an index.

    Args:
      folder: is made.
      config: gives names and shapes.
      first: the first number of every tensor; all others are 0.
    """
    folder.mkdir()
    places = {}
    for i, names in enumerate(_shards(config)):
        file = f"model-{i:05d}.safetensors"
        shapes = {name: config.weight_shapes()[name] for name in names}
        _write_sparse(folder / file, shapes, first)
        places |= dict.fromkeys(names, file)
    write_json(folder / safetensors.INDEX, {"weight_map": places})


def _write_sparse(
    path: pathlib.Path, shapes: Mapping[str, tuple[int, ...]], first: float
) -> None:
    dtype = jnp.dtype(jnp.bfloat16)
    head, places = lay_out({n: (shape, dtype) for n, shape in shapes.items()}, {})
    last = max(places, key=places.__getitem__)
    size = places[last] + int(np.prod(shapes[last])) * dtype.itemsize
    with open(path, "wb") as file:
        file.write(head)
        for place in places.values():
            file.seek(place)
            file.write(np.array(first, dtype).tobytes())
        file.truncate(size)


def _shards(config: ModelConfig) -> Iterator[list[str]]:
    names, size = [], 0
    for name, shape in config.weight_shapes().items():
        own = 2 * int(np.prod(shape))
        if names and size + own > _SHARD:
            yield names
            names, size = [], 0
        names.append(name)
        size += own
    yield names
