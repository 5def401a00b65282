import pathlib

import jax
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.operators import (
    check_children,
    check_operators,
    load_operator,
    operator_fingerprint,
    try_operators,
)

SOURCE = """
import jax
import jax.numpy as jnp
import numpy as np

def scaled(genome, key, *, active, basis):
    noise = jax.random.normal(key, genome.coefficients.shape)
    moved = genome.coefficients + noise * basis.singular_values
    return genome.replace(coefficients=moved)

def fine(genome, key, *, active, basis):
    return genome

def cross(x1, x2, key, *, basis):
    return x1

def few(genome):
    return genome

def smaller(genome, key, *, active, basis):
    return genome.replace(scales=genome.scales[:1])

def nothing(genome, key, *, active, basis):
    return None

def on_the_host(genome, key, *, active, basis):
    return genome.replace(scales=np.asarray(genome.scales))

def silent(genome, key, *, active, basis):
    raise AssertionError

def an_array(genome, key, *, active, basis):
    return genome.coefficients

def half_nan(genome, key, *, active, basis):
    drawn = jax.random.uniform(key, genome.coefficients.shape)
    return genome.replace(coefficients=jnp.where(drawn < 0.5, jnp.nan, 1.0))

def zero_over_zero(x1, x2, key, *, basis):
    return x1.replace(scales=x1.scales / (0.0 * x2.scales))

def own_draws(x1, x2, key, *, basis):
    return x1.replace(scales=x1.scales + np.random.random(x1.scales.shape).astype("f"))

class Operator:
    pass

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    """Name of a module with operators."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize(
    "setting, path, words",
    [
        ("qd.mutation", "nowhere:f", ["could not be imported", "nowhere"]),
        ("qd.mutation", "{}:missing", ["nothing called missing"]),
        ("qd.mutation", "{}:number", ["must be a function", "int called number"]),
        ("qd.mutation", "{}:Operator", ["must be a function", "a class called"]),
        ("qd.mutation", "{}:few", ["must take (genome, key, *, active, basis)"]),
        ("qd.crossover", "{}:fine", ["must take (x1, x2, key, *, basis)"]),
    ],
)
def test_wrong_operators_are_refused(own, setting, path, words):
    with pytest.raises(BadInputError) as caught:
        load_operator(setting, path.format(own))
    for word in [setting, *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "name, words",
    [
        ("smaller", ["must return a genome of shapes", "float32[1]"]),
        ("nothing", ["must return a genome", "NoneType"]),
        ("silent", ["cannot be compiled", "AssertionError", ".py, line 30)"]),
        ("an_array", ["must return a genome", "an array float32[", "Genome.replace"]),
        ("on_the_host", ["cannot be compiled", "TracerArrayConversionError"]),
    ],
)
def test_operators_are_tried_before_work_starts(own, make, name, words):
    basis = make.problem("lora").basis
    check_operators(f"{own}:cross", f"{own}:fine", basis)
    with pytest.raises(BadInputError) as caught:
        check_operators(None, f"{own}:{name}", basis)
    for word in ["qd.mutation", *words]:
        assert word in str(caught.value)


def test_the_fingerprint_follows_name_and_source(own, tmp_path, monkeypatch):
    first = operator_fingerprint("qd.mutation", f"{own}:fine")
    assert first == operator_fingerprint("qd.mutation", f"{own}:fine")
    assert first != operator_fingerprint("qd.mutation", f"{own}:nothing")
    other = pathlib.Path(tmp_path / "own_other.py")
    other.write_text(SOURCE.replace("return genome\n", "return genome  # same\n"))
    assert first != operator_fingerprint("qd.mutation", "own_other:fine")


def test_an_operator_may_compute_with_a_basis_of_shapes(own, make):
    """As in a plan, which has no values yet."""
    basis = make.problem("lora").basis
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), basis)
    check_operators(None, f"{own}:scaled", shapes)


def test_a_module_that_raises_is_bad_input(tmp_path, monkeypatch):
    (tmp_path / "raising_operators.py").write_text("raise RuntimeError('boom')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadInputError, match=r"could not be imported: boom"):
        load_operator("qd.mutation", "raising_operators:f")


@pytest.mark.parametrize(
    ("setting", "name", "words"),
    [
        ("mutation", "half_nan", "returned NaN or infinity for genomes of experts"),
        ("crossover", "zero_over_zero", r"infinity for genomes .* \(3 of 3 scales\)"),
        ("crossover", "own_draws", "another child when it was compiled again"),
        ("mutation", "scaled", None),
        ("crossover", "cross", None),
    ],
)
def test_operators_are_played_before_work_starts(own, make, setting, name, words):
    basis = make.problem("lora").basis
    paths = {"crossover": None, "mutation": None} | {setting: f"{own}:{name}"}
    if words is None:
        try_operators(**paths, basis=basis)
        return
    with pytest.raises(BadInputError, match=f"qd.{setting}: {own}:{name}.*{words}"):
        try_operators(**paths, basis=basis)


def test_a_child_of_nan_stops_the_run_by_the_name_of_its_operator():
    children = Genome(np.ones((2, 4), np.float32), np.ones((2, 3), np.float32))
    check_children("qd.mutation", "my:op", children, [7, 8])
    children.coefficients[1, :2] = np.nan
    words = r"my:op returned NaN or infinity for child/8 \(2 of 4 coefficients\); mend"
    with pytest.raises(RunError, match=words):
        check_children("qd.mutation", "my:op", children, [7, 8])
