import jax
import pytest

from cycleqd_jax.merging.abstract import (
    abstract_basis,
    abstract_core_basis,
    basis_bytes,
    expert_shape,
    full_expert_shape,
)
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.models.families import known_checkpoint

NAMES = ("a", "b", "c")


def shapes_and_layout(basis):
    leaves = jax.tree_util.tree_leaves_with_path(basis)
    shapes = {jax.tree_util.keystr(p): (x.shape, x.dtype.name) for p, x in leaves}
    return shapes, basis.layout, basis.expert_names


@pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
@pytest.mark.parametrize(
    ("rank", "residual"), [("full", "drop"), (2, "drop"), (2, "keep")]
)
def test_has_the_shapes_of_the_real_basis(make, kind, rank, residual):
    base = make.base()
    experts = make.experts(kind, base)
    settings = BasisSettings(rank=rank, residual=residual)
    real = compute_basis(base, experts, settings, expert_names=NAMES)
    shapes = {name: array.shape for name, array in base.items()}
    parts = [expert_shape(expert, shapes) for expert in experts]
    # What no expert changes is only known from the values.
    shapes.pop("untouched.weight")
    parts = [
        part._replace(ranks={n: r for n, r in part.ranks.items() if n in shapes})
        for part in parts
    ]
    plan = abstract_basis(shapes, parts, settings, expert_names=NAMES)
    assert shapes_and_layout(plan) == shapes_and_layout(real)
    assert basis_bytes(plan) == sum(x.nbytes for x in jax.tree.leaves(real))
    core = abstract_core_basis(plan)
    assert shapes_and_layout(core) == shapes_and_layout(core_basis(real))


def llama_3_8b(rank):
    shapes = known_checkpoint("meta-llama/Meta-Llama-3-8B").config.weight_shapes()
    experts = [full_expert_shape(shapes)] * 3
    return abstract_basis(shapes, experts, BasisSettings(rank=rank), expert_names=NAMES)


def test_genomes_of_llama_3_8b_have_the_sizes_of_the_design():
    assert 4 * llama_3_8b("full").genome_size == pytest.approx(8.75e6, rel=0.001)
    assert 4 * llama_3_8b(64).genome_size == pytest.approx(0.17e6, rel=0.03)
    core = abstract_core_basis(llama_3_8b(64))  # R = 3 * 64 = 192
    assert 4 * core.genome_size == pytest.approx(33e6, rel=0.02)


def test_a_core_has_no_more_directions_than_its_matrix():
    core = abstract_core_basis(llama_3_8b("full"))
    slots = {slot.name: slot for slot in core.layout}
    key = slots["model.layers.0.self_attn.k_proj.weight"]
    assert (key.rows, key.columns) == (1024, 3072)  # 1024 x 4096, K r = 3 * 1024
    up = slots["model.layers.0.mlp.up_proj.weight"]
    assert (up.rows, up.columns) == (12288, 4096)  # 14336 x 4096, K r = 3 * 4096
