"""The children whose cost decides how many a budget pays for."""

import pytest

from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.study.carry_out import _pilot


@pytest.mark.parametrize(
    "batch, seeds, children, want",
    [
        (32, 3, 1000, (1, 32)),  # few seeds in a batch
        (4, 3, 1000, (5, 8)),
        (3, 3, 1000, (4, 6)),
        (1, 3, 1000, (4, 4)),
        (1, 0, 1000, (1, 1)),
        (4, 3, 6, (5, 6)),
        (4, 3, 4, (1, 4)),
    ],
)
def test_a_batch_of_children_that_a_search_has_made(batch, seeds, children, want):
    qd = QDSettings(
        num_generations=children,
        children_per_batch=batch,
        seeds=[1.0, 0.6, 0.3][:seeds],
    )
    assert _pilot(qd) == want
