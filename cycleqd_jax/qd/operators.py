"""User-defined operators, which a config names by their import path.

    def my_crossover(x1: Genome, x2: Genome, key, *, basis) -> Genome
    def my_mutation(genome: Genome, key, *, active, basis) -> Genome

Each gets single genomes and is vmapped and jit-compiled over a batch of children, so it
must be a pure JAX function. `active` is the expert of the active task, as in
`basis.experts_of`, int32 `[]`; -1 where the task has none. `basis` is the basis of the
genomes; `key` is one typed key for all random draws. The result must have the shapes
and dtypes of the genome that was passed in.
"""

import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import MEND_CODE, BadInputError, RunError, line_of
from cycleqd_jax.files import reason
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome, expert_genome

_TRIALS = 4  # children of which an operator is tried
_ARGUMENTS = {
    "qd.crossover": ("x1, x2, key, *, basis", 3, ("basis",)),
    "qd.mutation": ("genome, key, *, active, basis", 2, ("active", "basis")),
}


def load_operator(setting: str, path: str) -> Callable[..., Genome]:
    """Imports a user-defined operator.

    Args:
      setting: "qd.crossover" or "qd.mutation".
      path: "package.module:function".

    Raises:
      BadInputError: there is no such function, or its arguments are others.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    # A user's module may raise anything; the cause is kept.
    except Exception as err:
        raise BadInputError(
            f"{setting}: {path} could not be imported: {err}; check that {module_name} "
            "is on Python's path and imports cleanly."
        ) from err
    function = getattr(module, name, None)
    if not callable(function) or inspect.isclass(function):
        found = "nothing" if function is None else f"a {type(function).__name__}"
        found = "a class" if inspect.isclass(function) else found
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
    """SHA-256 of an operator's name and its module's source, 64 hexadecimal digits."""
    source = inspect.getsource(inspect.getmodule(load_operator(setting, path)))
    return hashlib.sha256(f"{path}\n{source}".encode()).hexdigest()


def check_operators(
    crossover: str | None,
    mutation: str | None,
    basis: Basis,
    noise_length: int | None = None,
) -> None:
    """Traces user-defined operators on abstract genomes, before the run starts.

    Args:
      crossover: the import path of a user-defined crossover, or None.
      mutation: the import path of a user-defined mutation, or None.
      basis: of the run.
      noise_length: N of the genomes; None if they have no noise.

    Raises:
      BadInputError: an operator cannot be traced, or does not return a genome of the
        same shapes and dtypes.
    """
    genome = Genome(
        jax.ShapeDtypeStruct((basis.genome_size,), jnp.float32),
        jax.ShapeDtypeStruct((basis.num_experts,), jnp.float32),
        noise_length and jax.ShapeDtypeStruct((noise_length,), jnp.float32),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    if crossover is not None:
        cross = load_operator("qd.crossover", crossover)

        def call_cross(x1, x2, key, basis):
            return cross(x1, x2, key, basis=basis)

        # The basis is traced, too, as in a run: in a plan it has shapes alone.
        parents = (genome, genome, key, basis)
        _check("qd.crossover", crossover, cross, genome, call_cross, *parents)
    if mutation is not None:
        mutate = load_operator("qd.mutation", mutation)

        def call(x, key, active, basis):
            return mutate(x, key, active=active, basis=basis)

        active = jax.ShapeDtypeStruct((), jnp.int32)
        more = (genome, key, active, basis)
        _check("qd.mutation", mutation, mutate, genome, call, *more)


def try_operators(crossover: str | None, mutation: str | None, basis: Basis) -> None:
    """Plays user-defined operators on the experts' genomes, before the run starts.

    Each is compiled twice, as a resumed run compiles it again: both must return the
    same finite children.

    Args:
      crossover: as for `check_operators`.
      mutation: likewise.
      basis: of the run, with values.

    Raises:
      BadInputError: an operator returns NaN or infinity, or draws from elsewhere than
        its key.
    """
    count = basis.num_experts
    genomes = [expert_genome(basis, t % count) for t in range(_TRIALS + 1)]
    key = jax.random.key(0)

    def crossed(t: int) -> Genome:
        cross = load_operator("qd.crossover", crossover)
        one = jax.jit(lambda a, b, key, basis: cross(a, b, key, basis=basis))
        return one(genomes[t], genomes[t + 1], jax.random.fold_in(key, t), basis)

    def mutated(t: int) -> Genome:
        mutate = load_operator("qd.mutation", mutation)
        one = jax.jit(lambda a, key, k, b: mutate(a, key, active=k, basis=b))
        own = jax.random.fold_in(key, t)
        return one(genomes[t], own, jnp.int32(t % count), basis)

    tried = {("qd.crossover", crossover): crossed, ("qd.mutation", mutation): mutated}
    for (setting, path), play in tried.items():
        for t in range(_TRIALS) if path is not None else ():
            first, again = (jax.device_get(play(t)) for _ in range(2))
            if (wrong := _not_finite(first)) is not None:
                raise BadInputError(
                    f"{setting}: {path} returned NaN or infinity for genomes of "
                    f"experts ({wrong}); mend it."
                )
            if not jax.tree.all(jax.tree.map(np.array_equal, first, again)):
                raise BadInputError(
                    f"{setting}: {path} returned another child when it was compiled "
                    "again, as a resumed run does; take all randomness from key."
                )


def check_children(
    setting: str, path: str, children: Genome, ts: Sequence[int]
) -> None:
    """Refuses what a user's operator has made of genomes in a run.

    Args:
      setting: as for `load_operator`.
      path: likewise.
      children: `[P, ...]`.
      ts: P generations.

    Raises:
      RunError: one holds NaN or infinity.
    """
    host = jax.device_get(children)
    for i, t in enumerate(ts):
        if (wrong := _not_finite(host[i])) is not None:
            raise RunError(
                f"{setting}: {path} returned NaN or infinity for child/{int(t)} "
                f"({wrong}); {MEND_CODE}."
            )


def _not_finite(genome: Genome) -> str | None:
    """Like "12 of 84 coefficients"; None if all are finite."""
    for name in ("coefficients", "scales"):
        leaf = np.asarray(getattr(genome, name))
        if count := int(np.sum(~np.isfinite(leaf))):
            return f"{count} of {leaf.size} {name}"
    return None


def _check(setting: str, path: str, own, genome: Genome, function, *args) -> None:
    try:
        got = jax.eval_shape(function, *args)
    # A user's function may raise anything; the cause is kept.
    except Exception as err:
        said = reason(err).partition(". ")[0]  # JAX explains at length
        raise BadInputError(
            f"{setting}: {path} cannot be compiled for genomes of shapes "
            f"{_shapes(genome)}: {type(err).__name__}: {said}{line_of(own, err)}."
        ) from err
    if not isinstance(got, Genome) or _shapes(got) != _shapes(genome):
        shown = _shapes(got) if isinstance(got, Genome) else type(got).__name__
        if hasattr(got, "dtype"):
            shown = f"an array {got.dtype}{list(got.shape)} (see Genome.replace)"
        raise BadInputError(
            f"{setting}: {path} must return a genome of shapes {_shapes(genome)}, but "
            f"returns {shown}."
        )


def _shapes(genome: Genome) -> list[str]:
    return [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(genome)]
