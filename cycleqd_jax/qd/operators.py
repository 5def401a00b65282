"""Operators of one's own, named in the config by their import path.

    def my_crossover(x1: Genome, x2: Genome, key, *, basis) -> Genome
    def my_mutation(genome: Genome, key, *, active, basis) -> Genome

Both see single genomes and are vmapped and jit-compiled over a batch of children, so
they are pure JAX functions. `active` is the active task, int32 `[]`; `basis` the basis
of the genomes. What they return has the shapes and dtypes of what they were given.
"""

import hashlib
import importlib
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import Genome

_ARGUMENTS = {
    "qd.crossover": ("x1, x2, key, *, basis", 3, ("basis",)),
    "qd.mutation": ("genome, key, *, active, basis", 2, ("active", "basis")),
}


def load_operator(setting: str, path: str) -> Callable[..., Genome]:
    """Imports an operator.

    Args:
      setting: "qd.crossover" or "qd.mutation".
      path: "package.module:function".

    Raises:
      BadInputError: there is no such function, or it takes other arguments.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, TypeError) as err:
        raise BadInputError(
            f"{setting}: {path} could not be imported: {err}; check that {module_name} "
            "is on Python's path and imports cleanly."
        ) from err
    function = getattr(module, name, None)
    if not callable(function):
        found = "nothing" if function is None else f"a {type(function).__name__}"
        raise BadInputError(
            f"{setting}: {path} must be a function, but {module_name} has {found} "
            f"called {name}."
        )
    shown, count, keywords = _ARGUMENTS[setting]
    try:
        inspect.signature(function).bind(*range(count), **dict.fromkeys(keywords))
    except TypeError as err:
        raise BadInputError(
            f"{setting}: {path} must take ({shown}), but it takes other arguments: "
            f"{err}."
        ) from err
    return function


def operator_fingerprint(setting: str, path: str) -> str:
    """Hash of an operator's name and of the source of its module, 64 hex digits."""
    source = inspect.getsource(inspect.getmodule(load_operator(setting, path)))
    return hashlib.sha256(f"{path}\n{source}".encode()).hexdigest()


def check_operators(
    crossover: str | None,
    mutation: str | None,
    basis: AnyBasis,
    noise_length: int | None = None,
) -> None:
    """Traces operators of one's own on abstract genomes, before work starts.

    Args:
      crossover: an import path, or None.
      mutation: an import path, or None.
      basis: of the run.
      noise_length: N of the genomes, None where they have no noise.

    Raises:
      BadInputError: one cannot be traced, or returns something else than a genome of
        the same shapes and dtypes.
    """
    genome = Genome(
        jax.ShapeDtypeStruct((basis.genome_size,), jnp.float32),
        jax.ShapeDtypeStruct((basis.num_experts,), jnp.float32),
        noise_length and jax.ShapeDtypeStruct((noise_length,), jnp.float32),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    if crossover is not None:
        cross = load_operator("qd.crossover", crossover)

        def call_cross(x1, x2, key):
            return cross(x1, x2, key, basis=basis)

        _check("qd.crossover", crossover, genome, call_cross, genome, genome, key)
    if mutation is not None:
        mutate = load_operator("qd.mutation", mutation)

        def call(x, key, active):
            return mutate(x, key, active=active, basis=basis)

        active = jax.ShapeDtypeStruct((), jnp.int32)
        _check("qd.mutation", mutation, genome, call, genome, key, active)


def _check(setting: str, path: str, genome: Genome, function, *args) -> None:
    try:
        got = jax.eval_shape(function, *args)
    # A user's function may fail in any way; the cause is kept.
    except Exception as err:
        raise BadInputError(
            f"{setting}: {path} cannot be compiled for genomes of shapes "
            f"{_shapes(genome)}: {type(err).__name__}: {str(err).splitlines()[0]}"
        ) from err
    if not isinstance(got, Genome) or _shapes(got) != _shapes(genome):
        shown = _shapes(got) if isinstance(got, Genome) else type(got).__name__
        raise BadInputError(
            f"{setting}: {path} must return a genome of shapes {_shapes(genome)}, but "
            f"returns {shown}."
        )


def _shapes(genome: Genome) -> list[str]:
    return [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(genome)]
